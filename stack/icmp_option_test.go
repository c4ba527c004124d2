package stack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// RFC 1122 3.2.2.5: "A host SHOULD generate Parameter Problem messages." RFC 792: the pointer
// "identifies the octet where an error was detected".
func TestMalformedOptionsGetAParameterProblem(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	u := openUDP(t, s, "0.0.0.0:9")
	datagram := udpDatagram(addrPort("192.0.2.2:5"), addrPort("192.0.2.1:9"), []byte("hi"))
	problem := func(h wire.IPv4, payload []byte) []byte {
		h.ID = 77
		p.ip(macA, h, payload)
		frames := p.take()
		if len(frames) == 0 {
			return nil
		}
		require.Len(t, frames, 1)
		answer, b := parseFrame(t, frames[0])
		require.Equal(t, addr("192.0.2.2"), answer.Dst)
		icmp, body, r := wire.ParseICMP(b)
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.ICMPParamProblem, icmp.Type)
		quoted, _, _ := wire.ParseQuoted(body)
		require.EqualValues(t, 77, quoted.ID)
		return []byte{icmp.Code, icmp.Pointer()}
	}
	// The pointer of this Record Route option, 10, is not the start of an address.
	udp := wire.IPv4{Proto: wire.ProtoUDP, Options: []byte{7, 11, 10, 1, 1, 1, 1, 2, 2, 2, 2}}
	require.Equal(t, []byte{0, 22}, problem(udp, datagram))
	udp.Options = []byte{1, 1, 200, 9} // the option with the length 9 exceeds the header
	require.Equal(t, []byte{0, 22}, problem(udp, datagram))
	require.Empty(t, texts(u), "the datagrams are dropped")
	first := udp
	first.MoreFragments = true
	require.Equal(t, []byte{0, 22}, problem(first, datagram[:8]))
	later := udp
	later.FragOffset = 8
	require.Nil(t, problem(later, datagram), "not about a later fragment")
	icmp := wire.IPv4{Proto: wire.ProtoICMP, Options: []byte{200, 1}}
	require.Equal(t, []byte{0, 20}, problem(icmp, echoRequest(1, 1, nil)))
	require.Nil(t, problem(icmp, quote(wire.ICMPUnreachable, 0, 0, ipPacket(udp, datagram))), "not about an error")
	udp.Dst = addr("192.0.2.255")
	p.ip(wire.Broadcast(), udp, datagram)
	require.Empty(t, p.take(), "not about a broadcast")
	require.Equal(t, 7, dropped(s, wire.BadIPv4Options))
	udp.Options, udp.Dst = []byte{200, 4, 0, 0}, addr("192.0.2.1")
	require.Nil(t, problem(udp, datagram))
	require.Equal(t, []string{"hi"}, texts(u), "an unknown option is ignored")
}

// RFC 1122 3.2.2.6: "If a Record Route and/or Time Stamp option is received in an ICMP Echo
// Request, this option (these options) SHOULD be updated to include the current host and
// included in the IP header of the Echo Reply message, without 'truncation'."
func TestAnEchoReplyReturnsRecordedRouteAndTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{NoTxChecksum: true, MACs: [2][6]byte{macA, macB}})
		s := newHost(t, da, "192.0.2.1/24")
		p := &peer{t: t, dev: db}
		db.Attach(func(batch []nic.Frame) {
			for i := range batch {
				p.frames = append(p.frames, batch[i].AppendTo(nil))
			}
		})
		p.reply()
		time.Sleep(3*time.Hour + 25*time.Millisecond) // a bubble's time begins at midnight UT
		ms := binary.BigEndian.AppendUint32(nil, 3*3600_000+25)
		ask := func(options, body []byte) (replies []wire.IPv4, data []byte) {
			p.arp(macA, wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")})
			p.take()
			p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP, Options: options}, echoRequest(3, 4, body))
			for _, f := range p.take() {
				h, b := parseFrame(t, f)
				replies, data = append(replies, h), append(data, b...)
			}
			return replies, data
		}
		route, times := []byte{7, 11, 8, 9, 9, 9, 9, 0, 0, 0, 0}, []byte{68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0}
		route2, times2 := []byte{7, 11, 12, 9, 9, 9, 9, 192, 0, 2, 1}, append([]byte{68, 12, 13, 1, 192, 0, 2, 1}, ms...)
		pad := func(b ...byte) []byte { return append(b, make([]byte, -len(b)&3)...) }
		for _, c := range []struct{ asked, answered []byte }{
			{route, pad(route2...)},
			{times, times2},
			{append([]byte{1}, append(times, route...)...), pad(append(route2, times2...)...)},
			{[]byte{148, 4, 0, 0}, nil},  // a Router Alert is not returned
			{pad(7, 3, 4), pad(7, 3, 4)}, // a route without space for an address is returned unchanged
		} {
			replies, data := ask(c.asked, []byte("ping"))
			require.Len(t, replies, 1)
			require.Equal(t, c.answered, replies[0].Options, "%v", c.asked)
			require.Equal(t, "ping", string(data[wire.ICMPLen:]))
		}
		// "Data received ... MUST be entirely included", and only the first fragment has the options.
		body := make([]byte, 1500-60-wire.ICMPLen)
		full := append([]byte{7, 39, 4}, make([]byte, 37)...)
		replies, data := ask(full, body)
		require.Len(t, replies, 1)
		require.Len(t, data, wire.ICMPLen+len(body))
		require.Equal(t, []byte{7, 39, 8, 192, 0, 2, 1}, replies[0].Options[:7])
		s.lowerPathMTU(addr("192.0.2.2"), netip.Addr{}, 600)
		replies, data = ask(full, body)
		require.Len(t, replies, 3)
		require.Len(t, data, wire.ICMPLen+len(body))
		require.Len(t, replies[0].Options, 40)
		require.EqualValues(t, 536, replies[1].FragOffset)
		require.Empty(t, replies[1].Options)
		require.Empty(t, replies[2].Options)
		require.False(t, replies[2].MoreFragments)
	})
}
