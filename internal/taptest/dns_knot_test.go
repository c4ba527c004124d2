//go:build linux

package taptest

import (
	"fmt"
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
