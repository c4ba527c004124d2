package stack

import (
	"bytes"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// fragment6 makes a fragment with the bytes f of part, the fragmentable part of a packet. next is the
// type of part's first header. before holds the headers in front of the Fragment header: none, or a
// Hop-by-Hop Options header.
func fragment6(h wire.IPv6, before []byte, next wire.Proto, id uint32, part []byte, f piece) []byte {
	if h.Next = wire.ProtoFragment; len(before) > 0 {
		h.Next = wire.ProtoHopByHop
	}
	fh := make([]byte, wire.FragmentLen)
	(&wire.Fragment{Next: next, Offset: uint16(f.off), More: f.end < len(part), ID: id}).Put(fh)
	return ip6Packet(h, bytes.Join([][]byte{before, fh, part[f.off:min(f.end, len(part))]}, nil))
}

// fragment6 sends the fragment f of a UDP datagram over IPv6.
func (p *peer) fragment6(id uint32, part []byte, f piece) {
	p.t.Helper()
	p.send(fragment6(wire.IPv6{}, nil, wire.ProtoUDP, id, part, f))
}

// fragmentHost6 is fragmentHost for IPv6.
func fragmentHost6(t *testing.T) (*Stack, *peer, *UDP, []byte, []byte) {
	t.Helper()
	s, p := hostAndPeer6(t)
	u := openUDP(t, s, "[2001:db8::1]:9")
	require.NoError(t, u.SetReadBuffer(1<<20))
	payload := make([]byte, 3000)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	return s, p, u, udpDatagram(addrPort("[2001:db8::2]:9"), addrPort("[2001:db8::1]:9"), payload), payload
}

// icmp6 returns the ICMPv6 message of a packet from 2001:db8::1 to 2001:db8::2.
func icmp6(t *testing.T, packet []byte) (wire.ICMPv6, []byte) {
	t.Helper()
	h, payload, r := wire.ParseIPv6(packet)
	require.Equal(t, wire.OK, r)
	require.Equal(t, wire.ProtoICMPv6, h.Next)
	m, body, r := wire.ParseICMPv6(h.Src, h.Dst, payload)
	require.Equal(t, wire.OK, r)
	return m, body
}

// RFC 6946 4: "An IPv6 host receiving an IPv6 packet that contains a Fragment Header with the 'Fragment Offset' equal
// to 0 and the 'M' flag equal to 0 MUST process that packet in isolation from any other packets/fragments, even if such
// packets/fragments contain the same set {IPv6 Source Address, IPv6 Destination Address, Fragment Identification}."
//
// RFC 8200 SHLD-9 SHLD-10.
func TestAtomicFragmentsAreWholePackets(t *testing.T) {
	s, p, u, datagram, payload := fragmentHost6(t)
	small := udpDatagram(addrPort("[2001:db8::2]:9"), addrPort("[2001:db8::1]:9"), []byte("small"))
	p.fragment6(7, datagram, piece{0, 1000})
	p.fragment6(7, small, piece{0, len(small)})
	require.Equal(t, "small", string(queued(t, u)))
	require.Len(t, s.frags6.m, 1)
	p.fragment6(7, datagram, piece{1000, 2000})
	p.fragment6(7, datagram, piece{2000, len(datagram)})
	require.True(t, bytes.Equal(payload, queued(t, u)))
	require.EqualValues(t, 3, s.Stats().IP.FragmentsReceived)
}

// The answers to invalid fragments are those of RFC 8200 4.5 and RFC 7112 5.
//
// RFC 8200 MUST-25 MUST-26 SHLD-5 SHLD-6 SHLD-7.
func TestInvalidIPv6FragmentsAreAnswered(t *testing.T) {
	part := udpDatagram(addrPort("[2001:db8::2]:9"), addrPort("[2001:db8::1]:9"), make([]byte, 100))
	options := append(ext(wire.ProtoUDP, 1, 4), part...)
	hop := ext(wire.ProtoFragment, 1, 4)
	frag := func(next wire.Proto, off uint16, more bool, part []byte) []byte {
		fh := make([]byte, wire.FragmentLen)
		(&wire.Fragment{Next: next, Offset: off, More: more, ID: 5}).Put(fh)
		return ip6Packet(wire.IPv6{Next: wire.ProtoFragment}, append(fh, part...))
	}
	group := frag(wire.ProtoUDP, 0, true, part[:12])
	copy(group[24:], addr("ff02::1").AsSlice())
	for _, x := range []struct {
		name    string
		packet  []byte
		code    int // -1: no answer
		pointer uint32
		reason  wire.Reason
	}{
		{"not a multiple of 8", frag(wire.ProtoUDP, 0, true, part[:12]), wire.ParamHeader, 4, wire.BadIPv6Fragment},
		{"beyond 65,535", frag(wire.ProtoUDP, 65528, false, part[:16]), wire.ParamHeader, 42, wire.BadIPv6Fragment},
		{"beyond 65,535 with the options", fragment6(wire.IPv6{}, hop, wire.ProtoUDP, 5, make([]byte, 65535), piece{65528, 65535}), wire.ParamHeader, 50, dropBadFragment},
		{"UDP header not whole", frag(wire.ProtoUDP, 0, true, part[:0]), wire.ParamFirstChain, 0, dropFirstChain},
		{"TCP header not whole", frag(wire.ProtoTCP, 0, true, part[:16]), wire.ParamFirstChain, 0, dropFirstChain},
		{"options not whole", frag(wire.ProtoDstOpts, 0, true, options[:8]), wire.ParamFirstChain, 0, dropFirstChain},
		{"empty", frag(wire.ProtoUDP, 8, true, nil), -1, 0, dropBadFragment},
		{"to a group", group, -1, 0, wire.BadIPv6Fragment},
	} {
		s, p := hostAndPeer6(t)
		p.send(x.packet)
		require.Equal(t, 1, dropped(s, x.reason), "%s: %v", x.name, s.Stats().Drops)
		require.Empty(t, s.frags6.m, x.name)
		frames := p.take()
		if x.code < 0 {
			require.Empty(t, frames, x.name)
			continue
		}
		require.Len(t, frames, 1, x.name)
		m, body := icmp6(t, frames[0])
		require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: uint8(x.code), Rest: x.pointer}, m, x.name)
		require.Equal(t, x.packet, body, x.name)
	}
}

