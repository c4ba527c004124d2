package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
)

// parseArgs parses the flags of a command, which may stand before, between and after its arguments, and
// returns these. After "--" everything is an argument.
func parseArgs(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		left := fs.Args()
		if len(left) == 0 {
			return rest, nil
		}
		if at := len(args) - len(left); at > 0 && args[at-1] == "--" {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// isSet reports whether the command line has the flag.
func isSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// A prefixFlag is the value of a flag that is an address with the length of its network.
type prefixFlag struct{ p *netip.Prefix }

func (f prefixFlag) String() string {
	if f.p == nil || !f.p.IsValid() {
		return ""
	}
	return f.p.String()
}

func (f prefixFlag) Set(s string) error {
	p, err := netip.ParsePrefix(s)
	if a, bad := netip.ParseAddr(s); bad == nil {
		bits := 24
		if a.Is6() {
			bits = 64
		}
		return fmt.Errorf("/%d is missing, the length of its network: %s/%d", bits, s, bits)
	}
	if err != nil {
		return err
	}
	if err := checkHostAddr(p); err != nil {
		return err
	}
	*f.p = p
	return nil
}

// checkHostAddr tells why an address cannot be that of a host.
func checkHostAddr(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case !a.Is4():
		return errors.New("only IPv4 is supported so far")
	case a.IsLoopback():
		return errors.New("127.0.0.0/8 belongs to the loopback")
	case a.IsUnspecified(), a.IsMulticast(), a.As4()[0] == 0, a.As4()[0] >= 240:
		return errors.New("not the address of a host")
	case p.Bits() == 0:
		return errors.New("a network of length 0 is the whole Internet")
	case isEdge(p):
		return fmt.Errorf("the first and the last address of %v are not those of hosts", p.Masked())
	}
	return nil
}

// isEdge reports whether an address is the first or the last one of its network. Those are not
// addresses of hosts, but in a network of 31 bits (RFC 3021 2.1) or of one address.
func isEdge(p netip.Prefix) bool {
	network := p.Masked()
	return p.Bits() < 31 && (p.Addr() == network.Addr() || !network.Contains(p.Addr().Next()))
}

// A macFlag is the value of a flag that is the address of a network interface.
type macFlag struct{ mac *[6]byte }

func (f macFlag) String() string {
	if f.mac == nil || *f.mac == [6]byte{} {
		return ""
	}
	return net.HardwareAddr(f.mac[:]).String()
}

func (f macFlag) Set(s string) error {
	mac, err := net.ParseMAC(s)
	switch {
	case err != nil || len(mac) != len(f.mac):
		return errors.New("not an address of six bytes, as in 02:00:00:00:00:02")
	case mac[0]&1 != 0:
		return errors.New("the address of a group, since its first byte is odd")
	case [6]byte(mac) == [6]byte{}:
		return errors.New("all zero")
	}
	*f.mac = [6]byte(mac)
	return nil
}
