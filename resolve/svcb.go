package resolve

import (
	"cmp"
	"context"
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"

	"golang.org/x/net/dns/dnsmessage"
)

// maxServiceAliases is the maximum number of records in AliasMode that are followed. RFC 9460 section 2.4.2:
// "Clients and recursive resolvers MUST limit the number of AliasMode records followed".
const maxServiceAliases = 8

// A ServiceBinding is an SVCB or HTTPS record in ServiceMode: an alternative endpoint of a service
// (RFC 9460 section 2.4.3).
type ServiceBinding struct {
	// Priority is at least 1. A client tries the endpoint with the lowest Priority first.
	Priority uint16
	// Target is the rooted name of the endpoint, whose addresses are to be looked up.
	Target string
	// ALPN are the identifiers of the protocols that the endpoint supports in addition to the default
	// protocol of the scheme, for example "h2" and "h3" (section 7.1).
	ALPN []string
	// NoDefaultALPN is set if the endpoint does not support the default protocol, for example HTTP/1.1.
	NoDefaultALPN bool
	// Port is the port of the endpoint; 0 means the port of the service (section 7.2).
	Port uint16
	// IPv4Hint and IPv6Hint are addresses of Target that may be used until its address records are
	// known (section 7.3).
	IPv4Hint, IPv6Hint []netip.Addr
	// ECH is the configuration of Encrypted Client Hello, in the form of the field
	// EncryptedClientHelloConfigList of crypto/tls.Config; nil if there is none.
	ECH []byte
	// DoHPath is the URI template of a DNS server, relative to its name (RFC 9461 section 5).
	DoHPath string
	// Mandatory are the keys that a client must understand to use the endpoint (section 8). The
	// lookups omit endpoints with a mandatory key that has no field here.
	Mandatory []uint16
	// Params are all parameters of the record in wire form, in ascending order of keys.
	Params []ServiceParam
}

// A ServiceParam is a parameter of a ServiceBinding in wire form.
type ServiceParam struct {
	Key   uint16
	Value []byte
}

// LookupHTTPS returns the HTTPS records of a web server: the endpoints at which https://host:port can be
// reached, in the order in which to try them. Endpoints of equal priority are in random order. Port 0
// stands for 443.
//
// LookupHTTPS follows records in AliasMode. target is the name at which the lookup ended: the owner of the records
// (for port 443, host itself or its canonical name) or the target of an alias. If the target of an alias has no
// HTTPS records, or if no record of target can be used, bindings is empty, and the client has to use the addresses
// of target. If host has neither records nor an alias, the error is that there is no such host, as in the other
// lookups. If one record is malformed, LookupHTTPS refuses all of them (RFC 9460 section 2.2).
func (r *Resolver) LookupHTTPS(ctx context.Context, host string, port uint16) (target string, bindings []*ServiceBinding, err error) {
	// RFC 9460 9.1: the owner name for other ports is formed with Port Prefix Naming. For port 443,
	// it is the host itself.
	if port != 0 && port != 443 {
		host = "_" + strconv.Itoa(int(port)) + "._https." + host
	}
	return r.lookupBindings(ctx, host, dnsmessage.TypeHTTPS)
}

// LookupSVCB is like LookupHTTPS, but for the SVCB records of other schemes. It looks up
// _port._scheme.name (RFC 9460 section 2.3), or _scheme.name if port is 0, or name itself if scheme is
// empty.
func (r *Resolver) LookupSVCB(ctx context.Context, scheme string, port uint16, name string) (target string, bindings []*ServiceBinding, err error) {
	if scheme != "" {
		name = "_" + scheme + "." + name
		if port != 0 {
			name = "_" + strconv.Itoa(int(port)) + "." + name
		}
	}
	return r.lookupBindings(ctx, name, dnsmessage.TypeSVCB)
}

// lookupBindings looks up SVCB or HTTPS records and follows aliases.
func (r *Resolver) lookupBindings(ctx context.Context, name string, typ dnsmessage.Type) (string, []*ServiceBinding, error) {
	ans, err := r.lookup(ctx, name, typ)
	if err != nil {
		return "", nil, err
	}
	for n := 0; ; n++ {
		owner := ans.canonical.String()
		alias, bindings, ok := r.bindings(owner, ans.records)
		switch {
		case !ok:
			return "", nil, dnsError(errMalformedRecords, name, "")
		case alias == "":
			return owner, bindings, nil
		case alias == ".":
			// RFC 9460 2.5.1: "For AliasMode SVCB RRs, a TargetName of "." indicates that the service
			// is not available or does not exist."
			return "", nil, dnsError(errNoSuchHost, name, ans.server)
		case neverAsked(alias):
			return alias, nil, nil
		case n == maxServiceAliases:
			return "", nil, dnsError(errTooManyAliases, name, ans.server)
		}
		next, err := r.ask(ctx, alias, typ)
		if isNotFound(err) {
			if next != nil && next.aliases > 0 {
				alias = next.canonical.String()
			}
			return alias, nil, nil
		}
		if err != nil {
			return "", nil, named(err, name)
		}
		ans = next
	}
}

