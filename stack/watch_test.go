package stack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// watch returns a Watcher that is closed at the end of the test.
func watch(t testing.TB, s *Stack, cfg WatchConfig) *Watcher {
	t.Helper()
	w, err := s.Watch(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

// pendingEvents removes the events from the buffer, and returns them.
func pendingEvents(w *Watcher) (all []WatchEvent) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for e := range w.Events(ctx) {
		all = append(all, e)
	}
	return all
}

func TestWatchTellsWhyAFrameWasDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		udp := func(port uint16) []byte {
			return udpDatagram(addrPort("192.0.2.2:1000"), netip.AddrPortFrom(addr("192.0.2.1"), port), []byte("hello"))
		}
		bad := udp(7)
		bad[len(bad)-1]++
		badIP := ethernet(macA, ipPacket(wire.IPv4{Proto: wire.ProtoUDP}, udp(7)))
		badIP[wire.EthernetLen+10]++
		unknown := ethernet(macA, nil)
		unknown[12], unknown[13] = 0x88, 0xb5
		tagged := append(ethernet(macA, nil)[:12:12], 0x81, 0, 0, 5, 0x08, 0)
		group := ethernet(macA, ipPacket(wire.IPv4{Proto: wire.ProtoUDP}, udp(7)))
		group[6] |= 1
		arp := make([]byte, wire.EthernetLen+wire.ARPLen)
		eth := wire.Ethernet{Dst: macA, Src: macB, Type: wire.EtherTypeARP}
		eth.Put(arp)
		h := wire.ARP{Op: wire.ARPReply, SenderMAC: macB, SenderIP: addr("127.0.0.1"), TargetMAC: macA, TargetIP: addr("192.0.2.1")}
		h.Put(arp[wire.EthernetLen:])
		icmp := echoRequest(1, 1, nil)
		icmp[2]++ // the checksum
		seg := tcpSegment(addr("192.0.2.1"), wire.TCP{SrcPort: 1, DstPort: 2, Flags: wire.FlagSYN})
		seg[16]++ // the checksum
		ip := func(h wire.IPv4, payload []byte) []byte { return ethernet(macA, ipPacket(h, payload)) }
		full := openUDP(t, s, "192.0.2.1:9")
		require.NoError(t, full.SetReadBuffer(1))
		for full.s.counts.drops[dropUDPQueue].Load() == 0 {
			p.send(ip(wire.IPv4{Proto: wire.ProtoUDP}, udp(9)))
		}

		w := watch(t, s, WatchConfig{Drops: true})
		for _, c := range []struct {
			why   DropReason
			frame []byte
		}{
			{"frame for another station", ethernet(wire.MAC{2, 9}, ipPacket(wire.IPv4{}, nil))},
			{"frame from a group address", group},
			{"unknown EtherType", unknown},
			{"frame of a VLAN without an interface", tagged},
			{"invalid ARP sender", arp},
			{"bad IPv4 checksum", badIP},
			{"source is a broadcast or multicast address", ip(wire.IPv4{Src: addr("224.0.0.1")}, nil)},
			{"loopback address on the wire", ip(wire.IPv4{Src: addr("127.0.0.1")}, nil)},
			{"source is an address of this host", ip(wire.IPv4{Src: addr("192.0.2.1")}, nil)},
			{"destination is not this host", ip(wire.IPv4{Dst: addr("192.0.2.9")}, nil)},
			{"unknown IP protocol", ip(wire.IPv4{Proto: 200}, []byte("x"))},
			{"invalid fragment", ip(wire.IPv4{Proto: wire.ProtoUDP, MoreFragments: true}, []byte("123"))},
			{"bad ICMP checksum", ip(wire.IPv4{Proto: wire.ProtoICMP}, icmp)},
			{"bad UDP checksum", ip(wire.IPv4{Proto: wire.ProtoUDP}, bad)},
			{"UDP port without a socket", ip(wire.IPv4{Proto: wire.ProtoUDP}, udp(7))},
			{"UDP receive queue full", ip(wire.IPv4{Proto: wire.ProtoUDP}, udp(9))},
			{"bad TCP checksum", ip(wire.IPv4{Proto: wire.ProtoTCP}, seg)},
		} {
			before := s.Stats().Drops[c.why]
			p.send(c.frame)
			all := pendingEvents(w)
			require.Len(t, all, 1, c.why)
			e := all[0]
			require.Equal(t, before+1, s.Stats().Drops[c.why], "%s: %s", c.why, e.Reason)
			require.Equal(t, c.why, e.Reason)
			require.Equal(t, c.frame, e.Data, c.why)
			require.Equal(t, len(c.frame), e.Len, c.why)
			require.True(t, e.Ethernet, c.why)
			require.False(t, e.Outbound, c.why)
			require.Equal(t, "eth0", e.NIC)
			require.True(t, e.Time.Equal(time.Now()), "the time is virtual")
		}
		p.send(ip(wire.IPv4{Proto: wire.ProtoUDP}, udp(9)))
		e := pendingEvents(w)[0]
		require.Equal(t, addrPort("192.0.2.1:9"), e.Local)
		require.Equal(t, addrPort("192.0.2.2:1000"), e.Remote)
		require.Contains(t, DropReason("loopback address on the wire").Rule(), "RFC 1122")
	})
}

func TestWatchHasWhatTheHostCouldNotSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		w := watch(t, s, WatchConfig{Drops: true})
		u := openUDP(t, s, "192.0.2.1:9")
		_, err := u.WriteTo([]byte("nobody"), addrPort("192.0.2.77:5"), SendOptions{})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		e := pendingEvents(w)
		require.Len(t, e, 1)
		require.Equal(t, DropReason("neighbor did not answer"), e[0].Reason)
		require.True(t, e[0].Outbound)
		require.Contains(t, wire.Describe(e[0].Data), "192.0.2.77")
		require.NoError(t, p.dev.Close())
		_, _ = u.WriteTo([]byte("down"), addrPort("192.0.2.77:5"), SendOptions{})
		time.Sleep(10 * time.Second)
		e = pendingEvents(w)
		require.Len(t, e, 1)
		require.Equal(t, DropReason("neighbor did not answer"), e[0].Reason)
		require.True(t, e[0].Outbound)
		require.Contains(t, string(e[0].Data), "down")
	})
}

func TestReassembliesThatEndAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		w := watch(t, s, WatchConfig{Drops: true})
		p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP, MoreFragments: true, ID: 5}, make([]byte, 16))
		time.Sleep(time.Minute)
		all := pendingEvents(w)
		require.Len(t, all, 1)
		require.Equal(t, DropReason("reassembly timed out"), all[0].Reason)
		require.Equal(t, wire.IPv4Len+16, len(all[0].Data))
		require.False(t, all[0].Ethernet)
		require.Equal(t, addr("192.0.2.2"), all[0].Remote.Addr())
	})
}

func TestWatchedFramesHaveChecksumsAndGSO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		w := watch(t, a, WatchConfig{Frames: true, Filter: "tcp", Buffer: 16 << 20})
		head := watch(t, b, WatchConfig{Frames: true, Filter: "tcp", SnapLen: 80})
		c, d := connect(t, a, b)
		exchange(t, c, d, 500_000)
		super, sent, received := 0, 0, 0
		for _, e := range pendingEvents(w) {
			require.Zero(t, e.Lost)
			require.Len(t, e.Data, e.Len)
			_, packet, r := wire.ParseEthernet(e.Data)
			require.Equal(t, wire.OK, r)
			ip, payload, r := wire.ParseIPv4(packet)
			require.Equal(t, wire.OK, r)
			require.True(t, wire.TCPChecksumOK(ip.Src, ip.Dst, payload))
			if e.GSO != nic.GSONone {
				super++
				require.Equal(t, 1460-12, e.GSOSize)
				require.Greater(t, e.Len, 1514)
			}
			if e.Outbound {
				sent++
				require.Equal(t, FrameSent, e.Kind)
			} else {
				received++
				require.Equal(t, FrameReceived, e.Kind)
			}
		}
		require.NotZero(t, super)
		require.NotZero(t, sent)
		require.NotZero(t, received)
		long := 0
		for _, e := range pendingEvents(head) {
			require.LessOrEqual(t, len(e.Data), 80)
			if e.Len > 80 {
				require.Len(t, e.Data, 80)
				long++
			}
		}
		require.NotZero(t, long)
	})
}

func TestWatchFiltersFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		w := watch(t, s, WatchConfig{Frames: true, Drops: true, Filter: "udp port 7"})
		for _, port := range []uint16{6, 7, 8} {
			p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP}, udpDatagram(addrPort("192.0.2.2:1"), netip.AddrPortFrom(addr("192.0.2.1"), port), nil))
		}
		all := pendingEvents(w)
		require.Len(t, all, 2)
		require.Equal(t, FrameReceived, all[0].Kind)
		require.Equal(t, PacketDropped, all[1].Kind)
		require.Equal(t, all[0].Data, all[1].Data)
		_, err := s.Watch(WatchConfig{Frames: true, Filter: "udp prot 7"})
		require.ErrorContains(t, err, "prot")
		_, err = s.Watch(WatchConfig{})
		require.Error(t, err)
		_, err = s.Watch(WatchConfig{Drops: true, SnapLen: -1})
		require.Error(t, err)
	})
}

