package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A curve shows how a figure depends on one parameter, with all others fixed. Both sides are in one
// process.
type curve struct {
	Title  string
	X      string
	Unit   string
	Stacks []stackName
	Labels []string
	points []point // empty for the curves of idle connections
	// values[stack][index of the label] are medians in Unit.
	values map[stackName][]float64
	notes  []string
}

// A point is the workload at one position of the x axis.
type point struct {
	workload
	chunk int // setup.Chunk of a bulk workload
}

func (c *curve) add(label string, w workload, chunk int) {
	c.Labels = append(c.Labels, label)
	c.points = append(c.points, point{w, chunk})
}

// curves returns those curves of C4 in BENCHMARKS.md that need no idle connections.
func curves() []*curve {
	all := []stackName{kernel, gvisor, usern}
	bulk := workload{Place: onPipe, Kind: flow, N: 1, Pin: free}
	ping := workload{Place: onPipe, Kind: pingpong, N: 16, Pin: free}

	size := &curve{Title: "bulk, by bytes a Write", X: "bytes", Unit: bits, Stacks: all}
	for _, n := range []int{1, 16, 256, 4 << 10, 64 << 10, 1 << 20} {
		size.add(shortNumber(n), bulk, n)
	}
	busy := &curve{Title: "1-byte ping-pong, by connections", X: "busy connections", Unit: rate, Stacks: all}
	for _, n := range []int{1, 10, 100, 1000, 10000} {
		w := ping
		w.N = n
		busy.add(shortNumber(n), w, 0)
	}
	cores := &curve{Title: "ping-pong of 16, by cores", X: "cores", Unit: rate, Stacks: all}
	bulkCores := &curve{Title: "bulk, 4 streams, by cores", X: "cores", Unit: bits, Stacks: all}
	for i, p := range []pin{same, free} {
		w, v := ping, bulk
		w.Pin, v.Pin, v.N = p, p, 4
		cores.add(fmt.Sprint(i+1), w, 0)
		bulkCores.add(fmt.Sprint(i+1), v, largeChunk)
	}
	loss := &curve{Title: "bulk, round trip of 10 ms, by loss", X: "loss", Unit: bits, Stacks: all}
	for _, l := range []float64{0, 0.001, 0.003, 0.01, 0.03} {
		w := bulk
		w.Latency, w.Loss = 5*time.Millisecond, l
		loss.add(fmt.Sprintf("%.1f %%", 100*l), w, largeChunk)
	}
	return append([]*curve{size, busy, cores, bulkCores, loss}, lossCurves()...)
}

// The units of curves.
const (
	bits    = "Gbit/s"
	rate    = "/s"
	micros  = "us"
	inBytes = "bytes"
)

// idleCounts returns the numbers of idle connections to measure with. Only usernet has the last step:
// the kernel needs a file for each end, and files are limited; gVisor would need 12 GB and several
// minutes.
func idleCounts(s stackName) []int {
	steps := []int{0, 1000, 10_000, 100_000, 1_000_000}
	if s != usern {
		steps = steps[:4]
	}
	return steps
}

