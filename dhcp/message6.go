package dhcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The UDP ports of DHCPv6 (RFC 8415 7.2).
const (
	ClientPort6 = 546
	ServerPort6 = 547
)

// AllServers6 returns the multicast address of servers and relay agents, ff02::1:2 (RFC 8415 7.1).
func AllServers6() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 13: 1, 15: 2})
}

// RelayedServers6 returns All_DHCP_Servers, ff05::1:3. Relay agents send to this multicast address of servers
// (RFC 8415 7.1).
func RelayedServers6() netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 5, 13: 1, 15: 3})
}

// A MessageType6 is the type of a DHCPv6 message (RFC 8415 7.3).
type MessageType6 uint8

const (
	Solicit6 MessageType6 = 1 + iota
	Advertise6
	Request6
	Confirm6
	Renew6
	Rebind6
	Reply6
	Release6
	Decline6
	Reconfigure6
	InformationRequest6
	RelayForward6
	RelayReply6
)

func (t MessageType6) String() string {
	names := []string{"Solicit", "Advertise", "Request", "Confirm", "Renew", "Rebind", "Reply", "Release", "Decline", "Reconfigure",
		"Information-request", "Relay-forward", "Relay-reply"}
	if t >= 1 && int(t) <= len(names) {
		return names[t-1]
	}
	return fmt.Sprintf("message type %d", uint8(t))
}

// An OptionCode6 is the code of a DHCPv6 option.
type OptionCode6 uint16

// The options that this package supports (RFC 8415 21, and other RFCs where named).
const (
	Opt6ClientID     OptionCode6 = 1
	Opt6ServerID     OptionCode6 = 2
	Opt6IANA         OptionCode6 = 3
	opt6IAAddr       OptionCode6 = 5
	Opt6Request      OptionCode6 = 6 // option request
	Opt6Preference   OptionCode6 = 7
	Opt6ElapsedTime  OptionCode6 = 8
	Opt6RelayMessage OptionCode6 = 9
	Opt6Status       OptionCode6 = 13
	Opt6RapidCommit  OptionCode6 = 14
	Opt6InterfaceID  OptionCode6 = 18
	Opt6DNS          OptionCode6 = 23 // RFC 3646
	Opt6DomainSearch OptionCode6 = 24 // RFC 3646
	Opt6IAPD         OptionCode6 = 25
	opt6IAPrefix     OptionCode6 = 26
	Opt6SNTP         OptionCode6 = 31 // RFC 4075
	Opt6Refresh      OptionCode6 = 32 // information refresh time
	Opt6NTP          OptionCode6 = 56 // RFC 5908
	Opt6SolMaxRT     OptionCode6 = 82
	Opt6InfMaxRT     OptionCode6 = 83
)

// A Status6 is a status code (RFC 8415 21.13).
type Status6 uint16

const (
	Success6 Status6 = iota
	UnspecFail6
	NoAddrsAvail6
	NoBinding6
	NotOnLink6
	UseMulticast6
	NoPrefixAvail6
)

func (s Status6) String() string {
	names := []string{"Success", "UnspecFail", "NoAddrsAvail", "NoBinding", "NotOnLink", "UseMulticast", "NoPrefixAvail"}
	if int(s) < len(names) {
		return names[s]
	}
	return fmt.Sprintf("status %d", uint16(s))
}

// A Message6 is a DHCPv6 message between a client and a server (RFC 8415 8).
type Message6 struct {
	Type    MessageType6
	XID     uint32 // 24 bits
	Options Options6
}

// An Option6 is an option.
type Option6 struct {
	Code OptionCode6
	Data []byte
}

// Options6 are options in the order of the message. A code may occur several times.
type Options6 []Option6

// Get returns the value of the first option with a code. ok reports whether the option is present.
func (o Options6) Get(code OptionCode6) (data []byte, ok bool) {
	for i := range o {
		if o[i].Code == code {
			return o[i].Data, true
		}
	}
	return nil, false
}

// Add appends an option. It does not copy data.
func (o *Options6) Add(code OptionCode6, data []byte) { *o = append(*o, Option6{code, data}) }

// maxOptions6 limits the number of options at each level of a message.
const maxOptions6 = 256

// ParseMessage6 parses a message. It keeps no reference to b. The error matches ErrMalformed. Messages of relay
// agents are refused with that error too: see ParseRelay6.
func ParseMessage6(b []byte) (*Message6, error) {
	if len(b) < 4 {
		return nil, malformed("%d bytes, shorter than the minimum of 4", len(b))
	}
	m := &Message6{Type: MessageType6(b[0]), XID: binary.BigEndian.Uint32(b) & 0xffffff}
	if m.Type == RelayForward6 || m.Type == RelayReply6 {
		return nil, malformed("%v of a relay agent", m.Type)
	}
	var err error
	m.Options, err = parseOptions6(slices.Clone(b[4:]))
	return m, err
}

