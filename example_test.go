package usernet_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// twoHosts makes two hosts on a wire.
func twoHosts() (a, b *usernet.Host) {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	return host(wireA, "192.0.2.1/24"), host(wireB, "192.0.2.2/24")
}

func host(dev nic.Device, addr string) *usernet.Host {
	h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
	if err != nil {
		panic(err)
	}
	return h
}

// A web server and a client run on a network in memory. Neither of them is written for usernet.
func Example() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	server, err := usernet.New(usernet.Config{
		NIC:   wireA,
		Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
	})
	if err != nil {
		panic(err)
	}
	defer server.Close()
	client, err := usernet.New(usernet.Config{
		NIC:   wireB,
		Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
	})
	if err != nil {
		panic(err)
	}
	defer client.Close()

	ln, err := server.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "hello, usernet")
	}))

	browser := &http.Client{Transport: &http.Transport{DialContext: client.DialContext}}
	resp, err := browser.Get("http://192.0.2.1/")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		panic(err)
	}
	fmt.Println(resp.Status, string(body))
	// Output: 200 OK hello, usernet
}

// A connection is a net.Conn with all the methods of net.TCPConn that need no descriptor, including
// half-close.
func ExampleHost_Dial() {
	client, server := twoHosts()
	defer client.Close()
	defer server.Close()

	ln, err := server.Listen("tcp", ":7")
	if err != nil {
		panic(err)
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		io.Copy(c, c)
	}()

	c, err := client.Dial("tcp", "192.0.2.2:7")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fmt.Fprint(c, "echo, echo")
	c.(*usernet.TCPConn).CloseWrite()
	answer, err := io.ReadAll(c)
	fmt.Println(string(answer), err)
	fmt.Println(c.RemoteAddr())
	// Output:
	// echo, echo <nil>
	// 192.0.2.2:7
}

// Errors are exactly those of package net, including their texts.
func ExampleHost_Dial_errors() {
	client, server := twoHosts()
	defer client.Close()
	defer server.Close()

	_, err := client.Dial("tcp", "192.0.2.2:81")
	fmt.Println(err)
	fmt.Println(errors.Is(err, syscall.ECONNREFUSED))
	_, err = client.Dial("tcp", "203.0.113.1:80")
	fmt.Println(err)
	_, err = client.Dial("tcp", "192.0.2.2")
	fmt.Println(err)
	// Output:
	// dial tcp 192.0.2.2:81: connect: connection refused
	// true
	// dial tcp 203.0.113.1:80: connect: network is unreachable
	// dial tcp: address 192.0.2.2: missing port in address
}

// A UDP socket is a net.PacketConn.
func ExampleHost_ListenPacket() {
	client, server := twoHosts()
	defer client.Close()
	defer server.Close()

	pc, err := server.ListenPacket("udp", ":5353")
	if err != nil {
		panic(err)
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			pc.WriteTo(append([]byte("you said "), buf[:n]...), from)
		}
	}()

	c, err := client.Dial("udp", "192.0.2.2:5353")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fmt.Fprint(c, "hi")
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	fmt.Println(string(buf[:n]), err)
	// Output: you said hi <nil>
}

// A Dialer has the fields of net.Dialer, and a Host.
func ExampleDialer() {
	client, server := twoHosts()
	defer client.Close()
	defer server.Close()

	d := usernet.Dialer{
		Host:      client,
		Timeout:   50 * time.Millisecond,
		LocalAddr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5555},
	}
	_, err := d.Dial("tcp", "192.0.2.99:80") // no host has this address
	var ne net.Error
	fmt.Println(errors.As(err, &ne) && ne.Timeout())
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	fmt.Println(err)
	// Output:
	// true
	// true
	// dial tcp 192.0.2.1:5555->192.0.2.99:80: i/o timeout
}

