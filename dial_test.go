package usernet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/resolve"
	"golang.org/x/net/dns/dnsmessage"
)

const nobody = "192.0.2.99" // an address on the link of newPair that no host has

// newPatientHost makes a host on a link without other hosts. The link carries IP packets, so the host
// needs no neighbour entry: it sends packets to the address nobody, and gets neither an answer nor an
// error.
func newPatientHost(t testing.TB, change ...func(*Config)) *Host {
	t.Helper()
	change = append(change, func(cfg *Config) { cfg.Addrs = []netip.Prefix{netip.MustParsePrefix(addrA + "/24")} })
	return newHost(t, nic.NewNull(nic.Link{Medium: nic.IP}), addrA, change...)
}

func TestDialThatIsNotAnsweredTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPatientHost(t)
		began := time.Now()
		_, err := h.Dial("tcp", nobody+":80")
		require.EqualError(t, err, "dial tcp "+nobody+":80: connect: connection timed out")
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		oe := err.(*net.OpError)
		require.True(t, oe.Timeout())
		require.True(t, oe.Temporary())
		// RFC 9293 3.8.3 MUST-23: "R2 for a SYN segment MUST be set large enough to provide
		// retransmission of the segment for at least 3 minutes". Linux retransmits for about two
		// minutes, and programs written for net expect that.
		require.Greater(t, time.Since(began), 60*time.Second)
		require.Less(t, time.Since(began), 5*time.Minute)
	})
}

func TestDialTimesOutWhenTheFirstLimitDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPatientHost(t)
		for _, c := range []struct {
			timeout, deadline, ctx time.Duration
		}{
			{3 * time.Second, 0, 0},
			{0, 3 * time.Second, 0},
			{0, 0, 3 * time.Second},
			{3 * time.Second, 5 * time.Second, 7 * time.Second},
			{7 * time.Second, 3 * time.Second, 5 * time.Second},
			{5 * time.Second, 7 * time.Second, 3 * time.Second},
		} {
			began := time.Now()
			d := Dialer{Host: h, Timeout: c.timeout}
			if c.deadline > 0 {
				d.Deadline = began.Add(c.deadline)
			}
			ctx, cancel := context.Background(), func() {}
			if c.ctx > 0 {
				ctx, cancel = context.WithTimeout(ctx, c.ctx)
			}
			_, err := d.DialContext(ctx, "tcp", nobody+":80")
			cancel()
			require.EqualError(t, err, "dial tcp "+nobody+":80: i/o timeout")
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
			require.True(t, err.(*net.OpError).Timeout())
			require.Equal(t, 3*time.Second, time.Since(began))
		}
	})
}

func TestDialIsCancelledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPatientHost(t)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(time.Second, cancel)
		began := time.Now()
		_, err := h.DialContext(ctx, "tcp", nobody+":80")
		require.EqualError(t, err, "dial tcp "+nobody+":80: operation was canceled")
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, time.Second, time.Since(began))

		quit := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(quit) })
		began = time.Now()
		_, err = (&Dialer{Host: h, Cancel: quit}).Dial("tcp", nobody+":80")
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, time.Second, time.Since(began))
	})
}

func TestACancelThatIsNotUsedLeavesTheConnectionAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t)
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		quit := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		c, err := (&Dialer{Host: a, Cancel: quit, Timeout: time.Second}).DialContext(ctx, "tcp", addrB+":80")
		require.NoError(t, err)
		cancel()
		close(quit)
		time.Sleep(time.Minute)
		s, err := ln.Accept()
		require.NoError(t, err)
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = s.Read(make([]byte, 1))
		require.NoError(t, err)
	})
}

func TestDialWithoutARouteOrANeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t)
		_, err := a.Dial("tcp", "203.0.113.1:80")
		require.EqualError(t, err, "dial tcp 203.0.113.1:80: connect: network is unreachable")
		_, err = a.Dial("udp", "203.0.113.1:80")
		require.EqualError(t, err, "dial udp 203.0.113.1:80: connect: network is unreachable")
		_, err = a.Dial("tcp", "[2001:db8::1]:80")
		require.EqualError(t, err, "dial tcp [2001:db8::1]:80: connect: network is unreachable")
		only4 := newHost(t, nic.NewNull(nic.Link{}), addrA, withoutIPv6)
		_, err = only4.Dial("tcp", "[2001:db8::1]:80")
		require.EqualError(t, err, "dial tcp [2001:db8::1]:80: socket: address family not supported by protocol")
		_, err = only4.Listen("tcp6", "[::1]:0")
		require.EqualError(t, err, "listen tcp6 [::1]:0: socket: address family not supported by protocol")
		began := time.Now()
		_, err = a.Dial("tcp", nobody+":80")
		require.EqualError(t, err, "dial tcp "+nobody+":80: connect: no route to host")
		require.ErrorIs(t, err, syscall.EHOSTUNREACH)
		require.False(t, err.(*net.OpError).Timeout())
		require.Less(t, time.Since(began), 10*time.Second)
		require.NoError(t, b.Close())
	})
}

func TestDialByNameFallsBackToTheFamilyThatThereIs(t *testing.T) {
	ea, eb := nic.Pipe(nic.PipeConfig{})
	names := func(cfg *Config) {
		cfg.Hosts = map[string][]netip.Addr{"dual.example": {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr(addrB)}}
	}
	a, b := newHost(t, ea, addrA, names), newHost(t, eb, addrB)
	ln, err := b.Listen("tcp", ":http")
	require.NoError(t, err)
	defer ln.Close()
	c, err := a.Dial("tcp", "dual.example:http")
	require.NoError(t, err)
	require.Equal(t, addrB+":80", c.RemoteAddr().String())
	c.Close()
	_, err = a.Dial("tcp6", "dual.example:http")
	require.ErrorIs(t, err, syscall.ENETUNREACH, "this host has no address of IPv6 with a route")
	_, err = a.Dial("tcp", "none.example:http")
	var de *net.DNSError
	require.ErrorAs(t, err, &de)
	require.True(t, de.IsNotFound)
	require.EqualError(t, err, "dial tcp: lookup none.example: no such host")
	addr, err := a.ResolveTCPAddr("tcp", "dual.example:http")
	require.NoError(t, err)
	require.Equal(t, addrB+":80", addr.String(), "an IPv4 address is preferred here")
}

func TestAddressesAreResolvedAsByNet(t *testing.T) {
	h := newLoopback(t)
	cases := []struct{ network, address string }{
		{"tcp", "127.0.0.1:80"}, {"tcp", ":http"}, {"tcp4", "[::ffff:127.0.0.1]:22"}, {"tcp6", "[::1]:22"}, {"tcp", "[fe80::1%lo]:22"},
		{"", "127.0.0.1:1"}, {"tcp", "localhost"}, {"udp", "127.0.0.1:domain"}, {"udp4", "[::1]:53"}, {"tcp", "127.0.0.1:99999"},
		{"ip", "127.0.0.1"}, {"ip4", "::1"}, {"ip6", "::1"}, {"ip4:icmp", "127.0.0.1"}, {"ip", ""},
		{"unix", "/tmp/x"}, {"tcp", ""}, {"tcp", "1.2.3.4"}, {"udp", "[::1]]:1"}, {"tcp", "[[::1]:1"},
	}
	if runtime.GOOS != "windows" { // where the error is that of Winsock's getprotobyname
		cases = append(cases, struct{ network, address string }{"ip4:nope", "127.0.0.1"})
	}
	for _, c := range cases {
		t.Run(c.network+" "+c.address, func(t *testing.T) {
			text := func(a any, err error) string { return fmt.Sprintf("%v, %v", a, err) }
			require.Equal(t, text(net.ResolveTCPAddr(c.network, c.address)), text(h.ResolveTCPAddr(c.network, c.address)))
			require.Equal(t, text(net.ResolveUDPAddr(c.network, c.address)), text(h.ResolveUDPAddr(c.network, c.address)))
			require.Equal(t, text(net.ResolveIPAddr(c.network, c.address)), text(h.ResolveIPAddr(c.network, c.address)))
		})
	}
}

