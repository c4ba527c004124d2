package contract

import (
	"context"
	"fmt"
	"net"
	"testing"

	"github.com/usernet/usernet/internal/world"
)

// resolveBehaviours returns the behaviours of ResolveTCPAddr, ResolveUDPAddr and ResolveIPAddr that
// query no name server.
func resolveBehaviours() []behaviour {
	tcp := func(network, address string) func(*testing.T, *world.World) []any {
		return func(t *testing.T, w *world.World) []any {
			a, err := w.ResolveTCP(network, address)
			if err != nil {
				return []any{a == nil, err}
			}
			return []any{a}
		}
	}
	udp := func(network, address string) func(*testing.T, *world.World) []any {
		return func(t *testing.T, w *world.World) []any {
			a, err := w.ResolveUDP(network, address)
			if err != nil {
				return []any{a == nil, err}
			}
			return []any{a}
		}
	}
	ip := func(network, address string) func(*testing.T, *world.World) []any {
		return func(t *testing.T, w *world.World) []any {
			a, err := w.ResolveIP(network, address)
			if err != nil {
				return []any{a == nil, err}
			}
			return []any{a}
		}
	}
	return []behaviour{
		{"ResolveTCPAddr of a literal", tcp("tcp", "192.0.2.7:80"), "tcp 192.0.2.7:80"},
		{"ResolveTCPAddr of a service", tcp("tcp4", "192.0.2.7:https"), "tcp 192.0.2.7:443"},
		{"ResolveTCPAddr on no network", tcp("", "192.0.2.7:80"), "tcp 192.0.2.7:80"},
		{"ResolveTCPAddr of nothing", tcp("tcp", ""), "tcp :0"},
		{"ResolveTCPAddr of a port", tcp("tcp", ":80"), "tcp :80"},
		{"ResolveTCPAddr of an empty port", tcp("tcp", "192.0.2.7:"), "tcp 192.0.2.7:0"},
		{"ResolveTCPAddr of IPv6 with a zone", tcp("tcp", "[fe80::1%eth7]:80"), "tcp [fe80::1%eth7]:80"},
		{"ResolveTCPAddr of IPv6 on tcp6", tcp("tcp6", "[2001:db8::1]:80"), "tcp [2001:db8::1]:80"},
		{"ResolveTCPAddr of IPv6 on tcp4", tcp("tcp4", "[2001:db8::1]:80"), "no suitable address found"},
		{"ResolveTCPAddr of IPv4 on tcp6", tcp("tcp6", "192.0.2.7:80"), "no suitable address found"},
		{"ResolveTCPAddr of an IPv4-mapped address", tcp("tcp", "[::ffff:192.0.2.7]:80"), "tcp 192.0.2.7:80"},
		{"ResolveTCPAddr of IPv4's wildcard", tcp("tcp", "0.0.0.0:80"), "tcp 0.0.0.0:80"},
		{"ResolveTCPAddr of IPv6's wildcard", tcp("tcp", "[::]:80"), "tcp [::]:80"},
		{"ResolveTCPAddr of IPv6's wildcard on tcp4", tcp("tcp4", "[::]:80"), "tcp 0.0.0.0:80"},
		{"ResolveTCPAddr of localhost", tcp("tcp4", "localhost:80"), "tcp HOST:80"},
		{"ResolveTCPAddr without a port", tcp("tcp", "192.0.2.7"), "missing port in address"},
		{"ResolveTCPAddr of IPv6 without brackets", tcp("tcp", "2001:db8::1:80"), "too many colons in address"},
		{"ResolveTCPAddr of an unknown service", tcp("tcp", "192.0.2.7:nothing"), "unknown port"},
		{"ResolveTCPAddr of a port that is too large", tcp("tcp", "192.0.2.7:65536"), "invalid port"},
		{"ResolveTCPAddr on UDP", tcp("udp", "192.0.2.7:80"), "unknown network udp"},
		{"ResolveTCPAddr of an invalid name", tcp("tcp", "no..name:80"), "no such host"},
		{"ResolveTCPAddr of a malformed address", tcp("tcp4", "1.2.3.4.:80"), "no such host"},
		{"ResolveUDPAddr of a literal", udp("udp", "192.0.2.7:53"), "udp 192.0.2.7:53"},
		{"ResolveUDPAddr of a service", udp("udp4", "192.0.2.7:domain"), "udp 192.0.2.7:53"},
		{"ResolveUDPAddr on no network", udp("", "192.0.2.7:53"), "udp 192.0.2.7:53"},
		{"ResolveUDPAddr on TCP", udp("tcp", "192.0.2.7:53"), "unknown network tcp"},
		{"ResolveUDPAddr of a service of TCP", udp("udp", "192.0.2.7:smtp"), "unknown port"},
		{"ResolveIPAddr of a literal", ip("ip", "192.0.2.7"), "ip 192.0.2.7"},
		{"ResolveIPAddr on ip4 of IPv6", ip("ip4", "2001:db8::1"), "no suitable address found"},
		{"ResolveIPAddr of IPv6 with a zone", ip("ip6", "fe80::1%eth7"), "ip fe80::1%eth7"},
		{"ResolveIPAddr on no network", ip("", "192.0.2.7"), "ip 192.0.2.7"},
		{"ResolveIPAddr with a protocol", ip("ip4:icmp", "192.0.2.7"), "ip 192.0.2.7"},
		{"ResolveIPAddr of IPv6's wildcard", ip("ip", "::"), "ip ::"},
		{"ResolveIPAddr of IPv6's wildcard with a protocol", ip("ip:icmp", "::"), "ip 0.0.0.0"},
		{"ResolveIPAddr of nothing", ip("ip4", ""), "ip "},
		{"ResolveIPAddr on TCP", ip("tcp", "192.0.2.7"), "unknown network tcp"},
		{"ResolveIPAddr on an unknown protocol", ip("ip4:nobody", "192.0.2.7"), "unknown IP protocol specified"},
		{"ResolveIPAddr with a port", ip("ip4", "192.0.2.7:80"), "no such host"},
	}
}

