package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A cost is a figure other than a speed.
type cost struct {
	ID, Name, Unit string
	Values         map[stackName]string
	Target         string
}

// measureCosts measures C1, C5 and C6. The other costs of BENCHMARKS.md are elsewhere: C2, no allocation
// per segment or datagram, is in the tests of the stack; C3 is the columns of CPU time; C4 is -growth.
func (b *bench) measureCosts() {
	if b.o.wanted("C1") {
		counts := []int{10_000}
		if b.o.million {
			counts = append(counts, 1_000_000)
		}
		for _, n := range counts {
			b.costs = append(b.costs, b.idleCost(n))
		}
	}
	if b.o.wanted("C5") {
		c, err := sizeCost()
		if err != nil {
			b.failed++
			fmt.Fprintln(os.Stderr, err)
		} else {
			b.costs = append(b.costs, c)
		}
	}
	if b.o.wanted("C6") && slices.Contains(b.stacks, usern) {
		b.costs = append(b.costs, b.virtualCosts()...)
	}
	for _, c := range b.costs {
		fmt.Fprintln(os.Stderr, c.line())
	}
}

// simulations are the measurements of C6. Each lasts long enough in virtual time for some hundred thousand packets.
var simulations = []struct {
	name  string
	n     int
	paced bool
	queue int // bytes
	time  time.Duration
}{
	{"packets in virtual time, 1 pair of hosts", 1, false, 0, 200 * time.Millisecond},
	{"packets in virtual time, 10 pairs", 10, false, 0, 30 * time.Millisecond},
	{"packets in virtual time, 100 pairs", 100, false, 0, 12 * time.Millisecond},
	{"the same, 1 pair, paced by a seeded link", 1, true, 0, 2 * time.Second},
	{"the same, 100 pairs, paced by seeded links", 100, true, 0, 30 * time.Millisecond},
	{"the same, 10,000 flows on a bottleneck", 10_000, true, 25e6, 300 * time.Millisecond},
}

// virtualCosts measures how many packets are simulated per second of CPU time. The processes have GOMAXPROCS=1: with more,
// idle threads of the Go runtime would spend CPU time on the search for work whenever a single goroutine runs.
func (b *bench) virtualCosts() (list []cost) {
	for _, s := range simulations {
		c := cost{ID: "C6", Name: s.name, Unit: "M per CPU second", Values: map[stackName]string{usern: "failed"}, Target: "1.5"}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		t := task{Role: "virtual", Stack: usern, N: s.n, Paced: s.paced, Size: s.queue, Time: s.time, Setup: setup{Procs: 1}}
		var rates []float64
		for range min(b.o.runs, 3) {
			rep, _, err := b.runProcess(ctx, b.lab.tap, &t, -1)
			if err != nil {
				b.failed++
				fmt.Fprintf(os.Stderr, "C6, %s: %v\n", s.name, err)
				break
			}
			rates = append(rates, rep.Count/rep.CPU.Seconds())
		}
		cancel()
		if len(rates) > 0 {
			slices.Sort(rates)
			c.Values[usern] = digits(rates[len(rates)/2] / 1e6)
		}
		list = append(list, c)
	}
	return list
}

// idleCost measures the memory of n idle connections.
func (b *bench) idleCost(n int) cost {
	c := cost{
		ID: "C1", Name: fmt.Sprintf("memory of an idle connection, %d of them", n), Unit: "bytes",
		Values: map[stackName]string{}, Target: "900",
	}
	for _, s := range b.stacks {
		// Other stacks have no such figure, and gVisor would need 12 GB for a million connections.
		if s != usern && s != before && s != gvisor || s == gvisor && n > 10_000 {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
		t := task{Role: "idle", Stack: s, N: n}
		rep, _, err := b.runProcess(ctx, b.lab.tap, &t, -1)
		cancel()
		if err != nil {
			c.Values[s] = "failed"
			b.failed++
			fmt.Fprintf(os.Stderr, "C1 on %s: %v\n", s, err)
			continue
		}
		c.Values[s] = fmt.Sprintf("%.0f", rep.Count)
	}
	return c
}

// sizeCost builds the same small program with each stack and without one.
func sizeCost() (cost, error) {
	c := cost{ID: "C5", Name: "what an import adds to a program", Unit: "MB", Values: map[stackName]string{}}
	dir, err := os.MkdirTemp("", "usernet-bench-")
	if err != nil {
		return c, err
	}
	defer os.RemoveAll(dir)
	size := func(name string) (int64, error) {
		out := filepath.Join(dir, name)
		cmd := exec.Command("go", "build", "-trimpath", "-o", out, "./hello/"+name)
		if b, err := cmd.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("C5: %w: %s", err, b)
		}
		info, err := os.Stat(out)
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	base, err := size("net")
	if err != nil {
		return c, err
	}
	for s, name := range map[stackName]string{usern: "usernet", gvisor: "gvisor", lnetoS: "lneto"} {
		n, err := size(name)
		if err != nil {
			return c, err
		}
		c.Values[s] = fmt.Sprintf("%.2f", float64(n-base)/1e6)
	}
	c.Values[kernel] = fmt.Sprintf("(%.2f with net alone)", float64(base)/1e6)
	return c, nil
}

func (c *cost) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %-46s", c.ID, c.Name)
	for _, s := range []stackName{kernel, gvisor, lnetoS, before, usern} {
		if v := c.Values[s]; v != "" {
			fmt.Fprintf(&b, "  %s %s %s", s, v, c.Unit)
		}
	}
	if c.Target != "" {
		fmt.Fprintf(&b, "  (target %s)", c.Target)
	}
	return b.String()
}
