package usernet_test

import (
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/internal/nictest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// This file has tests of a DHCP client whose host, interface or address changes while the client runs.

// withClient starts a server that leases one address for an hour, and a host with a client that does not probe.
// The host uses the device that dev makes of its end of the wire.
func withClient(t *testing.T, dev func(nic.Device) nic.Device, cfg usernet.DHCPConfig) (s *testServer, client *usernet.Host) {
	s, wire := linkWithServer(t, time.Hour)
	client, err := usernet.New(usernet.Config{NIC: dev(wire), NoIPv6: true})
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	cfg.NoProbe = true
	require.NoError(t, client.StartDHCP("", cfg))
	waitOnline(t, client)
	return s, client
}

// unchanged is for withClient: the client uses the device as it is.
func unchanged(dev nic.Device) nic.Device { return dev }

// Close ends a client that StartDHCP is starting at the same time.
func TestCloseEndsAClientThatIsBeingStarted(t *testing.T) {
	for range 2000 {
		dev, _ := nic.Pipe(nic.PipeConfig{})
		h, err := usernet.New(usernet.Config{NIC: dev, NoIPv6: true})
		require.NoError(t, err)
		var both sync.WaitGroup
		both.Go(func() { h.StartDHCP("", usernet.DHCPConfig{}) })
		both.Go(func() { h.Close() })
		both.Wait()
		require.Empty(t, h.DHCP())
	}
}

// Two goroutines close a host. The second call does not close the stack before the first call has
// returned the lease, which takes a round trip to resolve the server's link address.
func TestTwoClosesReturnTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		slow := nic.Impairment{Latency: 10 * time.Millisecond}
		server := host(nic.Impair(wireA, nic.ImpairConfig{In: slow, Out: slow}), "192.0.2.1/24")
		defer server.Close()
		s := startServer(t, server, "192.0.2.7", time.Hour)
		client := newDHCPHost(t, wireB)
		waitOnline(t, client)
		s.types() // forget the messages before
		time.AfterFunc(5*time.Millisecond, func() { client.Close() })
		client.Close()
		time.Sleep(time.Second)
		require.Equal(t, []dhcp.MessageType4{dhcp.Release}, s.types())
	})
}

// StopDHCP does not wait for a slow OnEvent. The stopped client reports the end of its lease later, and
// then neither removes nor returns the lease of the client that has been started meanwhile.
func TestAStoppedClientLeavesTheNextOneAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var events []string
		s, client := withClient(t, unchanged, usernet.DHCPConfig{OnEvent: func(e dhcp.Event4) {
			if e.Kind == dhcp.Renewed {
				time.Sleep(time.Minute)
			}
			events = append(events, e.Kind.String())
		}})
		time.Sleep(time.Until(client.DHCP()[0].Lease.Renew.Add(time.Second)))
		s.types() // forget the messages before
		require.NoError(t, client.StopDHCP(""))
		require.Empty(t, client.Addrs())
		require.Empty(t, client.Routes())
		require.NoError(t, client.StartDHCP("", usernet.DHCPConfig{NoProbe: true}))
		waitOnline(t, client)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())
		require.Len(t, client.Routes(), 2)
		require.Equal(t, []dhcp.MessageType4{dhcp.Discover, dhcp.Request}, s.types())
		require.Equal(t, []string{"probe", "acquired", "renewed", "lost"}, events)
	})
}

// The program removes the address of the lease and adds it again. The stack deletes the routes with the
// address; the client restores them.
func TestRoutesComeBackWithTheirAddress(t *testing.T) {
	for _, pause := range []time.Duration{0, time.Second} {
		synctest.Test(t, func(t *testing.T) {
			_, client := withClient(t, unchanged, usernet.DHCPConfig{})
			gateway := client.Interfaces()[1].Gateway
			require.True(t, gateway.IsValid())
			require.NoError(t, client.RemoveAddr("", netip.MustParseAddr("192.0.2.7")))
			require.Empty(t, client.Routes())
			time.Sleep(pause)
			require.NoError(t, client.AddAddr("", netip.MustParsePrefix("192.0.2.7/24"), stack.AddrOptions{}))
			time.Sleep(time.Second)
			require.Len(t, client.Routes(), 2)
			require.Equal(t, gateway, client.Interfaces()[1].Gateway)

			// The address now belongs to the program, so StopDHCP does not remove it. It removes the client's routes.
			require.NoError(t, client.StopDHCP(""))
			require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())
			require.Len(t, client.Routes(), 1)
		})
	}
}

