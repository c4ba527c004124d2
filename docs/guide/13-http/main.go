// The program loads a page by HTTPS over a link that loses packets, and records what is needed to decrypt the capture.
package main

import (
	"crypto/sha256"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

var keys = flag.String("keys", "", "write the TLS secrets to this `file`, for Wireshark")

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	//guide:begin link
	lossy := lab.Slow(left, nic.Impairment{Latency: 25 * time.Millisecond, Loss: 0.05}, 1)
	client := lab.Host(lab.Capture(lossy), 1, "192.0.2.1/24")
	server := lab.Host(right, 2, "192.0.2.2/24")
	//guide:end
	defer client.Close()
	defer server.Close()
	cert, pool := certificate()

	//guide:begin server
	page := make([]byte, 300_000)
	lab.Random(7)(page)
	web := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Date", "") // net/http omits the header
			w.Write(page)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}},
	}
	ln := lab.Must(server.Listen("tcp", ":443"))
	go web.ServeTLS(ln, "", "")
	defer web.Close()
	//guide:end

	//guide:begin client
	config := &tls.Config{RootCAs: pool, ServerName: "web.example"}
	if *keys != "" {
		config.KeyLogWriter = lab.Must(os.Create(*keys))
	}
	browser := &http.Client{Transport: &http.Transport{DialContext: client.DialContext, TLSClientConfig: config}}
	defer browser.CloseIdleConnections()
	began := time.Now()
	resp := lab.Must(browser.Get("https://192.0.2.2/page"))
	body := lab.Must(io.ReadAll(resp.Body))
	resp.Body.Close()
	took := time.Since(began)
	//guide:end

	fmt.Println(resp.Status, resp.Proto, "over TLS 1.3:", resp.TLS.Version == tls.VersionTLS13)
	fmt.Println("the page is whole:", sha256.Sum256(body) == sha256.Sum256(page))
	fmt.Println("it took", took.Round(time.Millisecond))
	//guide:begin report
	for c := range server.Conns() {
		if info, ok := c.Info(); ok {
			fmt.Printf("%d segments with data, %d of them sent again\n", info.DataSegsOut, info.Retrans)
		}
	}
	//guide:end
}
