package usernet_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
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

// A host gets its address, router, MTU, name servers and search domains, renews the lease for a
// month, and returns it.
func TestAHostConfiguresItselfByDHCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := linkWithServer(t, 7*24*time.Hour)
		server := s.host
		search, err := dhcp.AppendSearch(nil, []string{"a.test", "b.test"})
		require.NoError(t, err)
		s.options.Set(dhcp.OptDomainSearch, search)
		s.options.Set(dhcp.OptMTU, []byte{1400 >> 8, 1400 & 255})
		pc, err := server.ListenPacket("udp", ":53")
		require.NoError(t, err)
		go answerDNS(pc, map[string]string{"www.b.test.": "192.0.2.1"})

		var log logBuffer
		client := newDHCPHost(t, wire, func(c *usernet.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		defer client.Close()
		require.Empty(t, client.Addrs())
		began := time.Now()
		waitOnline(t, client)
		require.LessOrEqual(t, time.Since(began), 7*time.Second, "RFC 5227's probes")
		require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())
		info := client.Interfaces()[1]
		require.Equal(t, stack.AddrDHCP, info.AddrInfo[0].Origin)
		require.Equal(t, "192.0.2.1", info.Gateway.String())
		require.Equal(t, 1400, info.IPv4MTU)
		require.Equal(t, []dhcp.MessageType4{dhcp.Discover, dhcp.Request}, s.types())
		d := client.DHCP()
		require.Len(t, d, 1)
		require.Equal(t, dhcp.Bound, d[0].State)
		require.Equal(t, []string{"a.test", "b.test"}, d[0].Lease.Search)
		require.InDelta(t, 7*24*time.Hour, time.Until(d[0].Lease.Expires), float64(10*time.Second))
		require.Equal(t, d[0].Lease.Expires.Round(time.Second), info.AddrInfo[0].ValidUntil.Round(time.Second))
		require.Contains(t, log.String(), `msg="DHCP lease acquired" nic=`)
		addrs, err := client.LookupHost("www")
		require.NoError(t, err)
		require.Equal(t, []string{"192.0.2.1"}, addrs)

		ln, err := server.Listen("tcp", ":80")
		require.NoError(t, err)
		c, err := client.Dial("tcp", "www:80")
		require.NoError(t, err)
		accepted, err := ln.Accept()
		require.NoError(t, err)
		for _, c := range []net.Conn{c, accepted} {
			require.NoError(t, c.(*usernet.TCPConn).SetKeepAlive(false)) // it would send many probes in a month
		}
		time.Sleep(30 * 24 * time.Hour)
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = accepted.Read(make([]byte, 1))
		require.NoError(t, err, "a connection does not notice")
		s.mu.Lock()
		for _, m := range s.got {
			require.Equal(t, dhcp.Request, m.Type())
			require.Equal(t, "192.0.2.7", m.CIAddr.String())
		}
		require.InDelta(t, 8, len(s.got), 1, "each three days and a half")
		s.mu.Unlock()
		s.types()

		// RFC 2131 4.4.6: a host that is shut down gracefully returns its address.
		client.Close()
		synctest.Wait()
		require.Equal(t, []dhcp.MessageType4{dhcp.Release}, s.types())
		require.ErrorIs(t, client.WaitOnline(t.Context()), net.ErrClosed)
		require.ErrorIs(t, client.StartDHCP("", usernet.DHCPConfig{}), net.ErrClosed)
	})
}

// answerDNS answers questions about IPv4 addresses.
func answerDNS(pc net.PacketConn, names map[string]string) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		q := buf[:n]
		name, end := "", 12
		for q[end] != 0 {
			name += string(q[end+1:end+1+int(q[end])]) + "."
			end += 1 + int(q[end])
		}
		end += 5                                                             // the root label, the type and the class
		r := append(slices.Clone(q[:2]), 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0) // a response to one question, with recursion
		r = append(r, q[12:end]...)
		if a, ok := names[strings.ToLower(name)]; !ok {
			r[3] |= 3 // NXDOMAIN
		} else if q[end-3] == 1 { // type A
			r[7] = 1 // one answer
			// A pointer to the name of the question, type A, class IN, a TTL of 60 s, and a length of 4.
			r = append(r, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
			r = append(r, netip.MustParseAddr(a).AsSlice()...)
		}
		pc.WriteTo(r, from)
	}
}

