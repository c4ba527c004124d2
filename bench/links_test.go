package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn/bindtest"

	"github.com/usernet/usernet/internal/netns"
)

// TestMain runs one side of a workload if the harness has started the test program as a process of a run.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "-task" {
		if err := runTask(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestEveryKindOfWorkloadRunsInATunnel(t *testing.T) {
	for _, w := range tunnels {
		t.Run(w.ID, func(t *testing.T) {
			for _, s := range []stackName{usern, gvisor} {
				task := task{
					Stack: s, Kind: w.Kind, N: w.N, Size: w.Size, Place: w.Place, Addr: wgAddrs[1], Port: firstPort,
					Setup: setup{Chunk: smallChunk}, Time: 50 * time.Millisecond,
				}
				binds := bindtest.NewChannelBinds()
				far, err := wireGuard(&task, binds[1], "127.0.0.1:2")
				if err != nil {
					t.Fatal(err)
				}
				task.Near = true
				near, err := wireGuard(&task, binds[0], "127.0.0.1:1")
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

// The harness runs some workloads of -links in its namespaces, from the first process to the table.
func TestLinksAreMeasured(t *testing.T) {
	netns.Need(t)
	o := options{links: true, only: "T1,T5,T8,T14conn,K1,K2,P1,P3,P8,W1,W5", runs: 1, noisy: true, time: 50 * time.Millisecond, budget: time.Minute,
		markdown: t.TempDir() + "/LINKS.md", stacks: allStacks}
	b, err := newBench(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	if err := b.links(); err != nil {
		t.Fatal(err)
	}
	// Eleven workloads, of which K1 and K2 are the kernel alone.
	if len(b.rows) != 9 || b.alone.bridge == nil || b.alone.device == nil {
		t.Fatalf("%d workloads were measured, kernel alone: %+v", len(b.rows), b.alone)
	}
	for _, r := range append(b.rows, b.alone.bridge, b.alone.device) {
		if r.figures[usernVLAN] == nil && r.Place != onWG && !r.Client && r.Kind != packets {
			t.Errorf("%s has no figure with tags", r.ID)
		}
		for s, f := range r.figures {
			if f.rate() <= 0 || len(f.samples) != 1 {
				t.Errorf("%s on %s: %+v", r.ID, s, f)
			}
		}
	}
	text, err := os.ReadFile(o.markdown)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| T5 | 1-byte ping-pong", "| W1 | WireGuard: bulk in", "| T14conn | client: connect",
		"| P8 | in memory: UDP echo", "| P3 | in memory: 1-byte", "| P1 | in memory: bulk", "| K1 | kernel alone: 64-byte", "| K2 | kernel alone: 1514-byte"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
}

func TestALinkThatIsSlowerMissesItsTarget(t *testing.T) {
	rates := func(place place, r map[stackName]float64) *row {
		figures := map[stackName]*figure{}
		for s, v := range r {
			figures[s] = &figure{samples: []sample{{Rate: v, CPU: v}}}
		}
		return &row{workload: &workload{ID: "X", Place: place, OverGVisor: 1}, figures: figures}
	}
	for want, r := range map[string]*row{
		"":                     rates(onTAP, map[stackName]float64{usern: 100, usernTUN: 99, usernBridge: 100, usernVLAN: 98}),
		"X/TUN 0.90":           rates(onTAP, map[stackName]float64{usern: 100, usernTUN: 90}),
		"X/VLAN 0.95":          rates(onTAP, map[stackName]float64{usern: 100, usernTUN: 100, usernBridge: 100, usernVLAN: 95}),
		"X/rate 0.90":          rates(onWG, map[stackName]float64{usern: 90, gvisor: 100}),
		"X/CPU 0.91":           rates(onWG, map[stackName]float64{usern: 110, gvisor: 100}),
		"X/TUN -, X/VLAN 0.50": rates(onTAP, map[stackName]float64{usern: 100, usernBridge: 100, usernVLAN: 50}),
	} {
		if got := strings.Join(r.linksBelow(alone{}), ", "); got != want {
			t.Errorf("%q instead of %q", got, want)
		}
	}
	bridge := func(tagged float64) *row {
		return rates(onTAP, map[stackName]float64{usern: 100, usernTUN: 100, usernBridge: 100, usernVLAN: tagged})
	}
	kernel := func(tagged, tun float64) alone {
		return alone{
			bridge: rates(onPorts, map[stackName]float64{usernBridge: 100, usernVLAN: tagged}),
			device: rates(onPorts, map[stackName]float64{usern: 100, usernTUN: tun}),
		}
	}
	out := func(tun float64, kind kind, plain bool) *row {
		r := rates(onTAP, map[stackName]float64{usern: 100, usernTUN: tun})
		r.Kind, r.Plain = kind, plain
		return r
	}
	for _, c := range []struct {
		name  string
		row   *row
		alone alone
		want  string
	}{
		{"the kernel's own cost is allowed", bridge(88), kernel(90, 100), ""},
		{"more than the kernel's own cost", bridge(87), kernel(90, 100), "X/VLAN 0.87"},
		{"a kernel that is faster with tags asks for no more", bridge(98), kernel(110, 100), ""},
		{"a kernel that failed allows nothing", bridge(88), alone{bridge: rates(onPorts, nil)}, "X/VLAN 0.88"},
		{"in memory the kernel allows nothing", rates(onPipe, map[stackName]float64{usern: 100, usernVLAN: 96}), kernel(50, 50), "X/VLAN 0.96"},
		{"in memory", rates(onPipe, map[stackName]float64{usern: 100, usernVLAN: 97}), alone{}, ""},
		{"full frames out: the kernel's own cost is allowed", out(90, recv, true), kernel(100, 92), ""},
		{"full frames out: more than the kernel's own cost", out(90, recv, true), kernel(100, 94), "X/TUN 0.90"},
		{"full frames in", out(88, send, true), kernel(100, 92), "X/TUN 0.88"},
		{"super-frames out", out(88, recv, false), kernel(100, 92), "X/TUN 0.88"},
	} {
		if got := strings.Join(c.row.linksBelow(c.alone), ", "); got != c.want {
			t.Errorf("%s: %q instead of %q", c.name, got, c.want)
		}
	}
}
