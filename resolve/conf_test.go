package resolve

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseHosts(t *testing.T) {
	h, err := ParseHosts(strings.NewReader("# a comment\n" +
		"127.0.0.1\tlocalhost # another\n" +
		"::1 localhost ip6-localhost\r\n" +
		"\n" +
		"192.0.2.1 \t Web.Example.test web\n" +
		"192.0.2.2 web.example.test.\n" +
		"fe80::1%eth0 link\n" +
		"not-an-address name\n" +
		"192.0.2.3\n" +
		"192.0.2.4 # no name\n" +
		"192.0.2.1 last" + strings.Repeat(" x", 40000)))
	require.NoError(t, err)
	addr := netip.MustParseAddr
	for name, want := range map[string]struct {
		addrs     []netip.Addr
		canonical string
	}{
		"localhost":         {[]netip.Addr{addr("127.0.0.1"), addr("::1")}, "localhost"},
		"ip6-localhost":     {[]netip.Addr{addr("::1")}, "localhost"},
		"web.example.test":  {[]netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")}, "web.example.test."},
		"WEB.example.Test.": {[]netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")}, "web.example.test."},
		"web":               {[]netip.Addr{addr("192.0.2.1")}, "web.example.test."},
		"link":              {[]netip.Addr{addr("fe80::1%eth0")}, "link"},
		"last":              {[]netip.Addr{addr("192.0.2.1")}, "last"},
		"name":              {nil, ""},
		"":                  {nil, ""},
	} {
		addrs, canonical := h.Addrs(name)
		require.Equal(t, want.addrs, addrs, name)
		require.Equal(t, want.canonical, canonical, name)
	}
	require.Equal(t, []string{"Web.Example.test.", "web", "last"}, h.Names(addr("192.0.2.1"))[:3])
	require.Equal(t, []string{"link"}, h.Names(addr("fe80::1%eth0")))
	require.Empty(t, h.Names(addr("fe80::1")))
	require.Empty(t, h.Names(addr("192.0.2.3")))

	var zero Hosts
	zero.Add(netip.Addr{}, "x")
	zero.Add(addr("192.0.2.1"))
	addrs, _ := zero.Addrs("x")
	require.Empty(t, addrs)
}

func TestParsingReturnsTheErrorOfTheReader(t *testing.T) {
	broken := errors.New("disk on fire")
	_, err := ParseHosts(iotest.ErrReader(broken))
	require.Equal(t, broken, err)
	_, err = ParseResolvConf(iotest.ErrReader(broken))
	require.Equal(t, broken, err)
}

func TestParseResolvConf(t *testing.T) {
	server := netip.MustParseAddrPort
	for name, tt := range map[string]struct {
		in   string
		want Config
	}{
		"empty": {"", Config{}},
		"servers": {"nameserver 192.0.2.1\n\tnameserver 2001:db8::1 \nnameserver fe80::1%eth0\nnameserver 192.0.2.4\n",
			Config{Servers: []netip.AddrPort{server("192.0.2.1:53"), server("[2001:db8::1]:53"), server("[fe80::1%eth0]:53")}}},
		"comments and nonsense": {"; nameserver 192.0.2.1\n# x\nnameserver\nnameserver host.test\nnameserver 192.0.2.1:53\nfoo bar\nsortlist 1.2.3.4\n", Config{}},
		"domain":                {"domain a.test\n", Config{Search: []string{"a.test."}}},
		"search":                {"domain x.test\nsearch a.test b.test. .\n", Config{Search: []string{"a.test.", "b.test."}}},
		"the last one wins":     {"search a.test b.test\ndomain c.test\n", Config{Search: []string{"c.test."}}},
		"empty search":          {"search a.test\nsearch\n", Config{}},
		"options": {"options ndots:3 timeout:7 attempts:4 rotate single-request use-vc trust-ad edns0 whatever",
			Config{Ndots: 3, Timeout: 7 * time.Second, Attempts: 4, Rotate: true, SingleRequest: true, UseTCP: true, TrustAD: true}},
		"options are capped":       {"options ndots:99 timeout:99 attempts:99", Config{Ndots: 15, Timeout: 30 * time.Second, Attempts: 5}},
		"options from below":       {"options ndots:0 timeout:0 attempts:-1", Config{Ndots: -1, Timeout: time.Second, Attempts: 1}},
		"malformed options":        {"options ndots:x timeout: attempts ndots timeout:99999999999999999999", Config{}},
		"options of other systems": {"options single-request-reopen tcp\r\noptions usevc", Config{SingleRequest: true, UseTCP: true}},
	} {
		cfg, err := ParseResolvConf(strings.NewReader(tt.in))
		require.NoError(t, err)
		require.Equal(t, tt.want, cfg, name)
	}
}

func TestNewCopiesItsConfig(t *testing.T) {
	cfg := Config{Search: []string{"a.test", "."}, Servers: []netip.AddrPort{netip.MustParseAddrPort(server1)}}
	r := New(cfg)
	cfg.Search[0] = "evil"
	require.Equal(t, []string{"a.test."}, r.cfg.Search)
	require.Equal(t, 1, r.cfg.Ndots)
	require.Equal(t, 5*time.Second, r.cfg.Timeout)
	require.Equal(t, 2, r.cfg.Attempts)
	require.Equal(t, 256, r.cache.max)
	require.Nil(t, New(Config{CacheSize: -1}).cache)
}

func FuzzParseHosts(f *testing.F) {
	f.Add("127.0.0.1 localhost\n::1 a b#c\nfe80::1%x y.")
	f.Add("1.2.3.4\x00 a\r\n\v\f")
	f.Fuzz(func(t *testing.T, in string) {
		h, err := ParseHosts(strings.NewReader(in))
		require.NoError(t, err)
		// Every name is also found by its addresses.
		for name, e := range h.byName {
			require.NotEmpty(t, e.addrs)
			addrs, canonical := h.Addrs(name)
			require.Equal(t, e.addrs, addrs)
			require.NotEmpty(t, canonical)
			for _, a := range addrs {
				found := false
				for _, n := range h.Names(a) {
					found = found || lower(n) == name
				}
				require.True(t, found)
			}
		}
		New(Config{Hosts: h})
	})
}

func FuzzParseResolvConf(f *testing.F) {
	f.Add("nameserver 192.0.2.1\nsearch a.test b\noptions ndots:3 timeout:2 attempts:1 rotate\n")
	f.Add("options ndots:-9223372036854775808 timeout:0x10")
	f.Fuzz(func(t *testing.T, in string) {
		cfg, err := ParseResolvConf(strings.NewReader(in))
		require.NoError(t, err)
		require.LessOrEqual(t, len(cfg.Servers), maxServers)
		require.True(t, cfg.Ndots >= -1 && cfg.Ndots <= maxNdots)
		require.True(t, cfg.Timeout == 0 || cfg.Timeout >= time.Second && cfg.Timeout <= maxTimeout*time.Second)
		require.True(t, cfg.Attempts >= 0 && cfg.Attempts <= maxAttempts)
		for _, domain := range cfg.Search {
			require.True(t, strings.HasSuffix(domain, "."))
		}
		New(cfg)
	})
}