// The server fails after it has granted a lease for a week. The lease's settings stay until the lease
// ends, and are then removed.
func TestEverythingLeavesWithTheLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const week = 7 * 24 * time.Hour
		s, wire := linkWithServer(t, week)
		s.options.Set(dhcp.OptClasslessRoutes, dhcp.AppendRoutes(nil, []dhcp.Route4{
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1")},
			{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("192.0.2.3")},
			{Dst: netip.MustParsePrefix("172.16.0.0/12")},
		}))
		s.options.Set(dhcp.OptMTU, []byte{1400 >> 8, 1400 & 255})
		client := newDHCPHost(t, wire)
		defer client.Close()
		began := time.Now()
		waitOnline(t, client)
		name := client.Interfaces()[1].Name
		require.Equal(t, []stack.Route{
			{Dst: netip.MustParsePrefix("192.0.2.0/24"), NIC: name, Src: netip.MustParseAddr("192.0.2.7")},
			{Dst: netip.MustParsePrefix("172.16.0.0/12"), NIC: name},
			{Dst: netip.MustParsePrefix("10.0.0.0/8"), Via: netip.MustParseAddr("192.0.2.3"), NIC: name},
			{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.1"), NIC: name},
		}, client.Routes())
		s.set(func() { s.silent = true })
		s.types()
		time.Sleep(time.Until(began.Add(week - time.Second)))
		require.Equal(t, dhcp.Rebinding, client.DHCP()[0].State)
		require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())
		// RFC 2131 4.4.5: a request is repeated after half of the time that is left, but not within a minute. That
		// makes about a dozen requests each until T2 and until the end of the lease.
		n := len(s.types())
		require.Greater(t, n, 10)
		require.Less(t, n, 40)

		time.Sleep(2 * time.Second)
		require.Empty(t, client.Addrs())
		require.Empty(t, client.Routes())
		info := client.Interfaces()[1]
		require.Equal(t, 1500, info.IPv4MTU)
		require.False(t, info.Gateway.IsValid())
		require.Equal(t, dhcp.Selecting, client.DHCP()[0].State)
		require.Nil(t, client.DHCP()[0].Lease)
		_, err := client.LookupHost("www.test")
		require.EqualError(t, err, "lookup www.test: no such host", "there is nobody to ask")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err = client.WaitOnline(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Regexp(t, `^usernet: not online: .*: nobody has answered \d+ messages of DHCP: is there a server on the link\?: context deadline exceeded$`, err.Error())
		s.mu.Lock()
		require.True(t, slices.Contains(s.from, netip.IPv4Unspecified()), "RFC 2131 4.1: from 0.0.0.0 without an address")
		s.mu.Unlock()

		// The server works again.
		s.set(func() { s.silent = false })
		waitOnline(t, client)
		require.Len(t, client.Routes(), 4)
	})
}

// RFC 2131 3.1.5: "the client MUST send a DHCPDECLINE message to the server and restarts the
// configuration process."
func TestAnAddressOfAnotherMachineIsDeclined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		server := host(sw.Port(), "192.0.2.1/24")
		defer server.Close()
		other := host(sw.Port(), "192.0.2.7/24")
		defer other.Close()
		s := startServer(t, server, "192.0.2.7", time.Hour)
		var events []string
		client, err := usernet.New(usernet.Config{NIC: sw.Port(), NoIPv6: true})
		require.NoError(t, err)
		defer client.Close()
		require.NoError(t, client.StartDHCP("", usernet.DHCPConfig{OnEvent: func(e dhcp.Event4) {
			events = append(events, strings.TrimSpace(e.Kind.String()+" "+e.Reason))
		}}))
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		err = client.WaitOnline(ctx)
		require.ErrorContains(t, err, "DHCP: 192.0.2.7 is in use by another host")
		require.Empty(t, client.Addrs())
		require.Equal(t, []dhcp.MessageType4{dhcp.Discover, dhcp.Request, dhcp.Decline}, s.types())
		s.set(func() { s.addr = netip.MustParseAddr("192.0.2.8") })
		began := time.Now()
		waitOnline(t, client)
		require.Equal(t, prefixes("192.0.2.8/24"), client.Addrs())
		require.Greater(t, time.Since(began), 8*time.Second, `"a minimum of ten seconds"`)
		synctest.Wait() // OnEvent is called after the host has changed
		require.Equal(t, []string{"probe", "refused 192.0.2.7 is in use by another host", "probe", "acquired"}, events)

		// Another machine takes the address later. The second conflict within ten seconds ends the lease
		// (RFC 5227 2.4).
		s.types()
		s.set(func() { s.addr = netip.MustParseAddr("192.0.2.9") })
		thief := host(sw.Port(), "192.0.2.8/24")
		defer thief.Close()
		time.Sleep(time.Second)
		require.NoError(t, thief.RemoveAddr("", netip.MustParseAddr("192.0.2.8")))
		require.NoError(t, thief.AddAddr("", netip.MustParsePrefix("192.0.2.8/24"), stack.AddrOptions{}))
		time.Sleep(time.Second)
		require.Empty(t, client.Addrs())
		require.Equal(t, []dhcp.MessageType4{dhcp.Decline}, s.types())
		time.Sleep(20 * time.Second)
		require.Equal(t, prefixes("192.0.2.9/24"), client.Addrs())
	})
}

