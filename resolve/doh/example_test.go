package doh_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/usernet/usernet/resolve"
	"github.com/usernet/usernet/resolve/doh"
)

// A resolver that queries its server over HTTPS only. The network of this example is down.
func Example() {
	client, err := doh.New(doh.Config{URL: "https://dns.example/dns-query{?dns}"})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	r := resolve.New(resolve.Config{
		Servers:  []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		Attempts: 1,
		Exchange: client.Exchange,
		Dial: func(_ context.Context, network, address string) (net.Conn, error) {
			fmt.Println("dial", network, address)
			return nil, errors.New("network is down")
		},
	})
	_, err = r.LookupTXT(context.Background(), "example.org")
	fmt.Println(err)
	// Output:
	// dial tcp 192.0.2.53:443
	// lookup example.org on 192.0.2.53:53: Post "https://dns.example/dns-query": network is down
}
