package main

import (
	"errors"
	"math"
	"net"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestOutputOfWrkIsUnderstood(t *testing.T) {
	const out = `Running 1s test @ http://198.18.0.2:2000/
  2 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   605.32us  320.99us   8.67ms   88.12%
    Req/Sec    52.44k     2.11k   56.24k    72.73%
  114857 requests in 1.10s, 14.13MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
Requests/sec: 104415.45
Transfer/sec:     12.85MB
`
	r, err := parseWrk(out)
	if err != nil {
		t.Fatal(err)
	}
	if r.Total != 114857 || r.Errors != 3 || r.Note == "" {
		t.Fatalf("%+v", r)
	}
	if rate := r.Count / r.Time.Seconds(); math.Abs(rate-104415.45) > 1 {
		t.Fatalf("rate %v", rate)
	}
	if _, err := parseWrk("unable to connect"); err == nil {
		t.Fatal("no error without a rate")
	}
}

func TestFirstErrorOfWrkIsNoted(t *testing.T) {
	const out = `  114857 requests in 1.10s, 14.13MB read
  Socket errors: connect 0, read 2, write 0, timeout 1
  Non-2xx or 3xx responses: 4
Requests/sec: 104415.45
`
	r, err := parseWrk(out)
	if err != nil || r.Errors != 7 || r.Note != "Socket errors: connect 0, read 2, write 0, timeout 1" {
		t.Fatalf("%+v, %v", r, err)
	}
}

// Time that the hypervisor gave to other machines is not idle: a run may have needed it.
func TestStealIsBusyTime(t *testing.T) {
	const line = "cpu  100 20 30 4000 500 6 7 80 90 9" // user nice system idle iowait irq softirq steal guest guest_nice
	if got := busyTime(line); got != (100+20+30+6+7+80)*tick {
		t.Error(got)
	}
}

// A server that is gone is reported with all that it has printed to standard error, even if some of that comes after
// the end of its standard output.
func TestReasonOfADeadServerIsReported(t *testing.T) {
	// The reason is printed when the server is no longer a zombie, which is when its end has been waited for.
	const script = `echo ready
read line
(exec >&- <&-; while kill -0 $$ 2>/dev/null; do sleep 0.01; done; echo the reason >&2) &
exit 1`
	cmd := exec.Command("sh", "-c", script)
	p, err := launch(cmd, cmd.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer p.kill()
	if _, err := p.cpu(); err == nil || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("%v", err)
	}
}

// A name in -only selects the workloads that begin with it, unless a digit follows: T1 does not select T10.
func TestOnlySelectsWholeNumbers(t *testing.T) {
	o := options{only: "T1,P"}
	for id, want := range map[string]bool{"T1": true, "T10": false, "T14in": false, "P3": false, "C1": false} {
		if o.wanted(id) != want {
			t.Errorf("%s: %v", id, !want)
		}
	}
	o.only = "T13,T14pp"
	for id, want := range map[string]bool{"T13in": true, "T13out": true, "T14pp": true, "T14pp16": false, "T14in": false, "T1": false} {
		if o.wanted(id) != want {
			t.Errorf("%s: %v", id, !want)
		}
	}
}

func TestMedianIsNotMovedByOneBadRun(t *testing.T) {
	f := figure{samples: []sample{{Rate: 5}, {Rate: 1}, {Rate: 6}, {Rate: 4}, {Rate: 1000}}}
	if f.rate() != 5 {
		t.Fatal(f.rate())
	}
	f.samples = f.samples[:4]
	if f.rate() != 4.5 {
		t.Fatal(f.rate())
	}
	if !math.IsNaN((*figure)(nil).rate()) {
		t.Fatal("a figure that was not taken has a rate")
	}
}

func TestEveryKindOfWorkloadRunsOnAPipe(t *testing.T) {
	for _, w := range workloads {
		if w.Place != onPipe {
			continue
		}
		t.Run(w.ID, func(t *testing.T) {
			for _, s := range []stackName{usern, gvisor, lnetoS} {
				task := task{
					Stack: s, Kind: w.Kind, N: w.N, Size: w.Size, Close: w.Close, Addr: farAddr, Port: firstPort,
					Setup: setup{MTU: 65535, Chunk: smallChunk}, Time: 50 * time.Millisecond,
				}
				near, far, err := openPair(&task)
				if err != nil {
					t.Fatal(err)
				}
				if err := startServer(far, &task); err != nil {
					t.Fatal(err)
				}
				r, err := runClient(near, &task)
				if err != nil || r.Total <= 0 || r.Errors > 0 {
					t.Fatalf("%s: %+v, %v", s, r, err)
				}
				near.close()
				far.close()
			}
		})
	}
}

// A workload that cannot be measured is reported, and the next one is measured all the same.
func TestAFailedMeasurementEndsNoRun(t *testing.T) {
	b := bench{
		runner: runner{self: "/nonexistent", lab: &lab{}, time: time.Millisecond},
		o:      options{runs: 2, noisy: true, budget: time.Minute, only: workloads[0].ID + "," + workloads[len(workloads)-1].ID},
		stacks: []stackName{kernel, usern},
		begin:  time.Now(),
	}
	b.all()
	if len(b.rows) < 2 {
		t.Fatalf("%d workloads were measured", len(b.rows))
	}
	for _, r := range b.rows {
		for _, s := range b.stacks {
			if got := r.amount(s); got != "failed" {
				t.Fatalf("%s, %s: %q", r.ID, s, got)
			}
		}
	}
	if b.failed != 2*len(b.rows) {
		t.Fatalf("%d failures of %d", b.failed, 2*len(b.rows))
	}
}

// A failed run of lneto is reported in its column and does not count as a failure of the bench.
func TestLnetoThatFailsIsOnlyTold(t *testing.T) {
	b := bench{
		runner: runner{self: "/nonexistent", lab: &lab{}, time: time.Millisecond},
		o:      options{runs: 5, noisy: true},
		stacks: []stackName{lnetoS},
	}
	for i := range workloads[:lnetoPatience+1] {
		r := b.measure(&workloads[len(workloads)-1-i]) // in one process
		want := "failed"
		if i == lnetoPatience {
			want = "-"
		}
		if got := r.amount(lnetoS); got != want {
			t.Fatalf("%q instead of %q", got, want)
		}
		if f := r.figures[lnetoS]; f != nil && f.failed != 2 {
			t.Fatalf("%d runs failed", f.failed)
		}
	}
	if b.failed != 0 {
		t.Fatal("the bench has failed")
	}
}

func TestGrowthIsMeasuredBesideIdleConnections(t *testing.T) {
	for _, s := range []stackName{usern, gvisor, kernel} {
		task := task{Stack: s, Addr: farAddr, Setup: setup{MTU: 65535}, Time: 50 * time.Millisecond}
		if s == kernel {
			task.Addr = "127.0.0.1"
		}
		near, far, err := openIdlePair(&task)
		if err != nil {
			t.Fatal(err)
		}
		// Ports that the kernel's own services do not use.
		g := &growth{near: near, far: far, t: &task, port: 9000, used: 7000, end: time.Now().Add(time.Minute)}
		for _, n := range []int{0, 50} {
			one, err := g.step(n)
			if err != nil {
				t.Fatal(s, err)
			}
			// On a loaded machine little data may pass in such a short time.
			busy := s != usern || one.Bits > 0 && one.Short > 0
			if one.Trips <= 0 || one.Late <= 0 || !busy || len(g.keep) != 2*n || n > 0 && one.Open <= 0 {
				t.Fatalf("%s: %+v", s, one)
			}
		}
		if err := g.closeTo(10); err != nil || len(g.keep) != 20 {
			t.Fatal(s, len(g.keep), err)
		}
		g.end = time.Now()
		if _, err := g.step(50); !errors.Is(err, errLimit) {
			t.Fatalf("%s: %v", s, err)
		}
		if err := g.closeTo(0); err != nil {
			t.Fatal(s, err)
		}
	}
}

// The client takes the datagrams in flight for lost if no echo arrives for a while, and not if many slow
// echoes take as long together.
func TestSlowEchoesAreNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer near.Close()
		defer far.Close()
		c := &client{t: &task{N: 1}}
		go func() {
			buf := make([]byte, 1)
			for range 300 {
				far.Read(buf)
				time.Sleep(10 * time.Millisecond)
				far.Write(buf)
			}
			far.Read(buf) // the datagram that is lost
		}()
		near.Write([]byte("x"))
		began := time.Now()
		var count counter
		if err := c.echoes(near, []byte("x"), make([]byte, 1), &count); err != nil {
			t.Fatal(err)
		}
		if n := count.Load(); n != 300 || c.lost != 1 {
			t.Errorf("%d echoes, %d lost", n, c.lost)
		}
		if waited := time.Since(began) - 3*time.Second; waited < 100*time.Millisecond || waited > 200*time.Millisecond {
			t.Errorf("a lost datagram was noticed after %v", waited)
		}
	})
}