// A laptop moves to another network. The DHCP server there does not know the laptop's address.
func TestAHostMovesToAnotherNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := linkWithServer(t, time.Hour)
		server := s.host
		dev := nictest.NewChangeable(wire)
		client := newDHCPHost(t, dev)
		defer client.Close()
		waitOnline(t, client)

		// The cable is unplugged for a minute. The host keeps its address.
		dev.Plug(false)
		time.Sleep(time.Minute)
		require.Equal(t, dhcp.Stopped, client.DHCP()[0].State)
		require.Len(t, client.Addrs(), 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorContains(t, client.WaitOnline(ctx), "the link is down")
		s.types()
		dev.Plug(true)
		time.Sleep(time.Second)
		require.Equal(t, []dhcp.MessageType4{dhcp.Request}, s.types(), "RFC 2131 3.7: INIT-REBOOT")
		require.Equal(t, dhcp.Bound, client.DHCP()[0].State)
		require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())

		dev.Plug(false)
		require.NoError(t, server.AddAddr("", netip.MustParsePrefix("198.51.100.1/24"), stack.AddrOptions{}))
		require.NoError(t, server.RemoveAddr("", netip.MustParseAddr("192.0.2.1")))
		s.set(func() {
			s.addr, s.nak = netip.MustParseAddr("198.51.100.7"), true
			s.options.Set(dhcp.OptRouter, []byte{198, 51, 100, 1})
		})
		dev.Plug(true)
		time.Sleep(10 * time.Second)
		s.mu.Lock()
		from := slices.Clone(s.from)
		s.mu.Unlock()
		unspecified := netip.IPv4Unspecified()
		require.Equal(t, []netip.Addr{unspecified, unspecified, unspecified}, from, "RFC 2131 4.1: not from the address of before")
		require.Equal(t, []dhcp.MessageType4{dhcp.Request, dhcp.Discover, dhcp.Request}, s.types())
		require.Equal(t, prefixes("198.51.100.7/24"), client.Addrs())
		require.Equal(t, "198.51.100.1", client.Interfaces()[1].Gateway.String())
		require.Len(t, client.Routes(), 2)
	})
}

// Host.DHCP reports a lease only after the host has applied the settings of the lease. So WaitOnline does not
// return before the routes exist. The test sets NoProbe: then the state machine already has the lease when
// OnEvent gets the Probe event, but Host.DHCP must not report the lease yet.
func TestALeaseIsReportedWhenItsRoutesExist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := linkWithServer(t, time.Minute)
		client, err := usernet.New(usernet.Config{NIC: wire, NoIPv6: true})
		require.NoError(t, err)
		defer client.Close()
		var seen []string
		require.NoError(t, client.StartDHCP("", usernet.DHCPConfig{NoProbe: true, OnEvent: func(e dhcp.Event4) {
			seen = append(seen, fmt.Sprint(e.Kind, " ", client.DHCP()[0].Lease != nil, " ", client.Interfaces()[1].Gateway.IsValid()))
		}}))
		waitOnline(t, client)
		require.True(t, client.Interfaces()[1].Gateway.IsValid())
		time.Sleep(40 * time.Second) // a renewal
		s.set(func() { s.silent = true })
		time.Sleep(time.Hour)
		synctest.Wait() // OnEvent has returned during the sleep, but only Wait tells the race detector so
		require.Equal(t, []string{"probe false false", "acquired true true", "renewed true true", "lost false false"}, seen[:4], "the lease, and a router")
	})
}

