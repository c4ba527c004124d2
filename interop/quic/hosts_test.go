package quic

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// newHosts makes two hosts with a wire between them that know each other's name,
// and a function that has the wire do the same to both directions.
func newHosts(t *testing.T) (client, server *usernet.Host, impair func(nic.Impairment)) {
	t.Helper()
	a, b := nic.Pipe(nic.PipeConfig{})
	wire := nic.Impair(a, nic.ImpairConfig{Seed: 3})
	impair = func(imp nic.Impairment) {
		wire.SetOut(imp)
		wire.SetIn(imp)
	}
	names := map[string][]netip.Addr{
		"client.test": {netip.MustParseAddr("192.0.2.1")},
		"server.test": {netip.MustParseAddr("192.0.2.2")},
	}
	newHost := func(dev nic.Device, name string) *usernet.Host {
		h, err := usernet.New(usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.PrefixFrom(names[name][0], 24)}, Hosts: names})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	return newHost(wire, "client.test"), newHost(b, "server.test"), impair
}

// newTLS makes the configurations of a server and of a client that trusts it.
func newTLS(t *testing.T, protocol string) (client, server *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		NotBefore:             time.Date(1999, 1, 1, 0, 0, 0, 0, time.UTC), // a bubble begins in 2000
		NotAfter:              time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC),
		DNSNames:              []string{"server.test"},
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
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	return &tls.Config{RootCAs: pool, ServerName: "server.test", NextProtos: []string{protocol}},
		&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{protocol}}
}