// The flood is large enough that a buffer without a bound would need gigabytes.
func TestAFloodOfDropsIsBoundedForASlowReader(t *testing.T) {
	s, p := hostAndPeer(t)
	const buffer = 256 << 10
	w := watch(t, s, WatchConfig{Drops: true, Buffer: buffer})
	frame := ethernet(wire.MAC{2, 9}, make([]byte, 1000))
	batch := make([]nic.Frame, 100)
	got, lost := uint64(0), uint64(0)
	n := 1_000_000
	if racing {
		n = 100_000
	}
	for i := 0; i < n; i += len(batch) {
		for j := range batch {
			batch[j] = nic.Frame{Head: frame}
		}
		sent, err := p.dev.Send(batch)
		require.NoError(t, err)
		require.Equal(t, len(batch), sent)
		require.LessOrEqual(t, w.used.Load(), int64(buffer))
		if i%10_000 == 0 { // the slow reader
			e, err := w.Next(t.Context())
			require.NoError(t, err)
			got, lost = got+1, lost+e.Lost
		}
	}
	w.mu.Lock()
	require.LessOrEqual(t, len(w.queue), buffer/1000)
	w.mu.Unlock()
	rest := pendingEvents(w)
	for _, e := range rest {
		lost += e.Lost
	}
	got += uint64(len(rest))
	require.EqualValues(t, n, got+w.Lost())
	require.LessOrEqual(t, lost, w.Lost())
	require.Zero(t, w.used.Load())
	p.send(frame) // the next event tells of the losses after the last one
	e, err := w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, w.Lost(), lost+e.Lost)
}

func TestAFastReaderLosesNothing(t *testing.T) {
	s, p := hostAndPeer(t)
	w := watch(t, s, WatchConfig{Drops: true, Buffer: 16 << 20})
	const n = 10_000 // with their overhead, fewer bytes than Buffer
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			p.send(ethernet(wire.MAC{2, 9}, fmt.Appendf(nil, "%08d", i)))
		}
	})
	i := 0
	for e := range w.Events(t.Context()) {
		require.Equal(t, fmt.Sprintf("%08d", i), string(e.Data[wire.EthernetLen:]))
		require.Zero(t, e.Lost)
		if i++; i == n {
			break
		}
	}
	wg.Wait()
	require.Zero(t, w.Lost())
}

func TestAWatcherEndsWithItsHostAndItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		w := watch(t, s, WatchConfig{Drops: true, Frames: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		_, err := w.Next(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin), "virtual time")
		done := make(chan error)
		go func() {
			var err error
			for err == nil {
				_, err = w.Next(context.Background())
			}
			done <- err
		}()
		own := watch(t, s, WatchConfig{Drops: true})
		p.send(ethernet(wire.MAC{2, 9}, nil))
		require.NoError(t, own.Close())
		require.ErrorIs(t, own.Close(), net.ErrClosed)
		_, err = own.Next(context.Background())
		require.ErrorIs(t, err, net.ErrClosed, "Close discards events")
		last := watch(t, s, WatchConfig{Drops: true})
		p.send(ethernet(wire.MAC{2, 9}, nil))
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
		e, err := last.Next(context.Background())
		require.NoError(t, err, "events before the end are not lost")
		require.Equal(t, DropReason("frame for another station"), e.Reason)
		_, err = last.Next(context.Background())
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = s.Watch(WatchConfig{Drops: true})
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestConnectionsAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		wa, wb := watch(t, a, WatchConfig{Conns: true}), watch(t, b, WatchConfig{Conns: true})
		c, d := connect(t, a, b)
		opened := pendingEvents(wa)
		require.Len(t, opened, 1)
		require.Equal(t, ConnOpened, opened[0].Kind)
		require.Equal(t, c.LocalAddr(), opened[0].Local)
		require.Equal(t, c.RemoteAddr(), opened[0].Remote)
		require.False(t, opened[0].Passive)
		require.True(t, pendingEvents(wb)[0].Passive)
		exchange(t, c, d, 100_000)
		time.Sleep(3 * time.Second)
		require.NoError(t, c.Close())
		require.NoError(t, d.Close())
		synctest.Wait()
		for i, w := range []*Watcher{wa, wb} {
			e := pendingEvents(w)
			require.Len(t, e, 1)
			require.Equal(t, ConnClosed, e[0].Kind)
			require.NoError(t, e[0].Err)
			require.GreaterOrEqual(t, e[0].Duration, 3*time.Second)
			require.Equal(t, i == 1, e[0].Passive)
			totals := []uint64{e[0].Info.BytesAcked, e[0].Info.BytesReceived}
			require.EqualValues(t, 100_000, totals[i])
		}
		// A reset, as both ends see it.
		c, d = connect(t, a, b)
		require.NoError(t, c.SetLinger(0))
		require.NoError(t, c.Close())
		synctest.Wait()
		ea, eb := pendingEvents(wa), pendingEvents(wb)
		require.Len(t, ea, 2)
		require.Len(t, eb, 2)
		require.Equal(t, syscall.ECONNABORTED, ea[1].Err)
		require.Equal(t, syscall.ECONNRESET, eb[1].Err)
		_ = d.Close()
		// A refused dial.
		_, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrB, 4), TCPOptions{})
		require.Error(t, err)
		ea = pendingEvents(wa)
		require.Len(t, ea, 1)
		require.Equal(t, ConnFailed, ea[0].Kind)
		require.Equal(t, syscall.ECONNREFUSED, ea[0].Err)
		require.Empty(t, pendingEvents(wb))
	})
}

func TestAWatchedConnectionThatLosesItsPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var cut *nic.Impaired
		a, b := wiredPair(t, func(d nic.Device) nic.Device { cut = nic.Impair(d, nic.ImpairConfig{}); return cut })
		w := watch(t, a, WatchConfig{Conns: true})
		c, _ := connect(t, a, b)
		cut.SetOut(nic.Impairment{Loss: 1})
		_, err := c.Write([]byte("lost"))
		require.NoError(t, err)
		time.Sleep(time.Hour)
		e := pendingEvents(w)
		require.Len(t, e, 2)
		require.Equal(t, syscall.EHOSTUNREACH, e[1].Err, "ARP gets no answer either")
		require.NotZero(t, e[1].Info.Retrans)
	})
}

func TestWatchersComeAndGoWhileTrafficFlows(t *testing.T) {
	a, b := wiredPair(t, nil)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	for range 3 {
		wg.Go(func() {
			for ctx.Err() == nil {
				w, err := a.Watch(WatchConfig{Frames: true, Drops: true, Conns: true, Filter: "tcp or udp", Buffer: 64 << 10})
				if err != nil {
					t.Error(err)
					return
				}
				n := 0
				for e := range w.Events(ctx) {
					if _, _, r := wire.ParseEthernet(e.Data); e.Ethernet && r != wire.OK {
						t.Error(r)
					}
					if n++; n == 20 {
						break
					}
				}
				w.Close()
			}
		})
	}
	u := openUDP(t, b, "0.0.0.0:9")
	for range 20 {
		c, d := connect(t, a, b)
		exchange(t, c, d, 100_000)
		_, _ = u.WriteTo([]byte("to no socket"), netip.AddrPortFrom(addrA, 4), SendOptions{})
		c.Close()
		d.Close()
	}
	cancel()
	wg.Wait()
	require.Nil(t, a.watch.set.Load())
	require.Nil(t, a.watch.times)
}

// A Watcher with Notify has no goroutine that waits, so a bubble may end with it.
func TestNotifyIsCalledForEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		var events atomic.Int32
		var w *Watcher
		w, err := s.Watch(WatchConfig{Drops: true, Notify: func() {
			events.Add(int32(len(pendingEvents(w))))
		}})
		require.NoError(t, err)
		for range 2 {
			for range 10 {
				p.send(ethernet(wire.MAC{2, 9}, nil))
			}
			time.Sleep(time.Second)
			synctest.Wait()
			require.EqualValues(t, 10, events.Swap(0))
		}
		require.NoError(t, w.Close())
		p.send(ethernet(wire.MAC{2, 9}, nil))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Zero(t, events.Load())
	})
}

func TestWatchKindsHaveNames(t *testing.T) {
	for k := FrameReceived; k <= ConnClosed; k++ {
		require.False(t, strings.HasPrefix(k.String(), "event "), k)
	}
	require.Equal(t, "event 99", WatchKind(99).String())
}
