//go:build linux

package taptest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/resolve"
	"github.com/usernet/usernet/resolve/doh"
	"github.com/usernet/usernet/resolve/dot"
)

// startTLSServers starts dnsmasq, and unbound with DNS over TLS and HTTPS. It returns the configuration of a
// TLS client that trusts unbound's certificate, which is for hosttest.NameB.
func (ns *namespace) startTLSServers(t *testing.T) *tls.Config {
	t.Helper()
	cert, pool := hosttest.Certificate(t, hosttest.NameB)
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	dir := t.TempDir()
	for name, block := range map[string]*pem.Block{
		"cert.pem": {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, "key.pem": {Type: "PRIVATE KEY", Bytes: key},
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600))
	}
	ns.startNameServers(t, fmt.Sprintf(`server:
	interface: %[1]s@853
	interface: %[1]s@443
	tls-port: 853
	https-port: 443
	tls-service-pem: "%[2]s/cert.pem"
	tls-service-key: "%[2]s/key.pem"
`, unboundAddr, dir))
	return &tls.Config{RootCAs: pool}
}

type exchange func(context.Context, resolve.DialFunc, netip.AddrPort, []byte) ([]byte, error)

func TestDNSOverTLSAndHTTPS(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	trust := ns.startTLSServers(t)
	overTLS := &dot.Client{ServerName: hosttest.NameB, TLS: trust}
	defer overTLS.Close()
	overHTTPS, err := doh.New(doh.Config{URL: "https://" + hosttest.NameB + "/dns-query{?dns}", TLS: trust})
	require.NoError(t, err)
	defer overHTTPS.Close()
	lossy := false
	for name, f := range map[string]exchange{"TLS": overTLS.Exchange, "HTTPS": overHTTPS.Exchange} {
		c := &counter{}
		var h *usernet.Host
		h = system{resolvConf: "nameserver " + unboundAddr + "\noptions timeout:30"}.host(t, ns, func(cfg *usernet.Config) {
			cfg.Resolver.Exchange = f
			c.count(cfg, &h)
		})
		addrs, err := h.LookupHost("alias3.dns.test.")
		require.NoError(t, err, name)
		require.Equal(t, []string{"192.0.2.80", "2001:db8::80"}, addrs)
		txts, err := h.LookupTXT("big.dns.test.")
		require.NoError(t, err, name)
		require.Len(t, txts, bigTXT)
		_, err = h.LookupHost("nowhere.dns.test.")
		require.EqualError(t, err, "lookup nowhere.dns.test. on "+unboundAddr+":53: no such host")
		if !lossy { // from here on, the link loses packets
			ns.drop(t)
			lossy = true
		}
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				got, err := h.LookupHost(fmt.Sprintf("x%d.wild.dns.test.", i))
				if err != nil || len(got) != 1 || got[0] != "192.0.2.81" {
					t.Errorf("%s: %v %v", name, got, err)
				}
			})
		}
		wg.Wait()
		// net/http opens a connection for each of the first two queries, because it cannot know then that
		// the server supports HTTP/2.
		dials := c.since()
		require.LessOrEqual(t, dials["tcp"], map[string]int{"TLS": 1, "HTTPS": 2}[name], "all queries over %s share a connection", name)
		require.Len(t, dials, 1)
		require.NoError(t, h.Close())
	}
}

// A server whose certificate has another name is refused, unless the client does not authenticate servers. A server
// without TLS is queried in clear only if the resolver is opportunistic.
func TestDNSOverTLSWithTheWrongServer(t *testing.T) {
	t.Parallel()
	needNameServers(t)
	ns := newNamespace(t)
	trust := ns.startTLSServers(t)
	lookup := func(addr string, client *dot.Client, opportunistic bool) (map[string]int, error) {
		t.Helper()
		defer client.Close()
		c := &counter{}
		var h *usernet.Host
		h = system{resolvConf: "nameserver " + addr}.host(t, ns, func(cfg *usernet.Config) {
			cfg.Resolver.Exchange, cfg.Resolver.Opportunistic = client.Exchange, opportunistic
			c.count(cfg, &h)
		})
		defer h.Close()
		_, err := h.Resolver().LookupMX(t.Context(), "dns.test.")
		return c.since(), err
	}
	_, err := lookup(unboundAddr, &dot.Client{ServerName: "other.test", TLS: trust}, false)
	require.ErrorContains(t, err, "certificate is valid for "+hosttest.NameB)
	_, err = lookup(unboundAddr, &dot.Client{ServerName: hosttest.NameB}, false)
	require.ErrorContains(t, err, "certificate signed by unknown authority")
	dials, err := lookup(unboundAddr, &dot.Client{NoAuthentication: true}, false)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"tcp": 1}, dials)
	_, err = lookup(dnsmasqAddr, &dot.Client{NoAuthentication: true}, false)
	require.ErrorContains(t, err, "connection refused")
	dials, err = lookup(dnsmasqAddr, &dot.Client{NoAuthentication: true}, true)
	require.NoError(t, err)
	require.Equal(t, map[string]int{"tcp": 1, "udp": 1}, dials)
}
