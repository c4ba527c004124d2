package usernet

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// The IPv6 addresses of the hosts of sixPair.
const (
	addr6A = "2001:db8::1"
	addr6B = "2001:db8::2"
)

// sixHost makes a host with both families that can reach only itself.
func sixHost(t testing.TB) *Host {
	t.Helper()
	h, err := New(Config{
		NIC:   nic.NewNull(nic.Link{MTU: 1500, Medium: nic.IP}),
		Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:ffff::1/128")},
	})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// sixPair makes two hosts with both families on the two ends of a wire.
func sixPair(t testing.TB, near, far nic.Device) (a, b *Host) {
	t.Helper()
	with := func(addr string) func(*Config) {
		return func(cfg *Config) { cfg.Addrs = append(cfg.Addrs, netip.PrefixFrom(netip.MustParseAddr(addr), 64)) }
	}
	return newHost(t, near, addrA, with(addr6A)), newHost(t, far, addrB, with(addr6B))
}
