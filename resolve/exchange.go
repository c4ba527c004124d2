package resolve

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// ednsSize is the UDP payload size in queries: 1280 octets, which every IPv6 link carries
	// unfragmented (RFC 8200 section 5), less the headers. Fragments may be lost or forged.
	ednsSize = 1232
	// readSize is the maximum length in bytes of a UDP response that is read. It is larger than
	// ednsSize, because a server may ignore ednsSize.
	readSize = 4096

	headerLen = 12
)

// A dialect is the form of a query to a server. The form depends on what the server supports.
type dialect struct {
	edns   bool            // whether queries have an OPT record
	cookie bool            // whether the OPT record has a COOKIE option
	name   dnsmessage.Name // the name in the query, possibly in mixed case
}

// query queries the servers in turn, until one of them returns an answer. A response that there is no such
// name or record counts as an answer. The errors are of type *net.DNSError.
func (r *Resolver) query(ctx context.Context, name dnsmessage.Name, typ dnsmessage.Type, f *flight) (*answer, error) {
	q := dnsmessage.Question{Name: name, Type: typ, Class: dnsmessage.ClassINET}
	servers := r.upstream()
	if len(servers) == 0 {
		return nil, dnsError(errNoSuchHost, name.String(), "")
	}
	first := 0
	if r.cfg.Rotate {
		first = int((r.turn.Add(1) - 1) % uint32(len(servers)))
	}
	tries := r.cfg.Attempts * len(servers)
	var last error
	for i := range tries {
		if i > 0 {
			// The network may have advertised other servers during the last try.
			if now := r.upstream(); len(now) > 0 {
				servers = now
			}
		}
		s := servers[(first+i)%len(servers)]
		ans, err := r.try(ctx, s, q, f)
		if err == nil {
			ans.server = s.addr
			return ans, nil
		}
		if ctx.Err() == context.Canceled && i == tries-1 && !errors.Is(err, context.Canceled) {
			// The last try failed because the caller cancelled the context, not because the try timed out.
			// After a try that is not the last one, nothing needs to be done: Dial returns the error of the
			// context in the next try, as in net.
			err = context.Canceled
		}
		last = dnsError(err, name.String(), s.addr)
	}
	return nil, last
}

// done returns ctx.Err(). If the deadline of ctx is reached but ctx has not ended yet, done returns
// context.DeadlineExceeded: a connection with the same deadline may fail a moment before ctx ends.
func done(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if d, ok := ctx.Deadline(); ok && !time.Now().Before(d) {
		return context.DeadlineExceeded
	}
	return nil
}

// try sends one question to one server and waits for the answer until the timeout. If Config.Exchange is nil,
// try sends the question in clear, over UDP or TCP. Otherwise try calls Config.Exchange. If Config.Opportunistic
// is set and Config.Exchange gets no response, try sends this question, and for a while later ones, in clear.
func (r *Resolver) try(ctx context.Context, s *server, q dnsmessage.Question, f *flight) (*answer, error) {
	if r.cfg.Exchange == nil {
		return r.tryInClear(ctx, s, q, f)
	}
	if !r.cfg.Opportunistic || !s.inClear.holds(time.Now()) {
		ans, err := r.secure(ctx, s, q)
		if heard(err) || !r.cfg.Opportunistic || ctx.Err() != nil {
			return ans, err
		}
		s.inClear.set()
	}
	start := time.Now()
	ans, err := r.tryInClear(ctx, s, q, f)
	if !heard(err) && (ctx.Err() == nil || time.Since(start) >= silence) {
		s.inClear.forget() // the server is silent, with and without encryption
	}
	return ans, err
}