// lookupBehaviours returns the behaviours of the Lookup functions that query no name server.
func lookupBehaviours() []behaviour {
	port := func(network, service string) func(*testing.T, *world.World) []any {
		return func(t *testing.T, w *world.World) []any {
			n, err := w.LookupPort(network, service)
			if err != nil {
				return []any{n, err}
			}
			return []any{n}
		}
	}
	return []behaviour{
		{"LookupPort of services of TCP", func(t *testing.T, w *world.World) []any {
			var seen []any
			for _, name := range []string{"http", "HTTP", "https", "domain", "smtp", "ssh", "ftp", "imap", "pop3", "telnet", "imaps"} {
				n, err := w.LookupPort("tcp", name)
				seen = append(seen, fmt.Sprint(name, " ", n), err)
			}
			return seen
		}, "<nil>"},
		{"LookupPort of a service of UDP", port("udp", "domain"), "53"},
		{"LookupPort on tcp6", port("tcp6", "http"), "80"},
		{"LookupPort on ip", port("ip", "http"), "80"},
		{"LookupPort on no network", port("", "http"), "80"},
		{"LookupPort of a number", port("tcp", "8080"), "8080"},
		{"LookupPort of a number on no network", port("", "8080"), "8080"},
		{"LookupPort of nothing", port("tcp", ""), "0"},
		{"LookupPort of a negative number", port("tcp", "-1"), "invalid port"},
		{"LookupPort of too large a number", port("tcp", "65536"), "invalid port"},
		{"LookupPort of an unknown service", port("tcp", "nothing-of-that-kind"), "unknown port"},
		{"LookupPort of a long name", port("tcp", "nothing-that-is-so-very-long-a-name-of-a-service"), "unknown port"},
		{"LookupPort on an unknown network", port("sctp", "http"), "unknown network"},
		{"LookupPort of a number on an unknown network", port("sctp", "80"), "80"},
		{"LookupHost of literals", func(t *testing.T, w *world.World) []any {
			var seen []any
			for _, host := range []string{"192.0.2.7", "2001:db8::1", "2001:DB8:0::1", "fe80::1%lo", "::ffff:192.0.2.7"} {
				addrs, err := w.LookupHost(host)
				seen = append(seen, addrs, err)
			}
			return seen
		}, "<nil>"},
		{"LookupHost of nothing", func(t *testing.T, w *world.World) []any {
			addrs, err := w.LookupHost("")
			return []any{addrs, err}
		}, "no such host"},
		{"LookupHost of invalid names", func(t *testing.T, w *world.World) []any {
			var seen []any
			for _, host := range []string{"a b", "no..name", "!", "a\x00b", "1.2.3.4.5:6"} {
				addrs, err := w.LookupHost(host)
				seen = append(seen, addrs, err)
			}
			return seen
		}, "no such host"},
		{"LookupIP of literals", func(t *testing.T, w *world.World) []any {
			var seen []any
			for _, host := range []string{"192.0.2.7", "2001:db8::1"} {
				ips, err := w.LookupIP(host)
				seen = append(seen, ips, err, len(ips), len(ips[0])) // IPv4 addresses have the form of 16 bytes too
			}
			return seen
		}, "16"},
		{"LookupIP of nothing", func(t *testing.T, w *world.World) []any {
			ips, err := w.LookupIP("")
			return []any{ips, err}
		}, "no such host"},
		{"LookupNetIP of literals", func(t *testing.T, w *world.World) []any {
			var seen []any
			for _, q := range [][2]string{{"ip", "192.0.2.7"}, {"ip4", "192.0.2.7"}, {"ip6", "2001:db8::1"}, {"ip", "::ffff:192.0.2.7"}, {"ip6", "fe80::1%lo"}} {
				ips, err := w.LookupNetIP(context.Background(), q[0], q[1])
				seen = append(seen, ips, err)
			}
			return seen
		}, "<nil>"},
		{"LookupNetIP of a literal of the other family", func(t *testing.T, w *world.World) []any {
			_, four := w.LookupNetIP(context.Background(), "ip6", "192.0.2.7")
			_, six := w.LookupNetIP(context.Background(), "ip4", "2001:db8::1")
			return []any{four, six}
		}, "no suitable address found"},
		{"LookupNetIP on an unknown network", func(t *testing.T, w *world.World) []any {
			_, err := w.LookupNetIP(context.Background(), "tcp", "192.0.2.7")
			return []any{err}
		}, "unknown network tcp"},
		{"LookupNetIP with a cancelled context", func(t *testing.T, w *world.World) []any {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			ips, err := w.LookupNetIP(ctx, "ip", "192.0.2.7")
			return []any{ips, err}
		}, "<nil>"},
		{"LookupAddr of an invalid address", func(t *testing.T, w *world.World) []any {
			names, err := w.LookupAddr("not an address")
			return []any{names, err}
		}, "unrecognized address"},
		{"LookupCNAME of an invalid name", func(t *testing.T, w *world.World) []any {
			name, err := w.LookupCNAME("no..name")
			return []any{name, err}
		}, "no such host"},
		{"LookupMX, LookupNS, LookupTXT and LookupSRV of an invalid name", func(t *testing.T, w *world.World) []any {
			mx, err1 := w.LookupMX("no..name")
			ns, err2 := w.LookupNS("no..name")
			txt, err3 := w.LookupTXT("no..name")
			name, srv, err4 := w.LookupSRV("xmpp", "tcp", "no..name")
			return []any{mx == nil, err1, ns == nil, err2, txt == nil, err3, name, srv == nil, err4}
		}, "no such host"},
		{"the types of net's addresses", func(t *testing.T, w *world.World) []any {
			addr, err := w.ResolveTCP("tcp", "192.0.2.7:80")
			udp, udpErr := w.ResolveUDP("udp6", "[fe80::1%lo]:80")
			return []any{err, udpErr, addr.AddrPort(), udp.AddrPort(), net.Addr(addr), net.Addr(udp)}
		}, "udp [fe80::1%lo]:80"},
	}
}