func TestControlIsRefusedAndNotIgnored(t *testing.T) {
	h := newLoopback(t)
	control := func(string, string, syscall.RawConn) error { return nil }
	for _, network := range []string{"tcp", "udp"} {
		_, err := (&Dialer{Host: h, Control: control}).Dial(network, "127.0.0.1:80")
		require.ErrorIs(t, err, syscall.ENOTSUP)
		_, err = (&Dialer{Host: h, ControlContext: func(context.Context, string, string, syscall.RawConn) error { return nil }}).Dial(network, "127.0.0.1:80")
		require.ErrorIs(t, err, errors.ErrUnsupported)
	}
	_, err := (&Dialer{Host: h, Control: control}).Dial("ip4:icmp", "127.0.0.1")
	require.ErrorIs(t, err, syscall.ENOTSUP)
	lc := ListenConfig{Host: h, Control: control}
	_, err = lc.Listen(context.Background(), "tcp", ":0")
	require.ErrorIs(t, err, syscall.ENOTSUP)
	_, err = lc.ListenPacket(context.Background(), "udp", ":0")
	require.ErrorIs(t, err, syscall.ENOTSUP)
}

func TestADialerWithoutAHostFails(t *testing.T) {
	_, err := (&Dialer{}).Dial("tcp", "127.0.0.1:80")
	require.ErrorContains(t, err, "no Host")
	_, err = (&Dialer{}).DialTCP(context.Background(), "tcp", netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.1:80"))
	require.ErrorContains(t, err, "no Host")
	_, err = (&ListenConfig{}).Listen(context.Background(), "tcp", ":0")
	require.ErrorContains(t, err, "no Host")
}

func TestTypedDials(t *testing.T) {
	a, b := newPair(t)
	ln, err := b.ListenTCP("tcp4", nil)
	require.NoError(t, err)
	port := ln.Addr().(*net.TCPAddr).Port
	raddr := &net.TCPAddr{IP: net.ParseIP(addrB), Port: port}
	laddr := &net.TCPAddr{IP: net.ParseIP(addrA), Port: 40000}
	c, err := a.DialTCP("tcp", laddr, raddr)
	require.NoError(t, err)
	require.Equal(t, addrA+":40000", c.LocalAddr().String())
	_, err = a.DialTCP("tcp", laddr, raddr)
	require.EqualError(t, err, fmt.Sprintf("dial tcp %v->%v: bind: address already in use", laddr, raddr))
	s, err := ln.AcceptTCP()
	require.NoError(t, err)
	require.Equal(t, "tcp4", s.net)
	d := Dialer{Host: a}
	d.SetMultipathTCP(true)
	require.True(t, d.MultipathTCP())
	c, err = d.DialTCP(context.Background(), "tcp", netip.AddrPort{}, raddr.AddrPort())
	require.NoError(t, err)
	require.Equal(t, addrA, c.LocalAddr().(*net.TCPAddr).IP.String())

	_, err = a.DialTCP("tcp", nil, nil)
	require.EqualError(t, err, "dial tcp: missing address")
	_, err = a.DialTCP("udp", nil, raddr)
	require.EqualError(t, err, "dial udp "+raddr.String()+": unknown network udp")
	_, err = a.DialUDP("udp", nil, nil)
	require.EqualError(t, err, "dial udp: missing address")
	_, err = a.DialIP("ip4:icmp", nil, nil)
	require.EqualError(t, err, "dial ip4:icmp: missing address")
	_, err = a.DialIP("tcp", nil, &net.IPAddr{IP: net.ParseIP(addrB)})
	require.ErrorContains(t, err, "unknown network tcp")
	_, err = b.ListenTCP("udp", nil)
	require.EqualError(t, err, "listen udp: unknown network udp")
	_, err = b.ListenUDP("tcp", nil)
	require.EqualError(t, err, "listen tcp: unknown network tcp")
}

func TestKeepAliveIsOnByDefault(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ea, eb := nic.Pipe(nic.PipeConfig{})
		dev := nic.Impair(ea, nic.ImpairConfig{})
		a, b := newHost(t, dev, addrA), newHost(t, eb, addrB)
		c, _ := connect(t, a, b, addrB)
		quiet, err := (&Dialer{Host: a, KeepAlive: -1}).Dial("tcp", net.JoinHostPort(addrB, listenForEver(t, b)))
		require.NoError(t, err)
		dev.SetOut(nic.Impairment{Loss: 1})
		dev.SetIn(nic.Impairment{Loss: 1})
		began := time.Now()
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		require.True(t, err.(*net.OpError).Timeout())
		// 15 s until the first probe, 9 probes with 15 s each for an answer.
		require.InDelta(t, 150, time.Since(began).Seconds(), 1)
		require.NoError(t, quiet.SetReadDeadline(time.Now().Add(time.Hour)))
		_, err = quiet.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "without keep-alive, the end of the link is not noticed")
	})
}

