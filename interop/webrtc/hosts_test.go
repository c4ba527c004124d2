package webrtc

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// newHost makes a host on a device.
func newHost(t *testing.T, dev nic.Device, addr string) *usernet.Host {
	t.Helper()
	h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

// newLoopback makes a host that has only its loopback.
func newLoopback(t *testing.T) *usernet.Host {
	t.Helper()
	h, err := usernet.New(usernet.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}
