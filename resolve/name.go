package resolve

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// maxName is the length of the longest name in presentation form with its final
// dot. RFC 1035 2.3.4: names have "255 octets or less", of which the form on the
// wire takes one for the length of the first label.
const maxName = 254

// isDomainName reports whether s is a name in presentation form, of letters,
// digits, hyphens and underscores, and not all numeric: what a host name, or the
// name of a service, may be.
func isDomainName(s string) bool {
	if s == "." {
		return true
	}
	s = strings.TrimSuffix(s, ".")
	if s == "" || len(s) > maxName-1 {
		return false
	}
	numeric := true
	for label := range strings.SplitSeq(s, ".") {
		// RFC 1035 2.3.4: labels have "63 octets or less".
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			switch c := label[i]; {
			case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', c == '_', c == '-':
				numeric = false
			case '0' <= c && c <= '9':
			default:
				return false
			}
		}
	}
	// RFC 1123 2.1: "a valid host name can never have the dotted-decimal form #.#.#.#".
	return !numeric
}

// rooted returns s with a final dot.
func rooted(s string) string {
	if strings.HasSuffix(s, ".") {
		return s
	}
	return s + "."
}

// absName returns s as the hosts file's names are reported: with a final dot if
// it has any, since one without may be local.
func absName(s string) string {
	if strings.Contains(s, ".") {
		return rooted(s)
	}
	return s
}

// lower is strings.ToLower for ASCII only: other bytes are compared as they are.
func lower(s string) string {
	for i := range len(s) {
		if c := s[i]; 'A' <= c && c <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				b[i] = lowerByte(b[i])
			}
			return string(b)
		}
	}
	return s
}

func lowerByte(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		c += 'a' - 'A'
	}
	return c
}

// equalFold reports whether x and y are the same name. RFC 4343 section 3: case
// is ignored in ASCII letters only.
func equalFold(x, y *dnsmessage.Name) bool {
	if x.Length != y.Length {
		return false
	}
	for i := range x.Length {
		if lowerByte(x.Data[i]) != lowerByte(y.Data[i]) {
			return false
		}
	}
	return true
}

// inDomain reports whether name is domain, which is in lower case without a
// final dot, or below it.
func inDomain(name, domain string) bool {
	name = lower(strings.TrimSuffix(name, "."))
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// isLocalhost: RFC 6761 6.3: "The domain "localhost." and any names falling
// within ".localhost."" are special.
func isLocalhost(name string) bool { return inDomain(name, "localhost") }

// neverAsked reports whether no server may be asked about the name.
func neverAsked(name string) bool {
	switch {
	case name == "":
		return true
	case isLocalhost(name):
		// RFC 6761 6.3: "Name resolution APIs SHOULD NOT send queries for localhost
		// names to their configured caching DNS server(s)."
		return true
	case inDomain(name, "onion"):
		// RFC 7686 2: "Resolvers MUST either respond to requests for .onion names by
		// resolving them according to [tor-rendezvous] or by responding with NXDOMAIN".
		return true
	case inDomain(name, "invalid"):
		// RFC 6761 6.4: "Name resolution APIs and libraries SHOULD recognize "invalid"
		// names as special and SHOULD always return immediate negative responses."
		return true
	}
	return false
}

// canBeAsked reports whether a rooted name fits into a message: RFC 1035 2.3.4. Domains of the search
// list need not be host names.
func canBeAsked(name string) bool {
	if len(name) > maxName {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if len(label) > 63 || label == "" && name != "." {
			return false
		}
	}
	return true
}

// candidates returns the rooted names to ask for, in order: resolv.conf(5), "search".
func (r *Resolver) candidates(name string) []string {
	if neverAsked(name) {
		return nil // and "localhost" must not become localhost.example.com either
	}
	if strings.HasSuffix(name, ".") {
		return []string{name}
	}
	search := r.domains()
	names := make([]string, 0, 1+len(search))
	add := func(s string) {
		if canBeAsked(s) && !neverAsked(s) {
			names = append(names, s)
		}
	}
	asIsFirst := strings.Count(name, ".") >= r.cfg.Ndots
	if asIsFirst {
		add(name + ".")
	}
	for _, domain := range search {
		add(name + "." + domain)
	}
	if !asIsFirst {
		add(name + ".")
	}
	return names
}

// reverseName returns the name under which the names of an address are found:
// RFC 1035 section 3.5 and RFC 3596 section 2.5.
func reverseName(addr netip.Addr) string {
	const hex = "0123456789abcdef"
	var b strings.Builder
	if addr = addr.Unmap(); addr.Is4() {
		a := addr.As4()
		return netip.AddrFrom4([4]byte{a[3], a[2], a[1], a[0]}).String() + ".in-addr.arpa."
	}
	a := addr.As16()
	for i := len(a) - 1; i >= 0; i-- {
		b.Write([]byte{hex[a[i]&0xf], '.', hex[a[i]>>4], '.'})
	}
	b.WriteString("ip6.arpa.")
	return b.String()
}