// The keep-alive settings of a Dialer and a ListenConfig have the same result as the setters of a
// connection. dead is the time until a connection over a cut wire ends. As in net, the settings are made in the
// order Idle, Interval and Count, in whole seconds; after one that Linux would refuse, the rest keep their
// defaults: 15 s, 15 s and 9 probes.
func TestKeepAliveOfADialIsThatOfTheSetters(t *testing.T) {
	for _, k := range []struct {
		config net.KeepAliveConfig
		dead   time.Duration
	}{
		{net.KeepAliveConfig{Enable: true, Idle: 300 * time.Millisecond, Interval: time.Millisecond, Count: 2}, 3 * time.Second},
		{net.KeepAliveConfig{Enable: true, Idle: 24 * time.Hour, Count: 2}, 150 * time.Second},
		{net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: 24 * time.Hour, Count: 2}, 136 * time.Second},
		{net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1000}, 10 * time.Second},
	} {
		synctest.Test(t, func(t *testing.T) {
			a, b, cut := newCuttablePair(t)
			lc := ListenConfig{Host: b, KeepAliveConfig: k.config}
			ln, err := lc.Listen(t.Context(), "tcp", ":80")
			require.NoError(t, err)
			dialed, err := (&Dialer{Host: a, KeepAliveConfig: k.config}).Dial("tcp", addrB+":80")
			require.NoError(t, err)
			accepted, err := ln.Accept()
			require.NoError(t, err)
			cut()
			began := time.Now()
			for _, c := range []net.Conn{dialed, accepted} {
				_, err = c.Read(make([]byte, 1))
				require.ErrorIs(t, err, syscall.ETIMEDOUT)
			}
			require.InDelta(t, k.dead.Seconds(), time.Since(began).Seconds(), 1, "%+v", k.config)
		})
	}
}

// listenForEver listens until the host closes, and returns the port.
func listenForEver(t testing.TB, h *Host) string {
	ln, err := h.Listen("tcp", ":0")
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, err)
	return port
}

// serveDNS answers every question about IPv4 addresses with addr.
func serveDNS(pc net.PacketConn, addr netip.Addr) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RecursionDesired: true},
			Questions: m.Questions,
		}
		if q.Type == dnsmessage.TypeA {
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
				Body:   &dnsmessage.AResource{A: addr.As4()},
			}}
		}
		out, err := reply.Pack()
		if err == nil {
			pc.WriteTo(out, from)
		}
	}
}

func TestNamesAreLookedUpOverTheHostItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ea, eb := nic.Pipe(nic.PipeConfig{})
		a := newHost(t, ea, addrA, func(cfg *Config) {
			cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort(addrB + ":53")}
			cfg.Search = []string{"example"}
		})
		b := newHost(t, nic.Impair(eb, nic.ImpairConfig{Out: nic.Impairment{Latency: 5 * time.Millisecond}}), addrB)
		pc, err := b.ListenPacket("udp", ":53")
		require.NoError(t, err)
		go serveDNS(pc, netip.MustParseAddr(addrB))
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		go serve(ln, echo)

		c, err := a.Dial("tcp", "www.example:80")
		require.NoError(t, err)
		require.Equal(t, addrB+":80", c.RemoteAddr().String())
		require.NoError(t, c.Close())
		addrs, err := a.LookupHost("www")
		require.NoError(t, err)
		require.Equal(t, []string{addrB}, addrs)

	})
}

// netResolver returns a net.Resolver that always queries one name server over a host, and a
// function that returns the networks that it has dialed.
func netResolver(h *Host, server string) (r *net.Resolver, dialed func() []string) {
	var mu sync.Mutex
	var networks []string
	r = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		mu.Lock()
		networks = append(networks, network)
		mu.Unlock()
		return h.DialContext(ctx, network, server)
	}}
	return r, func() []string {
		mu.Lock()
		defer mu.Unlock()
		d := networks
		networks = nil
		return d
	}
}