// RFC 8200 4: "The same action should be taken if a node encounters a Next Header value of zero in any header
// other than an IPv6 header": an ICMP Parameter Problem with code 1, which points to that value.
func TestHopByHopOptionsInFragmentsAreRefused(t *testing.T) {
	part := append(ext(wire.ProtoUDP, 1, 1, 4), udpDatagram(addrPort("[2001:db8::2]:9"), addrPort("[2001:db8::1]:9"), make([]byte, 100))...)
	for pointer, before := range map[uint32][]byte{wire.IPv6NextOffset: nil, 40: ext(wire.ProtoFragment, 1, 1, 4)} {
		s, p := hostAndPeer6(t)
		for _, x := range []piece{{0, 48}, {48, len(part)}} {
			p.send(fragment6(wire.IPv6{}, before, wire.ProtoHopByHop, 5, part, x))
		}
		require.Equal(t, 1, dropped(s, wire.BadIPv6Ext), "%v", s.Stats().Drops)
		frames := p.take()
		require.Len(t, frames, 1)
		m, body := icmp6(t, frames[0])
		require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: wire.ParamNextHeader, Rest: pointer}, m)
		require.Zero(t, body[pointer])
	}
}

// RFC 8200 4.5: the reassembled packet has the headers of the first fragment. Headers within the
// fragmented part are processed after reassembly.
//
// RFC 8200 MUST-22 MUST-23.
func TestThePacketHasTheFirstFragmentsHeaders(t *testing.T) {
	s, p, u, datagram, _ := fragmentHost6(t)
	part := append(ext(wire.ProtoUDP, 1, 4), datagram...)
	hop := ext(wire.ProtoFragment, 1, 4)
	p.send(fragment6(wire.IPv6{HopLimit: 9}, nil, 99, 1, part, piece{1000, 2000})) // with another Next Header
	p.send(fragment6(wire.IPv6{HopLimit: 7, TrafficClass: 0x20}, hop, wire.ProtoDstOpts, 1, part, piece{0, 1000}))
	p.send(fragment6(wire.IPv6{HopLimit: 8}, nil, wire.ProtoUDP, 1, part, piece{2000, len(part)}))
	got, metas := take(u)
	require.Len(t, got, 1)
	require.EqualValues(t, 7, metas[0].TTL)
	require.EqualValues(t, 0x20, metas[0].TOS)

	// A Parameter Problem about an option in the fragmented part quotes the reassembled packet.
	part = append(ext(wire.ProtoUDP, 0xbe, 4), datagram...)
	p.send(fragment6(wire.IPv6{}, hop, wire.ProtoDstOpts, 2, part, piece{1000, 2000}))
	p.send(fragment6(wire.IPv6{}, hop, wire.ProtoDstOpts, 2, part, piece{2000, len(part)}))
	p.send(fragment6(wire.IPv6{}, hop, wire.ProtoDstOpts, 2, part, piece{0, 1000}))
	frames := p.take()
	require.Len(t, frames, 1)
	m, body := icmp6(t, frames[0])
	require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6ParamProblem, Code: wire.ParamOption, Rest: 40 + 8 + 2}, m)
	q, quoted, r := wire.ParseIPv6(body)
	require.Equal(t, wire.BadIPv6PayloadLen, r, "the quote is truncated")
	require.Equal(t, wire.IPv6{}, q)
	require.Nil(t, quoted)
	require.EqualValues(t, 8+len(part), int(body[4])<<8|int(body[5]), "the length of the whole")
	require.Equal(t, byte(wire.ProtoDstOpts), body[40], "no Fragment header is left")
	require.Equal(t, part[:100], body[48:148])

	// A fragment of a fragment is invalid.
	fh := make([]byte, wire.FragmentLen)
	(&wire.Fragment{Next: wire.ProtoUDP, Offset: 8, More: true, ID: 9}).Put(fh)
	part = append(fh, datagram...)
	p.send(fragment6(wire.IPv6{}, nil, wire.ProtoFragment, 3, part, piece{0, 1000}))
	p.send(fragment6(wire.IPv6{}, nil, wire.ProtoFragment, 3, part, piece{1000, 2000}))
	p.send(fragment6(wire.IPv6{}, nil, wire.ProtoFragment, 3, part, piece{2000, len(part)}))
	require.Equal(t, 1, dropped(s, wire.BadIPv6Fragment))
	require.Empty(t, texts(u))
	require.Empty(t, s.frags6.m)
}

