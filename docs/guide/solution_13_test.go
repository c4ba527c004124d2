package guide

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// load loads a page of some bytes by HTTPS and returns when its first byte and its last byte had arrived.
func load(t *testing.T, imp nic.Impairment, control tcp.Congestion, size int) (first, last time.Duration) {
	left, right := lab.Wire()
	client := congested(t, lab.Slow(left, imp, 1), 1, control, "192.0.2.1/24")
	server := congested(t, right, 2, control, "192.0.2.2/24")

	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"web.example"},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, template, template, key.Public(), key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(cert)

	web := &http.Server{
		Handler:   http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Write(make([]byte, size)) }),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
	}
	ln, err := server.Listen("tcp", "192.0.2.2:443")
	require.NoError(t, err)
	go web.ServeTLS(ln, "", "")
	defer web.Close()
	// After a ping the hosts know each other's link address.
	_, err = client.Ping(t.Context(), "192.0.2.2", usernet.PingConfig{Count: 5, Timeout: 5 * time.Second})
	require.NoError(t, err)
	transport := &http.Transport{
		DialContext:     client.DialContext,
		TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "web.example"},
	}
	defer transport.CloseIdleConnections()

	began := time.Now()
	resp, err := (&http.Client{Transport: transport}).Get("https://192.0.2.2/")
	require.NoError(t, err)
	first = time.Since(began)
	n, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.Equal(t, int64(size), n)
	resp.Body.Close()
	return first, time.Since(began)
}

// BBR needs about the same time as CUBIC without loss, and much less with it.
func TestSolution13_1Losses(t *testing.T) {
	solution(t, func(t *testing.T) {
		took := map[tcp.Congestion]map[float64]time.Duration{tcp.CUBIC: {}, tcp.BBR: {}}
		for control := range took {
			for _, loss := range []float64{0, 0.01, 0.02, 0.05, 0.1} {
				_, took[control][loss] = load(t, nic.Impairment{Latency: 25 * time.Millisecond, Loss: loss}, control, 300_000)
				t.Logf("%v, loss of %2.0f %%: %v", control, 100*loss, took[control][loss].Round(time.Millisecond))
			}
		}
		require.Less(t, took[tcp.CUBIC][0], 500*time.Millisecond)
		require.Less(t, took[tcp.BBR][0], 500*time.Millisecond)
		require.Greater(t, took[tcp.CUBIC][0.05], time.Second)
		require.Less(t, took[tcp.BBR][0.1], took[tcp.CUBIC][0.1])
	})
}

// Three round trips of 400 ms: SYN and SYN,ACK; TLS's ClientHello and ServerHello; the request and the first byte.
func TestSolution13_2RoundTrips(t *testing.T) {
	solution(t, func(t *testing.T) {
		first, _ := load(t, nic.Impairment{Latency: 200 * time.Millisecond}, tcp.CUBIC, 10)
		require.Equal(t, 1200*time.Millisecond, first.Round(10*time.Millisecond))
	})
}
