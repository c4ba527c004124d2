package usernet

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// twoLinks makes a host with Multicast DNS on the links "lan" and "wan", and a host at the other end of each, with
// the names lanName and wanName.
func twoLinks(t *testing.T, lanName, wanName string) (h, onLAN, onWAN *Host) {
	t.Helper()
	lan, lanFar := nic.Pipe(nic.PipeConfig{})
	wan, wanFar := nic.Pipe(nic.PipeConfig{})
	h, err := New(Config{NICs: []stack.NIC{
		{Name: "lan", Device: lan, Addrs: []netip.Prefix{netip.MustParsePrefix(addrA + "/24")}},
		{Name: "wan", Device: wan, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}},
	}})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	for _, name := range []string{"lan", "wan"} {
		require.NoError(t, h.StartMDNS(name, MDNSConfig{HostName: "alice"}))
	}
	onLAN = newHost(t, lanFar, addrB, func(cfg *Config) { cfg.MDNS = &MDNSConfig{HostName: lanName} })
	onWAN = newHost(t, wanFar, "198.51.100.2", func(cfg *Config) { cfg.MDNS = &MDNSConfig{HostName: wanName} })
	time.Sleep(10 * time.Second)
	return h, onLAN, onWAN
}

// A name is looked up on both links. The answer on one link must not wait for the other link until mdnsTimeout.
func TestMulticastDNSAnswersFromOneOfTwoLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, onLAN, onWAN := twoLinks(t, "bob", "carol")
		for name, addr := range map[string]string{"bob.local": addrB, "carol.local": "198.51.100.2"} {
			start := time.Now()
			addrs, err := h.LookupHost(name)
			require.NoError(t, err)
			require.Contains(t, addrs, addr)
			require.LessOrEqual(t, time.Since(start), mdnsMoreTime)
			c, err := h.Dial("tcp", name+":9")
			require.ErrorContains(t, err, "refused", "it is reached on its link: %v", c)
		}
		for peer, addr := range map[*Host]string{onLAN: addrA, onWAN: "198.51.100.1"} {
			addrs, err := peer.LookupHost("alice.local")
			require.NoError(t, err)
			require.Contains(t, addrs, addr)
			require.Len(t, addrs, 2, "only the addresses of the interface: %v", addrs)
		}
		start := time.Now()
		_, err := h.LookupHost("nobody.local")
		require.ErrorContains(t, err, "no such host")
		require.Equal(t, mdnsTimeout, time.Since(start))
	})
}

// Both links have a machine with the name that is looked up.
func TestMulticastDNSAnswersFromTwoLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, _ := twoLinks(t, "bob", "bob")
		addrs, err := h.LookupNetIP(t.Context(), "ip4", "bob.local")
		require.NoError(t, err)
		require.ElementsMatch(t, []netip.Addr{netip.MustParseAddr(addrB), netip.MustParseAddr("198.51.100.2")}, addrs)
	})
}

// RFC 6762 sections 3 and 4: queries for names below local. and for the reverse names of link-local addresses are
// sent by multicast, and never to a name server.
func TestLinkLocalNamesAreNotAskedOfServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hosts := mdnsHosts(t, "alice", "bob")
		alice, bob := hosts[0], hosts[1]
		require.NoError(t, alice.AddAddr("", netip.MustParsePrefix("169.254.7.1/16"), AddrOptions{}))
		require.NoError(t, bob.AddAddr("", netip.MustParsePrefix("169.254.7.2/16"), AddrOptions{}))
		_, err := alice.Publish(MDNSService{Instance: "Web", Type: "_http._tcp", Port: 80, TXT: []string{"path=/"}})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)

		pc, err := bob.ListenPacket("udp", "127.0.0.1:53")
		require.NoError(t, err)
		defer pc.Close()
		var asked atomic.Int32
		go func() {
			for b := make([]byte, 1500); ; asked.Add(1) {
				if _, _, err := pc.ReadFrom(b); err != nil {
					return
				}
			}
		}()
		bob.resolver = bob.newResolver(&Config{DNS: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}})
		var six netip.Addr
		for _, p := range alice.Addrs() {
			if p.Addr().Is6() {
				six = p.Addr().WithZone("")
			}
		}
		ifName := bob.Interfaces()[1].Name
		for _, addr := range []string{"169.254.7.1", six.String(), six.WithZone(ifName).String(), six.WithZone("2").String()} {
			names, err := bob.LookupAddr(addr)
			require.NoError(t, err, addr)
			require.Equal(t, []string{"alice.local."}, names)
		}
		_, err = bob.LookupAddr("fe80::1234%" + ifName)
		require.EqualError(t, err, "lookup fe80::1234%"+ifName+": no such host")
		_, err = bob.LookupAddr("fe80::1234%nosuch")
		require.EqualError(t, err, "lookup fe80::1234%nosuch: unrecognized address")
		_, err = bob.LookupAddr("2001:db8::1%" + ifName)
		require.EqualError(t, err, "lookup 2001:db8::1%"+ifName+": unrecognized address")
		_, srvs, err := bob.LookupSRV("", "", "Web._http._tcp.local")
		require.NoError(t, err)
		require.Equal(t, []*net.SRV{{Target: "alice.local.", Port: 80}}, srvs)
		txts, err := bob.LookupTXT("Web._http._tcp.local")
		require.NoError(t, err)
		require.Equal(t, []string{"path=/"}, txts)
		cname, err := bob.LookupCNAME("alice.local")
		require.NoError(t, err)
		require.Equal(t, "alice.local.", cname)
		_, err = bob.LookupMX("alice.local")
		require.ErrorContains(t, err, "no such host")
		require.Zero(t, asked.Load(), "queries to the name server")
		_, err = bob.LookupAddr("192.0.2.1")
		require.Error(t, err)
		require.Positive(t, asked.Load())
	})
}

