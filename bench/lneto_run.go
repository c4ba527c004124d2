package main

import "time"

// lneto gets few and short runs, because no target refers to it. lneto has no retransmission timer, so a
// run may stall forever. The limits keep such a run from delaying the other runs much.
const (
	lnetoTimes    = 2                      // number of runs of a workload
	lnetoTime     = 200 * time.Millisecond // time of a run
	lnetoLimit    = 4 * time.Second        // a longer run has failed
	lnetoPatience = 2                      // number of failed workloads after which no more are tried
)

// sampleLneto adds a sample to lneto's figure. It does not repeat a disturbed run. It repeats a
// failed run once per workload.
func (b *bench) sampleLneto(r *row, f *figure) {
	long := b.time
	b.time = min(lnetoTime, long)
	defer func() { b.time = long }()
	one, err := b.run(r.workload, lnetoS, f.setup)
	if err != nil && f.failed == 0 {
		f.failed++
		f.err = err
		one, err = b.run(r.workload, lnetoS, f.setup)
	}
	if err != nil {
		f.failed++
		f.err = err
		b.lnetoFailed++
		return
	}
	if one.Other > disturbance {
		f.disturbed++
	}
	f.samples = append(f.samples, one)
}
