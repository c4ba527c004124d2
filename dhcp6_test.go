package usernet_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
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

// The flags of a router decide whether a host asks a DHCPv6 server for an address, for settings, or for nothing.
func TestAHostAsksByDHCPv6WhatItsRouterSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		router := router6(t, wireA)
		defer router.Close()
		advertise(t, router, false, false)
		d, err := router.ServeDHCP6("", pool6())
		require.NoError(t, err)
		pc, err := router.ListenPacket("udp", ":53")
		require.NoError(t, err)
		go answerDNS(pc, map[string]string{"www.b.test.": "192.0.2.1"})
		h := newDHCPHost(t, wireB, func(c *usernet.Config) { c.Auto = true })
		defer h.Close()
		time.Sleep(time.Minute)
		require.Equal(t, dhcp.Stopped6, h.DHCP6()[0].State)
		stats, _ := d.Stats()
		require.Zero(t, stats.Received[dhcp.Solicit6]+stats.Received[dhcp.InformationRequest6])

		advertise(t, router, false, true)
		eventually(t, "settings", func() bool { return h.DHCP6()[0].State == dhcp.Informed6 })
		require.Empty(t, global6(h))
		require.Equal(t, []string{"b.test"}, h.DHCP6()[0].Lease.Search)

		advertise(t, router, true, true)
		eventually(t, "an address", func() bool { return len(global6(h)) == 1 })
		waitOnline(t, h)
		a := global6(h)[0]
		require.Equal(t, stack.AddrDHCP, a.Origin)
		require.Equal(t, 128, a.Prefix.Bits())
		require.Equal(t, h.DHCP6()[0].Lease.Addrs[0].Prefix, a.Prefix)
		require.Equal(t, slices.Collect(d.Bindings())[0].Addr, a.Prefix.Addr())
		_, err = h.Ping(t.Context(), "2001:db8::1", usernet.PingConfig{})
		require.NoError(t, err)
		addrs, err := h.LookupHost("www")
		require.NoError(t, err)
		require.Equal(t, []string{"192.0.2.1"}, addrs)

		time.Sleep(24 * time.Hour)
		require.Equal(t, a.Prefix, global6(h)[0].Prefix)
		require.NoError(t, h.Close())
		synctest.Wait()
		require.Empty(t, slices.Collect(d.Bindings()), "it was released")
	})
}

// The link goes down and comes up. Then the server dies, and a lease for a week ends. Afterwards another node has the
// address.
func TestADHCPv6LeaseEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		router := router6(t, sw.Port())
		defer router.Close()
		const week = 7 * 24 * time.Hour
		cfg := pool6()
		cfg.Server.Valid, cfg.Server.Preferred = week, week/2
		d, err := router.ServeDHCP6("", cfg)
		require.NoError(t, err)
		dev := nictest.NewChangeable(sw.Port())
		h, err := usernet.New(usernet.Config{NIC: dev})
		require.NoError(t, err)
		defer h.Close()
		var events []string
		require.NoError(t, h.StartDHCP6("", usernet.DHCP6Config{OnEvent: func(e dhcp.Event6) { events = append(events, e.Kind.String()) }}))
		eventually(t, "an address", func() bool { return len(global6(h)) == 1 })
		a := global6(h)[0].Prefix
		dev.Plug(false)
		time.Sleep(time.Second)
		dev.Plug(true)
		time.Sleep(10 * time.Second)
		require.Equal(t, dhcp.Bound6, h.DHCP6()[0].State, "confirmed")
		require.NoError(t, d.Close())
		time.Sleep(week / 2)
		require.Equal(t, stack.AddrDeprecated, global6(h)[0].State)
		time.Sleep(week / 2)
		require.Empty(t, global6(h))
		synctest.Wait()
		require.Equal(t, []string{"acquired", "lost"}, events)

		// Another node has taken the address. The host declines it.
		other, err := usernet.New(usernet.Config{NIC: sw.Port(), Addrs: []netip.Prefix{netip.PrefixFrom(a.Addr(), 64)}})
		require.NoError(t, err)
		defer other.Close()
		d, err = router.ServeDHCP6("", cfg)
		require.NoError(t, err)
		time.Sleep(2 * time.Hour) // the client asks once an hour
		require.Len(t, global6(h), 1)
		require.NotEqual(t, a, global6(h)[0].Prefix)
		stats, _ := d.Stats()
		require.EqualValues(t, 1, stats.Received[dhcp.Decline6])
		require.NoError(t, h.StopDHCP6(""))
		synctest.Wait()
		stats, _ = d.Stats()
		require.EqualValues(t, 1, stats.Received[dhcp.Release6])
		require.Empty(t, global6(h))
	})
}

