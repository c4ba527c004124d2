package resolve

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"
)

// A handler is a DNS server. It returns the messages that answer a query, or no message if the server does
// not answer.
type handler func(network string, query []byte) [][]byte

// A network has the servers of a test by address, and records the queries that they receive.
type network struct {
	mu      sync.Mutex
	servers map[string]handler
	asked   []asked
	dials   int
	open    int
}

// asked is a query that a server received.
type asked struct {
	at      time.Time
	server  string
	network string
	name    string // the queried name in lower case
	raw     string // the queried name in the case of the query
	typ     dnsmessage.Type
	id      uint16
	edns    bool
	ad      bool
}

func newNetwork(servers map[string]handler) *network { return &network{servers: servers} }

// A testConn is one end of a net.Pipe. The network counts it as open until it is closed.
type testConn struct {
	net.Conn
	once   sync.Once
	closed func()
}

func (c *testConn) Close() error {
	c.once.Do(c.closed)
	return c.Conn.Close()
}

// A testPacketConn behaves like a connected UDP socket: one Read returns the data of one Write.
type testPacketConn struct{ *testConn }

func (c testPacketConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, err := c.Read(p)
	return n, c.RemoteAddr(), err
}

func (c testPacketConn) WriteTo(p []byte, _ net.Addr) (int, error) { return c.Write(p) }

func (n *network) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dials++
	h, ok := n.servers[address]
	if !ok {
		return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	n.open++
	near, far := net.Pipe()
	c := &testConn{Conn: near, closed: func() {
		n.mu.Lock()
		n.open--
		n.mu.Unlock()
	}}
	go n.serve(far, network, address, h)
	if network == "udp" {
		return testPacketConn{c}, nil
	}
	return c, nil
}

func (n *network) serve(c net.Conn, network, address string, h handler) {
	defer c.Close()
	for {
		query, err := readMessage(c, network)
		if err != nil {
			return
		}
		n.note(network, address, query)
		for _, response := range h(network, query) {
			if writeMessage(c, network, response) != nil {
				return
			}
		}
	}
}

func readMessage(c net.Conn, network string) ([]byte, error) {
	if network == "udp" {
		buf := make([]byte, 65536)
		n, err := c.Read(buf)
		return buf[:n], err
	}
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(length[:]))
	_, err := io.ReadFull(c, buf)
	return buf, err
}

func writeMessage(c net.Conn, network string, msg []byte) error {
	if network != "udp" {
		msg = append(binary.BigEndian.AppendUint16(nil, uint16(len(msg))), msg...)
	}
	_, err := c.Write(msg)
	return err
}

// note records a query.
func (n *network) note(network, address string, query []byte) {
	h, q := parseQuery(query)
	a := asked{at: time.Now(), server: address, network: network, name: lower(q.Name.String()),
		raw: q.Name.String(), typ: q.Type, id: h.ID, ad: h.AuthenticData}
	_, _, a.edns = ednsOf(query)
	n.mu.Lock()
	n.asked = append(n.asked, a)
	n.mu.Unlock()
}

// log returns the queries so far.
func (n *network) log() []asked {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]asked(nil), n.asked...)
}

// names returns the names that were queried, in order.
func (n *network) names() []string {
	var names []string
	for _, a := range n.log() {
		names = append(names, a.name)
	}
	return names
}

// parseQuery parses a query. It panics if a resolver must not send such a query.
func parseQuery(query []byte) (dnsmessage.Header, dnsmessage.Question) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		panic("malformed query: " + err.Error())
	}
	questions, err := p.AllQuestions()
	if err != nil || len(questions) != 1 || h.Response || !h.RecursionDesired {
		panic("not a query with one question and RD")
	}
	return h, questions[0]
}

// ednsOf returns the UDP size and the header of the query's OPT record. ok is false if there is none.
func ednsOf(query []byte) (size int, rh dnsmessage.ResourceHeader, ok bool) {
	var p dnsmessage.Parser
	if _, err := p.Start(query); err != nil {
		return
	}
	if p.SkipAllQuestions() != nil || p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return
	}
	rh, err := p.AdditionalHeader()
	if err != nil || rh.Type != dnsmessage.TypeOPT {
		return
	}
	return int(rh.Class), rh, true
}

// A zone is the data of a recursive server. It has the records of each name; names are in lower case.
type zone map[string][]dnsmessage.ResourceBody

const (
	recordTTL   = 60
	negativeTTL = 30
)

func mustName(s string) dnsmessage.Name { return dnsmessage.MustNewName(s) }

func a(s string) dnsmessage.ResourceBody {
	return &dnsmessage.AResource{A: netip.MustParseAddr(s).As4()}
}
func aaaa(s string) dnsmessage.ResourceBody {
	return &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(s).As16()}
}
func cname(s string) dnsmessage.ResourceBody { return &dnsmessage.CNAMEResource{CNAME: mustName(s)} }

func typeOf(body dnsmessage.ResourceBody) dnsmessage.Type {
	switch body.(type) {
	case *dnsmessage.AResource:
		return dnsmessage.TypeA
	case *dnsmessage.AAAAResource:
		return dnsmessage.TypeAAAA
	case *dnsmessage.CNAMEResource:
		return dnsmessage.TypeCNAME
	case *dnsmessage.MXResource:
		return dnsmessage.TypeMX
	case *dnsmessage.NSResource:
		return dnsmessage.TypeNS
	case *dnsmessage.PTRResource:
		return dnsmessage.TypePTR
	case *dnsmessage.SRVResource:
		return dnsmessage.TypeSRV
	case *dnsmessage.TXTResource:
		return dnsmessage.TypeTXT
	case *dnsmessage.SVCBResource:
		return dnsmessage.TypeSVCB
	case *dnsmessage.HTTPSResource:
		return dnsmessage.TypeHTTPS
	}
	panic("record of unknown type")
}

