package tcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAGigabitOverATenthOfASecondFillsWithTheDefaults(t *testing.T) {
	l := bottleneck{rate: 1e9, rtt: 100 * Millisecond}
	l.queue = l.bdp()
	s := newNetsim(l, CUBIC, 1, 1)
	d := DefaultParams()
	s.params.RecvBufferMax, s.params.SendBufferMax = d.RecvBufferMax, d.SendBufferMax
	g, _ := s.measure(2*Second, 2*Second)
	require.Greater(t, g[0], 0.95*l.line())
}
