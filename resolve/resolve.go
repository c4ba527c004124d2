// Package resolve turns names into addresses, and services into ports, for a host
// whose network is not the kernel's.
//
// A Resolver is a complete stub resolver in the sense of RFC 1034 section 5.3.1.
// It knows IP literals, the localhost names, a hosts file and the well-known
// services itself, and asks recursive name servers for the rest, over
// connections of the configured Dial function. It has the methods of
// net.Resolver with the same results and the same errors: every failure is a
// *net.DNSError, except that a wrong argument is a *net.AddrError or a
// net.UnknownNetworkError where net says so.
//
// A Resolver shares nothing with other Resolvers or with package net. It holds no
// goroutine between calls: goroutines that a call starts end with the call, so that
// it works in a testing/synctest bubble.
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

// Config configures a Resolver. The zero value knows only
// literals, localhost and the services.
type Config struct {
	// Servers are the recursive name servers, in the order in which they are
	// asked. Without any, names that are not known locally do not exist.
	Servers []netip.AddrPort
	// Search are the domains that are appended to names that do not end in a dot.
	Search []string
	// Learned returns servers and search domains that the network has advertised. They are used after
	// those that are configured. It is called for each lookup, by several goroutines at the same time, and
	// its result may change. It may be nil.
	Learned func() (servers []netip.AddrPort, search []string)
	// Ndots is how many dots a name needs to be tried as it is before the
	// search list; 1 if zero, none if negative.
	Ndots int
	// Timeout limits each try at each server, and once more its TCP part when
	// the answer by UDP is truncated; 5 s if not positive. A server that is silent is
	// asked once more, in another way, at half of it.
	Timeout time.Duration
	// Attempts is how often the list of servers is gone through; 2 if not positive.
	Attempts int
	// Rotate starts each query at the next server of the list.
	Rotate bool
	// SingleRequest asks for A and AAAA one after the other, not at the same time.
	SingleRequest bool
	// UseTCP asks by TCP only.
	UseTCP bool
	// StrictErrors ends a lookup at the first temporary error, as that of
	// net.Resolver does: the lookup fails even if the other family, or another name of the
	// search list, has addresses.
	StrictErrors bool
	// TrustAD sets the AD bit in queries. RFC 6840 section 5.7: it tells the
	// server that the AD bit in answers is understood.
	TrustAD bool
	// Hosts are names with their addresses. For those in Hosts, no server is asked.
	Hosts Hosts
	// CacheSize is the greatest number of answers to keep for their time to
	// live; 256 if zero, none if negative.
	CacheSize int

	// Dial connects to a server: network is "udp" or "tcp", address an IP literal
	// with a port number. A Conn that is also a net.PacketConn carries bare
	// messages (RFC 1035 section 4.2.1), and must receive only what the server
	// sent; any other carries messages after their length (section 4.2.2). Each
	// UDP connection should have an unpredictable port (RFC 5452 section 9.2).
	// Dial must return soon after ctx is done. If nil, no server is asked.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
	// Families reports which address families to ask for if the caller takes any. If it is
	// nil or reports none, both are asked for, as by net: a name that has only
	// addresses that the host cannot reach exists all the same.
	Families func() (v4, v6 bool)
	// Source returns the address from which the host would send to dst, or the
	// zero Addr if it cannot. It is used to sort addresses by RFC 6724. If
	// it is nil, they stay in the order of the answers, IPv4 first.
	Source func(dst netip.Addr) netip.Addr
	// Rand returns 64 random bits, for IDs, the case of names, and the order of
	// equal records. It is called from several goroutines at the same time. If
	// it is nil, the bits come from crypto/rand. Outside of tests, a replacement
	// must be as hard to predict.
	Rand func() uint64
}

// A Resolver looks up names and numbers. It is made by New, and its methods may
// be called by several goroutines at the same time.
type Resolver struct {
	cfg     Config
	servers []*server     // of cfg
	turn    atomic.Uint32 // with cfg.Rotate: where the next query begins
	cache   *cache        // nil if off

	mu      sync.Mutex
	flights map[cacheKey]*flight // outstanding questions
	learned []*server            // those of Learned, in its last order
}

// A server is a recursive name server with what its responses have shown of it.
type server struct {
	addr string
	// noEDNS is set if it refused a query with an OPT record and accepted the same one without.
	noEDNS lesson
	// losesCase is set if it does not echo the case of the question, or answers only to names in
	// the case of the caller.
	losesCase lesson
	// silences counts consecutive questions in mixed case without an answer.
	silences atomic.Int32
}

// silent notes that a question in mixed case got no answer. The first may have been lost; after
// the second, case is not mixed for a while.
func (s *server) silent() {
	if s.silences.Add(1) >= 2 {
		s.silences.Store(0)
		s.losesCase.set()
	}
}

const (
	// lessonTime is how long a lesson applies: another server may take over the
	// address, and a packet may have been lost or forged. Unbound has the same
	// (infra-host-ttl).
	lessonTime = 15 * time.Minute
	// silence is how long a server must not have answered, if the caller gives up, for
	// the question to count as unanswered.
	silence = time.Second
)

// A lesson is a property of a server that applies for a while. The zero
// value does not apply.
type lesson struct{ until atomic.Int64 } // a time in nanoseconds since 1970

func (l *lesson) set() { l.until.Store(time.Now().Add(lessonTime).UnixNano()) }

func (l *lesson) holds(now time.Time) bool { return now.UnixNano() < l.until.Load() }

// Config returns what the Resolver was made of, with the defaults filled in. It
// can be changed and given to New again.
func (r *Resolver) Config() Config {
	cfg := r.cfg
	if cfg.Ndots == 0 {
		cfg.Ndots = -1 // none, as New takes it
	}
	cfg.Hosts = cfg.Hosts.clone()
	cfg.Servers = slices.Clone(cfg.Servers)
	cfg.Search = slices.Clone(cfg.Search)
	return cfg
}

// New returns a Resolver for cfg, whose slices and Hosts are copied.
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
	if cfg.Dial != nil {
		for _, addr := range cfg.Servers {
			r.servers = append(r.servers, &server{addr: addr.String()})
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

// upstream returns the servers to ask.
func (r *Resolver) upstream() []*server {
	if r.cfg.Learned == nil || r.cfg.Dial == nil {
		return r.servers
	}
	addrs, _ := r.cfg.Learned()
	servers := slices.Clip(r.servers)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, addr := range addrs {
		if !containsServer(servers, addr.String()) {
			servers = append(servers, r.learnedServer(addr.String()))
		}
	}
	r.learned = servers[len(r.servers):]
	return servers
}

// learnedServer returns the server at an address, with what was learned about it while it was among
// those of Learned. r.mu is held.
func (r *Resolver) learnedServer(addr string) *server {
	if i := slices.IndexFunc(r.learned, func(s *server) bool { return s.addr == addr }); i >= 0 {
		return r.learned[i]
	}
	return &server{addr: addr}
}

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

// intn returns a random number in [0, n), n > 0. The bias is below 2^-32 for
// the sums of 16-bit weights that it is used for.
func (r *Resolver) intn(n int) int {
	return int(r.cfg.Rand() % uint64(n))
}

// families reports which families to ask for when the caller takes any.
func (r *Resolver) families() (v4, v6 bool) {
	if r.cfg.Families != nil {
		v4, v6 = r.cfg.Families()
	}
	if !v4 && !v6 {
		return true, true
	}
	return v4, v6
}
