package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
)

// zone is the server's zone, in the form of RFC 1035 5. newServer adds large.test, whose records do not fit into
// a datagram.
const zone = `
$ORIGIN test.
$TTL 60
@        SOA   ns hostmaster 1 3600 600 86400 60
@        NS    ns
ns       A     192.0.2.2
www      CNAME web
web      A     192.0.2.80
web      A     192.0.2.81
@        MX    10 mail
mail     A     192.0.2.25
_xmpp-server._tcp SRV 5 0 5269 mail
txt      TXT   "one" "two"
`

// A server answers from its zone.
type server struct {
	records map[string][]dns.RR // by name in lower case
	mu      sync.Mutex
	asked   map[string]int // by network
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{records: map[string][]dns.RR{}, asked: map[string]int{}}
	p := dns.NewZoneParser(strings.NewReader(zone), "", "")
	for rr, ok := p.Next(); ok; rr, ok = p.Next() {
		name := strings.ToLower(rr.Header().Name)
		s.records[name] = append(s.records[name], rr)
	}
	require.NoError(t, p.Err())
	for i := range 200 {
		rr, err := dns.NewRR(fmt.Sprintf("large.test. 60 IN A 198.51.100.%d", i))
		require.NoError(t, err)
		s.records["large.test."] = append(s.records["large.test."], rr)
	}
	ptr, err := dns.NewRR("80.2.0.192.in-addr.arpa. 60 IN PTR web.test.")
	require.NoError(t, err)
	s.records["80.2.0.192.in-addr.arpa."] = []dns.RR{ptr}
	return s
}

// ServeDNS answers a question. For broken.test it returns a failure, and for silent.test nothing.
func (s *server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	s.mu.Lock()
	s.asked[w.LocalAddr().Network()]++
	s.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative = true
	name := strings.ToLower(q.Question[0].Name)
	switch name {
	case "silent.test.":
		return
	case "broken.test.":
		m.SetRcode(q, dns.RcodeServerFailure)
		w.WriteMsg(m)
		return
	}
	found := false
	for range 8 {
		next := ""
		for _, rr := range s.records[name] {
			found = true
			if rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			} else if c, ok := rr.(*dns.CNAME); ok {
				m.Answer = append(m.Answer, rr)
				next = strings.ToLower(c.Target)
			}
		}
		if next == "" {
			break
		}
		name = next
	}
	if !found {
		m.SetRcode(q, dns.RcodeNameError)
	}
	if len(m.Answer) == 0 {
		m.Ns = []dns.RR{s.records["test."][0]}
	}
	if w.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = int(o.UDPSize())
			m.SetEdns0(1232, false)
		}
		m.Truncate(size)
	}
	w.WriteMsg(m)
}

// count returns the number of queries over a network.
func (s *server) count(network string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[network]
}

// serve answers over UDP and TCP on a host until the end of the test.
func serve(t *testing.T, h *usernet.Host) *server {
	t.Helper()
	s := newServer(t)
	pc, err := h.ListenPacket("udp", ":53")
	require.NoError(t, err)
	ln, err := h.Listen("tcp", ":domain")
	require.NoError(t, err)
	for _, d := range []*dns.Server{{PacketConn: pc}, {Listener: ln}} {
		d.Handler = s
		started := make(chan struct{})
		d.NotifyStartedFunc = func() { close(started) }
		ended := make(chan error, 1)
		go func() { ended <- d.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			require.NoError(t, d.ShutdownContext(ctx))
			require.NoError(t, <-ended)
		})
	}
	return s
}

// ask sends a query with the package's own client.
func ask(t *testing.T, h *usernet.Host, network, name string, kind uint16) *dns.Msg {
	t.Helper()
	c, err := h.Dial(network, "192.0.2.2:53")
	require.NoError(t, err)
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	r, _, err := (&dns.Client{Net: network}).ExchangeWithConn(q, &dns.Conn{Conn: c})
	require.NoError(t, err)
	return r
}

func TestClientAsksOverUDPAndTCP(t *testing.T) {
	a, b := newHosts(t)
	serve(t, b)
	for _, network := range []string{"udp", "tcp"} {
		r := ask(t, a, network, "www.test.", dns.TypeA)
		require.Len(t, r.Answer, 3)
		require.Equal(t, "web.test.", r.Answer[0].(*dns.CNAME).Target)
		require.Equal(t, "192.0.2.80", r.Answer[1].(*dns.A).A.String())
		r = ask(t, a, network, "nothing.test.", dns.TypeA)
		require.Equal(t, dns.RcodeNameError, r.Rcode)
		r = ask(t, a, network, "large.test.", dns.TypeA)
		require.Equal(t, network == "udp", r.Truncated)
		if network == "tcp" {
			require.Len(t, r.Answer, 200)
		}
	}
}

