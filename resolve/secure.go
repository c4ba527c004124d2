package resolve

import (
	"context"

	"golang.org/x/net/dns/dnsmessage"
)

// paddedTo is the block length of queries. RFC 8467 section 4.1: "Clients SHOULD pad queries to the closest
// multiple of 128 octets."
const paddedTo = 128

// secure sends a question to a server by Config.Exchange. The query has the caller's case and no cookie,
// because the connection is encrypted.
func (r *Resolver) secure(ctx context.Context, s *server, q dnsmessage.Question) (*answer, error) {
	limit := r.cfg.Timeout
	if r.cfg.Opportunistic {
		limit /= 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	d := dialect{name: q.Name, edns: true}
	for {
		query, err := r.paddedQuery(q, d)
		if err != nil {
			return nil, errCannotMarshal
		}
		msg, err := r.cfg.Exchange(ctx, r.cfg.Dial, s.addrPort, query)
		if err != nil {
			return nil, err
		}
		rep, err := readResponse(msg, query, q)
		switch {
		case err == errNotOurs:
			return nil, errInvalidResponse
		case err == errCaseLost:
			rep, err = readBody(msg, q)
		}
		if err != nil {
			return nil, err
		}
		if d.edns && (rep.rcode == dnsmessage.RCodeFormatError || rep.rcode == dnsmessage.RCodeNotImplemented) {
			d.edns = false
			continue
		}
		return rep.judge(q)
	}
}

// paddedQuery returns the query for q without a length. If the query has an OPT record, it is padded, so
// that its length does not reveal the name.
func (r *Resolver) paddedQuery(q dnsmessage.Question, d dialect) ([]byte, error) {
	if !d.edns {
		msg, err := r.newQuery(q, d, nil)
		if err != nil {
			return nil, err
		}
		return msg[2:], nil
	}
	msg, err := r.newQuery(q, d, []dnsmessage.Option{{Code: optionPadding}})
	if err != nil {
		return nil, err
	}
	// RFC 7830 3: the octets of the padding SHOULD be zero.
	padding := make([]byte, (paddedTo-len(msg[2:])%paddedTo)%paddedTo)
	if msg, err = r.newQuery(q, d, []dnsmessage.Option{{Code: optionPadding, Data: padding}}); err != nil {
		return nil, err
	}
	return msg[2:], nil
}
