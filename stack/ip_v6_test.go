package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// echoOnce accepts one connection of l and echoes the bytes that it receives.
func echoOnce(t *testing.T, l *TCPListener) {
	t.Helper()
	t.Cleanup(func() { l.Close() })
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 100_000)
		for {
			n, err := c.Read(buf)
			if err != nil {
				c.Close()
				return
			}
			c.Write(buf[:n])
		}
	}()
}

// Send a megabyte back and forth over TCP, with global and with link-local addresses: to another host, to
// the host itself, and over a link without checksum offload. The sockets report the remote address that was
// requested, and the expected local address.
func TestTCPRunsOverIPv6(t *testing.T) {
	a, b := twoHosts6(t, nic.PipeConfig{})
	plainA, plainB := twoHosts6(t, nic.PipeConfig{NoTxChecksum: true})
	for _, x := range []struct {
		from, to *Stack
		remote   string
		local    string
	}{
		{a, b, "[2001:db8::2]:80", "2001:db8::1"},
		{a, b, "[fe80::2%eth0]:80", "fe80::1%eth0"},
		{a, a, "[::1]:80", "::1"},
		{a, a, "[2001:db8::1]:80", "2001:db8::1"},
		{a, a, "[fe80::1%eth0]:80", "fe80::1%eth0"},
		{plainA, plainB, "[2001:db8::2]:80", "2001:db8::1"},
		{plainA, plainB, "[fe80::2%eth0]:80", "fe80::1%eth0"},
	} {
		l, err := x.to.ListenTCP(FamilyAny, netip.AddrPort{}, ListenOptions{})
		require.NoError(t, err)
		require.Equal(t, "::", l.LocalAddr().Addr().String())
		echoOnce(t, l)
		remote := netip.AddrPortFrom(addrPort(x.remote).Addr(), l.LocalAddr().Port())
		c, err := x.from.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, remote, TCPOptions{})
		require.NoError(t, err, x.remote)
		require.Equal(t, remote, c.RemoteAddr())
		require.Equal(t, x.local, c.LocalAddr().Addr().String(), x.remote)
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		go func() {
			c.Write(data)
			c.CloseWrite()
		}()
		got, err := io.ReadAll(readerOf(c))
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got), "%d of %d bytes", len(got), len(data))
		c.Close()
	}
	require.NotZero(t, a.Stats().IP.V6)
}

func TestUDPRunsOverIPv6(t *testing.T) {
	a, b := twoHosts6(t, nic.PipeConfig{})
	for _, x := range []struct {
		to     *Stack
		remote string
		local  string
	}{
		{b, "[2001:db8::2]:53", "[2001:db8::1]:1000"},
		{b, "[fe80::2%eth0]:53", "[fe80::1%eth0]:1000"},
		{b, "192.0.2.2:53", "192.0.2.1:1000"},
		{a, "[::1]:53", "[::1]:1000"},
		{a, "[fe80::1%eth0]:53", "[fe80::1%eth0]:1000"},
	} {
		u, w := openUDP(t, a, "[::]:1000"), openUDP(t, x.to, "[::]:53")
		_, err := u.WriteTo([]byte("question"), addrPort(x.remote), SendOptions{})
		require.NoError(t, err, x.remote)
		buf := make([]byte, 100)
		n, _, from, meta, err := w.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "question", string(buf[:n]))
		require.Equal(t, addrPort(x.local), from)
		require.Equal(t, addrPort(x.remote).Addr().WithZone(""), meta.Dst)
		_, err = w.WriteTo([]byte("answer"), from, SendOptions{})
		require.NoError(t, err)
		n, _, from, _, err = u.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "answer", string(buf[:n]))
		require.Equal(t, addrPort(x.remote), from)

		require.NoError(t, u.Connect(addrPort(x.remote)))
		require.Equal(t, addrPort(x.remote), u.RemoteAddr())
		require.Equal(t, addrPort(x.local), u.LocalAddr())
		_, err = u.Write([]byte("more"))
		require.NoError(t, err)
		_, _, from, _, err = w.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, addrPort(x.local), from)
		u.Close()
		w.Close()
	}
}

