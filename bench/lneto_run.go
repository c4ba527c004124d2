package main

import "time"

// No target is measured by lneto, so that a short look will do; and as it has no timer for
// retransmission, a run of it may stop for good. It must not hold up the others for long.
const (
	lnetoTimes    = 2
	lnetoTime     = 200 * time.Millisecond
	lnetoLimit    = 4 * time.Second // a run that takes longer has failed
	lnetoPatience = 2               // after so many workloads that failed, no more are tried
)

// sampleLneto adds a sample to lneto's figure. A run that others disturb is not repeated;
// one that fails is, once in a workload.
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
