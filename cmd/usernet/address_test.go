package main

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernel returns addresses of the kernel's interfaces. list has the name of an interface and its address in
// turn.
func kernel(list ...string) (addrs []ifaceAddr) {
	for p := range slices.Chunk(list, 2) {
		addrs = append(addrs, ifaceAddr{p[0], netip.MustParsePrefix(p[1])})
	}
	return addrs
}

func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(s)
}

// The plan avoids networks that other interfaces use. addr and host are the values of -addr and -host-addr; onTAP
// and elsewhere are the addresses of the TAP and of other interfaces.
func TestPlanTakesAddressesThatDisturbNobody(t *testing.T) {
	lo := []string{"lo", "127.0.0.1/8"}
	for _, c := range []struct {
		name               string
		addr, host         string
		onTAP, elsewhere   []string
		wantAddr, wantHost string
		note               string
	}{
		{name: "nothing given, nothing in the way", elsewhere: lo,
			wantAddr: "192.0.2.2/24", wantHost: "192.0.2.1/24"},
		{name: "the first documentation network is in use", elsewhere: []string{"eth0", "192.0.2.2/24"},
			wantAddr: "198.51.100.2/24", wantHost: "198.51.100.1/24", note: "eth0 has the address 192.0.2.2/24, so the link is 198.51.100.0/24"},
		{name: "a part of it is in use", elsewhere: []string{"eth0", "192.0.2.200/30"},
			wantAddr: "198.51.100.2/24", wantHost: "198.51.100.1/24", note: "eth0 has the address 192.0.2.200/30, so the link is 198.51.100.0/24"},
		{name: "a network that contains it is in use", elsewhere: []string{"eth0", "192.0.0.7/16"},
			wantAddr: "198.51.100.2/24", wantHost: "198.51.100.1/24", note: "eth0 has the address 192.0.0.7/16, so the link is 198.51.100.0/24"},
		{name: "two are in use", elsewhere: []string{"eth0", "192.0.2.2/24", "eth1", "198.51.100.1/24"},
			wantAddr: "203.0.113.2/24", wantHost: "203.0.113.1/24", note: "eth0 has the address 192.0.2.2/24, so the link is 203.0.113.0/24"},
		{name: "both given", addr: "10.1.0.5/16", host: "10.1.0.1/16", elsewhere: lo,
			wantAddr: "10.1.0.5/16", wantHost: "10.1.0.1/16"},
		{name: "ours given", addr: "10.1.0.5/16",
			wantAddr: "10.1.0.5/16", wantHost: "10.1.0.6/16"},
		{name: "the last host address of a network given", addr: "10.1.0.254/24",
			wantAddr: "10.1.0.254/24", wantHost: "10.1.0.253/24"},
		{name: "the kernel's given", host: "10.1.0.1/16",
			wantAddr: "10.1.0.2/16", wantHost: "10.1.0.1/16"},
		{name: "a network of two addresses", host: "10.1.0.1/31",
			wantAddr: "10.1.0.0/31", wantHost: "10.1.0.1/31"},
		{name: "the TAP has an address", onTAP: []string{"tap0", "192.0.2.1/24"}, elsewhere: lo,
			wantAddr: "192.0.2.2/24", wantHost: "192.0.2.1/24", note: "tap0 has the address 192.0.2.1/24, so ours is 192.0.2.2/24"},
		{name: "nothing given of IPv6", elsewhere: []string{"lo", "::1/128"},
			wantAddr: "2001:db8::2/64", wantHost: "2001:db8::1/64"},
		{name: "the first documentation network of IPv6 is in use", elsewhere: []string{"eth0", "2001:db8::5/64"},
			wantAddr: "2001:db8:1::2/64", wantHost: "2001:db8:1::1/64", note: "eth0 has the address 2001:db8::5/64, so the link is 2001:db8:1::/64"},
		{name: "the TAP has an address of IPv6", onTAP: []string{"tap0", "2001:db8:7::1/64"},
			wantAddr: "2001:db8:7::2/64", wantHost: "2001:db8:7::1/64", note: "tap0 has the address 2001:db8:7::1/64, so ours is 2001:db8:7::2/64"},
		{name: "ours of IPv6 is given, in a network of two", addr: "2001:db8::/127",
			wantAddr: "2001:db8::/127", wantHost: "2001:db8::1/127"},
		{name: "the TAP has an address and ours is given", addr: "192.0.2.77/24", onTAP: []string{"tap0", "192.0.2.1/24"},
			wantAddr: "192.0.2.77/24", wantHost: "192.0.2.1/24"},
	} {
		t.Run(c.name, func(t *testing.T) {
			// A plan with an address of IPv6 is one of IPv6.
			six := strings.Contains(c.addr+c.host+strings.Join(append(c.onTAP, c.elsewhere...), ""), ":")
			p, err := planAddrs(prefix(c.addr), prefix(c.host), kernel(c.onTAP...), kernel(c.elsewhere...), six)
			require.NoError(t, err)
			require.Equal(t, c.wantAddr, p.addr.String())
			require.Equal(t, c.wantHost, p.host.String())
			require.Equal(t, c.note, p.note)
		})
	}
}

