package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A cost is a figure other than a speed.
type cost struct {
	ID, Name, Unit string
	Values         map[stackName]string
	Target         string
}

// measureCosts measures C1 and C5. The other costs of BENCHMARKS.md are elsewhere: C2, no allocation
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
	for _, c := range b.costs {
		fmt.Fprintln(os.Stderr, c.line())
	}
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
		rep, _, err := b.client(ctx, b.lab.tap, &t, -1)
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
