package guide

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

// The server has the host in its table, by the identifier that the host made from its link address. So the second host with
// that link address gets the same address, and a third host another one.
func TestSolution07_1SameAddressAgain(t *testing.T) {
	solution(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		router := lab.Host(sw.Port(), 1, "192.0.2.1/24")
		server, err := router.ServeDHCP("", usernet.DHCPServerConfig{Server: dhcp.ServerConfig4{Link: dhcp.Network4{
			Pools: []dhcp.Range4{{First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.199")}},
		}}})
		require.NoError(t, err)
		closeLater(t, server, router)

		lease := func(mac byte, seed uint64) netip.Prefix {
			left, right := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{{2, 0, 0, 0, 0, mac}}, Seed: seed})
			port, err := sw.Attach(right)
			require.NoError(t, err)
			cfg := lab.Config(left, seed)
			cfg.DHCP = true
			host, err := usernet.New(cfg)
			require.NoError(t, err)
			defer port.Close()
			defer host.Close()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			require.NoError(t, host.WaitOnline(ctx))
			return host.DHCP()[0].Lease.Addr
		}
		first := lease(9, 2)
		require.Equal(t, first, lease(9, 3))
		require.NotEqual(t, first, lease(8, 4))
	})
}

// The host takes a random address of 169.254.0.0/16, and probes whether another host has it. It keeps asking for a DHCP
// server.
func TestSolution07_2LinkLocal(t *testing.T) {
	solution(t, func(t *testing.T) {
		left, right := lab.Wire()
		cfg := lab.Config(left, 1)
		cfg.DHCP, cfg.LinkLocal, cfg.NoIPv6 = true, true, true
		host, err := usernet.New(cfg)
		require.NoError(t, err)
		neighbour := lab.Host(right, 2, "192.0.2.2/24")
		closeLater(t, host, neighbour)
		time.Sleep(time.Minute)
		network := netip.MustParsePrefix("169.254.0.0/16")
		found := 0
		for _, a := range host.Addrs() {
			if network.Contains(a.Addr()) {
				found++
			}
		}
		require.Equal(t, 1, found)
		require.Nil(t, host.DHCP()[0].Lease)
	})
}
