package stack

import (
	"context"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A testRouter is a router on a switch. It answers ARP requests unless silent is set, and counts the IPv4
// packets that it receives.
type testRouter struct {
	addr   netip.Addr
	mac    wire.MAC
	silent atomic.Bool
	got    atomic.Int32
	asked  atomic.Int32 // ARP requests received, also while silent
}

// addRouter attaches a router to a switch.
func addRouter(sw *nic.Switch, a string) *testRouter {
	port := sw.Port()
	r := &testRouter{addr: addr(a), mac: wire.MAC(port.Link().MAC)}
	port.Attach(func(batch []nic.Frame) {
		for i := range batch {
			eth, b, _ := wire.ParseEthernet(batch[i].AppendTo(nil))
			switch eth.Type {
			case wire.EtherTypeIPv4:
				if eth.Dst == r.mac {
					r.got.Add(1)
				}
			case wire.EtherTypeARP:
				h, _ := wire.ParseARP(b)
				if h.Op != wire.ARPRequest || h.TargetIP != r.addr {
					continue
				}
				r.asked.Add(1)
				if r.silent.Load() {
					continue
				}
				f := make([]byte, wire.EthernetLen+wire.ARPLen)
				out := wire.Ethernet{Dst: h.SenderMAC, Src: r.mac, Type: wire.EtherTypeARP}
				out.Put(f)
				reply := wire.ARP{Op: wire.ARPReply, SenderMAC: r.mac, SenderIP: r.addr, TargetMAC: h.SenderMAC, TargetIP: h.SenderIP}
				reply.Put(f[wire.EthernetLen:])
				port.Send([]nic.Frame{{Head: f}})
			}
		}
	})
	return r
}

var allOfIPv4 = netip.MustParsePrefix("0.0.0.0/0")

// withRouters makes a host with default routes over two routers.
func withRouters(t *testing.T) (s *Stack, one, two *testRouter) {
	sw := nic.NewSwitch(nic.SwitchConfig{NoTxChecksum: true})
	one, two = addRouter(sw, "192.0.2.254"), addRouter(sw, "192.0.2.253")
	s = newHost(t, sw.Port(), "192.0.2.1/24", func(c *Config) {
		c.Routes = []Route{{Dst: allOfIPv4, Via: one.addr}, {Dst: allOfIPv4, Via: two.addr}}
	})
	return s, one, two
}

// RFC 1122 3.3.1.5: "If it is the current default that failed, the IP layer MUST select a
// different default gateway".
func TestAnotherRouterReplacesADeadOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, one, two := withRouters(t)
		u := openUDP(t, s, "0.0.0.0:9")
		send := func(n int) {
			for range n {
				_, err := u.WriteTo([]byte("x"), addrPort("203.0.113.9:9"), SendOptions{})
				require.NoError(t, err)
				time.Sleep(time.Second)
			}
		}
		send(60)
		require.EqualValues(t, 60, one.got.Load())
		require.Zero(t, two.got.Load())

		one.silent.Store(true)
		send(60)
		lost := int(one.got.Load()) - 60
		require.LessOrEqual(t, lost, 40, "RFC 4861 10: 30 s reachable, 5 s of delay, 3 probes")
		require.EqualValues(t, 60-lost, two.got.Load())

		// The host polls the dead router at growing intervals. When the router answers, it is the first
		// choice again.
		asked := one.asked.Load()
		send(600)
		require.InDelta(t, 10, one.asked.Load()-asked, 3, "polls in 600 seconds")
		before := one.got.Load()
		one.silent.Store(false)
		send(2 * int(maxRouterPoll/1e9))
		require.Greater(t, one.got.Load(), before)

		// If all routers are dead, packets start new resolutions.
		one.silent.Store(true)
		two.silent.Store(true)
		send(120)
		sent := one.got.Load() + two.got.Load()
		send(60)
		require.Equal(t, sent, one.got.Load()+two.got.Load())
		one.silent.Store(false)
		before = one.got.Load()
		send(10)
		require.Greater(t, one.got.Load(), before)
	})
}

// If a router does not answer, the packets that wait for it are sent to the other router.
func TestADialOutlivesADeadRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, one, two := withRouters(t)
		one.silent.Store(true)
		ctx, cancel := context.WithTimeout(context.Background(), 3500*time.Millisecond)
		defer cancel()
		_, err := s.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("203.0.113.9:80"), TCPOptions{})
		require.ErrorIs(t, err, context.DeadlineExceeded, "not EHOSTUNREACH")
		require.GreaterOrEqual(t, two.got.Load(), int32(1), "the SYN that waited")

		// If no router answers, the sender gets an error.
		two.silent.Store(true)
		s.FlushNeighbors()
		_, err = s.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("203.0.113.9:80"), TCPOptions{})
		require.ErrorIs(t, err, syscall.EHOSTUNREACH)
	})
}

// The host remembers that a router is dead while other routes change, and forgets it with the routes over
// that router.
func TestADeadRouterIsRememberedWhileRoutesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, one, two := withRouters(t)
		one.silent.Store(true)
		u := openUDP(t, s, "0.0.0.0:9")
		send := func() {
			_, err := u.WriteTo([]byte("x"), addrPort("203.0.113.9:9"), SendOptions{})
			require.NoError(t, err)
			time.Sleep(5 * time.Second)
		}
		send()
		require.EqualValues(t, 1, two.got.Load())
		require.NoError(t, s.AddRoute(Route{Dst: prefix("198.51.100.0/24"), Via: two.addr}))
		p, err := s.route(addr("203.0.113.9"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, two.addr, p.hop, "the change of the routes does not make the host try the dead router again")
		send()
		require.EqualValues(t, 2, two.got.Load())
		require.NoError(t, s.DelRoute(Route{Dst: allOfIPv4, Via: two.addr}))
		send()
		require.EqualValues(t, 2, two.got.Load())
		asked := one.asked.Load()
		time.Sleep(10 * time.Minute)
		require.Equal(t, asked, one.asked.Load(), "without packets there are no requests")
	})
}

