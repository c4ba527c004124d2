package nic

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// impairedPipe is a pipe with an Impaired at one end. out records the frames that the far end receives, and
// in records the frames that the Impaired receives.
type impairedPipe struct {
	*Impaired
	far     *PipeEnd
	out, in recorder
	start   time.Time
}

func impaired(cfg ImpairConfig, pipe PipeConfig) *impairedPipe {
	near, far := Pipe(pipe)
	p := &impairedPipe{Impaired: Impair(near, cfg), far: far, start: time.Now()}
	far.Attach(p.out.recv)
	p.Attach(p.in.recv)
	return p
}

// arrivals returns the times since the start at which the far end received frames.
func (p *impairedPipe) arrivals() (at []time.Duration) {
	for _, t := range p.out.times {
		at = append(at, t.Sub(p.start))
	}
	return at
}

// send sends n numbered frames of size bytes in one batch.
func (p *impairedPipe) send(t *testing.T, n, size int) {
	t.Helper()
	batch := make([]Frame, n)
	for i := range batch {
		batch[i].Head = ether(macB, macA, uint32(i), size)
	}
	took, err := p.Send(batch)
	require.NoError(t, err)
	require.Equal(t, n, took)
}

// settle waits until no frame is in transit.
func settle() {
	time.Sleep(time.Hour)
	synctest.Wait()
}

func TestWithoutAnImpairmentFramesArriveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{}, PipeConfig{})
		p.send(t, 3, 100)
		require.Equal(t, []uint32{0, 1, 2}, tags(p.out.all()), "before Send has returned")
		require.Equal(t, []int{3}, p.out.batch)
		p.far.Send(one(ether(macA, macB, 5, 60)))
		require.Equal(t, []uint32{5}, tags(p.in.all()))
		require.Equal(t, ImpairStats{Frames: 3, Delivered: 3}, p.OutStats())
		require.Equal(t, ImpairStats{Frames: 1, Delivered: 1}, p.InStats())
	})
}

func TestLatencyIsExactAndOfItsDirection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{
			Out: Impairment{Latency: 10 * time.Millisecond},
			In:  Impairment{Latency: 3 * time.Millisecond},
		}, PipeConfig{})
		p.send(t, 1, 60)
		time.Sleep(time.Millisecond)
		p.send(t, 1, 60)
		p.far.Send(one(ether(macA, macB, 5, 60)))
		require.Equal(t, 2, p.OutStats().UnderWay)
		settle()
		require.Equal(t, []time.Duration{10 * time.Millisecond, 11 * time.Millisecond}, p.arrivals())
		require.Equal(t, 4*time.Millisecond, p.in.times[0].Sub(p.start))
		require.Zero(t, p.OutStats().UnderWay)
	})
}

func TestTheSendersBytesAreItsOwnAfterSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Latency: time.Second}}, PipeConfig{})
		b := ether(macB, macA, 42, 60)
		p.Send([]Frame{{Head: b[:20], Body: b[20:]}})
		clear(b)
		settle()
		require.Equal(t, [][]byte{ether(macB, macA, 42, 60)}, p.out.all())
	})
}

func TestRateSpacesFramesExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// A frame of 125 bytes takes 1 ms at 1 Mbit/s.
		p := impaired(ImpairConfig{Out: Impairment{Rate: 1e6, Latency: time.Second}}, PipeConfig{})
		p.send(t, 4, 125)
		settle()
		require.Equal(t, []time.Duration{
			time.Second + 1*time.Millisecond, time.Second + 2*time.Millisecond,
			time.Second + 3*time.Millisecond, time.Second + 4*time.Millisecond,
		}, p.arrivals())
		// Idle time of the wire does not accumulate.
		p.start = time.Now()
		p.out.times = nil
		p.send(t, 2, 125)
		settle()
		require.Equal(t, []time.Duration{time.Second + time.Millisecond, time.Second + 2*time.Millisecond}, p.arrivals())
	})
}

func TestRateDoesNotDriftByRounding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 100 bytes at 3 Gbit/s take 266.67 ns.
		p := impaired(ImpairConfig{Out: Impairment{Rate: 3e9, Queue: 1 << 30}}, PipeConfig{})
		p.send(t, 3000, 100)
		settle()
		require.Equal(t, 800*time.Microsecond, p.arrivals()[2999])
	})
}

func TestTheQueueIsBoundedInBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Rate: 8e6, Queue: 10000}}, PipeConfig{})
		p.send(t, 25, 1000) // each frame takes 1 ms
		require.Equal(t, ImpairStats{Frames: 25, QueueDropped: 15, UnderWay: 10}, p.OutStats())
		time.Sleep(3*time.Millisecond + 500*time.Microsecond)
		p.send(t, 25, 1000) // three frames and half of the fourth have left the queue
		require.Equal(t, uint64(15+22), p.OutStats().QueueDropped)
		settle()
		require.Len(t, p.out.frames, 13)
		require.Equal(t, 13*time.Millisecond, p.arrivals()[12])

		// A frame that is longer than the queue passes if the wire is idle.
		p.SetOut(Impairment{Rate: 8e6, Queue: 1})
		p.send(t, 2, 1000)
		settle()
		require.Len(t, p.out.frames, 14)

		p.SetOut(Impairment{Rate: 8e6})
		p.send(t, 200, 1514)
		settle()
		require.Len(t, p.out.frames, 114, "100 frames of full size by default")
	})
}

// Limit bounds the frames in transit. A frame dropped because of Limit takes no time on the wire.
func TestWhatIsUnderWayIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1000
		imp := Impairment{Latency: time.Second, Rate: 8e6, Queue: 1 << 30, Limit: 100 * size}
		p := impaired(ImpairConfig{Out: imp}, PipeConfig{})
		p.send(t, 3000, size) // each frame takes 1 ms
		require.Equal(t, ImpairStats{Frames: 3000, LimitDropped: 2900, UnderWay: 100}, p.OutStats())
		time.Sleep(1200 * time.Millisecond) // all accepted frames have arrived
		p.send(t, 1, size)
		settle()
		at := p.arrivals()
		require.Len(t, at, 101)
		require.Equal(t, 2201*time.Millisecond, at[100], "the wire was idle")

		imp.Duplicate = 1
		p.SetOut(imp)
		p.send(t, 60, size)
		require.Equal(t, 100, p.OutStats().UnderWay, "a duplicate takes room, too")
		settle()
	})
}

// With the default Limit, no frame is lost on a link with a high Rate, a long Queue or long delays.
func TestALongFatLinkLosesNothing(t *testing.T) {
	for _, imp := range []Impairment{
		{Latency: time.Second},
		{Latency: 80 * time.Millisecond, Rate: 10e9, Queue: 200e6},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := impaired(ImpairConfig{Out: imp}, PipeConfig{MTU: 65000})
			for range 1100 {
				p.send(t, 1, 64000)
			}
			require.Equal(t, ImpairStats{Frames: 1100, UnderWay: 1100}, p.OutStats(), "70 MB")
			p.Close()
		})
	}
	for _, tt := range []struct {
		imp  Impairment
		want float64
	}{
		{Impairment{}, defaultLimit},
		{Impairment{Latency: time.Hour}, defaultLimit},
		{Impairment{Latency: time.Hour, Limit: 1000}, 1000},
		// Twice the bytes that are in transit, and the queue.
		{Impairment{Latency: 100 * time.Millisecond, Rate: 100e9}, 2 * 1250e6},
		{Impairment{Latency: 50 * time.Millisecond, Jitter: 50 * time.Millisecond, Rate: 100e9, Queue: 1e9}, 3500e6},
		{Impairment{Latency: math.MaxInt64, Jitter: math.MaxInt64, Rate: math.MaxInt64}, 1 << 62},
	} {
		require.InEpsilon(t, tt.want, float64(tt.imp.limit(1514)), 0.01)
	}
}

func TestJitterStaysInItsBoundsAndDoesNotReorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency, jitter = 10 * time.Millisecond, 4 * time.Millisecond
		p := impaired(ImpairConfig{Out: Impairment{Latency: latency, Jitter: jitter}, Seed: 3}, PipeConfig{})
		for i := range 1000 {
			p.Send(one(ether(macB, macA, uint32(i), 60)))
			time.Sleep(time.Millisecond)
		}
		settle()
		require.True(t, slices.IsSorted(tags(p.out.all())))
		least, most, sum := time.Hour, time.Duration(0), time.Duration(0)
		for i, at := range p.arrivals() {
			d := at - time.Duration(i)*time.Millisecond
			least, most, sum = min(least, d), max(most, d), sum+d
		}
		require.GreaterOrEqual(t, least, latency-jitter)
		require.LessOrEqual(t, most, latency+jitter)
		require.Greater(t, most, latency+jitter*9/10, "all of the range is used")
		require.Greater(t, sum/1000, latency, "waiting for those before adds to it")
	})
}

