package stack

import (
	"io"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// A narrowLink is a device on a path with a narrow link. It drops sent packets that are larger than limit,
// and delivers an ICMP error to the sender, as a router does.
type narrowLink struct {
	nic.Device
	limit   atomic.Int32 // maximum size of an IP packet that passes
	largest atomic.Int32 // size of the largest IP packet that has passed
	reports atomic.Int32
	receive func([]nic.Frame)
}

func (n *narrowLink) Attach(f func([]nic.Frame)) {
	n.receive = f
	n.Device.Attach(f)
}

func (n *narrowLink) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		eth, packet, _ := wire.ParseEthernet(batch[i].AppendTo(nil))
		limit := n.limit.Load()
		if size := int32(len(packet)); eth.Type == wire.EtherTypeIPv4 && size > limit {
			n.reports.Add(1)
			h, _, _ := wire.ParseIPv4(packet)
			m := ipPacket(wire.IPv4{Proto: wire.ProtoICMP, Dst: h.Src},
				quote(wire.ICMPUnreachable, wire.UnreachFragNeeded, uint32(limit), packet[:28]))
			n.receive([]nic.Frame{{Head: ethernet(wire.MAC(n.Link().MAC), m)}})
			continue
		} else if eth.Type == wire.EtherTypeIPv4 {
			n.largest.Store(max(n.largest.Load(), size))
		}
		if _, err := n.Device.Send(batch[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(batch), nil
}

// overNarrowLink connects two hosts over a narrowLink. set changes the TCP parameters of both.
func overNarrowLink(t *testing.T, set func(*tcp.Params)) (n *narrowLink, c, d *TCP) {
	p := tcp.DefaultParams()
	set(&p)
	params := func(c *Config) { c.TCP.Params = &p }
	x, y := nic.Pipe(nic.PipeConfig{GSO: -1, NoTxChecksum: true})
	n = &narrowLink{Device: x}
	n.limit.Store(1500)
	a, b := newHost(t, n, "192.0.2.1/24", params), newHost(t, y, "192.0.2.2/24", params)
	c, d = connect(t, a, b)
	return n, c, d
}

func TestAPathMTURisesAgainForALiveConnection(t *testing.T) {
	// RFC 1191 6.3: "the PMTU estimate is set to the MTU of the associated first hop", and connections
	// that use the estimate "are notified of the increase".
	for name, set := range map[string]func(*tcp.Params){
		"with SACK":    func(*tcp.Params) {},
		"without SACK": func(p *tcp.Params) { p.NoSACK = true },
		"bare":         func(p *tcp.Params) { p.NoSACK, p.NoTimestamps, p.NoWindowScale = true, true, true },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, c, d := overNarrowLink(t, set)
				go io.Copy(io.Discard, readerOf(d))
				send := func(d time.Duration, size int) {
					for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
						_, err := c.Write(make([]byte, size))
						require.NoError(t, err)
					}
				}
				n.limit.Store(800)
				send(time.Minute, 4000)
				require.LessOrEqual(t, c.Info().SndMSS, 760)
				require.GreaterOrEqual(t, c.Info().SndMSS, 740)
				// The entry expires after ten minutes. One or two large packets then show that the path is still narrow.
				before := n.reports.Load()
				send(11*time.Minute, 4000)
				require.LessOrEqual(t, n.reports.Load()-before, int32(2))
				require.Greater(t, n.reports.Load(), before)
				n.limit.Store(1500)
				send(11*time.Minute, 4000)
				require.GreaterOrEqual(t, c.Info().SndMSS, 1448)
				require.EqualValues(t, 1500, n.largest.Load())
			})
		})
	}
}

func readerOf(t *TCP) io.Reader { return readFunc(t.Read) }

type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

func TestTheMSSOptionIgnoresThePathMTU(t *testing.T) {
	// RFC 9293 MUST-67: "The MSS value to be sent in an MSS Option MUST be less than or
	// equal to: MMS_R - 20". The path MTU to the peer does not lower the value.
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t, func(c *Config) { c.TCP.SynBacklog = 1 })
		s.lowerPathMTU(addr("192.0.2.2"), netip.Addr{}, 800)
		syn, _, _, wait := dialing(t, s, p, netip.AddrPort{})
		require.EqualValues(t, 1460, syn.MSS)
		wait()
		p.segments()
		_, err := s.ListenTCP(FamilyAny, addrPort("192.0.2.1:80"), ListenOptions{})
		require.NoError(t, err)
		for i, what := range []string{"a SYN,ACK", "a SYN cookie"} {
			p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{
				SrcPort: uint16(1000 + i), DstPort: 80, Seq: 1, Flags: wire.FlagSYN, Window: 1000, MSS: 1460,
			}))
			list, _, _ := p.segments()
			require.Len(t, list, 1, what)
			require.EqualValues(t, 1460, list[0].MSS, what)
		}
		require.EqualValues(t, 1, s.Stats().TCP.CookiesSent)
	})
}

