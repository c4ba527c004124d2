package usernet_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// A host says what it drops, why, and by which rule.
func ExampleHost_Watch() {
	a, b := nic.Pipe(nic.PipeConfig{})
	host, err := usernet.New(usernet.Config{NIC: a, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer host.Close()
	peer, err := usernet.New(usernet.Config{NIC: b, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer peer.Close()

	watcher, err := host.Watch(stack.WatchConfig{Drops: true, Filter: "udp"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer watcher.Close()

	conn, err := peer.Dial("udp", "192.0.2.1:9999") // no socket of the host has this port
	if err != nil {
		fmt.Println(err)
		return
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		fmt.Println(err)
	}
	e, err := watcher.Next(context.Background())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(e.NIC, e.Reason)
	fmt.Println(e.Reason.Rule())
	fmt.Println(e.Len, "bytes from", e.Remote.Addr(), "to", e.Local)
	// Output:
	// pipe-a UDP port without a socket
	// RFC 1122 4.1.3.1: "UDP SHOULD send an ICMP Port Unreachable message."
	// 60 bytes from 192.0.2.2 to 192.0.2.1:9999
}
