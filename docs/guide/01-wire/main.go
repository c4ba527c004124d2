// The program connects two hosts with a wire and lets them talk.
package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/netip"
	"os"
	"syscall"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

func main() {
	//guide:begin hosts
	left, right := nic.Pipe(nic.PipeConfig{})
	alice, err := usernet.New(usernet.Config{
		NIC:   left,
		Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer alice.Close()
	bob, err := usernet.New(usernet.Config{
		NIC:   right,
		Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer bob.Close()
	//guide:end

	//guide:begin talk
	listener, err := bob.Listen("tcp", ":7000")
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprintln(conn, "hello, I am", conn.LocalAddr())
	}()

	conn, err := alice.Dial("tcp", "192.0.2.2:7000")
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.Copy(os.Stdout, conn); err != nil {
		log.Fatal(err)
	}
	//guide:end

	//guide:begin errors
	_, err = alice.Dial("tcp", "192.0.2.2:7001")
	fmt.Println(err)
	fmt.Println("refused:", errors.Is(err, syscall.ECONNREFUSED))

	_, err = alice.Dial("tcp", "198.51.100.1:7000")
	fmt.Println(err)
	//guide:end

	//guide:begin look
	for _, ifc := range alice.Interfaces() {
		fmt.Println(ifc.Name, "MTU", ifc.MTU)
	}
	for _, route := range alice.Routes() {
		if route.Dst.Addr().Is4() {
			fmt.Println("route", route.Dst, "on", route.NIC)
		}
	}
	//guide:end
}