// tryInClear sends one question to one server over UDP or TCP and waits for the answer until the timeout.
//
// Over UDP, tryInClear mixes the case of the name at random. Some servers know names only in lower case.
// If the query brings no records (no such name, no such record, a refusal, a failure or no
// response), tryInClear therefore sends a second query with the name as the caller wrote it. After a
// response, it does so at once. Without a response, it does so at half of the timeout, and still
// accepts an answer to the first query.
//
// If the server has returned an IPv4 address for the same name in mixed case, a query for a type other
// than A needs no second query: tryInClear accepts a response without records.
func (r *Resolver) tryInClear(ctx context.Context, s *server, q dnsmessage.Question, f *flight) (*answer, error) {
	start := time.Now()
	first := dialect{name: q.Name, cookie: true}
	if !r.cfg.UseTCP {
		first.cookie = !s.losesCase.holds(start)
		if first.cookie {
			first.name = r.mixCase(q.Name)
		}
	}
	if first.name == q.Name {
		ans, err := r.exchange(ctx, s, q, first, start)
		s.plain(heard(err), time.Since(start))
		return ans, err
	}
	type outcome struct {
		ans *answer
		err error
	}
	var plain outcome
	ended := make(chan struct{})
	mixedCtx, endMixed := context.WithCancel(ctx)
	plainCtx, endPlain := context.WithCancel(ctx)
	defer endMixed()
	defer endPlain()
	askPlain := func() {
		defer close(ended)
		plain.ans, plain.err = r.exchange(plainCtx, s, q, dialect{name: q.Name}, start)
		if heard(plain.err) {
			endMixed()
		}
	}
	halfTime := time.AfterFunc(r.cfg.Timeout/2, askPlain)
	ans, err := r.exchange(mixedCtx, s, q, first, start)
	early := halfTime.Stop()
	f.judged(s, err == nil && ans.mixed && !ans.notFound)
	switch {
	case err == nil && !ans.notFound:
		s.silences.Store(0)
		if !early {
			endPlain()
			<-ended
		}
		return ans, nil
	case early && heard(err) && r.vouched(ctx, f, s, q, start):
		s.silences.Store(0)
		return ans, err
	case heard(err):
		s.silences.Store(0)
		if early {
			askPlain()
		}
	case early:
		// The query could not be sent, or the caller has given up.
		if ctx.Err() != nil && time.Since(start) >= silence {
			s.silent()
		}
		return nil, err
	default: // the query in mixed case got no response in half of the timeout
		<-ended
		// The server may have been silent because of the case of the name, if the second query got a response
		// or if the caller gave up before the second query could get one.
		if heard(plain.err) || ctx.Err() != nil && time.Since(start) < r.cfg.Timeout/2+silence {
			s.silent()
		}
		s.plain(heard(plain.err), 0)
	}
	if !early {
		<-ended
	}
	switch {
	case plain.err == nil && !plain.ans.notFound:
		if heard(err) {
			s.losesCase.set()
		}
		return plain.ans, nil
	case heard(plain.err), !heard(err):
		return plain.ans, plain.err
	}
	return ans, err
}

// vouched reports whether the server has returned an IPv4 address for the same name in mixed case,
// which shows that the server supports mixed case. Callers query A and AAAA together, and many names
// have records of only one type. If an A query is in progress, vouched therefore waits for its answer,
// until half of the timeout.
func (r *Resolver) vouched(ctx context.Context, f *flight, s *server, q dnsmessage.Question, start time.Time) bool {
	if f == nil || f.address == nil { // no A query to wait for; the answer to an earlier one may be cached
		ans := r.cache.get(cacheKey{lower(q.Name.String()), dnsmessage.TypeA}, time.Now())
		return q.Type != dnsmessage.TypeA && ans != nil && !ans.notFound && ans.mixed && ans.server == s.addr
	}
	halfTime := time.NewTimer(time.Until(start.Add(r.cfg.Timeout / 2)))
	defer halfTime.Stop()
	select {
	case <-f.address.first:
		return f.address.vouches == s.addr
	case <-halfTime.C:
	case <-ctx.Done():
	}
	return false
}

// heard reports whether the error err of a query comes from a message of the server. It returns false
// if the server did not respond or the query could not be sent.
func heard(err error) bool {
	_, ok := err.(*failure)
	return ok || err == nil
}

// exchange queries over UDP, and then over TCP if the response is truncated or unproven. If Config.UseTCP is
// set, exchange queries only over TCP. d.name is the name to send over UDP. d.cookie says whether to send a
// COOKIE option even if the server has sent no cookie yet. exchange itself sets d.edns. start is when the try
// began.
func (r *Resolver) exchange(ctx context.Context, s *server, q dnsmessage.Question, d dialect, start time.Time) (*answer, error) {
	d.edns = !s.noEDNS.holds(start)
	// Some firewalls drop queries with a COOKIE option. The second query of tryInClear therefore has no
	// such option, unless the server is known to support cookies.
	d.cookie = !r.cfg.NoCookies && (d.cookie || s.cookies.known())
	if !r.cfg.UseTCP {
		rep, err := r.converse(ctx, "udp", s, q, &d, start.Add(r.cfg.Timeout))
		if err != nil {
			return nil, err
		}
		if !rep.truncated && !rep.unproven {
			ans, err := rep.judge(q)
			if err == nil {
				ans.mixed = d.name != q.Name
			}
			return ans, err
		}
		// RFC 2181 9: "When a DNS client receives a reply with TC set, it should ignore
		// that response, and query again, using a mechanism, such as a TCP connection,
		// that will permit larger replies."
		start = time.Now()
	}
	// Over TCP a random case adds no protection.
	d.name = q.Name
	rep, err := r.converse(ctx, "tcp", s, q, &d, start.Add(r.cfg.Timeout))
	if err != nil {
		return nil, err
	}
	return rep.judge(q)
}

