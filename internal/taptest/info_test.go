//go:build linux

package taptest

import (
	"io"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// ssField returns a field of a connection in ss's output, or "".
func ssField(info, name string) string {
	m := regexp.MustCompile(`(?:^| )` + regexp.QuoteMeta(name) + `:([^ ]+)`).FindStringSubmatch(info)
	if m == nil {
		return ""
	}
	return m[1]
}

// exchange makes the kernel connect to the host. Each side sends size bytes to the other. The connection then stays open.
func (ns *namespace) exchange(t *testing.T, h *usernet.Host, size int) *usernet.TCPConn {
	t.Helper()
	l, err := h.Listen("tcp", ourAddr+":7777")
	require.NoError(t, err)
	n := strconv.Itoa(size)
	cmd := ns.command(t.Context(), "sh", "-c", "head -c "+n+" /dev/zero | socat -t60 STDIO,ignoreeof TCP:"+ourAddr+":7777 >/dev/null")
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	conn, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.CopyN(conn, strings.NewReader(strings.Repeat("x", size)), int64(size))
	require.NoError(t, err)
	_, err = io.CopyN(io.Discard, conn, int64(size))
	require.NoError(t, err)
	return conn.(*usernet.TCPConn)
}

func TestInfoAgreesWithWhatTheKernelTellsOfTheSameConnection(t *testing.T) {
	need(t, "ss", "socat")
	ns := newNamespace(t)
	slow := nic.Impairment{Latency: 10 * time.Millisecond}
	h := newHost(t, nic.Impair(ns.openTAP(t, false), nic.ImpairConfig{Out: slow, In: slow}))
	const size = 4 << 20
	conn := ns.exchange(t, h, size)
	var ours tcp.Info
	var theirs string
	number := func(name string) int {
		n, err := strconv.Atoi(ssField(theirs, name))
		require.NoError(t, err, name)
		return n
	}
	// Wait until the last acknowledgements and the last window update have arrived.
	require.Eventually(t, func() bool {
		ours = conn.Info()
		theirs = strings.Join(strings.Fields(ns.shell(t, "ss -tinH dst "+ourAddr)), " ")
		window := number("snd_wnd")
		near := func(theirs int, ours uint32) bool { return theirs >= int(ours)-1 && theirs <= int(ours)+1 }
		return ours.Unacked == 0 && !strings.Contains(theirs, " unacked:") && window <= ours.RcvWnd && window > ours.RcvWnd-1024 &&
			near(number("segs_in"), ours.SegsOut) && near(number("segs_out"), ours.SegsIn)
	}, patience, 20*time.Millisecond)
	t.Logf("ss: %s\nours: %+v", theirs, ours)
	require.Equal(t, tcp.Established, ours.State)
	require.Equal(t, number("mss"), ours.RcvMSS)
	require.Equal(t, number("rcvmss"), ours.SndMSS)
	require.LessOrEqual(t, number("snd_wnd"), ours.RcvWnd)
	require.Greater(t, number("snd_wnd"), ours.RcvWnd-1024, "to the unit of the window scale")
	require.EqualValues(t, number("bytes_received"), ours.Delivered)
	require.EqualValues(t, number("bytes_received"), ours.BytesAcked)
	require.EqualValues(t, size+ours.BytesRetrans, ours.BytesSent, "a stall makes the host send a loss probe")
	require.EqualValues(t, number("bytes_acked"), ours.BytesReceived+1, "the kernel counts its SYN")
	require.EqualValues(t, number("data_segs_in"), ours.DataSegsOut)
	require.EqualValues(t, number("data_segs_out"), ours.DataSegsIn)
	require.InDelta(t, number("segs_in"), ours.SegsOut, 1, "the kernel may not count the SYN,ACK")
	require.InDelta(t, number("segs_out"), ours.SegsIn, 1)
	require.True(t, ours.Passive)
	require.Zero(t, ours.InFlight+ours.Unacked+ours.NotSent+ours.Sacked+ours.Lost)
	require.GreaterOrEqual(t, ours.SndWnd, number("rcv_ssthresh")-2048, "to the unit of the window scale")
	require.GreaterOrEqual(t, time.Duration(ours.MinRTT), 2*slow.Latency)
	require.GreaterOrEqual(t, ours.RTT, ours.MinRTT)
	require.GreaterOrEqual(t, ours.RTO, ours.RTT+200*tcp.Millisecond)
	require.Positive(t, ours.RTTVar)
	require.GreaterOrEqual(t, ours.SndCwnd, 10*ours.SndMSS)
	require.Positive(t, ours.PacingRate)
	require.True(t, ours.SACK && ours.Timestamps && ours.WScale)
}

// nstat returns the counters of the kernel in the namespace.
func (ns *namespace) nstat(t *testing.T) map[string]int {
	t.Helper()
	counters := make(map[string]int)
	for line := range strings.Lines(ns.run(t, "nstat", "-asz")) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] != "#kernel" {
			n, err := strconv.Atoi(f[1])
			require.NoError(t, err, line)
			counters[f[0]] = n
		}
	}
	return counters
}

// A transfer each way with loss: what the host counts agrees with what the kernel counts, and with the packets that
// were dropped between them.
func TestEventsAgreeWithNstat(t *testing.T) {
	t.Parallel()
	need(t, "socat", "nft", "nstat")
	ns, tap := newTAP(t, true) // without offloads, the packets that nft drops are single segments
	ns.drop(t)
	h := newHost(t, tap)
	const size = 8 << 20
	conn := ns.exchange(t, h, size)
	var ours tcp.Info
	var theirs map[string]int
	// Wait until neither side sends any more.
	require.Eventually(t, func() bool {
		before := theirs
		ours, theirs = conn.Info(), ns.nstat(t)
		return ours.Unacked == 0 && before["TcpInSegs"] == theirs["TcpInSegs"] && before["TcpOutSegs"] == theirs["TcpOutSegs"]
	}, patience, 500*time.Millisecond)
	events := h.Stats().TCP.Events
	in, out := ns.dropped(t)
	t.Logf("ours %+v\n%v\ndropped %d and %d", ours, events, in, out)
	require.EqualValues(t, theirs["TcpActiveOpens"], events[tcp.PassiveOpens])
	require.EqualValues(t, size, ours.BytesAcked)
	require.EqualValues(t, size, ours.BytesReceived)
	require.LessOrEqual(t, theirs["TcpInSegs"], int(ours.SegsOut))
	require.LessOrEqual(t, int(ours.SegsOut), theirs["TcpInSegs"]+in)
	require.LessOrEqual(t, int(ours.SegsIn), theirs["TcpOutSegs"]+theirs["TcpRetransSegs"])
	require.EqualValues(t, ours.Retrans, events[tcp.RetransSegs])
	require.Positive(t, ours.Retrans)
	require.Positive(t, theirs["TcpExtTCPOFOQueue"])
	require.LessOrEqual(t, int(events[tcp.DSACKRecv]), theirs["TcpExtTCPDSACKOldSent"]+theirs["TcpExtTCPDSACKOfoSent"])
	require.LessOrEqual(t, theirs["TcpExtTCPDSACKRecv"]+theirs["TcpExtTCPDSACKOfoRecv"], int(events[tcp.DSACKSent]))
}
