package dropin

import (
	"context"
	"fmt"
	"net/http/httptrace"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet"
)

// serveNames answers questions on 127.0.0.1:53 of the default Host and counts them. Each name has
// the addresses 127.0.0.2 and 127.0.0.1.
func serveNames(t *testing.T) (asked *atomic.Int32) {
	t.Helper()
	c, err := ListenPacket("udp", "127.0.0.1:53")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	asked = new(atomic.Int32)
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			asked.Add(1)
			q := m.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true}, Questions: m.Questions}
			if q.Type == dnsmessage.TypeA {
				for _, last := range []byte{2, 1} {
					answer.Answers = append(answer.Answers, dnsmessage.Resource{
						Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 600},
						Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, last}},
					})
				}
			}
			if p, err := answer.Pack(); err == nil {
				c.WriteTo(p, from)
			}
		}
	}()
	return asked
}

// ownResolver is a Resolver whose Dial ignores the address that it is passed, and records it.
func ownResolver(dialed *atomic.Value) *Resolver {
	return &Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (Conn, error) {
		dialed.Store(address)
		var d Dialer
		return d.DialContext(ctx, "udp", "127.0.0.1:53")
	}}
}

func TestAResolverAsksWhatItsDialConnectsTo(t *testing.T) {
	useHost(t, usernet.Config{
		DNS:   []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")},
		Hosts: map[string][]netip.Addr{"known": {netip.MustParseAddr("192.0.2.99")}},
	})
	asked := serveNames(t)
	var dialed atomic.Value
	r := ownResolver(&dialed)
	for range 2 {
		addrs, err := r.LookupHost(context.Background(), "www.usernet.test")
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"127.0.0.1", "127.0.0.2"}, addrs)
	}
	require.Equal(t, int32(4), asked.Load(), "each lookup asks for both families, and there is no cache")
	require.Equal(t, "192.0.2.53:53", dialed.Load(), "the Host's server")
	addrs, err := r.LookupHost(context.Background(), "known")
	require.NoError(t, err)
	require.Equal(t, []string{"192.0.2.99"}, addrs, "the Host's names")
	require.Equal(t, int32(4), asked.Load())
}

// If the Host has no name server, the Dial of a Resolver gets the address that net uses without a resolv.conf.
func TestAResolverOfAHostWithoutServersIsToldThatOfNet(t *testing.T) {
	useHost(t, usernet.Config{})
	serveNames(t)
	var dialed atomic.Value
	_, err := ownResolver(&dialed).LookupNetIP(context.Background(), "ip4", "www.usernet.test")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:53", dialed.Load())
}

func TestADialerTriesTheAddressesOfItsResolver(t *testing.T) {
	useHost(t, usernet.Config{})
	serveNames(t)
	ln, err := Listen("tcp", "127.0.0.1:80") // on only one of the two addresses
	require.NoError(t, err)
	defer ln.Close()
	var dialed atomic.Value
	d := &Dialer{Resolver: ownResolver(&dialed), Timeout: time.Minute}
	c, err := d.Dial("tcp", "www.usernet.test:http")
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:80", c.RemoteAddr().String())
	require.NoError(t, c.Close())

	_, err = d.Dial("tcp", "www.usernet.test:81")
	require.ErrorContains(t, err, "connect: connection refused")
	require.IsType(t, &OpError{}, err)
	_, err = d.Dial("tcp6", "www.usernet.test:80")
	require.IsType(t, &OpError{}, err)
	require.ErrorAs(t, err, new(*DNSError))
	// The Host reports what is wrong with the rest of the address.
	_, err = d.Dial("tcp", "www.usernet.test")
	require.ErrorContains(t, err, "missing port in address")
	_, err = d.Dial("tcp", "www.usernet.test:no-such-service")
	require.ErrorContains(t, err, "unknown port")
	_, err = d.Dial("carrier-pigeon", "www.usernet.test:80")
	require.ErrorAs(t, err, new(UnknownNetworkError))
}

// All functions that resolve names ask DefaultResolver.
func TestTheDefaultResolverIsAskedByAll(t *testing.T) {
	useHost(t, usernet.Config{})
	serveNames(t)
	var dialed atomic.Value
	before := DefaultResolver
	DefaultResolver = ownResolver(&dialed)
	defer func() { DefaultResolver = before }()
	// requireServed requires an address that serveNames has given.
	requireServed := func(addr Addr) {
		t.Helper()
		require.Contains(t, []string{"127.0.0.1:80", "127.0.0.2:80", "127.0.0.1", "127.0.0.2"}, addr.String())
	}
	ln, err := Listen("tcp", "www.usernet.test:80")
	require.NoError(t, err)
	defer ln.Close()
	requireServed(ln.Addr())
	c, err := Dial("tcp", "www.usernet.test:80")
	require.NoError(t, err)
	defer c.Close()
	requireServed(c.RemoteAddr())
	pc, err := ListenPacket("udp", "www.usernet.test:80")
	require.NoError(t, err)
	defer pc.Close()
	requireServed(pc.LocalAddr())
	tcp, err := ResolveTCPAddr("tcp", "www.usernet.test:http")
	require.NoError(t, err)
	requireServed(tcp)
	udp, err := ResolveUDPAddr("udp4", "www.usernet.test:80")
	require.NoError(t, err)
	requireServed(udp)
	ip, err := ResolveIPAddr("ip", "www.usernet.test")
	require.NoError(t, err)
	requireServed(ip)
	tcp, err = ResolveTCPAddr("", "www.usernet.test:80")
	require.NoError(t, err)
	requireServed(tcp)
	udp, err = ResolveUDPAddr("", "www.usernet.test:80")
	require.NoError(t, err)
	requireServed(udp)
	ip, err = ResolveIPAddr("", "www.usernet.test")
	require.NoError(t, err)
	requireServed(ip)
	ips, err := LookupIP("www.usernet.test")
	require.NoError(t, err)
	require.Len(t, ips, 2)
}

func TestATimeoutCoversTheLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		useHost(t, usernet.Config{})
		silent := &Resolver{Dial: func(ctx context.Context, _, _ string) (Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}}
		began := time.Now()
		_, err := (&Dialer{Resolver: silent, Timeout: 700 * time.Millisecond}).Dial("tcp", "www.usernet.test:80")
		require.Equal(t, 700*time.Millisecond, time.Since(began))
		var dns *DNSError
		require.ErrorAs(t, err, &dns)
		require.True(t, dns.IsTimeout)

		cancel := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(cancel) })
		began = time.Now()
		_, err = (&Dialer{Resolver: silent, Cancel: cancel}).Dial("tcp", "www.usernet.test:80")
		require.Equal(t, time.Second, time.Since(began))
		require.ErrorContains(t, err, "operation was canceled")
		require.IsType(t, &OpError{}, err)
	})
}

// serveHalf answers questions on 127.0.0.1:53 of the default Host. Each name has an IPv4 address;
// for other types the server fails.
func serveHalf(t *testing.T) {
	t.Helper()
	c, err := ListenPacket("udp", "127.0.0.1:53")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(b[:n]) != nil {
				continue
			}
			q := m.Questions[0]
			answer := dnsmessage.Message{
				Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: dnsmessage.RCodeServerFailure},
				Questions: m.Questions,
			}
			if q.Type == dnsmessage.TypeA {
				answer.RCode = dnsmessage.RCodeSuccess
				answer.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 600},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 2}},
				}}
			}
			if p, err := answer.Pack(); err == nil {
				c.WriteTo(p, from)
			}
		}
	}()
}

func TestStrictErrorsOfAResolverCount(t *testing.T) {
	useHost(t, usernet.Config{DNS: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}})
	serveHalf(t)
	ctx := context.Background()
	addrs, err := (&Resolver{}).LookupHost(ctx, "half.usernet.test.")
	require.NoError(t, err)
	require.Equal(t, []string{"127.0.0.2"}, addrs)
	const failed = "lookup half.usernet.test. on 127.0.0.1:53: server misbehaving"
	strict := &Resolver{StrictErrors: true}
	_, err = strict.LookupHost(ctx, "half.usernet.test.")
	require.EqualError(t, err, failed)

	// DefaultResolver applies to all functions that use it.
	_, err = Dial("udp", "half.usernet.test.:9")
	require.NoError(t, err)
	_, err = (&Dialer{Resolver: strict}).Dial("udp", "half.usernet.test.:9")
	require.EqualError(t, err, "dial udp: "+failed)
	before := DefaultResolver
	DefaultResolver = strict
	defer func() { DefaultResolver = before }()
	_, err = Dial("udp", "half.usernet.test.:9")
	require.EqualError(t, err, "dial udp: "+failed)
	_, err = ListenPacket("udp", "half.usernet.test.:9")
	require.EqualError(t, err, "listen udp: "+failed)
	_, err = ResolveUDPAddr("udp", "half.usernet.test.:9")
	require.EqualError(t, err, failed)
}

func TestADialByItsResolverIsTraced(t *testing.T) {
	useHost(t, usernet.Config{})
	serveNames(t)
	ln, err := Listen("tcp", "127.0.0.1:80")
	require.NoError(t, err)
	defer ln.Close()
	var dialed atomic.Value
	var events []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		DNSStart:     func(i httptrace.DNSStartInfo) { events = append(events, "lookup "+i.Host) },
		DNSDone:      func(i httptrace.DNSDoneInfo) { events = append(events, fmt.Sprint("found ", len(i.Addrs))) },
		ConnectStart: func(_, addr string) { events = append(events, "connect "+addr) },
	})
	d := &Dialer{Resolver: ownResolver(&dialed), LocalAddr: &TCPAddr{IP: IPv4(127, 0, 0, 3)}}
	c, err := d.DialContext(ctx, "tcp4", "www.usernet.test:80")
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, []string{"lookup www.usernet.test", "found 2", "connect 127.0.0.2:80", "connect 127.0.0.1:80"}, events)
}
