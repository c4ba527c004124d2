package stack

import (
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// Datagrams of 3000 bytes are fragmented. Their fragments go to the transmit queue while another
// goroutine sends, and all must leave the queue.
func TestConcurrentSendersLeaveNothingInTheQueue(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	var wg sync.WaitGroup
	for i := range 8 {
		port := uint16(1000 + i)
		u, v := openUDP(t, a, "0.0.0.0:0"), openUDP(t, b, netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
		require.NoError(t, u.Connect(netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port)))
		for _, s := range []*UDP{u, v} {
			require.NoError(t, s.SetReadDeadline(time.Now().Add(time.Minute)))
		}
		size := 10
		if i%2 == 1 {
			size = 3000
		}
		wg.Go(func() {
			in := make([]byte, 4000)
			for range 2000 {
				n, _, from, _, err := v.ReadFrom(in)
				if err == nil {
					_, err = v.WriteTo(in[:n], from, SendOptions{})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			out, in := make([]byte, size), make([]byte, 4000)
			for range 2000 {
				u.Write(out)
				if n, err := u.Read(in); n != size || err != nil {
					t.Error(n, err)
					return
				}
			}
		})
	}
	wg.Wait()
	for _, s := range []*Stack{a, b} {
		require.Equal(t, DatagramStats{Received: 16000, Sent: 16000}, s.Stats().UDP)
	}
}

func TestDatagramHeadersFollowTheOptionsOfEachCall(t *testing.T) {
	for name, cfg := range map[string]nic.PipeConfig{"offloads": {}, "plain": {NoTxChecksum: true}} {
		a, b := twoHosts(t, cfg)
		u := openUDP(t, a, "0.0.0.0:1")
		v, w := openUDP(t, b, "0.0.0.0:2"), openUDP(t, b, "0.0.0.0:3")
		buf := make([]byte, 100)
		send := func(to *UDP, port uint16, n int, o SendOptions) Meta {
			dst := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.2"), port)
			_, err := u.WriteTo(buf[:n], dst, o)
			require.NoError(t, err)
			_, full, from, meta, err := to.ReadFrom(buf)
			require.NoError(t, err)
			require.Equal(t, n, full, name)
			require.Equal(t, addrPort("192.0.2.1:1"), from)
			return meta
		}
		for range 2 {
			for n := range 50 {
				meta := send(v, 2, n, SendOptions{})
				require.Equal(t, uint8(64), meta.TTL)
				require.Zero(t, meta.TOS)
				meta = send(w, 3, n, SendOptions{TTL: 7, TOS: uint8(4 * n), SetTOS: true})
				require.Equal(t, uint8(7), meta.TTL)
				require.Equal(t, uint8(4*n), meta.TOS)
			}
			require.NoError(t, a.AddRoute(Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), Via: netip.MustParseAddr("192.0.2.2")}))
			require.NoError(t, a.DelRoute(Route{Dst: netip.MustParsePrefix("198.51.100.0/24")}))
		}
		require.Empty(t, b.Stats().Drops)
	}
}
