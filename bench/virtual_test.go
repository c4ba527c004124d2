package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet/internal/netns"
)

// A bottleneck passes no more than its rate. In the short time of the test, most flows are in slow start.
func TestFlowsShareASimulatedBottleneck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		const flows = 100
		r, err := simulate(&task{N: flows, Size: 1e6, Time: 100 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		// Besides the data, the packets carry headers, and some are acknowledgements and handshakes.
		limit := bottleneckRate / 8 * r.Time.Seconds()
		if r.Total < limit/50 || r.Total > limit {
			t.Errorf("%.0f bytes were read; the bottleneck passes %.0f", r.Total, limit)
		}
		if r.Count < r.Total/1500 || r.Count > r.Total/100+10*flows || r.Lost == 0 {
			t.Errorf("%.0f packets for %.0f bytes, %d lost", r.Count, r.Total, r.Lost)
		}
		if took := time.Since(began); took < r.Time {
			t.Errorf("took %v of virtual time instead of %v", took, r.Time)
		}
	})
}

// Each pair of hosts has a link of its own.
func TestSimulatedPairsDoNotShareALink(t *testing.T) {
	var read [2]float64
	for i, pairs := range []int{1, 4} {
		synctest.Test(t, func(t *testing.T) {
			r, err := simulate(&task{N: pairs, Paced: true, Time: 50 * time.Millisecond})
			if err != nil || r.Count <= 0 || r.CPU <= 0 {
				t.Fatalf("%+v, %v", r, err)
			}
			read[i] = r.Total
		})
	}
	if read[1] < 3*read[0] || read[1] > 5*read[0] {
		t.Errorf("4 pairs read %.0f bytes and one %.0f", read[1], read[0])
	}
}

// A process of the harness becomes a test program to run a bubble.
func TestSimulationRunsInAProcess(t *testing.T) {
	netns.Need(t)
	o := options{stacks: string(usern), runs: 1}
	b, err := newBench(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	rep, _, err := b.runProcess(t.Context(), b.lab.tap, &task{Role: "virtual", Stack: usern, N: 1, Paced: true, Time: 20 * time.Millisecond}, -1)
	if err != nil || rep.Count <= 0 || rep.CPU <= 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}
