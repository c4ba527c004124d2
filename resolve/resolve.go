// Package resolve looks up names, addresses and ports for a host whose network is not the kernel's.
//
// A Resolver is a complete stub resolver in the sense of RFC 1034 section 5.3.1. It resolves IP
// literals, the localhost names, the names of a hosts file and the well-known services itself. For
// all other names it queries recursive name servers, over connections from the configured Dial
// function. It has the methods of net.Resolver with the same results and the same errors: every
// failure is a *net.DNSError, except that a wrong argument is a *net.AddrError or a
// net.UnknownNetworkError where net returns one.
//
// A Resolver shares nothing with other Resolvers or with package net. It has no goroutine between
// calls: the goroutines that a call starts end with the call, so a Resolver works in a
// testing/synctest bubble.
package resolve

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults of Config.
const (
	defaultNdots     = 1
	defaultTimeout   = 5 * time.Second
	defaultAttempts  = 2
	defaultCacheSize = 256
)

// Config configures a Resolver. With the zero value, a Resolver resolves only literals, localhost
// and the services.
type Config struct {
	// Servers are the recursive name servers, in the order in which they are queried. Without
	// servers, names that are not known locally do not exist.
	Servers []netip.AddrPort
	// Search are the domains that are appended to names without a final dot.
	Search []string
	// Learned returns the servers and search domains that the network has advertised. The Resolver
	// uses them after the configured ones. It calls Learned for each lookup and each try, from
	// several goroutines at the same time, and the result may change: lookups in progress continue
	// at the new servers, and cached answers are forgotten. Learned may be nil.
	Learned func() (servers []netip.AddrPort, search []string)
	// Ndots is a minimum number of dots. A name with at least that many dots is tried as it is
	// before the search list is applied. 0 stands for 1, and a negative value for no dots.
	Ndots int
	// Timeout limits each try at each server; 5 s if not positive. If the UDP answer is truncated,
	// the query over TCP has a Timeout of its own. If a query with the name in mixed case is still
	// outstanding after half of the Timeout, the Resolver sends a second query with the name as the
	// caller wrote it.
	Timeout time.Duration
	// Attempts is how often each server in the list is tried; 2 if not positive.
	Attempts int
	// Rotate makes each query start at the next server of the list.
	Rotate bool
	// SingleRequest makes the Resolver query A and AAAA one after the other instead of at the same
	// time.
	SingleRequest bool
	// UseTCP makes the Resolver use only TCP.
	UseTCP bool
	// StrictErrors ends a lookup at the first temporary error, as in net.Resolver: the lookup fails
	// even if the other family, or another name of the search list, has addresses.
	StrictErrors bool
	// TrustAD sets the AD bit in queries. RFC 6840 section 5.7: the bit tells the server that the
	// client understands the AD bit in answers.
	TrustAD bool
	// NoCookies turns DNS cookies off. With cookies, a response to a server that supports them must
	// contain a value that only the server and the host know, so forged responses are recognized
	// (RFC 7873).
	NoCookies bool
	// HTTPS makes the dials of a usernet.Host to port 443 use HTTPS records: a dial over TCP then also
	// tries the endpoints of the name with their ports, before the addresses of the name itself
	// (RFC 9460 section 3). The Resolver itself does not use this field.
	HTTPS bool
	// Hosts are names with their addresses. The Resolver does not query servers for them.
	Hosts Hosts
	// CacheSize is the maximum number of cached answers, which are kept for their time to live. Answers of more
	// than 64 records are not cached. 0 stands for 256, and a negative value for no cache.
	CacheSize int

	// Dial connects to a server. network is "udp" or "tcp", and address is an IP literal with a
	// port number. If the Conn is also a net.PacketConn, it carries bare messages (RFC 1035 section
	// 4.2.1), and must receive only what the server sent. Otherwise each message is preceded by its
	// length (section 4.2.2). Each UDP connection should have an unpredictable port (RFC 5452
	// section 9.2). Dial must return soon after ctx ends. If Dial is nil, the Resolver queries no
	// server.
	Dial DialFunc
	// Exchange, if not nil, sends a query to a server and returns the response, over a connection of its
	// own choice. The Resolver then uses neither UDP nor TCP, unless Opportunistic is set. query and the
	// response are whole DNS messages; the response must have the ID of the query. dial is the field
	// Dial. The function must return soon after ctx ends. The methods Exchange of dot.Client and
	// doh.Client are such functions, for DNS over TLS and over HTTPS.
	Exchange func(ctx context.Context, dial DialFunc, server netip.AddrPort, query []byte) (response []byte, err error)
	// Opportunistic makes the Resolver query a server over UDP and TCP for 15 minutes if Exchange brings
	// no response within half of the Timeout (RFC 7858 section 4.1). If Opportunistic is false, the query
	// fails instead. If it is true, a network can prevent encryption by blocking encrypted queries.
	Opportunistic bool
	// Families reports which address families to query if the caller accepts both. If Families is
	// nil or returns false for both, both are queried, as in net: a name exists even if the host
	// cannot reach any of its addresses.
	Families func() (v4, v6 bool)
	// Multicast looks up the addresses of a name below "local." by Multicast DNS (RFC 6762). network is
	// "ip", "ip4" or "ip6". An empty result means that there is no such host. If used is false, Multicast
	// DNS is off, and the Resolver queries the servers. Multicast may be nil.
	Multicast func(ctx context.Context, network, name string) (addrs []netip.Addr, used bool, err error)
	// MulticastRecords looks up the records of some types, by their numbers, of a name below "local." or of
	// the reverse name of a link-local address, by Multicast DNS. zone is the zone of the address, or empty
	// for all links. The results are as those of Multicast. MulticastRecords may be nil.
	MulticastRecords func(ctx context.Context, zone, name string, types ...uint16) (records []MulticastRecord, used bool, err error)
	// NAT64 makes lookups on a host without a route to IPv4 addresses also return the IPv6 addresses at
	// which a NAT64 translator represents the IPv4 addresses of a name without AAAA records. The
	// Resolver finds the translator's prefix by a query for ipv4only.arpa (RFC 7050).
	NAT64 bool
	// Prefixes64 returns the NAT64 prefixes that routers have advertised (RFC 8781), which take
	// precedence over those of ipv4only.arpa. It may be nil.
	Prefixes64 func() []netip.Prefix
	// Source returns the address from which the host would send to dst, or the zero Addr if it
	// cannot. The Resolver uses it to sort addresses by RFC 6724. If it is nil, addresses keep the
	// order of the answers, IPv4 first.
	Source func(dst netip.Addr) netip.Addr
	// Deprecated reports whether src, which Source has returned, is deprecated (RFC 4862 5.5.4). If
	// Deprecated is nil, no source is.
	Deprecated func(src netip.Addr) bool
	// Rand returns 64 random bits, for IDs, the case of names, and the order of equal records.
	// Several goroutines call it at the same time. If it is nil, the bits come from crypto/rand.
	// Outside tests, a replacement must be as hard to predict.
	Rand func() uint64
}