// idleCurves measures the performance of one connection beside idle ones, and returns a curve for each
// figure.
func (b *bench) idleCurves() []*curve {
	about := []struct {
		title, unit string
		of          func(*idleStep) float64
	}{
		{"ping-pong of one connection, beside idle ones", rate, func(g *idleStep) float64 { return g.Trips }},
		{"the longest 1 % of its round trips begins at", micros, func(g *idleStep) float64 { return float64(g.Late) / 1e3 }},
		{"CPU time of such a round trip", micros, func(g *idleStep) float64 { return float64(g.TripCPU) / 1e3 }},
		{"bulk on one connection, beside idle ones", bits, func(g *idleStep) float64 { return g.Bits / 1e9 }},
		{"connect, exchange, close, beside idle ones", rate, func(g *idleStep) float64 { return g.Short }},
		{"CPU time of such a connection", micros, func(g *idleStep) float64 { return float64(g.ShortCPU) / 1e3 }},
		{"idle connections made, up to so many", rate, func(g *idleStep) float64 { return g.Open }},
		{"idle connections closed, down from so many", rate, func(g *idleStep) float64 { return g.Close }},
		{"memory of one end of an idle connection", inBytes, func(g *idleStep) float64 { return g.Bytes }},
	}
	stacks := []stackName{kernel, gvisor, usern}
	got := map[stackName][]idleStep{}
	var notes []string
	for _, s := range stacks {
		t := task{
			Role: "growth", Stack: s, Place: onPipe, Addr: farAddr, Setup: setup{MTU: 65535}, Time: b.time,
			Steps: idleCounts(s), Limit: growLimit,
		}
		if s == kernel {
			t.Addr = loopback
		}
		var err error
		if got[s], err = b.runGrowIdle(s, &t); err != nil {
			notes = append(notes, fmt.Sprintf("%s: %s", s, brief(err)))
		}
		for _, one := range got[s] {
			if one.Note != "" {
				notes = append(notes, fmt.Sprintf("%s, on the way to %d: %s", s, one.Idle, one.Note))
			}
		}
		if last := idleCounts(s); s == usern && !reached(got[s], last[len(last)-1]) {
			b.failed++ // a failure of another stack is a result
		}
	}
	var list []*curve
	for _, a := range about {
		c := &curve{Title: a.title, X: "idle connections", Unit: a.unit, Stacks: stacks, values: map[stackName][]float64{}}
		for _, n := range idleCounts(usern) {
			c.Labels = append(c.Labels, shortNumber(n))
			for _, s := range stacks {
				c.values[s] = append(c.values[s], valueAt(got[s], n, a.of))
			}
		}
		list = append(list, c)
	}
	// The kernel's connections are not in the memory of this process.
	memory := list[len(list)-1]
	memory.Stacks = []stackName{gvisor, usern}
	delete(memory.values, kernel)
	list[0].notes = notes
	return list
}

// growLimit is the maximum time for a stack to make the idle connections.
const growLimit = 4 * time.Minute

// valueAt calls read for each entry with n idle connections, and returns the last result above 0, because the entry
// of a step down has only some of the figures. If there is none, it returns NaN.
func valueAt(list []idleStep, n int, read func(*idleStep) float64) float64 {
	v := math.NaN()
	for i := range list {
		if x := read(&list[i]); list[i].Idle == n && x > 0 {
			v = x
		}
	}
	return v
}

// reached reports whether a stack has reached n idle connections.
func reached(list []idleStep, n int) bool {
	for i := range list {
		if list[i].Idle == n && list[i].Note == "" {
			return true
		}
	}
	return false
}

// brief returns the first line of an error, at most 200 bytes.
func brief(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line[:min(len(line), 200)]
}

// shortNumber formats a number with the unit k, M, Ki or Mi if it is a multiple of one.
func shortNumber(n int) string {
	switch {
	case n >= 1<<20 && n%(1<<20) == 0:
		return fmt.Sprintf("%dMi", n>>20)
	case n >= 1<<10 && n%(1<<10) == 0:
		return fmt.Sprintf("%dKi", n>>10)
	case n >= 1_000_000 && n%1_000_000 == 0:
		return fmt.Sprintf("%dM", n/1_000_000)
	case n >= 1000 && n%1000 == 0:
		return fmt.Sprintf("%dk", n/1000)
	}
	return fmt.Sprint(n)
}

// grow measures the curves and writes them.
func (b *bench) grow() error {
	b.files = raiseFiles()
	if err := b.lab.makeLossy(); err != nil {
		return err
	}
	list := curves()
	for _, c := range list {
		b.curve(c)
		fmt.Print(c.text())
	}
	for _, c := range b.idleCurves() {
		fmt.Print(c.text())
		list = append(list, c)
	}
	fmt.Println(time.Since(b.begin).Round(time.Second))
	var s strings.Builder
	fmt.Fprintf(&s, "# How the cost grows\n\nOne run of `go run . -growth` on %s, %s: both sides in one process, medians of %d runs of %v.\n%s\n\n",
		time.Now().UTC().Format("2006-01-02"), machine(), b.o.runs, b.o.time, b.busy())
	s.WriteString("![The curves of the tables below](../docs/growth.svg)\n")
	for _, c := range list {
		s.WriteString(c.markdown())
	}
	if err := b.publish(s.String(), drawGrowth); err != nil {
		return err
	}
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}

