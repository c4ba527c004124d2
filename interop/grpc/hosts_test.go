package grpc

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
	return newHost(t, a, "client.test"), newHost(t, b, "server.test")
}

// newCuttableHosts makes two hosts with a wire that can be cut.
func newCuttableHosts(t *testing.T) (client, server *usernet.Host, cut func()) {
	t.Helper()
	a, b := nic.Pipe(nic.PipeConfig{})
	wire := nic.Impair(a, nic.ImpairConfig{})
	cut = func() {
		wire.SetOut(nic.Impairment{Loss: 1})
		wire.SetIn(nic.Impairment{Loss: 1})
	}
	return newHost(t, wire, "client.test"), newHost(t, b, "server.test"), cut
}

func newHost(t *testing.T, dev nic.Device, name string) *usernet.Host {
	t.Helper()
	names := map[string][]netip.Addr{
		"client.test": {netip.MustParseAddr("192.0.2.1")},
		"server.test": {netip.MustParseAddr("192.0.2.2")},
	}
	h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.PrefixFrom(names[name][0], 24)}, Hosts: names})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}