// A packet with an invalid source or destination is dropped, and counted under the reason.
func TestMartiansOfIPv6AreDroppedByReason(t *testing.T) {
	for _, test := range []struct {
		src, dst string
		proto    wire.Proto
		want     wire.Reason
	}{
		// RFC 4291 2.7: "Multicast addresses must not be used as source addresses".
		{"ff02::1", "", wire.ProtoUDP, dropGroupSource},
		{"ff0e::9", "", wire.ProtoUDP, dropGroupSource},
		// RFC 4291 2.5.3: the loopback address never appears on a link.
		{"::1", "", wire.ProtoUDP, dropLoopbackOutside},
		{"", "::1", wire.ProtoUDP, dropLoopbackOutside},
		// RFC 4942 2.2: IPv4-mapped addresses would reach IPv4 connections.
		{"::ffff:192.0.2.2", "", wire.ProtoUDP, dropInvalidIPv6},
		{"", "::ffff:192.0.2.1", wire.ProtoUDP, dropInvalidIPv6},
		{"::ffff:192.0.2.2", "::ffff:192.0.2.1", wire.ProtoTCP, dropInvalidIPv6},
		// RFC 4291 2.5.6: the 54 bits after fe80::/10 are zero. The tuple stores the interface's index in 16
		// of these bits.
		{"fe80:1::2", "fe80::1", wire.ProtoUDP, dropInvalidIPv6},
		{"fe80::2", "fe80:0001::1", wire.ProtoUDP, dropInvalidIPv6},
		{"2001:db8::1", "", wire.ProtoUDP, dropOwnSource},
		{"fe80::1", "fe80::1", wire.ProtoUDP, dropOwnSource},
		{"", "2001:db8::3", wire.ProtoUDP, dropNotLocal},
		{"fe80::2", "fe80::3", wire.ProtoUDP, dropNotLocal},
		{"", "ff02::9", wire.ProtoUDP, dropNotJoined},
		// RFC 4291 2.7: scope 0 is reserved, and scope 1 stays within one interface.
		{"", "ff00::1", wire.ProtoUDP, dropLoopbackOutside},
		{"", "ff01::1", wire.ProtoUDP, dropLoopbackOutside},
		// RFC 4291 2.5.2: a node without an address sends only ICMPv6.
		{"::", "", wire.ProtoUDP, dropNoSource},
		{"::", "", wire.ProtoTCP, dropNoSource},
		{"::", "", 200, dropNoSource},
	} {
		s, p := hostAndPeer6(t)
		h := wire.IPv6{Next: test.proto}
		if test.src != "" {
			h.Src = addr(test.src)
		}
		if test.dst != "" {
			h.Dst = addr(test.dst)
		}
		p.send(ip6Packet(h, make([]byte, 20)))
		require.Empty(t, p.take(), "%+v", test)
		require.Equal(t, 1, dropped(s, test.want), "%+v: %v", test, s.Stats().Drops)
	}
}

// The fast path for plain addresses gives the same result as the general rules.
func TestPlainAddressesAreFilteredAlike(t *testing.T) {
	s, _ := hostAndPeer6(t)
	list := []netip.Addr{}
	for _, a := range []string{
		"2001:db8::1", "2001:db8::2", "2001:db8::3", "2000::", "3fff::1", "1fff::1", "4000::1", "fc00::1", "fdff::1",
		"fbff::1", "fe00::1", "fe80::1", "fe80::2", "fe80:1::2", "fec0::1", "::", "::1", "::ffff:192.0.2.1", "64:ff9b::1",
		"ff00::1", "ff01::1", "ff02::1", "ff02::9", "ff0e::9",
	} {
		list = append(list, addr(a))
	}
	plain := 0
	for _, ifc := range *s.ifaces.Load() { // includes the loopback
		for _, src := range list {
			for _, dst := range list {
				for _, group := range []bool{false, true} {
					b := ip6Packet(wire.IPv6{Src: src, Dst: dst, Next: wire.ProtoUDP}, nil)
					p := packet{ifc: ifc, src: src, dst: dst, proto: wire.ProtoUDP, header: b, plain: plain6(b)}
					slow := p
					slow.plain = false
					require.Equal(t, ifc.filterSpecial6(&slow, group), ifc.filter6(&p, group), "%v to %v, group %v", src, dst, group)
					require.Equal(t, slow.broadcast, p.broadcast)
					require.Equal(t, slow.zone(), p.zone())
					if p.plain {
						plain++
					}
				}
			}
		}
	}
	// Seven of the addresses are plain: those in 2000::/3 and fc00::/7.
	require.Equal(t, 2*2*7*7, plain, "cases that took the fast path, on 2 interfaces with and without group")
}

// RFC 8200 8.1: "IPv6 receivers must discard UDP packets containing a zero checksum".
//
// RFC 8200 MUST-38.
func TestUDPOfIPv6NeedsItsChecksum(t *testing.T) {
	s, p := hostAndPeer6(t)
	openUDP(t, s, "[::]:6")
	d := udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::1]:6"), []byte("hi"))
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP}, d))
	require.Zero(t, dropped(s, wire.BadUDPChecksum))
	d[6], d[7] = 0, 0
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP}, d))
	require.Equal(t, 1, dropped(s, wire.BadUDPChecksum))
	n, err := p.dev.Send([]nic.Frame{{Head: ip6Packet(wire.IPv6{Next: wire.ProtoUDP}, d), ChecksumValid: true}})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, 2, dropped(s, wire.BadUDPChecksum), "although the device says that the checksum is valid")
	require.EqualValues(t, 1, s.Stats().UDP.Received)
}

// RFC 4443 4.2: "The data received in the ICMPv6 Echo Request message MUST be returned entirely and
// unmodified". The reply to a request to a multicast address comes from an address of the host.
func TestEchoOfIPv6IsAnswered(t *testing.T) {
	s, p := hostAndPeer6(t)
	for _, x := range []struct{ src, dst, from string }{
		{"2001:db8::2", "2001:db8::1", "2001:db8::1"},
		{"fe80::2", "fe80::1", "fe80::1"},
		{"fe80::2", "ff02::1", "fe80::1"},
		{"2001:db8::2", "ff02::1", "2001:db8::1"},
	} {
		body := bytes.Repeat([]byte("ping"), 300)
		p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr(x.src), Dst: addr(x.dst), TrafficClass: 0x20},
			echoRequest6(addr(x.src), addr(x.dst), 7, 8, body)))
		frames := p.take()
		require.Len(t, frames, 1, x.dst)
		h, payload, r := wire.ParseIPv6(frames[0])
		require.Equal(t, wire.OK, r)
		require.Equal(t, []netip.Addr{addr(x.from), addr(x.src)}, []netip.Addr{h.Src, h.Dst})
		require.EqualValues(t, 0x20, h.TrafficClass)
		require.EqualValues(t, 64, h.HopLimit)
		m, got, r := wire.ParseICMPv6(h.Src, h.Dst, payload)
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6EchoReply, Rest: wire.EchoRest(7, 8)}, m)
		require.Equal(t, body, got)
	}
	require.Equal(t, ICMPStats{Received: 4, Sent: 4}, s.Stats().ICMP6)
	// A request without a source cannot be answered.
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("::")}, echoRequest6(addr("::"), addr("2001:db8::1"), 7, 8, nil)))
	require.Empty(t, p.take())
	require.Equal(t, 1, dropped(s, dropEchoBroadcast))
}