// A host that is closed while it probes its address returns the address.
func TestAnAddressBeingProbedIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := linkWithServer(t, time.Hour)
		client := newDHCPHost(t, wire)
		time.Sleep(2 * time.Second)
		require.Equal(t, dhcp.Probing, client.DHCP()[0].State)
		require.NoError(t, client.Close())
		synctest.Wait()
		s.mu.Lock()
		defer s.mu.Unlock()
		require.Len(t, s.got, 3)
		require.Equal(t, dhcp.Release, s.got[2].Type())
		require.Equal(t, "192.0.2.7", s.got[2].CIAddr.String())
		require.Equal(t, "0.0.0.0", s.from[2].String(), "the host does not use the address yet")
	})
}

// A stoppable is a device whose Send can be made to block. The test passes a channel to stop. From then on,
// Send blocks until the channel is closed.
type stoppable struct {
	nic.Device
	mu   sync.Mutex
	gate chan struct{} // nil: Send does not block
}

func (d *stoppable) stop(gate chan struct{}) {
	d.mu.Lock()
	d.gate = gate
	d.mu.Unlock()
}

func (d *stoppable) Send(batch []nic.Frame) (int, error) {
	d.mu.Lock()
	gate := d.gate
	d.mu.Unlock()
	if gate != nil {
		<-gate
	}
	return d.Device.Send(batch)
}

// StopDHCP on a link that accepts no frames ends in time, even if StopDHCP on another link begins and ends
// meanwhile. It also ends in time if the client on the stuck link is sending a message when StopDHCP is called.
func TestStopDHCPDoesNotWaitForAStuckLink(t *testing.T) {
	for _, sending := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			lan, lanFar := nic.Pipe(nic.PipeConfig{})
			inner, wanFar := nic.Pipe(nic.PipeConfig{})
			wan := &stoppable{Device: inner}
			servers := []*usernet.Host{host(lanFar, "192.0.2.1/24"), host(wanFar, "198.51.100.1/24")}
			defer servers[0].Close()
			defer servers[1].Close()
			s := startServer(t, servers[0], "192.0.2.7", time.Hour)
			// With so short a lease, the renewal begins less than dhcpSendTime before StopDHCP is called. So the
			// message of the renewal still waits for room then.
			startServer(t, servers[1], "198.51.100.7", 30*time.Second)
			client, err := usernet.New(usernet.Config{NoIPv6: true, NICs: []stack.NIC{{Name: "lan", Device: lan}, {Name: "wan", Device: wan}}})
			require.NoError(t, err)
			defer client.Close()
			for _, name := range []string{"lan", "wan"} {
				require.NoError(t, client.StartDHCP(name, usernet.DHCPConfig{NoProbe: true}))
			}
			time.Sleep(time.Second)
			require.Equal(t, prefixes("192.0.2.7/24", "198.51.100.7/24"), client.Addrs())

			gate := make(chan struct{})
			wan.stop(gate)
			defer func() { wan.stop(nil); close(gate) }()
			pc, err := client.ListenPacket("udp4", ":9")
			require.NoError(t, err)
			require.NoError(t, pc.SetWriteDeadline(time.Now().Add(time.Second)))
			to := &net.UDPAddr{IP: net.IPv4(198, 51, 100, 255), Port: 9}
			for err == nil {
				_, err = pc.WriteTo([]byte("x"), to)
			}
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			if sending {
				renew := client.DHCP()[1].Lease.Renew
				time.Sleep(time.Until(renew.Add(100 * time.Millisecond)))
			}
			began := time.Now()
			stopped := make(chan error, 1)
			go func() { stopped <- client.StopDHCP("wan") }()
			time.Sleep(50 * time.Millisecond)
			require.NoError(t, client.StopDHCP("lan"))
			synctest.Wait()
			types := s.types()
			require.Equal(t, dhcp.Release, types[len(types)-1])
			select {
			case err := <-stopped:
				require.NoError(t, err)
				require.LessOrEqual(t, time.Since(began), 200*time.Millisecond)
			case <-time.After(time.Hour):
				t.Error("StopDHCP does not return")
			}
			require.Empty(t, client.DHCP())
			require.Empty(t, client.Addrs())
			require.Empty(t, client.Routes())
		})
	}
}

