package resolve

import (
	"context"
	"slices"

	"golang.org/x/net/dns/dnsmessage"
)

// search asks for records of each of the types, under the names that the search list
// makes of name, until one of these has any. It returns what there is of each
// type, nil where there is nothing, under that name. Its errors are of type
// *net.DNSError and speak of name. That there is no such name is only said where all names of
// the list could be asked for: a name that could not be may be the one that exists. As
// in net, errors otherwise say what became of the name as it was given if addresses are
// asked for, and else of the last name that was tried.
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
			// The list was not gone through: nothing is known not to exist.
			if err = e; isNotFound(e) {
				err = dnsError(cause, name, "")
			}
			break
		}
	}
	if err == nil { // there was nothing that may be asked
		err = dnsError(errNoSuchHost, name, "")
	}
	return nil, named(err, name)
}

// askAll asks for all types at the same time. It fails if there is not one answer. If CNAME is
// among the types, it is the last of them, and then an alias is an answer although the name
// that it stands for has no records.
func (r *Resolver) askAll(ctx context.Context, fqdn string, types []dnsmessage.Type) ([]*answer, error) {
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
		// That nobody could say for one type outweighs that there is nothing of another.
		if err == nil || isNotFound(err) {
			err = errs[i]
		}
	}
	if answered {
		return answers, nil
	}
	return nil, err
}

// ask asks for one type of records of one rooted name, from the cache if it can. What
// it returns is shared. Without an error it has at least one record; with one that says that
// there is none it may tell the aliases of the name.
func (r *Resolver) ask(ctx context.Context, fqdn string, typ dnsmessage.Type) (*answer, error) {
	return r.answerTo(ctx, r.begin(ctx, fqdn, typ, nil))
}

func (r *Resolver) answerTo(ctx context.Context, q *question) (*answer, error) {
	ans, err := r.wait(ctx, q)
	if err != nil {
		return nil, err
	}
	if ans.notFound {
		return ans, dnsError(errNoSuchHost, q.name.String(), ans.server)
	}
	if ans.aliases == 0 && ans.canonical != q.name {
		// It was asked for in another case before. A name that is its own canonical
		// name is so in the case in which it was given.
		own := *ans
		own.canonical = q.name
		ans = &own
	}
	return ans, nil
}

// chase queries for name, and for the names that its aliases lead to when the servers
// do not go there by themselves, for the flight f, if there is one.
func (r *Resolver) chase(ctx context.Context, name dnsmessage.Name, typ dnsmessage.Type, f *flight) (*answer, error) {
	ans, err := r.query(ctx, name, typ, f)
	seen := []string{lower(name.String())}
	for err == nil && ans.dangling {
		// RFC 1034 5.3.3 step 4c: "change the SNAME to the canonical name in the CNAME RR
		// and go to step 1". A loop ends as one without data, as in net.
		target := lower(ans.canonical.String())
		if ans.loop = ans.loop || slices.Contains(seen, target); ans.loop || neverAsked(target) {
			ans.ttl = 0 // nobody said for how long there is nothing
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
