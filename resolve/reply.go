package resolve

import (
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// maxChain is the maximum number of further queries to follow aliases. Aliases in one message need
// no further query.
const maxChain = 16

// A reply is the part of a response message that the resolver uses.
type reply struct {
	truncated bool                  // whether the TC bit is set
	cut       error                 // the error that ended the parsing of the answer section
	rcode     dnsmessage.RCode      // including the extended part
	aa, ra    bool                  // the bits AA and RA
	records   []dnsmessage.Resource // records of the queried type, and CNAMEs
	answers   int                   // number of records in the answer section, of any type
	hasNS     bool                  // whether the authority section has an NS record
	hasSOA    bool                  // whether the authority section has an SOA record
	negTTL    time.Duration         // TTL of a negative answer, from the SOA record
	hasExtra  bool                  // whether the additional section has a record
	hasCookie bool                  // whether the OPT record has a COOKIE option
	cookie    []byte                // the value of the COOKIE option
	// unproven is set if the query has to be repeated over TCP, because the response lacks the expected
	// cookie and may be forged, or because the server has also refused a new cookie.
	unproven bool
}

// An answer is the result of a question.
type answer struct {
	server    string
	mixed     bool                  // whether the query had the name in mixed case
	notFound  bool                  // whether the name or the record does not exist
	canonical dnsmessage.Name       // the name at the end of the aliases
	records   []dnsmessage.Resource // the records of that name with the queried type
	ttl       time.Duration
	aliases   int // number of aliases followed
	// dangling is set if the message has neither records for the last alias nor a denial of them.
	dangling bool
	// loop is set if the aliases form a loop.
	loop bool
}

// parseReply parses a message from its answer section on. If the answer section is truncated or has
// a malformed record, parseReply keeps the addresses before that, as net does. For types other than A
// and AAAA a malformed record is an error, because callers need all records.
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

// parseRest parses the authority and additional sections. These sections only help to judge the answer,
// so a malformed record ends the parsing without an error.
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
			opt, err := p.OPTResource()
			if err != nil {
				return
			}
			rep.parseOptions(opt.Options)
			continue
		}
		if err := p.SkipAdditional(); err != nil {
			return
		}
	}
}

// parseOptions reads the options of the OPT record. RFC 7873 section 5.3: "In a DNS reply with multiple
// COOKIE options, all but the first (the one closest to the DNS header) are ignored."
func (rep *reply) parseOptions(options []dnsmessage.Option) {
	for _, o := range options {
		if o.Code == optionCookie && !rep.hasCookie {
			rep.hasCookie, rep.cookie = true, o.Data
		}
	}
}

// ttlOf converts a TTL. RFC 2181 8: "Implementations should treat TTL values received with the most
// significant bit set as if the entire value received was zero."
func ttlOf(seconds uint32) time.Duration {
	if seconds>>31 != 0 {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// judge returns the answer that the reply gives to q. If the reply gives no answer, judge returns an
// error, so that another server is queried.
func (rep *reply) judge(q dnsmessage.Question) (*answer, error) {
	switch rep.rcode {
	case dnsmessage.RCodeSuccess, dnsmessage.RCodeNameError:
	case dnsmessage.RCodeServerFailure:
		return nil, errMisbehavingForNow
	default:
		// No other code is a valid response to such a query.
		return nil, errMisbehaving
	}
	ans := rep.follow(q)
	if rep.truncated || rep.cut != nil {
		ans.ttl = 0 // do not cache an incomplete answer
	}
	switch {
	case rep.cut != nil && (len(ans.records) == 0 || q.Type != dnsmessage.TypeA && q.Type != dnsmessage.TypeAAAA):
		return nil, rep.cut
	case rep.rcode == dnsmessage.RCodeNameError:
		// RFC 2308 2.1: NXDOMAIN applies to the last name in the chain of aliases.
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
	case ans.dangling: // keep the TTL of the aliases
	case rep.hasSOA:
		ans.ttl = min(ans.ttl, rep.negTTL)
	default:
		// RFC 2308 5: negative responses "without SOA records SHOULD NOT be cached".
		ans.ttl = 0
	}
	return ans, nil
}

// isLame reports whether a reply without answers proves nothing: it is a referral from a server
// that does not recurse, or the empty reply of a server that does not serve the name.
func (rep *reply) isLame() bool {
	if rep.answers > 0 || rep.aa || rep.ra || rep.hasSOA {
		return false
	}
	return rep.hasNS || !rep.hasExtra
}

// follow follows the aliases from the name of q and collects the records of the last name. It
// ignores records of other names.
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
		byName[name] = nil // if an alias leads back to name, the loop ends there
		// RFC 1034 3.6.2: the query is restarted "at the domain name specified in the
		// data field of the CNAME record".
		ans.canonical = alias.Body.(*dnsmessage.CNAMEResource).CNAME
		ans.ttl = min(ans.ttl, ttlOf(alias.Header.TTL))
		ans.aliases++
	}
	// RFC 2308 2.2: an SOA record means that the last name has no data. Without one, the server may
	// not have followed the alias.
	ans.dangling = ans.aliases > 0 && len(ans.records) == 0 && !rep.hasSOA
	return ans
}
