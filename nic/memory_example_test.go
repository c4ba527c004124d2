package nic_test

import (
	"bytes"
	"fmt"
	"io"
	"net"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack/wire"
)

// Three hosts on a switch.
func ExampleNewSwitch() {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	server := host(sw.Port(), "192.0.2.1/24")
	defer server.Close()
	ln, err := server.Listen("tcp", "192.0.2.1:7")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			addr, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			fmt.Fprint(c, "hello, ", addr)
			c.Close()
		}
	}()
	for _, addr := range []string{"192.0.2.2", "192.0.2.3"} {
		client := host(sw.Port(), addr+"/24")
		defer client.Close()
		c, err := client.Dial("tcp", "192.0.2.1:7")
		if err != nil {
			panic(err)
		}
		text, err := io.ReadAll(c)
		fmt.Println(string(text), err)
	}
	// Output:
	// hello, 192.0.2.2 <nil>
	// hello, 192.0.2.3 <nil>
}

// What a device sends and receives is written as a capture. Wireshark reads it; here package pcap does.
func ExampleCapture() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}})
	var file bytes.Buffer
	captured := nic.Capture(wireA, &file, nic.CaptureConfig{})
	captured.Attach(func([]nic.Frame) {})
	wireB.Attach(func([]nic.Frame) {})
	frame := []byte("\x02\x00\x00\x00\x00\x02\x02\x00\x00\x00\x00\x01\x08\x06" +
		"\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x01\xc0\x00\x02\x01\x00\x00\x00\x00\x00\x00\xc0\x00\x02\x02")
	if _, err := captured.Send([]nic.Frame{{Head: frame}}); err != nil {
		panic(err)
	}
	captured.Close()

	r, err := pcap.NewReader(&file)
	if err != nil {
		panic(err)
	}
	p, err := r.Next()
	if err != nil {
		panic(err)
	}
	fmt.Println(wire.Describe(p.Data))
	// Output: 02:00:00:00:00:01 > 02:00:00:00:00:02 ARP who-has 192.0.2.2 tell 192.0.2.1
}

// A link loses a frame with a probability of 0.2. With the same seed it loses the same frames in each run.
func ExampleImpair() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	bad := nic.Impair(wireA, nic.ImpairConfig{Out: nic.Impairment{Loss: 0.2}, Seed: 7})
	bad.Attach(func([]nic.Frame) {})
	var arrived []byte
	wireB.Attach(func(batch []nic.Frame) {
		for _, f := range batch {
			arrived = append(arrived, f.Head[14])
		}
	})
	for i := range byte(10) {
		frame := make([]byte, 60)
		frame[14] = i
		if _, err := bad.Send([]nic.Frame{{Head: frame}}); err != nil {
			panic(err)
		}
	}
	bad.Close()
	fmt.Println(arrived)
	// Output: [0 1 4 5 7 8]
}
