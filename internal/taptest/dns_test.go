//go:build linux

package taptest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet"
)

// The tests of this file query real name servers, dnsmasq and unbound, in the test's namespace. They
// compare usernet's resolver, which reaches the servers over a TAP, with net's resolver, which reaches
// the same servers over the kernel.

var nameServers = map[string]string{"dnsmasq": dnsmasqAddr, "unbound": unboundAddr}

// addressQuestions returns questions about the addresses of names.
func addressQuestions() []question {
	var qs []question
	for _, name := range []string{
		"host.dns.test.", "HOST.dns.Test.", "host", "host.dns.test", "four.dns.test.", "six.dns.test.", "six", "many", "sub.deep", "sub.deep.dns.test.",
		"alias1.dns.test.", "alias3.dns.test.", "alias2", "away.dns.test.", "there.other.test", "dangling.dns.test.", "a.wild",
		"nowhere.dns.test.", "nowhere", "no.where", "txt.dns.test.", "broken.test.", "x.broken.test", "refused.test.", "www.refused.test",
		"known", "Known.example", "192.0.2.1", "::1", "fe80::1%lo", "-bad", "a..b", "", ".",
	} {
		for _, method := range []string{"LookupHost", "LookupIPAddr"} {
			qs = append(qs, question{Method: method, Name: name})
		}
		for _, network := range []string{"ip", "ip4", "ip6"} {
			qs = append(qs, question{Method: "LookupIP", Network: network, Name: name}, question{Method: "LookupNetIP", Network: network, Name: name})
		}
	}
	return qs
}

// recordQuestions returns questions about records other than addresses.
func recordQuestions() []question {
	var qs []question
	for _, name := range []string{
		"dns.test.", "txt", "txt.dns.test.", "big.dns.test.", "host.dns.test.", "nowhere.dns.test.", "nowhere", "broken.test.", "refused.test.", "a..b", "",
	} {
		for _, method := range []string{"LookupMX", "LookupNS", "LookupTXT", "LookupSRV"} {
			qs = append(qs, question{Method: method, Name: name})
		}
	}
	// There is no chain of aliases among these names, because net returns one of two names for a chain, at
	// random.
	for _, name := range []string{"host", "alias1.dns.test.", "alias1", "four.dns.test.", "six", "txt.dns.test.", "nowhere.dns.test.", "broken.test.", "refused.test."} {
		qs = append(qs, question{Method: "LookupCNAME", Name: name})
	}
	for _, addr := range []string{"192.0.2.80", "192.0.2.81", "2001:db8::6", "2001:db8::7", "::ffff:192.0.2.80", "192.0.2.90", "host.dns.test", ""} {
		qs = append(qs, question{Method: "LookupAddr", Name: addr})
	}
	return qs
}

func TestLookupsAtRealServersAreThoseOfNet(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	ns.startNameServers(t)
	all := append(addressQuestions(), recordQuestions()...)
	some := []question{
		{Method: "LookupHost", Name: "host"}, {Method: "LookupHost", Name: "many.dns.test."}, {Method: "LookupHost", Name: "nowhere.dns.test."},
		{Method: "LookupHost", Name: "broken.test."}, {Method: "LookupTXT", Name: "big.dns.test."}, {Method: "LookupHost", Name: "sub.deep"},
	}
	for name, addr := range nameServers {
		for options, qs := range map[string][]question{
			"ndots:2 timeout:5 attempts:2":          all,
			"use-vc":                                all, // queries over TCP
			"single-request edns0 trust-ad":         some,
			"ndots:0 timeout:1 attempts:1 inet6":    some, // the last option is unknown
			"ndots:15 rotate single-request-reopen": some,
		} {
			t.Run(name+" "+options, func(t *testing.T) {
				s := system{
					resolvConf: "nameserver " + addr + "\nsearch dns.test other.test\noptions " + options + "\n",
					hosts:      "192.0.2.90 known known.example\n2001:db8::90 known\n",
				}
				s.compare(t, ns, s.host(t, ns), qs)
			})
		}
	}
}

