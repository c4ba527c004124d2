package stack_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// newStack makes a stack with one link and one address.
func newStack(dev nic.Device, addr string) *stack.Stack {
	s, err := stack.New(stack.Config{NICs: []stack.NIC{{Name: "eth0", Device: dev, Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}}})
	if err != nil {
		panic(err)
	}
	return s
}

// Two stacks on a wire, without the API of package net. Most programs use the package usernet instead.
func Example() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	a, b := newStack(wireA, "192.0.2.1/24"), newStack(wireB, "192.0.2.2/24")
	defer a.Close()
	defer b.Close()

	ln, err := b.ListenTCP(stack.FamilyAny, netip.MustParseAddrPort("192.0.2.2:80"), stack.ListenOptions{})
	if err != nil {
		panic(err)
	}
	c, err := a.DialTCP(context.Background(), stack.FamilyAny, netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.2:80"), stack.TCPOptions{})
	if err != nil {
		panic(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		panic(err)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		panic(err)
	}
	buf := make([]byte, 16)
	n, err := accepted.Read(buf)
	fmt.Println(string(buf[:n]), err)
	for _, n := range a.Neighbors() {
		fmt.Println(n.Addr, n.NIC)
	}

	// Errors are those of the system calls.
	_, err = a.DialTCP(context.Background(), stack.FamilyAny, netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.2:81"), stack.TCPOptions{})
	fmt.Println(err)
	// Output:
	// hello <nil>
	// 192.0.2.2 eth0
	// connect: connection refused
}

// Stats counts the packets that a stack drops, by reason. A reason names the rule of the RFC.
func ExampleStack_Stats() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	s := newStack(wireA, "192.0.2.1/24")
	defer s.Close()
	defer wireB.Close()
	wireB.Attach(func([]nic.Frame) {})
	frame := make([]byte, 60)
	mac := wireA.Link().MAC
	copy(frame, mac[:])
	frame[12], frame[13] = 0x08, 0x00 // IPv4, but the header is zero
	if _, err := wireB.Send([]nic.Frame{{Head: frame}}); err != nil {
		panic(err)
	}
	for reason, n := range s.Stats().Drops {
		fmt.Printf("%d: %s (%s)\n", n, reason, reason.Rule())
	}
	// Output:
	// 1: bad IPv4 version (RFC 1122 3.2.1.1: "A datagram whose version number is not 4 MUST be silently discarded.")
}
