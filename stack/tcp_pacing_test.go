package stack

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// TestPacedConnectionsKeepTheirRateInVirtualTime transfers data over a link with 10 Mbit/s, 100 ms and a
// loss of 1 %. BBR reaches the rate of the link, and CUBIC a fraction of that rate.
func TestPacedConnectionsKeepTheirRateInVirtualTime(t *testing.T) {
	took := make(map[tcp.Congestion]time.Duration)
	for _, cc := range []tcp.Congestion{tcp.CUBIC, tcp.BBR} {
		synctest.Test(t, func(t *testing.T) {
			x, y := nic.Pipe(nic.PipeConfig{GSO: -1})
			out := nic.Impairment{Latency: 50 * time.Millisecond, Rate: 10_000_000, Loss: 0.01}
			dx := nic.Impair(x, nic.ImpairConfig{Out: out, In: nic.Impairment{Latency: 50 * time.Millisecond}, Seed: 1})
			p := tcp.DefaultParams()
			p.Congestion = cc
			a := newHost(t, dx, "192.0.2.1/24", func(c *Config) { c.TCP.Params = &p })
			b := newHost(t, y, "192.0.2.2/24")
			c, d := connect(t, a, b)
			began := time.Now()
			exchange(t, c, d, 4<<20)
			took[cc] = time.Since(began)
			info := c.Info()
			require.Equal(t, cc, info.Congestion)
			require.NotZero(t, info.PacingRate)
			c.Close()
			d.Close()
		})
	}
	t.Log(took)
	require.Less(t, took[tcp.BBR], 6*time.Second, "the link needs 3.4 s")
	require.Less(t, 2*took[tcp.BBR], took[tcp.CUBIC])
}
