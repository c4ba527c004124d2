package usernet

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A chain is a row of routers between two hosts. The packets of near pass the routers in order. From one
// router to the next, and to far, a packet takes hopTime.
type chain struct {
	near, far  *Host
	left       *nic.PipeEnd // towards near
	right      *nic.PipeEnd // towards far
	silent     int          // this router sends no ICMP errors; 0: none
	prohibit   int          // this router refuses all packets; 0: none
	forge      bool         // the routers also send errors about other packets
	hops, hop6 []netip.Addr // the addresses of the routers
}

const (
	hopTime  = 10 * time.Millisecond
	chainTo  = "203.0.113.2"
	chainTo6 = "2001:db8:f::2"
)

// newChain makes a chain of three routers.
func newChain(t *testing.T) *chain {
	t.Helper()
	c := &chain{}
	for i := range 3 {
		c.hops = append(c.hops, netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", i+1)))
		c.hop6 = append(c.hop6, netip.MustParseAddr(fmt.Sprintf("2001:db8:e::%d", i+1)))
	}
	cfg := nic.PipeConfig{Medium: nic.IP, NoTxChecksum: true}
	var a, b *nic.PipeEnd
	a, c.left = nic.Pipe(cfg)
	b, c.right = nic.Pipe(cfg)
	c.left.Attach(func(batch []nic.Frame) {
		for i := range batch {
			c.forward(append(append([]byte(nil), batch[i].Head...), batch[i].Body...))
		}
	})
	c.right.Attach(func(batch []nic.Frame) {
		for i := range batch {
			c.later(len(c.hops)+1, c.left, append(append([]byte(nil), batch[i].Head...), batch[i].Body...))
		}
	})
	endHost := func(dev nic.Device, addr, addr6, gate string) *Host {
		h, err := New(Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr + "/24"), netip.MustParsePrefix(addr6 + "/64")},
			Gateway: netip.MustParseAddr(gate), Gateway6: netip.MustParseAddr("fe80::1")})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	c.near = endHost(a, "192.0.2.1", "2001:db8::1", "192.0.2.254")
	c.far = endHost(b, chainTo, chainTo6, "203.0.113.254")
	return c
}

// later sends a packet after the time of n hops.
func (c *chain) later(n int, to *nic.PipeEnd, pkt []byte) {
	time.AfterFunc(time.Duration(n)*hopTime, func() { to.Send([]nic.Frame{{Head: pkt}}) })
}

// forward passes a packet of near through the routers. The router at which its TTL ends answers it.
func (c *chain) forward(pkt []byte) {
	six := pkt[0]>>4 == 6
	at, dst := 8, 16 // the offsets of the TTL and of the destination
	if six {
		at, dst = 7, 24
	}
	if six && pkt[dst] == 0xff || !six && pkt[dst] >= 224 {
		return // multicast
	}
	ttl := int(pkt[at])
	for i := range c.hops {
		refused := c.prohibit == i+1
		if ttl > i+1 && !refused {
			continue
		}
		if c.silent == i+1 {
			return
		}
		if c.forge {
			c.later(2*i+1, c.left, c.icmpError(i, six, false, make([]byte, 28)))
			other := append([]byte(nil), pkt...)
			other[len(other)-1]++ // so that the copy is not the probe
			for j := dst; j < min(len(other), dst+24); j++ {
				other[j] ^= 0x55
			}
			c.later(2*i+1, c.left, c.icmpError(i, six, true, other))
		}
		c.later(2*(i+1), c.left, c.icmpError(i, six, refused, pkt))
		return
	}
	pkt[at] -= byte(len(c.hops))
	if !six {
		pkt[10], pkt[11] = 0, 0
		binary.BigEndian.PutUint16(pkt[10:], wire.Checksum(pkt[:int(pkt[0]&15)*4]))
	}
	c.later(len(c.hops)+1, c.right, pkt)
}

// icmpError returns the ICMP error of router i about a packet.
func (c *chain) icmpError(i int, six, refused bool, about []byte) []byte {
	about = about[:min(len(about), 500)]
	n := wire.ICMPLen + len(about)
	if six {
		h := wire.ICMPv6{Type: wire.ICMPv6TimeExceeded}
		if refused {
			h = wire.ICMPv6{Type: wire.ICMPv6Unreachable, Code: wire.Unreach6Prohibited}
		}
		ip := wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: 64, Src: c.hop6[i], Dst: netip.MustParseAddr("2001:db8::1")}
		b := make([]byte, wire.IPv6Len+n)
		ip.Put(b, n)
		h.Put(ip.Src, ip.Dst, b[wire.IPv6Len:], about)
		return b
	}
	h := wire.ICMP{Type: wire.ICMPTimeExceeded}
	if refused {
		h = wire.ICMP{Type: wire.ICMPUnreachable, Code: wire.UnreachAdminProhibited}
	}
	ip := wire.IPv4{TTL: 64, Proto: wire.ProtoICMP, Src: c.hops[i], Dst: netip.MustParseAddr("192.0.2.1")}
	b := make([]byte, wire.IPv4Len+n)
	ip.Put(b, n)
	h.Put(b[wire.IPv4Len:], about)
	return b
}