// A link can have impairments. The link of this example loses a twentieth of the frames, reorders some
// and duplicates others.
func Example_lossyLink() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	bad := nic.Impairment{Latency: time.Millisecond, Loss: 0.05, Duplicate: 0.02, Reorder: 0.05, ReorderGap: time.Millisecond}
	client := host(nic.Impair(wireA, nic.ImpairConfig{In: bad, Out: bad, Seed: 1}), "192.0.2.1/24")
	server := host(wireB, "192.0.2.2/24")
	defer client.Close()
	defer server.Close()

	data := make([]byte, 256<<10)
	for i := range data {
		data[i] = byte(i >> 8)
	}
	ln, err := server.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		c.Write(data)
		c.Close()
	}()

	c, err := client.Dial("tcp", "192.0.2.2:80")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	got, err := io.ReadAll(c)
	fmt.Println(len(got), sha256.Sum256(got) == sha256.Sum256(data), err)
	// Output: 262144 true <nil>
}

// Ping sends ICMP echo requests.
func ExampleHost_Ping() {
	a, b := twoHosts()
	defer a.Close()
	defer b.Close()

	stats, err := a.Ping(context.Background(), "192.0.2.2", usernet.PingConfig{
		Count:    3,
		Interval: time.Millisecond,
		Size:     56,
		OnReply: func(r usernet.PingReply) {
			fmt.Printf("%d bytes from %v: seq=%d ttl=%d\n", r.Size, r.From, r.Seq, r.TTL)
		},
	})
	fmt.Printf("%d sent, %d received, %.0f%% loss, %v\n", stats.Sent, stats.Received, 100*stats.Loss(), err)
	// Output:
	// 56 bytes from 192.0.2.2: seq=0 ttl=64
	// 56 bytes from 192.0.2.2: seq=1 ttl=64
	// 56 bytes from 192.0.2.2: seq=2 ttl=64
	// 3 sent, 3 received, 0% loss, <nil>
}

// A host looks up names in its own table and on its own DNS servers.
func ExampleHost_LookupHost() {
	h, err := usernet.New(usernet.Config{
		Hosts: map[string][]netip.Addr{"printer.example": {netip.MustParseAddr("192.0.2.7")}},
	})
	if err != nil {
		panic(err)
	}
	defer h.Close()

	addrs, err := h.LookupHost("printer.example")
	fmt.Println(addrs, err)
	_, err = h.LookupHost("scanner.example")
	fmt.Println(err)
	// Output:
	// [192.0.2.7] <nil>
	// lookup scanner.example: no such host
}

// Info returns the state of a connection.
func ExampleTCPConn_Info() {
	a, b := twoHosts()
	defer a.Close()
	defer b.Close()
	ln, err := b.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	go ln.Accept()
	c, err := a.Dial("tcp", "192.0.2.2:80")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fmt.Println(c.(*usernet.TCPConn).Info().State)
	// Output: ESTABLISHED
}

// Conns lists the connections of a host, as ss does.
func ExampleHost_Conns() {
	a, b := twoHosts()
	defer a.Close()
	defer b.Close()
	ln, err := b.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	c, err := a.Dial("tcp", "192.0.2.2:80")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	if _, err := ln.Accept(); err != nil {
		panic(err)
	}
	for conn := range b.Conns() {
		fmt.Println(conn.State, conn.Local, conn.Passive)
	}
	fmt.Println(b.Stats().TCP.Events[tcp.PassiveOpens])
	// Output:
	// ESTABLISHED 192.0.2.2:80 true
	// 1
}

// Events reports what changes in the configuration of a host.
func ExampleHost_Events() {
	a, b := twoHosts()
	defer b.Close()
	defer a.Close()
	changes := a.Events(context.Background())
	if err := a.AddAddr("", netip.MustParsePrefix("198.51.100.1/32"), usernet.AddrOptions{}); err != nil {
		panic(err)
	}
	for e := range changes {
		fmt.Println(e.Kind, e.Addr.Prefix)
		break
	}
	// Output: address added 198.51.100.1/32
}
