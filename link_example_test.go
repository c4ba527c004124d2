package usernet_test

import (
	"fmt"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// A host has two links, with IPv4 and IPv6 on both. On the second link it uses its addresses without
// Duplicate Address Detection.
func ExampleNIC() {
	wireA, _ := nic.Pipe(nic.PipeConfig{})
	wireB, _ := nic.Pipe(nic.PipeConfig{})
	host, err := usernet.New(usernet.Config{
		NICs: []usernet.NIC{{
			Name: "wan", Device: wireA,
			Addrs:    []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
			Gateway:  netip.MustParseAddr("192.0.2.254"),
			Gateway6: netip.MustParseAddr("fe80::1"),
		}, {
			Name: "lan", Device: wireB,
			Addrs:        []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")},
			DADTransmits: -1,
		}},
		Routes: []usernet.Route{{Dst: netip.MustParsePrefix("2001:db8:9::/48"), Via: netip.MustParseAddr("2001:db8:1::9")}},
	})
	if err != nil {
		panic(err)
	}
	defer host.Close()
	for _, link := range host.Interfaces()[1:] {
		for _, a := range link.AddrInfo {
			if !a.Prefix.Addr().IsLinkLocalUnicast() {
				fmt.Println(link.Name, a.Prefix, a.State)
			}
		}
	}
	// Output:
	// wan 192.0.2.1/24 preferred
	// wan 2001:db8::1/64 optimistic
	// lan 198.51.100.1/24 preferred
	// lan 2001:db8:1::1/64 preferred
}

// Two hosts use one wire for three networks: one without a VLAN, and the VLANs 100 and 200.
func ExampleNIC_vlan() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	trunk := func(dev nic.Device, last string) *usernet.Host {
		host, err := usernet.New(usernet.Config{NICs: []usernet.NIC{
			{Name: "eth0", Device: dev, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2." + last + "/24")}},
			{Name: "guests", Device: dev, VLAN: 100, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100." + last + "/24")}},
			{Name: "voice", Device: dev, VLAN: 200, Addrs: []netip.Prefix{netip.MustParsePrefix("203.0.113." + last + "/24")}},
		}})
		if err != nil {
			panic(err)
		}
		return host
	}
	a, b := trunk(wireA, "1"), trunk(wireB, "2")
	defer a.Close()
	defer b.Close()

	ln, err := b.Listen("tcp", "198.51.100.2:80")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	conn, err := a.Dial("tcp", "198.51.100.2:80")
	if err != nil {
		panic(err)
	}
	defer conn.Close()
	fmt.Println(conn.RemoteAddr())
	for _, link := range a.Interfaces()[1:] {
		fmt.Println(link.Name, link.VLAN, link.MTU)
	}
	// Output:
	// 198.51.100.2:80
	// eth0 0 1500
	// guests 100 1500
	// voice 200 1500
}
