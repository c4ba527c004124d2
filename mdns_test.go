package usernet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/resolve"
)

// mdnsHosts makes hosts on a switch with the addresses 192.0.2.i, one for each name.
func mdnsHosts(t *testing.T, names ...string) []*Host {
	t.Helper()
	sw := nic.NewSwitch(nic.SwitchConfig{})
	var hosts []*Host
	for i, name := range names {
		h, err := New(Config{
			NIC: sw.Port(), Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 24)},
			MDNS: &MDNSConfig{HostName: name},
		})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		hosts = append(hosts, h)
	}
	return hosts
}

func TestHostsFindEachOtherByMulticastDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := mdnsHosts(t, "alice", "bob", "")
		time.Sleep(3 * time.Second)
		name, established := hosts[0].MDNSName("")
		require.Equal(t, "alice.local.", name)
		require.True(t, established)
		ln, err := hosts[0].Listen("tcp", ":80")
		require.NoError(t, err)
		defer ln.Close()
		for _, h := range hosts[1:] {
			start := time.Now()
			addrs, err := h.LookupHost("ALICE.local")
			require.NoError(t, err)
			require.Len(t, addrs, 2, "the IPv4 and the link-local IPv6 address: %v", addrs)
			require.Contains(t, addrs, "192.0.2.1")
			require.Zero(t, time.Since(start))
			c, err := h.Dial("tcp", "alice.local:80")
			require.NoError(t, err)
			c.Close()
			c, err = h.Dial("tcp6", "alice.local.:80")
			require.NoError(t, err, "the address has a zone")
			c.Close()
			_, err = h.LookupHost("carol.local")
			var dnsErr *net.DNSError
			require.ErrorAs(t, err, &dnsErr)
			require.True(t, dnsErr.IsNotFound)
			require.Equal(t, mdnsTimeout, time.Since(start))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err = h.LookupNetIP(ctx, "ip4", "carol.local")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		start := time.Now()
		require.NoError(t, hosts[0].Close())
		require.Less(t, time.Since(start), time.Second)
		time.Sleep(2 * time.Second)
		_, err = hosts[1].LookupHost("alice.local")
		require.ErrorContains(t, err, "no such host", "the host has said goodbye")
	})
}

func TestTwoHostsWithOneMulticastName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := mdnsHosts(t, "host", "host")
		time.Sleep(10 * time.Second)
		var names []string
		for _, h := range hosts {
			name, established := h.MDNSName("")
			require.True(t, established)
			names = append(names, name)
		}
		require.ElementsMatch(t, []string{"host.local.", "host-2.local."}, names)
	})
}

func TestServicesAreBrowsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := mdnsHosts(t, "alice", "bob")
		events := make(chan mdns.Event, 10)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- hosts[1].Browse(ctx, "_http._tcp", func(e mdns.Event) { events <- e }) }()
		p, err := hosts[0].Publish(MDNSService{Instance: "Web. Server", Type: "_http._tcp", Port: 80, TXT: []string{"path=/"}})
		require.NoError(t, err)
		e := <-events
		require.True(t, e.Added)
		in, err := hosts[1].LookupInstance(t.Context(), e.Record.Target)
		require.NoError(t, err)
		require.Equal(t, "alice.local.", in.Host)
		require.Equal(t, uint16(80), in.Port)
		require.Equal(t, []string{"path=/"}, in.TXT)
		require.Contains(t, in.Addrs, netip.MustParseAddr("192.0.2.1"))
		time.Sleep(5 * time.Second)
		require.True(t, p.Established())
		require.Equal(t, "Web. Server", p.Instance())
		require.NoError(t, p.Close())
		require.False(t, (<-events).Added)
		_, err = hosts[1].LookupInstance(t.Context(), `Nothing._http._tcp.local`)
		require.ErrorContains(t, err, "no such host")
		cancel()
		require.ErrorIs(t, <-ended, context.Canceled)
		go func() { ended <- hosts[1].Browse(context.Background(), "_http._tcp", func(e mdns.Event) {}) }()
		synctest.Wait()
		require.NoError(t, hosts[1].Close())
		require.ErrorIs(t, <-ended, net.ErrClosed)
	})
}

func TestErrorsOfMulticastDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := nic.Pipe(nic.PipeConfig{})
		h, err := New(Config{NIC: near, Addrs: []netip.Prefix{netip.MustParsePrefix(addrA + "/24")}})
		require.NoError(t, err)
		defer h.Close()
		_, err = h.Publish(MDNSService{})
		require.ErrorIs(t, err, syscall.ENODEV)
		require.ErrorIs(t, h.Browse(t.Context(), "_http._tcp", nil), syscall.ENODEV)
		require.ErrorIs(t, h.StopMDNS(""), syscall.ESRCH)
		require.ErrorIs(t, h.StartMDNS("eth9", MDNSConfig{}), syscall.ENODEV)
		require.ErrorIs(t, h.StartMDNS("", MDNSConfig{HostName: strings.Repeat("x", 64)}), syscall.EINVAL)
		pc, err := h.ListenPacket("udp4", ":5353")
		require.NoError(t, err)
		require.ErrorIs(t, h.StartMDNS("", MDNSConfig{}), syscall.EADDRINUSE)
		require.NoError(t, pc.Close())
		pc, err = h.ListenPacket("udp6", "[::]:5353")
		require.NoError(t, err)
		require.ErrorIs(t, h.StartMDNS("", MDNSConfig{}), syscall.EADDRINUSE)
		require.NoError(t, pc.Close())
		require.NoError(t, h.StartMDNS("", MDNSConfig{HostName: "host"}))
		require.ErrorIs(t, h.StartMDNS("", MDNSConfig{}), syscall.EEXIST)
		_, err = h.Publish(MDNSService{})
		require.ErrorIs(t, err, mdns.ErrBadService)
		require.ErrorContains(t, h.Browse(t.Context(), "a..b", nil), "a name has at most")
		require.NoError(t, h.StopMDNS(""))
		pc, err = h.ListenPacket("udp4", ":5353")
		require.NoError(t, err, "the sockets are closed")
		pc.Close()
		require.NoError(t, h.Close())
		require.ErrorIs(t, h.StartMDNS("", MDNSConfig{}), net.ErrClosed)
		_, err = h.Publish(MDNSService{})
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// This Multicast DNS does not support MX records and some others, so a lookup of their types below local. fails
// at once.
func TestTypesThatMulticastDNSDoesNotHave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := mdnsHosts(t, "alice", "bob")
		time.Sleep(3 * time.Second)
		start := time.Now()
		_, err := hosts[0].LookupMX("bob.local")
		require.ErrorContains(t, err, "no such host")
		_, err = hosts[0].LookupNS("bob.local")
		require.ErrorContains(t, err, "no such host")
		require.Zero(t, time.Since(start))
	})
}

// Without Multicast DNS, names below local. are looked up as before.
func TestLocalNamesWithoutMulticastDNS(t *testing.T) {
	h, err := New(Config{Hosts: map[string][]netip.Addr{"nas.local": {netip.MustParseAddr("192.0.2.7")}}, Resolver: resolve.Config{}})
	require.NoError(t, err)
	defer h.Close()
	addrs, err := h.LookupHost("nas.local")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.7"}, addrs)
	_, err = h.LookupHost("other.local")
	require.ErrorContains(t, err, "no such host")
}

// A flood of messages needs bounded memory and leaves the host responsive.
func TestAFloodOfMulticastDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := mdnsHosts(t, "alice", "bob", "carol")
		time.Sleep(3 * time.Second)
		require.NoError(t, hosts[1].StopMDNS(""))
		pc, err := hosts[1].ListenPacket("udp4", "192.0.2.2:5353") // responses from other ports are ignored
		require.NoError(t, err)
		defer pc.Close()
		for i := range 20000 {
			// A response with an A record of a name, which is valid for 68 years.
			msg := []byte(fmt.Sprintf("\x00\x00\x84\x00\x00\x00\x00\x01\x00\x00\x00\x00\x08name%04d\x05local\x00\x00\x01\x00\x01\x7f\xff\xff\xff\x00\x04abcd", i%10000))
			_, err := pc.WriteTo(msg, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
			require.NoError(t, err)
			if i%500 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
		addrs, err := hosts[2].LookupHost("alice.local")
		require.NoError(t, err)
		require.Len(t, addrs, 2)
		require.GreaterOrEqual(t, hosts[2].Stats().UDP.Received, uint64(20000))
	})
}

// RFC 6762 section 5.5: a host does not send unicast responses to addresses beyond the link.
func TestNoMulticastDNSAnswerLeavesTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := mdnsHosts(t, "alice", "bob")
		time.Sleep(3 * time.Second)
		// A question for the A records of alice.local.
		query := []byte("\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05alice\x05local\x00\x00\x01\x00\x01")
		ask := func(from string) (answered bool) {
			t.Helper()
			if from != "192.0.2.2" {
				require.NoError(t, hosts[1].AddAddr("", netip.MustParsePrefix(from+"/24"), AddrOptions{}))
			}
			require.NoError(t, hosts[0].AddRoute(Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.2")}))
			defer hosts[0].DelRoute(Route{Dst: netip.MustParsePrefix("198.51.100.0/24")})
			pc, err := hosts[1].ListenPacket("udp4", from+":4000")
			require.NoError(t, err)
			defer pc.Close()
			_, err = pc.WriteTo(query, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353})
			require.NoError(t, err)
			pc.SetReadDeadline(time.Now().Add(time.Second))
			_, _, err = pc.ReadFrom(make([]byte, 1500))
			return err == nil
		}
		require.True(t, ask("192.0.2.2"))
		require.False(t, ask("198.51.100.2"))
	})
}

// After an error of New, the device is as it was.
func TestNewChecksTheNameBeforeItAttaches(t *testing.T) {
	near, _ := nic.Pipe(nic.PipeConfig{})
	_, err := New(Config{NIC: near, MDNS: &MDNSConfig{HostName: strings.Repeat("x", 64)}})
	require.ErrorIs(t, err, syscall.EINVAL)
	h, err := New(Config{NIC: near})
	require.NoError(t, err)
	require.True(t, h.Interfaces()[1].Up)
	require.NoError(t, h.Close())
}