func TestAResolverOfNetIsHonoured(t *testing.T) {
	honoured := func(t *testing.T) {
		var own []string
		a, b := newFarPair(t, func(cfg *Config) {
			cfg.Hosts = map[string][]netip.Addr{"www.usernet.test.": {netip.MustParseAddr(nobody)}}
			cfg.Resolver.Dial = func(_ context.Context, network, address string) (net.Conn, error) {
				own = append(own, network+" "+address)
				return nil, syscall.ENETUNREACH
			}
			cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort(nobody + ":53")}
		})
		pc, err := b.ListenPacket("udp", ":53")
		require.NoError(t, err)
		defer pc.Close()
		go serveDNS(pc, netip.MustParseAddr(addrB))
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		defer ln.Close()
		r, dialed := netResolver(a, addrB+":53")
		d := &Dialer{Host: a, Resolver: r}
		for _, c := range []struct {
			network string
			asked   []string
		}{
			{"tcp4", []string{"udp"}},
			{"tcp", []string{"udp", "udp"}}, // A and AAAA
			{"udp", []string{"udp", "udp"}},
			{"ip4:icmp", []string{"udp"}},
		} {
			address := "www.usernet.test."
			if c.network != "ip4:icmp" {
				address += ":http"
			}
			if c.network == "udp" {
				address = "www.usernet.test.:53"
			}
			conn, err := d.Dial(c.network, address)
			require.NoError(t, err)
			ip, _, _ := addrIP(conn.RemoteAddr())
			require.Equal(t, addrB, ip.String(), "%s: not the host's own table", c.network)
			require.NoError(t, conn.Close())
			require.Equal(t, c.asked, dialed(), c.network)
		}
		// Services and literals need no resolver.
		conn, err := d.Dial("tcp", addrB+":http")
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.Empty(t, dialed())
		require.Empty(t, own, "the host's resolver was not asked for anything")

		// The resolver's errors contain the errors of its Dial function.
		require.NoError(t, pc.Close())
		_, err = d.Dial("tcp4", "www.usernet.test.:http")
		require.ErrorContains(t, err, "dial tcp4: lookup www.usernet.test. on ")
		require.ErrorContains(t, err, "->"+addrB+":53: read: connection refused")
		var de *net.DNSError
		require.ErrorAs(t, err, &de)
		require.True(t, de.IsTemporary)
	}
	// The first lookup is outside the bubble, because net's first lookup makes a channel that all later
	// lookups of the process use.
	honoured(t)
	synctest.Test(t, honoured)
	honoured(t)
}

func TestAResolverOfNetWaitsInVirtualTime(t *testing.T) {
	r := &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) { return nil, syscall.ENETUNREACH }}
	// The first lookup is outside the bubble, as in TestAResolverOfNetIsHonoured.
	_, err := r.LookupHost(t.Context(), "www.usernet.test.")
	require.ErrorContains(t, err, "network is unreachable")
	synctest.Test(t, func(t *testing.T) {
		a, _ := newFarPair(t)
		r, dialed := netResolver(a, nobody+":53")
		began := time.Now()
		_, err := (&Dialer{Host: a, Resolver: r, Timeout: time.Second}).Dial("tcp", "www.usernet.test.:80")
		require.EqualError(t, err, "dial tcp: lookup www.usernet.test.: i/o timeout")
		require.Equal(t, time.Second, time.Since(began))
		require.NotEmpty(t, dialed())
		time.Sleep(time.Minute) // let net's lookup end, which continues in the background
	})
}

// A foreignAddr is an address whose Network is one of net's but whose type is not.
type foreignAddr string

func (foreignAddr) Network() string  { return "tcp" }
func (a foreignAddr) String() string { return string(a) }

func TestALocalAddrOfAForeignTypeIsAnError(t *testing.T) {
	h := newLoopback(t)
	ln, err := h.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	wrapped := struct{ *net.TCPAddr }{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 7}}
	for _, local := range []net.Addr{foreignAddr("127.0.0.1:7"), foreignAddr(""), wrapped} {
		d := Dialer{Host: h, LocalAddr: local}
		c, err := d.Dial("tcp", ln.Addr().String())
		require.Nil(t, c)
		var mismatch *net.AddrError
		require.ErrorAs(t, err, &mismatch)
		require.Equal(t, net.AddrError{Err: "mismatched local address type", Addr: local.String()}, *mismatch)
	}
}

