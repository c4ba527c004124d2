package dhcp_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/usernet/usernet/dhcp"
)

// A client and a server exchange their messages without a network. The caller gives the time.
func ExampleServer4() {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	server, err := dhcp.NewServer4(dhcp.ServerConfig4{
		ID: netip.MustParseAddr("192.0.2.1"),
		Link: dhcp.Network4{
			Prefix: netip.MustParsePrefix("192.0.2.0/24"),
			Pools:  []dhcp.Range4{{First: netip.MustParseAddr("192.0.2.7"), Last: netip.MustParseAddr("192.0.2.9")}},
		},
	}, now)
	if err != nil {
		panic(err)
	}
	client := dhcp.NewClient4(dhcp.ClientConfig4{MAC: [6]byte{2, 0, 0, 0, 0, 7}, Rand: func() uint64 { return 1 }})
	client.Up(now)
	for client.State() != dhcp.Bound {
		if s, ok := client.NextSend(); ok {
			fmt.Println(s.Message.Type())
			server.Receive(now, s.Message, true)
		}
		if r, ok := server.NextReply(); ok {
			fmt.Println(r.Message.Type(), r.Message.YIAddr)
			client.Receive(now, r.Message)
		}
		if e, ok := client.NextEvent(); ok && e.Kind == dhcp.Probe {
			client.Probed(now, true)
		}
	}
	fmt.Println(client.Lease().Addr, "until", client.Lease().Expires.Format(time.TimeOnly))
	// Output:
	// DHCPDISCOVER
	// DHCPOFFER 192.0.2.7
	// DHCPREQUEST
	// DHCPACK 192.0.2.7
	// 192.0.2.7/24 until 01:00:00
}
