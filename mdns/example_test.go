package mdns_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/usernet/usernet/mdns"
)

// Two nodes on one link: one publishes a web server, and the other finds it.
func Example() {
	now := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	random := func() uint64 { return 12345 }
	server := mdns.New(mdns.Config{Host: "server", Rand: random})
	client := mdns.New(mdns.Config{Rand: random})
	server.SetAddrs(now, []netip.Addr{netip.MustParseAddr("192.0.2.1")})
	server.Publish(now, mdns.Service{Instance: "Web Server", Type: "_http._tcp", Port: 80})
	query, err := client.Query(now, "_http._tcp.local", mdns.PTR, false)
	if err != nil {
		fmt.Println(err)
		return
	}
	nodes := []*mdns.Node{server, client}
	addrs := []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:5353"), netip.MustParseAddrPort("192.0.2.2:5353")}
	for range 300 { // 3 seconds
		now = now.Add(10 * time.Millisecond)
		for i, n := range nodes {
			n.Tick(now)
			for m, ok := n.Next(); ok; m, ok = n.Next() {
				nodes[1-i].Receive(now, m.Data, addrs[i])
			}
		}
	}
	for _, e := range query.Events() {
		fmt.Println(e.Added, e.Record.Target)
	}
	// Output: true Web Server._http._tcp.local.
}
