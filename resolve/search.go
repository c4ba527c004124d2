package resolve

import (
	"context"
	"slices"

	"golang.org/x/net/dns/dnsmessage"
)

// search queries records of each of the types, under each name that the search list makes of name,
// until one of these names has records. It returns an answer for each type under that name, or nil for
// a type that has none.
//
// The errors are of type *net.DNSError and contain name. search reports that the name does not exist
// only if all names of the list could be queried, because a name that could not be queried may exist.
// Otherwise the error is, as in net, the error for the name as given if addresses are queried, and the
// error for the last name tried if other types are queried.
func (r *Resolver) search(ctx context.Context, name string, types ...dnsmessage.Type) ([]*answer, error) {
	if !isDomainName(name) {
		return nil, dnsError(errNoSuchHost, name, "")
	}
	asGiven := types[0] == dnsmessage.TypeA || types[0] == dnsmessage.TypeAAAA
	var err error
	for _, fqdn := range r.candidates(name) {
		answers, e := r.askAll(ctx, fqdn, types)
		if e == nil {
			return answers, nil
		}
		strict := r.cfg.StrictErrors && isTemporary(e)
		switch {
		case err == nil, strict:
			err = e
		case isNotFound(err) != isNotFound(e):
			if isNotFound(err) {
				err = e
			}
		case !asGiven, fqdn == rooted(name):
			err = e
		}
		if strict {
			break
		}
		if cause := done(ctx); cause != nil {
			// Not all names of the list were tried, so it is unknown whether the name exists.
			if err = e; isNotFound(e) {
				err = dnsError(cause, name, "")
			}
			break
		}
	}
	if err == nil { // no name may be queried
		err = dnsError(errNoSuchHost, name, "")
	}
	return nil, named(err, name)
}

// askAll queries all types, at the same time unless SingleRequest is set. It fails if no type has an
// answer. If CNAME is one of the types, CNAME must be the last. An alias is then an answer even if the
// target of the alias has no records.
func (r *Resolver) askAll(ctx context.Context, fqdn string, types []dnsmessage.Type) ([]*answer, error) {
	if answers, used, err := r.askMulticast(ctx, fqdn, types); used {
		return answers, err
	}
	answers := make([]*answer, len(types))
	errs := make([]error, len(types))
	questions := make([]*question, len(types))
	var address *flight
	for i, typ := range types {
		questions[i] = r.begin(ctx, fqdn, typ, address)
		if typ == dnsmessage.TypeA {
			address = questions[i].f
		}
		if r.cfg.SingleRequest {
			answers[i], errs[i] = r.answerTo(ctx, questions[i])
		}
	}
	if !r.cfg.SingleRequest {
		for i, q := range questions {
			answers[i], errs[i] = r.answerTo(ctx, q)
		}
	}
	if r.cfg.StrictErrors {
		for _, err := range errs {
			if isTemporary(err) {
				return nil, err
			}
		}
	}
	forAlias := types[len(types)-1] == dnsmessage.TypeCNAME
	var err error
	answered := false
	for i, ans := range answers {
		if errs[i] == nil || forAlias && ans != nil && ans.aliases > 0 {
			answered = true
			continue
		}
		answers[i] = nil
		// A failure for one type takes precedence over the absence of records of another.
		if err == nil || isNotFound(err) {
			err = errs[i]
		}
	}
	if answered {
		return answers, nil
	}
	return nil, err
}

// ask queries records of one type of one rooted name, or takes them from the cache. The answer is
// shared. Without an error, the answer has at least one record. If the error is that there is no such
// record, the answer may still have the aliases of the name.
func (r *Resolver) ask(ctx context.Context, fqdn string, typ dnsmessage.Type) (*answer, error) {
	if answers, used, err := r.askMulticast(ctx, fqdn, []dnsmessage.Type{typ}); used {
		if err != nil {
			return nil, err
		}
		return answers[0], nil
	}
	return r.answerTo(ctx, r.begin(ctx, fqdn, typ, nil))
}

// answerTo waits for the answer to a question and returns the same as ask.
func (r *Resolver) answerTo(ctx context.Context, q *question) (*answer, error) {
	ans, err := r.wait(ctx, q)
	if err != nil {
		return nil, err
	}
	if ans.notFound {
		return ans, dnsError(errNoSuchHost, q.name.String(), ans.server)
	}
	if ans.aliases == 0 && ans.canonical != q.name {
		// The cached answer is for the same name in another case. A name that is its own canonical
		// name keeps the case in which it was given.
		own := *ans
		own.canonical = q.name
		ans = &own
	}
	return ans, nil
}

// chase queries name for the flight f, which may be nil. If the servers do not follow an alias
// themselves, chase queries the target of the alias too.
func (r *Resolver) chase(ctx context.Context, name dnsmessage.Name, typ dnsmessage.Type, f *flight) (*answer, error) {
	ans, err := r.query(ctx, name, typ, f)
	seen := []string{lower(name.String())}
	for err == nil && ans.dangling {
		// RFC 1034 5.3.3 step 4c: "change the SNAME to the canonical name in the CNAME RR and go to
		// step 1". As in net, a name whose aliases form a loop has no data.
		target := lower(ans.canonical.String())
		if ans.loop = ans.loop || slices.Contains(seen, target); ans.loop || neverAsked(target) {
			ans.ttl = 0 // no server has given a TTL for the absence
			break
		}
		if len(seen) > maxChain {
			return nil, dnsError(errTooManyAliases, name.String(), ans.server)
		}
		seen = append(seen, target)
		before := ans
		if ans, err = r.query(ctx, before.canonical, typ, nil); err == nil {
			ans.ttl = min(ans.ttl, before.ttl)
			ans.aliases += before.aliases
			ans.mixed = ans.mixed && before.mixed
		}
	}
	return ans, err
}
