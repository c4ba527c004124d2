package tcp

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowRTT is a reference: RFC 6298 section 2 in floating point.
type slowRTT struct{ srtt, rttvar, rto float64 }

func (e *slowRTT) sample(r float64, p *Params) {
	const alpha, beta, k = 1.0 / 8, 1.0 / 4, 4
	if e.srtt == 0 {
		e.srtt, e.rttvar = r, r/2
	} else {
		e.rttvar = (1-beta)*e.rttvar + beta*math.Abs(e.srtt-r)
		e.srtt = (1-alpha)*e.srtt + alpha*r
	}
	e.rto = min(e.srtt+max(float64(p.MinRTO), k*e.rttvar), float64(p.MaxRTO))
}

func TestRTTEstimatorAgreesWithRFC6298InFloatingPoint(t *testing.T) {
	p := DefaultParams()
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 5))
		var fast rttEstimator
		var slow slowRTT
		base := 1 + r.Int64N(int64(2*Second))
		for i := range 500 {
			x := Time(base + r.Int64N(base))
			fast.sample(Time(i)*Second, x, &p)
			slow.sample(float64(x), &p)
			// Each step rounds to nanoseconds. The tolerances allow for the rounding of earlier steps.
			require.InDelta(t, slow.srtt, float64(fast.srtt), 16)
			require.InDelta(t, slow.rttvar, float64(fast.rttvar), 32)
			require.InDelta(t, slow.rto, float64(fast.rto), 150)
		}
	}
}

func TestTheFirstSampleSetsRTOToThreeTimesRTT(t *testing.T) {
	// RFC 6298 2.2: "SRTT <- R, RTTVAR <- R/2, RTO <- SRTT + max (G, K*RTTVAR)".
	p := DefaultParams()
	var e rttEstimator
	e.sample(1, 300*Millisecond, &p)
	require.Equal(t, 300*Millisecond, e.srtt)
	require.Equal(t, 150*Millisecond, e.rttvar)
	require.Equal(t, 900*Millisecond, e.timeout(0, &p))
}

func TestInitialRTOIsOneSecondAndBacksOff(t *testing.T) {
	p := DefaultParams()
	var e rttEstimator
	want := Second // RFC 6298 2.1
	for backoff := range uint8(255) {
		require.Equal(t, min(want, p.MaxRTO), e.timeout(backoff, &p), "back-off %d", backoff)
		want = min(2*want, p.MaxRTO) // RFC 6298 5.5
	}
	p.MaxRTO = Second / 2
	require.Equal(t, p.MaxRTO, e.timeout(0, &p), "RFC 6298 2.5: a maximum value MAY be placed on RTO")
}

func TestAnRTTSampleOfZeroCounts(t *testing.T) {
	p := DefaultParams()
	var e rttEstimator
	e.sample(1, 0, &p)
	require.Positive(t, e.srtt, "0 would mean that there is no sample")
	require.Positive(t, e.min)
	e.sample(2, -5, &p)
	require.Positive(t, e.srtt)
}

func TestMinRTTExpiresAfterItsWindow(t *testing.T) {
	p := DefaultParams()
	var e rttEstimator
	e.sample(1, 10*Millisecond, &p)
	e.sample(Second, 50*Millisecond, &p)
	require.Equal(t, 10*Millisecond, e.min)
	e.sample(minRTTWindow+2, 40*Millisecond, &p)
	require.Equal(t, 40*Millisecond, e.min, "the path may have changed since")
}