// A route of the lease that the program deletes stays deleted. A renewal does not add it again.
func TestADeletedRouteStaysDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := withClient(t, unchanged, usernet.DHCPConfig{})
		require.NoError(t, client.DelRoute(stack.Route{Dst: netip.MustParsePrefix("0.0.0.0/0")}))
		time.Sleep(3 * time.Hour)
		require.Equal(t, dhcp.Bound, client.DHCP()[0].State)
		require.Len(t, client.Routes(), 1)
	})
}

// The server assigns an address that the host already has by configuration. The address remains as it is
// configured, while the lease lasts and afterwards. The host uses the other settings of the lease.
func TestALeaseOfAStaticAddress(t *testing.T) {
	for _, noProbe := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s, wire := linkWithServer(t, time.Minute)
			client, err := usernet.New(usernet.Config{NIC: wire, NoIPv6: true, Addrs: prefixes("192.0.2.7/24")})
			require.NoError(t, err)
			defer client.Close()
			require.NoError(t, client.Stack().SetIPv4MTU("", 1400))
			require.NoError(t, client.StartDHCP("", usernet.DHCPConfig{NoProbe: noProbe}))
			requireUnchanged := func(gateway bool) {
				t.Helper()
				info := client.Interfaces()[1]
				require.Len(t, info.AddrInfo, 1)
				require.Equal(t, stack.AddrInfo{Prefix: netip.MustParsePrefix("192.0.2.7/24")}, info.AddrInfo[0])
				require.Equal(t, gateway, info.Gateway.IsValid())
				require.Equal(t, 1400, info.IPv4MTU, "the lease has no MTU")
			}
			time.Sleep(10 * time.Minute)
			require.Equal(t, dhcp.Bound, client.DHCP()[0].State)
			requireUnchanged(true)
			require.NotContains(t, s.types(), dhcp.Decline)
			require.NoError(t, client.StopDHCP(""))
			requireUnchanged(false)
		})
	}
}

// A renewal changes the length of the prefix. The routes that the program has added remain.
func TestALeaseWithANewPrefixKeepsRoutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, client := withClient(t, unchanged, usernet.DHCPConfig{})
		own := stack.Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.1"), NIC: client.Interfaces()[1].Name}
		require.NoError(t, client.AddRoute(own))
		s.set(func() { s.options.Set(dhcp.OptSubnetMask, []byte{255, 255, 255, 128}) })
		time.Sleep(45 * time.Minute)
		require.Equal(t, prefixes("192.0.2.7/25"), client.Addrs())
		require.Contains(t, client.Routes(), own)
		require.Len(t, client.Routes(), 3)
		require.NoError(t, client.StopDHCP(""))
		require.Empty(t, client.Addrs())
	})
}

// OnEvent gets a Lost event for each lease, also when the interface gets another MAC or is removed.
func TestEachLeaseIsReportedLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dev *nictest.Changeable
		var events []string
		_, client := withClient(t, func(d nic.Device) nic.Device {
			dev = nictest.NewChangeable(d)
			return dev
		}, usernet.DHCPConfig{OnEvent: func(e dhcp.Event4) { events = append(events, e.Kind.String()) }})
		dev.Change(func(l *nic.Link) { l.MAC[5]++ })
		time.Sleep(time.Second)
		synctest.Wait()
		want := []string{"probe", "acquired", "lost", "probe", "acquired"}
		require.Equal(t, want, events)
		require.NoError(t, client.Stack().RemoveNIC(client.Interfaces()[1].Name))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, append(want, "lost"), events)
	})
}