// A DialFunc connects to an address on a network, as net.Dialer.DialContext does.
type DialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// A Resolver looks up names, addresses and ports. New makes it. Its methods may be called by
// several goroutines at the same time.
type Resolver struct {
	cfg     Config
	servers []*server     // the servers in cfg
	turn    atomic.Uint32 // with cfg.Rotate: the server at which the next query starts
	cache   *cache        // nil if off

	mu      sync.Mutex
	flights map[cacheKey]*flight // outstanding questions
	learned []*server            // the servers in the last result of cfg.Learned
	network uint64               // changes with the set of those servers
}

// A server is a recursive name server and what the Resolver has learned about it.
type server struct {
	addr string
	// addrPort is the same as addr, for Config.Exchange.
	addrPort netip.AddrPort
	// inClear is set if Config.Exchange has failed, and the server may be queried without it.
	inClear lesson
	// noEDNS is set if the server refused a query with an OPT record and accepted the same query
	// without one.
	noEDNS lesson
	// losesCase is set if the server does not echo the case of the question, or answers only if the
	// name has the case that the caller wrote.
	losesCase lesson
	cookies   cookieJar
	// silences counts consecutive queries in mixed case without a response.
	silences atomic.Int32
	// guessed is set while losesCase is only a guess: it was set because of silences, and the server has
	// not responded to a query in the caller's case since then. The server may be down.
	guessed atomic.Bool
}

// silent records that a query in mixed case got no response. One such query may have been lost. After
// a second one in a row, the Resolver does not mix case for a while.
func (s *server) silent() {
	if s.silences.Add(1) >= 2 {
		s.silences.Store(0)
		s.guessed.Store(true)
		s.losesCase.set()
	}
}

// plain records whether the server has responded to a query in the caller's case. within is how long the
// query waited. If the query waited at least silence without a response, the case was not the reason for the
// earlier silences, and plain undoes the guess.
func (s *server) plain(responded bool, within time.Duration) {
	switch {
	case responded:
		s.guessed.Store(false)
	case within >= silence && s.guessed.Swap(false):
		s.losesCase.forget()
	}
}

const (
	// lessonTime is how long a lesson applies. It is limited because another server may take over
	// the address, and because a packet may have been lost or forged. Unbound uses the same time
	// (infra-host-ttl).
	lessonTime = 15 * time.Minute
	// silence applies to a query whose caller gives up. The query counts as unanswered if it has
	// waited at least this long for a response.
	silence = time.Second
)

