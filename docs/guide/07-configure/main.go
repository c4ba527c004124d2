// The program has a router and a host that gets its addresses from the router: by Router Advertisements and by DHCP.
package main

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/stack"
)

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	//guide:begin router
	router := lab.Host(right, 2, "192.0.2.1/24", "2001:db8:1::1/64")
	defer router.Close()
	lab.Check(router.Stack().Advertise("", &stack.RouterConfig{
		Lifetime: 30 * time.Minute,
		Prefixes: []stack.RouterPrefix{{Prefix: netip.MustParsePrefix("2001:db8:1::/64")}},
		DNS:      []netip.Addr{netip.MustParseAddr("2001:db8:1::53")},
	}))
	server := lab.Must(router.ServeDHCP("", usernet.DHCPServerConfig{Server: dhcp.ServerConfig4{
		Link: dhcp.Network4{
			Pools:   []dhcp.Range4{{First: netip.MustParseAddr("192.0.2.100"), Last: netip.MustParseAddr("192.0.2.199")}},
			Lease:   time.Hour,
			Routers: []netip.Addr{netip.MustParseAddr("192.0.2.1")},
			DNS:     []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		},
	}}))
	defer server.Close()
	//guide:end

	//guide:begin host
	cfg := lab.Config(lab.Show(lab.Capture(left), "udp port 67 or udp port 68"), 1) // no addresses
	cfg.Auto = true
	cfg.DHCP = true
	host := lab.New(cfg)
	defer host.Close()
	//guide:end

	//guide:begin events
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Minute)
	defer cancel()
	for e := range host.Events(ctx) {
		time.Sleep(time.Millisecond) // so that the frames of this instant are printed first
		fmt.Printf("%6.1f s: %v\n", time.Since(began).Seconds(), e)
	}
	//guide:end

	//guide:begin result
	for _, prefix := range host.Addrs() {
		if !prefix.Addr().IsLoopback() {
			fmt.Println("address", prefix)
		}
	}
	for _, r := range host.Routes() {
		if r.Via.IsValid() {
			fmt.Println("route to", r.Dst, "by", r.Via)
		}
	}
	for b := range server.Bindings() {
		fmt.Println("the server's table:", b.Addr, b.State)
	}
	//guide:end
}