// The server assigns an address that the program has configured, before or after the lease begins. The address
// stays as it is configured.
func TestADHCPv6LeaseOfAStaticAddress(t *testing.T) {
	for _, before := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			wireA, wireB := nic.Pipe(nic.PipeConfig{})
			var first netip.Addr
			_, d := serve6(t, wireA, func(c *usernet.DHCP6ServerConfig) {
				first = c.Server.Pools[0].First
				c.Server.Pools[0].Last = first
			})
			h, err := usernet.New(usernet.Config{NIC: wireB})
			require.NoError(t, err)
			defer h.Close()
			static := netip.PrefixFrom(first, 128)
			if before {
				require.NoError(t, h.AddAddr("", static, stack.AddrOptions{}))
			}
			require.NoError(t, h.StartDHCP6("", usernet.DHCP6Config{}))
			eventually(t, "a lease", func() bool { return h.DHCP6()[0].State == dhcp.Bound6 })
			if !before {
				require.Equal(t, stack.AddrDHCP, global6(h)[0].Origin)
				require.NoError(t, h.AddAddr("", static, stack.AddrOptions{}))
			}
			time.Sleep(24 * time.Hour)
			require.Equal(t, []stack.AddrInfo{{Prefix: static}}, global6(h))
			require.Len(t, slices.Collect(d.Bindings()), 1)
			require.NoError(t, h.StopDHCP6(""))
			require.Equal(t, []stack.AddrInfo{{Prefix: static}}, global6(h))
		})
	}
}

func TestManyHostsAreServedByDHCPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		bad := nic.Impairment{Loss: 0.15, Duplicate: 0.05, Latency: time.Millisecond}
		_, d := serve6(t, sw.Port())
		var hosts []*usernet.Host
		for i := range 30 {
			dev := nic.Impair(sw.Port(), nic.ImpairConfig{In: bad, Out: bad, Seed: uint64(i + 1)})
			hosts = append(hosts, newDHCP6Host(t, dev, usernet.DHCP6Config{RapidCommit: true}))
		}
		time.Sleep(24 * time.Hour)
		seen := make(map[netip.Prefix]bool)
		for _, h := range hosts {
			require.Len(t, global6(h), 1, "%+v", h.DHCP6())
			seen[global6(h)[0].Prefix] = true
		}
		require.Len(t, seen, 30)
		require.GreaterOrEqual(t, len(slices.Collect(d.Bindings())), 30)
	})
}

// RFC 8415 16: "A server MUST discard any Solicit, Confirm, Rebind, or Information-request messages it receives
// with a Layer 3 unicast destination address."
func TestADHCPv6ServerDiscardsUnicast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		_, d := serve6(t, wireA)
		h, err := usernet.New(usernet.Config{NIC: wireB, Addrs: prefixes("2001:db8::2/64")})
		require.NoError(t, err)
		defer h.Close()
		pc, err := h.ListenPacket("udp6", ":546")
		require.NoError(t, err)
		m := &dhcp.Message6{Type: dhcp.InformationRequest6, XID: 7}
		zone := h.Interfaces()[1].Name
		for _, to := range []string{"[2001:db8::1]:547", "[ff02::1:2%" + zone + "]:547"} {
			_, err = pc.WriteTo(m.Append(nil), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
			require.NoError(t, err)
			time.Sleep(time.Minute)
		}
		stats, dropped := d.Stats()
		require.EqualValues(t, 1, stats.Received[dhcp.InformationRequest6], "only the one by multicast")
		require.EqualValues(t, 1, stats.Replies)
		require.Zero(t, dropped)
	})
}

// A sendHook is a device that calls a function before each Send.
type sendHook struct {
	nic.Device
	before func(nic.Frame)
}

// Nonblocking makes the stack send in the goroutine that has something to send.
func (d *sendHook) Nonblocking() nic.Device { return d }

func (d *sendHook) Send(batch []nic.Frame) (int, error) {
	for _, f := range batch {
		d.before(f)
	}
	return d.Device.Send(batch)
}