// RFC 8200 4.5: after 60 seconds, the host sends a Time Exceeded of code 1 if it has the first fragment.
// It sends none for a packet to a multicast address (RFC 4443 2.4).
//
// RFC 8200 MUST-24 SHLD-4.
func TestReassemblyOfIPv6GivesUpAfterAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, u, datagram, payload := fragmentHost6(t)
		first := fragment6(wire.IPv6{}, nil, wire.ProtoUDP, 1, datagram, piece{0, 1000})
		p.send(first)
		p.fragment6(1, datagram, piece{1000, 1008})
		p.fragment6(2, datagram, piece{1000, 2000})
		p.send(fragment6(wire.IPv6{Dst: addr("ff02::1")}, nil, wire.ProtoUDP, 1, datagram, piece{0, 1000}))
		unreachable := make([]byte, 500)
		(&wire.ICMPv6{Type: wire.ICMPv6Unreachable}).Put(addr("2001:db8::2"), addr("2001:db8::1"), unreachable, make([]byte, 400))
		p.send(fragment6(wire.IPv6{}, nil, wire.ProtoICMPv6, 4, unreachable, piece{0, 400}))
		p.send(fragment6(wire.IPv6{}, nil, wire.ProtoDstOpts, 5, append(ext(wire.ProtoICMPv6, 1, 4), unreachable...), piece{0, 400}))
		time.Sleep(40 * time.Second)
		p.fragment6(3, datagram, piece{0, 1000})
		time.Sleep(20*time.Second - time.Nanosecond)
		synctest.Wait()
		require.Zero(t, dropped(s, dropReassemblyTimeout))
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		require.Equal(t, 5, dropped(s, dropReassemblyTimeout))
		frames := p.take()
		require.Len(t, frames, 1, "no error without the first fragment, about a multicast packet or about an ICMPv6 error")
		m, body := icmp6(t, frames[0])
		require.Equal(t, wire.ICMPv6{Type: wire.ICMPv6TimeExceeded, Code: 1}, m)
		require.Equal(t, first, body)
		p.fragment6(3, datagram, piece{1000, 2000})
		p.fragment6(3, datagram, piece{2000, len(datagram)})
		require.True(t, bytes.Equal(payload, queued(t, u)), "packet 3 is younger than a minute")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, s.frags6.m)
		require.True(t, s.frags6.alarm.at == 0, "no timer without a fragment")
	})
}