// curve measures one curve, point by point. At a point it runs the stacks in turn. If a stack fails or
// exceeds the time at a point, curve does not run it again at this point.
func (b *bench) curve(c *curve) {
	c.values = map[stackName][]float64{}
	long := b.time
	defer func() { b.time = long }()
	for i := range c.points {
		p := &c.points[i]
		b.time = long
		if p.Latency > 0 {
			b.time = lossTime(long, p.Latency)
		}
		if p.N >= 10_000 {
			b.time = 3 * long // one round trip on every connection takes a tenth of this time
		}
		figures := map[stackName]*figure{}
		for range b.o.runs {
			for _, s := range c.Stacks {
				w := p.workload
				if most := (b.files - 400) / 2; s == kernel && w.N > most {
					w.N = most // both ends are files of one process
				}
				f := figures[s]
				if f == nil {
					f = &figure{setup: b.defaults(&p.workload, s)}
					f.setup.Chunk = p.chunk
					figures[s] = f
				}
				if f.err != nil {
					continue
				}
				b.patience = 8*time.Second + time.Duration(w.N)*2*time.Millisecond
				one, err := b.run(&w, s, f.setup)
				if f.err = err; err == nil {
					f.samples = append(f.samples, one)
				}
			}
		}
		for _, s := range c.Stacks {
			f := figures[s]
			if f.err != nil {
				if s == usern {
					b.failed++ // a failure of another stack is a result
				}
				c.notes = append(c.notes, fmt.Sprintf("%s at %s %s: %s", s, c.Labels[i], c.X, brief(f.err)))
			}
			if most := (b.files - 400) / 2; s == kernel && p.N > most {
				c.notes = append(c.notes, fmt.Sprintf("%s at %s: %d, because a process may have %d files", s, c.Labels[i], most, b.files))
			}
			v := f.rate()
			if c.Unit == bits {
				v /= 1e9
			}
			c.values[s] = append(c.values[s], v)
		}
	}
}

// amount formats a value in the curve's unit.
func (c *curve) amount(v float64) string {
	switch {
	case v > 0 && v < 0.1:
		return strconv.FormatFloat(v, 'g', 2, 64)
	case c.Unit == rate && v >= 1000:
		return digits(v/1000) + "k"
	}
	return digits(v)
}

func (c *curve) text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s (%s)\n%-18s", c.Title, c.Unit, c.X)
	for _, label := range c.Labels {
		fmt.Fprintf(&s, " %9s", label)
	}
	for _, name := range c.Stacks {
		fmt.Fprintf(&s, "\n%-18s", name)
		for _, v := range c.values[name] {
			fmt.Fprintf(&s, " %9s", c.amount(v))
		}
	}
	for _, n := range c.notes {
		fmt.Fprintf(&s, "\n%s", n)
	}
	return s.String() + "\n\n"
}

func (c *curve) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "\n## %s\n\n| %s (%s) |", c.Title, c.X, c.Unit)
	for _, label := range c.Labels {
		fmt.Fprintf(&s, " %s |", label)
	}
	s.WriteString("\n|---|" + strings.Repeat("---|", len(c.Labels)))
	for _, name := range c.Stacks {
		fmt.Fprintf(&s, "\n| %s |", name)
		for _, v := range c.values[name] {
			fmt.Fprintf(&s, " %s |", c.amount(v))
		}
	}
	for _, n := range c.notes {
		fmt.Fprintf(&s, "\n\n%s", n)
	}
	return s.String() + "\n"
}