// ext returns an extension header of 8 bytes.
func ext(next wire.Proto, b ...byte) []byte {
	h := make([]byte, 8)
	h[0] = byte(next)
	copy(h[2:], b)
	return h
}

// The answer to an invalid chain of headers is a Parameter Problem with the code and the pointer that
// RFC 8200 and RFC 4443 require. If the chain ends in an ICMPv6 error, there is no answer.
//
// RFC 8200 SHLD-1 SHLD-2 MUST-4 MUST-7 MUST-8 MUST-9 MUST-10 MUST-13 MUST-14 MUST-29.
func TestParameterProblemsPointToTheFault(t *testing.T) {
	padN := []byte{1, 4}
	udp := udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::1]:6"), []byte("hi"))
	unreachable := make([]byte, 8)
	(&wire.ICMPv6{Type: wire.ICMPv6Unreachable}).Put(addr("2001:db8::2"), addr("2001:db8::1"), unreachable, nil)
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	for _, test := range []struct {
		name    string
		dst     string
		next    wire.Proto
		payload []byte
		code    int // -1: no answer
		pointer uint32
	}{
		// RFC 8200 4: code 1, the pointer "containing the offset of the unrecognized value".
		{"unknown next header", "", 200, udp, wire.ParamNextHeader, 6},
		{"unknown after options", "", wire.ProtoDstOpts, cat(ext(200, padN...), udp), wire.ParamNextHeader, 40},
		{"ICMP of IPv4", "", wire.ProtoICMP, echoRequest(1, 1, nil), wire.ParamNextHeader, 6},
		{"hop-by-hop that is not first", "", wire.ProtoDstOpts, cat(ext(wire.ProtoHopByHop, padN...), ext(wire.ProtoUDP, padN...), udp), wire.ParamNextHeader, 40},
		// RFC 8200 4.2: the action is in the two highest bits of the option's type.
		{"option to skip", "", wire.ProtoDstOpts, cat(ext(200, 0x3e, 4), udp), wire.ParamNextHeader, 40},
		{"option to discard", "", wire.ProtoDstOpts, cat(ext(wire.ProtoUDP, 0x7e, 4), udp), -1, 0},
		{"option to report", "", wire.ProtoDstOpts, cat(ext(wire.ProtoUDP, 0xbe, 4), udp), wire.ParamOption, 42},
		{"option to report unless to a group", "", wire.ProtoHopByHop, cat(ext(wire.ProtoUDP, 0xfe, 4), udp), wire.ParamOption, 42},
		{"the same, to a group", "ff02::1", wire.ProtoHopByHop, cat(ext(wire.ProtoUDP, 0xfe, 4), udp), -1, 0},
		{"option to report, to a group", "ff02::1", wire.ProtoHopByHop, cat(ext(wire.ProtoUDP, 0xbe, 4), udp), wire.ParamOption, 42},
		// RFC 5095 3, RFC 8200 4.4: "pointing to the unrecognized Routing Type".
		{"routing type 0", "", wire.ProtoRouting, cat([]byte{byte(wire.ProtoUDP), 0, 0, 1, 0, 0, 0, 0}, udp), wire.ParamHeader, 42},
		{"routing at its end", "", wire.ProtoRouting, cat([]byte{200, 0, 0, 0, 0, 0, 0, 0}, udp), wire.ParamNextHeader, 40},
		// RFC 8200 4.7.
		{"no next header", "", wire.ProtoNone, []byte("whatever"), -1, 0},
		// RFC 4443 2.4 (e.1): there is no error about an ICMPv6 error message.
		{"option before an error", "", wire.ProtoDstOpts, cat(ext(wire.ProtoICMPv6, 0xbe, 4), unreachable), -1, 0},
	} {
		s, p := hostAndPeer6(t)
		h := wire.IPv6{Next: test.next}
		if test.dst != "" {
			h.Dst = addr(test.dst)
		}
		packet := ip6Packet(h, test.payload)
		p.send(packet)
		frames := p.take()
		if test.code < 0 {
			require.Empty(t, frames, test.name)
			continue
		}
		require.Len(t, frames, 1, "%s: %v", test.name, s.Stats().Drops)
		ip, payload, r := wire.ParseIPv6(frames[0])
		require.Equal(t, wire.OK, r)
		require.Equal(t, addr("2001:db8::1"), ip.Src, test.name)
		require.Equal(t, addr("2001:db8::2"), ip.Dst, test.name)
		m, body, r := wire.ParseICMPv6(ip.Src, ip.Dst, payload)
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: uint8(test.code), Rest: test.pointer}, m, test.name)
		require.Equal(t, packet, body, test.name)
	}
}