func TestJitterIsUniform(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const latency, jitter = 10 * time.Millisecond, 4 * time.Millisecond
		p := impaired(ImpairConfig{Out: Impairment{Latency: latency, Jitter: jitter}}, PipeConfig{})
		const n = 4000
		for i := range n {
			p.Send(one(ether(macB, macA, uint32(i), 60)))
			time.Sleep(time.Second) // long enough that the frames do not influence each other
		}
		settle()
		var bins [8]int
		for i, at := range p.arrivals() {
			bins[(at-time.Duration(i)*time.Second-latency+jitter)/time.Millisecond]++
		}
		for _, count := range bins {
			require.InDelta(t, n/8, count, 5*math.Sqrt(n/8), "%v", bins)
		}
	})
}

func TestAFrameThatIsHeldBackIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Latency: 5 * time.Millisecond}}, PipeConfig{})
		p.SetOut(Impairment{Latency: 5 * time.Millisecond, Reorder: 1, ReorderGap: 2 * time.Millisecond})
		p.Send(one(ether(macB, macA, 0, 60)))
		p.SetOut(Impairment{Latency: 5 * time.Millisecond})
		time.Sleep(time.Millisecond)
		p.Send(one(ether(macB, macA, 1, 60)))
		time.Sleep(2 * time.Millisecond)
		p.Send(one(ether(macB, macA, 2, 60)))
		settle()
		require.Equal(t, []uint32{1, 0, 2}, tags(p.out.all()))
		require.Equal(t, []time.Duration{6 * time.Millisecond, 7 * time.Millisecond, 8 * time.Millisecond}, p.arrivals())
		require.Equal(t, uint64(1), p.OutStats().Reordered)
	})
}

func TestWithoutAGapAFrameOvertakesThoseBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Latency: 5 * time.Millisecond}}, PipeConfig{})
		p.send(t, 2, 60)
		p.SetOut(Impairment{Latency: 5 * time.Millisecond, Reorder: 1})
		p.Send(one(ether(macB, macA, 9, 60)))
		settle()
		require.Equal(t, []uint32{9, 0, 1}, tags(p.out.all()))
		require.Zero(t, p.arrivals()[0])
	})
}

func TestDuplicatesFollowTheirOriginal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Latency: time.Millisecond, Duplicate: 1}}, PipeConfig{})
		p.send(t, 3, 60)
		settle()
		require.Equal(t, []uint32{0, 0, 1, 1, 2, 2}, tags(p.out.all()))
		require.Equal(t, ImpairStats{Frames: 3, Duplicated: 3, Delivered: 6}, p.OutStats())
	})
}

func TestCorruptionInvertsOneBit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Corrupt: 1, Duplicate: 1}}, PipeConfig{})
		sent := ether(macB, macA, 0, 60)
		where := map[int]bool{}
		for range 2000 {
			p.Send(one(sent))
		}
		for i, b := range p.out.all() {
			flipped := 0
			for j := range b {
				x := b[j] ^ sent[j]
				flipped += bits.OnesCount8(x)
				if x != 0 {
					where[j*8+bits.TrailingZeros8(x)] = true
				}
			}
			require.Equal(t, 1, flipped, "frame %d", i)
		}
		require.Greater(t, len(where), 450, "of 480 bits")
		require.Equal(t, ether(macB, macA, 0, 60), sent, "the sender's bytes are not to be changed")
	})
}

func TestProbabilitiesAreWhatTheySay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100_000
		imp := Impairment{Loss: 0.03, Duplicate: 0.1, Corrupt: 0.2, Reorder: 0.4, ReorderGap: time.Millisecond}
		p := impaired(ImpairConfig{Out: imp, Seed: 11}, PipeConfig{})
		received := 0
		p.far.recv.Store(new(func(batch []Frame) { received += len(batch) }))
		batch := make([]Frame, 100)
		for i := range batch {
			batch[i].Head = ether(macB, macA, 0, 60)
		}
		for range n / len(batch) {
			p.Send(batch)
			time.Sleep(time.Millisecond)
		}
		settle()
		s := p.OutStats()
		near := func(what string, count uint64, of float64, probability float64) {
			sigma := math.Sqrt(of * probability * (1 - probability))
			require.InDelta(t, of*probability, float64(count), 5*sigma, what)
		}
		near("lost", s.Lost, n, imp.Loss)
		left := float64(n - s.Lost)
		near("duplicated", s.Duplicated, left, imp.Duplicate)
		near("corrupted", s.Corrupted, left, imp.Corrupt)
		near("reordered", s.Reordered, left, imp.Reorder)
		require.Equal(t, uint64(n), s.Frames)
		require.Equal(t, s.Frames+s.Duplicated, s.Lost+s.Delivered)
		require.Equal(t, s.Delivered, uint64(received))
	})
}