func TestPlanRefusesWhatCannotWork(t *testing.T) {
	eth0 := []string{"eth0", "192.0.2.2/24"}
	for _, c := range []struct {
		name             string
		addr, host       string
		onTAP, elsewhere []string
		want             string
	}{
		{"ours clashes", "192.0.2.9/24", "", nil, eth0,
			"address 192.0.2.9/24 clashes with 192.0.2.2/24 of eth0: choose -addr and -host-addr from a network that is free"},
		{"the kernel's clashes", "", "192.0.2.2/24", nil, eth0,
			"address 192.0.2.2/24 clashes with 192.0.2.2/24 of eth0: choose -addr and -host-addr from a network that is free"},
		{"the TAP's own network is another interface's too", "", "", []string{"tap0", "192.0.2.1/24"}, eth0,
			"address 192.0.2.2/24 clashes with 192.0.2.2/24 of eth0: choose -addr and -host-addr from a network that is free"},
		{"everything is in use", "", "", nil, []string{"a", "192.0.2.1/24", "b", "198.51.100.1/24", "c", "203.0.113.1/24"},
			"every network kept for documentation is in use (192.0.2.1/24 on a): choose -addr and -host-addr yourself"},
		{"one address for both", "10.0.0.1/24", "10.0.0.1/24", nil, nil,
			"-addr and -host-addr are both 10.0.0.1: the two ends need an address each"},
		{"two networks", "10.0.0.1/24", "10.0.1.1/24", nil, nil,
			"-addr 10.0.0.1/24 and -host-addr 10.0.1.1/24 are not on one network"},
		{"one network by two lengths", "10.0.0.1/24", "10.0.0.2/25", nil, nil,
			"-addr 10.0.0.1/24 and -host-addr 10.0.0.2/25 are not on one network"},
		{"no room for two", "10.0.0.1/32", "", nil, nil,
			"the network of 10.0.0.1/32 has no second host address: give both -addr and -host-addr"},
		{"ours clashes in IPv6", "2001:db8::2/64", "", nil, []string{"eth0", "2001:db8::7/32"},
			"address 2001:db8::2/64 clashes with 2001:db8::7/32 of eth0: choose -addr and -host-addr from a network that is free"},
		{"two networks of IPv6", "2001:db8::2/64", "2001:db8:0:1::1/64", nil, nil,
			"-addr 2001:db8::2/64 and -host-addr 2001:db8:0:1::1/64 are not on one network"},
	} {
		t.Run(c.name, func(t *testing.T) {
			six := strings.Contains(c.addr+c.host+strings.Join(append(c.onTAP, c.elsewhere...), ""), ":")
			_, err := planAddrs(prefix(c.addr), prefix(c.host), kernel(c.onTAP...), kernel(c.elsewhere...), six)
			require.EqualError(t, err, c.want)
		})
	}
}

// A link has IPv6 if it is wanted and a network is free, if the user gave an IPv6 address, or if the TAP has one.
func TestPlanBothFamilies(t *testing.T) {
	const wanted = true
	var none prefixes
	p, err := planBoth(none, none, nil, nil, wanted)
	require.NoError(t, err)
	require.Equal(t, "192.0.2.2/24 and 2001:db8::2/64", p.ours().String())
	require.Equal(t, "192.0.2.1/24 and 2001:db8::1/64", p.hosts().String())

	// If all documentation prefixes of IPv6 are in use, a link has IPv4 only, unless the user asks for IPv6.
	inUse := kernel("eth0", "2001:db8::7/32")
	p, err = planBoth(none, none, nil, inUse, wanted)
	require.NoError(t, err)
	require.Equal(t, "192.0.2.2/24", p.ours().String())
	require.Equal(t, "192.0.2.1/24", p.hosts().String())
	require.Contains(t, p.six.note, "the link has no IPv6 addresses: every network kept for documentation is in use (2001:db8::7/32 on eth0)")
	_, err = planBoth(prefixes{six: prefix("2001:db8::2/64")}, none, nil, inUse, wanted)
	require.ErrorContains(t, err, "clashes with 2001:db8::7/32 of eth0")

	p, err = planBoth(none, none, kernel("tap0", "192.0.2.1/24"), nil, !wanted)
	require.NoError(t, err)
	require.False(t, p.six.addr.IsValid(), "the TAP is the user's, and has no IPv6")

	p, err = planBoth(none, none, kernel("tap0", "192.0.2.1/24", "tap0", "2001:db8:7::1/64"), nil, !wanted)
	require.NoError(t, err)
	require.Equal(t, "192.0.2.2/24 and 2001:db8:7::2/64", p.ours().String())

	p, err = planBoth(prefixes{six: prefix("2001:db8:9::9/64")}, none, nil, kernel("eth0", "192.0.2.7/24"), !wanted)
	require.NoError(t, err)
	require.Equal(t, "198.51.100.2/24 and 2001:db8:9::9/64", p.ours().String())
	require.Equal(t, "198.51.100.1/24 and 2001:db8:9::a/64", p.hosts().String())
}