// A link-local address belongs to one link. Fragments with the same addresses on two links therefore
// belong to different packets.
//
// RFC 8200 MUST-21.
func TestFragmentsOfTwoLinksAreKeptApart(t *testing.T) {
	d0, e0 := nic.Pipe(nic.PipeConfig{Medium: nic.IP, NoTxChecksum: true})
	d1, e1 := nic.Pipe(nic.PipeConfig{Medium: nic.IP, NoTxChecksum: true})
	s := newHost(t, d0, "192.0.2.1/24", with(both[0]), func(cfg *Config) {
		cfg.NICs = append(cfg.NICs, NIC{Name: "eth1", Device: d1, Addrs: []netip.Prefix{prefix("fe80::1/64")}})
	})
	u := openUDP(t, s, "[::]:9")
	e0.Attach(func([]nic.Frame) {})
	e1.Attach(func([]nic.Frame) {})
	for index := 2; index <= 3; index++ {
		require.NoError(t, u.Join(addr("ff02::5"), index))
	}
	// A link-local multicast address also belongs to one link, whatever the source is.
	for _, h := range []wire.IPv6{{Src: addr("fe80::2"), Dst: addr("fe80::1")}, {Src: addr("2001:db8::2"), Dst: addr("ff02::5")}} {
		datagram := udpDatagram(netip.AddrPortFrom(h.Src, 9), netip.AddrPortFrom(h.Dst, 9), make([]byte, 2000))
		send := func(e *nic.PipeEnd, f piece) {
			t.Helper()
			_, err := e.Send([]nic.Frame{{Head: fragment6(h, nil, wire.ProtoUDP, 1, datagram, f)}})
			require.NoError(t, err)
		}
		send(e0, piece{0, 1000})
		send(e1, piece{1000, len(datagram)})
		require.Empty(t, texts(u))
		send(e1, piece{0, 1000})
		_, metas := take(u)
		require.Len(t, metas, 1)
		require.Equal(t, 3, metas[0].NIC)
	}
}

// Send datagrams of all sizes over links of several MTUs. Each fragment fits (RFC 8200 4.5).
//
// RFC 8200 MUST-17 MUST-18 MUST-20 MUST-32.
func TestALargePacketOfIPv6IsSentInFragments(t *testing.T) {
	for _, mtu := range []int{1280, 1281, 1500, 9000} {
		a, b := twoHosts6(t, nic.PipeConfig{MTU: mtu})
		u, v := openUDP(t, a, "[::]:9"), openUDP(t, b, "[::]:9")
		require.NoError(t, v.SetReadBuffer(1<<20))
		big := bytes.Repeat([]byte("0123456789abcdef"), 4096)[:maxUDPPayload6]
		for _, n := range []int{mtu - 48, mtu - 47, 3000, maxUDPPayload6} {
			_, err := u.WriteTo(big[:n], addrPort("[2001:db8::2]:9"), SendOptions{})
			require.NoError(t, err)
			require.True(t, bytes.Equal(big[:n], queued(t, v)), "%d bytes, MTU %d", n, mtu)
		}
		_, err := u.WriteTo(big[:mtu-47], addrPort("[2001:db8::2]:9"), SendOptions{DontFragment: true})
		require.Equal(t, syscall.EMSGSIZE, err)
		_, err = u.WriteTo(big[:mtu-48], addrPort("[2001:db8::2]:9"), SendOptions{DontFragment: true})
		require.NoError(t, err)
		_, err = u.WriteTo(append(big, 0), addrPort("[2001:db8::2]:9"), SendOptions{})
		require.Equal(t, syscall.EMSGSIZE, err)
	}
}

// RFC 8200 MUST-15 MUST-16 MUST-18 MUST-19 MUST-20 MUST-33.
func TestFragmentsOfIPv6HaveTheseHeaders(t *testing.T) {
	s, p := hostAndPeer6(t)
	u := openUDP(t, s, "[::]:9")
	var ids []uint32
	for range 3 {
		_, err := u.WriteTo(make([]byte, 3000), addrPort("[2001:db8::2]:9"), SendOptions{TOS: 0x28, TTL: 5})
		require.NoError(t, err)
		var id uint32
		off := 0
		for i, f := range p.take() {
			require.LessOrEqual(t, len(f), 1500)
			h, payload, r := wire.ParseIPv6(f)
			require.Equal(t, wire.OK, r)
			require.EqualValues(t, 0x28, h.TrafficClass)
			require.EqualValues(t, 5, h.HopLimit)
			c, r := wire.WalkIPv6(h.Next, payload)
			require.Equal(t, wire.OK, r)
			require.True(t, c.Fragmented)
			require.Equal(t, wire.ProtoUDP, c.Proto)
			require.EqualValues(t, off, c.Fragment.Offset)
			require.Equal(t, i < 2, c.Fragment.More)
			off += len(payload) - wire.FragmentLen
			if i == 0 {
				id = c.Fragment.ID
				require.True(t, wire.CompleteChain(c.Proto, payload[c.Offset:]), "RFC 7112 5")
				require.Len(t, f, 1496, "as much as fits in multiples of 8")
			}
			require.Equal(t, id, c.Fragment.ID)
		}
		require.Equal(t, 3008, off)
		ids = append(ids, id)
	}
	require.Equal(t, []uint32{ids[0], ids[0] + 1, ids[0] + 2}, ids)
	require.Greater(t, ids[0], uint32(1000), "the first is unpredictable")
	_, err := u.WriteTo(make([]byte, 3000), addrPort("[2001:db8::3]:9"), SendOptions{})
	require.NoError(t, err)
	c, _ := wire.WalkIPv6(wire.ProtoFragment, p.take()[0][wire.IPv6Len:])
	require.NotEqual(t, ids[2]+1, c.Fragment.ID, "RFC 7739 3: identifications of one pair do not reveal those of another")
}

