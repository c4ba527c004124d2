package tcp

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// failure returns the kind of an error, which is its text without the numbers.
func failure(err error) string {
	if err == nil {
		return ""
	}
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' || r == '.' {
			return -1
		}
		return r
	}, err.Error())
}

// simplify returns the simplest options it finds with which the run fails in the same way as with o.
func simplify(o simOptions) simOptions {
	class := failure(simulate(o, nil))
	steps := []func(*simOptions){
		func(o *simOptions) { o.Loss = 0 },
		func(o *simOptions) { o.Dup = 0 },
		func(o *simOptions) { o.Reorder, o.Jitter = 0, 0 },
		func(o *simOptions) { o.Merge = false },
		func(o *simOptions) { o.CE = 0 },
		func(o *simOptions) { o.LatePull = 0 },
		func(o *simOptions) { o.SimOpen = false },
		func(o *simOptions) { o.Cookie = false },
		func(o *simOptions) { o.Waiters = false },
		func(o *simOptions) { o.Old = false },
		func(o *simOptions) { o.Numbers = simWrap },
		func(o *simOptions) { o.Delay = 10 * Millisecond },
	}
	for i := range 2 {
		for _, f := range []func(*simSide){
			func(s *simSide) { s.Total = 0 },
			func(s *simSide) { s.Total /= 2 },
			func(s *simSide) { s.Total -= min(s.Total, 1000) },
			func(s *simSide) { s.GSO = 0 },
			func(s *simSide) { s.MSS = 1000 },
			func(s *simSide) { s.Pause = 0 },
			func(s *simSide) { s.Late = 0 },
			func(s *simSide) { s.Chunk = 100_000 },
			func(s *simSide) { s.Bite = 100_000 },
			func(s *simSide) { s.Recv, s.RecvMax = 65536, 65536 },
			func(s *simSide) { s.Send, s.SendMax = 65536, 65536 },
			func(s *simSide) { s.NoSACK = false },
			func(s *simSide) { s.NoTS = true },
			func(s *simSide) { s.NoWS = true },
			func(s *simSide) { s.NewReno, s.BBR = true, false },
			func(s *simSide) { s.NoDelay = true },
			func(s *simSide) { s.Fiddle = false },
			func(s *simSide) { s.ECN = false },
			func(s *simSide) { s.Await = false },
			func(s *simSide) { s.Pressure = false },
			func(s *simSide) { s.Keep = KeepAlive{} },
			func(s *simSide) { s.End, s.AbortAt = endPolitely, 0 },
		} {
			steps = append(steps, func(o *simOptions) { f(&o.Side[i]) })
		}
	}
	for round := 0; round < 8; round++ {
		changed := false
		for _, f := range steps {
			// The simplified run may no longer fail with the same seed, because it uses the random numbers
			// differently. So try other seeds too.
			for k := range uint64(6) {
				x := o
				f(&x)
				same := x == o
				x.Seed += k * 1_000_003
				if !same && failure(simulate(x, nil)) == class {
					o, changed = x, true
					break
				}
			}
		}
		if !changed {
			break
		}
	}
	return o
}

// report simplifies the failing options o, and fails the test with the simplified options and a trace.
func report(t *testing.T, o simOptions, err error) {
	t.Helper()
	small := simplify(o)
	var trace strings.Builder
	last := simulate(small, &trace)
	lines := strings.Split(trace.String(), "\n")
	if len(lines) > 120 {
		lines = append(lines[:60:60], lines[len(lines)-60:]...)
	}
	require.NoError(t, err, "seed %d; the simplest run that fails (%v):\n%#v\n%s", o.Seed, last, small, strings.Join(lines, "\n"))
}

