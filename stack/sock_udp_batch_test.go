package stack

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// datagramsOf returns a batch of datagrams to 192.0.2.2:2222. Their payloads have the given lengths and
// different bytes.
func datagramsOf(lengths ...int) (ms []Datagram) {
	for i, n := range lengths {
		b := bytes.Repeat([]byte{byte(i)}, n)
		ms = append(ms, Datagram{Buffers: [][]byte{b}, Addr: addrPort("192.0.2.2:2222")})
	}
	return ms
}

// framesSent returns the number of frames that s sends during f.
func framesSent(s *Stack, f func()) int {
	ifc := s.ifaceNamed("eth0")
	before := ifc.stats.sent()
	f()
	return int(ifc.stats.sent() - before)
}

// readAll reads n datagrams, at most two at a time.
func readAll(t *testing.T, u *UDP, n int) (got []Datagram) {
	t.Helper()
	for len(got) < n {
		ms := []Datagram{{Buffers: [][]byte{make([]byte, 65536)}}, {Buffers: [][]byte{make([]byte, 65536)}}}
		k, err := u.ReadBatch(ms)
		require.NoError(t, err)
		require.Positive(t, k)
		got = append(got, ms[:k]...)
	}
	return got
}

func TestDatagramsOfOneLengthLeaveInOneFrame(t *testing.T) {
	other := func(ms []Datagram) { ms[2].Addr = addrPort("192.0.2.2:2223") }
	tos := func(ms []Datagram) { ms[2].Options.TOS = 8 }
	nothing := func([]Datagram) {}
	for _, tc := range []struct {
		name    string
		lengths []int
		change  func([]Datagram)
		frames  int
	}{
		{"one", []int{100}, nothing, 1},
		{"two", []int{100, 100}, nothing, 1},
		{"many", make([]int, 10), func(ms []Datagram) {
			for i := range ms {
				ms[i].Buffers = [][]byte{bytes.Repeat([]byte{byte(i)}, 1472)}
			}
		}, 1},
		{"a shorter one at the end", []int{100, 100, 99}, nothing, 1},
		{"a shorter one before the end", []int{100, 99, 100, 100}, nothing, 2},
		{"a longer one", []int{100, 100, 101, 101}, nothing, 2},
		{"an empty one", []int{100, 100, 0, 100, 100}, nothing, 3},
		{"empty ones", []int{0, 0}, nothing, 2},
		{"one byte each", []int{1, 1, 1}, nothing, 1},
		{"another port", []int{100, 100, 100, 100}, other, 3},
		{"other options", []int{100, 100, 100, 100}, tos, 3},
		{"larger than a frame", []int{1473, 1473, 1472, 1472}, nothing, 2 + 2 + 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for _, plain := range []bool{false, true} {
				cfg := nic.PipeConfig{}
				if plain {
					cfg.GSO = -1
				}
				a, b := twoHosts(t, cfg)
				u, v, w := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "0.0.0.0:2222"), openUDP(t, b, "0.0.0.0:2223")
				_, err := u.WriteTo(nil, addrPort("192.0.2.2:2222"), SendOptions{})
				require.NoError(t, err)
				readUDP(t, v) // from now on each host knows the other's MAC

				ms := datagramsOf(tc.lengths...)
				tc.change(ms)
				frames := framesSent(a, func() {
					n, err := u.WriteBatch(ms)
					require.NoError(t, err)
					require.Equal(t, len(ms), n)
				})
				if plain {
					fragments := 0
					for _, m := range ms {
						fragments += len(m.Buffers[0]) / 1473
					}
					require.Equal(t, len(ms)+fragments, frames)
				} else {
					require.Equal(t, tc.frames, frames)
				}
				if tc.name == "another port" {
					require.Equal(t, ms[2].Buffers[0], readAll(t, w, 1)[0].Buffers[0][:100])
					ms = append(ms[:2], ms[3])
				}
				for i, m := range readAll(t, v, len(ms)) {
					require.Equal(t, ms[i].Buffers[0], m.Buffers[0][:m.N])
					require.Equal(t, m.N, m.Full)
					require.Equal(t, addrPort("192.0.2.1:1111"), m.Addr)
					require.Equal(t, Meta{Dst: addr("192.0.2.2"), TTL: 64, TOS: ms[i].Options.TOS, NIC: 2}, m.Meta)
				}
				require.EqualValues(t, 1+len(tc.lengths), a.Stats().UDP.Sent)
				require.EqualValues(t, 1+len(tc.lengths), b.Stats().UDP.Received)
			}
		})
	}
}

func TestABatchOfOneUsesDirectTransmit(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "0.0.0.0:2222")
	_, err := u.WriteTo(nil, addrPort("192.0.2.2:2222"), SendOptions{})
	require.NoError(t, err)
	readUDP(t, v)
	sent := 0
	for _, lengths := range [][]int{{0}, {1}, {1472}, {10, 9}, {10, 20}, {1473}} {
		before := u.path.ifc.stats.TxDirect.Frames()
		ms := datagramsOf(lengths...)
		last := &ms[len(ms)-1]
		last.Buffers = [][]byte{last.Buffers[0][:last.len()/3], nil, last.Buffers[0][last.len()/3:]}
		n, err := u.WriteBatch(ms)
		require.NoError(t, err)
		require.Equal(t, len(ms), n)
		if sent += n; n == 1 && lengths[0] < 1473 {
			require.Equal(t, before+1, u.path.ifc.stats.TxDirect.Frames())
		} else {
			require.Equal(t, before, u.path.ifc.stats.TxDirect.Frames(), "fragments and later datagrams are queued")
		}
		for i, m := range readAll(t, v, n) {
			require.Equal(t, lengths[i], ms[i].N)
			require.Equal(t, bytes.Repeat([]byte{byte(i)}, lengths[i]), m.Buffers[0][:m.N])
		}
	}
	require.EqualValues(t, 1+sent, a.Stats().UDP.Sent)
}

