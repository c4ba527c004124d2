package stack

import (
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// FuzzRouters sends frames to a host that accepts Router Advertisements and is a router itself. The input
// has the format that FuzzInput describes.
func FuzzRouters(f *testing.F) {
	for _, frames := range routerFrames() {
		var b []byte
		for _, fr := range frames {
			b = append(append(b, byte(len(fr)>>8), byte(len(fr))), fr...)
		}
		f.Add(b, true)
	}
	f.Fuzz(fuzzInBubble(func(t *testing.T, b []byte, fix bool) {
		dev, other := nic.Pipe(nic.PipeConfig{NoTxChecksum: true, MACs: [2][6]byte{macA, macB}})
		other.Attach(func([]nic.Frame) {})
		s, err := New(Config{
			NICs: []NIC{{Name: "eth0", Device: dev, Addrs: []netip.Prefix{prefix("2001:db8::1/64")}, Auto: true, Temporary: true}},
			Rand: testRand(),
		})
		require.NoError(t, err)
		require.NoError(t, s.Advertise("", &RouterConfig{Lifetime: time.Hour}))
		for len(b) >= 2 {
			n := min(int(b[0])<<8|int(b[1]), len(b)-2)
			frame := slices.Clone(b[2 : 2+n])
			b = b[2+n:]
			if fix {
				fixChecksums6(frame)
			}
			if n > 0 {
				other.Send([]nic.Frame{{Head: frame}})
			}
		}
		a := s.ifaceNamed("eth0").auto
		s.mu.Lock()
		// maxAutoDNS is the limit of three lists: DNS servers, search domains and NAT64 prefixes.
		require.LessOrEqual(t, a.size(), maxAutoRoutes+maxAutoPrefixes+3*maxAutoDNS)
		s.mu.Unlock()
		// Two addresses are not learned: the configured address and the link-local address.
		require.LessOrEqual(t, len(s.Interfaces()[1].AddrInfo), 2+maxAutoAddrs)
		for _, r := range s.Routes() {
			require.Equal(t, r.Dst, r.Dst.Masked())
			require.NotEqual(t, addr(llA), r.Via, "the host is not its own router")
		}
		s.LearnedDNS() // must not panic
		require.NoError(t, s.Close())
	}))
}

// routerFrames returns lists of frames with each kind of Neighbor Discovery message.
func routerFrames() [][][]byte {
	us, them := addr("2001:db8::1"), addr("2001:db8::2")
	ns := wire.NeighborSol{Target: us, Source: macB, HasSource: true}
	probe := wire.NeighborSol{Target: us, Nonce: [6]byte{1}, HasNonce: true}
	na := wire.NeighborAdv{Target: them, Link: macB, HasLink: true}
	conflict := wire.NeighborAdv{Target: us, Link: macB, HasLink: true}
	adv := wire.RouterAdv{Lifetime: 1800, HopLimit: 64, Reachable: 1000, Retrans: 1000, Preference: wire.PreferHigh}
	route := wire.RouteInfo{Prefix: prefix("2001:db8:7::/48"), Lifetime: 60}
	sourceLink := wire.AppendNDOption(nil, wire.NDSourceLink, macB[:])
	adv.Options = slices.Clone(sourceLink)
	for _, o := range [][]byte{
		prefixOption("2001:db8:1::/64", time.Hour, time.Hour), wire.AppendMTU(nil, 1400), route.Append(nil),
		wire.AppendRDNSS(nil, 60, them), wire.AppendDNSSL(nil, 60, "a.test", "b.test"), wire.AppendPREF64(nil, prefix("64:ff9b::/96"), 60),
	} {
		adv.Options = append(adv.Options, o...)
	}
	advBody, rest := adv.Append(nil)
	redirect := wire.RedirectMsg{Target: addr("fe80::2"), Dst: addr("2001:db8:9::9"), Link: macB, HasLink: true}
	router := ndFrame(ndMessage{typ: wire.ICMPv6RouterAdv, rest: rest, src: llB, dst: "ff02::1", body: advBody})
	group := wire.SolicitedNode(us).String()
	return [][][]byte{
		{router, ndFrame(ndMessage{typ: wire.ICMPv6Redirect, src: llB, dst: "2001:db8::1", body: redirect.Append(nil)})},
		{router, router, ndFrame(ndMessage{typ: wire.ICMPv6NeighborAdv, src: llB, dst: "ff02::1", body: na.Append(nil)})},
		{ndFrame(ndMessage{typ: wire.ICMPv6RouterSol, src: llB, dst: "ff02::2", body: sourceLink})},
		{ndFrame(ndMessage{typ: wire.ICMPv6NeighborSol, src: "2001:db8::2", dst: group, body: ns.Append(nil)})},
		{ndFrame(ndMessage{typ: wire.ICMPv6NeighborSol, src: "::", dst: group, body: probe.Append(nil)})},
		{ndFrame(ndMessage{typ: wire.ICMPv6NeighborAdv, src: "2001:db8::1", dst: "ff02::1", body: conflict.Append(nil)})},
	}
}