func TestLossesComeInBursts(t *testing.T) {
	for _, tc := range []struct{ loss, burst float64 }{{0.01, 0}, {0.01, 1}, {0.01, 4}, {0.3, 10}, {0.5, 1.5}} {
		d := newDirection(Impairment{Loss: tc.loss, LossBurst: tc.burst}, 3, 0, 1514, func(b []Frame) int { return len(b) })
		const n = 1_000_000
		lost, bursts, before := 0, 0, false
		for range n {
			now := d.loses()
			if now {
				lost++
				if !before {
					bursts++
				}
			}
			before = now
		}
		mean := tc.burst
		if mean <= 1 {
			mean = 1 / (1 - tc.loss) // the mean length of a run of independent losses
		}
		require.InEpsilon(t, tc.loss, float64(lost)/n, 0.05, "%+v", tc)
		require.InEpsilon(t, mean, float64(lost)/float64(bursts), 0.05, "%+v", tc)
	}
}

func TestABurstEndsWithTheImpairment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Loss: 0.97, LossBurst: 50}, Seed: 1}, PipeConfig{})
		p.send(t, 100, 60)
		settle()
		lost := p.OutStats().Lost
		require.Greater(t, lost, uint64(50))
		p.SetOut(Impairment{})
		p.send(t, 100, 60)
		settle()
		require.Equal(t, lost, p.OutStats().Lost)
		require.Len(t, p.out.all(), 200-int(lost))
	})
}

// TestTheSameSeedDecidesTheSame sends the same frames twice with one seed, and once with another seed.
func TestTheSameSeedDecidesTheSame(t *testing.T) {
	run := func(seed uint64) (frames [][]byte, at []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			imp := Impairment{
				Latency: 5 * time.Millisecond, Jitter: 3 * time.Millisecond, Rate: 50e6, Queue: 20000,
				Loss: 0.1, Duplicate: 0.1, Corrupt: 0.1, Reorder: 0.1, ReorderGap: time.Millisecond,
			}
			p := impaired(ImpairConfig{Out: imp, In: imp, Seed: seed}, PipeConfig{})
			for range 100 {
				p.send(t, 10, 500)
				p.far.Send(one(ether(macA, macB, 0, 100)))
				time.Sleep(time.Millisecond)
			}
			settle()
			frames, at = append(p.out.all(), p.in.all()...), p.arrivals()
		})
		return frames, at
	}
	frames1, at1 := run(7)
	frames2, at2 := run(7)
	require.Equal(t, frames1, frames2)
	require.Equal(t, at1, at2)
	frames3, _ := run(8)
	require.NotEqual(t, frames1, frames3)
}

func TestTheFateOfAFrameDoesNotDependOnOtherImpairments(t *testing.T) {
	delivered := func(imp Impairment) (tagged []uint32) {
		synctest.Test(t, func(t *testing.T) {
			imp.Loss = 0.2
			p := impaired(ImpairConfig{Out: imp, Seed: 5}, PipeConfig{})
			p.send(t, 500, 60)
			settle()
			tagged = tags(p.out.all())
		})
		return tagged
	}
	require.Equal(t, delivered(Impairment{}), delivered(Impairment{Jitter: time.Millisecond, Latency: time.Second}))
}

func TestALinkCanBeCutAndMended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Latency: time.Millisecond}}, PipeConfig{})
		p.send(t, 1, 60)
		p.SetOut(Impairment{Loss: 1})
		p.SetIn(Impairment{Loss: 1})
		p.send(t, 5, 60)
		p.far.Send(one(ether(macA, macB, 1, 60)))
		settle()
		require.Len(t, p.out.frames, 1, "what was under way arrives")
		require.Empty(t, p.in.frames)
		p.SetOut(Impairment{})
		p.SetIn(Impairment{})
		p.send(t, 1, 60)
		p.far.Send(one(ether(macA, macB, 1, 60)))
		require.Len(t, p.out.frames, 2)
		require.Len(t, p.in.frames, 1)
	})
}

