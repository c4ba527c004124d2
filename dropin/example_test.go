package dropin_test

import (
	"fmt"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dropin"
)

// The functions serve and greet are in a file that was written for package net: they call net.Dial
// and other functions of net.
func Example() {
	_, err := greet("localhost:80")
	fmt.Println(err)

	host, err := usernet.New(usernet.Config{})
	if err != nil {
		panic(err)
	}
	defer host.Close()
	defer dropin.Use(dropin.Use(host))

	stop, err := serve(":80")
	if err != nil {
		panic(err)
	}
	defer stop()
	fmt.Println(greet("localhost:80"))

	// Output:
	// dial tcp: no network: call dropin.Use with a Host first
	// hello, ::1 <nil>
}
