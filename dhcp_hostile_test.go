package usernet_test

import (
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
)

// This file has tests of hosts whose DHCP servers or clients are hostile, or disagree.

// A lease of 136 years, the longest that ends, is renewed after 68 years.
func TestALeaseOf136Years(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := linkWithServer(t, (1<<32-2)*time.Second)
		client := newDHCPHost(t, wire)
		defer client.Close()
		waitOnline(t, client)
		began := time.Now()
		a := client.Interfaces()[1].AddrInfo[0]
		require.Equal(t, began.Year()+136, a.ValidUntil.Year())
		s.types() // forget the messages before
		time.Sleep(69 * 365 * 24 * time.Hour)
		require.Equal(t, []dhcp.MessageType4{dhcp.Request}, s.types())
		require.InDelta(t, began.Year()+136+67, client.Interfaces()[1].AddrInfo[0].ValidUntil.Year(), 1)
		require.Equal(t, a.Prefix, client.Addrs()[0])
	})
}

// The same by DHCPv6, and a lease without an end.
func TestADHCPv6LeaseOf136Years(t *testing.T) {
	for _, valid := range []time.Duration{(1<<32 - 2) * time.Second, 1<<63 - 1} {
		synctest.Test(t, func(t *testing.T) {
			wireA, wireB := nic.Pipe(nic.PipeConfig{})
			_, d := serve6(t, wireA, func(c *usernet.DHCP6ServerConfig) { c.Server.Valid = valid })
			h := newDHCP6Host(t, wireB, usernet.DHCP6Config{})
			eventually(t, "a lease", func() bool { return h.DHCP6()[0].State == dhcp.Bound6 })
			a := global6(h)[0]
			if valid == 1<<63-1 {
				require.True(t, a.ValidUntil.IsZero())
			} else {
				require.Equal(t, time.Now().Year()+136, a.ValidUntil.Year())
			}
			time.Sleep(100 * 365 * 24 * time.Hour)
			require.Equal(t, a.Prefix, global6(h)[0].Prefix)
			require.Len(t, slices.Collect(d.Bindings()), 1)
		})
	}
}

// Two servers on a link assign different addresses, routers and name servers. Each host has all settings from one
// of them. When that server has died, the host gets all settings from the other one.
func TestTwoDHCPServersDisagree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		var servers []*usernet.DHCPServer
		for i, a := range []string{"192.0.2.1", "192.0.2.2"} {
			h := host(sw.Port(), a+"/24")
			defer h.Close()
			cfg := pool([]string{"192.0.2.100", "192.0.2.200"}[i], []string{"192.0.2.109", "192.0.2.209"}[i])
			n := &cfg.Server.Link
			n.Routers, n.DNS, n.MTU = []netip.Addr{netip.MustParseAddr(a)}, []netip.Addr{netip.MustParseAddr(a)}, 1400+i
			cfg.Server.Authoritative = true // and refuses the other server's addresses
			servers = append(servers, serve(t, h, cfg))
		}
		var hosts []*usernet.Host
		for range 5 {
			h := newDHCPHost(t, sw.Port())
			defer h.Close()
			hosts = append(hosts, h)
		}
		// from returns the index of the server from which a host has its settings.
		from := func(h *usernet.Host) int {
			require.Len(t, h.Addrs(), 1, "%+v", h.DHCP())
			l, info := h.DHCP()[0].Lease, h.Interfaces()[1]
			i := int(l.Server.As4()[3]) - 1
			require.Equal(t, []netip.Addr{l.Server, l.Server}, []netip.Addr{info.Gateway, l.DNS[0]})
			require.Equal(t, 1400+i, info.IPv4MTU)
			require.Equal(t, i == 0, h.Addrs()[0].Addr().Less(netip.MustParseAddr("192.0.2.200")))
			require.Len(t, h.Routes(), 2)
			return i
		}
		time.Sleep(24 * time.Hour)
		first := from(hosts[0])
		require.NoError(t, servers[first].Close())
		time.Sleep(24 * time.Hour)
		for _, h := range hosts {
			require.Equal(t, 1-first, from(h))
		}
	})
}

func TestTwoDHCPv6ServersDisagree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		var servers []*usernet.DHCP6Server
		for i := range 2 {
			h, err := usernet.New(usernet.Config{NIC: sw.Port(), Addrs: prefixes(fmt.Sprintf("2001:db8::%d/64", i+1))})
			require.NoError(t, err)
			defer h.Close()
			cfg := pool6()
			cfg.Server.Pools[0].First = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d:0", i+1))
			cfg.Server.Pools[0].Last = netip.MustParseAddr(fmt.Sprintf("2001:db8::%d:ff", i+1))
			cfg.Server.DNS = []netip.Addr{netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", i+1))}
			d, err := h.ServeDHCP6("", cfg)
			require.NoError(t, err)
			servers = append(servers, d)
		}
		h := newDHCP6Host(t, sw.Port(), usernet.DHCP6Config{})
		// from returns the index of the server from which the host has its settings.
		from := func() int {
			require.Len(t, global6(h), 1, "%+v", h.DHCP6())
			l := h.DHCP6()[0].Lease
			require.Len(t, l.DNS, 1)
			i := int(l.DNS[0].As16()[15]) - 1
			require.EqualValues(t, i+1, global6(h)[0].Prefix.Addr().As16()[13])
			return i
		}
		time.Sleep(24 * time.Hour)
		first := from()
		require.NoError(t, servers[first].Close())
		time.Sleep(24 * time.Hour)
		require.Equal(t, 1-first, from())
	})
}

