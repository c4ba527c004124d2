// Package names makes lookups that need no query to a server.
package names

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
)

// Run writes the results of its calls to w.
func Run(w io.Writer) error {
	addrs, err := net.LookupHost("localhost")
	fmt.Fprintln(w, "localhost:", slices.Contains(addrs, "127.0.0.1"), err)
	addrs, err = net.LookupHost("192.0.2.7")
	fmt.Fprintln(w, "literal:", addrs, err)
	ips, err := net.DefaultResolver.LookupIPAddr(context.Background(), "fe80::1%eth0")
	fmt.Fprintln(w, "zone:", ips, err)
	var r *net.Resolver
	nips, err := r.LookupNetIP(context.Background(), "ip4", "192.0.2.7")
	fmt.Fprintln(w, "netip:", nips, err)
	_, err = net.LookupIP("")
	var dns *net.DNSError
	fmt.Fprintln(w, "nothing:", errors.As(err, &dns) && dns.IsNotFound, err)
	port, err := net.LookupPort("tcp", "https")
	fmt.Fprintln(w, "port:", port, err)
	_, err = net.LookupPort("tcp", "no-such-service")
	fmt.Fprintln(w, "port:", err)
	_, err = net.LookupAddr("not an address")
	fmt.Fprintln(w, "addr:", err)

	tcp, err := net.ResolveTCPAddr("tcp", "192.0.2.7:http")
	fmt.Fprintln(w, tcp, err, tcp.AddrPort())
	udp, err := net.ResolveUDPAddr("udp4", ":53")
	fmt.Fprintln(w, udp, err)
	ip, err := net.ResolveIPAddr("ip6", "2001:db8::1")
	fmt.Fprintln(w, ip, err)
	_, err = net.ResolveTCPAddr("tcp4", "[2001:db8::1]:80")
	fmt.Fprintln(w, err)
	_, err = net.ResolveTCPAddr("udp", "192.0.2.7:80")
	fmt.Fprintln(w, err)
	unix, err := net.ResolveUnixAddr("unix", "/run/socket")
	fmt.Fprintln(w, unix, unix.Network(), err)
	return nil
}
