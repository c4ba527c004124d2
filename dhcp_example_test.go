package usernet_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// The DHCP server of a link configures a host. The host's client does not probe whether another machine
// has the address. Config.DHCP starts a client with the default settings.
func ExampleHost_StartDHCP() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	server := host(wireA, "192.0.2.1/24")
	defer server.Close()
	serveDHCP(server, netip.MustParseAddr("192.0.2.7"), time.Hour)

	client, err := usernet.New(usernet.Config{NIC: wireB})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	if err := client.StartDHCP("", usernet.DHCPConfig{HostName: "seven", NoProbe: true}); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := client.WaitOnline(ctx); err != nil {
		panic(err)
	}
	d := client.DHCP()[0]
	fmt.Println(d.State, d.Lease.Addr, "from", d.Lease.Server)
	fmt.Println("by", client.Interfaces()[1].Gateway)
	_, err = client.Dial("tcp", "192.0.2.1:80")
	fmt.Println(err)
	// Output:
	// BOUND 192.0.2.7/24 from 192.0.2.1
	// by 192.0.2.1
	// dial tcp 192.0.2.1:80: connect: connection refused
}

// A host serves the other hosts of its link by DHCP. One client has a reserved address.
func ExampleHost_ServeDHCP() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	server := host(wireA, "192.0.2.1/24")
	defer server.Close()
	client, err := usernet.New(usernet.Config{NIC: wireB, NoIPv6: true})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	d, err := server.ServeDHCP("", usernet.DHCPServerConfig{
		Server: dhcp.ServerConfig4{Link: dhcp.Network4{
			Pools:        []dhcp.Range4{{First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.199")}},
			Reservations: []dhcp.Reservation4{{MAC: client.Interfaces()[1].MAC, Addr: netip.MustParseAddr("192.0.2.7"), HostName: "seven"}},
			Routers:      []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			Lease:        24 * time.Hour,
		}},
	})
	if err != nil {
		panic(err)
	}
	if err := client.StartDHCP("", usernet.DHCPConfig{NoProbe: true}); err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := client.WaitOnline(ctx); err != nil {
		panic(err)
	}
	fmt.Println(client.Addrs())
	for b := range d.Bindings() {
		fmt.Println(b.Addr, "is", b.State, "to", b.HostName)
	}
	// Output:
	// [192.0.2.7/24]
	// 192.0.2.7 is leased to seven
}

// A host without a DHCP server on its link gives itself a link-local address (RFC 3927), which it chooses
// from its MAC and then probes.
func ExampleHost_StartLinkLocal() {
	wire, far := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{{2, 0, 0, 0, 0, 1}}})
	defer far.Close()
	h, err := usernet.New(usernet.Config{NIC: wire, NoIPv6: true})
	if err != nil {
		panic(err)
	}
	defer h.Close()
	if err := h.StartLinkLocal(""); err != nil {
		panic(err)
	}
	for _, a := range h.Interfaces()[1].AddrInfo {
		fmt.Println(a.Prefix, a.State, "by", a.Origin)
	}
	// Output:
	// 169.254.172.172/16 tentative by link-local
}

// A program implements DHCP (RFC 2131) itself. It broadcasts its messages from 0.0.0.0 over the link that
// needs the address, and adds the address and the route that the server assigns.
func ExampleHost_AddAddr() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	server := host(wireA, "192.0.2.1/24")
	defer server.Close()
	client, err := usernet.New(usernet.Config{NIC: wireB, NoIPv6: true})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	serveDHCP(server, netip.MustParseAddr("192.0.2.7"), time.Hour)

	link := client.Interfaces()[1]
	conn, err := client.ListenPacket("udp4", ":68")
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	offer := askDHCP(conn, link, dhcpMessage{kind: dhcpDiscover})
	fmt.Println("offered:", offer.addr)
	lease := askDHCP(conn, link, dhcpMessage{kind: dhcpRequest, addr: offer.addr})
	err = client.AddAddr(link.Name, netip.PrefixFrom(lease.addr, lease.bits), stack.AddrOptions{Valid: lease.time, Origin: stack.AddrDHCP})
	if err != nil {
		panic(err)
	}
	err = client.AddRoute(stack.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: lease.router, NIC: link.Name})
	if err != nil {
		panic(err)
	}
	for _, a := range client.Interfaces()[1].AddrInfo {
		fmt.Println(a.Prefix, a.State, "by", a.Origin)
	}
	for _, r := range client.Routes() {
		fmt.Println("to", r.Dst, "via", r.Via)
	}
	_, err = client.Dial("tcp", "192.0.2.1:80")
	fmt.Println(err)
	// Output:
	// offered: 192.0.2.7
	// 192.0.2.7/24 preferred by DHCP
	// to 192.0.2.0/24 via invalid IP
	// to 0.0.0.0/0 via 192.0.2.1
	// dial tcp 192.0.2.1:80: connect: connection refused
}

// askDHCP sends a message to the servers on a link and returns the first answer.
func askDHCP(conn net.PacketConn, link stack.InterfaceInfo, m dhcpMessage) (answer dhcpMessage) {
	m.xid, m.mac = 1, link.MAC
	info := usernet.PacketInfo{Remote: netip.MustParseAddrPort("255.255.255.255:67"), Interface: link.Index}
	if _, err := conn.(*usernet.UDPConn).WritePacket(m.bytes(), info); err != nil {
		panic(err)
	}
	buf := make([]byte, 1500)
	n, _, err := conn.ReadFrom(buf)
	if err != nil {
		panic(err)
	}
	return parseDHCP(buf[:n])
}

