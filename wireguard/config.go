package wireguard

import (
	"bufio"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// A Key is a public, private or preshared key.
type Key [32]byte

// ParseKey parses a key in base64, as the wg command prints it.
func ParseKey(s string) (Key, error) {
	b, err := base64.StdEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(Key{}) {
		return Key{}, errors.New("a key has 44 characters of base64")
	}
	return Key(b), nil
}

// String returns the key in base64.
func (k Key) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// A Config configures an Interface. ParseConfig makes a Config from a file of wg-quick.
type Config struct {
	// PrivateKey is the key of this end.
	PrivateKey Key
	// ListenPort is the UDP port for encrypted packets, chosen at random if zero.
	ListenPort uint16
	// FwMark is the mark of encrypted packets in the kernel (Linux only), none if zero.
	FwMark uint32
	// Addresses are the host's addresses in the tunnel with their prefix lengths.
	Addresses []netip.Prefix
	// DNS are the name servers that the host queries through the tunnel, and Search are the domains that it
	// appends to names without a final dot.
	DNS    []netip.Addr
	Search []string
	// MTU is the largest packet in the tunnel in bytes, 1420 if zero.
	MTU int
	// If NoRoutes is set, no routes are added for the AllowedIPs of the peers. In a file of wg-quick, this is
	// "Table = off".
	NoRoutes bool
	// Peers are the other ends.
	Peers []Peer
}

// A Peer is another end of the tunnel.
type Peer struct {
	PublicKey Key
	// PresharedKey is an additional symmetric key, none if zero.
	PresharedKey Key
	// AllowedIPs are the addresses behind the peer. Packets to these addresses are sent to the peer. Packets that
	// the peer sends from other addresses are dropped.
	AllowedIPs []netip.Prefix
	// Endpoint is the "host:port" to which encrypted packets are sent. If it is empty, the peer has to send first.
	Endpoint string
	// Keepalive is the interval of keep-alive packets, rounded to seconds and at most 65535 s. Zero means none.
	Keepalive time.Duration
}

// ParseConfig reads a Config in the form of a file of wg-quick(8). Commands such as PostUp are errors, because a
// usernet host runs no commands. SaveConfig is ignored. An error in a line names the line.
func ParseConfig(r io.Reader) (Config, error) {
	p := configParser{}
	in := bufio.NewScanner(r)
	for n := 1; in.Scan(); n++ {
		if err := p.line(in.Text()); err != nil {
			return Config{}, fmt.Errorf("wireguard: line %d: %w", n, err)
		}
	}
	if err := in.Err(); err != nil {
		return Config{}, fmt.Errorf("wireguard: %w", err)
	}
	if err := p.cfg.check(); err != nil {
		return Config{}, err
	}
	return p.cfg, nil
}

// check returns an error if the configuration lacks the private key, if a peer is invalid, or if two peers have the
// same public key.
func (c *Config) check() error {
	if c.PrivateKey == (Key{}) {
		return errors.New("wireguard: there is no private key")
	}
	seen := make(map[Key]bool)
	for i := range c.Peers {
		p := &c.Peers[i]
		if err := p.check(); err != nil {
			return err
		}
		if seen[p.PublicKey] {
			return fmt.Errorf("wireguard: two peers have the public key %v", p.PublicKey)
		}
		seen[p.PublicKey] = true
	}
	return nil
}

// check returns an error if the peer has no public key or its Keepalive is out of range.
func (p *Peer) check() error {
	switch {
	case p.PublicKey == (Key{}):
		return errors.New("wireguard: a peer has no public key")
	case p.Keepalive < 0 || p.Keepalive > 65535*time.Second:
		return fmt.Errorf("wireguard: peer %v: the keep-alive interval is at most 65535 s", p.PublicKey)
	}
	return nil
}

// A configParser parses a Config line by line.
type configParser struct {
	cfg     Config
	section string // in lower case; "" before the first section
}

func (p *configParser) line(s string) error {
	s, _, _ = strings.Cut(s, "#")
	if s = strings.TrimSpace(s); s == "" {
		return nil
	}
	if strings.HasPrefix(s, "[") {
		switch p.section = strings.ToLower(s); p.section {
		case "[interface]":
		case "[peer]":
			p.cfg.Peers = append(p.cfg.Peers, Peer{})
		default:
			return fmt.Errorf("section %q is neither [Interface] nor [Peer]", s)
		}
		return nil
	}
	key, value, ok := strings.Cut(s, "=")
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	switch {
	case !ok:
		return fmt.Errorf("%q is not of the form Key = Value", s)
	case p.section == "":
		return fmt.Errorf("%s stands before the first section", key)
	case value == "":
		return fmt.Errorf("%s has no value", key)
	}
	known, err := true, error(nil)
	if p.section == "[peer]" {
		known, err = p.peer(&p.cfg.Peers[len(p.cfg.Peers)-1], strings.ToLower(key), value)
	} else {
		known, err = p.iface(strings.ToLower(key), value)
	}
	if !known {
		err = fmt.Errorf("%s has no key %s", p.section, key)
	} else if err != nil {
		err = fmt.Errorf("%s: %w", key, err)
	}
	return err
}

// iface parses a key of the section [Interface]. known is false if there is no such key.
func (p *configParser) iface(key, value string) (known bool, err error) {
	c := &p.cfg
	switch key {
	case "privatekey":
		c.PrivateKey, err = ParseKey(value)
	case "listenport":
		c.ListenPort, err = parseUint[uint16](value, 16)
	case "fwmark":
		if value != "off" {
			c.FwMark, err = parseUint[uint32](value, 32)
		}
	case "address":
		c.Addresses, err = appendPrefixes(c.Addresses, value, false)
	case "dns":
		for _, s := range list(value) {
			if a, err := netip.ParseAddr(s); err == nil {
				c.DNS = append(c.DNS, a)
			} else {
				c.Search = append(c.Search, s)
			}
		}
	case "mtu":
		var n uint16
		n, err = parseUint[uint16](value, 16)
		c.MTU = int(n)
	case "table":
		if c.NoRoutes = value == "off"; !c.NoRoutes && value != "auto" {
			err = errors.New(`a usernet host has one routing table: use "auto" or "off"`)
		}
	case "saveconfig":
	case "preup", "postup", "predown", "postdown":
		err = errors.New("a usernet host runs no commands: remove this line")
	default:
		return false, nil
	}
	return true, err
}

// peer parses a key of a section [Peer]. known is false if there is no such key.
func (p *configParser) peer(peer *Peer, key, value string) (known bool, err error) {
	switch key {
	case "publickey":
		peer.PublicKey, err = ParseKey(value)
	case "presharedkey":
		peer.PresharedKey, err = ParseKey(value)
	case "allowedips":
		peer.AllowedIPs, err = appendPrefixes(peer.AllowedIPs, value, true)
	case "endpoint":
		peer.Endpoint = value
		_, _, err = net.SplitHostPort(value)
	case "persistentkeepalive":
		if value != "off" {
			var n uint16
			n, err = parseUint[uint16](value, 16)
			peer.Keepalive = time.Duration(n) * time.Second
		}
	default:
		return false, nil
	}
	return true, err
}

// list returns the parts of a value between commas.
func list(value string) (parts []string) {
	for s := range strings.SplitSeq(value, ",") {
		if s = strings.TrimSpace(s); s != "" {
			parts = append(parts, s)
		}
	}
	return parts
}

// appendPrefixes appends the prefixes of a list. An address without a prefix length gets the full length. If masked
// is set, appendPrefixes clears the bits after the prefix length.
func appendPrefixes(to []netip.Prefix, value string, masked bool) ([]netip.Prefix, error) {
	for _, s := range list(value) {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, aerr := netip.ParseAddr(s)
			if aerr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("%q is not an address with a prefix length, such as 192.0.2.0/24", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if masked {
			p = p.Masked()
		}
		to = append(to, p)
	}
	return to, nil
}

// parseUint parses a number in the forms of an integer literal in Go: for example decimal, or hexadecimal with 0x.
func parseUint[T uint16 | uint32](s string, bits int) (T, error) {
	n, err := strconv.ParseUint(s, 0, bits)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", s, uint64(1)<<bits-1)
	}
	return T(n), nil
}