// TestRecordsOfRealServers checks the answers themselves. The other tests only compare two resolvers.
func TestRecordsOfRealServers(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	ns.startNameServers(t)
	for name, addr := range nameServers {
		t.Run(name, func(t *testing.T) {
			r := system{resolvConf: "nameserver " + addr}.host(t, ns).Resolver()
			ctx := t.Context()
			addrs, err := r.LookupHost(ctx, "alias3.dns.test")
			require.NoError(t, err)
			require.Equal(t, []string{"192.0.2.80", "2001:db8::80"}, addrs, "a chain of aliases; the address that can be reached comes first")
			cname, err := r.LookupCNAME(ctx, "alias3.dns.test")
			require.NoError(t, err)
			require.Equal(t, "host.dns.test.", cname)
			names, err := r.LookupAddr(ctx, "192.0.2.80")
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"host.dns.test.", "second.dns.test."}, names)
			names, err = r.LookupAddr(ctx, "2001:db8::6")
			require.NoError(t, err)
			require.Equal(t, []string{"six.dns.test."}, names)
			cname, srvs, err := r.LookupSRV(ctx, "sip", "tcp", "dns.test")
			require.NoError(t, err)
			require.Equal(t, "_sip._tcp.dns.test.", cname)
			require.Equal(t, []*net.SRV{{Target: "host.dns.test.", Port: 5060, Priority: 1, Weight: 5}, {Target: "four.dns.test.", Port: 5061, Priority: 2}}, srvs)
			mxs, err := r.LookupMX(ctx, "dns.test")
			require.NoError(t, err)
			require.Equal(t, []*net.MX{{Host: "mail1.dns.test.", Pref: 10}, {Host: "mail2.dns.test.", Pref: 20}}, mxs)
			nss, err := r.LookupNS(ctx, "dns.test")
			require.NoError(t, err)
			require.ElementsMatch(t, []*net.NS{{Host: "ns1.dns.test."}, {Host: "ns2.dns.test."}}, nss)
			txts, err := r.LookupTXT(ctx, "txt.dns.test")
			require.NoError(t, err)
			require.ElementsMatch(t, []string{"ab c", "second"}, txts)
		})
	}
}

// A counter counts the dials of a host's resolver.
type counter struct {
	mu    sync.Mutex
	dials map[string]int // number of dials by network
}

// count makes the resolver of cfg dial through c. *h has to be the host of cfg when the resolver dials.
func (c *counter) count(cfg *usernet.Config, h **usernet.Host) {
	c.dials = make(map[string]int)
	cfg.Resolver.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		c.mu.Lock()
		c.dials[network]++
		c.mu.Unlock()
		return (*h).DialContext(ctx, network, address)
	}
}

// since returns the number of dials by network since the last call of since.
func (c *counter) since() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	dials := c.dials
	c.dials = make(map[string]int)
	return dials
}

// counted makes a host, and returns the counter of its resolver's dials.
func (s system) counted(t *testing.T, ns *namespace) (*usernet.Host, *counter) {
	t.Helper()
	c := new(counter)
	h := new(*usernet.Host)
	*h = s.host(t, ns, func(cfg *usernet.Config) { c.count(cfg, h) })
	return *h, c
}

func TestLargeAnswersOfRealServersComeByTCP(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	ns.startNameServers(t)
	for name, addr := range nameServers {
		t.Run(name, func(t *testing.T) {
			h, c := system{resolvConf: "nameserver " + addr}.counted(t, ns)
			ips, err := h.Resolver().LookupIP(t.Context(), "ip4", "many.dns.test.")
			require.NoError(t, err)
			require.Len(t, ips, manyAddrs)
			require.Equal(t, map[string]int{"udp": 1, "tcp": 1}, c.since())

			texts, err := h.LookupTXT("big.dns.test.")
			require.NoError(t, err)
			want := make([]string, bigTXT)
			for i := range want {
				want[i] = bigText(i)
			}
			require.ElementsMatch(t, want, texts)
			require.Equal(t, map[string]int{"udp": 1, "tcp": 1}, c.since())

			_, err = h.Resolver().LookupIP(t.Context(), "ip4", "host.dns.test.")
			require.NoError(t, err)
			require.Equal(t, map[string]int{"udp": 1}, c.since(), "a small one does not")
		})
	}
}

