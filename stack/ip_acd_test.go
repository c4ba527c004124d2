package stack

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// arpProbe returns an ARP Probe of another host for the address a.
func arpProbe(a string) wire.ARP {
	return wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: netip.IPv4Unspecified(), TargetIP: addr(a)}
}

// arpsOf returns the sender and target IP addresses of ARP packets, which must be broadcasts.
func arpsOf(t *testing.T, frames [][]byte) (senders, targets []netip.Addr) {
	t.Helper()
	for _, f := range frames {
		require.Equal(t, wire.Broadcast(), wire.MAC(f[:6]))
		h, r := wire.ParseARP(f[wire.EthernetLen:])
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.ARPRequest, h.Op)
		require.Equal(t, macA, h.SenderMAC)
		require.Zero(t, h.TargetMAC)
		senders, targets = append(senders, h.SenderIP), append(targets, h.TargetIP)
	}
	return senders, targets
}

// RFC 5227 2.1.1: a host "should then send PROBE_NUM probe packets, each of these probe packets spaced randomly and
// uniformly, PROBE_MIN to PROBE_MAX seconds apart"; 2.3: "ANNOUNCE_NUM ARP Announcements, spaced ANNOUNCE_INTERVAL seconds
// apart."
func TestAnAddressIsProbedAndThenAnnounced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := bare(t)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Origin: AddrDHCP, Valid: time.Hour, Probe: true}))
		state := func() AddrState { return s.Interfaces()[1].AddrInfo[0].State }
		began := time.Now()
		var times []time.Duration
		var senders, targets []netip.Addr
		for time.Since(began) < 20*time.Second {
			if frames := p.take(); frames != nil {
				from, to := arpsOf(t, frames)
				require.Len(t, from, 1)
				senders, targets = append(senders, from...), append(targets, to...)
				times = append(times, time.Since(began))
			}
			if len(times) < 4 {
				require.Equal(t, AddrTentative, state())
				require.False(t, s.IsLocal(addr("192.0.2.1")))
				require.Empty(t, s.Routes())
			} else {
				require.Equal(t, AddrPreferred, state())
			}
			time.Sleep(time.Millisecond)
			synctest.Wait()
		}
		none, own := netip.IPv4Unspecified(), addr("192.0.2.1")
		require.Equal(t, []netip.Addr{none, none, none, own, own}, senders)
		require.Equal(t, []netip.Addr{own, own, own, own, own}, targets)
		require.LessOrEqual(t, times[0], time.Second)
		for i := 1; i < 3; i++ {
			require.GreaterOrEqual(t, times[i]-times[i-1], 999*time.Millisecond)
			require.LessOrEqual(t, times[i]-times[i-1], 2001*time.Millisecond)
		}
		require.InDelta(t, 2*time.Second, times[3]-times[2], float64(2*time.Millisecond))
		require.InDelta(t, 2*time.Second, times[4]-times[3], float64(2*time.Millisecond))
		require.Len(t, s.Routes(), 1)

		// The renewal of a lease does not start probes.
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Origin: AddrDHCP, Valid: time.Hour, Probe: true}))
		require.Equal(t, AddrPreferred, state())
		time.Sleep(10 * time.Second)
		require.Empty(t, p.sent())
		time.Sleep(time.Hour)
		require.Empty(t, s.Interfaces()[1].AddrInfo)
	})
}

