package stack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

func TestACookieForASYNWithoutMSSHasTheDefault(t *testing.T) {
	// RFC 9293 3.7.1: "If an MSS Option is not received at connection setup, TCP
	// implementations MUST assume a default send MSS of 536".
	for mss, want := range map[uint16]int{0: 536, 28: 28, 50: 28, 300: 256, 536: 536, 1460: 1460, 9000: 1460} {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndKnownPeer(t)
			l, err := s.ListenTCP(FamilyAny, addrPort("192.0.2.1:80"), ListenOptions{})
			require.NoError(t, err)
			l.nhalf.Add(int32(s.tcp.synBacklog)) // as in a SYN flood
			p.segments()
			send := func(h wire.TCP) []wire.TCP {
				h.SrcPort, h.DstPort, h.Window = 1000, 80, 1000
				p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP, Dst: addr("192.0.2.1")}, tcpSegment(addr("192.0.2.1"), h))
				synctest.Wait()
				list, _, _ := p.segments()
				return list
			}
			list := send(wire.TCP{Seq: 5000, Flags: wire.FlagSYN, MSS: mss})
			require.Len(t, list, 1)
			send(wire.TCP{Seq: 5001, Ack: list[0].Seq + 1, Flags: wire.FlagACK})
			c, err := l.Accept()
			require.NoError(t, err)
			require.Equal(t, want, c.Info().SndMSS)
			require.NoError(t, c.SetLinger(0))
			c.Close()
		})
	}
}

func TestAnOldCookieOpensNothing(t *testing.T) {
	// If cookies never expired, an attacker could collect cookies and replay them later, to open connections
	// without a SYN. Therefore a cookie contains a counter (RFC 4987 3.6).
	for age, taken := range map[time.Duration]bool{
		time.Second: true, 30 * time.Second: true, 5 * time.Minute: false, 30 * time.Minute: false,
	} {
		t.Run(age.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, p := hostAndKnownPeer(t)
				l, err := s.ListenTCP(FamilyAny, addrPort("192.0.2.1:80"), ListenOptions{})
				require.NoError(t, err)
				l.nhalf.Add(int32(s.tcp.synBacklog)) // as in a SYN flood
				p.segments()
				send := func(h wire.TCP) []wire.TCP {
					h.DstPort, h.Window = 80, 1000
					p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP, Dst: addr("192.0.2.1")}, tcpSegment(addr("192.0.2.1"), h))
					synctest.Wait()
					list, _, _ := p.segments()
					return list
				}
				syn := wire.TCP{SrcPort: 1000, Seq: 5000, Flags: wire.FlagSYN, MSS: 1460}
				list := send(syn)
				require.Len(t, list, 1)
				time.Sleep(age)
				syn.SrcPort++
				require.Len(t, send(syn), 1, "a later SYN also gets a cookie, so the host still accepts cookies")
				send(wire.TCP{SrcPort: 1000, Seq: 5001, Ack: list[0].Seq + 1, Flags: wire.FlagACK})
				require.NoError(t, l.SetDeadline(time.Now().Add(time.Millisecond)))
				c, err := l.Accept()
				require.Equal(t, taken, err == nil, "Accept: %v", err)
				if err == nil {
					require.NoError(t, c.SetLinger(0))
					require.NoError(t, c.Close())
				}
			})
		})
	}
}

func TestASYNInTimeWaitWithoutAListenerIsChallenged(t *testing.T) {
	// RFC 5961 4.2: "If the SYN bit is set, irrespective of the sequence number, TCP endpoints MUST
	// send a challenge ACK". Without an answer the peer would retransmit its SYN until 2 MSL have
	// passed.
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		done := dialKnownPeer(t, s)
		list, _, _ := p.segments()
		iss, port := list[0].Seq, list[0].SrcPort
		send := func(h wire.TCP) []wire.TCP {
			h.SrcPort, h.DstPort, h.Window = 80, port, 1000
			p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), h))
			synctest.Wait()
			list, _, _ := p.segments()
			return list
		}
		send(wire.TCP{Seq: 100, Ack: iss + 1, Flags: wire.FlagSYN | wire.FlagACK})
		c := <-done
		require.NoError(t, c.CloseWrite())
		send(wire.TCP{Seq: 101, Ack: iss + 2, Flags: wire.FlagFIN | wire.FlagACK})
		k := makeTuple(c.LocalAddr(), c.RemoteAddr(), 0)
		_, w := s.tcp.table.lookup(&k)
		require.NotNil(t, w, "the connection is in TIME-WAIT")
		list = send(wire.TCP{Seq: 1000, Flags: wire.FlagSYN}) // acceptable for a new connection
		require.Len(t, list, 1)
		require.Equal(t, wire.FlagACK, list[0].Flags)
		require.Equal(t, []uint32{iss + 2, 102}, []uint32{list[0].Seq, list[0].Ack})
		require.NoError(t, c.Close())
	})
}

