package stack

import (
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// A watchedClient is a client of a crowdDevice whose connection is watched at the server.
type watchedClient struct {
	t   *testing.T
	d   *crowdDevice
	l   *TCPListener
	w   *Watcher
	c   *TCP
	seq uint32 // of the client's next byte
	iss uint32 // of the server
}

const watchedPort = 2000

// newWatchedClient sends a SYN.
func newWatchedClient(t *testing.T) *watchedClient {
	d := &crowdDevice{t: t}
	s := newHost(t, d, "192.0.2.1/24", func(c *Config) {
		c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
	})
	x := &watchedClient{t: t, d: d, l: listenAt(t, s, addrPort("0.0.0.0:80")), w: watch(t, s, WatchConfig{Conns: true}), seq: 1001}
	d.syn(watchedPort)
	x.iss = d.take()[0].seq
	return x
}

// send sends a segment without data that acknowledges n numbers of the server after its SYN.
func (x *watchedClient) send(n uint32, flags wire.TCPFlags) {
	x.d.send(watchedPort, wire.TCP{Seq: x.seq, Ack: x.iss + 1 + n, Flags: flags, Window: 1000})
	if flags&wire.FlagFIN != 0 {
		x.seq++
	}
}

// end returns the last event.
func (x *watchedClient) end() WatchEvent {
	x.t.Helper()
	all := pendingEvents(x.w)
	require.NotEmpty(x.t, all)
	return all[len(all)-1]
}

func TestTheCauseOfTheEndOfAConnectionIsWatched(t *testing.T) {
	const ack, fin, rst = wire.FlagACK, wire.FlagFIN, wire.FlagRST
	for _, tc := range []struct {
		name string
		do   func(x *watchedClient)
		last tcp.State
		err  error
	}{
		{"both FINs, this host first", func(x *watchedClient) {
			x.c.Close()
			x.send(1, ack|fin)
		}, tcp.TimeWait, nil},
		{"both FINs, the peer first", func(x *watchedClient) {
			x.send(0, ack|fin)
			x.c.Close()
			x.send(1, ack)
		}, tcp.LastAck, nil},
		{"an orphan whose peer sends no FIN", func(x *watchedClient) {
			x.c.Close()
			x.send(1, ack)
			time.Sleep(5 * time.Minute)
		}, tcp.FinWait2, syscall.ETIMEDOUT},
		{"a RST in ESTABLISHED", func(x *watchedClient) {
			x.send(0, rst)
		}, tcp.Established, syscall.ECONNRESET},
		{"a RST in FIN-WAIT-2", func(x *watchedClient) {
			x.c.Close()
			x.send(1, ack)
			x.send(1, rst)
		}, tcp.FinWait2, syscall.ECONNRESET},
		{"a RST in CLOSE-WAIT", func(x *watchedClient) {
			x.send(0, ack|fin)
			x.send(0, rst)
		}, tcp.CloseWait, syscall.ECONNRESET},
		{"a RST in CLOSING", func(x *watchedClient) {
			x.c.Close()
			x.send(0, ack|fin)
			x.send(0, rst)
		}, tcp.Closing, syscall.ECONNRESET},
		{"a RST in LAST-ACK", func(x *watchedClient) {
			x.send(0, ack|fin)
			x.c.Close()
			x.send(0, rst)
		}, tcp.LastAck, syscall.ECONNRESET},
		{"a Close with SetLinger(0)", func(x *watchedClient) {
			require.NoError(x.t, x.c.SetLinger(0))
			x.c.Close()
		}, tcp.Established, syscall.ECONNABORTED},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x := newWatchedClient(t)
				x.send(0, ack)
				c, err := x.l.Accept()
				require.NoError(t, err)
				x.c = c
				tc.do(x)
				synctest.Wait()
				e := x.end()
				require.Equal(t, ConnClosed, e.Kind)
				require.Equal(t, tc.err, e.Err)
				require.Equal(t, tc.last.String(), e.Info.State.String())
			})
		})
	}
}

func TestAPassiveHandshakeThatEndsIsWatched(t *testing.T) {
	// RFC 9293 3.10.7.4: a SYN or a RST in SYN-RECEIVED returns a passive open to LISTEN.
	for _, flags := range []wire.TCPFlags{wire.FlagSYN, wire.FlagSYN | wire.FlagACK, wire.FlagRST} {
		synctest.Test(t, func(t *testing.T) {
			x := newWatchedClient(t)
			x.send(0, flags)
			synctest.Wait()
			all := pendingEvents(x.w)
			require.Len(t, all, 1, "%v", flags)
			require.Equal(t, ConnFailed, all[0].Kind)
			require.Equal(t, syscall.ECONNREFUSED, all[0].Err)
			require.Equal(t, tcp.SynReceived, all[0].Info.State)
			require.True(t, all[0].Passive)
			require.Equal(t, addrPort("192.0.2.2:2000"), all[0].Remote)
		})
	}
}

func TestAConnThatWasNeverOpenedIsNotWatched(t *testing.T) {
	x := newWatchedClient(t)
	pendingEvents(x.w)
	s := x.w.s
	p, err := s.sharedRoute(addr("192.0.2.2"), addr("192.0.2.1"), 0)
	require.NoError(t, err)
	c, _, err := s.bindDial(t.Context(), p, 0, 80)
	require.NoError(t, err)
	c.kill()
	require.Empty(t, pendingEvents(x.w))
}
