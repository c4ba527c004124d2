package std

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// newHosts makes hosts on a switch that know each other by their names.
func newHosts(t *testing.T, names ...string) []*usernet.Host {
	t.Helper()
	network := netip.MustParsePrefix("192.0.2.0/24")
	known := map[string][]netip.Addr{}
	addr := network.Addr()
	var addrs []netip.Prefix
	for _, name := range names {
		addr = addr.Next()
		known[name] = []netip.Addr{addr}
		addrs = append(addrs, netip.PrefixFrom(addr, network.Bits()))
	}
	sw := nic.NewSwitch(nic.SwitchConfig{})
	var hosts []*usernet.Host
	for _, a := range addrs {
		h, err := usernet.New(usernet.Config{NIC: sw.Port(), Addrs: []netip.Prefix{a}, Hosts: known})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		hosts = append(hosts, h)
	}
	return hosts
}

// listen listens on a port of a host until the end of the test.
func listen(t *testing.T, h *usernet.Host, address string) net.Listener {
	t.Helper()
	ln, err := h.Listen("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	return ln
}

// newCertificate makes a certificate for a name and a pool that trusts it.
func newCertificate(t *testing.T, name string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
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
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}
