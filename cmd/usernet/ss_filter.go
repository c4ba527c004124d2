package main

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/usernet/usernet/resolve"
)

// A ssEntry is a socket as filters and the table see it.
type ssEntry struct {
	network     string // "tcp", "udp" or the protocol of a raw socket
	state       string // as in filters: "established"
	recvQ       int
	sendQ       int
	local, peer netip.AddrPort // peer is invalid without a peer
	any         bool           // local is of both families
	id          string         // of a connection; empty for others
	value       any            // an inspect.Conn, inspect.Listener or inspect.Socket
}

// ssStates has the names of the states in filters and in the table.
var ssStates = map[string]string{
	"established": "ESTAB", "syn-sent": "SYN-SENT", "syn-recv": "SYN-RECV", "fin-wait-1": "FIN-WAIT-1", "fin-wait-2": "FIN-WAIT-2",
	"time-wait": "TIME-WAIT", "unconnected": "UNCONN", "close-wait": "CLOSE-WAIT", "last-ack": "LAST-ACK", "closing": "CLOSING", "listening": "LISTEN",
}

// ssGroups has the names that filters have for groups of states.
var ssGroups = map[string]func(state string) bool{
	"all":          func(string) bool { return true },
	"connected":    func(s string) bool { return s != "listening" && s != "unconnected" },
	"synchronized": func(s string) bool { return s != "listening" && s != "unconnected" && s != "syn-sent" },
	"bucket":       func(s string) bool { return s == "syn-recv" || s == "time-wait" },
	"big": func(s string) bool {
		return s != "listening" && s != "unconnected" && s != "syn-recv" && s != "time-wait"
	},
}

// A ssFilter is a parsed filter. A nil states selects the states that the flags choose.
type ssFilter struct {
	given  bool // the command line has a filter
	states map[string]bool
	match  func(*ssEntry) bool
}

// parseSSFilter parses a filter in the language of ss: "state NAME" and "exclude NAME", and then an expression.
func parseSSFilter(args []string) (*ssFilter, error) {
	p := &ssParser{}
	for _, a := range args {
		p.words = append(p.words, ssWords(a)...)
	}
	f := &ssFilter{given: len(p.words) > 0, match: func(*ssEntry) bool { return true }}
	for p.peek() == "state" || p.peek() == "exclude" {
		exclude := p.next() == "exclude"
		name := p.next()
		in, err := ssStateSet(name)
		if err != nil {
			return nil, err
		}
		if f.states == nil {
			f.states = make(map[string]bool)
			if exclude {
				for s := range ssStates {
					f.states[s] = true
				}
			}
		}
		for s := range ssStates {
			if in(s) {
				f.states[s] = !exclude
			}
		}
	}
	if p.peek() == "" {
		return f, nil
	}
	match, err := p.or()
	if err != nil {
		return nil, err
	}
	if w := p.peek(); w != "" {
		return nil, usageError(fmt.Sprintf("filter: unexpected %q", w))
	}
	f.match = match
	return f, nil
}

// ssStateSet returns a function that reports whether a state has the name, or is in the group with the name.
func ssStateSet(name string) (func(string) bool, error) {
	name = strings.ToLower(name)
	if in := ssGroups[name]; in != nil {
		return in, nil
	}
	if ssStates[name] == "" {
		all := slices.Concat(slices.Sorted(maps.Keys(ssGroups)), slices.Sorted(maps.Keys(ssStates)))
		return nil, usageError(fmt.Sprintf("filter: there is no state %q; the states are %s", name, strings.Join(all, ", ")))
	}
	return func(s string) bool { return s == name }, nil
}

// ssWords splits an argument of the command line at spaces, and before and after parentheses and operators.
func ssWords(s string) (words []string) {
	for _, part := range strings.Fields(s) {
		for part != "" {
			i := strings.IndexAny(part, "()=!<>&|")
			switch {
			case i < 0:
				words, part = append(words, part), ""
				continue
			case i > 0:
				words, part = append(words, part[:i]), part[i:]
				continue
			}
			n := 1
			if len(part) > 1 && strings.Contains(" == != <= >= && || ", " "+part[:2]+" ") {
				n = 2
			}
			words, part = append(words, part[:n]), part[n:]
		}
	}
	return words
}

// A ssParser parses the words of a filter.
type ssParser struct {
	words []string
	depth int
}