// A flood of malformed and of forged messages at the rate of the link fills neither memory nor the log, and does
// not keep a client from a good server.
func TestAFloodOfNonsenseFromADHCPv6Server(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		router := router6(t, sw.Port())
		defer router.Close()
		hostile, err := usernet.New(usernet.Config{NIC: sw.Port(), Addrs: prefixes("2001:db8::bad/64")})
		require.NoError(t, err)
		defer hostile.Close()
		heard := make(chan *dhcp.Message6, 100)
		pc, err := hostile.ListenPacket("udp6", ":547")
		require.NoError(t, err)
		require.NoError(t, pc.(*usernet.UDPConn).JoinGroup(nil, dhcp.AllServers6()))
		var to net.Addr
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				m, err := dhcp.ParseMessage6(buf[:n])
				if err != nil {
					panic(err)
				}
				to = from
				select {
				case heard <- m:
				default:
				}
			}
		}()
		var log logBuffer
		h := newDHCP6Host(t, sw.Port(), usernet.DHCP6Config{}, func(c *usernet.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		query := <-heard
		random := rand.New(rand.NewPCG(1, 1))
		id, _ := query.Options.Get(dhcp.Opt6ClientID)
		for i := range 20000 {
			m := &dhcp.Message6{Type: dhcp.MessageType6(random.IntN(14)), XID: query.XID}
			m.Options.Add(dhcp.Opt6ClientID, id)
			m.Options.Add(dhcp.Opt6ServerID, fmt.Appendf(nil, "\x1b[31m%d", i))
			m.Options.Add(dhcp.Opt6Status, dhcp.AppendStatus(nil, dhcp.Status6(random.IntN(8)), "\x1b[31m"))
			m.Options.Add(dhcp.OptionCode6(random.IntN(60)), make([]byte, random.IntN(100)))
			b := m.Append(nil)
			if i%3 == 0 {
				b = b[:random.IntN(len(b))]
			}
			_, err := pc.WriteTo(b, to)
			require.NoError(t, err)
			if i%1000 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		_, err = router.ServeDHCP6("", pool6())
		require.NoError(t, err)
		eventually(t, "a lease", func() bool { return h.DHCP6()[0].State == dhcp.Bound6 })
		require.NotContains(t, log.String(), "\x1b")
		require.NotContains(t, h.DHCP6()[0].Refusal, "\x1b")
		require.Less(t, strings.Count(log.String(), "\n"), 10)
	})
}

// A flood of messages from invented clients, and of nonsense, creates a bounded number of bindings, and does not keep
// a client from getting an address.
func TestAFloodDoesNotStopADHCPv6Server(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		router, d := serve6(t, sw.Port(), func(c *usernet.DHCP6ServerConfig) { c.Server.MaxBindings = 100 })
		flooder, err := usernet.New(usernet.Config{NIC: sw.Port(), Addrs: prefixes("2001:db8::bad/64")})
		require.NoError(t, err)
		defer flooder.Close()
		pc, err := flooder.ListenPacket("udp6", ":546")
		require.NoError(t, err)
		to := net.UDPAddrFromAddrPort(netip.AddrPortFrom(dhcp.AllServers6().WithZone(flooder.Interfaces()[1].Name), dhcp.ServerPort6))
		server := dhcp.DUIDFromMAC(router.Interfaces()[1].MAC)
		h, err := usernet.New(usernet.Config{NIC: sw.Port()})
		require.NoError(t, err)
		defer h.Close()
		for i := range uint32(20000) {
			m := &dhcp.Message6{Type: dhcp.Solicit6, XID: i}
			m.Options.Add(dhcp.Opt6ClientID, binary.BigEndian.AppendUint32([]byte{0, 3, 0, 1}, i))
			m.Options.Add(dhcp.Opt6IANA, make([]byte, 12))
			if i%300 == 0 { // fewer than MaxBindings, so that there is an address for h
				m.Type = dhcp.Request6
				m.Options.Add(dhcp.Opt6ServerID, server)
			}
			b := m.Append(nil)
			if i%5 == 1 {
				b = b[:i%uint32(len(b))]
			}
			_, err := pc.WriteTo(b, to)
			require.NoError(t, err)
			if i%200 == 0 {
				time.Sleep(10 * time.Millisecond)
			}
			if i == 5000 {
				require.NoError(t, h.StartDHCP6("", usernet.DHCP6Config{}))
			}
		}
		require.LessOrEqual(t, len(slices.Collect(d.Bindings())), 100)
		time.Sleep(3 * time.Hour) // the invented leases end
		require.Equal(t, dhcp.Bound6, h.DHCP6()[0].State)
		require.Len(t, slices.Collect(d.Bindings()), 1)
		require.Len(t, global6(h), 1)
	})
}