func TestAChangeDoesNotReorder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Latency: 10 * time.Millisecond}}, PipeConfig{})
		p.Send(one(ether(macB, macA, 0, 60)))
		p.SetOut(Impairment{Latency: time.Millisecond})
		p.Send(one(ether(macB, macA, 1, 60)))
		settle()
		require.Equal(t, []uint32{0, 1}, tags(p.out.all()))
		require.Equal(t, []time.Duration{10 * time.Millisecond, 10 * time.Millisecond}, p.arrivals())
	})
}

func TestAFasterWireWorksOffTheQueueFaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := Impairment{Rate: 8000, Queue: 10000} // 1000 bytes take 1 s
		p := impaired(ImpairConfig{Out: slow}, PipeConfig{})
		p.send(t, 10, 1000)
		require.Zero(t, p.OutStats().QueueDropped)
		p.SetOut(Impairment{Rate: 8e6, Queue: 10000})
		time.Sleep(10 * time.Millisecond)
		p.send(t, 10, 1000)
		require.Zero(t, p.OutStats().QueueDropped, "there is room again")
		p.SetOut(Impairment{})
		p.send(t, 1, 1000)
		settle()
		require.Len(t, p.out.frames, 21)
		require.Equal(t, 10*time.Second, p.arrivals()[20], "behind those under way")
	})
}

func TestAnImpairedLinkHasNoOffloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{}, PipeConfig{MACs: [2][6]byte{macA, macB}})
		require.Equal(t, Link{Name: "pipe-a", MAC: macA, MTU: 1500, Up: true}, p.Link())
		spec := packetSpec{tcp: true, payload: pattern(3000)}
		p.Send([]Frame{spec.super(t, 1460, true)})
		require.Equal(t, uint64(1), p.Invalid())
		require.Empty(t, p.out.frames)
	})
}

func TestSuperFramesOfTheOtherEndAreCutBeforeTheyAreImpaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// 1514 bytes take 1514 µs.
		p := impaired(ImpairConfig{In: Impairment{Rate: 8e6}}, PipeConfig{})
		spec := packetSpec{tcp: true, payload: pattern(3 * 1460)}
		p.far.Send([]Frame{spec.super(t, 1460, true)})
		settle()
		require.Len(t, p.in.frames, 3)
		require.Equal(t, 3*1514*time.Microsecond, p.in.times[2].Sub(p.start))
		require.Equal(t, Frame{}, p.in.meta[0], "a segment has its checksum, which the receiver has to verify")
		spec.payload = spec.payload[:1460]
		want, _, _ := spec.build(t)
		require.Equal(t, want, p.in.frames[0])

		bad := spec.super(t, 100, true)
		bad.Head[14] = 0 // no version of IP
		p.far.Send([]Frame{bad})
		require.Equal(t, uint64(1), p.Invalid())
	})
}

func TestAfterCloseNothingThatIsUnderWayArrives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		imp := Impairment{Latency: time.Millisecond}
		p := impaired(ImpairConfig{Out: imp, In: imp}, PipeConfig{})
		p.send(t, 3, 60)
		p.far.Send(one(ether(macA, macB, 1, 60)))
		require.NoError(t, p.Close())
		settle()
		require.Empty(t, p.out.frames)
		require.Empty(t, p.in.frames)
		require.Equal(t, ImpairStats{Frames: 3, Discarded: 3}, p.OutStats())
		require.False(t, p.dev.Link().Up, "the device below is closed")
	})
}

func TestAForgottenImpairedDoesNotHoldABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{Out: Impairment{Latency: time.Hour}}, PipeConfig{})
		p.send(t, 3, 60)
	})
}

func TestAnAnswerFromWithinADeliveryKeepsTheOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := impaired(ImpairConfig{}, PipeConfig{})
		depth, deepest := 0, 0
		var got []uint32
		p.far.recv.Store(new(func(batch []Frame) {
			depth++
			deepest = max(deepest, depth)
			for _, f := range batch {
				got = append(got, tagOf(f.Head))
				if n := tagOf(f.Head); n < 5 {
					p.Send(one(ether(macB, macA, n+10, 60)))
				}
			}
			depth--
		}))
		p.send(t, 3, 60)
		require.Equal(t, []uint32{0, 1, 2, 10, 11, 12}, got)
		require.Equal(t, 1, deepest, "a delivery is not begun within another")
	})
}