// RFC 8201 4 and 5.2: after a Packet Too Big, later datagrams are fragmented to fit, down to 1280
// bytes. RFC 8021 2: no message makes the host send an atomic fragment.
//
// RFC 8200 MUST-17 REC-1.
func TestDatagramsAreCutToThePathMTU(t *testing.T) {
	s, p := hostAndPeer6(t)
	u := openUDP(t, s, "[::]:9")
	sizes := func(n int) (sizes []int) {
		_, err := u.WriteTo(make([]byte, n), addrPort("[2001:db8::2]:53"), SendOptions{})
		require.NoError(t, err)
		for _, f := range p.take() {
			sizes = append(sizes, len(f))
			c, r := wire.WalkIPv6(wire.Proto(f[wire.IPv6NextOffset]), f[wire.IPv6Len:])
			require.Equal(t, wire.OK, r)
			require.Equal(t, c.Fragmented, f[wire.IPv6NextOffset] == byte(wire.ProtoFragment), "no atomic fragment")
		}
		return sizes
	}
	tooBig := func(mtu uint32) {
		_, err := u.WriteTo(make([]byte, 1452), addrPort("[2001:db8::2]:53"), SendOptions{})
		require.NoError(t, err)
		body := p.take()[0]
		m := make([]byte, wire.ICMPLen+min(len(body), 1200))
		(&wire.ICMPv6{Type: wire.ICMPv6TooBig, Rest: mtu}).Put(addr("2001:db8::9"), addr("2001:db8::1"), m, body[:len(m)-wire.ICMPLen])
		p.send(ip6Packet(wire.IPv6{Next: wire.ProtoICMPv6, Src: addr("2001:db8::9")}, m))
	}
	require.Equal(t, []int{1500}, sizes(1452))
	tooBig(1400)
	require.Equal(t, []int{1400}, sizes(1352))
	require.Equal(t, []int{1400, 48 + 48}, sizes(1392))
	for _, mtu := range []uint32{1279, 0, 576} {
		tooBig(mtu)
		require.Equal(t, []int{1400}, sizes(1352), "MTU %d", mtu)
	}
	tooBig(1280)
	require.Equal(t, []int{1280}, sizes(1232))
	require.Len(t, sizes(1233), 2)
}

// Large packets of raw sockets, and the replies to them, are fragmented and reassembled too.
//
// RFC 8200 MUST-32.
func TestALargeEchoOfIPv6IsAnswered(t *testing.T) {
	for _, n := range []int{1000, 2000, 65527} {
		a, _ := twoHosts6(t, nic.PipeConfig{})
		r, err := a.OpenRaw(Family6, uint16(wire.ProtoICMPv6), netip.Addr{})
		require.NoError(t, err)
		defer r.Close()
		require.NoError(t, r.SetReadBuffer(1<<20))
		body := bytes.Repeat([]byte{0x5a}, n)
		_, err = r.WriteTo(echoRequest6(addr("2001:db8::1"), addr("2001:db8::2"), 1, 2, body), addr("2001:db8::2"), SendOptions{})
		require.NoError(t, err)
		b := make([]byte, 70000)
		require.NoError(t, r.SetReadDeadline(time.Now().Add(5*time.Second)))
		got, _, from, _, err := r.ReadFrom(b)
		require.NoError(t, err, "%d bytes", n)
		require.Equal(t, addr("2001:db8::2"), from)
		require.Equal(t, byte(wire.ICMPv6EchoReply), b[0])
		require.True(t, bytes.Equal(body, b[wire.ICMPLen:got]), fmt.Sprint(n))
	}
}
