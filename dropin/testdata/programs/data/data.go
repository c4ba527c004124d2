// Package data uses the data types of net, the list of interfaces, Pipe and Buffers.
package data

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// A config has fields of net's types.
type config struct {
	Listen net.IP
	Peer   *net.TCPAddr
	Mask   net.IPMask
}

// Run writes the results of its calls to w.
func Run(w io.Writer) error {
	ip, network, err := net.ParseCIDR("192.0.2.77/26")
	fmt.Fprintln(w, ip, network, err, network.Contains(net.IPv4(192, 0, 2, 127)), len(ip) == net.IPv6len)
	fmt.Fprintln(w, net.ParseIP("nothing") == nil, net.IPv6loopback, net.IPv4bcast.Equal(net.IPv4(255, 255, 255, 255)))
	mac, err := net.ParseMAC("02-00-5e-10-00-01")
	fmt.Fprintln(w, mac, err)
	_, _, err = net.SplitHostPort("a:b:c")
	fmt.Fprintln(w, err)
	text, err := json.Marshal(config{Listen: ip, Peer: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("192.0.2.1:80")), Mask: net.CIDRMask(26, 32)})
	fmt.Fprintln(w, string(text), err)
	fmt.Fprintln(w, net.FlagUp|net.FlagRunning)
	_, err = net.InterfaceByName("")
	fmt.Fprintln(w, err)
	ifis, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagLoopback == 0 {
			continue
		}
		addrs, err := ifi.Addrs()
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			if n, ok := addr.(*net.IPNet); ok && n.IP.To4() != nil {
				fmt.Fprintln(w, ifi.Name, n)
			}
		}
	}

	near, far := net.Pipe()
	go func() {
		b := net.Buffers{[]byte("one, "), []byte("two, "), []byte("three")}
		b.WriteTo(near)
		near.Close()
	}()
	all, err := io.ReadAll(far)
	fmt.Fprintln(w, string(all), err)

	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := net.Buffers{[]byte("four, "), []byte("five")}
		b.WriteTo(c)
	}()
	c, err := net.Dial(ln.Addr().Network(), ln.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	all, err = io.ReadAll(c)
	fmt.Fprintln(w, string(all), err)

	err = &net.OpError{Op: "read", Net: "tcp", Err: net.ErrClosed}
	fmt.Fprintln(w, err, errors.Is(err, net.ErrClosed))
	return nil
}
