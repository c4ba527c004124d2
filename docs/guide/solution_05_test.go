package guide

import (
	"math"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

func TestSolution05_1Statistics(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, _ := pair(t, nic.Impairment{Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.1}, 3, nil)
		var times []float64
		stats, err := a.Ping(t.Context(), "192.0.2.2", usernet.PingConfig{
			Count:    50,
			Interval: 300 * time.Millisecond,
			OnReply: func(r usernet.PingReply) {
				if r.Err == nil && !r.Duplicate {
					times = append(times, float64(r.RTT))
				}
			},
		})
		require.NoError(t, err)

		shortest, longest, sum, squares := math.Inf(1), 0.0, 0.0, 0.0
		for _, rtt := range times {
			shortest, longest = min(shortest, rtt), max(longest, rtt)
			sum += rtt
			squares += rtt * rtt
		}
		n := float64(len(times))
		mean := sum / n
		mdev := math.Sqrt(squares/n - mean*mean)
		require.Equal(t, stats.Received, len(times))
		require.Equal(t, stats.Min, time.Duration(shortest))
		require.Equal(t, stats.Max, time.Duration(longest))
		require.InDelta(t, float64(stats.Avg), mean, 1000)
		require.InDelta(t, float64(stats.MDev), mdev, 1000)
		require.Less(t, len(times), 50)
	})
}

// The socket "ip4:icmp" sends and receives ICMP messages. It also receives the messages for others, so the identifier has
// to be compared.
func TestSolution05_2OwnPing(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, _ := pair(t, nic.Impairment{Latency: 20 * time.Millisecond}, 1, nil)
		pc, err := a.ListenPacket("ip4:icmp", "0.0.0.0")
		require.NoError(t, err)
		defer pc.Close()

		time.Sleep(time.Second) // the hosts have announced themselves

		const id, seq = 0x1234, 7
		data := []byte("is anybody there?")
		message := make([]byte, wire.ICMPLen+len(data))
		copy(message[wire.ICMPLen:], data)
		h := wire.ICMP{Type: wire.ICMPEcho, Rest: wire.EchoRest(id, seq)}
		h.Put(message, data)
		began := time.Now()
		_, err = pc.WriteTo(message, &net.IPAddr{IP: net.IPv4(192, 0, 2, 2)})
		require.NoError(t, err)

		pc.SetReadDeadline(began.Add(time.Second))
		buf := make([]byte, 1500)
		for {
			n, from, err := pc.ReadFrom(buf)
			require.NoError(t, err)
			reply, body, reason := wire.ParseICMP(buf[:n])
			if reason == wire.OK && reply.Type == wire.ICMPEchoReply && reply.ID() == id && reply.Seq() == seq {
				require.Equal(t, "192.0.2.2", from.String())
				require.Equal(t, data, body)
				break
			}
		}
		require.Equal(t, 80*time.Millisecond, time.Since(began).Round(time.Millisecond), "a round trip for ARP, one for the echo")
	})
}

// A destination unreachable message returns, with the code 3, port unreachable. It quotes the datagram, so the host finds
// the socket, whose next call returns ECONNREFUSED.
func TestSolution05_3PortUnreachable(t *testing.T) {
	solution(t, func(t *testing.T) {
		codes := []uint8{}
		a, _ := pair(t, nic.Impairment{}, 1, func(dev nic.Device) nic.Device {
			return lab.Frames(dev, "icmp", func(_ time.Duration, frame []byte) {
				_, message, _ := wire.ParseIPv4(frame[wire.EthernetLen:])
				h, _, _ := wire.ParseICMP(message)
				require.Equal(t, wire.ICMPUnreachable, h.Type)
				codes = append(codes, h.Code)
			})
		})
		c, err := a.Dial("udp", "192.0.2.2:9")
		require.NoError(t, err)
		_, err = c.Write([]byte("hello"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 10))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		synctest.Wait()
		require.Equal(t, []uint8{wire.UnreachPort}, codes)
	})
}