// RFC 4443 3.1: the answer for a closed port has code 4. RFC 4443 2.4 (c): the quote does not make the
// message longer than 1280 bytes.
func TestAClosedPortOfIPv6IsUnreachable(t *testing.T) {
	s, p := hostAndPeer6(t)
	packet := ip6Packet(wire.IPv6{Next: wire.ProtoUDP}, udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[2001:db8::1]:6"), make([]byte, 1400)))
	p.send(packet)
	frames := p.take()
	require.Len(t, frames, 1)
	require.Len(t, frames[0], 1280)
	h, payload, r := wire.ParseIPv6(frames[0])
	require.Equal(t, wire.OK, r)
	m, body, r := wire.ParseICMPv6(h.Src, h.Dst, payload)
	require.Equal(t, wire.OK, r)
	require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6Unreachable, Code: wire.Unreach6Port}, m)
	require.Equal(t, packet[:len(body)], body)
	require.EqualValues(t, 1, s.Stats().ICMP6.Sent)
	// There is no answer to a datagram that was sent to a multicast address.
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoUDP, Dst: addr("ff02::1")}, udpDatagram(addrPort("[2001:db8::2]:5"), addrPort("[ff02::1]:6"), nil)))
	require.Empty(t, p.take())
}

// A connected socket reports errors with the errnos of Linux (icmpv6_err_convert).
func TestErrorsOfICMPv6ReachTheirSocket(t *testing.T) {
	for _, x := range []struct {
		typ  wire.ICMPv6Type
		code uint8
		rest uint32
		want error // nil: the error is not reported
	}{
		{wire.ICMPv6Unreachable, wire.Unreach6NoRoute, 0, nil},
		{wire.ICMPv6Unreachable, wire.Unreach6Prohibited, 0, syscall.EACCES},
		{wire.ICMPv6Unreachable, wire.Unreach6Address, 0, nil},
		{wire.ICMPv6Unreachable, wire.Unreach6Port, 0, syscall.ECONNREFUSED},
		{wire.ICMPv6Unreachable, wire.Unreach6SourcePolicy, 0, syscall.EACCES},
		{wire.ICMPv6TimeExceeded, 0, 0, nil},
		{wire.ICMPv6ParamProblem, wire.ParamNextHeader, 6, syscall.EPROTO},
		{wire.ICMPv6TooBig, 0, 1300, syscall.EMSGSIZE}, // as in Linux's udpv6_err
		{99, 0, 0, nil},
	} {
		s, p := hostAndPeer6(t)
		u := openUDP(t, s, "[::]:1000")
		require.NoError(t, u.Connect(addrPort("[2001:db8::2]:53")))
		_, err := u.Write(make([]byte, 1400))
		require.NoError(t, err)
		sent := p.take()[0]
		body := sent[:500]
		m := make([]byte, wire.ICMPLen+len(body))
		(&wire.ICMPv6{Type: x.typ, Code: x.code, Rest: x.rest}).Put(addr("2001:db8::9"), addr("2001:db8::1"), m, body)
		p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8::9")}, m))
		require.EqualValues(t, 1, s.Stats().ICMP6.Errors)
		_, err = u.Write(nil)
		if x.want == nil {
			require.NoError(t, err, "%+v", x)
		} else {
			require.ErrorIs(t, err, x.want, "%+v", x)
		}
		if x.typ == wire.ICMPv6TooBig {
			_, err = u.Write(nil)
			require.NoError(t, err, "it is reported once")
			require.Equal(t, 1300, u.path.mtu)
		}
	}
}

// RFC 8201 4: a Packet Too Big below 1280 "must [be] discard[ed]", so the path MTU never falls below
// 1280. Each Packet Too Big quotes the datagram that the socket has just sent.
//
// RFC 8200 REC-1.
func TestPathMTUNeverFallsBelow1280(t *testing.T) {
	s, p := hostAndPeer6(t)
	u := openUDP(t, s, "[::]:1000")
	require.NoError(t, u.Connect(addrPort("[2001:db8::2]:53")))
	tooBig := func(mtu uint32) int {
		_, err := u.Write(make([]byte, 1200))
		require.NoError(t, err)
		body := p.take()[0]
		m := make([]byte, wire.ICMPLen+len(body))
		(&wire.ICMPv6{Type: wire.ICMPv6TooBig, Rest: mtu}).Put(addr("2001:db8::9"), addr("2001:db8::1"), m, body)
		p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8::9")}, m))
		if _, err = u.Write(nil); mtu >= 1280 {
			require.ErrorIs(t, err, syscall.EMSGSIZE)
			_, err = u.Write(nil)
		}
		require.NoError(t, err)
		p.take()
		return u.path.mtu
	}
	require.Equal(t, 1500, tooBig(1279))
	require.Equal(t, 1500, tooBig(0))
	require.Equal(t, 2, dropped(s, dropBadICMPError))
	require.Equal(t, 1400, tooBig(1400))
	require.Equal(t, 1280, tooBig(1280))
	require.False(t, u.path.mayFrag)
	// The limit also holds when the stack lowers the MTU without a Packet Too Big.
	other := openUDP(t, s, "[::]:1001")
	s.lowerDatagramMTU(addr("2001:db8::3"), netip.Addr{}, 1000)
	require.NoError(t, other.Connect(addrPort("[2001:db8::3]:53")))
	require.Equal(t, 1280, other.path.mtu)
}

