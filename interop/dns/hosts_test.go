package dns

import (
	"net/netip"
	"testing"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

// newHosts makes two hosts on a wire. The server, 192.0.2.2, is the name server of the client.
func newHosts(t *testing.T) (client, server *usernet.Host) {
	t.Helper()
	a, b := nic.Pipe(nic.PipeConfig{})
	dns := func(cfg *usernet.Config) { cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:53")} }
	return hosttest.Host(t, a, hosttest.AddrA, dns), hosttest.Host(t, b, hosttest.AddrB)
}
