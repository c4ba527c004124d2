package dns

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// newHosts makes two hosts with a wire between them, of which the server, 192.0.2.2,
// is the name server of the client.
func newHosts(t *testing.T) (client, server *usernet.Host) {
	t.Helper()
	a, b := nic.Pipe(nic.PipeConfig{})
	newHost := func(dev nic.Device, addr, dns string) *usernet.Host {
		cfg := usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}
		if dns != "" {
			cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort(dns)}
		}
		h, err := usernet.New(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	return newHost(a, "192.0.2.1/24", "192.0.2.2:53"), newHost(b, "192.0.2.2/24", "")
}
