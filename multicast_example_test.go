package usernet_test

import (
	"fmt"
	"log"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// Hosts on a switch find each other through a multicast group. Each listener gets a copy of a
// datagram.
func ExampleHost_ListenMulticastUDP() {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	var hosts []*usernet.Host
	for i := range 3 {
		h, err := usernet.New(usernet.Config{
			NIC:     sw.Port(),
			Addrs:   []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))},
			Gateway: netip.MustParseAddr("192.0.2.254"), // the route to groups too
		})
		if err != nil {
			log.Fatal(err)
		}
		defer h.Close()
		hosts = append(hosts, h)
	}
	group := &net.UDPAddr{IP: net.IPv4(239, 1, 2, 3), Port: 5353}
	var listeners []*usernet.UDPConn
	for _, h := range hosts {
		c, err := h.ListenMulticastUDP("udp4", nil, group)
		if err != nil {
			log.Fatal(err)
		}
		listeners = append(listeners, c)
	}
	if _, err := listeners[0].WriteTo([]byte("who is there?"), group); err != nil {
		log.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, c := range listeners[1:] {
		n, info, err := c.ReadPacket(buf)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s to %v, TTL %d: %s\n", info.Remote.Addr(), info.Local, info.TTL, buf[:n])
		if _, err := c.WriteTo([]byte("me"), net.UDPAddrFromAddrPort(info.Remote)); err != nil {
			log.Fatal(err)
		}
	}
	for range listeners[1:] {
		n, from, err := listeners[0].ReadFrom(buf)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%v: %s\n", from, buf[:n])
	}
	// Output:
	// 192.0.2.1 to 239.1.2.3, TTL 1: who is there?
	// 192.0.2.1 to 239.1.2.3, TTL 1: who is there?
	// 192.0.2.2:5353: me
	// 192.0.2.3:5353: me
}

// A socket receives the datagrams of one source to a group, and none from other sources.
func ExampleUDPConn_JoinSourceGroup() {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	var socks []*usernet.UDPConn
	for i := range 3 {
		h, err := usernet.New(usernet.Config{
			NIC:     sw.Port(),
			Addrs:   []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/24", i+1))},
			Gateway: netip.MustParseAddr("192.0.2.254"), // the route to groups too
		})
		if err != nil {
			log.Fatal(err)
		}
		defer h.Close()
		c, err := h.ListenUDP("udp4", &net.UDPAddr{Port: 5000})
		if err != nil {
			log.Fatal(err)
		}
		socks = append(socks, c)
	}
	group := netip.MustParseAddr("232.1.2.3")
	if err := socks[0].JoinSourceGroup(nil, group, netip.MustParseAddr("192.0.2.3")); err != nil {
		log.Fatal(err)
	}
	for _, c := range socks[1:] {
		if _, err := c.WriteTo([]byte("hello"), &net.UDPAddr{IP: group.AsSlice(), Port: 5000}); err != nil {
			log.Fatal(err)
		}
	}
	buf := make([]byte, 100)
	n, from, err := socks[0].ReadFrom(buf)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s from %v\n", buf[:n], from)
	// Output:
	// hello from 192.0.2.3:5000
}
