package filter

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// An Error says which word of an expression is wrong.
type Error struct {
	Word   string // the wrong word; empty if the expression ends too early
	Offset int    // of the word in the expression, in bytes
	Reason string // what is wrong, or what is allowed
}

func (e *Error) Error() string {
	if e.Word == "" {
		return "filter: the end is missing: " + e.Reason
	}
	return fmt.Sprintf("filter: %q at byte %d: %s", e.Word, e.Offset, e.Reason)
}

// The limits of an expression, so that parsing and matching need bounded memory and time.
const (
	maxDepth = 100  // nested parentheses
	maxWords = 4096 // words, operators and parentheses
)

// Parse parses an expression. An empty expression selects every frame. The error is an *Error.
func Parse(s string) (*Filter, error) {
	p := &parser{words: split(s), end: len(s)}
	if len(p.words) > maxWords {
		return nil, &Error{p.words[maxWords].s, p.words[maxWords].at, fmt.Sprintf("there are more than %d words", maxWords)}
	}
	if len(p.words) == 0 {
		return new(Filter), nil
	}
	all, err := p.sequence(0)
	if err != nil {
		return nil, err
	}
	if len(p.words) > 0 {
		return nil, p.wrong("only and, or and the end are allowed here")
	}
	return &Filter{*all}, nil
}

// A word is a word of an expression with its offset.
type word struct {
	s  string
	at int
}

// split splits an expression into words. Each parenthesis, !, && and || is a word of its own.
func split(s string) (words []word) {
	start := -1
	flush := func(end int) {
		if start >= 0 {
			words = append(words, word{s[start:end], start})
			start = -1
		}
	}
	for i := 0; i < len(s); i++ {
		if op := s[i:min(i+2, len(s))]; op == "&&" || op == "||" {
			flush(i)
			words = append(words, word{op, i})
			i++
			continue
		}
		switch s[i] {
		case ' ', '\t', '\n', '\r':
			flush(i)
		case '(', ')', '!':
			flush(i)
			words = append(words, word{s[i : i+1], i})
		default:
			if start < 0 {
				start = i
			}
		}
	}
	flush(len(s))
	return words
}

type parser struct {
	words []word
	end   int
	last  *primitive // its keywords apply to a value without keywords; nil: no keywords apply
}

// peek returns the next word, or "" at the end.
func (p *parser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0].s
}

// take reports whether the next word is one of the alternatives. If so, it removes the word.
func (p *parser) take(alternatives ...string) bool {
	for _, a := range alternatives {
		if len(p.words) > 0 && p.words[0].s == a {
			p.words = p.words[1:]
			return true
		}
	}
	return false
}

// wrong returns an error about the next word.
func (p *parser) wrong(reason string) *Error {
	if len(p.words) == 0 {
		return &Error{Offset: p.end, Reason: reason}
	}
	return &Error{p.words[0].s, p.words[0].at, reason}
}

// sequence parses terms up to a word that is neither "and" nor "or", such as a closing parenthesis, or up to the end.
func (p *parser) sequence(depth int) (*sequence, error) {
	first, err := p.term(depth)
	if err != nil {
		return nil, err
	}
	s := &sequence{first: first}
	for {
		and := p.take("and", "&&")
		if !and && !p.take("or", "||") {
			return s, nil
		}
		t, err := p.term(depth)
		if err != nil {
			return nil, err
		}
		s.rest = append(s.rest, joined{and, t})
	}
}

func (p *parser) term(depth int) (t term, err error) {
	for p.take("not", "!") {
		t.not = !t.not
	}
	if len(p.words) > 0 && p.peek() == "(" {
		if depth == maxDepth {
			return t, p.wrong(fmt.Sprintf("there are more than %d parentheses within each other", maxDepth))
		}
		p.take("(")
		if t.inner, err = p.sequence(depth + 1); err != nil {
			return t, err
		}
		if !p.take(")") {
			return t, p.wrong("and, or and ) are allowed here")
		}
		return t, nil
	}
	t.primitive, err = p.primitive()
	return t, err
}

var protocols = map[string]protocol{
	"ip": protoIP, "ip6": protoIP6, "arp": protoARP, "tcp": protoTCP, "udp": protoUDP,
	"icmp": protoICMP, "icmp6": protoICMP6, "igmp": protoIGMP,
}

