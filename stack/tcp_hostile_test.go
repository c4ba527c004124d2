package stack

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

func TestACookieForASynWithoutAnMSSOptionStandsForTheDefault(t *testing.T) {
	// RFC 9293 3.7.1: "If an MSS Option is not received at connection setup, TCP
	// implementations MUST assume a default send MSS of 536".
	for mss, want := range map[uint16]int{0: 536, 50: 64, 536: 536, 1460: 1460, 9000: 1460} {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndKnownPeer(t)
			l, err := s.ListenTCP(FamilyAny, addrPort("192.0.2.1:80"), ListenOptions{})
			require.NoError(t, err)
			l.nhalf.Add(int32(s.tcp.synBacklog)) // as in a flood
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

func TestASynForAConnectionInTimeWaitIsChallengedWhereNobodyListens(t *testing.T) {
	// RFC 5961 4.2: "If the SYN bit is set, irrespective of the sequence number, TCP
	// endpoints MUST send a challenge ACK". Without an answer the peer would try in vain
	// until 2 MSL are over.
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, d := connect(t, a, b)
		require.NoError(t, c.CloseWrite())
		_, err := d.Read(make([]byte, 1))
		require.Error(t, err)
		require.NoError(t, d.CloseWrite())
		time.Sleep(time.Second)
		k := makeTuple(c.LocalAddr(), c.RemoteAddr())
		_, w := a.tcp.table.lookup(&k)
		require.NotNil(t, w)
		before := a.Stats().TCP
		seg := tcp.Segment{TCP: wire.TCP{Seq: uint32(w.RcvNxt()) + 1000, Flags: wire.FlagSYN, HasTS: true, TSVal: 1 << 30}}
		require.False(t, a.tcp.waits.segment(a.now(), w, &seg))
		require.Equal(t, before.Sent+1, a.Stats().TCP.Sent)
	})
}
