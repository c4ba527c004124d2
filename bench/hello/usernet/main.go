// Usernet is the smallest program that dials with package net and with usernet.
package main

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

func main() {
	_, err := net.Dial("tcp", "127.0.0.1:1")
	a, _ := nic.Pipe(nic.PipeConfig{})
	h, err2 := usernet.New(usernet.Config{NIC: a, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	if err2 != nil {
		fmt.Println(err2)
		return
	}
	_, err2 = h.Dial("tcp", "127.0.0.1:1")
	fmt.Println("hello", err, err2)
}