// converse queries a server over one network, which is "udp" or "tcp". It gives up at the time end. If the
// server does not support the form d of the query, converse changes d and queries again. For a while, converse
// remembers what the server does not support.
func (r *Resolver) converse(ctx context.Context, network string, s *server, q dnsmessage.Question, d *dialect, end time.Time) (*reply, error) {
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	asked := *d
	retried := false
	for {
		rep, err := r.roundTrip(ctx, network, s, q, *d)
		switch {
		case err == nil && rep.unproven:
			return rep, nil
		case err == nil && rep.rcode == rcodeBadCookie && rep.hasCookie && d.cookie && network == "udp":
			// RFC 7873 section 5.3: "The client SHOULD retry the request using the new Server Cookie
			// from the response." If that is refused too, "the client SHOULD retry using TCP".
			if retried {
				rep.unproven = true
				return rep, nil
			}
			retried = true
			continue
		case err == errCaseLost:
			// The next query has a new ID and a new port, so a forger has to guess again.
			d.name = q.Name
			continue
		case err != nil:
			return nil, err
		case d.edns && (rep.rcode == dnsmessage.RCodeFormatError || rep.rcode == dnsmessage.RCodeNotImplemented):
			// RFC 6891 7: "Responders that choose not to implement the protocol
			// extensions [...] MUST respond with a return code (RCODE) of FORMERR to
			// messages containing an OPT record". Some older servers respond with NOTIMP.
			d.edns = false
			continue
		case rep.rcode == dnsmessage.RCodeFormatError || rep.rcode == dnsmessage.RCodeNotImplemented:
			return rep, nil // the query had no OPT record
		}
		if d.edns != asked.edns {
			s.noEDNS.set()
		}
		if d.name != asked.name {
			s.losesCase.set()
		}
		return rep, nil
	}
}

// roundTrip sends one query over a new connection, which has a new port, and waits for the
// response.
func (r *Resolver) roundTrip(ctx context.Context, network string, s *server, q dnsmessage.Question, d dialect) (*reply, error) {
	c, err := r.cfg.Dial(ctx, network, s.addr)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	if deadline, ok := ctx.Deadline(); ok {
		c.SetDeadline(deadline)
	}
	// A deadline in the past wakes a blocked Read or Write.
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()

	var options []dnsmessage.Option
	var cookie []byte // nil if the query has no COOKIE option
	if d.edns && d.cookie {
		cookie = s.cookies.cookie(localAddr(c), r.cfg.Rand)
		options = []dnsmessage.Option{{Code: optionCookie, Data: cookie}}
	}
	msg, err := r.newQuery(q, d, options)
	if err != nil {
		return nil, errCannotMarshal
	}
	if _, isPacket := c.(net.PacketConn); !isPacket {
		rep, err := streamRoundTrip(c, msg, q)
		if err != nil {
			return nil, err
		}
		server, ok := rep.checkCookie(cookie)
		switch {
		case !ok:
			return nil, errInvalidResponse
		case cookie != nil && !rep.hasCookie:
			s.cookies.forget() // TCP's handshake shows that the response comes from the server
		default:
			s.cookies.learn(cookie, server)
		}
		return rep, nil
	}
	return packetRoundTrip(c, s, msg, q, d, cookie)
}

// packetRoundTrip sends the query and reads its response over UDP. cookie is the value of the query's
// COOKIE option, or nil.
func packetRoundTrip(c net.Conn, s *server, msg []byte, q dnsmessage.Question, d dialect, cookie []byte) (*reply, error) {
	if _, err := c.Write(msg[2:]); err != nil {
		return nil, err
	}
	buf := make([]byte, readSize)
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		rep, err := readResponse(buf[:n], msg[2:], q)
		switch {
		case err == errNotOurs:
			// RFC 5452 9.1: responses MUST match the ID, name, class and type of the query. This
			// message is forged or late. The real response may still arrive.
			continue
		case err == errCaseLost && d.name == q.Name:
			// The query has the caller's case, which a forger may know, so the case proves nothing.
			rep, err = readBody(buf[:n], q)
		}
		if err != nil {
			return nil, err
		}
		server, ok := rep.checkCookie(cookie)
		if !ok {
			continue
		}
		// RFC 7873 section 5.3: "If the client is expecting the response to contain a COOKIE option and it
		// is missing, the response MUST be discarded." The query is then repeated over TCP, because the
		// server may no longer send cookies.
		rep.unproven = len(cookie) > clientCookieLen && !rep.hasCookie
		s.cookies.learn(cookie, server)
		return rep, nil
	}
}