// A scan of unused addresses does not make a dead router count as alive.
func TestAScanDoesNotReviveADeadRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{NoTxChecksum: true})
		one, two := addRouter(sw, "10.0.0.254"), addRouter(sw, "10.0.0.253")
		s := newHost(t, sw.Port(), "10.0.0.1/8", func(c *Config) {
			c.Routes = []Route{{Dst: allOfIPv4, Via: one.addr}, {Dst: allOfIPv4, Via: two.addr}}
		})
		one.silent.Store(true)
		u := openUDP(t, s, "0.0.0.0:9")
		over := func() netip.Addr {
			p, err := s.route(addr("203.0.113.9"), netip.Addr{})
			require.NoError(t, err)
			return p.hop
		}
		_, err := u.WriteTo([]byte("x"), addrPort("203.0.113.9:9"), SendOptions{})
		require.NoError(t, err)
		time.Sleep(5 * time.Second)
		require.Equal(t, two.addr, over())
		a := addr("10.1.0.1")
		for range 2 * maxNeighbors {
			_, err := u.WriteTo([]byte("x"), netip.AddrPortFrom(a, 9), SendOptions{})
			require.NoError(t, err)
			a = a.Next()
		}
		require.Equal(t, two.addr, over())
		one.silent.Store(false)
		time.Sleep(time.Duration(maxRouterPoll))
		require.Equal(t, one.addr, over(), "the host still polled the dead router")
	})
}

// RFC 4861 8.3 and 7.3.3: if the target of a redirect does not answer, the host performs next-hop
// determination again. The packets that wait for the target go to the router.
func TestADialOutlivesADeadRedirectTarget(t *testing.T) {
	const router, dst = "fe80::99", "2001:db8:5::5"
	for _, target := range []string{"fe80::98", dst} {
		synctest.Test(t, func(t *testing.T) {
			s, p := ndHost(t, func(c *Config) { c.NICs[0].Gateway6 = addr(router) })
			m := wire.RedirectMsg{Target: addr(target), Dst: addr(dst)}
			p.nd(ndMessage{typ: wire.ICMPv6Redirect, src: router, dst: "2001:db8::1", body: m.Append(nil)})
			ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
			defer cancel()
			var err error
			go func() {
				_, err = s.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("["+dst+"]:80"), TCPOptions{})
			}()
			time.Sleep(3100 * time.Millisecond)
			synctest.Wait()
			require.NoError(t, err)
			p.take()
			p.na(router, macB, wire.NARouter|wire.NASolicited|wire.NAOverride)
			synctest.Wait()
			require.Contains(t, strings.Join(p.sent(), "\n"), "TCP [SYN]")
			time.Sleep(time.Second)
			synctest.Wait()
			require.ErrorIs(t, err, context.DeadlineExceeded, "not EHOSTUNREACH")
			// If the router does not answer either, the sender gets an error.
			s.FlushNeighbors()
			_, err = s.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("["+dst+"]:80"), TCPOptions{})
			require.ErrorIs(t, err, syscall.EHOSTUNREACH)
		})
	}
}

// RFC 4191 3.2: if the router of the longest prefix does not answer, the host uses the next best route. It
// returns to the longest prefix when its router answers again.
func TestTheNextBestRouteReplacesADeadOne(t *testing.T) {
	const dst, specific, fallback = "2001:db8:7::1", "fe80::7", "fe80::1"
	synctest.Test(t, func(t *testing.T) {
		s, p := autoHost(t)
		r := wire.RouteInfo{Prefix: prefix("2001:db8:7::/48"), Lifetime: 1800}
		p.ra(ra{src: specific, zeroLifetime: true}, r.Append(nil), prefixOption("2001:db8::/64", time.Hour, time.Hour))
		time.Sleep(3 * time.Second)
		u := openUDP(t, s, "[::]:9")
		hop := func() string {
			way, err := s.route(addr(dst), netip.Addr{})
			require.NoError(t, err)
			return way.hop.String()
		}
		silent := map[string]bool{}
		run := func(seconds int) {
			for range seconds {
				_, err := u.WriteTo([]byte("x"), addrPort("["+dst+"]:9"), SendOptions{})
				require.NoError(t, err)
				synctest.Wait()
				for _, line := range p.sent() {
					for _, router := range []string{specific, fallback} {
						if strings.Contains(line+" ", "who-has "+router+" ") && !silent[router] {
							p.answer(router, macB)
						}
					}
				}
				time.Sleep(time.Second)
			}
		}
		silent[specific] = true
		run(20)
		require.Equal(t, specific, hop(), "there is no other route")
		silent[specific] = false
		run(20)
		p.ra(ra{src: fallback})
		run(60)
		require.Equal(t, specific, hop())
		silent[specific] = true
		run(60)
		require.Equal(t, fallback, hop())
		way, err := s.route(addr("2001:db8:8::1"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, fallback, way.hop.String())
		// The host polls the dead router even while the other router does not answer either.
		silent[fallback] = true
		run(60)
		silent[specific], silent[fallback] = false, false
		run(100)
		require.Equal(t, specific, hop())
	})
}
