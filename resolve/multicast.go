package resolve

import (
	"context"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// A MulticastRecord is a record that Multicast DNS has found.
type MulticastRecord struct {
	Type   uint16
	Addr   netip.Addr // of an A or AAAA record
	Target string     // the name in a PTR or SRV record, with a final dot
	// Port, Priority and Weight are the other fields of an SRV record.
	Port, Priority, Weight uint16
	TXT                    []string // the strings of a TXT record
}

// linkLocalZones are the zones of the reverse names of link-local addresses (RFC 6762 section 4).
var linkLocalZones = [...]string{"254.169.in-addr.arpa", "8.e.f.ip6.arpa", "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa"}

// isMulticastName reports whether a name is looked up by Multicast DNS.
//
// RFC 6762 section 3: "Any DNS query for a name ending with ".local." MUST be sent to the mDNS IPv4 link-local
// multicast address 224.0.0.251 (or its IPv6 equivalent FF02::FB)." Section 4 says the same of the names in
// linkLocalZones.
func isMulticastName(name string) bool {
	if inDomain(name, "local") {
		return strings.Contains(strings.TrimSuffix(name, "."), ".")
	}
	for _, zone := range linkLocalZones {
		if inDomain(name, zone) {
			return true
		}
	}
	return false
}

// askMulticast does what askAll does, but by Multicast DNS. If used is false, the caller has to query the
// servers.
func (r *Resolver) askMulticast(ctx context.Context, fqdn string, types []dnsmessage.Type) (answers []*answer, used bool, err error) {
	if r.cfg.MulticastRecords == nil || !isMulticastName(fqdn) {
		return nil, false, nil
	}
	owner, err := dnsmessage.NewName(fqdn)
	if err != nil {
		return nil, true, dnsError(errCannotMarshal, fqdn, "")
	}
	numbers := make([]uint16, 0, len(types))
	for _, typ := range types {
		switch typ { // the types that a MulticastRecord can have
		case dnsmessage.TypeA, dnsmessage.TypeAAAA, dnsmessage.TypePTR, dnsmessage.TypeSRV, dnsmessage.TypeTXT:
			numbers = append(numbers, uint16(typ))
		}
	}
	records, used, err := r.cfg.MulticastRecords(ctx, "", fqdn, numbers...)
	if !used {
		return nil, false, nil
	}
	if err != nil {
		return nil, true, dnsError(err, fqdn, "")
	}
	answers = make([]*answer, len(types))
	found := false
	for i, typ := range types {
		ans := &answer{canonical: owner}
		for _, rec := range records {
			if body := rec.body(); rec.Type == uint16(typ) && body != nil {
				h := dnsmessage.ResourceHeader{Name: owner, Type: typ, Class: dnsmessage.ClassINET}
				ans.records = append(ans.records, dnsmessage.Resource{Header: h, Body: body})
			}
		}
		if len(ans.records) > 0 {
			answers[i], found = ans, true
		}
	}
	if !found {
		return nil, true, dnsError(errNoSuchHost, fqdn, "")
	}
	return answers, true, nil
}

// body returns the data of a record. It returns nil if the type is not supported, if the address does not
// have the family of the type, or if the target is too long.
func (m *MulticastRecord) body() dnsmessage.ResourceBody {
	switch typ := dnsmessage.Type(m.Type); {
	case typ == dnsmessage.TypeA && m.Addr.Is4():
		return &dnsmessage.AResource{A: m.Addr.As4()}
	case typ == dnsmessage.TypeAAAA && m.Addr.Is6():
		return &dnsmessage.AAAAResource{AAAA: m.Addr.As16()}
	case typ == dnsmessage.TypeTXT:
		return &dnsmessage.TXTResource{TXT: m.TXT}
	case typ == dnsmessage.TypePTR:
		if target, err := dnsmessage.NewName(m.Target); err == nil {
			return &dnsmessage.PTRResource{PTR: target}
		}
	case typ == dnsmessage.TypeSRV:
		if target, err := dnsmessage.NewName(m.Target); err == nil {
			return &dnsmessage.SRVResource{Priority: m.Priority, Weight: m.Weight, Port: m.Port, Target: target}
		}
	}
	return nil
}

// multicastNames returns the names of addr, an address with a zone. used is false if addr is not link-local, or
// if Multicast DNS is off on the zone's interface.
func (r *Resolver) multicastNames(ctx context.Context, addr netip.Addr) (names []string, used bool, err error) {
	if r.cfg.MulticastRecords == nil || !addr.IsLinkLocalUnicast() {
		return nil, false, nil
	}
	records, used, err := r.cfg.MulticastRecords(ctx, addr.Zone(), reverseName(addr), uint16(dnsmessage.TypePTR))
	for _, rec := range records {
		names = append(names, rec.Target)
	}
	switch {
	case used && err != nil:
		err = dnsError(err, addr.String(), "")
	case used && len(names) == 0:
		err = dnsError(errNoSuchHost, addr.String(), "")
	}
	return names, used, err
}