// A lesson is a property of a server that applies for lessonTime after set. The zero value does not
// apply.
type lesson struct{ until atomic.Int64 } // a time in nanoseconds since 1970

func (l *lesson) set() { l.until.Store(time.Now().Add(lessonTime).UnixNano()) }

func (l *lesson) forget() { l.until.Store(0) }

func (l *lesson) holds(now time.Time) bool { return now.UnixNano() < l.until.Load() }

// Config returns the configuration of the Resolver, with defaults in place of zero fields. The
// caller may change it and pass it to New again.
func (r *Resolver) Config() Config {
	cfg := r.cfg
	if cfg.Ndots == 0 {
		cfg.Ndots = -1 // for New, -1 means no dots
	}
	cfg.Hosts = cfg.Hosts.clone()
	cfg.Servers = slices.Clone(cfg.Servers)
	cfg.Search = slices.Clone(cfg.Search)
	return cfg
}

// New returns a Resolver for cfg. It copies the slices and Hosts.
func New(cfg Config) *Resolver {
	switch {
	case cfg.Ndots == 0:
		cfg.Ndots = defaultNdots
	case cfg.Ndots < 0:
		cfg.Ndots = 0
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.Attempts <= 0 {
		cfg.Attempts = defaultAttempts
	}
	if cfg.CacheSize == 0 {
		cfg.CacheSize = defaultCacheSize
	}
	if cfg.Rand == nil {
		cfg.Rand = random
	}
	cfg.Search = appendDomains(make([]string, 0, len(cfg.Search)), cfg.Search)
	cfg.Hosts = cfg.Hosts.clone()
	cfg.Servers = slices.Clone(cfg.Servers)

	r := &Resolver{cfg: cfg, flights: make(map[cacheKey]*flight)}
	if cfg.CacheSize > 0 {
		r.cache = newCache(cfg.CacheSize)
	}
	if cfg.Dial != nil || cfg.Exchange != nil {
		for _, addr := range cfg.Servers {
			r.servers = append(r.servers, newServer(addr))
		}
	}
	return r
}

// appendDomains appends domains to a search list.
func appendDomains(search, domains []string) []string {
	for _, domain := range domains {
		if domain = rooted(domain); domain != "." && !slices.Contains(search, domain) {
			search = append(search, domain)
		}
	}
	return search
}

// upstream returns the servers to query. If the network has advertised other servers since the last call,
// upstream empties the cache: the host may be in another network, where names have other addresses, and
// where names exist that did not exist before.
func (r *Resolver) upstream() []*server {
	if r.cfg.Learned == nil || r.cfg.Dial == nil && r.cfg.Exchange == nil {
		return r.servers
	}
	addrs, _ := r.cfg.Learned()
	servers := slices.Clip(r.servers)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range addrs {
		if !containsServer(servers, addr.String()) {
			servers = append(servers, r.learnedServer(addr))
		}
	}
	learned := servers[len(r.servers):]
	if len(learned) != len(r.learned) || slices.ContainsFunc(learned, func(s *server) bool { return !slices.Contains(r.learned, s) }) {
		r.network++
		r.cache.clear()
		// Callers that ask from now on do not join a query in the former network.
		clear(r.flights)
	}
	r.learned = learned
	return servers
}

// learnedServer returns the server at an address. If the address was also in the last result of
// cfg.Learned, the server keeps its lessons. r.mu is held.
func (r *Resolver) learnedServer(addr netip.AddrPort) *server {
	if i := slices.IndexFunc(r.learned, func(s *server) bool { return s.addrPort == addr }); i >= 0 {
		return r.learned[i]
	}
	return newServer(addr)
}

func newServer(addr netip.AddrPort) *server { return &server{addr: addr.String(), addrPort: addr} }

func containsServer(servers []*server, addr string) bool {
	return slices.ContainsFunc(servers, func(s *server) bool { return s.addr == addr })
}

// domains returns the domains to append to names.
func (r *Resolver) domains() []string {
	if r.cfg.Learned == nil {
		return r.cfg.Search
	}
	_, domains := r.cfg.Learned()
	return appendDomains(slices.Clip(r.cfg.Search), domains)
}

func random() uint64 {
	var b [8]byte
	rand.Read(b[:]) // crypto/rand never returns an error
	return binary.NativeEndian.Uint64(b[:])
}

// intn returns a random number in [0,n), n > 0. Its bias is less than n/2^64. That is below 2^-32,
// because all callers pass an n below 2^32.
func (r *Resolver) intn(n int) int {
	return int(r.cfg.Rand() % uint64(n))
}

// families reports which families to query if the caller accepts both.
func (r *Resolver) families() (v4, v6 bool) {
	if r.cfg.Families != nil {
		v4, v6 = r.cfg.Families()
	}
	if !v4 && !v6 {
		return true, true
	}
	return v4, v6
}