// TestPacketTooBigAboutEchoIsBelieved sends Packet Too Big messages about an echo request of a raw socket
// and about an echo reply of the stack. The next request and the next reply are sent in fragments.
//
// RFC 8201 4: "When a node receives a Packet Too Big message, it must reduce its estimate of the PMTU for
// the relevant path, based on the value of the MTU field in the message."
func TestPacketTooBigAboutEchoIsBelieved(t *testing.T) {
	for _, typ := range []wire.ICMPv6Type{wire.ICMPv6Echo, wire.ICMPv6EchoReply} {
		s, p := hostAndPeer6(t)
		echo := make([]byte, wire.ICMPLen+1400)
		(&wire.ICMPv6{Type: wire.ICMPv6Echo}).Put(addr("2001:db8::2"), addr("2001:db8::1"), echo, echo[wire.ICMPLen:])
		send := func() { p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6}, echo)) }
		if typ == wire.ICMPv6Echo {
			r, err := s.OpenRaw(Family6, uint16(wire.ProtoICMPv6), netip.Addr{})
			require.NoError(t, err)
			defer r.Close()
			send = func() {
				_, err := r.WriteTo(echo, addr("2001:db8::2"), SendOptions{})
				require.NoError(t, err)
			}
		}
		tooBig := func(mtu uint32, quoted []byte) {
			m := make([]byte, wire.ICMPLen+len(quoted))
			(&wire.ICMPv6{Type: wire.ICMPv6TooBig, Rest: mtu}).Put(addr("2001:db8::9"), addr("2001:db8::1"), m, quoted)
			p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8::9")}, m))
			p.take()
		}
		send()
		sent := p.take()
		require.Equal(t, 1, len(sent), typ)
		require.Equal(t, byte(typ), sent[0][wire.IPv6Len])
		whole := sent[0][:1200]
		tooBig(1279, whole)
		send()
		require.Equal(t, 1, len(p.take()), typ)
		tooBig(1300, whole)
		send()
		sent = p.take()
		require.Equal(t, 2, len(sent), typ)
		require.LessOrEqual(t, len(sent[0]), 1300)
		tooBig(1280, whole)
		send()
		require.LessOrEqual(t, len(p.take()[0]), 1280)
	}
}

// RFC 8201 4: "Nodes should appropriately validate the payload of ICMPv6 PTB messages to ensure these are
// received in response to transmitted traffic". Forged messages about echo replies that the host has not sent
// change nothing, and make no neighbour entries. The host accepts one message about each reply that it has sent.
func TestForgedPacketTooBigsChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := ndHost(t, func(c *Config) { c.NICs[0].Gateway6 = addr("fe80::99") })
		own, router := addr("2001:db8::1"), addr("2001:db8::99")
		tooBig := func(dst netip.Addr, mtu uint32) {
			reply := make([]byte, wire.ICMPLen+1100)
			(&wire.ICMPv6{Type: wire.ICMPv6EchoReply}).Put(own, dst, reply, reply[wire.ICMPLen:])
			quoted := ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: own, Dst: dst}, reply)
			m := make([]byte, wire.ICMPLen+len(quoted))
			(&wire.ICMPv6{Type: wire.ICMPv6TooBig, Rest: mtu}).Put(router, own, m, quoted)
			p.send(ethernet6(macA, ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: router}, m)))
		}
		echo := func(from netip.Addr, n int) {
			p.send(ethernet6(macA, ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: from}, echoRequest6(from, own, 1, 1, make([]byte, n)))))
		}
		const n = 2 * maxPathMTUs
		for _, base := range []string{"2001:db8::1:0:0:0", "2001:db8:9::1:0:0"} { // on the link, and behind the gateway
			a := addr(base)
			for range n {
				tooBig(a, 1300)
				a = a.Next()
			}
		}
		require.Zero(t, s.datagramMTU.n.Load())
		require.Empty(t, s.Neighbors())
		require.Equal(t, 2*n, dropped(s, dropBadICMPError))

		far := addr("2001:db8:9::9")
		for _, c := range []struct {
			length int // of the data of the echo that the host answers, after headers of 48 bytes; 0: no echo
			wait   time.Duration
			mtu    uint32 // in the Packet Too Big that then arrives
			want   int    // the path MTU afterwards; 0: none
		}{
			{1280 - 48, 0, 1290, 0},                        // a reply of 1280 bytes fits every IPv6 link
			{1280 - 47, time.Duration(echoedAge), 1290, 0}, // the message comes too late
			{1280 - 47, 0, 1300, 1300},                     // the first message about the reply
			{0, 0, 1290, 1300},                             // a second message about it
			{1300 - 47, 0, 1290, 1290},                     // the first about the next reply
		} {
			if c.length > 0 {
				echo(far, c.length)
			}
			time.Sleep(c.wait)
			tooBig(far, c.mtu)
			s.datagramMTU.mu.Lock()
			got := s.datagramMTU.m[far].mtu
			s.datagramMTU.mu.Unlock()
			require.Equal(t, c.want, got, "%+v", c)
		}
		// The log of replies is bounded, and keeps the latest.
		a := addr("2001:db8:9::1:0:0")
		for range 2 * maxEchoed {
			a = a.Next()
			echo(a, 1400)
		}
		require.LessOrEqual(t, len(s.echoed.list), maxEchoed)
		tooBig(a, 1300)
		require.EqualValues(t, 2, s.datagramMTU.n.Load())
	})
}