// kept has runs that failed before, each with the reason.
var kept = []struct {
	why string
	o   simOptions
}{
	{"each side answered the other's SYN,ACK by a SYN,ACK, forever", simOptions{
		Seed: 2, Delay: 10 * Millisecond, SimOpen: true,
		Side: [2]simSide{
			{MSS: 1000, Chunk: 100000, Bite: 100000, Recv: 65536, RecvMax: 65536, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NoDelay: true},
			{MSS: 1000, Chunk: 100000, Bite: 100000, Recv: 65536, RecvMax: 65536, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NoDelay: true},
		},
	}},
	{"an orphan gave up on a peer that answered every zero-window probe", simOptions{
		Seed: 0x113104b, Delay: 10 * Millisecond,
		Side: [2]simSide{
			{MSS: 1000, Chunk: 100000, Bite: 2001, Pause: 5 * Second, Recv: 65536, RecvMax: 65536, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true, Fiddle: true},
			{MSS: 1000, Total: 73820, Chunk: 100000, Bite: 100000, Recv: 65536, RecvMax: 65536, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true},
		},
	}},
	{"after fast recovery and a closed window, cwnd stayed below one segment", simOptions{
		Seed: 0x6bc08a, Delay: 50 * Microsecond, Loss: 0.3, SimOpen: true,
		Side: [2]simSide{
			{MSS: 8960, Total: 7378, Chunk: 1801, Bite: 100000, Recv: 65536, RecvMax: 65536, Send: 2048, SendMax: 2048, NoTS: true, NoWS: true, NewReno: true, NoDelay: true},
			{MSS: 8960, Total: 356, Chunk: 49, Bite: 2001, Pause: 300 * Millisecond, Recv: 1024, RecvMax: 4096, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true},
		},
	}},
	{"a tail loss probe sent data that was acknowledged after the probe was due", simOptions{
		Seed: 0x4c61b0, Delay: Millisecond, Loss: 0.15, Dup: 0.0970166357193094, Merge: true, LatePull: 0.39936373320925644, CE: 0.1583935269567712,
		Side: [2]simSide{
			{MSS: 536, Total: 7154, Chunk: 100000, Bite: 100000, Pause: 10 * Millisecond, Recv: 65536, RecvMax: 65536, Send: 2048, SendMax: 2048, NoTS: true, NoWS: true, NewReno: true, NoDelay: true, ECN: true},
			{MSS: 1000, Chunk: 100000, Bite: 2001, Pause: 10 * Millisecond, Recv: 1024, RecvMax: 32768, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true},
		},
	}},
	{"after fast recovery and a closed window, cwnd stayed below one segment, again", simOptions{
		Seed: 0x100d, Jitter: 30 * Millisecond, Loss: 0.15, Dup: 0.1195130032793901, Reorder: 0.3329051220875488,
		Side: [2]simSide{
			{MSS: 8960, Total: 34737, Chunk: 1427, Bite: 30200, Pause: 10 * Millisecond, Recv: 2048, RecvMax: 32768, Send: 2048, SendMax: 32768, NoWS: true, NewReno: true, NoDelay: true},
			{MSS: 4000, Total: 31300, Chunk: 314, Bite: 2001, Pause: 100 * Microsecond, Recv: 4096, RecvMax: 4096, Send: 65536, SendMax: 65536, NoWS: true, NewReno: true},
		},
	}},
	{"a window of less than a segment was probed as slowly as a closed one", simOptions{
		Seed: 0x244402, Delay: Millisecond, Jitter: 10 * Microsecond, Loss: 0.01, Reorder: 0.050630674529579305,
		Side: [2]simSide{
			{MSS: 4000, Total: 126208, Chunk: 1343, Bite: 100000, Pause: 300 * Millisecond, Recv: 65536, RecvMax: 65536, Send: 8192, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true, ECN: true},
			{MSS: 1460, Total: 17222, Chunk: 1415, Bite: 100000, Recv: 65536, RecvMax: 65536, Send: 1024, SendMax: 1024, NoTS: true, NoWS: true, NewReno: true, NoDelay: true, Fiddle: true},
		},
	}},
	{"a connection that was reset during recovery kept its small cwnd", simOptions{
		Seed: 0x7ae4b9, Delay: 20 * Millisecond, Loss: 0.15, Dup: 0.01623830133425801, LatePull: 0.4970765500371528,
		Side: [2]simSide{
			{MSS: 1000, Total: 130, Chunk: 2, Bite: 100000, Recv: 65536, RecvMax: 65536, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true},
			{MSS: 536, Total: 10261, Chunk: 100000, Bite: 100000, Pause: 10 * Millisecond, Recv: 65536, RecvMax: 65536, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true, End: 2, AbortAt: 182009212},
		},
	}},
	{"the window of a SYN,ACK was scaled in a simultaneous open, and both acknowledged without end", simOptions{
		Seed: 0x84d2e, Delay: 50 * Microsecond, Jitter: 10 * Microsecond, Reorder: 0.27421434254720434, SimOpen: true,
		Side: [2]simSide{
			{MSS: 1460, GSO: 20786, Total: 22452, Chunk: 15698, Bite: 2001, Recv: 2048, RecvMax: 16384, Send: 16384, SendMax: 131072, NewReno: true, NoDelay: true, Fiddle: true},
			{MSS: 8960, Total: 43315, Chunk: 11486, Bite: 2001, Recv: 4096, RecvMax: 131072, Send: 16384, SendMax: 65536, NoSACK: true, NewReno: true, NoDelay: true, ECN: true},
		},
	}},
	{"a path MTU probe with SACK blocks was larger than the agreed MSS", simOptions{
		Seed: 0x1d2c1, Delay: Millisecond, Loss: 0.15, Dup: 0.031408853116927114, LatePull: 0.16370527498594406, Old: true,
		Side: [2]simSide{
			{MSS: 1000, Total: 50751, Chunk: 1744, Bite: 2001, Late: 1737854757, Recv: 65536, RecvMax: 65536, Send: 32768, SendMax: 131072, NoTS: true, NoWS: true, NewReno: true, ECN: true},
			{MSS: 8960, Total: 145232, Chunk: 3064, Bite: 9614, Late: 1855032194, Recv: 1024, RecvMax: 8192, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, BBR: true, Pressure: true, Fiddle: true},
		},
	}},
	{"an acknowledgement of data that had all been SACKed did not end recovery, and cwnd stayed small", simOptions{
		Seed: 0x32fba1ed, Delay: 50 * Microsecond, Jitter: 400 * Millisecond, Loss: 0.15, Dup: 0.1592072974191366, Reorder: 0.2991654228871168, LatePull: 0.009506240263824906,
		Side: [2]simSide{
			{MSS: 1000, Total: 15787, Chunk: 336, Bite: 100000, Pause: 100 * Microsecond, Recv: 65536, RecvMax: 65536, Send: 1024, SendMax: 8192, NoTS: true, NoWS: true, NewReno: true, NoDelay: true},
			{MSS: 1000, Total: 1, Chunk: 100000, Bite: 2001, Recv: 4096, RecvMax: 131072, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true, End: 3, AbortAt: 2035878570, Fiddle: true},
		},
	}},
	{"an application gave up after 900 s without progress, although the other was still reading", simOptions{
		Seed: 0x29c874b4, Delay: 10 * Millisecond, Jitter: Millisecond, Reorder: 0.06933505311833606,
		Side: [2]simSide{
			{MSS: 1000, Chunk: 100000, Bite: 2001, Pause: 5 * Second, Recv: 131072, RecvMax: 262144, Send: 65536, SendMax: 65536, NoTS: true, NoWS: true, NewReno: true, NoDelay: true, End: 3, AbortAt: 42591713, Fiddle: true},
			{MSS: 1000, Total: 369447, Chunk: 100000, Bite: 100000, Recv: 65536, RecvMax: 65536, Send: 188723, SendMax: 377447, NoTS: true, NoWS: true, NewReno: true, NoDelay: true},
		},
	}},
}

