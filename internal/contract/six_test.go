package contract

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// familiesEnv is the environment variable that says which families the kernel's network of this process
// has: bothFamilies or onlyIPv4. It is not set if that is unknown.
const (
	familiesEnv  = "USERNET_CONTRACT_FAMILIES"
	bothFamilies = "both"
	onlyIPv4     = "4"
)

// expand replaces HOST and SIX by the server's addresses.
func expand(w *world.World, s string) string {
	return strings.NewReplacer("HOST", w.Server, "SIX", w.Server6).Replace(s)
}

// dialing6 returns a behaviour of one dial. HOST and SIX in address stand for the server's addresses.
func dialing6(network, address string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		return dialed(w.Dial(context.Background(), world.DialOptions{}, network, expand(w, address)))
	}
}

// listening6 returns a behaviour of one Listen. The address has the form of dialing6's.
func listening6(network, address string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		ln, err := w.Listen(network, expand(w, address))
		if err != nil {
			return []any{err}
		}
		defer ln.Close()
		return []any{ln.Addr()}
	}
}

// binding6 returns a behaviour of one ListenPacket. The address has the form of dialing6's.
func binding6(network, address string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any { return bound(w.ListenPacket(network, expand(w, address))) }
}

// sharing returns a behaviour that listens twice on one port, with TCP and with UDP. It observes the second Listen of
// each. first and second are a network of TCP and an address; PORT in second stands for the port of the first Listen.
func sharing(first, second [2]string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		ln, err := w.Listen(first[0], expand(w, first[1]))
		if err != nil {
			return []any{err}
		}
		defer ln.Close()
		_, port, err := net.SplitHostPort(ln.Addr().String())
		require.NoError(t, err)
		seen := listening6(second[0], strings.ReplaceAll(second[1], "PORT", port))(t, w)
		u, err := w.ListenPacket("udp"+first[0][3:], expand(w, first[1]))
		require.NoError(t, err)
		defer u.Close()
		_, port, err = net.SplitHostPort(u.LocalAddr().String())
		require.NoError(t, err)
		return append(binding6("udp"+second[0][3:], strings.ReplaceAll(second[1], "PORT", port))(t, w), seen...)
	}
}

// reaching6 returns a behaviour that dials to a listener and sends in both directions. It observes
// all addresses. listen and dial are a network and an address; PORT in dial stands for the listener's port.
func reaching6(listen [2]string, dial [2]string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		ln, err := w.Listen(listen[0], expand(w, listen[1]))
		if err != nil {
			return []any{err}
		}
		defer ln.Close()
		_, port, _ := net.SplitHostPort(ln.Addr().String())
		c, err := w.Dial(context.Background(), world.DialOptions{}, dial[0], strings.ReplaceAll(expand(w, dial[1]), "PORT", port))
		if err != nil {
			return []any{err}
		}
		defer c.Close()
		s, err := ln.Accept()
		require.NoError(t, err)
		defer s.Close()
		seen := []any{ln.Addr(), c.LocalAddr(), s.RemoteAddr()}
		seen = append(seen, write(c, "question")...)
		seen = append(seen, read(s, 20)...)
		seen = append(seen, write(s, "answer")...)
		seen = append(seen, read(c, 20)...)
		return append(seen, s.LocalAddr(), c.RemoteAddr())
	}
}

