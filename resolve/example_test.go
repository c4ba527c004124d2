package resolve_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/usernet/usernet/resolve"
)

// A resolver with a hosts file and no server.
func Example() {
	hosts, err := resolve.ParseHosts(strings.NewReader("192.0.2.7 nas nas.example\n2001:db8::7 nas\n"))
	if err != nil {
		fmt.Println(err)
		return
	}
	r := resolve.New(resolve.Config{Hosts: hosts})
	addrs, err := r.LookupHost(context.Background(), "nas")
	fmt.Println(addrs, err)
	_, err = r.LookupHost(context.Background(), "printer")
	fmt.Println(err)
	// Output:
	// [192.0.2.7 2001:db8::7] <nil>
	// lookup printer: no such host
}
