package main

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
)

// certificate makes a key and a certificate that signs itself, and a pool that trusts it. The key is the same in each
// run: never do this for a server that others can reach.
func certificate() (tls.Certificate, *x509.CertPool) {
	seed := make([]byte, ed25519.SeedSize)
	lab.Random(5)(seed)
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "web.example"},
		DNSNames:     []string{"web.example"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der := lab.Must(x509.CreateCertificate(nil, template, template, key.Public(), key))
	pool := x509.NewCertPool()
	pool.AddCert(lab.Must(x509.ParseCertificate(der)))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}