// Two links have one client each. A message that arrives on one link is not processed by the client of
// the other link.
func TestTwoLinksHaveLeasesOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, lanFar := nic.Pipe(nic.PipeConfig{})
		wan, wanFar := nic.Pipe(nic.PipeConfig{})
		servers := []*usernet.Host{host(lanFar, "192.0.2.1/24"), host(wanFar, "198.51.100.1/24")}
		startServer(t, servers[0], "192.0.2.7", time.Hour)
		s := startServer(t, servers[1], "198.51.100.7", time.Hour)
		client, err := usernet.New(usernet.Config{NoIPv6: true, NICs: []stack.NIC{{Name: "lan", Device: lan}, {Name: "wan", Device: wan}}})
		require.NoError(t, err)
		defer client.Close()
		defer servers[0].Close()
		defer servers[1].Close()
		require.EqualError(t, client.StartDHCP("", usernet.DHCPConfig{}), "usernet: DHCP: no interface is named, and there are 2: no such device")
		require.EqualError(t, client.StartDHCP("eth9", usernet.DHCPConfig{}), `usernet: DHCP: no interface "eth9": no such device`)
		require.EqualError(t, client.StartDHCP("lo", usernet.DHCPConfig{}), "usernet: DHCP: lo is not an Ethernet, so that it has no MAC to ask with: invalid argument")
		taken, err := client.ListenPacket("udp4", ":68")
		require.NoError(t, err)
		require.EqualError(t, client.StartDHCP("lan", usernet.DHCPConfig{}), "usernet: DHCP: a socket of the host has UDP port 68, which the client needs: address already in use")
		require.NoError(t, taken.Close())
		for _, name := range []string{"lan", "wan"} {
			require.NoError(t, client.StartDHCP(name, usernet.DHCPConfig{NoProbe: true}))
			require.ErrorIs(t, client.StartDHCP(name, usernet.DHCPConfig{}), syscall.EEXIST)
		}
		synctest.Wait()
		time.Sleep(time.Millisecond)
		require.Equal(t, prefixes("192.0.2.7/24", "198.51.100.7/24"), client.Addrs())
		require.Len(t, client.DHCP(), 2)

		require.NoError(t, client.StopDHCP("wan"))
		require.ErrorIs(t, client.StopDHCP("wan"), syscall.ESRCH)
		synctest.Wait()
		require.Equal(t, dhcp.Release, s.types()[2])
		require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())
		require.Len(t, client.DHCP(), 1)
		require.NoError(t, client.Stack().RemoveNIC("lan"))
		time.Sleep(time.Millisecond)
		require.Empty(t, client.DHCP())
		_, err = client.ListenPacket("udp4", ":68")
		require.NoError(t, err, "the last client has given the port back")
	})
}

// Some clouds assign an address with a 32-bit prefix, and a router in no network of the host.
func TestALeaseWithARouterOffItsNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		server := host(wireA, "192.0.2.1/24")
		defer server.Close()
		s := startServer(t, server, "198.51.100.7", time.Hour)
		s.options.Set(dhcp.OptSubnetMask, []byte{255, 255, 255, 255})
		require.NoError(t, server.AddRoute(stack.Route{Dst: netip.MustParsePrefix("198.51.100.7/32"), NIC: server.Interfaces()[1].Name}))
		client := newDHCPHost(t, wireB)
		defer client.Close()
		waitOnline(t, client)
		require.Equal(t, prefixes("198.51.100.7/32"), client.Addrs())
		_, err := client.Dial("tcp", "192.0.2.1:80")
		require.EqualError(t, err, "dial tcp 192.0.2.1:80: connect: connection refused")
		client.Close()
		synctest.Wait()
		types := s.types()
		require.Equal(t, dhcp.Release, types[len(types)-1])
	})
}

// A fifth of the frames is lost in each direction.
func TestDHCPUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(5) {
			wireA, wireB := nic.Pipe(nic.PipeConfig{})
			bad := nic.Impairment{Latency: 10 * time.Millisecond, Loss: 0.2, Duplicate: 0.1, Reorder: 0.1, ReorderGap: 5 * time.Millisecond}
			server := host(wireA, "192.0.2.1/24")
			s := startServer(t, server, "192.0.2.7", 2*time.Minute)
			client := newDHCPHost(t, nic.Impair(wireB, nic.ImpairConfig{In: bad, Out: bad, Seed: seed}))
			began := time.Now()
			waitOnline(t, client)
			require.Less(t, time.Since(began), 10*time.Minute)
			lost := 0
			for end := time.Now().Add(6 * time.Hour); time.Now().Before(end); time.Sleep(time.Minute) {
				if len(client.Addrs()) == 0 {
					lost++
				}
			}
			require.Less(t, lost, 6*60/50, "in less than one of fifty minutes there is no address")
			require.NotEmpty(t, s.types())
			client.Close()
			server.Close()
		}
	})
}

