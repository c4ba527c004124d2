package stack

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet/nic"
)

// BenchmarkVLAN sends 64-byte datagrams to a host and back, without a VLAN tag and with one. No kernel is between
// the hosts, so the difference is what a tag costs in this stack. bench -links compares the same over a bridge of
// the kernel, where the kernel moves the bytes of each frame to take its tag out and to put one in.
func BenchmarkVLAN(b *testing.B) {
	for _, v := range []struct {
		name string
		vlan int
	}{{"untagged", 0}, {"tagged", 100}} {
		for _, inFlight := range []int{1, 32} {
			b.Run(v.name+map[int]string{1: "/1", 32: "/32"}[inFlight], func(b *testing.B) {
				da, db := nic.Pipe(nic.PipeConfig{})
				host := func(d nic.Device, address string) *Stack {
					return newHost(b, d, address, func(c *Config) { c.NICs[0].VLAN = v.vlan })
				}
				x, y := host(da, "192.0.2.1/24"), host(db, "192.0.2.2/24")
				c, s := openUDP(b, x, "0.0.0.0:0"), openUDP(b, y, "0.0.0.0:0")
				to := netip.AddrPortFrom(addr("192.0.2.2"), s.LocalAddr().Port())
				buf := make([]byte, 64)
				for b.Loop() {
					for range inFlight {
						c.WriteTo(buf, to, SendOptions{})
					}
					for range inFlight {
						_, _, from, _, _ := s.ReadFrom(buf)
						s.WriteTo(buf, from, SendOptions{})
					}
					for range inFlight {
						c.ReadFrom(buf)
					}
				}
			})
		}
	}
}
