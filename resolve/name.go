package resolve

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// maxName is the maximum length of a name in presentation form with its final dot. RFC 1035 2.3.4:
// names have "255 octets or less". One of them, on the wire, is the length of the first label.
const maxName = 254

// isDomainName reports whether s, in presentation form, may be the name of a host or a service: it
// consists of letters, digits, hyphens and underscores, and is not all numeric.
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

// absName returns s in the form in which names of the hosts file are returned. A name with dots
// gets a final dot. A name without dots may be local and stays as it is.
func absName(s string) string {
	if strings.Contains(s, ".") {
		return rooted(s)
	}
	return s
}

// lower is like strings.ToLower, for ASCII letters only.
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

// equalFold reports whether x and y are the same name. RFC 4343 section 3: case is ignored in ASCII
// letters only.
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

// inDomain reports whether name is domain or below it. domain is in lower case and has no final
// dot.
func inDomain(name, domain string) bool {
	name = lower(strings.TrimSuffix(name, "."))
	return name == domain || strings.HasSuffix(name, "."+domain)
}

// isLocalhost reports whether name is a localhost name. RFC 6761 6.3: "The domain "localhost." and
// any names falling within ".localhost."" are special.
func isLocalhost(name string) bool { return inDomain(name, "localhost") }

// neverAsked reports whether a name must not be queried.
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

// canBeAsked reports whether a rooted name fits into a message (RFC 1035 2.3.4). Domains of the
// search list need not be host names.
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

// candidates returns the rooted names to query, in the order of resolv.conf(5), "search".
func (r *Resolver) candidates(name string) []string {
	if neverAsked(name) {
		return nil // not even with a domain: "localhost" must not become localhost.example.com
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

// reverseName returns the name whose PTR records are the names of an address: RFC 1035 section 3.5
// and RFC 3596 section 2.5.
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