func TestTheErrorOfTheDeviceBelowIsTheImpaireds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		d := Impair(FromFuncs(Link{}, func([]byte) error { return broken }), ImpairConfig{})
		d.Attach(func([]Frame) {})
		_, err := d.Send(one(ether(macB, macA, 1, 60)))
		require.NoError(t, err, "it was taken")
		_, err = d.Send(one(ether(macB, macA, 1, 60)))
		require.ErrorIs(t, err, broken)
		require.False(t, d.Link().Up)
		require.Equal(t, ImpairStats{Frames: 1, Discarded: 1}, d.OutStats())
	})
}

func TestAnEmptyFrameIsNotCorrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDirection(Impairment{Corrupt: 1}, 0, 0, 1514, func(b []Frame) int { return len(b) })
		require.True(t, d.take(IP, &Frame{}))
		require.Equal(t, 1, d.snapshot().UnderWay)
	})
}

func TestAnImpairedLinkDoesNotAllocatePerFrame(t *testing.T) {
	near, far := Pipe(PipeConfig{})
	far.Attach(func([]Frame) {})
	d := Impair(near, ImpairConfig{Out: Impairment{Jitter: time.Nanosecond}})
	d.Attach(func([]Frame) {})
	batch := []Frame{{Head: ether(macB, macA, 0, 60)}, {Head: ether(macB, macA, 0, 1514)}}
	for range 100 {
		d.Send(batch)
	}
	allocs := testing.AllocsPerRun(1000, func() { d.Send(batch) })
	if !raceEnabled {
		require.Zero(t, allocs)
	}
}

// With a seed, frames that are due at the same time arrive one by one. Before the next frame arrives, all
// goroutines that the last frame has woken have run.
func TestWithASeedFramesArriveOneByOne(t *testing.T) {
	for seed, batches := range map[uint64][]int{0: {5}, 1: {1, 1, 1, 1, 1}} {
		synctest.Test(t, func(t *testing.T) {
			p := impaired(ImpairConfig{Seed: seed, Out: Impairment{Latency: 10 * time.Millisecond}}, PipeConfig{})
			p.send(t, 5, 100)
			settle()
			require.Equal(t, batches, p.out.batch)
			for i, at := range p.arrivals() {
				late := at - 10*time.Millisecond
				require.GreaterOrEqual(t, late, time.Duration(0))
				require.Less(t, late, time.Duration(i+1)*slotRound)
			}
		})
	}
}

// With a seed, a frame arrives in a slot: an instant of each slotRound that depends on the seed and the direction
// (see impairQueue).
func TestDirectionsAndSeedsUseSlotsOfTheirOwn(t *testing.T) {
	both := Impairment{Latency: time.Millisecond, Duplicate: 0.5, Reorder: 0.5, ReorderGap: time.Millisecond}
	for _, all := range []Impairment{
		both,
		{Latency: both.Latency, Duplicate: both.Duplicate, Reorder: both.Reorder, Rate: 12_345_678},
		{Latency: both.Latency, Duplicate: both.Duplicate, Reorder: both.Reorder, Rate: 12_345_678, ReorderGap: time.Millisecond},
	} {
		requireOwnSlots(t, all)
	}
}

// requireOwnSlots fails if two directions, or two links with the seeds 1 and 2, have a slot in common, or use
// the slot of the hosts.
func requireOwnSlots(t *testing.T, all Impairment) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		slots := make(map[int64]string)
		for _, seed := range []uint64{1, 2} { // two seeds with different slots (there are only seven slots)
			p := impaired(ImpairConfig{Seed: seed, In: all, Out: all}, PipeConfig{})
			for range 50 {
				p.send(t, 1, 60)
				p.far.Send(one(ether(macA, macB, 5, 60)))
				time.Sleep(time.Millisecond)
			}
			settle()
			for name, r := range map[string]*recorder{"in": &p.in, "out": &p.out} {
				name = fmt.Sprint(name, seed)
				require.Greater(t, len(r.times), 60, "50 frames, about half of them twice")
				for _, at := range r.times {
					slot := at.UnixNano() % slotRound
					require.NotZero(t, slot, "it is for the timers of hosts")
					if slots[slot] == "" {
						slots[slot] = name
					}
					require.Equal(t, slots[slot], name)
				}
			}
		}
		require.Len(t, slots, 2*2*4) // two links with two directions, each of which has four slots
	})
}
