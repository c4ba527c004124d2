package stack

import (
	"context"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// BenchmarkFamilies runs the same workloads over IPv4 and over IPv6, to compare the two families.
func BenchmarkFamilies(b *testing.B) {
	for _, fam := range []struct{ name, addr string }{{"IPv4", "192.0.2.2"}, {"IPv6", "2001:db8::2"}} {
		b.Run("ping-pong/"+fam.name, func(b *testing.B) {
			c, d := connectFamily(b, fam.addr)
			go func() {
				buf := make([]byte, 64)
				for {
					n, err := d.Read(buf)
					if err != nil {
						return
					}
					d.Write(buf[:n])
				}
			}()
			buf := make([]byte, 64)
			for b.Loop() {
				c.Write(buf[:1])
				c.Read(buf)
			}
		})
		b.Run("bulk/"+fam.name, func(b *testing.B) {
			c, d := connectFamily(b, fam.addr)
			go func() {
				buf := make([]byte, 256<<10)
				for {
					if _, err := d.Read(buf); err != nil {
						return
					}
				}
			}()
			buf := make([]byte, 60<<10) // one super-frame in either family
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				c.Write(buf)
			}
		})
		b.Run("connect/"+fam.name, func(b *testing.B) {
			x, y := twoHosts6(b, nic.PipeConfig{})
			l, err := y.ListenTCP(FamilyAny, netip.AddrPort{}, ListenOptions{})
			require.NoError(b, err)
			to := netip.AddrPortFrom(addr(fam.addr), l.LocalAddr().Port())
			go func() {
				buf := make([]byte, 64)
				for {
					d, err := l.Accept()
					if err != nil {
						return
					}
					d.Read(buf)
					d.Write(buf[:1])
					d.Close()
				}
			}()
			buf := make([]byte, 64)
			for b.Loop() {
				c, err := x.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, to, TCPOptions{})
				if err != nil {
					b.Fatal(err)
				}
				c.Write(buf[:1])
				c.Read(buf)
				c.Close()
			}
		})
		b.Run("datagrams/"+fam.name, func(b *testing.B) {
			h1, h2 := twoHosts6(b, nic.PipeConfig{})
			c, s := openUDP(b, h1, "[::]:0"), openUDP(b, h2, "[::]:0")
			to := netip.AddrPortFrom(addr(fam.addr), s.LocalAddr().Port())
			buf := make([]byte, 1200)
			b.SetBytes(int64(len(buf)))
			for b.Loop() {
				c.WriteTo(buf, to, SendOptions{})
				s.ReadFrom(buf)
			}
		})
	}
}

// connectFamily makes two hosts with both families and connects them. to, the address of the second host,
// selects the family.
func connectFamily(b *testing.B, to string) (client, server *TCP) {
	b.Helper()
	x, y := twoHosts6(b, nic.PipeConfig{})
	l, err := y.ListenTCP(FamilyAny, netip.AddrPort{}, ListenOptions{})
	require.NoError(b, err)
	client, err = x.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addr(to), l.LocalAddr().Port()), TCPOptions{})
	require.NoError(b, err)
	server, err = l.Accept()
	require.NoError(b, err)
	return client, server
}
