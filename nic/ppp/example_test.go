package ppp_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
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

// A PPPoE server, and a client that gets an address from it.
func ExampleServer() {
	ethA, ethB := nic.Pipe(nic.PipeConfig{})
	server, err := ppp.NewServer(ethA, ppp.ServerConfig{
		Name:     "isp",
		Services: []string{"internet"},
		Session: func(s ppp.Session) (ppp.Config, error) {
			return ppp.Config{
				Local:  netip.MustParseAddr("192.0.2.1"),
				Remote: netip.AddrFrom4([4]byte{192, 0, 2, 100 + byte(s.ID)}),
				DNS:    []netip.Addr{netip.MustParseAddr("198.51.100.1")},
			}, nil
		},
	})
	if err != nil {
		panic(err)
	}
	defer server.Close()
	go func() {
		for {
			session, err := server.Accept()
			if err != nil {
				return
			}
			h, err := usernet.New(usernet.Config{NIC: session})
			if err != nil {
				panic(err)
			}
			go func() {
				<-h.Done() // the session has ended
				h.Close()
			}()
		}
	}()

	client, err := ppp.NewClient(ethB, ppp.ClientConfig{Service: "internet", Config: ppp.Config{DefaultRoute: true}})
	if err != nil {
		panic(err)
	}
	h, err := usernet.New(usernet.Config{NIC: client})
	if err != nil {
		panic(err)
	}
	defer h.Close()
	if err := h.WaitOnline(context.Background()); err != nil {
		panic(err)
	}
	stats, err := h.Ping(context.Background(), "192.0.2.1", usernet.PingConfig{Count: 3})
	fmt.Println(stats.Received > 0, err)
	fmt.Println(client.Config().DNS, client.Link().MTU)

	// Output:
	// true <nil>
	// [198.51.100.1] 1492
}
