// Package hosttest provides the hosts, servers and certificates that the tests of several packages
// and modules use. The hosts are closed when the test ends.
package hosttest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/accept"
	"github.com/usernet/usernet/nic"
)

// The addresses and names of the hosts of Pair.
const (
	AddrA = "192.0.2.1"
	AddrB = "192.0.2.2"
	NameA = "client.test"
	NameB = "server.test"

	// The IPv6 addresses of the hosts of PairSix.
	Addr6A = "2001:db8:6::1"
	Addr6B = "2001:db8:6::2"
)

// New makes a host from a configuration.
func New(t testing.TB, cfg usernet.Config) *usernet.Host {
	t.Helper()
	h, err := usernet.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

// Host makes a host on a device, which may be nil, with an address and a prefix of 24 bits. The
// functions of change modify the configuration before the host is made.
func Host(t testing.TB, dev nic.Device, addr string, change ...func(*usernet.Config)) *usernet.Host {
	t.Helper()
	cfg := usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addr), 24)}}
	for _, f := range change {
		f(&cfg)
	}
	return New(t, cfg)
}

// Loopback makes a host with only its loopback.
func Loopback(t testing.TB, change ...func(*usernet.Config)) *usernet.Host {
	t.Helper()
	var cfg usernet.Config
	for _, f := range change {
		f(&cfg)
	}
	return New(t, cfg)
}

// Pair makes two hosts on a wire. Each resolves both names. The functions of change modify the
// configurations of both hosts.
func Pair(t testing.TB, change ...func(*usernet.Config)) (a, b *usernet.Host) {
	t.Helper()
	near, far := nic.Pipe(nic.PipeConfig{})
	both := func(cfg *usernet.Config) {
		for _, f := range change {
			f(cfg)
		}
	}
	return named(t, near, far, both, both)
}

// LoopbackSix is like Loopback, but the host also has a link with an IPv6 address. The link discards
// all packets.
func LoopbackSix(t testing.TB) *usernet.Host {
	t.Helper()
	dev := nic.NewNull(nic.Link{MTU: 1500, Medium: nic.IP})
	return New(t, usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8:ffff::1/128")}})
}

// PairSix is like Pair, but the hosts also have IPv6 addresses, and the wire carries IP packets instead
// of Ethernet frames.
func PairSix(t testing.TB) (a, b *usernet.Host) {
	t.Helper()
	near, far := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	with := func(addr string) func(cfg *usernet.Config) {
		return func(cfg *usernet.Config) {
			cfg.Addrs = append(cfg.Addrs, netip.PrefixFrom(netip.MustParseAddr(addr), 64))
		}
	}
	return named(t, near, far, with(Addr6A), with(Addr6B))
}

// ImpairedPair is like Pair. impair sets the impairment of the wire in both directions.
func ImpairedPair(t testing.TB, seed uint64) (a, b *usernet.Host, impair func(nic.Impairment)) {
	t.Helper()
	near, far := nic.Pipe(nic.PipeConfig{})
	wire := nic.Impair(near, nic.ImpairConfig{Seed: seed})
	a, b = named(t, wire, far)
	return a, b, func(imp nic.Impairment) {
		wire.SetOut(imp)
		wire.SetIn(imp)
	}
}

// named makes two hosts that resolve both names. change[0] modifies the configuration of the first
// host, and change[1] that of the second host; either may be absent.
func named(t testing.TB, near, far nic.Device, change ...func(*usernet.Config)) (a, b *usernet.Host) {
	t.Helper()
	change = append(change, func(*usernet.Config) {}, func(*usernet.Config) {})
	names := func(cfg *usernet.Config) {
		cfg.Hosts = map[string][]netip.Addr{
			NameA: {netip.MustParseAddr(AddrA)},
			NameB: {netip.MustParseAddr(AddrB)},
		}
	}
	return Host(t, near, AddrA, names, change[0]), Host(t, far, AddrB, names, change[1])
}

// Named makes a host for each name, on a switch. Each host resolves all names. The addresses are
// 192.0.2.1 and the following ones, in the order of the names.
func Named(t testing.TB, names ...string) []*usernet.Host {
	t.Helper()
	known := map[string][]netip.Addr{}
	addr := netip.MustParseAddr(AddrA)
	for _, name := range names {
		known[name] = []netip.Addr{addr}
		addr = addr.Next()
	}
	sw := nic.NewSwitch(nic.SwitchConfig{})
	var hosts []*usernet.Host
	for _, name := range names {
		hosts = append(hosts, Host(t, sw.Port(), known[name][0].String(), func(cfg *usernet.Config) { cfg.Hosts = known }))
	}
	return hosts
}

// Listen listens on a port of a host until the end of the test.
func Listen(t testing.TB, h *usernet.Host, address string) net.Listener {
	t.Helper()
	ln, err := h.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// Serve accepts connections and runs f for each, until the listener is closed or fails. Temporary errors do
// not end it.
func Serve(ln net.Listener, f func(net.Conn)) {
	accept.Serve(context.Background(), ln, nil, func(c net.Conn) { go f(c) })
}

// Echo sends back the data that it receives, and closes the connection when the other end does.
func Echo(c net.Conn) {
	defer c.Close()
	io.Copy(c, c)
}

// Connect makes a connection between two hosts, which may be the same host. The host named to listens at
// addr, and the host named from dials that address.
func Connect(t testing.TB, from, to *usernet.Host, addr string) (client, server *usernet.TCPConn) {
	t.Helper()
	ln, err := to.Listen("tcp", net.JoinHostPort(addr, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := from.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*usernet.TCPConn), s.(*usernet.TCPConn)
}

// Text returns n bytes that form a long pattern, so that misplaced data is detected.
func Text(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i) ^ byte(i>>8) ^ byte(i>>16)
	}
	return b
}

// Zeros is a reader of endless zeros.
type Zeros struct{}

func (Zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// Certificate makes a certificate for a name and a pool that trusts it. The certificate is also
// valid in a synctest bubble, whose time begins in the year 2000.
func Certificate(t testing.TB, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		DNSNames:              []string{name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// TLS makes the configurations of a server with the name NameB and of a client that trusts the server.
// Both use protocol in ALPN.
func TLS(t testing.TB, protocol string) (client, server *tls.Config) {
	t.Helper()
	cert, pool := Certificate(t, NameB)
	return &tls.Config{RootCAs: pool, ServerName: NameB, NextProtos: []string{protocol}},
		&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol}}
}
