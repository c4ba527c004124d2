package dhcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// An OptionCode4 is the code of a DHCPv4 option.
type OptionCode4 uint8

// The options that this package supports (RFC 2132, and other RFCs where named).
const (
	optPad OptionCode4 = 0
	optEnd OptionCode4 = 255

	OptSubnetMask      OptionCode4 = 1
	OptRouter          OptionCode4 = 3
	OptDNS             OptionCode4 = 6
	OptHostName        OptionCode4 = 12
	OptDomainName      OptionCode4 = 15
	OptMTU             OptionCode4 = 26
	OptBroadcast       OptionCode4 = 28
	OptNTP             OptionCode4 = 42
	OptVendorInfo      OptionCode4 = 43
	OptRequestedAddr   OptionCode4 = 50
	OptLeaseTime       OptionCode4 = 51
	optOverload        OptionCode4 = 52
	OptMessageType     OptionCode4 = 53
	OptServerID        OptionCode4 = 54
	OptParameters      OptionCode4 = 55
	OptMessage         OptionCode4 = 56
	OptMaxMessageSize  OptionCode4 = 57
	OptRenewalTime     OptionCode4 = 58 // T1
	OptRebindingTime   OptionCode4 = 59 // T2
	OptVendorClass     OptionCode4 = 60
	OptClientID        OptionCode4 = 61
	OptRapidCommit     OptionCode4 = 80  // RFC 4039
	OptRelayAgent      OptionCode4 = 82  // RFC 3046
	OptIPv6Only        OptionCode4 = 108 // RFC 8925
	OptDomainSearch    OptionCode4 = 119 // RFC 3397
	OptClasslessRoutes OptionCode4 = 121 // RFC 3442
)

// A MessageType4 is the value of the message type option (RFC 2132 9.6).
type MessageType4 uint8

const (
	Discover MessageType4 = 1 + iota
	Offer
	Request
	Decline
	ACK
	NAK
	Release
	Inform
)

func (t MessageType4) String() string {
	names := []string{"DHCPDISCOVER", "DHCPOFFER", "DHCPREQUEST", "DHCPDECLINE", "DHCPACK", "DHCPNAK", "DHCPRELEASE", "DHCPINFORM"}
	if t >= 1 && int(t) <= len(names) {
		return names[t-1]
	}
	return fmt.Sprintf("message type %d", uint8(t))
}

// Type returns the message type, or 0 if there is none.
func (m *Message4) Type() MessageType4 {
	if b, _ := m.Options.Get(OptMessageType); len(b) == 1 {
		return MessageType4(b[0])
	}
	return 0
}

// Addr returns the value of an option that is one address. It is invalid if the option is absent,
// has another length, or is 0.0.0.0.
func (o Options4) Addr(code OptionCode4) netip.Addr {
	if b, _ := o.Get(code); len(b) == 4 {
		return addrAt(b)
	}
	return netip.Addr{}
}

// Addrs returns at most limit addresses of an option. It omits duplicates, and addresses that a host
// cannot have.
func (o Options4) Addrs(code OptionCode4, limit int) (addrs []netip.Addr) {
	b, _ := o.Get(code)
	for ; len(b) >= 4 && len(addrs) < limit; b = b[4:] {
		if a := addrAt(b); isHost(a) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// Uint32 returns the value of a four-byte option. ok is false if the option is absent or has another
// length.
func (o Options4) Uint32(code OptionCode4) (v uint32, ok bool) {
	if b, _ := o.Get(code); len(b) == 4 {
		return binary.BigEndian.Uint32(b), true
	}
	return 0, false
}

// Uint16 returns the value of a two-byte option. ok is false if the option is absent or has another
// length.
func (o Options4) Uint16(code OptionCode4) (v uint16, ok bool) {
	if b, _ := o.Get(code); len(b) == 2 {
		return binary.BigEndian.Uint16(b), true
	}
	return 0, false
}

// Text returns the value of a text option. It replaces bytes that are not printable ASCII by "?",
// so that the text can be displayed.
//
// RFC 2132 2: "Options containing NVT ASCII data SHOULD NOT include a trailing NULL; however, the
// receiver of such options MUST be prepared to delete trailing nulls if they exist."
func (o Options4) Text(code OptionCode4) string {
	b, _ := o.Get(code)
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, strings.TrimRight(string(b), "\x00"))
}

// Name returns the value of an option that is a domain name, or "" if it is not a name that a host
// can have.
func (o Options4) Name(code OptionCode4) string {
	b, _ := o.Get(code)
	name := strings.TrimSuffix(strings.TrimRight(string(b), "\x00"), ".")
	if !isName(name) {
		return ""
	}
	return name
}

// isName reports whether a name consists of labels of letters, digits, hyphens and underscores,
// like the names of hosts and services. Other names must not reach resolvers, logs and terminals.
func isName(name string) bool {
	if len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return false
		}
	}
	return true
}