// bindings returns the target of an alias or, if records has no alias, the usable endpoints in the order in
// which to try them. ok is false if a record is malformed.
func (r *Resolver) bindings(owner string, records []dnsmessage.Resource) (alias string, bindings []*ServiceBinding, ok bool) {
	var aliases []string
	for _, rr := range records {
		body := svcbBody(rr)
		target := body.Target.String()
		if target != "." && !isDomainName(target) {
			return "", nil, false
		}
		if body.Priority == 0 {
			aliases = append(aliases, target)
			continue
		}
		if target == "." {
			// RFC 9460 2.5.2: "For ServiceMode SVCB RRs, if TargetName has the value ".", then the
			// owner name of this record MUST be used as the effective TargetName."
			target = owner
		}
		b := &ServiceBinding{Priority: body.Priority, Target: target}
		if !b.parse(body.Params) {
			return "", nil, false
		}
		// RFC 9460 8: "A ServiceMode RR is considered "compatible" by a client if the client
		// recognizes all the mandatory keys".
		if !slices.ContainsFunc(b.Mandatory, func(key uint16) bool { return !isKnownKey(key) }) {
			bindings = append(bindings, b)
		}
	}
	if len(aliases) > 0 {
		// RFC 9460 2.4.2: "If multiple AliasMode RRs are present, clients or recursive resolvers SHOULD
		// pick one at random." 2.4.1: records in ServiceMode beside them are ignored.
		return aliases[r.intn(len(aliases))], nil, true
	}
	// RFC 9460 2.4.1: clients "SHOULD apply a random shuffle within a priority level".
	for i := range bindings {
		j := r.intn(i + 1)
		bindings[i], bindings[j] = bindings[j], bindings[i]
	}
	slices.SortStableFunc(bindings, func(a, b *ServiceBinding) int { return cmp.Compare(a.Priority, b.Priority) })
	return "", bindings, true
}

func svcbBody(rr dnsmessage.Resource) *dnsmessage.SVCBResource {
	if h, ok := rr.Body.(*dnsmessage.HTTPSResource); ok {
		return &h.SVCBResource
	}
	return rr.Body.(*dnsmessage.SVCBResource)
}

func isKnownKey(key uint16) bool { return key <= uint16(dnsmessage.SVCParamDOHPath) }

// parse parses parameters, whose keys are in ascending order. It reports false if the record is malformed.
// RFC 9460 section 2.2: a record is malformed if a value "does not have the expected format".
func (b *ServiceBinding) parse(params []dnsmessage.SVCParam) bool {
	for _, p := range params {
		b.Params = append(b.Params, ServiceParam{uint16(p.Key), slices.Clone(p.Value)})
	}
	for _, p := range b.Params {
		v, ok := p.Value, true
		switch dnsmessage.SVCParamKey(p.Key) {
		case dnsmessage.SVCParamMandatory:
			ok = b.parseMandatory(v)
		case dnsmessage.SVCParamALPN:
			b.ALPN, ok = parseALPN(v)
		case dnsmessage.SVCParamNoDefaultALPN:
			// RFC 9460 7.1.1: "its wire-format value MUST be empty", and alpn must be present.
			b.NoDefaultALPN, ok = true, len(v) == 0 && b.ALPN != nil
		case dnsmessage.SVCParamPort:
			if ok = len(v) == 2; ok {
				b.Port = binary.BigEndian.Uint16(v)
			}
		case dnsmessage.SVCParamIPv4Hint:
			b.IPv4Hint, ok = parseHints(v, 4)
		case dnsmessage.SVCParamIPv6Hint:
			b.IPv6Hint, ok = parseHints(v, 16)
		case dnsmessage.SVCParamECH:
			b.ECH = v
		case dnsmessage.SVCParamDOHPath:
			b.DoHPath = string(v)
		}
		if !ok {
			return false
		}
	}
	return true
}

// parseMandatory parses the list of mandatory keys. RFC 9460 section 8: the keys are in ascending
// order, do not contain the key "mandatory" itself, and are all in the record.
func (b *ServiceBinding) parseMandatory(v []byte) bool {
	if len(v) == 0 || len(v)%2 != 0 {
		return false
	}
	last := uint16(dnsmessage.SVCParamMandatory)
	for ; len(v) > 0; v = v[2:] {
		key := binary.BigEndian.Uint16(v)
		if key <= last || !slices.ContainsFunc(b.Params, func(p ServiceParam) bool { return p.Key == key }) {
			return false
		}
		b.Mandatory = append(b.Mandatory, key)
		last = key
	}
	return true
}

// parseALPN parses a list of protocol identifiers. A byte with its length precedes each identifier. RFC 9460
// section 7.1.1: neither the list nor an identifier may be empty.
func parseALPN(v []byte) (ids []string, ok bool) {
	for len(v) > 0 {
		n := int(v[0])
		if n == 0 || len(v) < 1+n {
			return nil, false
		}
		ids = append(ids, string(v[1:1+n]))
		v = v[1+n:]
	}
	return ids, len(ids) > 0
}

// parseHints parses a list of addresses of size bytes each. RFC 9460 section 7.3: "An empty list of addresses is
// invalid."
func parseHints(v []byte, size int) (addrs []netip.Addr, ok bool) {
	if len(v) == 0 || len(v)%size != 0 {
		return nil, false
	}
	for ; len(v) > 0; v = v[size:] {
		a, _ := netip.AddrFromSlice(v[:size])
		addrs = append(addrs, a)
	}
	return addrs, true
}