// ServeDHCP6 and Close send reports of group membership. On a wire in memory, the goroutine that sends a report may
// be the one that receives a message of a client.
func TestADHCPv6ServerReceivesWhileItReports(t *testing.T) {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	h, err := usernet.New(usernet.Config{NIC: wireB, Addrs: prefixes("2001:db8::2/64")})
	require.NoError(t, err)
	defer h.Close()
	pc, err := h.ListenPacket("udp6", ":546")
	require.NoError(t, err)
	zone := h.Interfaces()[1].Name
	var reports atomic.Int32
	router := router6(t, &sendHook{Device: wireA, before: func(f nic.Frame) {
		// The record of a group has four bytes before the group (RFC 9777 5.2.5).
		if g := dhcp.AllServers6().AsSlice(); bytes.Contains(slices.Concat(f.Head, f.Body), append([]byte{0, 0, 0}, g...)) {
			reports.Add(1)
			m := &dhcp.Message6{Type: dhcp.InformationRequest6, XID: 7}
			pc.WriteTo(m.Append(nil), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[ff02::1:2%"+zone+"]:547")))
		}
	}})
	defer router.Close()
	done := make(chan error)
	go func() {
		d, err := router.ServeDHCP6("", pool6())
		if err == nil {
			err = d.Close()
		}
		done <- err
	}()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Fatal("ServeDHCP6 or Close waits for a lock that its own goroutine holds")
	}
	require.Positive(t, reports.Load())
}

// A server ends with its interface, and another socket may then use the port.
func TestADHCPv6ServerEndsWithItsInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, _ := nic.Pipe(nic.PipeConfig{})
		wan, _ := nic.Pipe(nic.PipeConfig{})
		h, err := usernet.New(usernet.Config{NICs: []stack.NIC{{Name: "lan", Device: lan}, {Name: "wan", Device: wan}}})
		require.NoError(t, err)
		defer h.Close()
		d, err := h.ServeDHCP6("lan", usernet.DHCP6ServerConfig{})
		require.NoError(t, err)
		require.NoError(t, h.StartDHCP6("lan", usernet.DHCP6Config{NoAddr: true}))
		require.NoError(t, h.StartDHCP6("wan", usernet.DHCP6Config{}))
		require.NoError(t, h.Stack().RemoveNIC("lan"))
		time.Sleep(time.Second)
		require.ErrorIs(t, d.Close(), net.ErrClosed)
		require.Len(t, h.DHCP6(), 1)
		pc, err := h.ListenPacket("udp6", ":547")
		require.NoError(t, err, "the port is free again")
		require.NoError(t, pc.Close())
	})
}

// OnEvent gets a Lost event for the lease of an interface that is removed.
func TestADHCPv6LeaseEndsWithItsInterface(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		var log logBuffer
		var events []string
		serve6(t, wireA)
		h := newDHCP6Host(t, wireB, usernet.DHCP6Config{OnEvent: func(e dhcp.Event6) { events = append(events, e.Kind.String()) }},
			func(c *usernet.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		eventually(t, "a lease", func() bool { return h.DHCP6()[0].State == dhcp.Bound6 })
		name := h.Interfaces()[1].Name
		time.Sleep(time.Second)
		require.NoError(t, h.Stack().RemoveNIC(name))
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, []string{"acquired", "lost"}, events)
		require.Empty(t, h.DHCP6())
		require.Regexp(t, `level=INFO msg="DHCPv6 lease acquired" nic=`+name+` addrs=1 (?s:.*)msg="DHCPv6 lease ended" nic=`+name+` reason="its interface was removed"`, log.String())
	})
}

// The log of a host says what its servers and its clients do, and names the interface.
func TestEventsOfDHCPAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		var logs [2]logBuffer
		logged := func(i int) *slog.Logger { return slog.New(slog.NewTextHandler(&logs[i], nil)) }
		router, err := usernet.New(usernet.Config{NIC: wireA, Addrs: prefixes("2001:db8::1/64", "192.0.2.1/24"), Logger: logged(0)})
		require.NoError(t, err)
		defer router.Close()
		advertise(t, router, true, true)
		_, err = router.ServeDHCP6("", pool6())
		require.NoError(t, err)
		serve(t, router, pool("192.0.2.7", "192.0.2.7"))
		h := newDHCPHost(t, wireB, func(c *usernet.Config) { c.Auto, c.Logger = true, logged(1) })
		eventually(t, "both leases", func() bool { return len(global6(h)) == 1 && addr4(h).IsValid() })
		time.Sleep(time.Second)
		require.NoError(t, h.Close())
		time.Sleep(time.Second)
		synctest.Wait()
		for i, records := range [][]string{
			{`INFO msg="DHCPv6 address assigned" nic=\S+ addr=2001:db8::1:\w+ duid=[0-9a-f]+ until=`, `INFO msg="DHCP address assigned" nic=\S+ addr=192.0.2.7 mac=..:`,
				`INFO msg="DHCPv6 address returned" nic=\S+ addr=2001:db8::1:`, `INFO msg="DHCP lease of a client ended" nic=\S+ addr=192.0.2.7 .* reason=returned`},
			{`INFO msg="DHCPv6 lease acquired" nic=\S+ addrs=1 prefixes=0 dns=\[2001:db8::1\] expires=`, `INFO msg="DHCP lease acquired" nic=\S+ addr=192.0.2.7/24 server=192.0.2.1 `,
				`INFO msg="DHCPv6 lease ended" nic=\S+ reason="it was released"`, `INFO msg="DHCP lease ended" nic=\S+ addr=192.0.2.7/24 reason=`},
		} {
			for _, r := range records {
				require.Regexp(t, r, logs[i].String())
			}
		}
	})
}

