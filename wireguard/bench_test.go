//go:build unix

package wireguard

import (
	"context"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"
	"golang.zx2c4.com/wireguard/tun/netstack"
)

// An end is one end of a tunnel whose inside is usernet or netstack.
type end struct {
	dial   func(ctx context.Context, network, addr string) (net.Conn, error)
	listen func(addr netip.AddrPort) (net.Listener, error)
}

// insides has the two implementations of CreateNetTUN.
var insides = map[string]func(addrs []netip.Addr, mtu int) (tun.Device, end, error){
	"usernet": func(addrs []netip.Addr, mtu int) (tun.Device, end, error) {
		dev, n, err := CreateNetTUN(addrs, nil, mtu)
		return dev, end{n.DialContext, func(a netip.AddrPort) (net.Listener, error) { return n.ListenTCPAddrPort(a) }}, err
	},
	"netstack": func(addrs []netip.Addr, mtu int) (tun.Device, end, error) {
		dev, n, err := netstack.CreateNetTUN(addrs, nil, mtu)
		return dev, end{n.DialContext, func(a netip.AddrPort) (net.Listener, error) { return n.ListenTCPAddrPort(a) }}, err
	},
}

// benchEnds connects two ends over the kernel's loopback.
func benchEnds(b *testing.B, inside string) (ends [2]end) {
	b.Helper()
	cfgs := configs(b, "")
	for i := range ends {
		dev, e, err := insides[inside]([]netip.Addr{netip.MustParseAddr(addrs4[i])}, 1420)
		require.NoError(b, err)
		wg := device.NewDevice(dev, conn.NewDefaultBind(), logger(nil))
		b.Cleanup(wg.Close)
		ipc, err := cfgs[i].ipc(b.Context())
		require.NoError(b, err)
		require.NoError(b, wg.IpcSet(ipc))
		require.NoError(b, wg.Up())
		ends[i] = e
		if i == 0 {
			port, err := (&Interface{dev: wg}).ListenPort()
			require.NoError(b, err)
			cfgs[1].Peers[0].Endpoint = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String()
		}
	}
	return ends
}

// cpuTime returns the CPU time that the process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBulk sends over one connection through a tunnel, once with usernet inside and once with the netstack of
// wireguard-go. The tunnel uses the kernel's loopback, and both ends are in the process. An iteration is 64 KiB.
func BenchmarkBulk(b *testing.B) {
	for inside := range insides {
		b.Run(inside, func(b *testing.B) {
			ends := benchEnds(b, inside)
			ln, err := ends[0].listen(netip.MustParseAddrPort(addrs4[0] + ":80"))
			require.NoError(b, err)
			var received atomic.Int64
			done := make(chan struct{})
			go func() {
				defer close(done)
				c, err := ln.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					n, err := c.Read(buf)
					received.Add(int64(n))
					if err != nil {
						return
					}
				}
			}()
			c, err := ends[1].dial(b.Context(), "tcp", addrs4[0]+":80")
			require.NoError(b, err)
			data := make([]byte, 64<<10)
			for range 64 { // past slow start
				_, err := c.Write(data)
				require.NoError(b, err)
			}
			b.SetBytes(int64(len(data)))
			began := cpuTime()
			b.ResetTimer()
			for range b.N {
				if _, err := c.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			c.Close()
			<-done
			b.StopTimer()
			b.ReportMetric((cpuTime()-began).Seconds()*1e9/float64(b.N*len(data)), "cpu-s/GB")
			require.EqualValues(b, (b.N+64)*len(data), received.Load())
		})
	}
}

// BenchmarkPingPong sends one byte to and fro over one connection.
func BenchmarkPingPong(b *testing.B) {
	for inside := range insides {
		b.Run(inside, func(b *testing.B) {
			ends := benchEnds(b, inside)
			ln, err := ends[0].listen(netip.MustParseAddrPort(addrs4[0] + ":80"))
			require.NoError(b, err)
			go func() {
				c, err := ln.Accept()
				if err == nil {
					io.Copy(c, c)
				}
			}()
			c, err := ends[1].dial(b.Context(), "tcp", addrs4[0]+":80")
			require.NoError(b, err)
			defer c.Close()
			buf := make([]byte, 1)
			began := cpuTime()
			b.ResetTimer()
			for range b.N {
				c.Write(buf)
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric((cpuTime()-began).Seconds()*1e6/float64(b.N), "cpu-us/op")
		})
	}
}
