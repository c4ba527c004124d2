package nic_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// host makes a host with one address on a device.
func host(dev nic.Device, addr string) *usernet.Host {
	h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}})
	if err != nil {
		panic(err)
	}
	return h
}

// A host listens for a virtual machine. Instead of QEMU with
//
//	-netdev stream,id=n,addr.type=unix,addr.path=PATH -device virtio-net,netdev=n
//
// a second host connects to the socket.
func ExampleOpenStream() {
	dir, err := os.MkdirTemp("", "usernet")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "vm")
	server, err := nic.OpenStream(nic.StreamConfig{Network: "unix", Address: path, Listen: true})
	if err != nil {
		panic(err)
	}
	machine, err := nic.OpenStream(nic.StreamConfig{Network: "unix", Address: path, Redial: time.Second})
	if err != nil {
		panic(err)
	}
	a, b := host(server, "192.0.2.1/24"), host(machine, "192.0.2.2/24")
	defer a.Close()
	defer b.Close()

	ln, err := a.Listen("tcp", "192.0.2.1:80")
	if err != nil {
		panic(err)
	}
	go func() {
		c, err := ln.Accept()
		if err == nil {
			fmt.Fprint(c, "hello, machine")
			c.Close()
		}
	}()
	c, err := b.Dial("tcp", "192.0.2.1:80")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	buf := make([]byte, 100)
	n, _ := c.Read(buf)
	fmt.Printf("%s\n", buf[:n])
	// Output: hello, machine
}
