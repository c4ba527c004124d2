package inspect_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/nic"
)

// A server of the program shows a usernet host. Another program reads the interfaces of the host as JSON.
func ExampleHandler() {
	wire, _ := nic.Pipe(nic.PipeConfig{})
	host, err := usernet.New(usernet.Config{NIC: wire, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, NoIPv6: true})
	if err != nil {
		panic(err)
	}
	defer host.Close()
	mux := http.NewServeMux()
	mux.Handle("/debug/usernet/", inspect.Handler(host))
	server := httptest.NewServer(mux)
	defer server.Close()

	resp, err := http.Get(server.URL + "/debug/usernet/api/overview")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	var overview inspect.Overview
	if err := json.NewDecoder(resp.Body).Decode(&overview); err != nil {
		panic(err)
	}
	for _, i := range overview.Interfaces {
		fmt.Println(i.Medium, i.MTU, i.Addrs)
	}
	// Output:
	// ip 65535 [127.0.0.1/8]
	// ethernet 1500 [192.0.2.1/24]
}

// A test in virtual time records a host. The recording is opened afterwards: here by the test itself, otherwise with
// the command usernet inspect FILE.
func ExampleRecord() {
	a, b := nic.Pipe(nic.PipeConfig{})
	host, err := usernet.New(usernet.Config{NIC: a, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	if err != nil {
		panic(err)
	}
	defer host.Close()
	peer, err := usernet.New(usernet.Config{NIC: b, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")}})
	if err != nil {
		panic(err)
	}
	defer peer.Close()

	var file bytes.Buffer // a test creates a file
	recording := inspect.Record(host, &file, inspect.RecordConfig{})
	ln, err := peer.Listen("tcp", ":80")
	if err != nil {
		panic(err)
	}
	conn, err := host.Dial("tcp", "192.0.2.2:80")
	if err != nil {
		panic(err)
	}
	if err := recording.Close(); err != nil {
		panic(err)
	}
	conn.Close()
	ln.Close()

	handler, err := inspect.Open(&file)
	if err != nil {
		panic(err)
	}
	server := httptest.NewServer(handler)
	defer server.Close()
	resp, err := http.Get(server.URL + "/api/conns")
	if err != nil {
		panic(err)
	}
	defer resp.Body.Close()
	var conns inspect.Conns
	if err := json.NewDecoder(resp.Body).Decode(&conns); err != nil {
		panic(err)
	}
	for _, c := range conns.Conns {
		fmt.Println(c.Remote, c.State)
	}
	// Output:
	// 192.0.2.2:80 ESTABLISHED
}

// A program on a server shows its host to those who know a token, and lets them capture TLS in clear text.
func ExampleNewHandler() {
	host, err := usernet.New(usernet.Config{})
	if err != nil {
		panic(err)
	}
	defer host.Close()
	keys := new(inspect.KeyLog)
	config := &tls.Config{KeyLogWriter: keys}
	_ = config // the configuration of the program's own server or client
	token := inspect.NewToken()
	mux := http.NewServeMux()
	mux.Handle("/debug/usernet/", inspect.NewHandler(host, inspect.Config{Token: token, KeyLog: keys}))
	server := httptest.NewServer(mux)
	defer server.Close()

	for _, token := range []string{"a guess", token} {
		req, err := http.NewRequest("GET", server.URL+"/debug/usernet/api/overview", nil)
		if err != nil {
			panic(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			panic(err)
		}
		resp.Body.Close()
		fmt.Println(resp.Status)
	}
	// Output:
	// 401 Unauthorized
	// 200 OK
}
