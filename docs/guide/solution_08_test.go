package guide

import (
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// Both send a FIN before they have seen the other's: FIN-WAIT-1. Then each gets a FIN that does not acknowledge its own:
// CLOSING. With the ACK of its own FIN it is in TIME-WAIT, and both ends are (RFC 9293 3.6, figure 13).
func TestSolution08_1SimultaneousClose(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, b := pair(t, nic.Impairment{Latency: 10 * time.Millisecond}, 1, nil)
		client, server := connect(t, a, b)
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, client.CloseWrite())
		require.NoError(t, server.CloseWrite())
		seen := map[*usernet.Host][]tcp.State{}
		for range 50 {
			for _, h := range []*usernet.Host{a, b} {
				for c := range h.Conns() {
					if s := seen[h]; len(s) == 0 || s[len(s)-1] != c.State {
						seen[h] = append(s, c.State)
					}
				}
			}
			time.Sleep(time.Millisecond)
		}
		want := []tcp.State{tcp.FinWait1, tcp.Closing, tcp.TimeWait}
		require.Equal(t, want, seen[a])
		require.Equal(t, want, seen[b])
	})
}

// Close sends a RST and forgets the connection. The other end reads ECONNRESET, even if data that it has not read arrived
// before.
func TestSolution08_2Linger(t *testing.T) {
	solution(t, func(t *testing.T) {
		resets := 0
		a, b := pair(t, nic.Impairment{Latency: 10 * time.Millisecond}, 1, func(dev nic.Device) nic.Device {
			return lab.Frames(dev, "tcp", func(_ time.Duration, frame []byte) {
				_, segment, _ := wire.ParseIPv4(frame[wire.EthernetLen:])
				if h, _, _ := wire.ParseTCP(segment); h.Flags&wire.FlagRST != 0 {
					resets++
				}
			})
		})
		client, server := connect(t, a, b)
		require.NoError(t, client.SetLinger(0))
		require.NoError(t, client.Close())
		_, err := io.ReadAll(server)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		synctest.Wait()
		require.Equal(t, 1, resets)
	})
}

// The SYN is sent eight times, with pauses of 1, 2, 4, … 64 seconds. 128 seconds after the last one the dial fails.
func TestSolution08_3SYNs(t *testing.T) {
	solution(t, func(t *testing.T) {
		var sent []time.Duration
		a, _ := pair(t, nic.Impairment{}, 1, func(dev nic.Device) nic.Device {
			silent := lab.Drop(dev, func(frame []byte) bool {
				_, segment, _ := wire.ParseIPv4(frame[wire.EthernetLen:])
				h, _, _ := wire.ParseTCP(segment)
				return h.DstPort == 81
			})
			return lab.Frames(silent, "tcp port 81", func(at time.Duration, _ []byte) { sent = append(sent, at) })
		})
		_, err := a.Dial("tcp", "192.0.2.2:81")
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		synctest.Wait()
		var seconds []float64
		for _, at := range sent {
			seconds = append(seconds, (at - sent[0]).Round(100*time.Millisecond).Seconds())
		}
		require.Equal(t, []float64{0, 1, 3, 7, 15, 31, 63, 127}, seconds)
	})
}