// RFC 5227 2.1.1 says which packets are conflicts while the host probes an address.
func TestAProbedAddressIsGivenUp(t *testing.T) {
	request := arpProbe("192.0.2.99")
	request.SenderIP = addr("192.0.2.1")
	for name, h := range map[string]wire.ARP{
		"a reply":         claim("192.0.2.1"),
		"a request":       request,
		"another's probe": arpProbe("192.0.2.1"),
	} {
		synctest.Test(t, func(t *testing.T) {
			s, p := bare(t)
			state := func() AddrState { return s.Interfaces()[1].AddrInfo[0].State }
			add := func() {
				require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Probe: true}), name)
			}
			add()
			p.arp(wire.Broadcast(), arpProbe("192.0.2.2"))
			p.arp(wire.Broadcast(), claim("192.0.2.2"))
			own := arpProbe("192.0.2.1")
			own.SenderMAC = macA
			p.arp(wire.Broadcast(), own) // "is not the hardware address of any of the host's interfaces"
			time.Sleep(3 * time.Second)
			require.Equal(t, AddrTentative, state(), name)
			requireChanged(t, s, name, func() { p.arp(wire.Broadcast(), h) })
			require.Equal(t, AddrDuplicate, state(), name)
			require.Equal(t, macB, s.Interfaces()[1].AddrInfo[0].ConflictMAC)
			require.Equal(t, 1, dropped(s, dropAddressConflict))
			p.sent()
			time.Sleep(time.Minute)
			require.Empty(t, p.sent(), name)

			// An address that is added again is probed again.
			add()
			require.Equal(t, AddrTentative, state(), name)
			time.Sleep(10 * time.Second)
			require.Equal(t, AddrPreferred, state(), name)
			require.Len(t, p.sent(), probeNum+announceNum)
			// From then on, a probe for the address is not a conflict, and the host answers it.
			p.arp(wire.Broadcast(), arpProbe("192.0.2.1"))
			require.Len(t, p.sent(), 1)
			require.Equal(t, AddrPreferred, state(), name)
		})
	}
}

// No probe is sent for an address that was removed.
func TestProbesEndWithTheirAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := bare(t)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Probe: true, Valid: 3 * time.Second}))
		require.NoError(t, s.AddAddr("", prefix("192.0.2.2/24"), AddrOptions{Probe: true}))
		require.NoError(t, s.RemoveAddr("", addr("192.0.2.2")))
		time.Sleep(time.Minute)
		_, targets := arpsOf(t, p.take())
		require.NotContains(t, targets, addr("192.0.2.2"))
		require.LessOrEqual(t, len(targets), probeNum)
		require.Empty(t, s.Interfaces()[1].AddrInfo)
	})
}

// RFC 5227 2.1: a host probes again when "a network link goes from inactive to active".
func TestProbesWaitForTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{})
		db.Attach(func([]nic.Frame) {})
		dev := newChangeable(da)
		s, err := New(Config{NoIPv6: true, NICs: []NIC{{Name: "eth0", Device: dev}}})
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Probe: true}))
		time.Sleep(1500 * time.Millisecond)
		require.Zero(t, s.Interfaces()[1].LinkChanges)
		dev.Plug(false)
		require.EqualValues(t, 1, s.Interfaces()[1].LinkChanges)
		require.NotEmpty(t, dev.sent())
		time.Sleep(time.Minute)
		require.Empty(t, dev.sent())
		require.Equal(t, AddrTentative, s.Interfaces()[1].AddrInfo[0].State)
		dev.Plug(true)
		time.Sleep(8 * time.Second)
		require.Equal(t, AddrPreferred, s.Interfaces()[1].AddrInfo[0].State)
		time.Sleep(2 * time.Second)
		require.Len(t, dev.sent(), probeNum+announceNum)
		// The device reports a change without a difference: the link may have moved to another network.
		requireChanged(t, s, "link change", func() { dev.Change(func(l *nic.Link) {}) })
		require.EqualValues(t, 3, s.Interfaces()[1].LinkChanges)
		dev.Change(func(l *nic.Link) { l.MTU = 1400 })
		require.EqualValues(t, 3, s.Interfaces()[1].LinkChanges)
	})
}

func TestOnChangeCallsAfterChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := bare(t)
		var calls, others atomic.Int32
		stop := s.OnChange(func() { calls.Add(1) })
		defer s.OnChange(func() { others.Add(1) })()
		synctest.Wait()
		require.Zero(t, calls.Load())
		for i := range 3 {
			require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{}))
			time.Sleep(time.Microsecond)
			synctest.Wait()
			require.EqualValues(t, 2*i+1, calls.Load())
			require.NoError(t, s.RemoveAddr("", addr("192.0.2.1")))
			time.Sleep(time.Microsecond)
			synctest.Wait()
			require.EqualValues(t, 2*i+2, calls.Load())
		}
		stop()
		s.Close()
		time.Sleep(time.Microsecond)
		synctest.Wait()
		require.EqualValues(t, 6, calls.Load())
		require.EqualValues(t, 7, others.Load())
	})
}

func TestAHandlerGetsDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		u := openUDP(t, a, "192.0.2.1:68")
		sender := openUDP(t, b, "192.0.2.2:67")
		type got struct {
			text string
			from netip.AddrPort
			nic  int
		}
		var all []got
		u.SetHandler(func(b []byte, from netip.AddrPort, meta Meta) { all = append(all, got{string(b), from, meta.NIC}) })
		for _, text := range []string{"one", "", "three"} {
			_, err := sender.WriteTo([]byte(text), addrPort("192.0.2.1:68"), SendOptions{})
			require.NoError(t, err)
		}
		synctest.Wait()
		from := addrPort("192.0.2.2:67")
		require.Equal(t, []got{{"one", from, 2}, {"", from, 2}, {"three", from, 2}}, all)
		require.EqualValues(t, 3, a.Stats().UDP.Received)
		_, err := u.WriteTo([]byte("x"), from, SendOptions{})
		require.NoError(t, err, "a socket with a handler can send")
		require.NoError(t, u.Close())
		sender.WriteTo([]byte("late"), addrPort("192.0.2.1:68"), SendOptions{})
		synctest.Wait()
		require.Len(t, all, 3)
	})
}

// A datagram to a given link address needs no ARP, and makes no neighbour entry: a later datagram without a
// link address starts a resolution.
func TestADatagramGoesToAGivenMAC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "192.0.2.1:67")
		p.take()
		mac := wire.MAC{2, 0, 0, 0, 0, 9}
		for _, size := range []int{1, 300, 3000} { // in the interface's own buffer, in a pooled one, and in fragments
			_, err := u.WriteToMAC(time.Now().Add(time.Second), make([]byte, size), addrPort("192.0.2.9:68"), mac, SendOptions{NIC: 2})
			require.NoError(t, err)
			frames := p.take()
			require.Len(t, frames, (size+1479)/1480)
			for _, f := range frames {
				require.Equal(t, mac, wire.MAC(f[:6]))
				require.Equal(t, []byte{192, 0, 2, 9}, f[wire.EthernetLen+16:wire.EthernetLen+20])
			}
		}
		_, err := u.WriteTo([]byte("x"), addrPort("192.0.2.9:68"), SendOptions{})
		require.NoError(t, err)
		frames := p.take()
		require.Len(t, frames, 1)
		require.EqualValues(t, wire.EtherTypeARP, binary.BigEndian.Uint16(frames[0][12:]))
		_, err = u.WriteToMAC(time.Now().Add(time.Second), nil, addrPort("203.0.113.9:68"), mac, SendOptions{})
		require.ErrorIs(t, err, syscall.ENETUNREACH)
		require.NoError(t, u.Close())
		_, err = u.WriteToMAC(time.Now().Add(time.Second), nil, addrPort("192.0.2.9:68"), mac, SendOptions{})
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// RFC 2132 5.1: the option "specifies the MTU to use on this interface."
func TestTheMTUOfIPv4IsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "192.0.2.1:99")
		p.reply()
		send := func(n int) int {
			_, err := u.WriteTo(make([]byte, n), addrPort("192.0.2.2:9"), SendOptions{})
			require.NoError(t, err)
			synctest.Wait()
			p.reply()
			longest := 0
			for _, f := range p.take() {
				longest = max(longest, len(f)-wire.EthernetLen)
			}
			return longest
		}
		require.Equal(t, 1500, send(1472))
		requireChanged(t, s, "MTU", func() { require.NoError(t, s.SetIPv4MTU("", 1400)) })
		require.Equal(t, 1400, s.Interfaces()[1].IPv4MTU)
		require.Equal(t, 1500, s.Interfaces()[1].MTU)
		require.Equal(t, 1396, send(1472), "in fragments, whose offsets are multiples of 8")
		require.NoError(t, s.SetIPv4MTU("eth0", 9000))
		require.Equal(t, 1500, send(1472))
		require.NoError(t, s.SetIPv4MTU("", 0))
		require.Equal(t, 1500, send(1472))
		require.ErrorIs(t, s.SetIPv4MTU("", 67), syscall.EINVAL)
		require.ErrorIs(t, s.SetIPv4MTU("", 70000), syscall.EINVAL)
		require.EqualError(t, s.SetIPv4MTU("eth9", 1400), `stack: SetIPv4MTU: no interface "eth9": `+syscall.ENODEV.Error())
	})
}

