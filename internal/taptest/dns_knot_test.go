//go:build linux

package taptest

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// knotAddr is the address of the Knot DNS server of a test.
const knotAddr = "192.0.2.58"

// startKnot starts Knot DNS with the zone dns.test and more records. A query over UDP without a valid
// server cookie gets BADCOOKIE.
func (ns *namespace) startKnot(t *testing.T, records string) {
	t.Helper()
	ns.run(t, "ip", "addr", "add", knotAddr+"/32", "dev", "lo")
	dir := t.TempDir()
	config := fmt.Sprintf(`server:
    rundir: "%[1]s"
    listen: %[2]s@53
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stderr
    any: info
database:
    storage: "%[1]s"
mod-cookies:
  - id: all
    badcookie-slip: 1
template:
  - id: default
    storage: "%[1]s"
    global-module: mod-cookies/all
zone:
  - domain: dns.test
    file: dns.test
`, dir, knotAddr)
	for name, content := range map[string]string{"knot.conf": config, "dns.test": unboundZone() + records} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	ns.startServer(t, knotAddr, "knotd", "-c", filepath.Join(dir, "knot.conf"))
}

// Knot refuses a query without a server cookie by BADCOOKIE (RFC 7873 5.2.3). The resolver queries again
// with the cookie, and uses that cookie for all later queries.
func TestCookiesAtARealServer(t *testing.T) {
	t.Parallel()
	need(t, "knotd")
	ns := newNamespace(t)
	ns.startKnot(t, "")
	h, c := system{resolvConf: "nameserver " + knotAddr}.counted(t, ns)
	for i := range 3 {
		mxs, err := h.Resolver().LookupMX(t.Context(), []string{"dns.test.", "DNS.test.", "dns.Test."}[i])
		require.NoError(t, err)
		require.Len(t, mxs, 2)
	}
	require.Equal(t, map[string]int{"udp": 2}, c.since(), "a query without a cookie, and one with it; then the cache")
	txts, err := h.LookupTXT("txt.dns.test.")
	require.NoError(t, err)
	require.Len(t, txts, 2)
	require.Equal(t, map[string]int{"udp": 1}, c.since(), "the cookie is known")
	txts, err = h.LookupTXT("big.dns.test.")
	require.NoError(t, err)
	require.Len(t, txts, bigTXT)
	require.Equal(t, map[string]int{"udp": 1, "tcp": 1}, c.since())
}

// Knot makes the wire form of the records from their text form (RFC 9460 2.1), so no code of usernet encodes them.
func TestServiceBindingsOfARealServer(t *testing.T) {
	t.Parallel()
	need(t, "knotd")
	ns := newNamespace(t)
	ns.startKnot(t, `
web IN HTTPS 2 host alpn=h2,h3 port=8443 ipv4hint=192.0.2.80 ipv6hint=2001:db8::80
web IN HTTPS 1 . alpn=h2 no-default-alpn mandatory=alpn ech=AEX+DQBBAQAgACBHdWVzcw==
alias IN HTTPS 0 web.dns.test.
_853._dns.web IN SVCB 7 four alpn=dot key7="/dns-query{?dns}"
key IN HTTPS 1 . key667=hello
must IN HTTPS 1 . mandatory=key667 key667=hello
`)
	h, _ := system{resolvConf: "nameserver " + knotAddr}.counted(t, ns)
	r := h.Resolver()
	for _, name := range []string{"web.dns.test", "alias.dns.test"} {
		target, bindings, err := r.LookupHTTPS(t.Context(), name, 443)
		require.NoError(t, err)
		require.Equal(t, "web.dns.test.", target)
		require.Len(t, bindings, 2)
		first, second := bindings[0], bindings[1]
		require.Equal(t, "web.dns.test.", first.Target)
		require.Equal(t, []string{"h2"}, first.ALPN)
		require.True(t, first.NoDefaultALPN)
		require.Equal(t, []uint16{1}, first.Mandatory)
		require.Len(t, first.ECH, 16)
		require.Equal(t, "host.dns.test.", second.Target)
		require.Equal(t, []string{"h2", "h3"}, second.ALPN)
		require.Equal(t, uint16(8443), second.Port)
		require.Equal(t, []netip.Addr{netip.MustParseAddr("192.0.2.80")}, second.IPv4Hint)
		require.Equal(t, []netip.Addr{netip.MustParseAddr("2001:db8::80")}, second.IPv6Hint)
	}
	_, bindings, err := r.LookupSVCB(t.Context(), "dns", 853, "web.dns.test")
	require.NoError(t, err)
	require.Equal(t, "/dns-query{?dns}", bindings[0].DoHPath)
	_, bindings, err = r.LookupHTTPS(t.Context(), "key.dns.test", 0)
	require.NoError(t, err)
	require.Equal(t, []byte("hello"), bindings[0].Params[0].Value)
	_, bindings, err = r.LookupHTTPS(t.Context(), "must.dns.test", 0)
	require.NoError(t, err)
	require.Empty(t, bindings, "the resolver does not know a mandatory key")
}
