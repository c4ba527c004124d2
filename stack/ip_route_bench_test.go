package stack

import (
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// BenchmarkRouteLookup looks up destinations of routers with few and with thousands of routes. A host
// looks up a route when it makes a path; packets of a valid path need no lookup.
func BenchmarkRouteLookup(b *testing.B) {
	for _, v6 := range []bool{false, true} {
		for _, n := range []int{0, 3, 6, 7, 16, 5000} {
			name := "IPv4/"
			if v6 {
				name = "IPv6/"
			}
			b.Run(name+strconv.Itoa(n), func(b *testing.B) {
				s := newHost(b, nic.NewNull(nic.Link{}), "192.0.2.1/24", with([]netip.Prefix{prefix("192.0.2.1/24"), prefix("2001:db8::1/64")}))
				at := func(i int) (netip.Prefix, netip.Addr) {
					if v6 {
						return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 0x02, byte(i >> 8), byte(i)}), 32), addr("2001:db8::2")
					}
					return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24), addr("192.0.2.2")
				}
				for i := range n {
					dst, via := at(i)
					s.static = append(s.static, Route{Dst: dst, Via: via, NIC: "eth0"})
				}
				dst, via := at(0)
				require.NoError(b, s.AddRoute(Route{Dst: netip.PrefixFrom(unspecifiedOf(via), 0), Via: via, NIC: "eth0"}))
				t, to := s.table.Load(), dst.Addr().Next()
				b.ReportAllocs()
				for b.Loop() {
					if _, err := t.lookup(to, netip.Addr{}, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