// exchanging returns a behaviour like that of reaching6, but with datagrams. It uses each of net's methods
// that read and write datagrams.
func exchanging(listen [2]string, dial [2]string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		pc, err := w.ListenPacket(listen[0], expand(w, listen[1]))
		if err != nil {
			return []any{err}
		}
		defer pc.Close()
		u := pc.(world.UDPConn)
		_, port, _ := net.SplitHostPort(pc.LocalAddr().String())
		c, err := w.Dial(context.Background(), world.DialOptions{}, dial[0], strings.ReplaceAll(expand(w, dial[1]), "PORT", port))
		if err != nil {
			return []any{err}
		}
		defer c.Close()
		seen := write(c, "one")
		seen = append(seen, write(c, "two")...)
		seen = append(seen, write(c, "three")...)
		b := make([]byte, 20)
		n, from, err := u.ReadFromUDP(b)
		seen = append(seen, b[:n], from, err)
		n, at, err := u.ReadFromUDPAddrPort(b)
		seen = append(seen, b[:n], at, err)
		n, _, _, msg, err := u.ReadMsgUDPAddrPort(b, nil)
		seen = append(seen, b[:n], msg, err)
		_, err = u.WriteToUDP([]byte("1"), from)
		seen = append(append(seen, err), read(c, 20)...)
		_, err = u.WriteToUDPAddrPort([]byte("2"), at)
		seen = append(append(seen, err), read(c, 20)...)
		_, _, err = u.WriteMsgUDPAddrPort([]byte("3"), nil, at)
		seen = append(append(seen, err), read(c, 20)...)
		return append(seen, c.LocalAddr(), c.RemoteAddr())
	}
}

// pinging sends an echo request from a raw socket and observes the answer. The kernel sets the checksum of
// the request (RFC 3542 3.1).
func pinging(t *testing.T, w *world.World) []any {
	c, err := w.Dial(context.Background(), world.DialOptions{}, "ip6:ipv6-icmp", w.Server6)
	if err != nil {
		return []any{err}
	}
	defer c.Close()
	short := writeErr(c) // too short for the checksum
	n, err := c.Write([]byte{128, 0, 0xde, 0xad, 0, 7, 0, 1, 'p', 'i', 'n', 'g'})
	seen := []any{short, n, err}
	for {
		b := make([]byte, 100)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Second)))
		n, err := c.Read(b)
		if err != nil {
			return append(seen, err)
		}
		if b[0] != 129 {
			continue // over a loopback, the socket also receives the request and messages of other programs
		}
		hasChecksum := b[2] != 0 || b[3] != 0
		b[2], b[3] = 0, 0
		return append(seen, hasChecksum, b[:n])
	}
}

// rawExchange sends a packet between raw sockets and observes it. The receiver does not get the IPv6 header
// (RFC 3542 3).
func rawExchange(t *testing.T, w *world.World) []any {
	pc, err := w.ListenPacket("ip6:253", w.Server6)
	if err != nil {
		return []any{err}
	}
	defer pc.Close()
	c, err := w.Dial(context.Background(), world.DialOptions{}, "ip6:253", w.Server6)
	require.NoError(t, err)
	defer c.Close()
	_, err = c.Write([]byte("question"))
	b := make([]byte, 100)
	require.NoError(t, pc.SetReadDeadline(time.Now().Add(time.Second)))
	n, from, rerr := pc.ReadFrom(b)
	return []any{err, b[:n], from, rerr, pc.LocalAddr(), c.LocalAddr(), c.RemoteAddr()}
}

// sending returns a behaviour that writes one datagram to an address with each of net's methods.
func sending(listen [2]string, to string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		pc, err := w.ListenPacket(listen[0], expand(w, listen[1]))
		if err != nil {
			return []any{err}
		}
		defer pc.Close()
		u := pc.(world.UDPConn)
		ap := netip.MustParseAddrPort(expand(w, to))
		_, err1 := u.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(ap))
		_, err2 := u.WriteToUDPAddrPort([]byte("x"), ap)
		_, _, err3 := u.WriteMsgUDPAddrPort([]byte("x"), nil, ap)
		return []any{err1, err2, err3}
	}
}