func TestBadServersArePassedOverAsByNet(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	ns.startNameServers(t)
	var silent net.PacketConn
	require.NoError(t, ns.inside(func() (err error) {
		silent, err = net.ListenPacket("udp", silentAddr+":53")
		return err
	}))
	defer silent.Close()

	host := question{Method: "LookupHost", Name: "host.dns.test."}
	soon := question{Method: "LookupHost", Name: "host.dns.test.", Timeout: 300 * time.Millisecond}
	over := question{Method: "LookupHost", Name: "host.dns.test.", Timeout: 1}
	given := question{Method: "LookupIPAddr", Name: "host.dns.test.", Cancel: 300 * time.Millisecond}
	// The caller gives up long before the server's timeout of 30 s.
	quick := question{Method: "LookupHost", Name: "host.dns.test.", Timeout: 20 * time.Second}
	for _, c := range []struct {
		name    string
		servers []string
		options string
		qs      []question
		ok      bool // host.dns.test is found
	}{
		{"silent", []string{silentAddr}, "timeout:1 attempts:2", []question{host}, false},
		{"silent, and the caller has a limit", []string{silentAddr}, "timeout:5", []question{soon, given}, false},
		{"two silent ones, and the caller has a limit", []string{silentAddr, absentAddr}, "timeout:5", []question{soon, given}, false},
		{"the caller has no time", []string{unboundAddr, dnsmasqAddr}, "", []question{over, {Method: "LookupTXT", Name: "host", Timeout: 1}}, false},
		{"silent first", []string{silentAddr, dnsmasqAddr}, "timeout:1", []question{host}, true},
		{"silent first, by TCP", []string{silentAddr, unboundAddr}, "timeout:1 use-vc", []question{host}, true},
		{"no server on the port", []string{absentAddr}, "timeout:30", []question{quick}, false},
		{"no server on the port first", []string{absentAddr, unboundAddr}, "timeout:30", []question{quick}, true},
		{"no server on the port, by TCP", []string{absentAddr}, "timeout:30 use-vc", []question{quick}, false},
		{"out of reach", []string{"198.51.100.1"}, "timeout:30", []question{quick}, false},
		{"out of reach first", []string{"198.51.100.1", dnsmasqAddr}, "timeout:30", []question{quick}, true},
		// Only TCP can be compared. Over UDP the kernel reports nothing, but a usernet socket reports that
		// ARP has failed.
		{"an address without a host, by TCP", []string{"192.0.2.200"}, "timeout:30 attempts:1 use-vc", []question{quick}, false},
		{"refuses first", []string{dnsmasqAddr, unboundAddr}, "", []question{{Method: "LookupHost", Name: "no.where."}}, false},
		{"refuses last", []string{unboundAddr, dnsmasqAddr}, "", []question{{Method: "LookupHost", Name: "refused.test."}}, false},
		{"fails first", []string{unboundAddr, absentAddr}, "timeout:30", []question{{Method: "LookupHost", Name: "broken.test."}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := system{resolvConf: "nameserver " + strings.Join(c.servers, "\nnameserver ") + "\noptions " + c.options + "\n"}
			h := s.host(t, ns)
			s.compare(t, ns, h, c.qs)
			if c.ok {
				addrs, err := h.LookupHost("host.dns.test.")
				require.NoError(t, err)
				require.Equal(t, []string{"192.0.2.80", "2001:db8::80"}, addrs)
			}
		})
	}
}

func TestDialsByNameAreThoseOfNet(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	ns.startNameServers(t)
	s := system{
		resolvConf: "nameserver " + unboundAddr,
		// No host has the addresses of "dead", and only one address of "second" has a listener.
		hosts: "192.0.2.52 server\n192.0.2.98 dead1 dead\n192.0.2.99 dead\n192.0.2.56 second\n192.0.2.52 second\n",
	}
	// Both the kernel and the host have IPv6, but no IPv6 route.
	h := s.host(t, ns, func(cfg *usernet.Config) {
		cfg.Addrs = append(cfg.Addrs, netip.MustParsePrefix("2001:db8:ffff::1/128"))
	})
	s.compare(t, ns, h, []question{
		{Method: "Dial", Network: "tcp", Name: "server:53"},
		{Method: "Dial", Network: "tcp", Name: "second:domain"},
		{Method: "Dial", Network: "tcp", Name: "server:81"},
		{Method: "Dial", Network: "tcp", Name: "ns1.dns.test:53"},
		{Method: "Dial", Network: "tcp", Name: "six.dns.test:80"}, // has no address that the host can reach
		{Method: "Dial", Network: "tcp4", Name: "six.dns.test:80"},
		{Method: "Dial", Network: "tcp6", Name: "four.dns.test:80"},
		{Method: "Dial", Network: "tcp6", Name: "six.dns.test:80"},
		{Method: "Dial", Network: "udp", Name: "ns1.dns.test:53"},
		{Method: "Dial", Network: "ip4:icmp", Name: "ns1.dns.test"},
		{Method: "Dial", Network: "tcp", Name: "nowhere.dns.test:80"},
		{Method: "Dial", Network: "tcp", Name: "broken.test.:80"},
		{Method: "Dial", Network: "tcp", Name: "refused.test.:80"},
		{Method: "Dial", Network: "tcp", Name: "a..b:80"},
		{Method: "Dial", Network: "tcp", Name: "dead1:80", Timeout: 300 * time.Millisecond},
		{Method: "Dial", Network: "tcp", Name: "dead1:80", Cancel: 300 * time.Millisecond},
		{Method: "Dial", Network: "tcp", Name: "dead:80", Cancel: 300 * time.Millisecond}, // the error names the second address
	})
}