func TestClientAsksManyThingsOnOneConnection(t *testing.T) {
	a, b := newHosts(t)
	s := serve(t, b)
	for _, network := range []string{"udp", "tcp"} {
		c, err := a.Dial(network, "192.0.2.2:53")
		require.NoError(t, err)
		defer c.Close()
		co := &dns.Conn{Conn: c}
		client := &dns.Client{Net: network}
		for range 100 {
			q := new(dns.Msg)
			q.SetQuestion("txt.test.", dns.TypeTXT)
			r, _, err := client.ExchangeWithConn(q, co)
			require.NoError(t, err)
			require.Equal(t, []string{"one", "two"}, r.Answer[0].(*dns.TXT).Txt)
		}
		require.Equal(t, 100, s.count(network))
	}
}

func TestClientIsToldOfAClosedPort(t *testing.T) {
	a, _ := newHosts(t)
	c, err := a.Dial("udp", "192.0.2.2:53")
	require.NoError(t, err)
	defer c.Close()
	q := new(dns.Msg)
	q.SetQuestion("www.test.", dns.TypeA)
	_, _, err = new(dns.Client).ExchangeWithConn(q, &dns.Conn{Conn: c})
	require.ErrorContains(t, err, "connection refused")
}

func TestHostResolvesNames(t *testing.T) {
	a, b := newHosts(t)
	s := serve(t, b)
	addrs, err := a.LookupHost("www.test")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"192.0.2.80", "192.0.2.81"}, addrs)
	cname, err := a.LookupCNAME("www.test")
	require.NoError(t, err)
	require.Equal(t, "web.test.", cname)
	mx, err := a.LookupMX("test")
	require.NoError(t, err)
	require.Equal(t, []*net.MX{{Host: "mail.test.", Pref: 10}}, mx)
	_, srv, err := a.LookupSRV("xmpp-server", "tcp", "test")
	require.NoError(t, err)
	require.Equal(t, []*net.SRV{{Target: "mail.test.", Port: 5269, Priority: 5}}, srv)
	txt, err := a.LookupTXT("txt.test")
	require.NoError(t, err)
	require.Equal(t, []string{"onetwo"}, txt)
	names, err := a.LookupAddr("192.0.2.80")
	require.NoError(t, err)
	require.Equal(t, []string{"web.test."}, names)
	ns, err := a.LookupNS("test")
	require.NoError(t, err)
	require.Equal(t, []*net.NS{{Host: "ns.test."}}, ns)

	require.Zero(t, s.count("tcp"))
	addrs, err = a.LookupHost("large.test")
	require.NoError(t, err)
	require.Len(t, addrs, 200, "a truncated answer is asked for again over TCP")
	require.Positive(t, s.count("tcp"))

	// A dial resolves a name, too.
	ln, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	defer ln.Close()
	c, err := a.Dial("tcp", "ns.test:http")
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, netip.MustParseAddrPort("192.0.2.2:80"), c.RemoteAddr().(*net.TCPAddr).AddrPort())
}

func TestHostTellsWhyANameIsNotResolved(t *testing.T) {
	a, b := newHosts(t)
	serve(t, b)
	var e *net.DNSError
	_, err := a.LookupHost("nothing.test")
	require.ErrorAs(t, err, &e)
	require.True(t, e.IsNotFound)
	require.Equal(t, "lookup nothing.test on 192.0.2.2:53: no such host", err.Error())
	_, err = a.LookupHost("broken.test")
	require.ErrorAs(t, err, &e)
	require.True(t, e.IsTemporary)
	require.False(t, e.IsNotFound)
	require.Equal(t, "lookup broken.test on 192.0.2.2:53: server misbehaving", err.Error())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = a.Resolver().LookupHost(ctx, "silent.test")
	require.ErrorAs(t, err, &e)
	require.True(t, e.IsTimeout)
}

// net.Resolver sends its queries over the connections of its Dial.
func TestResolverOfNetAsksThroughTheHost(t *testing.T) {
	a, b := newHosts(t)
	s := serve(t, b)
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return a.DialContext(ctx, network, "192.0.2.2:53")
	}}
	addrs, err := r.LookupHost(t.Context(), "web.test.")
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"192.0.2.80", "192.0.2.81"}, addrs)
	addrs, err = r.LookupHost(t.Context(), "large.test.")
	require.NoError(t, err)
	require.Len(t, addrs, 200)
	require.Positive(t, s.count("tcp"))
}