func TestErrorsOfDHCPv6(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, _ := nic.Pipe(nic.PipeConfig{})
		tun, _ := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		h, err := usernet.New(usernet.Config{NICs: []stack.NIC{{Name: "lan", Device: lan}, {Name: "tun", Device: tun}}})
		require.NoError(t, err)
		defer h.Close()
		require.ErrorIs(t, h.StartDHCP6("", usernet.DHCP6Config{}), syscall.ENODEV)
		require.ErrorIs(t, h.StartDHCP6("tun", usernet.DHCP6Config{}), syscall.EINVAL)
		require.EqualError(t, h.StartDHCP6("lan", usernet.DHCP6Config{FollowRouters: true}), "usernet: DHCPv6: FollowRouters needs Auto on lan: invalid argument")
		require.ErrorIs(t, h.StopDHCP6("lan"), syscall.ESRCH)
		pc, err := h.ListenPacket("udp6", ":546")
		require.NoError(t, err)
		require.EqualError(t, h.StartDHCP6("lan", usernet.DHCP6Config{}), "usernet: DHCPv6: a socket of the host has UDP port 546, which the client needs: address already in use")
		require.NoError(t, pc.Close())
		require.NoError(t, h.StartDHCP6("lan", usernet.DHCP6Config{}))
		require.ErrorIs(t, h.StartDHCP6("lan", usernet.DHCP6Config{}), syscall.EEXIST)
		_, err = h.ServeDHCP6("tun", usernet.DHCP6ServerConfig{})
		require.ErrorIs(t, err, syscall.EINVAL)
		_, err = h.ServeDHCP6("lan", pool6())
		require.EqualError(t, err, "usernet: DHCPv6 server: dhcp: the network invalid Prefix is not an IPv6 prefix: invalid argument")
		d, err := h.ServeDHCP6("lan", usernet.DHCP6ServerConfig{})
		require.NoError(t, err, "stateless")
		_, err = h.ServeDHCP6("lan", usernet.DHCP6ServerConfig{})
		require.ErrorIs(t, err, syscall.EEXIST)
		require.NoError(t, d.Close())
		require.ErrorIs(t, d.Close(), net.ErrClosed)
		require.NoError(t, h.StopDHCP6("lan"))
		for _, port := range []int{546, 547} {
			pc, err := h.ListenPacket("udp6", fmt.Sprintf(":%d", port))
			require.NoError(t, err, "the port is free again")
			require.NoError(t, pc.Close())
		}
		require.NoError(t, h.Close())
		require.ErrorIs(t, h.StartDHCP6("lan", usernet.DHCP6Config{}), net.ErrClosed)

		other, _ := nic.Pipe(nic.PipeConfig{})
		only4, err := usernet.New(usernet.Config{NIC: other, NoIPv6: true})
		require.NoError(t, err)
		require.ErrorIs(t, only4.StartDHCP6("", usernet.DHCP6Config{}), syscall.EAFNOSUPPORT)
		require.NoError(t, only4.Close())
	})
}

