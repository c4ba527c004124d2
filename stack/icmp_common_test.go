package stack

import (
	"bytes"
	"context"
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// hostAndKnownPeer is hostAndPeer with a permanent neighbour entry for the peer.
func hostAndKnownPeer(t *testing.T, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	s, p := hostAndPeer(t, append(change, func(c *Config) {
		c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
	})...)
	p.take()
	return s, p
}

// dialKnownPeer dials port 80 of the peer that hostAndKnownPeer returns, and returns when the SYN has been sent. The
// connection comes from the channel when the peer has answered; it is nil after an error.
func dialKnownPeer(t *testing.T, s *Stack) <-chan *TCP {
	t.Helper()
	done := make(chan *TCP, 1)
	go func() {
		c, err := s.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
		assert.NoError(t, err)
		done <- c
	}()
	synctest.Wait()
	return done
}

// parseFrame returns the IPv4 header and the payload of a frame.
func parseFrame(t *testing.T, f []byte) (wire.IPv4, []byte) {
	t.Helper()
	_, b, r := wire.ParseEthernet(f)
	require.Equal(t, wire.OK, r)
	h, b, r := wire.ParseIPv4(b)
	require.Equal(t, wire.OK, r)
	return h, b
}

// openRaw opens a raw socket for ICMP.
func openRaw(t *testing.T, s *Stack) *Raw {
	t.Helper()
	r, err := s.OpenRaw(FamilyAny, uint16(wire.ProtoICMP), netip.Addr{})
	require.NoError(t, err)
	t.Cleanup(func() { r.Close() })
	return r
}

func TestTwoHostsPingEachOther(t *testing.T) {
	for _, size := range []int{0, 1, 56, 1472, 1473, 9000, 65507} {
		a, b := twoHosts(t, nic.PipeConfig{})
		raw := openRaw(t, a)
		body := bytes.Repeat([]byte{0xa5, 1, 2}, size)[:size]
		_, err := raw.WriteTo(echoRequest(7, 1, body), addr("192.0.2.2"), SendOptions{TOS: 0x10})
		require.NoError(t, err)
		buf := make([]byte, 65536)
		n, _, from, meta, err := raw.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, addr("192.0.2.2"), from)
		require.EqualValues(t, 0x10, meta.TOS)
		h, got, r := wire.ParseICMP(buf[:n])
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.ICMPEchoReply, h.Type)
		require.EqualValues(t, 7, h.ID())
		require.EqualValues(t, 1, h.Seq())
		require.Equal(t, body, got)
		if size > 1472 {
			require.EqualValues(t, 1, b.Stats().IP.Reassembled)
			require.EqualValues(t, 1, a.Stats().IP.Reassembled)
		}
	}
}

func TestAPingToTheHostItselfIsAnswered(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	for _, dst := range []string{"127.0.0.1", "192.0.2.1"} {
		raw := openRaw(t, s)
		require.NoError(t, raw.Connect(addr(dst)))
		_, err := raw.Write(echoRequest(1, 2, []byte("self")))
		require.NoError(t, err)
		var types []wire.ICMPType
		for range 2 {
			buf := make([]byte, 100)
			n, _, _, _, err := raw.ReadFrom(buf)
			require.NoError(t, err)
			h, _, _ := wire.ParseICMP(buf[:n])
			types = append(types, h.Type)
		}
		require.Equal(t, []wire.ICMPType{wire.ICMPEcho, wire.ICMPEchoReply}, types)
	}
	require.EqualValues(t, 0, s.Stats().NICs[1].TxFrames-1, "only the ARP announcement was sent")
}

func TestEchoRequestsToGroupsAreNotAnswered(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	for _, dst := range []string{"192.0.2.255", "255.255.255.255", "224.0.0.1"} {
		p.ip(wire.Broadcast(), wire.IPv4{Proto: wire.ProtoICMP, Dst: addr(dst)}, echoRequest(1, 1, nil))
	}
	require.Empty(t, p.sent())
	require.Equal(t, 3, dropped(s, dropEchoBroadcast))
}