func TestSimulationsThatOnceFailed(t *testing.T) {
	for _, k := range kept {
		t.Run(k.why, func(t *testing.T) {
			if err := simulate(k.o, nil); err != nil {
				report(t, k.o, err)
			}
		})
	}
}

func TestSimulation(t *testing.T) {
	runs := uint64(1_000)
	if full(t) {
		runs = 10_000
	} else if !racing {
		runs = 2_000
	}
	first := uint64(0)
	if s := os.Getenv("USERNET_SIM"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "USERNET_SIM is the number of runs")
		runs = n
	}
	if s := os.Getenv("USERNET_SIM_FIRST"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "USERNET_SIM_FIRST is the first seed")
		first = n
	}
	type failedRun struct {
		o   simOptions
		err error
	}
	failed := make(chan failedRun, runtime.GOMAXPROCS(0))
	var next atomic.Uint64
	var workers sync.WaitGroup
	for range cap(failed) {
		workers.Go(func() {
			for seed := first + next.Add(1) - 1; seed < first+runs && len(failed) == 0; seed = first + next.Add(1) - 1 {
				o := randomOptions(seed)
				if err := simulate(o, nil); err != nil {
					failed <- failedRun{o, err}
				}
			}
		})
	}
	workers.Wait()
	if len(failed) > 0 {
		f := <-failed
		report(t, f.o, f.err)
	}
}
