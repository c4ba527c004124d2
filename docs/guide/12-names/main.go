// The program resolves names by DNS and by Multicast DNS, and asks a server of a name for the time.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	//guide:begin hosts
	link := lab.Slow(left, nic.Impairment{Latency: 15 * time.Millisecond}, 1)
	cfg := lab.Config(lab.Show(lab.Capture(link), "udp and not host ff02::fb and not host 224.0.0.251"), 1, "192.0.2.1/24")
	cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort("192.0.2.2:53")}
	cfg.MDNS = &usernet.MDNSConfig{}
	client := lab.New(cfg)
	defer client.Close()

	cfg = lab.Config(right, 2, "192.0.2.2/24")
	cfg.MDNS = &usernet.MDNSConfig{HostName: "clock"}
	server := lab.New(cfg)
	defer server.Close()
	//guide:end
	names := lab.Must(server.ListenPacket("udp", ":53"))
	defer names.Close()
	go serveNames(names, map[string]netip.Addr{"time.example.": netip.MustParseAddr("192.0.2.2")})
	clock := lab.Must(server.ListenPacket("udp", ":123"))
	defer clock.Close()
	go serveTime(clock, 1500*time.Millisecond)

	//guide:begin lookup
	ctx := context.Background()
	fmt.Println(client.LookupNetIP(ctx, "ip4", "time.example"))
	fmt.Println(client.LookupNetIP(ctx, "ip4", "time.example")) // from the cache
	_, err := client.LookupNetIP(ctx, "ip4", "nowhere.example")
	var dnsError *net.DNSError
	fmt.Println(err, errors.As(err, &dnsError) && dnsError.IsNotFound)
	//guide:end

	//guide:begin mdns
	time.Sleep(5 * time.Second) // the server has probed for its name
	fmt.Println(client.LookupNetIP(ctx, "ip4", "clock.local"))
	//guide:end

	//guide:begin offset
	offset, roundTrip, err := askTime(client, "192.0.2.2:123")
	fmt.Println("the server's clock is ahead by", offset, "round trip", roundTrip, err)
	//guide:end
}

// serveNames is a small name server: it knows the addresses of some names.
//
//guide:begin dns
func serveNames(pc net.PacketConn, names map[string]netip.Addr) {
	buf := make([]byte, 1500)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, Authoritative: true, RecursionDesired: m.RecursionDesired},
			Questions: m.Questions,
		}
		addr, ok := names[lower(q.Name.String())]
		switch {
		case !ok:
			reply.RCode = dnsmessage.RCodeNameError
		case q.Type == dnsmessage.TypeA:
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 300},
				Body:   &dnsmessage.AResource{A: addr.As4()},
			}}
		}
		if out, err := reply.Pack(); err == nil {
			pc.WriteTo(out, from)
		}
	}
}

//guide:end
