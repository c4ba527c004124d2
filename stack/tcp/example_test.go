package tcp_test

import (
	"fmt"

	"github.com/usernet/usernet/stack/tcp"
)

// Two connections exchange segments without a network and without a clock: the caller carries the
// segments, and says what time it is.
func Example() {
	params := tcp.DefaultParams()
	now := tcp.Time(1)
	var client, server tcp.Conn
	client.Open(now, tcp.Config{Params: &params, ISS: 1000, MSS: 1460, NoDelay: true})

	// carry passes the segments that are ready from one connection to the other. The first opens the server.
	carry := func(name string, from, to *tcp.Conn) {
		var s tcp.Segment
		for from.Next(now, &s) {
			fmt.Printf("%v %s: %v, %d bytes\n", now/tcp.Millisecond, name, s.Flags, s.DataLen())
			if to == &server && server.State() == tcp.Closed {
				server.Accept(now, tcp.Config{Params: &params, ISS: 5000, MSS: 1460, NoDelay: true}, &s)
			} else {
				to.Segment(now, &s)
			}
			s = tcp.Segment{}
		}
	}
	carry("client", &client, &server)
	now += 10 * tcp.Millisecond
	carry("server", &server, &client)
	carry("client", &client, &server)
	client.Write(now, []byte("hello"))
	carry("client", &client, &server)

	buf := make([]byte, 16)
	fmt.Println(server.State(), string(buf[:server.Read(now, buf)]))
	// Output:
	// 0 client: SYN, 0 bytes
	// 10 server: SYN,ACK, 0 bytes
	// 10 client: ACK, 0 bytes
	// 10 client: PSH,ACK, 5 bytes
	// ESTABLISHED hello
}

// A segment that gets lost is sent again when the timer expires, after a second (RFC 6298 2.1).
func ExampleConn_Tick() {
	params := tcp.DefaultParams()
	now := tcp.Time(1)
	var c tcp.Conn
	c.Open(now, tcp.Config{Params: &params, ISS: 1000, MSS: 1460})
	for range 3 {
		var s tcp.Segment
		for c.Next(now, &s) {
			fmt.Println(now/tcp.Millisecond, s.Flags)
		}
		now, _ = c.Deadline()
		c.Tick(now)
	}
	// Output:
	// 0 SYN
	// 1000 SYN
	// 3000 SYN
}
