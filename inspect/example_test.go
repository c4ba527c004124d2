package inspect_test

import (
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
