package usernet_test

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/nic"
)

// A host publishes a web server, and another host on the link finds it.
func ExampleHost_Publish() {
	near, far := nic.Pipe(nic.PipeConfig{})
	server, err := usernet.New(usernet.Config{
		NIC: near, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		MDNS: &usernet.MDNSConfig{HostName: "server"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	client, err := usernet.New(usernet.Config{
		NIC: far, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
		MDNS: &usernet.MDNSConfig{},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	web, err := server.Publish(usernet.MDNSService{Instance: "Web Server", Type: "_http._tcp", Port: 80})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer web.Close()

	ctx, cancel := context.WithCancel(context.Background())
	client.Browse(ctx, "_http._tcp", func(e mdns.Event) {
		if instance, err := client.LookupInstance(ctx, e.Record.Target); err == nil {
			fmt.Println(instance.Name, instance.Host, instance.Port)
		}
		cancel()
	})
	// Output: Web Server._http._tcp.local. server.local. 80
}
