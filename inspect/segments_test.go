package inspect

import (
	"io"
	"net"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

func TestSegmentsTellTheStoryOfATransferWithLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, impair := hosttest.ImpairedPair(t, 1)
		dialed, accepted := connect(t, a, b, 1)
		s := open(t, Handler(a), "api/segments?id="+url.QueryEscape(idOf(dialed[0])))
		require.Equal(t, 200, s.status)
		synctest.Wait()
		impair(nic.Impairment{Latency: 20 * time.Millisecond, Loss: 0.02, Rate: 10_000_000})
		const total = 300_000
		go func() {
			dialed[0].Write(make([]byte, total))
			dialed[0].CloseWrite()
		}()
		go func() {
			io.Copy(io.Discard, accepted[0])
			accepted[0].Close()
		}()
		var sent, retransmitted, acked, sacks int
		for fin := false; !fin; {
			x := nextOf[SegmentItem](s, "segments")
			require.Zero(t, x.Lost)
			if x.Dir == "out" {
				if x.Retransmission {
					retransmitted += x.Len
				} else {
					require.Equal(t, uint32(sent), x.Seq)
					sent += x.Len
				}
				continue
			}
			acked = max(acked, int(x.Ack))
			sacks += len(x.SACK)
			require.Greater(t, x.Win, 65535, "windows are scaled")
			for _, b := range x.SACK {
				require.Less(t, b[0], b[1])
				require.LessOrEqual(t, b[1], uint32(total))
			}
			fin = x.Flags == "FIN,ACK" || x.Flags == "FIN,PSH,ACK"
		}
		require.Equal(t, total, sent)
		require.Positive(t, retransmitted)
		require.Positive(t, sacks)
		require.Equal(t, total+1, acked, "with the FIN")
	})
}

func TestSegmentsOfAnyLink(t *testing.T) {
	for name, newHosts := range map[string]func(t *testing.T) (a, b *usernet.Host, addr string){
		"IPv6 without Ethernet": func(t *testing.T) (a, b *usernet.Host, addr string) {
			a, b = hosttest.PairSix(t)
			return a, b, hosttest.Addr6B
		},
		"loopback": func(t *testing.T) (a, b *usernet.Host, addr string) {
			a = hosttest.Loopback(t)
			return a, a, "127.0.0.1"
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b, addr := newHosts(t)
				ln, err := b.Listen("tcp", ":80")
				require.NoError(t, err)
				defer ln.Close()
				c, err := a.DialTCP("tcp", nil, &net.TCPAddr{IP: net.ParseIP(addr), Port: 80})
				require.NoError(t, err)
				defer c.Close()
				d, err := ln.Accept()
				require.NoError(t, err)
				defer d.Close()
				s := open(t, Handler(a), "api/segments?id="+url.QueryEscape(idOf(c)))
				synctest.Wait()
				_, err = c.Write([]byte("hello"))
				require.NoError(t, err)
				x := nextOf[SegmentItem](s, "segments")
				require.Equal(t, "out", x.Dir)
				require.Equal(t, 5, x.Len)
				require.False(t, x.Retransmission)
				_, err = d.Write([]byte("hello, world"))
				require.NoError(t, err)
				x = nextOf[SegmentItem](s, "segments")
				require.Equal(t, "in", x.Dir)
				require.Equal(t, 12, x.Len)
				require.Equal(t, uint32(5), x.Ack)
			})
		})
	}
}

func TestSegmentsNeedAConnection(t *testing.T) {
	h := Handler(hosttest.Loopback(t))
	refused(t, h, 400, "GET", "api/segments")
	refused(t, h, 404, "GET", "api/segments?id=127.0.0.1:1->127.0.0.1:2")
}