// TestAPacketTooBigTakesEffectBeforeItIsRead holds the lock that a Packet Too Big message needs to lower the
// path MTU. A raw socket does not get the message before the lock is free.
func TestAPacketTooBigTakesEffectBeforeItIsRead(t *testing.T) {
	s, p := hostAndPeer6(t)
	r, err := s.OpenRaw(Family6, uint16(wire.ProtoICMPv6), netip.Addr{})
	require.NoError(t, err)
	defer r.Close()
	dst := addr("2001:db8::2")
	echo := make([]byte, wire.ICMPLen+1400)
	(&wire.ICMPv6{Type: wire.ICMPv6Echo}).Put(dst, addr("2001:db8::1"), echo, echo[wire.ICMPLen:])
	_, err = r.WriteTo(echo, dst, SendOptions{})
	require.NoError(t, err)
	quoted := p.take()[0][:1200]
	tooBig := func(mtu uint32) {
		m := make([]byte, wire.ICMPLen+len(quoted))
		(&wire.ICMPv6{Type: wire.ICMPv6TooBig, Rest: mtu}).Put(addr("2001:db8::9"), addr("2001:db8::1"), m, quoted)
		p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8::9")}, m))
	}
	tooBig(1400) // makes the entry
	b := make([]byte, 1500)
	_, _, _, _, err = r.ReadFrom(b)
	require.NoError(t, err)

	s.datagramMTU.mu.Lock()
	done := make(chan struct{})
	go func() {
		tooBig(1300)
		close(done)
	}()
	elsewhere(func() {
		r.SetReadDeadline(time.Now().Add(50 * time.Millisecond)) // long enough for the goroutine to get to the lock
		_, _, _, _, err = r.ReadFrom(b)
	})
	s.datagramMTU.mu.Unlock()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	<-done
	r.SetReadDeadline(time.Time{})
	_, _, _, _, err = r.ReadFrom(b)
	require.NoError(t, err)
	require.EqualValues(t, 1300, binary.BigEndian.Uint32(b[4:]))
}

// TestPacketTooBigNeedsASocketForARequest sends a Packet Too Big about an echo request when no raw socket
// is open.
func TestPacketTooBigNeedsASocketForARequest(t *testing.T) {
	s, p := hostAndPeer6(t)
	echo := make([]byte, wire.ICMPLen+1200)
	(&wire.ICMPv6{Type: wire.ICMPv6Echo}).Put(addr("2001:db8::1"), addr("2001:db8::2"), echo, echo[wire.ICMPLen:])
	quoted := ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8::1"), Dst: addr("2001:db8::2")}, echo)
	m := make([]byte, wire.ICMPLen+1200)
	(&wire.ICMPv6{Type: wire.ICMPv6TooBig, Rest: 1300}).Put(addr("2001:db8::9"), addr("2001:db8::1"), m, quoted[:1200])
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8::9")}, m))
	require.EqualValues(t, 1, s.Stats().ICMP6.Errors)
	require.Zero(t, s.datagramMTU.n.Load())
}

// RFC 8200 5: "IPv6 requires that every link in the Internet have an MTU of 1280 octets or greater."
//
// RFC 8200 MUST-30.
func TestIPv6IsOffOnALinkBelow1280(t *testing.T) {
	da, db := nic.Pipe(nic.PipeConfig{Medium: nic.IP, MTU: 1279, NoTxChecksum: true})
	short, err := New(Config{NICs: []NIC{{Name: "eth0", Device: da, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}}}})
	require.NoError(t, err)
	defer short.Close()
	require.ErrorIs(t, short.AddAddr("eth0", prefix("2001:db8::1/64"), AddrOptions{}), syscall.EINVAL)
	p := &peer{t: t, dev: db}
	db.Attach(func([]nic.Frame) {})
	p.send(ip6Packet(wire.IPv6{Next: wire.ProtoNone}, nil))
	require.Equal(t, 1, dropped(short, wire.BadIPv4Version))
	_, err = short.route(addr("2001:db8::2"), netip.Addr{})
	require.ErrorIs(t, err, syscall.ENETUNREACH)
	l, err := short.ListenTCP(Family6, addrPort("[::1]:80"), ListenOptions{})
	require.NoError(t, err, "the loopback has IPv6")
	l.Close()
}

