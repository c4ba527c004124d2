package nic_test

import (
	"fmt"
	"log"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// A host on a TUN device, whose other end is the kernel. It needs root, or a device that belongs to the
// user: ip tuntap add dev tun0 mode tun user $USER.
func ExampleOpenTUN() {
	tun, err := nic.OpenTUN(nic.TUNConfig{Name: "tun0", Addr: netip.MustParsePrefix("192.0.2.1/24")})
	if err != nil {
		log.Fatal(err)
	}
	host, err := usernet.New(usernet.Config{
		NIC:     tun,
		Addrs:   []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
		Gateway: netip.MustParseAddr("192.0.2.1"),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
}

// Two hosts on a wire in memory whose frames begin with the IP header, as on a TUN device.
func Example_withoutEthernet() {
	a, b := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	client, err := usernet.New(usernet.Config{NIC: a, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	server, err := usernet.New(usernet.Config{NIC: b, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}})
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()

	_, err = client.Dial("tcp", "192.0.2.2:80")
	fmt.Println(err)
	fmt.Println("neighbors:", len(client.Neighbors()))
	// Output:
	// dial tcp 192.0.2.2:80: connect: connection refused
	// neighbors: 0
}