// An interface is removed while names are looked up on it, and while a service is published. With the last
// interface, the sockets are closed.
func TestAnInterfaceIsRemovedWhileMulticastDNSRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _, onWAN := twoLinks(t, "bob", "carol")
		p, err := h.Publish(MDNSService{Instance: "Web", Type: "_http._tcp", Port: 80})
		require.NoError(t, err)
		time.Sleep(10 * time.Second)
		require.True(t, p.Established())
		ended := make(chan error, 1)
		go func() { ended <- h.Browse(context.Background(), "_ipp._tcp", func(mdns.Event) {}) }()
		synctest.Wait()
		require.NoError(t, h.stack.RemoveNIC("lan"))
		require.ErrorIs(t, <-ended, net.ErrClosed)
		name, _ := h.MDNSName("lan")
		require.Empty(t, name)
		addrs, err := h.LookupHost("carol.local")
		require.NoError(t, err, "the other link still works")
		require.Contains(t, addrs, "198.51.100.2")
		in, err := onWAN.LookupInstance(t.Context(), "Web._http._tcp.local")
		require.NoError(t, err)
		require.Equal(t, "alice.local.", in.Host)
		require.NoError(t, p.Close())

		require.NoError(t, h.stack.RemoveNIC("wan"))
		time.Sleep(time.Second)
		_, err = h.Publish(MDNSService{Instance: "Web", Type: "_http._tcp", Port: 80})
		require.ErrorContains(t, err, "mDNS is off")
		pc, err := h.ListenPacket("udp4", ":5353")
		require.NoError(t, err, "the sockets are closed")
		require.NoError(t, pc.Close())

		// Another interface of the same name is another link.
		near, _ := nic.Pipe(nic.PipeConfig{})
		require.NoError(t, h.stack.AddNIC(stack.NIC{Name: "lan", Device: near, Addrs: []netip.Prefix{netip.MustParsePrefix(addrA + "/24")}}))
		require.NoError(t, h.StartMDNS("lan", MDNSConfig{HostName: "alice"}))
	})
}

// mdnsFrame6 returns a frame with a Multicast DNS message of another host over IPv6.
func mdnsFrame6(t *testing.T) nic.Frame {
	t.Helper()
	near, far := nic.Pipe(nic.PipeConfig{})
	frames := make(chan nic.Frame, 1)
	far.Attach(func(batch []nic.Frame) {
		for _, f := range batch {
			// EtherType IPv6, next header UDP.
			if b := slices.Concat(f.Head, f.Body); len(b) > 62 && b[12] == 0x86 && b[20] == 17 && b[57] == 5353&0xff { // UDP to port 5353
				f.Head, f.Body = b, nil
				select {
				case frames <- f:
				default:
				}
			}
		}
	})
	h := newHost(t, near, addrB, func(cfg *Config) { cfg.MDNS = &MDNSConfig{HostName: "bob"} })
	frame := <-frames
	require.NoError(t, h.Close())
	return frame
}

// A messenger answers each IGMP message with a frame, in the goroutine that sends the message.
type messenger struct {
	nic.Device
	recv  func([]nic.Frame)
	frame nic.Frame
	sent  atomic.Int32
}

func (d *messenger) Nonblocking() nic.Device { return d }

func (d *messenger) Attach(recv func([]nic.Frame)) {
	d.recv = recv
	d.Device.Attach(recv)
}

func (d *messenger) Send(batch []nic.Frame) (int, error) {
	n, err := d.Device.Send(batch)
	for _, f := range batch {
		if b := f.Head; len(b) > 23 && b[12] == 0x08 && b[13] == 0 && b[23] == 2 { // EtherType IPv4, protocol IGMP
			d.sent.Add(1)
			d.recv([]nic.Frame{d.frame})
		}
	}
	return n, err
}

// The last link ends, and its sockets leave their groups. On a link in memory, a message can arrive in the
// goroutine that leaves a group. That goroutine must not hold a lock that the receiver takes: when it did, this
// test did not end.
func TestMulticastDNSEndsWhileMessagesArrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := nic.Pipe(nic.PipeConfig{})
		d := &messenger{Device: near, frame: mdnsFrame6(t)}
		h := newHost(t, d, addrA, func(cfg *Config) { cfg.MDNS = &MDNSConfig{HostName: "alice"} })
		time.Sleep(time.Minute)
		n := d.sent.Load()
		received := h.Stats().UDP.Received
		require.Positive(t, received)
		require.NoError(t, h.StopMDNS(""))
		require.Greater(t, d.sent.Load(), n, "the host has left the group")
	})
}
