package resolve

import (
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDomainNames(t *testing.T) {
	for _, name := range []string{
		".", "a", "a.", "a.b", "A-b.c", "_sip._tcp.example.com", "1a", "1.a", "1-2.3", "a.1", "xn--bcher-kva.test", "a_b",
		strings.Repeat("a", 63), long(254), long(254)[:253],
	} {
		require.True(t, isDomainName(name), name)
	}
	for _, name := range []string{
		"", "..", "a..", ".a", "a..b", "-a", "a-", "a-.b", "a.-b", "1", "1.", "1.2.3.4", "a b", "a\x00", "\u00e4", "a/b", "a:1", "[a]", "a@b", "*.a", `a\.b`,
		strings.Repeat("a", 64), "x." + strings.Repeat("a", 64) + ".y", "b" + long(254), long(255)[:254],
	} {
		require.False(t, isDomainName(name), name)
	}
}

func TestLookupPort(t *testing.T) {
	r := New(Config{})
	for _, tt := range []struct {
		network, service string
		port             int
		err              error
	}{
		{"tcp", "http", 80, nil}, {"tcp4", "HTTPS", 443, nil}, {"tcp6", "ssh", 22, nil},
		{"udp", "domain", 53, nil}, {"udp4", "ntp", 123, nil}, {"udp6", "snmp", 161, nil},
		{"ip", "http", 80, nil}, {"ip", "tftp", 69, nil}, {"", "tftp", 69, nil},
		{"tcp", "", 0, nil}, {"tcp", "0", 0, nil}, {"tcp", "65535", 65535, nil}, {"tcp", "+80", 80, nil},
		{"tcp", "-0", 0, nil}, {"tcp", "-", 0, nil}, {"tcp", "00080", 80, nil}, {"bogus", "80", 80, nil},
		{"tcp", "65536", 0, &net.AddrError{Err: "invalid port", Addr: "65536"}},
		{"tcp", "-1", 0, &net.AddrError{Err: "invalid port", Addr: "-1"}},
		{"tcp", "99999999999999999999", 0, &net.AddrError{Err: "invalid port", Addr: "99999999999999999999"}},
		{"bogus", "http", 0, &net.AddrError{Err: "unknown network", Addr: "bogus"}},
		{"tcp", "x", 0, &net.DNSError{Err: "unknown port", Name: "tcp/x", IsNotFound: true}},
		{"tcp4", "tftp", 0, &net.DNSError{Err: "unknown port", Name: "tcp/tftp", IsNotFound: true}},
		{"udp6", "ssh", 0, &net.DNSError{Err: "unknown port", Name: "udp/ssh", IsNotFound: true}},
		{"", "x", 0, &net.DNSError{Err: "unknown port", Name: "ip/x", IsNotFound: true}},
		{"tcp", "8x", 0, &net.DNSError{Err: "unknown port", Name: "tcp/8x", IsNotFound: true}},
		{"tcp", " 80", 0, &net.DNSError{Err: "unknown port", Name: "tcp/ 80", IsNotFound: true}},
	} {
		port, err := r.LookupPort(t.Context(), tt.network, tt.service)
		if tt.err == nil {
			require.NoError(t, err, "%q %q", tt.network, tt.service)
		} else {
			require.Equal(t, tt.err, err, "%q %q", tt.network, tt.service)
		}
		require.Equal(t, tt.port, port, "%q %q", tt.network, tt.service)
	}
	_, err := r.LookupPort(t.Context(), "tcp", "x")
	require.EqualError(t, err, "lookup tcp/x: unknown port")
}

func TestLookupPortDoesNotAllocate(t *testing.T) {
	r := New(Config{})
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(100, func() {
		r.LookupPort(ctx, "tcp", "https")
		r.LookupPort(ctx, "tcp", "8080")
	}))
}