// As on Linux, a socket that is bound or connected to a link-local address needs a zone. WriteTo does not.
func TestLinkLocalAddressesNeedAZone(t *testing.T) {
	da, _ := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	db, _ := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	ll := []netip.Prefix{prefix("fe80::1/64")}
	s, err := New(Config{NICs: []NIC{{Name: "a", Device: da, Addrs: ll}, {Name: "b", Device: db, Addrs: append(ll, prefix("fe80::b/64"))}}})
	require.NoError(t, err)
	defer s.Close()
	for _, x := range []struct {
		local string
		want  error
	}{
		{"[fe80::1]:80", syscall.EINVAL},
		{"[fe80::1%c]:80", syscall.EINVAL},
		{"[fe80::1%9]:80", syscall.ENODEV},
		{"[fe80::b%a]:80", syscall.EADDRNOTAVAIL},
		{"[fe80::b%b]:80", nil},
		{"[fe80::1%a]:80", nil},
		{"[fe80::1%3]:80", nil}, // interface b, which has the same address
		{"[fe80::1%b]:80", syscall.EADDRINUSE},
	} {
		l, err := s.ListenTCP(FamilyAny, addrPort(x.local), ListenOptions{})
		u, err2 := s.OpenUDP(FamilyAny, addrPort(x.local))
		if x.want != nil {
			require.ErrorIs(t, err, x.want, x.local)
			require.ErrorIs(t, err2, x.want, x.local)
			continue
		}
		require.NoError(t, err, x.local)
		require.NoError(t, err2, x.local)
		require.Equal(t, l.LocalAddr(), u.LocalAddr())
		require.NotEmpty(t, l.LocalAddr().Addr().Zone())
	}
	_, err = s.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("[fe80::2]:80"), TCPOptions{})
	require.ErrorIs(t, err, syscall.EINVAL)
	u := openUDP(t, s, "[::]:0")
	require.ErrorIs(t, u.Connect(addrPort("[fe80::2]:80")), syscall.EINVAL)
	require.ErrorIs(t, u.Connect(addrPort("[ff02::2]:80")), syscall.EINVAL)
	_, err = u.WriteTo(nil, addrPort("[fe80::2]:80"), SendOptions{})
	require.NoError(t, err, "without a zone, the first link is used")
	_, err = u.WriteTo(nil, addrPort("[fe80::2%9]:80"), SendOptions{})
	require.ErrorIs(t, err, syscall.ENETUNREACH)
	_, err = u.WriteTo(nil, addrPort("[fe80::2%a]:80"), SendOptions{})
	require.NoError(t, err)
	_, err = u.WriteTo(nil, addrPort("[fe80::2]:80"), SendOptions{NIC: 3})
	require.NoError(t, err)
}

// The tuple contains the index of the interface. A table entry still fits a cache line.
func TestTuplesDependOnTheLink(t *testing.T) {
	local, remote := addrPort("[fe80::1]:80"), addrPort("[2001:db8::2]:1000")
	one, two := makeTuple(local, remote, 1), makeTuple(local, remote, 2)
	require.NotEqual(t, one, two)
	require.Equal(t, 2, two.zone())
	require.Equal(t, local, two.local())
	require.Equal(t, remote, two.remote())
	global := makeTuple(remote, addrPort("[2001:db8::3]:1"), 0)
	require.Zero(t, global.zone())
	require.EqualValues(t, 64, unsafe.Sizeof(tcpEntry{}))
	require.Less(t, unsafe.Sizeof(packet{}), uintptr(256))
}

// RFC 6437 3: all packets of a flow have the same label. The labels of these two flows differ.
func TestEachFlowHasItsFlowLabel(t *testing.T) {
	s, p := hostAndPeer6(t)
	label := func(u *UDP) uint32 {
		_, err := u.WriteTo([]byte("x"), addrPort("[2001:db8::2]:53"), SendOptions{})
		require.NoError(t, err)
		h, _, r := wire.ParseIPv6(p.take()[0])
		require.Equal(t, wire.OK, r)
		return h.FlowLabel
	}
	u, w := openUDP(t, s, "[::]:1000"), openUDP(t, s, "[::]:1001")
	first := label(u)
	require.Equal(t, first, label(u))
	require.NotEqual(t, first, label(w))
}

// The source address is of the destination's family, whatever the order of the addresses.
func TestTheSourceHasTheDestinationsFamily(t *testing.T) {
	for _, test := range []struct {
		addrs     string
		four, six int // how many of the routes below the host has
	}{
		{"2001:db8::1/64", 7, 11},
		{"2001:db8::1/64 192.0.2.1/24", 11, 11},
		{"192.0.2.1/24 2001:db8::1/64", 11, 11},
	} {
		dev, _ := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		var list []netip.Prefix
		for _, a := range strings.Fields(test.addrs) {
			list = append(list, prefix(a))
		}
		s := newHost(t, dev, "192.0.2.1/24", with(list))
		four, six := 0, 0
		for _, dst := range []string{"192.0.2.9", "255.255.255.255", "224.0.0.9", "203.0.113.1", "127.0.0.1"} {
			for over := range 3 {
				if p, err := s.routeOver(addr(dst), netip.Addr{}, over); err == nil {
					require.True(t, p.src.Is4(), "%v over %d from %v", dst, over, p.src)
					four++
				}
			}
		}
		for _, dst := range []string{"2001:db8::9", "ff02::1", "ff0e::9", "::1", "fe80::9", "2001:db8:9::1"} {
			for over := range 3 {
				if p, err := s.routeOver(addr(dst), netip.Addr{}, over); err == nil {
					require.True(t, p.src.Is6(), "%v over %d from %v", dst, over, p.src)
					six++
				}
			}
		}
		require.Equal(t, []int{test.four, test.six}, []int{four, six}, test.addrs)
	}
}

// A bulk transfer over IPv6 uses super-frames of kind GSOTCP6.
func TestIPv6LeavesInSuperFrames(t *testing.T) {
	a, b := twoHosts6(t, nic.PipeConfig{})
	l, err := b.ListenTCP(FamilyAny, addrPort("[::]:80"), ListenOptions{})
	require.NoError(t, err)
	c, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("[2001:db8::2]:80"), TCPOptions{})
	require.NoError(t, err)
	d, err := l.Accept()
	require.NoError(t, err)
	const total = 4 << 20
	go func() {
		c.Write(make([]byte, total))
		c.CloseWrite()
	}()
	n, err := io.Copy(io.Discard, readerOf(d))
	require.NoError(t, err)
	require.EqualValues(t, total, n)
	require.Less(t, a.Stats().NICs[1].TxFrames, uint64(total/1428/4), "on average, a frame carries more than four segments")
	require.Equal(t, nic.GSOTCP6, c.path.gsoKind)
	require.Equal(t, 1500-40-20, c.path.mss())
}