// ends returns the addresses of far, and for each the addresses of the hops to it.
func (c *chain) ends() map[string][]netip.Addr {
	return map[string][]netip.Addr{
		chainTo:  append(c.hops[:3:3], netip.MustParseAddr(chainTo)),
		chainTo6: append(c.hop6[:3:3], netip.MustParseAddr(chainTo6)),
	}
}

func TestTracerouteFindsEveryRouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t)
		c.forge = true
		ln, err := c.far.Listen("tcp", ":81")
		require.NoError(t, err)
		defer ln.Close()
		pc, err := c.far.ListenPacket("udp", ":33434")
		require.NoError(t, err)
		defer pc.Close()
		for to, want := range c.ends() {
			for _, cfg := range []TracerouteConfig{{}, {Method: TraceICMP, Port: 65530, Size: -1}, {Method: TraceTCP}, {Method: TraceTCP, Port: 81}, {Parallel: 1, Probes: 1}, {FirstTTL: 4, Port: 9}, {Port: 65535}, {Port: 65530}} {
				about := fmt.Sprintf("%s %+v", to, cfg)
				var called []TraceHop
				cfg.OnHop = func(h TraceHop) { called = append(called, h) }
				hops, err := c.near.Traceroute(t.Context(), to, cfg)
				require.NoError(t, err, about)
				require.Equal(t, called, hops, about)
				first := max(cfg.FirstTTL, 1)
				require.Len(t, hops, 5-first, about)
				for i, hop := range hops {
					require.Equal(t, first+i, hop.TTL, about)
					require.Len(t, hop.Replies, map[int]int{0: 3, 1: 1}[cfg.Probes], about)
					for _, r := range hop.Replies {
						require.NoError(t, r.Err, about)
						require.Equal(t, want[hop.TTL-1], r.From, about)
						require.Equal(t, time.Duration(2*hop.TTL)*hopTime, r.RTT, about)
						require.Equal(t, hop.TTL == 4, r.Final, about)
						require.EqualValues(t, 64, r.TTL, about)
						require.Equal(t, hop.TTL < 4 || cfg.Method != TraceTCP, r.ICMP, about)
					}
				}
			}
		}
	})
}

func TestTracerouteWaitsForSilentRouters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t)
		c.silent = 2
		for to := range c.ends() {
			began := time.Now()
			hops, err := c.near.Traceroute(t.Context(), to, TracerouteConfig{Timeout: time.Second})
			require.NoError(t, err)
			require.Len(t, hops, 4)
			require.Equal(t, TraceReply{Err: os.ErrDeadlineExceeded}, hops[1].Replies[2])
			require.Equal(t, to, hops[3].Replies[2].From.String())
			require.Equal(t, time.Second, time.Since(began), "the packets wait at the same time")
		}
		// Without an answer of the destination, it ends at MaxTTL.
		hops, err := c.near.Traceroute(t.Context(), "203.0.113.9", TracerouteConfig{MaxTTL: 6, Probes: 1})
		require.NoError(t, err)
		require.Len(t, hops, 6)
		require.Equal(t, os.ErrDeadlineExceeded, hops[5].Replies[0].Err)
	})
}

func TestTracerouteEndsAtARouterThatRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t)
		c.prohibit = 2
		for to, want := range c.ends() {
			hops, err := c.near.Traceroute(t.Context(), to, TracerouteConfig{})
			require.NoError(t, err)
			require.Len(t, hops, 2)
			r := hops[1].Replies[0]
			require.Equal(t, want[1], r.From)
			require.True(t, r.Final)
			if want[1].Is4() {
				require.Equal(t, []any{true, uint8(3), uint8(13), syscall.EHOSTUNREACH}, []any{r.ICMP, r.Type, r.Code, r.Err})
			} else {
				require.Equal(t, []any{true, uint8(1), uint8(1), syscall.EACCES}, []any{r.ICMP, r.Type, r.Code, r.Err})
			}
		}
	})
}

func TestTracerouteKeepsItsIntervalAndParallelism(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t)
		began := time.Now()
		_, err := c.near.Traceroute(t.Context(), chainTo, TracerouteConfig{Interval: time.Second, Probes: 1, Timeout: 100 * time.Second})
		require.NoError(t, err)
		require.Equal(t, 3*time.Second+8*hopTime, time.Since(began))
		began = time.Now()
		_, err = c.near.Traceroute(t.Context(), chainTo, TracerouteConfig{Parallel: 1, Probes: 1})
		require.NoError(t, err)
		require.Equal(t, (2+4+6+8)*hopTime, time.Since(began))
	})
}

func TestTracerouteErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChain(t)
		for _, cfg := range []TracerouteConfig{{FirstTTL: -1}, {MaxTTL: 256}, {FirstTTL: 9, MaxTTL: 8}, {Probes: 11}, {Probes: -1}, {Parallel: -1}, {Method: 3}} {
			_, err := c.near.Traceroute(t.Context(), chainTo, cfg)
			require.ErrorIs(t, err, syscall.EINVAL, cfg)
		}
		_, err := c.near.Traceroute(t.Context(), chainTo, TracerouteConfig{Size: 65001})
		require.ErrorIs(t, err, syscall.EMSGSIZE)
		_, err = c.near.Traceroute(t.Context(), chainTo, TracerouteConfig{Network: "tcp"})
		require.EqualError(t, err, "dial tcp: unknown network tcp")
		_, err = c.near.Traceroute(t.Context(), chainTo, TracerouteConfig{Network: "ip6"})
		require.EqualError(t, err, "dial ip6:icmp: address 203.0.113.2: no suitable address found")
		_, err = c.near.Traceroute(t.Context(), chainTo, TracerouteConfig{DontFragment: true, Size: 1500})
		require.EqualError(t, err, "write ip4 0.0.0.0->203.0.113.2: sendto: "+syscall.EMSGSIZE.Error())
		_, err = newLoopback(t).Traceroute(t.Context(), chainTo, TracerouteConfig{})
		require.EqualError(t, err, "dial ip:icmp 203.0.113.2: connect: "+syscall.ENETUNREACH.Error())

		c.silent = 1
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = c.near.Traceroute(ctx, chainTo, TracerouteConfig{MaxTTL: 1})
		require.EqualError(t, err, "dial ip:icmp 203.0.113.2: i/o timeout")
		time.AfterFunc(time.Second, func() { c.near.Close() })
		_, err = c.near.Traceroute(t.Context(), chainTo, TracerouteConfig{MaxTTL: 1})
		require.EqualError(t, err, "read ip4 0.0.0.0: use of closed network connection")
	})
}

func TestTracerouteOfOwnAddresses(t *testing.T) {
	h := newLoopback(t)
	for _, to := range []string{"127.0.0.1", "::1", "0.0.0.0"} {
		for _, m := range []TraceMethod{TraceUDP, TraceICMP, TraceTCP} {
			hops, err := h.Traceroute(t.Context(), to, TracerouteConfig{Method: m, Probes: 1})
			require.NoError(t, err, "%s %d", to, m)
			require.Len(t, hops, 1, "%s %d", to, m)
			require.NoError(t, hops[0].Replies[0].Err, "%s %d", to, m)
		}
	}
}

// TestTracerouteOfALinkLocalAddress also traces the route to an open port whose SYN-ACK has an incomplete
// checksum, as on every link with offloads.
func TestTracerouteOfALinkLocalAddress(t *testing.T) {
	near, far := nic.Pipe(nic.PipeConfig{})
	a, b := sixPair(t, near, far)
	ln, err := b.Listen("tcp", ":81")
	require.NoError(t, err)
	defer ln.Close()
	for _, to := range []string{addrB, addr6B} {
		for _, port := range []uint16{80, 81} {
			hops, err := a.Traceroute(t.Context(), to, TracerouteConfig{Method: TraceTCP, Port: port})
			require.NoError(t, err)
			require.Len(t, hops, 1)
			require.NoError(t, hops[0].Replies[0].Err)
		}
	}
	for _, p := range b.Addrs() {
		if !p.Addr().Is6() || !p.Addr().IsLinkLocalUnicast() {
			continue
		}
		to := p.Addr().WithZone(a.Interfaces()[1].Name)
		for _, m := range []TraceMethod{TraceUDP, TraceICMP, TraceTCP} {
			hops, err := a.Traceroute(t.Context(), to.String(), TracerouteConfig{Method: m})
			require.NoError(t, err)
			require.Len(t, hops, 1)
			require.NoError(t, hops[0].Replies[2].Err)
			require.Equal(t, to, hops[0].Replies[2].From)
		}
	}
}

// Packets of any content have no effect but on the reply that they name.
func TestTracerouteReadsAnyPacket(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, six := range []bool{false, true} {
		to := netip.MustParseAddr("192.0.2.1")
		if six {
			to = netip.MustParseAddr("2001:db8::1")
		}
		for _, m := range []TraceMethod{TraceICMP, TraceTCP} {
			tr := &tracer{cfg: TracerouteConfig{Method: m, Port: 80}, fam: family{six: six}, to: to}
			for range 20000 {
				b := make([]byte, rnd.IntN(80))
				for i := range b {
					b[i] = byte(rnd.Uint32())
				}
				if len(b) > 10 {
					b[0] = []byte{0, 1, 3, 11, 12, 129}[rnd.IntN(6)]
					b[8] = []byte{0x45, 0x4f, 0x60}[rnd.IntN(3)]
					binary.BigEndian.PutUint16(b[2:], 0)
					binary.BigEndian.PutUint16(b[2:], wire.Checksum(b))
				}
				_, ok := tr.icmpAnswer(b)
				require.False(t, ok && m == TraceTCP, "%x", b)
				tr.tcpAnswer(b, to)
			}
		}
	}
}