func TestCorruptedEchoRequestsAreNotAnswered(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	b := echoRequest(1, 1, []byte("x"))
	b[8]++ // the data, which then does not match the checksum
	p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, b)
	require.Empty(t, p.sent())
	require.Equal(t, 1, dropped(s, wire.BadICMPChecksum))
}

func TestMartiansAreDroppedByReason(t *testing.T) {
	ping := echoRequest(1, 1, nil)
	for _, test := range []struct {
		h    wire.IPv4
		to   wire.MAC
		want wire.Reason
	}{
		{wire.IPv4{Src: addr("224.0.0.1")}, macA, dropGroupSource},
		{wire.IPv4{Src: addr("255.255.255.255")}, macA, dropGroupSource},
		{wire.IPv4{Src: addr("192.0.2.255")}, macA, dropGroupSource},
		{wire.IPv4{Src: addr("240.1.1.1")}, macA, dropGroupSource},
		{wire.IPv4{Src: addr("0.0.0.0")}, macA, dropNoSource},
		{wire.IPv4{Src: addr("127.0.0.1")}, macA, dropLoopbackOutside},
		{wire.IPv4{Dst: addr("127.0.0.1")}, macA, dropLoopbackOutside},
		{wire.IPv4{Src: addr("192.0.2.1")}, macA, dropOwnSource},
		{wire.IPv4{Dst: addr("192.0.2.3")}, macA, dropNotLocal},
		{wire.IPv4{Dst: addr("224.0.0.9")}, wire.MulticastMAC(addr("224.0.0.9")), dropNotJoined},
		{wire.IPv4{}, wire.Broadcast(), dropUnicastInBroadcast},
		{wire.IPv4{}, wire.MAC{2, 9}, dropOtherMAC},
		{wire.IPv4{Options: []byte{131, 7, 4, 192, 0, 2, 9, 0}}, macA, dropSourceRoute},
	} {
		s, p := hostAndKnownPeer(t)
		test.h.Proto = wire.ProtoICMP
		p.ip(test.to, test.h, ping)
		require.Empty(t, p.sent(), "%v", test.want)
		require.Equal(t, 1, dropped(s, test.want), "%v: %v", reasonText(test.want), s.Stats().Drops)
	}
}

func TestAnUnknownProtocolAndAClosedPortAreUnreachable(t *testing.T) {
	_, p := hostAndKnownPeer(t)
	p.ip(macA, wire.IPv4{Proto: 200}, make([]byte, 1000))
	p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP}, udpDatagram(addrPort("192.0.2.2:5"), addrPort("192.0.2.1:6"), []byte("hi")))
	frames := p.take()
	require.Len(t, frames, 2)
	for i, code := range []uint8{wire.UnreachProto, wire.UnreachPort} {
		h, b := parseFrame(t, frames[i])
		require.Equal(t, addr("192.0.2.2"), h.Dst)
		require.LessOrEqual(t, int(h.TotalLen), 576)
		icmp, body, r := wire.ParseICMP(b)
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.ICMPUnreachable, icmp.Type)
		require.Equal(t, code, icmp.Code)
		quoted, _, r := wire.ParseQuoted(body)
		require.Equal(t, wire.OK, r)
		require.Equal(t, addr("192.0.2.2"), quoted.Src)
	}
	h, _ := parseFrame(t, frames[0])
	require.EqualValues(t, 576, h.TotalLen, "as much as fits is quoted")
}

func TestNoErrorIsSentWhereRFC1122ForbidsIt(t *testing.T) {
	_, p := hostAndKnownPeer(t)
	udp := udpDatagram(addrPort("192.0.2.2:5"), addrPort("192.0.2.255:6"), []byte("hi"))
	p.ip(wire.Broadcast(), wire.IPv4{Proto: wire.ProtoUDP, Dst: addr("192.0.2.255")}, udp)
	p.ip(wire.Broadcast(), wire.IPv4{Proto: 200, Dst: addr("255.255.255.255")}, udp)
	require.Empty(t, p.sent())
}

func TestTheRateOfErrorsIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		knock := func(n int) int {
			for range n {
				p.ip(macA, wire.IPv4{Proto: 200}, make([]byte, 8))
			}
			return len(p.take())
		}
		require.Equal(t, icmpErrorBurst, knock(200))
		time.Sleep(10 * time.Millisecond)
		require.Equal(t, 10, knock(200))
		time.Sleep(time.Hour)
		require.Equal(t, icmpErrorBurst, knock(200))
		require.Equal(t, 600-2*icmpErrorBurst-10, dropped(s, dropICMPRate))
	})
}

// quote returns an ICMP error that quotes packet.
func quote(typ wire.ICMPType, code uint8, rest uint32, packet []byte) []byte {
	b := make([]byte, wire.ICMPLen+len(packet))
	h := wire.ICMP{Type: typ, Code: code, Rest: rest}
	h.Put(b, packet)
	return b
}

// icmpErrors has the ICMP errors and their errnos on Linux 6.18. datagram is the errno that connected UDP
// and raw sockets report, once. dial is the errno with which a TCP dial fails. nil means that the error
// is not reported.
var icmpErrors = []struct {
	typ      wire.ICMPType
	code     uint8
	datagram error
	dial     error
}{
	{wire.ICMPUnreachable, wire.UnreachNet, nil, syscall.ENETUNREACH},
	{wire.ICMPUnreachable, wire.UnreachHost, nil, syscall.EHOSTUNREACH},
	{wire.ICMPUnreachable, wire.UnreachProto, syscall.ENOPROTOOPT, syscall.ENOPROTOOPT},
	{wire.ICMPUnreachable, wire.UnreachPort, syscall.ECONNREFUSED, syscall.ECONNREFUSED},
	{wire.ICMPUnreachable, wire.UnreachFragNeeded, syscall.EMSGSIZE, nil},
	{wire.ICMPUnreachable, wire.UnreachSourceRoute, nil, syscall.EOPNOTSUPP},
	{wire.ICMPUnreachable, wire.UnreachNetUnknown, syscall.ENETUNREACH, syscall.ENETUNREACH},
	{wire.ICMPUnreachable, wire.UnreachHostUnknown, errHostDown, errHostDown},
	{wire.ICMPUnreachable, wire.UnreachHostIsolated, errHostIsolated, errHostIsolated}, // ENONET
	{wire.ICMPUnreachable, wire.UnreachNetProhibited, syscall.ENETUNREACH, syscall.ENETUNREACH},
	{wire.ICMPUnreachable, wire.UnreachHostProhibited, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
	{wire.ICMPUnreachable, wire.UnreachNetTOS, nil, syscall.ENETUNREACH},
	{wire.ICMPUnreachable, wire.UnreachHostTOS, nil, syscall.EHOSTUNREACH},
	{wire.ICMPUnreachable, wire.UnreachAdminProhibited, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
	{wire.ICMPUnreachable, precedenceViolation, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
	{wire.ICMPUnreachable, precedenceCutoff, syscall.EHOSTUNREACH, syscall.EHOSTUNREACH},
	{wire.ICMPUnreachable, 16, nil, nil},
	{wire.ICMPUnreachable, 77, nil, nil},
	{wire.ICMPTimeExceeded, wire.ExceededTTL, nil, syscall.EHOSTUNREACH},
	{wire.ICMPTimeExceeded, wire.ExceededReassembly, nil, nil},
	{wire.ICMPParamProblem, 0, syscall.EPROTO, syscall.EPROTO},
	{wire.ICMPParamProblem, 1, syscall.EPROTO, syscall.EPROTO},
	{wire.ICMPSourceQuench, 0, nil, nil},
}

func TestICMPErrorsReachTheSocketTheyAreAbout(t *testing.T) {
	for _, test := range icmpErrors {
		s, p := hostAndKnownPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		require.NoError(t, u.Connect(addrPort("192.0.2.2:9")))
		bystander := openUDP(t, s, "0.0.0.0:10")
		require.NoError(t, bystander.Connect(addrPort("192.0.2.2:9")))
		raw, err := s.OpenRaw(Family4, 99, netip.Addr{})
		require.NoError(t, err)
		defer raw.Close()
		require.NoError(t, raw.Connect(addr("192.0.2.2")))
		for name, write := range map[string]func([]byte) (int, error){"UDP": u.Write, "raw": raw.Write} {
			_, err := write([]byte("some bytes"))
			require.NoError(t, err)
			_, packet, _ := wire.ParseEthernet(p.take()[0])
			p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(test.typ, test.code, 1000, packet[:28]))
			_, err = write([]byte("y"))
			if test.datagram == nil {
				require.NoError(t, err, "%s: %v %v", name, test.typ, test.code)
			} else {
				require.ErrorIs(t, err, test.datagram, "%s: %v %v", name, test.typ, test.code)
				_, err = write([]byte("z"))
				require.NoError(t, err, "the error is reported once")
			}
			_, err = bystander.Write(nil)
			require.NoError(t, err)
			p.take()
		}
	}
}

func TestADialFailsWithTheErrnoOfTheICMPError(t *testing.T) {
	for _, test := range icmpErrors {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndKnownPeer(t)
			_, _, packet, wait := dialing(t, s, p, netip.AddrPort{})
			p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(test.typ, test.code, 1000, packet[:28]))
			want := test.dial
			if want == nil {
				want = context.Canceled // the error does not end the dial, so wait cancels the dial
			}
			require.ErrorIs(t, wait(), want, "%v %v", test.typ, test.code)
		})
	}
}