// streamRoundTrip sends the query and reads its response over TCP. RFC 1035 4.2.2:
// "The message is prefixed with a two byte length field".
func streamRoundTrip(c net.Conn, msg []byte, q dnsmessage.Question) (*reply, error) {
	// RFC 7766 8: the length and the message should be "passed to the TCP layer at the
	// same time".
	if _, err := c.Write(msg); err != nil {
		return nil, err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, err
	}
	rep, err := readResponse(buf, msg[2:], q)
	switch err {
	case errNotOurs:
		var p dnsmessage.Parser
		if _, err := p.Start(buf); err != nil {
			return nil, errCannotUnmarshal
		}
		if _, err := p.Question(); err != nil {
			return nil, errCannotUnmarshal
		}
		return nil, errInvalidResponse
	case errCaseLost:
		// Over TCP the case need not match.
		return readBody(buf, q)
	}
	return rep, err
}

// newQuery returns the query for q, preceded by two bytes for its length. options are the EDNS options.
func (r *Resolver) newQuery(q dnsmessage.Question, d dialect, options []dnsmessage.Option) ([]byte, error) {
	q.Name = d.name
	b := dnsmessage.NewBuilder(make([]byte, 2, 2+512), dnsmessage.Header{
		ID: uint16(r.cfg.Rand()), RecursionDesired: true, AuthenticData: r.cfg.TrustAD,
	})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(q); err != nil {
		return nil, err
	}
	if d.edns {
		var rh dnsmessage.ResourceHeader
		if err := rh.SetEDNS0(ednsSize, dnsmessage.RCodeSuccess, false); err != nil {
			return nil, err
		}
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		if err := b.OPTResource(rh, dnsmessage.OPTResource{Options: options}); err != nil {
			return nil, err
		}
	}
	msg, err := b.Finish()
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint16(msg, uint16(len(msg)-2))
	return msg, nil
}

// mixCase changes the case of each letter of a name at random, as in "Use of Bit 0x20 in DNS Labels
// to Improve Transaction Identity", draft-vixie-dnsext-dns0x20. A forger has to guess one more bit
// for each letter.
func (r *Resolver) mixCase(name dnsmessage.Name) dnsmessage.Name {
	var coins uint64
	left := 0
	for i := range name.Length {
		c := name.Data[i] | 0x20
		if c < 'a' || c > 'z' {
			continue
		}
		if left == 0 {
			coins, left = r.cfg.Rand(), 64
		}
		name.Data[i] ^= byte(coins&1) << 5
		coins >>= 1
		left--
	}
	return name
}

// readResponse parses msg as the response to query. query asks q, possibly with the name in another
// case. The error is errNotOurs if msg is not a response to query, errCaseLost if only the case
// differs, and another error if msg is malformed. readResponse changes the name in the question of msg
// back to the case of q, because compressed names refer to that name.
func readResponse(msg, query []byte, q dnsmessage.Question) (*reply, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil || !h.Response || h.ID != binary.BigEndian.Uint16(query) {
		return nil, errNotOurs
	}
	if binary.BigEndian.Uint16(msg[4:]) == 0 {
		if h.RCode == dnsmessage.RCodeFormatError || h.RCode == dnsmessage.RCodeNotImplemented {
			// A server that could not parse the query may omit its question.
			return &reply{rcode: h.RCode}, nil
		}
		return nil, errNotOurs
	}
	end := headerLen + questionLen(q)
	if len(msg) < end || !bytes.Equal(msg[headerLen:end], query[headerLen:end]) {
		got, err := p.Question()
		if err != nil || got.Type != q.Type || got.Class != q.Class || !equalFold(&got.Name, &q.Name) {
			return nil, errNotOurs
		}
		return nil, errCaseLost
	}
	for i, c := range q.Name.Data[:q.Name.Length] {
		// On the wire each letter is one byte further than in q.Name: the length of the first label precedes
		// the name, and the lengths of the other labels replace the dots.
		if c != '.' {
			msg[headerLen+1+i] = c
		}
	}
	return readBody(msg, q)
}

// readBody parses a message that is the response to q.
func readBody(msg []byte, q dnsmessage.Question) (*reply, error) {
	var p dnsmessage.Parser
	h, err := p.Start(msg)
	if err != nil {
		return nil, errCannotUnmarshal
	}
	if err := p.SkipQuestion(); err != nil {
		return nil, errCannotUnmarshal
	}
	// RFC 9619: a QDCOUNT greater than 1 makes no sense.
	if err := p.SkipQuestion(); err != dnsmessage.ErrSectionDone {
		return nil, errInvalidResponse
	}
	return parseReply(&p, h, q)
}

// questionLen returns the length of q on the wire. A name has one byte more there than in
// presentation form, except the root, which has one byte in both.
func questionLen(q dnsmessage.Question) int {
	const typeAndClass = 4
	if q.Name.Length == 1 {
		return 1 + typeAndClass
	}
	return int(q.Name.Length) + 1 + typeAndClass
}
