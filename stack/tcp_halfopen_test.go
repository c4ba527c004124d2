package stack

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

func TestHalfOpenConnectionsEndSoonerInAFullQueue(t *testing.T) {
	// RFC 4987 3.3: "Reducing the SYN-RECEIVED Timer".
	for _, tc := range []struct {
		n     int           // half-open connections, of at most 32
		after time.Duration // when the first of them ends
	}{{1, 63 * time.Second}, {16, 63 * time.Second}, {20, 31 * time.Second}, {24, 15 * time.Second}, {32, 7 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			d := &crowdDevice{t: t}
			s := newHost(t, d, "192.0.2.1/24", func(c *Config) {
				c.TCP.SynBacklog = 32
				c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
			})
			l := listenAt(t, s, addrPort("0.0.0.0:80"))
			for i := range tc.n {
				d.syn(uint16(2000 + i))
			}
			time.Sleep(tc.after - 100*time.Millisecond)
			require.EqualValues(t, tc.n, l.nhalf.Load())
			time.Sleep(200 * time.Millisecond)
			require.Less(t, int(l.nhalf.Load()), tc.n, "%d of 32", tc.n)
			time.Sleep(time.Minute)
			require.Zero(t, l.nhalf.Load())
			require.Empty(t, s.tcp.table.sockets())
		})
	}
}

func TestAResetIsTakenWhileTheAcceptQueueIsFull(t *testing.T) {
	// RFC 9293 3.10.7.4, second: in SYN-RECEIVED after a passive open, a RST returns the connection to
	// LISTEN. This rule also applies if the accept queue is full, and to a RST with or without an ACK.
	for _, flags := range []wire.TCPFlags{wire.FlagRST, wire.FlagRST | wire.FlagACK} {
		synctest.Test(t, func(t *testing.T) {
			server, client, f := floodPair(t)
			l, err := server.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{Backlog: 1})
			require.NoError(t, err)
			remote := addrPort("192.0.2.77:5000")
			f.send(remote.Addr(), addrA, wire.TCP{SrcPort: remote.Port(), DstPort: 80, Seq: 1000, Flags: wire.FlagSYN, Window: 1000}, nil)
			require.EqualValues(t, 1, l.nhalf.Load())
			_, err = client.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrA, 80), TCPOptions{})
			require.NoError(t, err)
			require.True(t, l.full())
			k := makeTuple(netip.AddrPortFrom(addrA, 80), remote, 0)
			half, _ := server.tcp.table.lookup(&k)
			require.NotNil(t, half)
			reset := wire.TCP{SrcPort: remote.Port(), DstPort: 80, Seq: 1005, Ack: uint32(half.conn.Una() + 1), Flags: flags}
			f.send(remote.Addr(), addrA, reset, nil)
			require.EqualValues(t, 1, l.nhalf.Load(), "a RST without the expected sequence number is ignored")
			reset.Seq = 1001
			f.send(remote.Addr(), addrA, reset, nil)
			require.Zero(t, l.nhalf.Load())
			half, _ = server.tcp.table.lookup(&k)
			require.Nil(t, half)
		})
	}
}

func TestTheKeyOfCookiesRotates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := hostAndKnownPeer(t)
		first := s.cookieCount()
		key, ok := s.cookieKey(first)
		require.True(t, ok)
		period := time.Duration(cookiePeriod)
		time.Sleep(period)
		next, ok := s.cookieKey(first + 1)
		require.True(t, ok)
		require.NotEqual(t, key, next)
		before, ok := s.cookieKey(first)
		require.True(t, ok, "cookies of the previous period are valid")
		require.Equal(t, key, before)
		time.Sleep(period)
		_, ok = s.cookieKey(first)
		require.False(t, ok, "older cookies are not valid")
		time.Sleep(2 * period)
		_, ok = s.cookieKey(first + 3)
		require.False(t, ok, "no cookie was made in that period")
		_, ok = s.cookieKey(first + 4)
		require.True(t, ok)
	})
}

func TestAbortedHalfOpenConnectionsLeaveTheListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &crowdDevice{t: t}
		s := newHost(t, d, "192.0.2.1/24", func(c *Config) {
			c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
		})
		l := listenAt(t, s, addrPort("0.0.0.0:80"))
		for i := range 3 {
			d.syn(uint16(2000 + i))
		}
		require.EqualValues(t, 3, l.nhalf.Load())
		for c := range s.Conns() {
			require.Equal(t, tcp.SynReceived, c.State)
			c.Abort()
		}
		require.Zero(t, l.nhalf.Load())
		require.Empty(t, s.tcp.table.sockets())
	})
}