// A conflict may be detected while its address is removed. This must not panic or race.
func TestAConflictBearsTheRemovalOfItsAddress(t *testing.T) {
	s, _ := hostAndPeer(t)
	ifc := (*s.ifaces.Load())[1]
	one := slices.Clone(ifc.list())
	two := append(slices.Clone(one), ifaceAddr{prefix: prefix("192.0.2.9/24"), origin: AddrDHCP, defence: new(defence)})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 100_000 {
			s.mu.Lock()
			ifc.addrs.Store(&two)
			ifc.addrs.Store(&one)
			s.mu.Unlock()
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
			ifc.conflict(addr("192.0.2.9"), macB, nil)
			runtime.Gosched() // a system with one thread does not preempt a loop
		}
	}
}

// An address is in use from its first announcement on. A claim that the host handles after the announcement
// does not make the address a duplicate, even if the claim arrived before. The host defends the address
// against later claims (RFC 5227 2.4).
func TestALateClaimIsAConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := bare(t)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.1/24"), AddrOptions{Probe: true}))
		info := func() AddrInfo { return s.Interfaces()[1].AddrInfo[0] }
		for info().State == AddrTentative {
			time.Sleep(time.Millisecond)
		}
		ifc := s.ifaceNamed("eth0")
		a, _ := ifc.addr(addr("192.0.2.1"))
		require.NotNil(t, a.dad, "the second announcement is still due")
		s.giveUpDuplicate(ifc, addr("192.0.2.1"), macB, nil) // as if inputARP had found the claim before the announcement
		require.Equal(t, AddrPreferred, info().State)
		p.take()
		p.arp(wire.Broadcast(), claim("192.0.2.1"))
		require.Equal(t, AddrPreferred, info().State)
		require.Len(t, p.take(), 1, "the defence")
	})
}

// New lifetimes also apply to an address that is in detection or that has still to be announced.
func TestALifetimeSetWhileDetectingHolds(t *testing.T) {
	state := func(s *Stack, a string) AddrState {
		x, ok := s.ifaceNamed("eth0").addr(addr(a))
		require.True(t, ok)
		return x.state
	}
	synctest.Test(t, func(t *testing.T) {
		s, _ := bare(t)
		p := prefix("192.0.2.1/24")
		require.NoError(t, s.AddAddr("", p, AddrOptions{Probe: true, Preferred: time.Second, Valid: time.Hour}))
		for state(s, "192.0.2.1") == AddrTentative {
			time.Sleep(time.Millisecond)
		}
		require.Equal(t, AddrDeprecated, state(s, "192.0.2.1"))
		require.NoError(t, s.AddAddr("", p, AddrOptions{Preferred: time.Hour, Valid: time.Hour}))
		require.Equal(t, AddrPreferred, state(s, "192.0.2.1"))
	})
	synctest.Test(t, func(t *testing.T) {
		s, _ := ndHost(t)
		p := prefix("2001:db8::7/64")
		require.NoError(t, s.AddAddr("", p, AddrOptions{}))
		require.Equal(t, AddrOptimistic, state(s, "2001:db8::7"))
		require.NoError(t, s.AddAddr("", p, AddrOptions{Preferred: -1}))
		require.Equal(t, AddrOptimistic, state(s, "2001:db8::7"))
		time.Sleep(5 * time.Second)
		require.Equal(t, AddrDeprecated, state(s, "2001:db8::7"))
	})
}
