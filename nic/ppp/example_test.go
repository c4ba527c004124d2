package ppp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic/ppp"
)

// The ends of a serial line: a server that asks for a password and assigns the addresses, and a client.
func Example() {
	lineA, lineB := net.Pipe() // in place of a serial line
	server, err := ppp.New(lineA, ppp.Config{
		Local:  netip.MustParseAddr("192.0.2.1"),
		Remote: netip.MustParseAddr("192.0.2.2"),
		Authenticate: func(user string) (password string, ok bool) {
			return "secret", user == "joe"
		},
	})
	if err != nil {
		panic(err)
	}
	client, err := ppp.New(lineB, ppp.Config{User: "joe", Password: "secret", DefaultRoute: true})
	if err != nil {
		panic(err)
	}
	a, err := usernet.New(usernet.Config{NIC: server})
	if err != nil {
		panic(err)
	}
	defer a.Close()
	b, err := usernet.New(usernet.Config{NIC: client}) // the peer assigns the address
	if err != nil {
		panic(err)
	}
	defer b.Close()
	if err := b.WaitOnline(context.Background()); err != nil {
		panic(err)
	}
	if err := a.WaitOnline(context.Background()); err != nil {
		panic(err)
	}

	ln, err := a.Listen("tcp", ":7")
	if err != nil {
		panic(err)
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "hello, %s at %v", server.Peer(), c.RemoteAddr().(*net.TCPAddr).IP)
	}()
	c, err := b.Dial("tcp", "192.0.2.1:7")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	answer, _ := io.ReadAll(c)
	fmt.Printf("%s\n", answer)

	// Output:
	// hello, joe at 192.0.2.2
}