// parseOptions6 parses options. The values are slices of b, not copies.
func parseOptions6(b []byte) (o Options6, err error) {
	for len(b) > 0 {
		if len(b) < 4 || len(b)-4 < int(binary.BigEndian.Uint16(b[2:])) {
			return nil, malformed("an option is cut off")
		}
		if len(o) == maxOptions6 {
			return nil, malformed("more than %d options", maxOptions6)
		}
		n := 4 + int(binary.BigEndian.Uint16(b[2:]))
		o.Add(OptionCode6(binary.BigEndian.Uint16(b)), b[4:n:n])
		b = b[n:]
	}
	return o, nil
}

// Append appends the message to b.
func (m *Message6) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(m.Type)<<24|m.XID&0xffffff)
	return m.Options.append(b)
}

func (o Options6) append(b []byte) []byte {
	for _, x := range o {
		b = binary.BigEndian.AppendUint16(b, uint16(x.Code))
		b = binary.BigEndian.AppendUint16(b, uint16(len(x.Data)))
		b = append(b, x.Data...)
	}
	return b
}

// Status returns the status code and its text (RFC 8415 21.13). If there is no status code option, the code is
// Success6. The text is for people, and has only printable ASCII.
func (o Options6) Status() (s Status6, text string) {
	b, _ := o.Get(Opt6Status)
	if len(b) < 2 {
		return Success6, ""
	}
	return Status6(binary.BigEndian.Uint16(b)), Options4{{OptMessage, b[2:]}}.Text(OptMessage)
}

// AppendStatus appends the value of a status code option.
func AppendStatus(b []byte, s Status6, text string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(s)), text...)
}

// Addrs returns the addresses of an option, at most limit. It omits addresses that a host cannot have.
func (o Options6) Addrs(code OptionCode6, limit int) (addrs []netip.Addr) {
	b, _ := o.Get(code)
	for ; len(b) >= 16 && len(addrs) < limit; b = b[16:] {
		if a := netip.AddrFrom16([16]byte(b)); isHost6(a) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// isHost6 reports whether an IPv6 address may be the address of a host.
func isHost6(a netip.Addr) bool {
	return a.Is6() && !a.Is4In6() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast()
}

// Uint32 returns the value of a four-byte option.
func (o Options6) Uint32(code OptionCode6) (v uint32, ok bool) {
	if b, _ := o.Get(code); len(b) == 4 {
		return binary.BigEndian.Uint32(b), true
	}
	return 0, false
}

// Search returns at most limit names of the domain search list. It omits names that a host cannot have.
func (o Options6) Search(limit int) []string {
	b, _ := o.Get(Opt6DomainSearch)
	names, _ := parseSearch(b, limit) // RFC 8415 10 forbids compression; parseSearch accepts it
	return names
}

// AppendNames appends domain names without compression (RFC 8415 10). The error names the domain that cannot
// be encoded.
func AppendNames(b []byte, names []string) ([]byte, error) {
	at := len(b)
	for _, name := range names {
		name = strings.TrimSuffix(name, ".")
		if !isName(name) {
			return b[:at], fmt.Errorf("dhcp: %q is not a domain name", name)
		}
		for label := range strings.SplitSeq(name, ".") {
			b = append(append(b, byte(len(label))), label...)
		}
		b = append(b, 0)
	}
	return b, nil
}

// AppendAddrs6 appends IPv6 addresses, 16 bytes each, as the value of an option.
func AppendAddrs6(b []byte, addrs ...netip.Addr) []byte {
	for _, a := range addrs {
		sixteen := a.As16()
		b = append(b, sixteen[:]...)
	}
	return b
}

// ntpServers returns the server addresses in the NTP options, at most limit: those in suboption 1 (RFC 5908 4.1).
func (o Options6) ntpServers(limit int) (addrs []netip.Addr) {
	for _, x := range o {
		if x.Code != Opt6NTP {
			continue
		}
		subs, err := parseOptions6(x.Data)
		if err != nil {
			continue
		}
		for _, s := range subs {
			if s.Code == 1 && len(s.Data) == 16 && len(addrs) < limit {
				if a := netip.AddrFrom16([16]byte(s.Data)); isHost6(a) && !slices.Contains(addrs, a) {
					addrs = append(addrs, a)
				}
			}
		}
	}
	return addrs
}

// An ia6 is an identity association: an IA_NA, whose items are addresses, or an IA_PD, whose items are prefixes
// (RFC 8415 21.4 and 21.21).
type ia6 struct {
	id     uint32
	t1, t2 uint32 // seconds
	items  []iaItem6
	status Status6
	text   string
}

// An iaItem6 is an address or a prefix of an identity association. An address is a prefix of 128 bits.
type iaItem6 struct {
	prefix           netip.Prefix
	preferred, valid uint32 // seconds
}

// maxItems6 limits the number of addresses or prefixes of an identity association.
const maxItems6 = 8

// parseIA parses the value of an IA_NA or IA_PD option. It omits addresses and prefixes that a client cannot use, and
// those whose preferred lifetime is longer than the valid lifetime.
//
// RFC 8415 21.6: "The client MUST discard any addresses for which the preferred lifetime is greater than the valid
// lifetime."
func parseIA(code OptionCode6, b []byte) (ia ia6, ok bool) {
	if len(b) < 12 {
		return ia, false
	}
	ia.id, ia.t1, ia.t2 = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:])
	o, err := parseOptions6(b[12:])
	if err != nil {
		return ia, false
	}
	ia.status, ia.text = o.Status()
	for _, x := range o {
		item, ok := parseItem(code, x)
		if ok && len(ia.items) < maxItems6 && !slices.ContainsFunc(ia.items, func(y iaItem6) bool { return y.prefix == item.prefix }) {
			ia.items = append(ia.items, item)
		}
	}
	return ia, true
}

