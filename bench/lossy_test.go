package main

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/netns"
)

// The kernel's two sides talk over the wire of usernet, which loses frames and delays them.
func TestKernelsTalkOverALossyLink(t *testing.T) {
	netns.Need(t)
	b, err := newBench(options{stacks: string(kernel)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := b.lab.makeLossy(); err != nil {
		t.Fatal(err)
	}
	task := task{
		Stack: kernel, Kind: flow, N: 1, Latency: 2 * time.Millisecond, Loss: 0.03, Setup: setup{CC: b.lab.cc(), Chunk: smallChunk},
		Addr: farAddr, Port: firstPort, Time: 300 * time.Millisecond, arrived: new(atomic.Int64),
		Spaces: [2]string{string(b.lab.lossy[0].Namespace), string(b.lab.lossy[1].Namespace)},
	}
	l, err := newKernelLink(&task)
	if err != nil {
		t.Fatal(err)
	}
	defer l.far.close()
	if err := startServer(l.far, &task); err != nil {
		t.Fatal(err)
	}
	r, err := runClient(l.near, &task)
	if err != nil || r.Total <= 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	in, out := l.wire.InStats(), l.wire.OutStats()
	if in.Frames < 100 || in.Lost == 0 || in.Lost > in.Frames/10 || out.Lost != 0 || out.Delivered == 0 {
		t.Errorf("near to far %+v, far to near %+v", in, out)
	}
	// A packet never arrives before the latency has passed.
	began := time.Now()
	c, err := l.near.dial("tcp4", "198.18.0.2:2000")
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if took := time.Since(began); took < 2*task.Latency {
		t.Errorf("a handshake took %v over a round trip of %v", took, 2*task.Latency)
	}
}

// The curves of loss are measured for the kernel too, from the process to the table.
func TestLossCurvesAreMeasured(t *testing.T) {
	netns.Need(t)
	b, err := newBench(options{stacks: string(kernel), runs: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := b.lab.makeLossy(); err != nil {
		t.Fatal(err)
	}
	list := lossCurves()
	if len(list) != 3 || len(list[0].points) != 3 || list[2].points[0].Latency != 50*time.Millisecond || list[2].points[0].N != lossyFlows {
		t.Fatalf("%d curves", len(list))
	}
	if w := (&task{Loss: 0.01, Time: 6 * time.Second}).warmUp(); w != 6*time.Second {
		t.Errorf("a warm-up of %v", w) // 60 round trips of 100 ms
	}
	c := list[0]
	c.Labels, c.points = c.Labels[2:], c.points[2:]
	b.time, b.files = 50*time.Millisecond, 20_000
	b.curve(c)
	for _, s := range []stackName{kernel, gvisor, usern} {
		if v := c.values[s]; len(v) != 1 || !(v[0] > 0) {
			t.Errorf("%s: %v, %v", s, v, c.notes)
		}
	}
}