// A flood of malformed messages fills neither memory nor the log, and does not keep the client from
// a good server.
func TestAFloodOfNonsenseFromAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, wire := linkWithServer(t, 0)
		var log logBuffer
		client := newDHCPHost(t, wire, func(c *usernet.Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		defer client.Close()
		time.Sleep(time.Second)
		require.Equal(t, "an offer of 192.0.2.1 is not taken: its lease time is 0", client.DHCP()[0].Refusal)
		s.mu.Lock()
		m := *s.got[0]
		s.mu.Unlock()
		m.Op, m.YIAddr = dhcp.BootReply, netip.MustParseAddr("192.0.2.7")
		m.Options = dhcp.Options4{{Code: dhcp.OptMessageType, Data: []byte{byte(dhcp.Offer)}}}
		for i := range 5000 {
			m.Options.Set(dhcp.OptDomainName, fmt.Appendf(nil, "\x1b[31m%d", i))
			b, err := m.Append(nil, 0)
			require.NoError(t, err)
			if i%3 == 0 {
				b = b[:i%len(b)]
			}
			to := usernet.PacketInfo{Remote: netip.MustParseAddrPort("255.255.255.255:68"), Interface: 2}
			_, err = s.conn.WritePacket(b, to)
			require.NoError(t, err)
			if i%100 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		s.set(func() { s.lease = 3600 })
		waitOnline(t, client)
		require.NotContains(t, log.String(), "\x1b")
		require.Less(t, strings.Count(log.String(), "\n"), 10)
	})
}

// A test in a synctest bubble does not fail if the test never closes a host. The state of the host's DHCP client
// makes no difference.
func TestAForgottenDHCPClientLeavesNothingBehind(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Second, time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			_, wire := linkWithServer(t, time.Hour)
			newDHCPHost(t, wire)
			alone, _ := nic.Pipe(nic.PipeConfig{})
			newDHCPHost(t, alone)
			time.Sleep(wait)
		})
	}
}

func TestDHCPNeedsAnEthernet(t *testing.T) {
	_, err := usernet.New(usernet.Config{NIC: nic.NewLoopback(nic.LoopbackConfig{}), DHCP: true})
	require.EqualError(t, err, "usernet: DHCP needs an Ethernet, and NIC is none: invalid argument")
	_, err = usernet.New(usernet.Config{DHCP: true})
	require.Error(t, err)
}

func TestWaitOnlineSaysWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// reason returns why WaitOnline has given up, with eth0 as the name of the link, and closes h.
		reason := func(h *usernet.Host) string {
			defer h.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := h.WaitOnline(ctx)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			text := strings.TrimSuffix(strings.TrimPrefix(err.Error(), "usernet: not online: "), ": context deadline exceeded")
			return regexp.MustCompile(`^\S+:`).ReplaceAllString(text, "eth0:")
		}
		noLink, err := usernet.New(usernet.Config{})
		require.NoError(t, err)
		require.Equal(t, "there is no link", reason(noLink))
		dev := func() nic.Device { d, _ := nic.Pipe(nic.PipeConfig{}); return d }
		bare, err := usernet.New(usernet.Config{NIC: dev()})
		require.NoError(t, err)
		require.Equal(t, "eth0: it has no address, and neither DHCP nor Auto to get one", reason(bare))
		auto, err := usernet.New(usernet.Config{NIC: dev(), Auto: true})
		require.NoError(t, err)
		require.Equal(t, "eth0: no router of IPv6 has said a prefix: is there one on the link?", reason(auto))
		both := newDHCPHost(t, dev(), func(c *usernet.Config) { c.Auto = true })
		require.Equal(t, "eth0: nobody has answered 2 messages of DHCP, and no router of IPv6 has said a prefix: is the link connected to the right network?", reason(both))
		static := host(dev(), "192.0.2.1/24")
		defer static.Close()
		require.NoError(t, static.WaitOnline(t.Context()))
	})
}
