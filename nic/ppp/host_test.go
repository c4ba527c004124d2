package ppp

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// host makes a host on a device, behind a wrapper that must not hide what the device negotiates.
func host(t *testing.T, rw io.ReadWriteCloser, cfg Config, more ...netip.Prefix) (*usernet.Host, *Device) {
	t.Helper()
	dev, err := New(rw, cfg)
	require.NoError(t, err)
	h, err := usernet.New(usernet.Config{NIC: nic.Impair(dev, nic.ImpairConfig{}), Addrs: more})
	require.NoError(t, err)
	return h, dev
}

// online waits until a host has an address that it can be reached by.
func online(t *testing.T, h *usernet.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	require.NoError(t, h.WaitOnline(ctx))
}

// The negotiated addresses, routes, name servers and MTU reach the host, and go when another negotiation
// replaces them.
func TestHostUsesWhatWasNegotiated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(0)
		server := serverConfig()
		server.MTU = 1400
		a, serverDev := host(t, c.ends[0], server)
		b, _ := host(t, c.ends[1], clientConfig())
		online(t, a)
		online(t, b)
		time.Sleep(time.Second)
		info := b.Interfaces()[1]
		require.True(t, info.Up)
		require.Equal(t, 1400, info.MTU)
		require.Len(t, info.AddrInfo, 2)
		require.Contains(t, info.Addrs, netip.MustParsePrefix("192.0.2.2/32"))
		require.Regexp(t, `fe80::\S*/64`, fmt.Sprint(info.Addrs))
		require.Equal(t, stack.AddrNegotiated, info.AddrInfo[0].Origin)
		servers, _ := b.Stack().LearnedDNS()
		require.Equal(t, "[198.51.100.1:53 198.51.100.2:53]", fmt.Sprint(servers))
		require.Contains(t, fmt.Sprint(b.Routes()), "0.0.0.0/0")
		require.Contains(t, fmt.Sprint(b.Routes()), "::/0")
		require.Contains(t, fmt.Sprint(a.Routes()), "192.0.2.2/32")
		require.NotContains(t, fmt.Sprint(a.Routes()), "0.0.0.0/0")

		// The server now assigns another address, and no IPv6.
		serverDev.step(func(now time.Time) {
			serverDev.m.cfg.Remote, serverDev.m.cfg.NoIPv6, serverDev.m.cfg.DNS = netip.MustParseAddr("192.0.2.77"), true, nil
			serverDev.m.lcp.fire(now, evDown)
			serverDev.m.start(now)
		})
		time.Sleep(10 * time.Second)
		info = b.Interfaces()[1]
		require.True(t, info.Up)
		require.Equal(t, "[192.0.2.77/32]", fmt.Sprint(info.Addrs))
		servers, _ = b.Stack().LearnedDNS()
		require.Empty(t, servers)
		require.NotContains(t, fmt.Sprint(b.Routes()), "::/0")
		require.NoError(t, b.Close())
		require.NoError(t, a.Close())
	})
}

// A connection of each family carries its data unchanged over a line that loses frames and that goes down
// in the middle.
func TestConnectionsSurviveFlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(0.01)
		a, serverDev := host(t, c.ends[0], serverConfig(), netip.MustParsePrefix("2001:db8::1/64"))
		b, _ := host(t, c.ends[1], clientConfig(), netip.MustParsePrefix("2001:db8::2/64"))
		online(t, b)
		time.Sleep(time.Minute)
		ln, err := a.Listen("tcp", ":7")
		require.NoError(t, err)
		for _, to := range []string{"192.0.2.1:7", "[2001:db8::1]:7"} {
			conn, err := b.Dial("tcp", to)
			require.NoError(t, err)
			in, err := ln.Accept()
			require.NoError(t, err)
			go func() {
				io.Copy(conn, io.LimitReader(rand.NewChaCha8([32]byte{1}), 1<<20))
				conn.Close()
			}()
			for n := range 3 {
				time.AfterFunc(time.Duration(n)*100*time.Millisecond, func() {
					serverDev.step(func(now time.Time) {
						serverDev.m.lcp.fire(now, evDown)
						serverDev.m.start(now)
					})
				})
			}
			h := sha256.New()
			n, err := io.Copy(h, in)
			require.NoError(t, err)
			require.Equal(t, int64(1<<20), n)
			want := sha256.New()
			io.Copy(want, io.LimitReader(rand.NewChaCha8([32]byte{1}), 1<<20))
			require.Equal(t, want.Sum(nil), h.Sum(nil))
			in.Close()
		}
		require.NoError(t, ln.Close())
		require.NoError(t, b.Close())
		require.NoError(t, a.Close())
	})
}