// nameServer runs a name server on a host, which knows one name with an IPv4 address. It returns a
// net.Resolver that queries the server.
func nameServer(t *testing.T, h *Host, name, addr string) *net.Resolver {
	t.Helper()
	pc, err := h.ListenPacket("udp", "127.0.0.1:53")
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			q := m.Questions[0]
			r := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
			switch {
			case !strings.EqualFold(q.Name.String(), name):
				r.RCode = dnsmessage.RCodeNameError
			case q.Type == dnsmessage.TypeA:
				r.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 60},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()},
				}}
			}
			if out, err := r.Pack(); err == nil {
				pc.WriteTo(out, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return h.DialContext(ctx, network, "127.0.0.1:53")
	}}
}

// As in net's results, an IPv4 address has 4 bytes if it is from a name server, and 16 bytes if it is a
// literal or from the hosts file.
func TestAddressesHaveAsManyBytesAsNets(t *testing.T) {
	var hosts resolve.Hosts
	hosts.Add(netip.MustParseAddr("127.0.0.1"), "listed.test")
	h, err := New(Config{DNS: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}, Resolver: resolve.Config{Hosts: hosts}})
	require.NoError(t, err)
	defer h.Close()
	resolver := nameServer(t, h, "www.test.", "127.0.0.1")
	length := func(addr net.Addr) int { ip, _, _ := addrIP(addr); return len(ip) }
	for _, c := range []struct {
		host string
		want int
	}{{"www.test.", 4}, {"127.0.0.1", 16}, {"listed.test", 16}} {
		tcp, err := h.ResolveTCPAddr("tcp", c.host+":80")
		require.NoError(t, err)
		require.Len(t, tcp.IP, c.want, c.host)
		require.Equal(t, "127.0.0.1:80", tcp.String())
		udp, err := h.ResolveUDPAddr("udp4", c.host+":80")
		require.NoError(t, err)
		require.Len(t, udp.IP, c.want, c.host)
		ip, err := h.ResolveIPAddr("ip", c.host)
		require.NoError(t, err)
		require.Len(t, ip.IP, c.want, c.host)

		for _, network := range []string{"tcp", "tcp4"} {
			for what, dialer := range map[string]*Dialer{
				"the host's resolver": {Host: h},
				"a resolver of net's": {Host: h, Resolver: resolver},
			} {
				if c.host == "listed.test" && dialer.Resolver != nil {
					continue // the kernel has another hosts file
				}
				_, err = dialer.Dial(network, c.host+":1")
				var op *net.OpError
				require.ErrorAs(t, err, &op, what)
				require.Equal(t, c.want, length(op.Addr), "%s, %s, %s: %v", c.host, network, what, err)
			}
		}
		// net on the kernel's loopback does the same, with names from the same server.
		if c.host != "listed.test" {
			_, err = (&net.Dialer{Resolver: resolver}).Dial("tcp", c.host+":"+closedPort(t))
			var op *net.OpError
			require.ErrorAs(t, err, &op)
			require.Equal(t, c.want, length(op.Addr), "net, %s: %v", c.host, err)
		}

		ln, err := h.Listen("tcp4", "127.0.0.1:0")
		require.NoError(t, err)
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		conn, err := h.Dial("tcp", c.host+":"+port)
		require.NoError(t, err)
		require.Equal(t, 4, length(conn.RemoteAddr()), "net takes the address from the kernel, in 4 bytes")
		require.NoError(t, conn.Close())
		conn, err = h.Dial("udp", c.host+":0")
		require.NoError(t, err)
		require.Equal(t, c.want, length(conn.RemoteAddr()), "without a peer in the kernel, net keeps the address that it resolved")
		require.NoError(t, conn.Close())
		require.NoError(t, ln.Close())
	}
}

// closedPort returns a port of the kernel's 127.0.0.1 on which nothing listens.
func closedPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	require.NoError(t, ln.Close())
	return port
}