// typed returns a behaviour of DialTCP, DialUDP and DialIP with the addresses laddr and raddr. suffix is the
// family in the network's name.
func typed(suffix, laddr, raddr string) func(*testing.T, *world.World) []any {
	return func(t *testing.T, w *world.World) []any {
		ip := func(s string) net.IP {
			if s == "" {
				return nil
			}
			return net.ParseIP(expand(w, s))
		}
		var fromTCP *net.TCPAddr
		var fromUDP *net.UDPAddr
		var fromIP *net.IPAddr
		if laddr != "" {
			l := net.ParseIP(strings.NewReplacer("HOST", w.Client, "SIX", w.Client6).Replace(laddr))
			fromTCP, fromUDP, fromIP = &net.TCPAddr{IP: l}, &net.UDPAddr{IP: l}, &net.IPAddr{IP: l}
		}
		seen := func(c net.Conn, err error) []any {
			if err != nil {
				return []any{err}
			}
			defer c.Close()
			return []any{c.LocalAddr(), c.RemoteAddr()}
		}
		var all []any
		if raddr != "HOST" {
			// DialIP to an IPv4 address is left out. The kernel lets an IPv6 raw socket send to it, in an
			// IPv6 packet with mapped addresses, which RFC 4942 2.2 recommends dropping.
			i, err := w.DialIP("ip"+suffix+":253", fromIP, &net.IPAddr{IP: ip(raddr)})
			all = seen(i, err)
		}
		c, err := w.DialTCP("tcp"+suffix, fromTCP, &net.TCPAddr{IP: ip(raddr), Port: 9})
		all = append(all, seen(c, err)...)
		u, err := w.DialUDP("udp"+suffix, fromUDP, &net.UDPAddr{IP: ip(raddr), Port: 9})
		return append(all, seen(u, err)...)
	}
}

