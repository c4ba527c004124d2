package stack

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

func openRawOf(t *testing.T, s *Stack, proto uint16) *Raw {
	t.Helper()
	r, err := s.OpenRaw(Family4, proto, netip.Addr{})
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

// raw(7): the protocol IPPROTO_RAW, which is 255, "implies enabled IP_HDRINCL"; then "the packet must
// contain an IP header". The host always fills in the checksum and the total length of that header, and
// the source and the identification if they are zero.
func TestProtocol255SendsTheCallersHeader(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	r := openRawOf(t, s, 255)
	to := addr("192.0.2.2")
	h := wire.IPv4{TOS: 0x28, ID: 77, DontFragment: true, TTL: 7, Proto: 99, Src: addr("203.0.113.5"), Dst: addr("198.51.100.9"), Options: []byte{148, 4, 0, 0}}
	packet := ipPacket(h, []byte("payload"))
	spoiled := bytes.Clone(packet)
	spoiled[2], spoiled[3], spoiled[10] = 0xff, 0xff, 0
	n, err := r.WriteTo(spoiled, to, SendOptions{TTL: 9})
	require.NoError(t, err)
	require.Equal(t, len(packet), n)
	frames := p.take()
	require.Len(t, frames, 1)
	eth, body, _ := wire.ParseEthernet(frames[0])
	require.Equal(t, macB, eth.Dst, "the call's address decides, not the header's")
	require.Equal(t, packet, body[:len(packet)])

	clear(packet[4:6])
	clear(packet[12:16])
	require.NoError(t, r.Connect(to))
	_, err = r.Write(packet)
	require.NoError(t, err)
	got, data := parseFrame(t, p.take()[0])
	require.Equal(t, addr("192.0.2.1"), got.Src)
	require.NotZero(t, got.ID)
	require.Equal(t, "payload", string(data))

	for _, c := range []struct {
		packet []byte
		err    error
	}{
		{nil, syscall.EINVAL},
		{packet[:19], syscall.EINVAL},
		{append([]byte{0x44}, packet[1:]...), syscall.EINVAL}, // a header of 16 bytes
		{append([]byte{0x4f}, packet[1:]...), syscall.EINVAL}, // a header of 60 bytes, longer than the packet
		{make([]byte, 1501), syscall.EMSGSIZE},
		{make([]byte, 70000), syscall.EMSGSIZE},
	} {
		_, err := r.Write(c.packet)
		require.ErrorIs(t, err, c.err)
	}
	require.Empty(t, p.take())
}

func TestACallersHeaderReachesTheHostItself(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	r := openRawOf(t, a, 255)
	self, far := openUDP(t, a, "0.0.0.0:5"), openUDP(t, b, "0.0.0.0:5")
	require.NoError(t, self.Join(addr("224.1.2.3"), 2))
	require.NoError(t, far.Join(addr("224.1.2.3"), 2))
	from := addrPort("192.0.2.1:1")
	send := func(h wire.IPv4, to string, payload []byte) {
		h.Proto, h.Src, h.Dst = wire.ProtoUDP, from.Addr(), addr(to)
		_, err := r.WriteTo(ipPacket(h, payload), h.Dst, SendOptions{NIC: 2})
		require.NoError(t, err)
	}
	for _, to := range []string{"192.0.2.1", "224.1.2.3", "192.0.2.255"} {
		d := udpDatagram(from, netip.AddrPortFrom(addr(to), 5), []byte("in two fragments"))
		send(wire.IPv4{ID: 5, MoreFragments: true, Options: []byte{1, 1, 1, 0}}, to, d[:8])
		require.Empty(t, texts(self))
		send(wire.IPv4{ID: 5, FragOffset: 8}, to, d[8:])
		require.Equal(t, []string{"in two fragments"}, texts(self), to)
		if to != "192.0.2.1" {
			require.Equal(t, []string{"in two fragments"}, texts(far), to)
		}
	}
}

// RFC 3542 3.1: "For ICMPv6 sockets [...] the kernel will verify the ICMPv6 checksum on input"; a socket with
// IPV6_CHECKSUM has its checksum verified, too.
func TestARawSocketOfIPv6VerifiesItsChecksum(t *testing.T) {
	s, p := hostAndPeer6(t)
	received := s.counts.rawReceived.Load
	for i, proto := range []wire.Proto{wire.ProtoICMPv6, 253} {
		r, err := s.OpenRaw(Family6, uint16(proto), netip.Addr{})
		require.NoError(t, err)
		defer r.Close()
		if proto == 253 {
			require.NoError(t, r.SetChecksum(true, 2))
		}
		m := wire.ICMPv6{Type: wire.ICMPv6EchoReply, Rest: wire.EchoRest(1, 2)}
		b := make([]byte, wire.ICMPLen+4)
		m.Put(addr("2001:db8::2"), addr("2001:db8::1"), b, []byte("data"))
		if proto == 253 {
			b[2], b[3] = 0, 0
			sum := ^wire.Fold(wire.Sum(b, wire.PseudoSum(addr("2001:db8::2"), addr("2001:db8::1"), uint8(proto), len(b))))
			binary.BigEndian.PutUint16(b[2:], sum)
		}
		p.send(ip6Packet(wire.IPv6{Next: proto}, b))
		require.EqualValues(t, i+1, received(), "%v", proto)
		b[9] ^= 1
		p.send(ip6Packet(wire.IPv6{Next: proto}, b))
		require.EqualValues(t, i+1, received(), "%v", proto)
	}
	require.Equal(t, 1, dropped(s, wire.BadICMPv6Checksum))
	require.Equal(t, 1, dropped(s, dropRawChecksum))
}