const (
	dhcpDiscover = 1
	dhcpOffer    = 2
	dhcpRequest  = 3
	dhcpAck      = 5
)

// A dhcpMessage has the parts of a DHCP message that these examples use.
type dhcpMessage struct {
	kind   byte
	xid    uint32
	mac    [6]byte
	addr   netip.Addr // requested, offered or assigned
	bits   int        // prefix length
	router netip.Addr
	time   time.Duration // of the lease
}

// bytes encodes the message as in RFC 2131 2, with the options of RFC 2132.
func (m dhcpMessage) bytes() []byte {
	b := make([]byte, 240)
	b[0], b[1], b[2] = 1, 1, 6 // BOOTREQUEST, Ethernet, the length of a MAC
	binary.BigEndian.PutUint32(b[4:], m.xid)
	// RFC 2131 4.1: a client that cannot receive unicast datagrams before it has an address
	// "SHOULD set the BROADCAST bit in the 'flags' field to 1".
	b[10] = 0x80
	copy(b[28:], m.mac[:])
	copy(b[236:], "\x63\x82\x53\x63") // the magic cookie
	b = append(b, 53, 1, m.kind)      // the message type
	if m.kind == dhcpOffer || m.kind == dhcpAck {
		b[0] = 2 // BOOTREPLY
		copy(b[16:], m.addr.AsSlice())
		mask := ^uint32(0) << (32 - m.bits)
		b = binary.BigEndian.AppendUint32(append(b, 1, 4), mask)
		b = append(append(b, 3, 4), m.router.AsSlice()...)
		b = append(append(b, 54, 4), m.router.AsSlice()...) // the server is the router
		b = binary.BigEndian.AppendUint32(append(b, 51, 4), uint32(m.time.Seconds()))
	} else if m.addr.IsValid() {
		b = append(append(b, 50, 4), m.addr.AsSlice()...)
	}
	return append(b, 255)
}

// parseDHCP decodes a message.
func parseDHCP(b []byte) (m dhcpMessage) {
	m.xid = binary.BigEndian.Uint32(b[4:])
	m.mac = [6]byte(b[28:34])
	m.addr, _ = netip.AddrFromSlice(b[16:20])
	for o := b[240:]; o[0] != 255; o = o[2+o[1]:] {
		v := o[2 : 2+o[1]]
		switch o[0] {
		case 1: // the subnet mask
			for m.bits = 0; m.bits < 32 && v[m.bits/8]&(0x80>>(m.bits%8)) != 0; m.bits++ {
			}
		case 3: // the router
			m.router, _ = netip.AddrFromSlice(v)
		case 50: // the requested address
			m.addr, _ = netip.AddrFromSlice(v)
		case 51: // the time of the lease
			m.time = time.Duration(binary.BigEndian.Uint32(v)) * time.Second
		case 53: // the message type
			m.kind = v[0]
		}
	}
	return m
}

// serveDHCP assigns the address a to each client that asks, until the host is closed.
func serveDHCP(h *usernet.Host, a netip.Addr, lease time.Duration) {
	c, err := h.ListenPacket("udp4", ":67")
	if err != nil {
		panic(err)
	}
	conn := c.(*usernet.UDPConn)
	go func() {
		buf := make([]byte, 1500)
		for {
			n, info, err := conn.ReadPacket(buf)
			if err != nil {
				return
			}
			m := parseDHCP(buf[:n])
			switch m.kind {
			case dhcpDiscover:
				m.kind = dhcpOffer
			case dhcpRequest:
				m.kind = dhcpAck
			default:
				continue
			}
			m.addr, m.bits, m.router, m.time = a, 24, h.Addrs()[0].Addr(), lease
			to := usernet.PacketInfo{Remote: netip.MustParseAddrPort("255.255.255.255:68"), Interface: info.Interface}
			conn.WritePacket(m.bytes(), to)
		}
	}()
}

// A router assigns IPv6 addresses by DHCPv6. The flag M of its advertisements tells hosts to ask for them.
func ExampleHost_ServeDHCP6() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	server := host(wireA, "2001:db8::1/64")
	defer server.Close()
	seven := netip.MustParseAddr("2001:db8::7")
	_, err := server.ServeDHCP6("", usernet.DHCP6ServerConfig{Server: dhcp.ServerConfig6{Pools: []dhcp.Range6{{First: seven, Last: seven}}}})
	if err != nil {
		panic(err)
	}
	err = server.Stack().Advertise("", &stack.RouterConfig{Lifetime: time.Hour, Managed: true})
	if err != nil {
		panic(err)
	}
	client, err := usernet.New(usernet.Config{NIC: wireB, Auto: true, DHCP: true})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := client.WaitOnline(ctx); err != nil {
		panic(err)
	}
	for _, a := range client.Interfaces()[1].AddrInfo {
		if a.Origin == stack.AddrDHCP {
			fmt.Println(a.Prefix)
		}
	}
	// Output:
	// 2001:db8::7/128
}
