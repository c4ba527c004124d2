package guide

import (
	"encoding/binary"
	"math"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// 4500+0021+8b2a+4000+4011+0000+c000+0201+c000+0202 = 2d45f. The carry 2 is added: d461. Inverted: 2b9e.
func TestSolution04_1Checksum(t *testing.T) {
	header := []byte{0x45, 0, 0, 0x21, 0x8b, 0x2a, 0x40, 0, 0x40, 0x11, 0x2b, 0x9e, 0xc0, 0, 2, 1, 0xc0, 0, 2, 2}
	sum := uint32(0)
	for i := 0; i < len(header); i += 2 {
		if i != 10 { // the checksum itself
			sum += uint32(binary.BigEndian.Uint16(header[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	require.Equal(t, uint16(0x2b9e), ^uint16(sum))
	require.Equal(t, binary.BigEndian.Uint16(header[10:]), ^uint16(sum))
	require.Zero(t, wire.Checksum(header), "with the checksum in its place the sum is zero, and that is what a receiver checks")
}

// Without one fragment there is no datagram. A datagram of n fragments arrives with the probability 0.9^n, so it has to be
// sent 1/0.9^n times on average: 1.1, 1.4 and 2.9 times.
func TestSolution04_2LostFragment(t *testing.T) {
	solution(t, func(t *testing.T) {
		var lose atomic.Bool
		a, b := pair(t, nic.Impairment{}, 1, func(dev nic.Device) nic.Device {
			return lab.Drop(dev, func(frame []byte) bool {
				h, _, _ := wire.ParseIPv4(frame[wire.EthernetLen:])
				return h.Proto == wire.ProtoUDP && h.FragOffset > 0 && h.MoreFragments && lose.Load()
			})
		})
		pc, err := b.ListenPacket("udp", "192.0.2.2:9")
		require.NoError(t, err)
		c, err := a.Dial("udp", "192.0.2.2:9")
		require.NoError(t, err)
		for _, lost := range []bool{false, true} {
			lose.Store(lost)
			_, err = c.Write(make([]byte, 3000))
			require.NoError(t, err)
			pc.SetReadDeadline(time.Now().Add(2 * time.Minute))
			n, _, err := pc.ReadFrom(make([]byte, 4000))
			if lost {
				require.Error(t, err, "not a shorter datagram, but none")
			} else {
				require.NoError(t, err)
				require.Equal(t, 3000, n)
			}
		}
	})
	for n, times := range map[float64]float64{1: 1.1, 3: 1.4, 10: 2.9} {
		require.InDelta(t, times, 1/math.Pow(0.9, n), 0.05)
	}
}
