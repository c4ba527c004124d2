package usernet_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// The IPv6 router of a link configures a host. In this example the router is another host of the
// process.
func ExampleConfig_auto() {
	a, b := nic.Pipe(nic.PipeConfig{})
	host, err := usernet.New(usernet.Config{NIC: a, Auto: true})
	if err != nil {
		panic(err)
	}
	defer host.Close()

	prefix := netip.MustParsePrefix("2001:db8:1::/64")
	router, err := usernet.New(usernet.Config{NIC: b, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::1/64")}})
	if err != nil {
		panic(err)
	}
	defer router.Close()
	if err := router.Stack().Advertise("", &stack.RouterConfig{
		Lifetime: 30 * time.Minute,
		Prefixes: []stack.RouterPrefix{{Prefix: prefix}},
		DNS:      []netip.Addr{netip.MustParseAddr("2001:db8:1::53")},
	}); err != nil {
		panic(err)
	}

	for {
		changed := host.Changed()
		for _, addr := range host.Addrs() {
			if prefix.Contains(addr.Addr()) {
				info := host.Interfaces()[1]
				fmt.Println("an address in", addr.Masked())
				fmt.Println("a router:", info.Gateway6.IsValid())
				fmt.Println("name servers:", info.Auto.DNS)
				return
			}
		}
		<-changed
	}
	// Output:
	// an address in 2001:db8:1::/64
	// a router: true
	// name servers: [2001:db8:1::53]
}