func resource(name dnsmessage.Name, ttl uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: name, Type: typeOf(body), Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   body,
	}
}

// soa returns the SOA record for negative answers.
func soa(ttl uint32) dnsmessage.Resource {
	return dnsmessage.Resource{
		Header: dnsmessage.ResourceHeader{Name: mustName("test."), Type: dnsmessage.TypeSOA, Class: dnsmessage.ClassINET, TTL: ttl},
		Body:   &dnsmessage.SOAResource{NS: mustName("ns.test."), MBox: mustName("root.test."), MinTTL: ttl},
	}
}

// respond returns an empty response of a recursive server, with the ID and the question of the query.
func respond(query []byte) *dnsmessage.Message {
	h, q := parseQuery(query)
	m := &dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionDesired: true, RecursionAvailable: true},
		Questions: []dnsmessage.Question{q},
	}
	if _, _, ok := ednsOf(query); ok {
		var rh dnsmessage.ResourceHeader
		if err := rh.SetEDNS0(4096, dnsmessage.RCodeSuccess, false); err != nil {
			panic(err)
		}
		m.Additionals = append(m.Additionals, dnsmessage.Resource{Header: rh, Body: &dnsmessage.OPTResource{}})
	}
	return m
}

func pack(m *dnsmessage.Message) []byte {
	b, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return b
}

// resolve adds the answer to m's question from the records in z. Like a recursive server, it follows
// aliases.
func (z zone) resolve(m *dnsmessage.Message) {
	q := m.Questions[0]
	name := q.Name
	for range 8 {
		bodies, exists := z[lower(name.String())]
		if !exists {
			m.RCode = dnsmessage.RCodeNameError
			break
		}
		var alias *dnsmessage.CNAMEResource
		found := false
		for _, body := range bodies {
			if typeOf(body) == q.Type {
				m.Answers = append(m.Answers, resource(name, recordTTL, body))
				found = true
			} else if c, ok := body.(*dnsmessage.CNAMEResource); ok {
				alias = c
			}
		}
		if found {
			return
		}
		if alias == nil {
			break
		}
		m.Answers = append(m.Answers, resource(name, recordTTL, alias))
		name = alias.CNAME
	}
	m.Authorities = append(m.Authorities, soa(negativeTTL))
}

// serve is a handler for z.
func (z zone) serve(_ string, query []byte) [][]byte {
	m := respond(query)
	z.resolve(m)
	return [][]byte{pack(m)}
}

// failing returns a handler that always answers with rcode.
func failing(rcode dnsmessage.RCode) handler {
	return func(_ string, query []byte) [][]byte {
		m := respond(query)
		m.RCode = rcode
		return [][]byte{pack(m)}
	}
}

func silent(string, []byte) [][]byte { return nil }

// unmixed is a Config.Rand with which the resolver does not change the case of names. A server that
// does not preserve the case of a name then causes no second query.
func unmixed() uint64 { return 0 }

const (
	server1 = "192.0.2.1:53"
	server2 = "192.0.2.2:53"
	server3 = "192.0.2.3:53"
)

// resolverOn returns a resolver that queries the servers of n, in the given order. It has no cache unless
// cfg has one.
func resolverOn(n *network, cfg Config, servers ...string) *Resolver {
	for _, s := range servers {
		cfg.Servers = append(cfg.Servers, netip.MustParseAddrPort(s))
	}
	cfg.Dial = n.Dial
	if cfg.CacheSize == 0 {
		cfg.CacheSize = -1
	}
	return New(cfg)
}

// requireDNSError checks that err is a *net.DNSError, not wrapped, with the given fields, and returns it.
func requireDNSError(t *testing.T, err error, text, name, server string) *net.DNSError {
	t.Helper()
	require.Error(t, err)
	dnsErr, ok := err.(*net.DNSError)
	require.True(t, ok, "callers assert *net.DNSError without unwrapping; got %T %v", err, err)
	require.Equal(t, text, dnsErr.Err)
	require.Equal(t, name, dnsErr.Name)
	require.Equal(t, server, dnsErr.Server)
	return dnsErr
}

// listen serves h on a free port of 127.0.0.1 over UDP and TCP until the test ends.
func listen(t *testing.T, h handler) string {
	t.Helper()
	var pc net.PacketConn
	var ln net.Listener
	for range 20 { // a port that is free for UDP may be in use for TCP
		var err error
		pc, err = net.ListenPacket("udp4", "127.0.0.1:0")
		require.NoError(t, err)
		if ln, err = net.Listen("tcp4", pc.LocalAddr().String()); err == nil {
			break
		}
		pc.Close()
	}
	require.NotNil(t, ln)
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 65536)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, response := range h("udp", append([]byte(nil), buf[:n]...)) {
				pc.WriteTo(response, from)
			}
		}
	})
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(10 * time.Second))
				for {
					query, err := readMessage(c, "tcp")
					if err != nil {
						return
					}
					for _, response := range h("tcp", query) {
						writeMessage(c, "tcp", response)
					}
				}
			})
		}
	})
	t.Cleanup(func() {
		pc.Close()
		ln.Close()
		wg.Wait()
	})
	return pc.LocalAddr().String()
}

// long returns a name of n bytes including its final dot.
func long(n int) string {
	s := strings.Repeat(strings.Repeat("a", 49)+".", n/50+1)
	return s[:n-1] + "."
}