func TestForgedICMPErrorsAreIgnored(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	u := openUDP(t, s, "192.0.2.1:9")
	require.NoError(t, u.Connect(addrPort("192.0.2.2:9")))
	datagram := udpDatagram(addrPort("192.0.2.1:9"), addrPort("192.0.2.2:9"), []byte("x"))
	good := wire.IPv4{Proto: wire.ProtoUDP, Src: addr("192.0.2.1"), Dst: addr("192.0.2.2")}
	for _, change := range []func(h *wire.IPv4){
		func(h *wire.IPv4) { h.Src = addr("192.0.2.3") },
		func(h *wire.IPv4) { h.Dst = addr("192.0.2.9") },
		func(h *wire.IPv4) { h.Dst = addr("224.0.0.1") },
		func(h *wire.IPv4) { h.FragOffset = 8 },
	} {
		h := good
		change(&h)
		p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachPort, 0, ipPacket(h, datagram)))
		_, err := u.Write(nil)
		require.NoError(t, err)
	}
	p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachPort, 0, ipPacket(good, datagram)))
	_, err := u.Write(nil)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestFragmentationNeededLowersThePathMTU(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	u := openUDP(t, s, "0.0.0.0:9")
	to := addrPort("192.0.2.2:9")
	big := make([]byte, 1400)
	_, err := u.WriteTo(big, to, SendOptions{DontFragment: true})
	require.NoError(t, err)
	_, packet, _ := wire.ParseEthernet(p.take()[0])
	require.NotZero(t, binary.BigEndian.Uint16(packet[6:])&0x4000, "DF")
	p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachFragNeeded, 1300, packet[:28]))
	_, err = u.WriteTo(big, to, SendOptions{DontFragment: true})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	_, err = u.WriteTo(big, to, SendOptions{})
	require.NoError(t, err)
	require.Len(t, p.take(), 2, "in fragments")
	// If a router reports no MTU, the host uses the next plateau below 1428.
	p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachFragNeeded, 0, packet[:28]))
	// A stack has two caches of path MTUs. An error about a datagram is easier to forge than one about a TCP segment,
	// so it lowers only the MTU in datagramMTU. TCP does not use that cache, and route does not apply it.
	path, err := s.route(addr("192.0.2.2"), netip.Addr{})
	require.NoError(t, err)
	require.Equal(t, 1500, path.mtu, "the path as TCP sees it")
	s.datagramMTU.apply(s, &path)
	require.Equal(t, 1006, path.mtu, "the path of datagrams")
}

func TestPlateausDescend(t *testing.T) {
	for total, want := range map[int]int{65535: 32000, 1500: 1492, 1492: 1006, 300: 296, 296: 68, 20: 68} {
		require.Equal(t, want, plateau(total), "%d", total)
	}
}
