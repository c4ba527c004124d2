package usernet_test

import (
	"context"
	"fmt"

	"github.com/usernet/usernet"
)

// The route to a host on the same link has one hop: the host itself, whose port is closed.
func ExampleHost_Traceroute() {
	a, b := twoHosts()
	defer a.Close()
	defer b.Close()
	hops, err := a.Traceroute(context.Background(), "192.0.2.2", usernet.TracerouteConfig{Probes: 1})
	if err != nil {
		panic(err)
	}
	for _, hop := range hops {
		for _, r := range hop.Replies {
			fmt.Println(hop.TTL, r.From, r.Final, r.Err)
		}
	}
	// Output:
	// 1 192.0.2.2 true <nil>
}