// As on Linux, whose default is IP_PMTUDISC_WANT. ip(7): "IP_PMTUDISC_WANT will fragment a datagram if needed
// according to the path MTU, or will set the don't-fragment flag otherwise."
func TestADatagramHasDFIfItFitsThePathMTU(t *testing.T) {
	s, p := hostAndPeer(t, twoNeighbors)
	u, r := openUDP(t, s, "0.0.0.0:9"), openRawOf(t, s, 253)
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.SetMulticastInterface(2))
	// send sends n bytes of payload, and returns the IPv4 headers of the frames.
	send := func(to string, n int) (hs []wire.IPv4) {
		t.Helper()
		_, err := u.WriteTo(make([]byte, n), netip.AddrPortFrom(addr(to), 9), SendOptions{})
		require.NoError(t, err)
		for _, f := range p.take() {
			if _, b, _ := wire.ParseEthernet(f); wire.Version(b) == 4 && wire.Proto(b[9]) == wire.ProtoUDP {
				h, _ := parseFrame(t, f)
				hs = append(hs, h)
			} // the other frames are IGMP and IPv6
		}
		return hs
	}
	fits := func(hs []wire.IPv4) {
		t.Helper()
		require.Len(t, hs, 1)
		require.True(t, hs[0].DontFragment)
		require.False(t, hs[0].MoreFragments)
	}
	cut := func(hs []wire.IPv4, n int) {
		t.Helper()
		require.Len(t, hs, n)
		for i, h := range hs {
			require.False(t, h.DontFragment, i)
			require.Equal(t, i < n-1, h.MoreFragments, i)
		}
	}
	first := send("192.0.2.2", 1472)
	fits(first)
	next := send("192.0.2.2", 0)
	fits(next)
	require.Equal(t, first[0].ID+1, next[0].ID, "as on Linux, each has an identification")
	fits(send("192.0.2.255", 100))
	fits(send("224.1.2.3", 100))
	cut(send("192.0.2.2", 1473), 2)
	cut(send("224.1.2.3", 3000), 3)
	for { // a copy comes back whole, because the host is a member of the group
		_, full, _, _, err := u.ReadFrom(nil)
		require.NoError(t, err)
		if full == 3000 {
			break
		}
	}
	_, err := r.WriteTo(make([]byte, 1480), addr("192.0.2.2"), SendOptions{})
	require.NoError(t, err)
	frames := slices.DeleteFunc(p.take(), func(f []byte) bool {
		_, b, _ := wire.ParseEthernet(f)
		return wire.Version(b) != 4 || b[9] != 253
	})
	h, _ := parseFrame(t, frames[0])
	require.True(t, h.DontFragment, "a packet of a raw socket")

	s.lowerDatagramMTU(addr("192.0.2.2"), addr("192.0.2.1"), 1000)
	fits(send("192.0.2.2", 972))
	cut(send("192.0.2.2", 973), 2)
	// As on Linux (ip_rt_min_pmtu), packets have no DF if the path MTU is too small to be believed.
	s.lowerDatagramMTU(addr("192.0.2.2"), addr("192.0.2.1"), 300)
	cut(send("192.0.2.2", 100), 1)
}

func TestAnICMPErrorAboutUDPDoesNotAffectTCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := nic.Pipe(nic.PipeConfig{GSO: -1, NoTxChecksum: true})
		a, b := newHost(t, x, "192.0.2.1/24"), newHost(t, y, "192.0.2.2/24")
		c, _ := connect(t, a, b)
		before := c.Info().SndMSS
		u := openUDP(t, a, "0.0.0.0:5000")
		sendTo2(t, u, "x")
		gen := a.gen.Load()
		datagram := udpDatagram(addrPort("192.0.2.1:5000"), addrPort("192.0.2.2:9"), make([]byte, 8))
		quoted := ipPacket(wire.IPv4{Proto: wire.ProtoUDP, Src: addr("192.0.2.1"), Dst: addr("192.0.2.2")}, datagram)
		m := ipPacket(wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachFragNeeded, 68, quoted))
		_, err := y.Send([]nic.Frame{{Head: ethernet(wire.MAC(x.Link().MAC), m)}})
		require.NoError(t, err)

		p, err := a.route(addr("192.0.2.2"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, 1500, p.mtu)
		require.False(t, p.mayFrag, "DF stays")
		require.Equal(t, gen, a.gen.Load(), "the cached paths of TCP stay valid")
		require.NoError(t, u.route(addr("192.0.2.2"), u.src, 0))
		require.Equal(t, minPathMTU, u.path.mtu, "the path of the UDP socket has the lower MTU")
		_, err = c.Write(make([]byte, 4000))
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, before, c.Info().SndMSS)
		again, _ := connect(t, a, b)
		require.Equal(t, before, again.Info().SndMSS)
		// UDP uses the path MTU for ten minutes.
		mtu := func() int {
			u.mu.Lock()
			defer u.mu.Unlock()
			p, err := u.lookup(addr("192.0.2.2"), netip.Addr{}, 0)
			require.NoError(t, err)
			return p.mtu
		}
		require.Equal(t, minPathMTU, mtu())
		time.Sleep(10 * time.Minute)
		require.Equal(t, 1500, mtu())
		synctest.Wait() // let the timer that is due at this time run
		require.NoError(t, u.route(addr("192.0.2.2"), u.src, 0))
		require.Equal(t, 1500, u.path.mtu)
		// A path MTU that TCP has verified also applies to datagrams.
		a.lowerPathMTU(addr("192.0.2.2"), netip.Addr{}, 1400)
		require.Equal(t, 1400, mtu())
	})
}