func (p *ssParser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

// next returns the next word, or "" at the end.
func (p *ssParser) next() string {
	w := p.peek()
	if w != "" {
		p.words = p.words[1:]
	}
	return w
}

type ssMatch func(*ssEntry) bool

func (p *ssParser) or() (ssMatch, error) {
	left, err := p.and()
	for err == nil && (p.peek() == "or" || p.peek() == "||" || p.peek() == "|") {
		p.next()
		var right ssMatch
		a := left
		right, err = p.and()
		left = func(e *ssEntry) bool { return a(e) || right(e) }
	}
	return left, err
}

// and parses conditions that all have to hold. "and" may be missing between them.
func (p *ssParser) and() (ssMatch, error) {
	left, err := p.not()
	for err == nil {
		switch p.peek() {
		case "and", "&&", "&":
			p.next()
		case "", "or", "||", "|", ")":
			return left, nil
		}
		var right ssMatch
		a := left
		right, err = p.not()
		left = func(e *ssEntry) bool { return a(e) && right(e) }
	}
	return left, err
}

// maxSSDepth is the largest depth of parentheses and negations.
const maxSSDepth = 100

func (p *ssParser) not() (ssMatch, error) {
	if p.depth++; p.depth > maxSSDepth {
		return nil, usageError("filter: too many parentheses")
	}
	defer func() { p.depth-- }()
	switch w := p.next(); w {
	case "not", "!":
		m, err := p.not()
		return func(e *ssEntry) bool { return !m(e) }, err
	case "(":
		m, err := p.or()
		if err == nil && p.next() != ")" {
			err = usageError("filter: a parenthesis is not closed")
		}
		return m, err
	case "dport", "sport":
		return p.port(w == "sport")
	case "dst", "src":
		return p.addr(w == "src")
	case "":
		return nil, usageError("filter: a condition is missing at the end")
	default:
		return nil, usageError(fmt.Sprintf("filter: %q is not a condition; those are dport, sport, dst, src, not and parentheses", w))
	}
}

// compare returns the function of an operator, or nil.
func compare(op string) func(a, b int) bool {
	switch op {
	case "=", "==", "eq":
		return func(a, b int) bool { return a == b }
	case "!=", "ne", "neq":
		return func(a, b int) bool { return a != b }
	case "<", "lt":
		return func(a, b int) bool { return a < b }
	case "<=", "le", "leq":
		return func(a, b int) bool { return a <= b }
	case ">", "gt":
		return func(a, b int) bool { return a > b }
	case ">=", "ge", "geq":
		return func(a, b int) bool { return a >= b }
	}
	return nil
}

// port parses the comparison of a port, such as "= :80".
func (p *ssParser) port(local bool) (ssMatch, error) {
	op := compare(p.peek())
	if op == nil {
		op = compare("=")
	} else {
		p.next()
	}
	want, err := ssPort(strings.TrimPrefix(p.next(), ":"))
	if err != nil {
		return nil, err
	}
	return func(e *ssEntry) bool {
		a := e.end(local)
		return a.IsValid() && op(int(a.Port()), want)
	}, nil
}

// ssPort parses a number or the name of a service.
func ssPort(s string) (int, error) {
	port, err := resolve.New(resolve.Config{}).LookupPort(context.Background(), "ip", s)
	if err != nil || s == "" {
		return 0, usageError(fmt.Sprintf("filter: %q is not a port, such as :80 or :http", s))
	}
	return port, nil
}

// end returns the address of this end if local is set, and the peer's otherwise.
func (e *ssEntry) end(local bool) netip.AddrPort {
	if local {
		return e.local
	}
	return e.peer
}

// addr parses an address, such as "192.0.2.0/24", "[2001:db8::1]:80" or ":80".
func (p *ssParser) addr(local bool) (ssMatch, error) {
	negate := false
	switch p.peek() {
	case "=", "==", "eq":
		p.next()
	case "!=", "ne", "neq":
		p.next()
		negate = true
	}
	word := p.next()
	prefix, port, err := ssPrefix(word)
	if err != nil {
		return nil, err
	}
	return func(e *ssEntry) bool {
		a := e.end(local)
		in := a.IsValid() && (!prefix.IsValid() || prefix.Contains(a.Addr().Unmap().WithZone(""))) && (port < 0 || int(a.Port()) == port)
		return in != negate
	}, nil
}

// ssPrefix parses an address or a network, perhaps with a port. The prefix is invalid if any address fits, and
// the port is -1 if any port fits.
func ssPrefix(s string) (prefix netip.Prefix, port int, err error) {
	host, port := s, -1
	bad := usageError(fmt.Sprintf("filter: %q is not an address, such as 192.0.2.1, 192.0.2.0/24, [2001:db8::1]:80 or :80", s))
	if inner, rest, ok := strings.Cut(strings.TrimPrefix(s, "["), "]"); ok && strings.HasPrefix(s, "[") {
		host = inner
		if strings.HasPrefix(rest, "/") {
			bits, after, _ := strings.Cut(rest, ":")
			host += bits
			if rest = ""; after != "" {
				rest = ":" + after
			}
		}
		if rest != "" {
			if port, err = ssPort(strings.TrimPrefix(rest, ":")); err != nil {
				return prefix, 0, err
			}
		}
	} else if strings.Count(s, ":") == 1 {
		name := ""
		host, name, _ = strings.Cut(s, ":")
		if name != "*" {
			if port, err = ssPort(name); err != nil {
				return prefix, 0, err
			}
		}
	}
	switch host {
	case "", "*":
		if s == "" {
			return prefix, 0, bad
		}
		return prefix, port, nil
	}
	if a, err := netip.ParseAddr(host); err == nil {
		a = a.Unmap().WithZone("")
		return netip.PrefixFrom(a, a.BitLen()), port, nil
	}
	addr, length, _ := strings.Cut(host, "/")
	a, aerr := netip.ParseAddr(addr)
	bits, berr := strconv.Atoi(length)
	if aerr != nil || berr != nil {
		return prefix, 0, bad
	}
	if prefix = netip.PrefixFrom(a.Unmap().WithZone(""), bits); !prefix.IsValid() {
		return prefix, 0, bad
	}
	return prefix, port, nil
}