// sixBehaviours returns the behaviours that involve IPv6. Their wants are empty, because the transcripts on
// a kernel without IPv6 end differently.
func sixBehaviours() []behaviour {
	tcp, tcp4, tcp6 := "tcp", "tcp4", "tcp6"
	// A dual wildcard serves both families.
	dual, wild4, wild6 := [2]string{tcp, ":0"}, [2]string{tcp4, ":0"}, [2]string{tcp6, ":0"}
	bs := []behaviour{
		// The examples of dual-stack behaviour from Go's own tests: which family a wildcard serves, and
		// which Listen fails.
		{"a wildcard is reached over IPv4", reaching6(dual, [2]string{tcp, "HOST:PORT"}), ""},
		{"a wildcard is reached over IPv6", reaching6(dual, [2]string{tcp, "[SIX]:PORT"}), ""},
		{"a wildcard is reached by tcp6", reaching6(dual, [2]string{tcp6, "[SIX]:PORT"}), ""},
		{"a wildcard of tcp6 refuses IPv4", reaching6(wild6, [2]string{tcp, "HOST:PORT"}), ""},
		{"a wildcard of tcp6 is reached over IPv6", reaching6(wild6, [2]string{tcp, "[SIX]:PORT"}), ""},
		{"a wildcard of tcp4 refuses IPv6", reaching6(wild4, [2]string{tcp, "[SIX]:PORT"}), ""},
		{"an address of IPv6 is reached", reaching6([2]string{tcp, "[SIX]:0"}, [2]string{tcp, "[SIX]:PORT"}), ""},
		{"an address of IPv6 refuses IPv4", reaching6([2]string{tcp, "[SIX]:0"}, [2]string{tcp, "HOST:PORT"}), ""},
		{"an IPv4-mapped address is reached by itself", reaching6([2]string{tcp, "[::ffff:HOST]:0"}, [2]string{tcp, "[::ffff:HOST]:PORT"}), ""},

		{"datagrams of IPv4 to a wildcard", exchanging([2]string{"udp", ":0"}, [2]string{"udp", "HOST:PORT"}), ""},
		{"datagrams of IPv6 to a wildcard", exchanging([2]string{"udp", ":0"}, [2]string{"udp", "[SIX]:PORT"}), ""},
		{"datagrams of IPv6 to udp6", exchanging([2]string{"udp6", ":0"}, [2]string{"udp6", "[SIX]:PORT"}), ""},
		{"datagrams to an address of IPv6", exchanging([2]string{"udp", "[SIX]:0"}, [2]string{"udp", "[SIX]:PORT"}), ""},

		{"a port shared by the wildcards of both families", sharing(wild4, [2]string{tcp6, "[::]:PORT"}), ""},
		{"a port shared the other way round", sharing(wild6, [2]string{tcp4, ":PORT"}), ""},
		{"a dual wildcard beside that of IPv4", sharing(wild4, [2]string{tcp, ":PORT"}), ""},
		{"a dual wildcard beside that of IPv6", sharing(wild6, [2]string{tcp, ":PORT"}), ""},
		{"a wildcard of IPv4 beside a dual one", sharing(dual, [2]string{tcp4, ":PORT"}), ""},
		{"a wildcard of IPv6 beside a dual one", sharing(dual, [2]string{tcp6, ":PORT"}), ""},
		{"an address of IPv4 beside a dual wildcard", sharing(dual, [2]string{tcp, "HOST:PORT"}), ""},
		{"an address of IPv6 beside a dual wildcard", sharing(dual, [2]string{tcp, "[SIX]:PORT"}), ""},
		{"an address of IPv4 beside the wildcard of IPv6", sharing(wild6, [2]string{tcp, "HOST:PORT"}), ""},
		{"an address of IPv6 beside the wildcard of IPv4", sharing(wild4, [2]string{tcp, "[SIX]:PORT"}), ""},
		{"addresses of both families", sharing([2]string{tcp, "HOST:0"}, [2]string{tcp, "[SIX]:PORT"}), ""},

		{"an IPv6 socket for an IPv4 address, connected", typed("", "SIX", "HOST"), ""},
		{"an IPv4 socket for an IPv6 address, connected", typed("", "HOST", "SIX"), ""},
		{"a connected IPv6 wildcard", typed("", "::", "HOST"), ""},
		{"an IPv6 wildcard connected to IPv6", typed("", "::", "SIX"), ""},
		{"typed dials on 6 to an IPv4 address", typed("6", "", "HOST"), ""},
		{"typed dials on 6 to nothing", typed("6", "", ""), ""},
		{"typed dials on 6", typed("6", "", "SIX"), ""},
	}
	for _, a := range []string{
		":0", "[::]:0", "0.0.0.0:0", "[SIX]:0", "[2001:db8:9::9]:0", "[fe80::9]:0", "[fe80::9%nope]:0", "[fe80::9%lo]:0", "[::ffff:HOST]:0",
		"[ff02::1]:0", "[ff02::1%lo]:0", "[ff0e::1]:0", "224.0.0.1:0",
	} {
		for _, n := range []string{"", "4", "6"} {
			bs = append(bs, behaviour{"listen on tcp" + n + " " + a, listening6("tcp"+n, a), ""},
				behaviour{"bind udp" + n + " " + a, binding6("udp"+n, a), ""})
		}
	}
	for _, a := range []string{
		"[SIX]:9", "[fe80::9]:9", "[fe80::9%nope]:9", "[fe80::9%lo]:9", "[ff02::1]:9", "[ff02::1%lo]:9", "[::ffff:HOST]:9",
	} {
		for _, n := range []string{"", "6"} {
			bs = append(bs, behaviour{"dial tcp" + n + " " + a, dialing6("tcp"+n, a), ""},
				behaviour{"dial udp" + n + " " + a, dialing6("udp"+n, a), ""})
		}
	}
	for _, a := range []string{"SIX", "::", "0.0.0.0", "HOST", ""} {
		for _, n := range []string{"ip:253", "ip6:253", "ip6:ipv6-icmp"} {
			bs = append(bs, behaviour{"listen on " + n + " " + a, binding6(n, a), ""}, behaviour{"dial " + n + " " + a, dialing6(n, a), ""})
		}
	}
	for _, n := range []string{"udp", "udp4", "udp6"} {
		for _, a := range []string{"HOST:9", "[SIX]:9", "[::ffff:HOST]:9", "[::]:9", "0.0.0.0:9"} {
			bs = append(bs, behaviour{"send by " + n + " to " + a, sending([2]string{n, ":0"}, a), ""})
		}
	}
	bs = append(bs, behaviour{"ping by hand", pinging, ""}, behaviour{"datagrams of a protocol of IPv6", rawExchange, ""},
		behaviour{"checksums of a protocol of IPv6", rawChecksums, ""}, behaviour{"protocols and their checksums", checksumOptions, ""})
	return append(bs, behaviour{"send from an IPv6 address to IPv4", sending([2]string{"udp", "[SIX]:0"}, "HOST:9"), ""})
}
