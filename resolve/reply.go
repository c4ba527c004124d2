package resolve

import (
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxChain is how many further queries are sent to follow aliases. Aliases within a message
// need none.
const maxChain = 16

// A reply is the part of a response message that the resolver uses.
type reply struct {
	truncated bool             // with the TC bit
	cut       error            // why the answer section could not be read to its end
	rcode     dnsmessage.RCode // with its extended part
	aa, ra    bool
	records   []dnsmessage.Resource // answers of the type asked for, and CNAMEs
	answers   int                   // records in the answer section, of any type
	hasNS     bool                  // in the authority section
	hasSOA    bool                  // in the authority section
	negTTL    time.Duration         // of the SOA
	hasExtra  bool                  // anything in the additional section
}

// An answer is the result of a question.
type answer struct {
	server    string
	mixed     bool                  // it is the answer to a name in mixed case
	notFound  bool                  // there is no such name, or no such record
	canonical dnsmessage.Name       // the name at the end of the aliases
	records   []dnsmessage.Resource // the records of that name, of the type asked for
	ttl       time.Duration
	aliases   int // that were followed
	// dangling is set if the message has neither records nor a denial for the last alias.
	dangling bool
	// loop is set if the aliases form a loop.
	loop bool
}

// parseReply reads a message from its answer section on. If the answer section is truncated or has a
// record that cannot be parsed, the addresses before that are used, as in net; for other types, of
// which callers need all records, it is an error.
func parseReply(p *dnsmessage.Parser, h dnsmessage.Header, q dnsmessage.Question) (*reply, error) {
	rep := &reply{truncated: h.Truncated, rcode: h.RCode, aa: h.Authoritative, ra: h.RecursionAvailable}
	err := rep.parseAnswers(p, q)
	switch {
	case err == nil:
		rep.parseRest(p, h)
	case h.Truncated, len(rep.records) > 0 && (q.Type == dnsmessage.TypeA || q.Type == dnsmessage.TypeAAAA):
		rep.cut = err
	default:
		return nil, err
	}
	return rep, nil
}

func (rep *reply) parseAnswers(p *dnsmessage.Parser, q dnsmessage.Question) error {
	for {
		rh, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			return nil
		}
		if err != nil {
			return errCannotUnmarshal
		}
		rep.answers++
		if rh.Class != dnsmessage.ClassINET || rh.Type != q.Type && rh.Type != dnsmessage.TypeCNAME {
			if err := p.SkipAnswer(); err != nil {
				return errCannotUnmarshal
			}
			continue
		}
		rr, err := p.Answer()
		if err != nil {
			return errCannotUnmarshal
		}
		rep.records = append(rep.records, rr)
	}
}

// parseRest reads the authority and additional sections. Because they only help to judge the
// answer, a malformed record ends the reading without an error.
func (rep *reply) parseRest(p *dnsmessage.Parser, h dnsmessage.Header) {
	for {
		rh, err := p.AuthorityHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			return
		}
		switch rh.Type {
		case dnsmessage.TypeSOA:
			soa, err := p.SOAResource()
			if err != nil {
				return
			}
			// RFC 2308 5: the TTL "is taken from the minimum of the SOA.MINIMUM field
			// and SOA's TTL."
			rep.hasSOA, rep.negTTL = true, min(ttlOf(rh.TTL), ttlOf(soa.MinTTL))
			continue
		case dnsmessage.TypeNS:
			rep.hasNS = true
		}
		if err := p.SkipAuthority(); err != nil {
			return
		}
	}
	for {
		rh, err := p.AdditionalHeader()
		if err != nil {
			return
		}
		rep.hasExtra = true
		if rh.Type == dnsmessage.TypeOPT {
			rep.rcode = rh.ExtendedRCode(h.RCode)
		}
		if err := p.SkipAdditional(); err != nil {
			return
		}
	}
}

// ttlOf: RFC 2181 8: "Implementations should treat TTL values received with the
// most significant bit set as if the entire value received was zero."
func ttlOf(seconds uint32) time.Duration {
	if seconds>>31 != 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// judge returns the answer of the reply to q, or an error if it has none, so that another server is
// asked.
func (rep *reply) judge(q dnsmessage.Question) (*answer, error) {
	switch rep.rcode {
	case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError:
	case dnsmessage.RCodeServerFailure:
		return nil, errMisbehavingForNow
	default:
		// No other code is a valid response to a query like ours.
		return nil, errMisbehaving
	}
	ans := rep.follow(q)
	if rep.truncated || rep.cut != nil {
		ans.ttl = 0 // it is incomplete
	}
	switch {
	case rep.cut != nil && (len(ans.records) == 0 || q.Type != dnsmessage.TypeA && q.Type != dnsmessage.TypeAAAA):
		return nil, rep.cut
	case rep.rcode == dnsmessage.RCodeNameError:
		// RFC 2308 2.1: NXDOMAIN is about the last name of the aliases.
		ans.notFound, ans.dangling = true, false
	case len(ans.records) > 0:
		return ans, nil
	case rep.isLame():
		return nil, errLameReferral
	default:
		ans.notFound = true
	}
	ans.records = nil
	switch {
	case ans.dangling: // the TTL is that of the aliases
	case rep.hasSOA:
		ans.ttl = min(ans.ttl, rep.negTTL)
	default:
		// RFC 2308 5: negative responses "without SOA records SHOULD NOT be cached".
		ans.ttl = 0
	}
	return ans, nil
}

// isLame reports whether a reply without answers is a referral from a server that
// does not recurse, or the empty reply of a server that does not serve the
// name. Neither means that there are no records.
func (rep *reply) isLame() bool {
	if rep.answers > 0 || rep.aa || rep.ra || rep.hasSOA {
		return false
	}
	return rep.hasNS || !rep.hasExtra
}

// follow follows the aliases from the name of q and collects the records of the
// last name. It ignores records of other names.
func (rep *reply) follow(q dnsmessage.Question) *answer {
	ans := &answer{canonical: q.Name, ttl: maxTTL}
	byName := make(map[string][]int, len(rep.records))
	for i := range rep.records {
		name := lower(rep.records[i].Header.Name.String())
		byName[name] = append(byName[name], i)
	}
	for {
		name := lower(ans.canonical.String())
		found, known := byName[name]
		ans.loop = known && len(found) == 0
		var alias *dnsmessage.Resource
		for _, i := range found {
			rr := &rep.records[i]
			if rr.Header.Type == q.Type {
				ans.records = append(ans.records, *rr)
				ans.ttl = min(ans.ttl, ttlOf(rr.Header.TTL))
			} else {
				alias = rr
			}
		}
		if len(ans.records) > 0 || alias == nil {
			break
		}
		byName[name] = nil // so that a loop ends
		// RFC 1034 3.6.2: the query is restarted "at the domain name specified in the
		// data field of the CNAME record".
		ans.canonical = alias.Body.(*dnsmessage.CNAMEResource).CNAME
		ans.ttl = min(ans.ttl, ttlOf(alias.Header.TTL))
		ans.aliases++
	}
	// RFC 2308 2.2: an SOA record says that there is no data for the last name.
	// Without one, the server may not have followed the alias.
	ans.dangling = ans.aliases > 0 && len(ans.records) == 0 && !rep.hasSOA
	return ans
}
