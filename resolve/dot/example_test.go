package dot_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/usernet/usernet/resolve"
	"github.com/usernet/usernet/resolve/dot"
)

// A resolver that queries its server over TLS only. The network of this example is down.
func Example() {
	client := &dot.Client{ServerName: "dns.example"}
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
	_, err := r.LookupTXT(context.Background(), "example.org")
	fmt.Println(err)
	// Output:
	// dial tcp 192.0.2.53:853
	// lookup example.org on 192.0.2.53:53: network is down
}
