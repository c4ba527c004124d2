package usernet

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// Each invalid input of IPv6 has the error of package net, or an error that says what to do.
func TestBadInputOfIPv6HasAClearError(t *testing.T) {
	a, b := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")
	config := func(change func(*Config)) error {
		dev, _ := nic.Pipe(nic.PipeConfig{})
		c := Config{NIC: dev, Addrs: []netip.Prefix{a, b}}
		change(&c)
		h, err := New(c)
		if err == nil {
			h.Close()
		}
		return err
	}
	dev, _ := nic.Pipe(nic.PipeConfig{})
	h, err := New(Config{NIC: dev, Addrs: []netip.Prefix{a, b}})
	require.NoError(t, err)
	defer h.Close()
	dial := func(network, address string) error { _, err := h.Dial(network, address); return err }
	listen := func(network, address string) error { _, err := h.Listen(network, address); return err }
	bind := func(network, address string) error { _, err := h.ListenPacket(network, address); return err }
	route := func(dst, via string) error {
		return h.AddRoute(stack.Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)})
	}
	addr := netip.MustParseAddr
	for _, c := range []struct {
		err  error
		is   error // if it is not nil, err wraps it
		text string
	}{
		// A zone that does not exist.
		{dial("tcp", "[fe80::1%nope]:80"), syscall.EINVAL, "dial tcp [fe80::1%nope]:80: connect: invalid argument"},
		{dial("udp", "[fe80::1%nope]:80"), syscall.EINVAL, "dial udp [fe80::1%nope]:80: connect: invalid argument"},
		{listen("tcp", "[fe80::1%nope]:80"), syscall.EINVAL, "listen tcp [fe80::1%nope]:80: bind: invalid argument"},
		{bind("udp", "[fe80::1%nope]:80"), syscall.EINVAL, "listen udp [fe80::1%nope]:80: bind: invalid argument"},
		{route("2001:db8:1::/48", "fe80::1%nope"), syscall.ENODEV, "stack: AddRoute: the zone of the router fe80::1%nope names no interface: it has to be the name or the index of one: no such device"},
		{config(func(c *Config) { c.Gateway6 = addr("fe80::1%nope") }), nil, "stack: NIC 0: pipe-a: Gateway6: the zone of fe80::1%nope is not pipe-a: write it as fe80::1%pipe-a or without a zone: invalid argument"},
		// An address of the wrong family.
		{dial("tcp4", "[2001:db8::2]:80"), nil, "dial tcp4: address 2001:db8::2: no suitable address found"},
		{dial("tcp6", "192.0.2.2:80"), nil, "dial tcp6: address 192.0.2.2: no suitable address found"},
		{listen("tcp4", "[2001:db8::1]:80"), nil, "listen tcp4: address 2001:db8::1: no suitable address found"},
		{bind("udp6", "192.0.2.1:80"), nil, "listen udp6: address 192.0.2.1: no suitable address found"},
		{route("2001:db8:1::/48", "192.0.2.9"), syscall.EAFNOSUPPORT, "stack: AddRoute: the addresses are of different families: address family not supported by protocol"},
		{config(func(c *Config) { c.Gateway6 = addr("192.0.2.9") }), nil, "stack: NIC 0: pipe-a: Gateway6 192.0.2.9 is not an IPv6 address: use Gateway for IPv4"},
		{config(func(c *Config) { c.Gateway = addr("2001:db8::9") }), nil, "stack: NIC 0: pipe-a: Gateway 2001:db8::9 is not an IPv4 address: use Gateway6 for IPv6"},
		{config(func(c *Config) { c.Addrs = []netip.Prefix{netip.MustParsePrefix("::ffff:192.0.2.1/120")} }), syscall.EINVAL, "stack: NIC 0: pipe-a: address ::ffff:192.0.2.1/120: an IPv4 address is to be written as one: invalid argument"},
		// A prefix that is too long.
		{config(func(c *Config) { c.Addrs = []netip.Prefix{netip.PrefixFrom(addr("2001:db8::1"), 129)} }), syscall.EINVAL, "stack: NIC 0: pipe-a: address invalid Prefix: the prefix is malformed: the length after 2001:db8::1 has to be from 0 to 128: invalid argument"},
		{h.AddAddr("", netip.PrefixFrom(addr("2001:db8::7"), 129), stack.AddrOptions{}), syscall.EINVAL, "stack: AddAddr: invalid Prefix: the prefix is malformed: the length after 2001:db8::7 has to be from 0 to 128: invalid argument"},
		{h.AddRoute(stack.Route{Dst: netip.PrefixFrom(addr("2001:db8:1::"), 129), Via: addr("2001:db8::9")}), syscall.EINVAL, "stack: AddRoute: the prefix is malformed: the length after 2001:db8:1:: has to be from 0 to 128: invalid argument"},
		{h.Stack().Advertise("", &stack.RouterConfig{Lifetime: time.Hour, Prefixes: []stack.RouterPrefix{{Prefix: netip.PrefixFrom(addr("2001:db8::"), 129)}}}), nil, "stack: Advertise: the prefix is malformed: the length after 2001:db8:: has to be from 0 to 128: invalid argument"},
		// A gateway that is not on the link.
		{config(func(c *Config) { c.Gateway6 = addr("2001:db8:1::9") }), nil, "stack: NIC 0: pipe-a: gateway 2001:db8:1::9 is not on the link: no address has a network that contains it"},
		{route("2001:db8:1::/48", "2001:db8:7::9"), syscall.ENETUNREACH, "stack: AddRoute: the router 2001:db8:7::9 is on no link: network is unreachable"},
		// An MTU below 1280.
		{config(func(c *Config) { c.NIC, _ = nic.Pipe(nic.PipeConfig{MTU: 1279}) }), syscall.EINVAL, "stack: NIC 0: pipe-a: address 2001:db8::1/64: the link's MTU of 1279 is below the 1280 that IPv6 needs (RFC 8200 5): invalid argument"},
		{config(func(c *Config) {
			c.NIC, _ = nic.Pipe(nic.PipeConfig{MTU: 1279})
			c.Addrs, c.Auto = c.Addrs[:1], true
		}), nil, "stack: NIC 0: pipe-a: Auto: the link's MTU of 1279 is below the 1280 that IPv6 needs (RFC 8200 5): invalid argument"},
		{h.Stack().Advertise("", &stack.RouterConfig{Lifetime: time.Hour, MTU: 1279}), nil, "stack: Advertise: an MTU of 1279 is not from 1280 to that of the link, 1500: invalid argument"},
	} {
		require.EqualError(t, c.err, c.text)
		if c.is != nil {
			require.ErrorIs(t, c.err, c.is)
		}
	}
}