func TestBlindICMPErrorsDoNotBreakAConnection(t *testing.T) {
	// RFC 5927 4.1: an attacker that does not see the traffic has to guess a sequence number that is in
	// flight. RFC 5927 5.2: even with a correct guess, the attacker cannot end the connection.
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		done := dialKnownPeer(t, s)
		list, _, _ := p.segments()
		h := wire.TCP{SrcPort: 80, DstPort: list[0].SrcPort, Seq: 100, Ack: list[0].Seq + 1, Flags: wire.FlagSYN | wire.FlagACK, Window: 60000, MSS: 1460}
		send := func() {
			p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), h))
			synctest.Wait()
		}
		send()
		c := <-done
		sent := make([]byte, 10_000)
		_, err := c.Write(sent)
		require.NoError(t, err)
		_, _, packets := p.segments()
		packet := packets[len(packets)-1][:wire.IPv4Len+8]
		first := list[0].Seq + 1
		attack := func(i int, seq uint32) {
			binary.BigEndian.PutUint32(packet[wire.IPv4Len+4:], seq)
			codes := [...]uint8{wire.UnreachPort, wire.UnreachProto, wire.UnreachHost, wire.UnreachAdminProhibited, wire.UnreachFragNeeded}
			code, rest := codes[i%len(codes)], uint32(0)
			if code == wire.UnreachFragNeeded {
				rest = uint32(i) % 1500
			}
			p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, code, rest, packet))
		}
		n := flood(t)
		step := uint32(1 << 32 / uint64(n)) // n guesses are spread over all sequence numbers
		for i := range n {
			if seq := uint32(i) * step; seq-first >= uint32(len(sent)) {
				attack(i, seq)
			}
		}
		require.Equal(t, 1460, c.Info().SndMSS, "wrong guesses change nothing")
		require.GreaterOrEqual(t, dropped(s, dropICMPSequence), n-5)
		for i := range 1000 {
			attack(i, first+uint32(i))
		}
		require.Equal(t, minPathMTU-40, c.Info().SndMSS, "correct guesses make segments smaller, down to a limit")
		require.Equal(t, tcp.Established, c.Info().State)
		h.Flags, h.Seq, h.Ack = wire.FlagACK, 101, first+uint32(len(sent))
		send()
		require.Zero(t, c.Info().Unacked)
		require.NoError(t, c.SetLinger(0))
		require.NoError(t, c.Close())
	})
}

func TestACookieThatComesBackToAFullQueueIsNotReset(t *testing.T) {
	// The host ignores an ACK for which the accept queue has no room, whether or not the ACK has a cookie. The
	// peer's next segment has the cookie again.
	server, client, f := floodPair(t)
	l, err := server.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{Backlog: 1})
	require.NoError(t, err)
	dial := func() {
		_, err := client.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrA, 80), TCPOptions{})
		require.NoError(t, err)
	}
	dial()
	l.overflowAt.Store(int64(server.now()))
	remote := addrPort("192.0.2.77:5000")
	iss, _ := server.cookie(netip.AddrPortFrom(addrA, 80), remote, 1000, server.cookieCount(), 1)
	returnCookie := func() {
		f.send(remote.Addr(), addrA, wire.TCP{
			SrcPort: remote.Port(), DstPort: 80, Seq: 1001, Ack: uint32(iss) + 1, Flags: wire.FlagACK, Window: 1000,
		}, nil)
	}
	before := server.Stats().TCP
	returnCookie()
	require.Equal(t, before.Sent, server.Stats().TCP.Sent)
	require.Equal(t, 1, dropped(server, dropAcceptQueue))
	_, err = l.Accept()
	require.NoError(t, err)
	returnCookie()
	d, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, remote, d.RemoteAddr())
	// A segment without a valid cookie is answered with a RST.
	dial()
	remote = addrPort("192.0.2.77:5001")
	before = server.Stats().TCP
	returnCookie()
	require.Equal(t, before.Sent+1, server.Stats().TCP.Sent)
	require.Equal(t, before.CookiesBad+1, server.Stats().TCP.CookiesBad)
}
