package stack

import (
	"io"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// connsOf returns the connections of s, ordered by local and remote address.
func connsOf(s *Stack) []ConnInfo {
	return slices.SortedFunc(s.Conns(), func(a, b ConnInfo) int {
		if c := a.Local.Compare(b.Local); c != 0 {
			return c
		}
		return a.Remote.Compare(b.Remote)
	})
}

func TestConnsShowsEachStateOfAConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		require.Empty(t, connsOf(a))
		require.Empty(t, slices.Collect(a.Listeners()))
		c, d := connect(t, a, b)
		for _, s := range []struct {
			of      *Stack
			sock    *TCP
			passive bool
		}{{a, c, false}, {b, d, true}} {
			all := connsOf(s.of)
			require.Len(t, all, 1)
			got := all[0]
			require.Equal(t, s.sock.LocalAddr(), got.Local)
			require.Equal(t, s.sock.RemoteAddr(), got.Remote)
			require.Equal(t, tcp.Established, got.State)
			require.Equal(t, s.passive, got.Passive)
			require.False(t, got.Orphan)
		}

		// 100 bytes that the peer's application has not read.
		_, err := c.Write(make([]byte, 100))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 100, connsOf(b)[0].RecvQ)
		time.Sleep(time.Second) // the delayed acknowledgement
		require.Zero(t, connsOf(a)[0].SendQ)
		got := connsOf(a)[0]
		info, ok := got.Info()
		require.True(t, ok)
		require.EqualValues(t, 100, info.Delivered)

		// More than the peer's buffer takes: the persist timer runs.
		require.NoError(t, c.SetWriteBuffer(1<<20))
		c.SetWriteDeadline(time.Now().Add(10 * time.Second))
		_, err = c.Write(make([]byte, 64<<20))
		require.Error(t, err)
		got = connsOf(a)[0]
		require.Positive(t, got.SendQ)
		require.Equal(t, tcp.TimerPersist, got.Timer)
		require.Positive(t, got.Expires)
		require.LessOrEqual(t, got.Expires, 120*time.Second)
		require.Positive(t, a.Stats().TCP.Events[tcp.WinProbe])

		go io.Copy(io.Discard, d)
		require.NoError(t, c.CloseWrite())
		time.Sleep(time.Second)
		require.Equal(t, tcp.FinWait2, connsOf(a)[0].State)
		require.NoError(t, d.Close())
		time.Sleep(time.Second)
		got = connsOf(a)[0]
		require.Equal(t, tcp.TimeWait, got.State)
		require.Equal(t, tcp.TimerTimeWait, got.Timer)
		require.InDelta(t, 59*time.Second, got.Expires, float64(2*time.Second))
		_, ok = got.Info()
		require.False(t, ok, "TIME-WAIT has no details")
		require.Empty(t, connsOf(b))
		time.Sleep(time.Minute)
		require.Empty(t, connsOf(a))
	})
}

func TestListenersAndSocketsAreDescribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts6(t, nic.PipeConfig{})
		for _, l := range []struct {
			fam   Family
			local string
		}{{FamilyAny, "[::]:80"}, {Family4, "0.0.0.0:81"}, {Family6, "[::1]:82"}} {
			_, err := a.ListenTCP(l.fam, addrPort(l.local), ListenOptions{Backlog: 7})
			require.NoError(t, err)
		}
		require.Equal(t, []ListenerInfo{
			{Local: addrPort("0.0.0.0:81"), Family: Family4, Backlog: 7},
			{Local: addrPort("[::]:80"), Family: FamilyAny, Backlog: 7},
			{Local: addrPort("[::1]:82"), Family: Family6, Backlog: 7},
		}, slices.Collect(a.Listeners()))
		for range 2 {
			_, err := b.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(hostAddr(a), 80), TCPOptions{})
			require.NoError(t, err)
		}
		require.Equal(t, 2, slices.Collect(a.Listeners())[1].Queue)

		u := openUDP(t, a, "[::]:9")
		u.queue.limit = 2 * (512 + datagramOverhead)
		v, err := b.OpenUDP(FamilyAny, netip.AddrPort{})
		require.NoError(t, err)
		require.NoError(t, v.Connect(netip.AddrPortFrom(hostAddr(a), 9)))
		for range 5 {
			_, err := v.Write(make([]byte, 300))
			require.NoError(t, err)
		}
		r, err := a.OpenRaw(Family4, uint16(wire.ProtoICMP), netip.Addr{})
		require.NoError(t, err)
		defer r.Close()
		all := slices.Collect(a.Sockets())
		require.Len(t, all, 2)
		got := all[0]
		require.Equal(t, addrPort("[::]:9"), got.Local)
		require.EqualValues(t, wire.ProtoUDP, got.Protocol)
		require.Equal(t, FamilyAny, got.Family)
		require.Positive(t, got.Datagrams)
		require.EqualValues(t, 5, got.Received+got.Dropped)
		require.EqualValues(t, got.Datagrams, got.Received)
		require.Equal(t, a.Stats().Drops[reasonText(dropUDPQueue)], got.Dropped)
		require.LessOrEqual(t, got.RecvQ, got.RecvLimit)
		require.True(t, all[1].Raw)
		require.EqualValues(t, wire.ProtoICMP, all[1].Protocol)
		require.Equal(t, Family4, all[1].Family)
		ofB := slices.Collect(b.Sockets())
		require.Len(t, ofB, 1)
		require.Equal(t, netip.AddrPortFrom(hostAddr(a), 9), ofB[0].Remote)
		require.EqualValues(t, 5, ofB[0].Sent)
	})
}

func TestAbortOfAConnInfoResetsTheConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, d := connect(t, a, b)
		for info := range a.Conns() {
			info.Abort()
		}
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNABORTED)
		_, err = d.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.EqualValues(t, 1, a.Stats().TCP.Events[tcp.OutRsts])
		require.EqualValues(t, 1, b.Stats().TCP.Events[tcp.EstabResets])
	})
}

// Iterators run while connections come and go and while data flows.
func TestConnsWhileConnectionsComeAndGo(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	l, err := b.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	var accepting, dialing, looking sync.WaitGroup
	accepting.Go(func() {
		for {
			d, err := l.Accept()
			if err != nil {
				return
			}
			accepting.Go(func() {
				io.Copy(io.Discard, d)
				d.Close()
			})
		}
	})
	for range 4 {
		dialing.Go(func() {
			for range 100 {
				c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(hostAddr(b), 80), TCPOptions{})
				if err != nil {
					t.Error(err)
					return
				}
				c.Write(make([]byte, 10_000))
				c.Close()
			}
		})
	}
	var done atomic.Bool
	for range 2 {
		looking.Go(func() {
			for !done.Load() {
				runtime.Gosched() // a system with one thread does not preempt a loop
				for _, s := range []*Stack{a, b} {
					for c := range s.Conns() {
						c.Info()
						if c.State == tcp.Closed || !c.Local.IsValid() || c.RecvQ < 0 || c.SendQ < 0 {
							t.Errorf("%+v", c)
						}
					}
					for range s.Listeners() {
					}
					for range s.Sockets() {
					}
				}
			}
		})
	}
	dialing.Wait()
	done.Store(true)
	looking.Wait()
	for end := time.Now().Add(time.Minute); b.Stats().TCP.Events[tcp.PassiveOpens] < 400 && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // another goroutine may still be sending the last acknowledgements
	}
	l.Close()
	accepting.Wait()
	require.EqualValues(t, 400, a.Stats().TCP.Events[tcp.ActiveOpens])
	require.EqualValues(t, 400, b.Stats().TCP.Events[tcp.PassiveOpens])
}

// The events of the two ends of a transfer with loss agree with each other and with the frames that the link
// has dropped.
func TestEventsAgreeOnBothEndsOfALossyLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, func(d nic.Device) nic.Device {
			im := nic.Impairment{Latency: 20 * time.Millisecond, Loss: 0.02}
			return nic.Impair(d, nic.ImpairConfig{Out: im, Seed: 3})
		})
		c, d := connect(t, a, b)
		exchange(t, c, d, 4<<20)
		time.Sleep(time.Second) // the last acknowledgement may be under way
		info, peerInfo := c.Info(), d.Info()
		c.Close()
		d.Close()
		time.Sleep(time.Minute)
		ea, eb := a.Stats().TCP.Events, b.Stats().TCP.Events
		require.EqualValues(t, info.Retrans, ea[tcp.RetransSegs])
		require.EqualValues(t, 4<<20, info.BytesAcked)
		require.Positive(t, info.BytesRetrans)
		require.EqualValues(t, 4<<20+info.BytesRetrans, info.BytesSent)
		require.Greater(t, info.SegsOut, info.DataSegsOut)
		require.GreaterOrEqual(t, uint64(info.DataSegsOut), ea[tcp.RetransSegs]+4<<20/1460)
		require.Zero(t, info.DataSegsIn)
		require.Positive(t, info.SegsIn)
		require.EqualValues(t, 4<<20, peerInfo.BytesReceived)
		require.Less(t, peerInfo.DataSegsIn, info.DataSegsOut, "some segments were lost")
		require.Zero(t, peerInfo.BytesSent)
		require.True(t, peerInfo.Passive)
		require.False(t, info.Passive)
		require.Positive(t, ea[tcp.SackRecovery])
		require.Positive(t, ea[tcp.FastRetrans])
		require.Positive(t, eb[tcp.OFOQueue])
		require.LessOrEqual(t, ea[tcp.FastRetrans]+ea[tcp.SlowStartRetrans], ea[tcp.RetransSegs])
		require.LessOrEqual(t, ea[tcp.DSACKRecv], eb[tcp.DSACKSent])
		require.EqualValues(t, 1, ea[tcp.ActiveOpens])
		require.EqualValues(t, 1, eb[tcp.PassiveOpens])
		require.Zero(t, eb[tcp.RetransSegs], "the way back loses nothing")
		require.Zero(t, ea[tcp.EstabResets]+eb[tcp.EstabResets]+ea[tcp.AttemptFails]+eb[tcp.AttemptFails])
	})
}

func TestConnFindsAConnectionByItsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		_, ok := a.Conn(netip.AddrPort{}, netip.AddrPort{})
		require.False(t, ok)
		c, d := connect(t, a, b)
		info, ok := a.Conn(c.LocalAddr(), c.RemoteAddr())
		require.True(t, ok)
		require.Equal(t, connsOf(a)[0], info)
		_, ok = a.Conn(c.RemoteAddr(), c.LocalAddr())
		require.False(t, ok)
		details, ok := info.Info()
		require.True(t, ok)
		require.GreaterOrEqual(t, 65535<<details.RcvWScale, tcp.DefaultParams().RecvBufferMax)
		require.Equal(t, details.RcvWScale, details.SndWScale, "both ends have the same buffers")
		_, ok = b.Conn(d.LocalAddr(), netip.AddrPortFrom(d.RemoteAddr().Addr(), 1))
		require.False(t, ok)
		before := a.Uptime()
		time.Sleep(time.Second)
		require.Equal(t, time.Second, a.Uptime()-before)
	})
}