// An address is removed before the routes change. Until the routes change, they still have the removed source.
func TestALinkLocalSourceMayHaveJustGone(t *testing.T) {
	s, _ := hostAndPeer6(t)
	ifc := (*s.ifaces.Load())[1]
	ifc.addrs.Store(new([]ifaceAddr))
	_, err := s.route(addr("fe80::9"), addr("fe80::1"))
	require.Equal(t, syscall.EADDRNOTAVAIL, err)
}

// A raw socket may send a packet that ends before the ports of its transport header.
func TestARawSocketSendsLessThanPorts(t *testing.T) {
	s, p := hostAndPeer6(t)
	for _, proto := range []wire.Proto{wire.ProtoTCP, wire.ProtoUDP, wire.ProtoICMPv6, 253} {
		r, err := s.OpenRaw(Family6, uint16(proto), netip.Addr{})
		require.NoError(t, err)
		defer r.Close()
		for n := range 9 {
			_, err := r.WriteTo(make([]byte, n), addr("2001:db8::2"), SendOptions{})
			if proto == wire.ProtoICMPv6 && n < 4 {
				require.Error(t, err)
				continue
			}
			require.NoError(t, err)
			h, payload, reason := wire.ParseIPv6(p.take()[0])
			require.Equal(t, wire.OK, reason)
			require.Equal(t, proto, h.Next)
			require.Len(t, payload, n)
		}
	}
}

// Addresses inside the stack have no zone, even if the API was called with zones.
func TestNoAddressInsideHasAZone(t *testing.T) {
	dev, _ := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
	s, err := New(Config{
		NICs:   []NIC{{Name: "eth0", Device: dev, Addrs: both[0], Gateway6: addr("fe80::fe%eth0")}},
		Routes: []Route{{Dst: prefix("2001:db8:1::/48"), Via: addr("fe80::fd%eth0")}, {Dst: prefix("2001:db8:2::/48"), Via: addr("fe80::fd%2"), NIC: "eth0"}},
		Rand:   testRand(),
	})
	require.NoError(t, err)
	defer s.Close()
	require.NoError(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("fe80::2%eth0"), MAC: macB}))
	require.NoError(t, s.AddRoute(Route{Dst: prefix("2001:db8:3::/48"), Via: addr("fe80::fd%eth0")}))
	u := openUDP(t, s, "[fe80::1%eth0]:1000")
	require.NoError(t, u.Join(addr("ff02::1:3%eth0"), 0))
	require.ErrorIs(t, u.Join(addr("ff02::1:3"), 2), syscall.EADDRINUSE, "it is the same group")
	require.NoError(t, u.Leave(addr("ff02::1:3%eth0"), 0))
	_, err = u.WriteTo(nil, addrPort("[fe80::2%eth0]:9"), SendOptions{Src: addr("fe80::1%eth0")})
	require.NoError(t, err)
	require.NoError(t, u.Connect(addrPort("[fe80::2%2]:9")))
	require.Equal(t, "[fe80::2%eth0]:9", u.RemoteAddr().String())
	r, err := s.OpenRaw(Family6, 58, addr("fe80::1%eth0"))
	require.NoError(t, err)
	defer r.Close()
	require.NoError(t, r.Connect(addr("fe80::2%eth0")))
	l, err := s.ListenTCP(Family6, addrPort("[fe80::1%eth0]:80"), ListenOptions{})
	require.NoError(t, err)
	c, err := s.DialTCP(context.Background(), Family6, addrPort("[fe80::1%eth0]:0"), addrPort("[fe80::1%eth0]:80"), TCPOptions{})
	require.NoError(t, err)
	d, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, c.LocalAddr(), d.RemoteAddr())
	require.Equal(t, "eth0", d.RemoteAddr().Addr().Zone())
	require.True(t, s.IsLocal(addr("fe80::1%eth0")))
	require.True(t, s.SourceFor(addr("fe80::2%eth0")).IsLinkLocalUnicast())
	require.Empty(t, s.checkNoZones())
	require.ErrorIs(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("fe80::2%eth1")}), syscall.EINVAL)
	require.NoError(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("fe80::2%eth0")}))
	require.ErrorIs(t, s.RemoveAddr("eth0", addr("fe80::1%eth1")), syscall.EINVAL)
	require.NoError(t, s.RemoveAddr("eth0", addr("fe80::1%eth0")))
	require.ErrorIs(t, s.AddRoute(Route{Dst: prefix("2001:db8:4::/48"), Via: addr("fe80::fd%eth1")}), syscall.ENODEV)
	require.ErrorIs(t, s.DelRoute(Route{Dst: prefix("2001:db8:3::/48"), Via: addr("fe80::fd%eth1")}), syscall.ENODEV)
	require.ErrorIs(t, s.DelRoute(Route{Dst: prefix("2001:db8:3::/48"), Via: addr("fe80::fd%lo"), NIC: "eth0"}), syscall.EINVAL)
	require.NoError(t, s.DelRoute(Route{Dst: prefix("2001:db8:3::/48"), Via: addr("fe80::fd%eth0")}))
}
