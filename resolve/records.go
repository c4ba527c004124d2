package resolve

import (
	"cmp"
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// LookupSRV returns the canonical name and the SRV records of a service. It looks up
// _service._proto.name or, if service and proto are both empty, name itself. It sorts the records by
// priority. It puts those of equal priority in a random order, in which a record with a larger weight is
// more likely to come early (RFC 2782); those of weight 0 keep their order in the answer among themselves.
// Records whose targets are not valid names are omitted; the rest is then returned with an error.
func (r *Resolver) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	owner := name
	if service != "" || proto != "" {
		owner = "_" + service + "._" + proto + "." + name
	}
	ans, err := r.lookup(ctx, owner, dnsmessage.TypeSRV)
	if err != nil {
		return "", nil, err
	}
	cname := ans.canonical.String()
	if !isDomainName(cname) {
		return "", nil, dnsError(errInvalidSRVName, name, "")
	}
	srvs := make([]*net.SRV, 0, len(ans.records))
	for _, rr := range ans.records {
		body := rr.Body.(*dnsmessage.SRVResource)
		if host := body.Target.String(); isDomainName(host) {
			srvs = append(srvs, &net.SRV{Target: host, Port: body.Port, Priority: body.Priority, Weight: body.Weight})
		}
	}
	r.sortSRV(srvs)
	return cname, srvs, malformed(name, len(ans.records), len(srvs))
}

// sortSRV sorts records by priority, lowest first. It puts records of equal priority in random order:
// the larger the weight, the more likely a record is to come early (RFC 2782). A record of weight 0 has "a
// very small chance of being selected" before the others; in net, it has none. Among themselves, records of
// weight 0 keep their order.
func (r *Resolver) sortSRV(srvs []*net.SRV) {
	// "arrange all SRV RRs (that have not been ordered yet) in any order, except that
	// all those with weight 0 are placed at the beginning of the list." So the order of those
	// with weight 0 need not be random.
	slices.SortStableFunc(srvs, func(a, b *net.SRV) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), cmp.Compare(a.Weight, b.Weight))
	})
	for len(srvs) > 0 {
		n, sum := 0, 0
		for n < len(srvs) && srvs[n].Priority == srvs[0].Priority {
			sum += int(srvs[n].Weight)
			n++
		}
		for group := srvs[:n]; len(group) > 1; group = group[1:] {
			// "choose a uniform random number between 0 and the sum computed
			// (inclusive), and select the RR whose running sum value is the first in
			// the selected order which is greater than or equal to the random number".
			pick, running, at := r.intn(sum+1), 0, 0
			for at = range group {
				if running += int(group[at].Weight); running >= pick {
					break
				}
			}
			chosen := group[at]
			copy(group[1:at+1], group[:at]) // the others keep their order: weight 0 first
			group[0] = chosen
			sum -= int(chosen.Weight)
		}
		srvs = srvs[n:]
	}
}

// LookupMX returns the MX records of a name, the most preferred first. Records of equal preference are
// in random order (RFC 5321 section 5.1). Records whose host is neither a valid name nor an IP address
// are omitted; the rest is then returned with an error. RFC 5321 does not allow addresses, but they
// occur.
func (r *Resolver) LookupMX(ctx context.Context, name string) ([]*net.MX, error) {
	ans, err := r.lookup(ctx, name, dnsmessage.TypeMX)
	if err != nil {
		return nil, err
	}
	mxs := make([]*net.MX, 0, len(ans.records))
	for _, rr := range ans.records {
		body := rr.Body.(*dnsmessage.MXResource)
		host := body.MX.String()
		if !isDomainName(host) {
			// Some servers return addresses, as names with a final dot.
			if a, err := netip.ParseAddr(strings.TrimSuffix(host, ".")); err != nil || a.Zone() != "" {
				continue
			}
		}
		mxs = append(mxs, &net.MX{Host: host, Pref: body.Pref})
	}
	// RFC 5321 5.1: "the sender-SMTP MUST randomize them to spread the load across
	// multiple mail exchangers".
	for i := range mxs {
		j := r.intn(i + 1)
		mxs[i], mxs[j] = mxs[j], mxs[i]
	}
	slices.SortStableFunc(mxs, func(a, b *net.MX) int { return cmp.Compare(a.Pref, b.Pref) })
	return mxs, malformed(name, len(ans.records), len(mxs))
}

// LookupNS returns the NS records of a name. Records whose hosts are not valid names are omitted;
// the rest is then returned with an error.
func (r *Resolver) LookupNS(ctx context.Context, name string) ([]*net.NS, error) {
	ans, err := r.lookup(ctx, name, dnsmessage.TypeNS)
	if err != nil {
		return nil, err
	}
	nss := make([]*net.NS, 0, len(ans.records))
	for _, rr := range ans.records {
		if host := rr.Body.(*dnsmessage.NSResource).NS.String(); isDomainName(host) {
			nss = append(nss, &net.NS{Host: host})
		}
	}
	return nss, malformed(name, len(ans.records), len(nss))
}

// LookupTXT returns the TXT records of a name. It joins the strings of one record.
func (r *Resolver) LookupTXT(ctx context.Context, name string) ([]string, error) {
	ans, err := r.lookup(ctx, name, dnsmessage.TypeTXT)
	if err != nil {
		return nil, err
	}
	txts := make([]string, 0, len(ans.records))
	for _, rr := range ans.records {
		txts = append(txts, strings.Join(rr.Body.(*dnsmessage.TXTResource).TXT, ""))
	}
	return txts, nil
}

// LookupAddr returns the names of addr, an IP address in text form. They come from the hosts file, or
// else from the DNS. The names of a link-local address that is not in the hosts file come from Multicast
// DNS if that is on (RFC 6762 section 4). An address with a zone that is not in the hosts file is an error
// unless it is link-local and Multicast DNS is on. Names that are not valid are omitted; the rest is then
// returned with an error.
func (r *Resolver) LookupAddr(ctx context.Context, addr string) ([]string, error) {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return nil, dnsError(errUnrecognizedAddress, addr, "")
	}
	names := r.cfg.Hosts.Names(a)
	switch {
	case len(names) > 0: // from the hosts file
	case a.Zone() != "":
		used := false
		if names, used, err = r.multicastNames(ctx, a); err != nil {
			return nil, err
		}
		if !used {
			return nil, dnsError(errUnrecognizedAddress, addr, "")
		}
	default:
		// For the reverse name of a link-local address, lookup asks Multicast DNS if that is on.
		ans, err := r.lookup(ctx, reverseName(a), dnsmessage.TypePTR)
		if err != nil {
			return nil, err
		}
		for _, rr := range ans.records {
			names = append(names, rr.Body.(*dnsmessage.PTRResource).PTR.String())
		}
	}
	total := len(names)
	names = slices.DeleteFunc(names, func(name string) bool { return !isDomainName(name) })
	return names, malformed(addr, total, len(names))
}

// lookup queries records of one type.
func (r *Resolver) lookup(ctx context.Context, name string, typ dnsmessage.Type) (*answer, error) {
	answers, err := r.search(ctx, name, typ)
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// malformed returns the error of a lookup that omitted records, or nil if it omitted none.
func malformed(name string, total, kept int) error {
	if kept == total {
		return nil
	}
	return dnsError(errMalformedRecords, name, "")
}