func isLabel(label string) bool {
	if len(label) == 0 || len(label) > 63 || label[0] == '-' {
		return false
	}
	for _, c := range []byte(label) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// isHost reports whether an address is an IPv4 address that a host on a network can have.
func isHost(a netip.Addr) bool {
	return a.Is4() && a.As4()[0] != 0 && a.As4()[0] < 224 && !a.IsLoopback()
}

// maskBits returns the prefix length of a mask. ok is false if the bits of the mask are not contiguous.
func maskBits(mask uint32) (bits int, ok bool) {
	for bits = 0; bits < 32 && mask&(1<<(31-bits)) != 0; bits++ {
	}
	return bits, bits == 32 || mask<<bits == 0
}

// classBits returns the prefix length by the class of an address, for servers that send no mask.
// RFC 1122 3.2.1.3 defines the classes.
func classBits(a netip.Addr) int {
	switch b := a.As4()[0]; {
	case b < 128:
		return 8
	case b < 192:
		return 16
	}
	return 24
}

// A Route4 is a route that a server gives to its clients.
type Route4 struct {
	Dst netip.Prefix
	Via netip.Addr // the router; invalid if the destinations are on the link
}

// parseRoutes parses the option of classless static routes and returns at most limit routes. It omits
// duplicates, and routes with an impossible router or destination. ok is false if the option is
// malformed.
//
// RFC 3442: a destination descriptor "consists of one octet describing the width of the subnet
// mask, followed by all the significant octets of the subnet number". The address of the router
// follows it.
func parseRoutes(b []byte, limit int) (routes []Route4, ok bool) {
	for len(b) > 0 {
		bits := int(b[0])
		n := (bits + 7) / 8
		if bits > 32 || len(b) < 1+n+4 {
			return nil, false
		}
		var dst [4]byte
		copy(dst[:], b[1:1+n])
		via := addrAt(b[1+n:])
		b = b[1+n+4:]
		// "After deriving a subnet number and subnet mask from each destination descriptor, the DHCP client
		// MUST zero any bits in the subnet number where the corresponding bit in the mask is zero."
		r := Route4{Dst: netip.PrefixFrom(netip.AddrFrom4(dst), bits).Masked(), Via: via}
		usable := !via.IsValid() || isHost(via)
		// A short prefix such as 0.0.0.0/1 has an address that is not a host's, but contains hosts.
		if bits > 0 && (bits >= 8 || r.Dst.Addr() != netip.IPv4Unspecified()) {
			usable = usable && isHost(r.Dst.Addr())
		}
		if usable && len(routes) < limit && !slices.Contains(routes, r) {
			routes = append(routes, r)
		}
	}
	return routes, true
}

// AppendRoutes appends routes in the form of the option of classless static routes (RFC 3442).
func AppendRoutes(b []byte, routes []Route4) []byte {
	for _, r := range routes {
		bits := r.Dst.Bits()
		dst := r.Dst.Masked().Addr().As4()
		b = append(append(b, byte(bits)), dst[:(bits+7)/8]...)
		var via [4]byte
		putAddr(via[:], r.Via)
		b = append(b, via[:]...)
	}
	return b
}

// AppendAddrs appends addresses in the form of an option's value.
func AppendAddrs(b []byte, addrs ...netip.Addr) []byte {
	for _, a := range addrs {
		var four [4]byte
		putAddr(four[:], a)
		b = append(b, four[:]...)
	}
	return b
}

// parseSearch parses the domain search option and returns at most limit names. It omits duplicates, and
// names that a host cannot have. If the option is malformed, ok is false, and parseSearch returns the
// names before the error.
//
// RFC 3397 2: the names are encoded by RFC 1035 4.1.4, with pointers that are offsets from the
// beginning of the option's value.
func parseSearch(b []byte, limit int) (names []string, ok bool) {
	for at := 0; at < len(b) && len(names) < limit; {
		name, next, ok := searchName(b, at)
		if !ok {
			return names, false
		}
		if name != "" && isName(name) && !slices.Contains(names, name) {
			names = append(names, name)
		}
		at = next
	}
	return names, true
}

// maxPointers is the maximum number of pointers in a name. A name needs fewer pointers, because a name has at
// most 127 labels.
const maxPointers = 128

// searchName parses the name at an offset, and returns the offset of the next name.
func searchName(b []byte, at int) (name string, next int, ok bool) {
	var labels []string
	length, lowest := 0, at
	for hops := 0; ; {
		if at >= len(b) || hops > maxPointers {
			return "", 0, false
		}
		n := int(b[at])
		switch {
		case n == 0:
			if next == 0 {
				next = at + 1
			}
			return strings.Join(labels, "."), next, true
		case n >= 0xc0:
			if at+1 >= len(b) {
				return "", 0, false
			}
			// A pointer must point before all bytes of the name that were read so far. Otherwise
			// parsing might not end.
			to := n&0x3f<<8 | int(b[at+1])
			if to >= lowest {
				return "", 0, false
			}
			if next == 0 {
				next = at + 2
			}
			at, lowest = to, to
			hops++
		case n > 63 || at+1+n > len(b):
			return "", 0, false
		default:
			if length += n + 1; length > 254 {
				return "", 0, false
			}
			label := string(b[at+1 : at+1+n])
			if strings.Contains(label, ".") {
				label = "*" // isName rejects "*", but would take a label with a dot for two labels
			}
			labels = append(labels, label)
			at += 1 + n
		}
	}
}

// AppendSearch appends domain names in the form of the domain search option, with pointers to
// suffixes that are already there (RFC 3397). The error names the domain that cannot be encoded.
func AppendSearch(b []byte, names []string) ([]byte, error) {
	at := len(b)
	seen := make(map[string]int)
	for _, name := range names {
		name = strings.TrimSuffix(name, ".")
		if !isName(name) {
			return b[:at], fmt.Errorf("dhcp: %q is not a domain name", name)
		}
		for rest := strings.ToLower(name); ; {
			if rest == "" {
				b = append(b, 0)
				break
			}
			if to, ok := seen[rest]; ok {
				b = append(b, 0xc0|byte(to>>8), byte(to))
				break
			}
			if to := len(b) - at; to < 0x4000 {
				seen[rest] = to
			}
			label, more, _ := strings.Cut(rest, ".")
			b = append(append(b, byte(len(label))), label...)
			rest = more
		}
	}
	return b, nil
}

// ClientID returns a client identifier by RFC 4361 6.1 for an Ethernet interface: the type 255, an
// IAID and a DUID. Both are made from the MAC (RFC 8415 11.4, DUID-LL), so that they stay the same
// without being stored.
func ClientID(mac [6]byte) []byte {
	id := append([]byte{255}, mac[2:]...)
	id = append(id, 0, 3, 0, 1)
	return append(id, mac[:]...)
}