func TestAThousandLookupsAtOnceAreAnswered(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	ns.startNameServers(t)
	for name, addr := range nameServers {
		t.Run(name, func(t *testing.T) {
			// The resolver repeats a query that the kernel drops because a buffer is full.
			h := system{resolvConf: "nameserver " + addr + "\noptions timeout:2 attempts:5"}.host(t, ns)
			var wg sync.WaitGroup
			errs := make(chan error, 1000)
			for i := range cap(errs) {
				wg.Go(func() {
					addrs, err := h.LookupHost(fmt.Sprintf("n%d.wild.dns.test.", i))
					if err == nil && (len(addrs) != 1 || addrs[0] != "192.0.2.81") {
						err = fmt.Errorf("lookup %d: %v", i, addrs)
					}
					errs <- err
				})
			}
			wg.Wait()
			for range cap(errs) {
				require.NoError(t, <-errs)
			}
		})
	}
}

func TestAnswersOfRealServersAreCachedForTheirTTL(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	ns.startNameServers(t)
	for name, addr := range nameServers {
		t.Run(name, func(t *testing.T) {
			h, c := system{resolvConf: "nameserver " + addr}.counted(t, ns)
			short := func() map[string]int {
				addrs, err := h.LookupHost("short.dns.test.")
				require.NoError(t, err)
				require.Equal(t, []string{"192.0.2.7"}, addrs)
				return c.since()
			}
			nowhere := func() map[string]int {
				_, err := h.LookupHost("nowhere.dns.test.")
				require.EqualError(t, err, "lookup nowhere.dns.test. on "+addr+":53: no such host")
				return c.since()
			}
			// The numbers of queries of a first and of a second lookup.
			shortFirst, cached := map[string]int{"udp": 2}, map[string]int{}
			// The resolver queries a name that does not exist twice: in mixed case, and then in the
			// caller's case.
			nowhereFirst := map[string]int{"udp": 4}
			nowhereAgain := cached
			if addr == dnsmasqAddr {
				// RFC 2308 5: negative answers "without SOA records SHOULD NOT be cached".
				nowhereAgain = nowhereFirst
			}
			// dnsmasq returns no SOA for a missing AAAA, either.
			shortAgain := cached
			if addr == dnsmasqAddr {
				shortAgain = map[string]int{"udp": 1}
			}
			twice := func(lookup func() map[string]int, first, again map[string]int) {
				for {
					began := time.Now()
					require.Equal(t, first, lookup())
					got := lookup()
					if time.Since(began) < time.Second { // otherwise the machine is too busy: try again
						require.Equal(t, again, got)
						return
					}
					time.Sleep(2100 * time.Millisecond)
				}
			}
			twice(nowhere, nowhereFirst, nowhereAgain)
			twice(short, shortFirst, shortAgain)
			time.Sleep(2100 * time.Millisecond) // the answers of both lookups have a TTL of 2 s
			require.Equal(t, nowhereFirst, nowhere())
			require.Equal(t, shortFirst, short())
		})
	}
}

// A spoofer is a name server at spooferAddr that sends forged answers before the right answer.
type spoofer struct {
	server, otherPort, otherAddr net.PacketConn
}

// evil is the address in forged answers.
var evil = netip.MustParseAddr("203.0.113.66")