var kinds = map[string]kind{"host": kindHost, "net": kindNet, "port": kindPort}

// allowed names the words that may begin a primitive.
const allowed = "allowed here are host, net, port, src, dst, ip, ip6, arp, tcp, udp, icmp, icmp6, igmp, not, ( and an address"

// primitive parses one primitive.
func (p *parser) primitive() (c primitive, err error) {
	named := p.peek() // the keyword of the protocol if there is one, for errors
	c.proto = protocols[named]
	hasProto := c.proto != anyProtocol
	if hasProto {
		p.take(named)
	}
	switch {
	case p.take("src"):
		c.src = true
	case p.take("dst"):
		c.dst = true
	}
	hasEnd := c.src || c.dst
	if !hasEnd {
		c.src, c.dst = true, true
	}
	next := p.peek()
	if c.kind = kinds[next]; c.kind != kindNone {
		if err := p.checkKind(c.proto, c.kind, named); err != nil {
			return c, err
		}
		p.take(next)
		return p.value(c)
	}
	isValue := next != "" && strings.ContainsAny(next[:1], "0123456789abcdefABCDEF:") && strings.ContainsAny(next, "0123456789:")
	switch {
	case hasEnd && !isValue:
		return c, p.wrong("after src and dst, allowed are host, net, port and an address")
	case hasProto && !hasEnd:
		p.last = nil
		return c, nil // in "tcp or 192.0.2.1", the address is a primitive of its own
	case !isValue:
		return c, p.wrong(allowed)
	case !hasProto && !hasEnd && p.last != nil:
		return p.value(*p.last)
	}
	c.kind = kindHost
	if strings.Contains(next, "/") {
		c.kind = kindNet
	}
	if err := p.checkKind(c.proto, c.kind, named); err != nil {
		return c, err
	}
	return p.value(c)
}

// checkKind returns an error if packets of a protocol do not have what the kind k compares: addresses or ports. name is
// the keyword of the protocol.
func (p *parser) checkKind(proto protocol, k kind, name string) error {
	hasAddrs := proto == protoIP || proto == protoIP6 || proto == protoARP
	switch {
	case proto == anyProtocol, k != kindPort && hasAddrs, k == kindPort && (proto == protoTCP || proto == protoUDP):
		return nil
	case hasAddrs:
		return p.wrong(fmt.Sprintf("%s has no port: allowed after it are host and net; before port, allowed are tcp and udp", name))
	case k == kindPort:
		return p.wrong(fmt.Sprintf("%s has no port: before port, allowed are tcp and udp", name))
	}
	return p.wrong(fmt.Sprintf("%[1]s has no addresses: write %[1]s and ...; before host and net, allowed are ip, ip6 and arp", name))
}

// value parses the value of a primitive.
func (p *parser) value(c primitive) (primitive, error) {
	w := p.peek()
	switch c.kind {
	case kindPort:
		n, err := strconv.ParseUint(w, 10, 16)
		if err != nil {
			return c, p.wrong("a port is a number from 0 to 65535")
		}
		c.port = uint16(n)
	default:
		if err := p.addr(&c, w); err != nil {
			return c, err
		}
	}
	p.words = p.words[1:]
	p.last = &c
	return c, nil
}

// addr parses the address of a host or the prefix of a net.
func (p *parser) addr(c *primitive, w string) error {
	a, err := netip.ParseAddr(w)
	switch {
	case err == nil && a.Zone() != "":
		return p.wrong("an address in a packet has no zone")
	case err == nil:
		c.net = netip.PrefixFrom(a, a.BitLen())
	case c.kind == kindHost:
		return p.wrong("a host is an IPv4 or IPv6 address; names are not looked up")
	default:
		if c.net, err = netip.ParsePrefix(w); err != nil {
			return p.wrong("a net is an address with a prefix length, such as 192.0.2.0/24")
		}
		if m := c.net.Masked(); m != c.net {
			return p.wrong(fmt.Sprintf("the bits after the prefix are not zero; the net is %v", m))
		}
	}
	if v6 := c.net.Addr().Is6(); c.proto == protoIP6 && !v6 || (c.proto == protoIP || c.proto == protoARP) && v6 {
		return p.wrong("the address is of the other family")
	}
	return nil
}