func parseItem(code OptionCode6, x Option6) (item iaItem6, ok bool) {
	b := x.Data
	switch {
	case code == Opt6IANA && x.Code == opt6IAAddr && len(b) >= 24:
		item.prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(b)), 128)
		item.preferred, item.valid = binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint32(b[20:])
		b = b[24:]
	case code == Opt6IAPD && x.Code == opt6IAPrefix && len(b) >= 25 && b[8] > 0 && b[8] <= 64:
		item.preferred, item.valid = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
		item.prefix = netip.PrefixFrom(netip.AddrFrom16([16]byte(b[9:])), int(b[8])).Masked()
		b = b[25:]
	default:
		return item, false
	}
	o, err := parseOptions6(b)
	if err != nil {
		return item, false
	}
	status, _ := o.Status()
	return item, status == Success6 && item.preferred <= item.valid && isHost6(item.prefix.Addr()) && !item.prefix.Addr().IsLinkLocalUnicast()
}

// option returns the IA as an option.
func (ia *ia6) option(code OptionCode6) Option6 {
	b := binary.BigEndian.AppendUint32(nil, ia.id)
	b = binary.BigEndian.AppendUint32(b, ia.t1)
	b = binary.BigEndian.AppendUint32(b, ia.t2)
	var o Options6
	for _, item := range ia.items {
		a := item.prefix.Addr().As16()
		lifetimes := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, item.preferred), item.valid)
		if code == Opt6IANA {
			o.Add(opt6IAAddr, append(a[:], lifetimes...))
		} else {
			o.Add(opt6IAPrefix, append(append(lifetimes, byte(item.prefix.Bits())), a[:]...))
		}
	}
	if ia.status != Success6 {
		o.Add(Opt6Status, AppendStatus(nil, ia.status, ia.text))
	}
	return Option6{code, o.append(b)}
}

// seconds6 converts a lifetime; infinity becomes a negative duration.
func seconds6(s uint32) time.Duration {
	if s == infinity {
		return -1
	}
	return time.Duration(s) * time.Second
}

// DUIDFromMAC returns a DUID-LL for an Ethernet interface (RFC 8415 11.4). The DUID depends only on the MAC, so the
// caller need not store it.
func DUIDFromMAC(mac [6]byte) []byte { return append([]byte{0, 3, 0, 1}, mac[:]...) }

// DUIDFromMACAndTime returns a DUID-LLT (RFC 8415 11.2). The caller has to store the DUID, because it contains now.
func DUIDFromMACAndTime(mac [6]byte, now time.Time) []byte {
	since := now.Sub(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) / time.Second
	return append(binary.BigEndian.AppendUint32([]byte{0, 1, 0, 1}, uint32(since)), mac[:]...)
}

// DUIDFromUUID returns a DUID-UUID (RFC 8415 11.5, RFC 6355).
func DUIDFromUUID(uuid [16]byte) []byte { return append([]byte{0, 4}, uuid[:]...) }

// isDUID reports whether b may be a DUID. RFC 8415 11.1: "The DUID [...] MUST NOT be [...] longer than 130 octets"
// including the type, and has at least one octet after the type.
func isDUID(b []byte) bool { return len(b) >= 3 && len(b) <= 130 }