func dnsAnswer(id uint16, q dnsmessage.Question, addr netip.Addr) *dnsmessage.Message {
	m := &dnsmessage.Message{
		Header:    dnsmessage.Header{ID: id, Response: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: addr.As4()},
		}}
	}
	return m
}

// answer answers a query. First it sends forged answers with wrong IDs, as an attacker that cannot see the
// query does. Then it sends forged answers that have the right ID but are wrong in another way. Finally it
// sends the right answer.
func (s *spoofer) answer(id uint16, q dnsmessage.Question, from *net.UDPAddr) error {
	send := func(from net.PacketConn, to *net.UDPAddr, m *dnsmessage.Message) error {
		b, err := m.Pack()
		if err != nil {
			return err
		}
		_, err = from.WriteTo(b, to)
		return err
	}
	forged := func(change func(m *dnsmessage.Message)) *dnsmessage.Message {
		m := dnsAnswer(id, q, evil)
		change(m)
		return m
	}
	for range 200 { // wrong IDs
		if err := send(s.server, from, forged(func(m *dnsmessage.Message) { m.ID += uint16(1 + rand.N(65535)) })); err != nil {
			return err
		}
	}
	next := *from
	next.Port++
	right := dnsAnswer(id, q, evil)
	for _, err := range []error{
		send(s.otherPort, from, right),
		send(s.otherAddr, from, right),
		send(s.server, &next, right),
		send(s.server, from, forged(func(m *dnsmessage.Message) { m.Response = false })),
		send(s.server, from, forged(func(m *dnsmessage.Message) { m.Questions = nil })),
		send(s.server, from, forged(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName("evil.test.") })),
		send(s.server, from, forged(func(m *dnsmessage.Message) { m.Questions[0].Type = dnsmessage.TypeTXT })),
		send(s.server, from, forged(func(m *dnsmessage.Message) { m.Questions[0].Class = dnsmessage.ClassCHAOS })),
	} {
		if err != nil {
			return err
		}
	}
	if _, err := s.server.WriteTo([]byte{byte(id >> 8), byte(id), 0x80}, from); err != nil {
		return err
	}
	if name := q.Name.String(); name != strings.ToLower(name) {
		// The case of the name is secret too. A forged answer in lower case makes the resolver repeat the
		// query.
		m := forged(func(m *dnsmessage.Message) { m.Questions[0].Name = dnsmessage.MustNewName(strings.ToLower(name)) })
		if err := send(s.server, from, m); err != nil {
			return err
		}
	}
	time.Sleep(5 * time.Millisecond)
	return send(s.server, from, dnsAnswer(id, q, netip.MustParseAddr("192.0.2.80")))
}

func (s *spoofer) serve() error {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.server.ReadFrom(buf)
		if err != nil {
			return nil // closed
		}
		var m dnsmessage.Message
		if err := m.Unpack(buf[:n]); err != nil {
			return err
		}
		if err := s.answer(m.ID, m.Questions[0], from.(*net.UDPAddr)); err != nil {
			return err
		}
	}
}

func TestForgedAnswersAreNotBelieved(t *testing.T) {
	t.Parallel()
	need(t)
	ns := newNamespace(t)
	ns.run(t, "ip", "addr", "add", spooferAddr+"/32", "dev", "lo")
	ns.run(t, "ip", "addr", "add", absentAddr+"/32", "dev", "lo")
	h := system{resolvConf: "nameserver " + spooferAddr + "\noptions timeout:30 attempts:1"}.host(t, ns)
	s := new(spoofer)
	for addr, pc := range map[string]*net.PacketConn{
		spooferAddr + ":53": &s.server, spooferAddr + ":54": &s.otherPort, absentAddr + ":53": &s.otherAddr,
	} {
		require.NoError(t, ns.inside(func() (err error) {
			*pc, err = net.ListenPacket("udp", addr)
			return err
		}))
		defer (*pc).Close()
	}
	served := make(chan error, 1)
	go func() { served <- s.serve() }()
	for i := range 20 {
		name := fmt.Sprintf("host-%d.example.", i)
		addrs, err := h.LookupHost(name)
		require.NoError(t, err)
		require.Equal(t, []string{"192.0.2.80"}, addrs, name)
	}
	require.NoError(t, s.server.Close())
	require.NoError(t, <-served)
}