// A relay agent forwards a message of a client on another link to the server by unicast. The server answers only if
// it serves links behind relay agents.
func TestADHCPv6ServerAnswersARelayAgent(t *testing.T) {
	for _, relayed := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			wireA, wireB := nic.Pipe(nic.PipeConfig{})
			_, d := serve6(t, wireA, func(c *usernet.DHCP6ServerConfig) {
				if relayed {
					c.Server.Relayed = []dhcp.Link6{{
						Prefix: netip.MustParsePrefix("2001:db8:2::/64"),
						Pools:  []dhcp.Range6{{First: netip.MustParseAddr("2001:db8:2::7"), Last: netip.MustParseAddr("2001:db8:2::7")}},
					}}
				}
			})
			h, err := usernet.New(usernet.Config{NIC: wireB, Addrs: prefixes("2001:db8::2/64")})
			require.NoError(t, err)
			defer h.Close()
			pc, err := h.ListenPacket("udp6", ":547")
			require.NoError(t, err)
			m := &dhcp.Message6{Type: dhcp.Solicit6, XID: 7}
			m.Options.Add(dhcp.Opt6ClientID, dhcp.DUIDFromUUID([16]byte{1}))
			m.Options.Add(dhcp.Opt6IANA, make([]byte, 12))
			r := &dhcp.Relay6{Type: dhcp.RelayForward6, Link: netip.MustParseAddr("2001:db8:2::1"), Peer: netip.MustParseAddr("fe80::7")}
			r.Options.Add(dhcp.Opt6RelayMessage, m.Append(nil))
			_, err = pc.WriteTo(r.Append(nil), net.UDPAddrFromAddrPort(netip.MustParseAddrPort("[2001:db8::1]:547")))
			require.NoError(t, err)
			buf := make([]byte, 1500)
			require.NoError(t, pc.SetReadDeadline(time.Now().Add(time.Minute)))
			n, from, err := pc.ReadFrom(buf)
			stats, _ := d.Stats()
			if !relayed {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
				require.Zero(t, stats.Relayed)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "[2001:db8::1]:547", from.String())
			reply, err := dhcp.ParseRelay6(buf[:n])
			require.NoError(t, err)
			require.Equal(t, dhcp.RelayReply6, reply.Type)
			b, _ := reply.Options.Get(dhcp.Opt6RelayMessage)
			answer, err := dhcp.ParseMessage6(b)
			require.NoError(t, err)
			require.Equal(t, dhcp.Advertise6, answer.Type)
			require.EqualValues(t, 1, stats.Relayed)
		})
	}
}

// A host serves another one with an address and a prefix, for a month.
func TestAHostDelegatesAPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		_, d := serve6(t, wireA, func(c *usernet.DHCP6ServerConfig) {
			c.Server.Delegated = []dhcp.PrefixPool6{{Prefix: netip.MustParsePrefix("2001:db8:100::/40"), Bits: 56}}
		})
		h := newDHCP6Host(t, wireB, usernet.DHCP6Config{Prefix: true})
		eventually(t, "a lease", func() bool { return h.DHCP6()[0].State == dhcp.Bound6 })
		p := h.DHCP6()[0].Lease.Prefixes[0].Prefix
		require.Equal(t, 56, p.Bits())
		time.Sleep(30 * 24 * time.Hour)
		require.Equal(t, p, h.DHCP6()[0].Lease.Prefixes[0].Prefix)
		bound := slices.Collect(d.Bindings())
		require.Len(t, bound, 2)
		require.Equal(t, []any{p.Addr(), 56}, []any{bound[1].Addr, bound[1].Bits})
		require.NoError(t, h.StopDHCP6(""))
		synctest.Wait()
		require.Empty(t, slices.Collect(d.Bindings()))
	})
}

// A server starts with a binding of an earlier run, which expires although no client sends anything. Until it is
// closed, the server is in the group ff05::1:3, to which relay agents send.
func TestADHCPv6ServerIsStartedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := nic.Pipe(nic.PipeConfig{})
		h := router6(t, near)
		defer h.Close()
		cfg := pool6()
		cfg.Server.Relayed = []dhcp.Link6{{Prefix: netip.MustParsePrefix("2001:db8:2::/64")}}
		cfg.Server.Bindings = []dhcp.Binding6{{
			Addr: netip.MustParseAddr("2001:db8::1:7"), State: dhcp.Leased, DUID: dhcp.DUIDFromMAC([6]byte{2, 7}), Until: time.Now().Add(time.Minute),
		}}
		ended := 0
		cfg.OnEvent = func(dhcp.ServerEvent6) { ended++ }
		d, err := h.ServeDHCP6("", cfg)
		require.NoError(t, err)
		require.Contains(t, h.Interfaces()[1].Groups, dhcp.RelayedServers6())
		require.Len(t, slices.Collect(d.Bindings()), 1)
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Empty(t, slices.Collect(d.Bindings()))
		require.Equal(t, 1, ended)
		require.NoError(t, d.Close())
		require.NotContains(t, h.Interfaces()[1].Groups, dhcp.RelayedServers6())
	})
}
