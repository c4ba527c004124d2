package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// parseArgs parses the flags of a command and returns its other arguments. Flags may stand before,
// between and after the arguments. Everything after "--" is an argument.
func parseArgs(fs *flag.FlagSet, args []string) (rest []string, err error) {
	for {
		if err := fs.Parse(args); err != nil {
			return nil, err
		}
		left := fs.Args()
		if len(left) == 0 {
			return rest, nil
		}
		if ended(fs, args[:len(args)-len(left)]) {
			return append(rest, left...), nil
		}
		rest, args = append(rest, left[0]), left[1:]
	}
}

// splitLetters replaces each argument such as "-ti" by "-t" and "-i", if all its letters are flags without a
// value and there is no flag with the whole name.
func splitLetters(fs *flag.FlagSet, args []string) (split []string) {
	isLetter := func(r rune) bool {
		f := fs.Lookup(string(r))
		if f == nil {
			return r == 'h'
		}
		b, ok := f.Value.(interface{ IsBoolFlag() bool })
		return ok && b.IsBoolFlag()
	}
	for i, a := range args {
		if a == "--" {
			return append(split, args[i:]...)
		}
		name, ok := strings.CutPrefix(a, "-")
		if !ok || len(name) < 2 || fs.Lookup(name) != nil || strings.ContainsFunc(name, func(r rune) bool { return !isLetter(r) }) {
			split = append(split, a)
			continue
		}
		for _, r := range name {
			split = append(split, "-"+string(r))
		}
	}
	return split
}

// ended reports whether "--" ended the flags in args, which fs has parsed. A "--" that is the value of
// a flag does not end the flags.
func ended(fs *flag.FlagSet, args []string) bool {
	for i := 0; i < len(args); i++ {
		name, _, hasValue := strings.Cut(strings.TrimLeft(args[i], "-"), "=")
		if name == "" {
			return !hasValue // "--"
		}
		f := fs.Lookup(name)
		if f == nil {
			return false // -h, which package flag defines itself
		}
		if b, ok := f.Value.(interface{ IsBoolFlag() bool }); !hasValue && !(ok && b.IsBoolFlag()) {
			i++ // skip the flag's value
		}
	}
	return false
}

// isSet reports whether the command line sets the flag.
func isSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// prefixes holds an address with its prefix length for each family. If a family has none, its Prefix
// is invalid.
type prefixes struct{ four, six netip.Prefix }

func (p prefixes) String() string {
	switch {
	case p.six.IsValid() && p.four.IsValid():
		return p.four.String() + " and " + p.six.String()
	case p.six.IsValid():
		return p.six.String()
	case p.four.IsValid():
		return p.four.String()
	}
	return ""
}

// A prefixFlag is the value of a flag for an address with its prefix length. The flag may be given
// once for each family.
type prefixFlag struct{ p *prefixes }

func (f prefixFlag) String() string {
	if f.p == nil {
		return ""
	}
	return f.p.String()
}

func (f prefixFlag) Set(s string) error {
	p, err := netip.ParsePrefix(s)
	if a, bad := netip.ParseAddr(s); bad == nil { // an address without a prefix length
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
	to, family := &f.p.four, "IPv4"
	if p.Addr().Is6() {
		to, family = &f.p.six, "IPv6"
	}
	if to.IsValid() {
		return fmt.Errorf("only one %s address is allowed, and it is already %v", family, to)
	}
	*to = p
	return nil
}

// checkHostAddr returns an error if a host cannot have the address.
func checkHostAddr(p netip.Prefix) error {
	a := p.Addr()
	switch {
	case a.Is4In6():
		return fmt.Errorf("an IPv4 address is written %v", a.Unmap())
	case a.IsLoopback() && a.Is6():
		return errors.New("::1 belongs to the loopback")
	case a.IsLoopback():
		return errors.New("127.0.0.0/8 belongs to the loopback")
	case a.IsUnspecified(), a.IsMulticast(), a.Is4() && (a.As4()[0] == 0 || a.As4()[0] >= 240):
		return errors.New("not the address of a host")
	case a.Is6() && a.IsLinkLocalUnicast():
		return errors.New("the link-local address is made from -mac")
	case p.Bits() == 0:
		return errors.New("a network of length 0 is the whole Internet")
	case isEdge(p) && a.Is6():
		return fmt.Errorf("the first address of %v is that of its routers", p.Masked())
	case isEdge(p):
		return fmt.Errorf("the first and the last address of %v are not those of hosts", p.Masked())
	}
	return nil
}

// isEdge reports whether a host cannot have the address p because of its position in its network. In
// IPv4 these are the first and the last address, except in a network with a prefix of 31 bits
// (RFC 3021 2.1) or 32 bits. In IPv6 it is the first address, the Subnet-Router anycast address
// (RFC 4291 2.6.1), except in a network with a prefix of 127 bits (RFC 6164 5.1) or 128 bits.
func isEdge(p netip.Prefix) bool {
	network := p.Masked()
	if p.Addr().Is6() {
		return p.Bits() < 127 && p.Addr() == network.Addr()
	}
	return p.Bits() < 31 && (p.Addr() == network.Addr() || !network.Contains(p.Addr().Next()))
}

// A macFlag is the value of a flag for a MAC address.
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