func TestASuperFrameOfDatagramsHasItsBounds(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "0.0.0.0:2222")
	require.NoError(t, v.SetReadBuffer(1<<20))
	_, err := u.WriteTo(nil, addrPort("192.0.2.2:2222"), SendOptions{})
	require.NoError(t, err)
	for _, tc := range []struct{ size, frames int }{{1000, 3}, {10, 3}, {1472, 4}} {
		lengths := make([]int, 150)
		for i := range lengths {
			lengths[i] = tc.size
		}
		require.Equal(t, tc.frames, framesSent(a, func() {
			n, err := u.WriteBatch(datagramsOf(lengths...))
			require.NoError(t, err)
			require.Equal(t, len(lengths), n)
		}), "65535 bytes or 64 datagrams, of %d bytes", tc.size)
	}
	require.Len(t, readAll(t, v, 451), 451)
}

func TestABatchToAGroupOrTheHostItselfArrives(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "0.0.0.0:2222")
	self := openUDP(t, a, "0.0.0.0:2223")
	require.NoError(t, v.Join(addr("239.1.2.3"), 2))
	for _, tc := range []struct {
		to string
		at *UDP
	}{{"239.1.2.3:2222", v}, {"192.0.2.255:2222", v}, {"127.0.0.1:2223", self}, {"192.0.2.1:2223", self}} {
		ms := datagramsOf(100, 100, 100)
		for i := range ms {
			ms[i].Addr = addrPort(tc.to)
			if ms[i].Addr.Addr().IsMulticast() {
				ms[i].Options.NIC = 2 // there is no route for multicast addresses
			}
		}
		n, err := u.WriteBatch(ms)
		require.NoError(t, err, tc.to)
		require.Equal(t, 3, n)
		for i, m := range readAll(t, tc.at, 3) {
			require.Equal(t, ms[i].Buffers[0], m.Buffers[0][:m.N], tc.to)
			require.Equal(t, addrPort(tc.to).Addr(), m.Meta.Dst)
		}
	}
}

func TestABatchIsSentUpToTheFirstError(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "0.0.0.0:2222")
	ms := datagramsOf(10, 10, 10, 65508, 10)
	n, err := u.WriteBatch(ms)
	require.NoError(t, err, "the error of the fourth is not reported yet")
	require.Equal(t, 3, n)
	n, err = u.WriteBatch(ms[n:])
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	require.Zero(t, n)
	readAll(t, v, 3)

	ms = datagramsOf(10, 10)
	ms[0].Addr, ms[1].Addr = netip.AddrPort{}, netip.AddrPort{}
	_, err = u.WriteBatch(ms)
	require.ErrorIs(t, err, syscall.EDESTADDRREQ)
	require.NoError(t, u.Connect(addrPort("192.0.2.2:2222")))
	n, err = u.WriteBatch(ms)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	readAll(t, v, 2)

	n, err = u.WriteBatch(nil)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, u.Close())
	_, err = u.WriteBatch(ms)
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = u.WriteBatch(ms[:1])
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestReadBatchTakesWhatIsThereAndWaitsForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		u, v := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "0.0.0.0:2222")
		n, err := v.ReadBatch(nil)
		require.NoError(t, err)
		require.Zero(t, n, "an empty batch does not wait")
		ms := make([]Datagram, 40)
		for i := range ms {
			ms[i].Buffers = [][]byte{make([]byte, 3)}
		}
		time.AfterFunc(time.Second, func() { u.WriteBatch(datagramsOf(2, 4)[:1]) })
		start := time.Now()
		n, err = v.ReadBatch(ms)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, time.Second, time.Since(start))

		for _, count := range []int{1, 15, 16, 17, 33, 40, 45} {
			lengths := make([]int, count)
			for i := range lengths {
				lengths[i] = i
			}
			n, err = u.WriteBatch(datagramsOf(lengths...))
			require.NoError(t, err)
			require.Equal(t, count, n)
			n, err = v.ReadBatch(ms)
			require.NoError(t, err)
			require.Equal(t, min(count, 40), n)
			for i := range ms[:n] {
				require.Equal(t, [2]int{min(i, 3), i}, [2]int{ms[i].N, ms[i].Full})
				require.Equal(t, bytes.Repeat([]byte{byte(i)}, ms[i].N), ms[i].Buffers[0][:ms[i].N])
			}
		}
		n, err = v.ReadBatch(ms)
		require.NoError(t, err)
		require.Equal(t, 5, n, "the remaining datagrams")

		require.NoError(t, v.SetReadDeadline(time.Now().Add(time.Second)))
		_, err = v.ReadBatch(ms)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, v.Close())
		_, err = v.ReadBatch(ms)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}
