package ssh

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// newHosts makes two hosts with a wire between them that know each other's name.
func newHosts(t *testing.T) (client, server *usernet.Host) {
	t.Helper()
	a, b := nic.Pipe(nic.PipeConfig{})
	names := map[string][]netip.Addr{
		"client.test": {netip.MustParseAddr("192.0.2.1")},
		"server.test": {netip.MustParseAddr("192.0.2.2")},
	}
	newHost := func(dev nic.Device, name string) *usernet.Host {
		h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.PrefixFrom(names[name][0], 24)}, Hosts: names})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	return newHost(a, "client.test"), newHost(b, "server.test")
}
