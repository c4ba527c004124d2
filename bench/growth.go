package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"strings"
	"time"
)

// A curve is how a figure grows with one thing, all others being equal. Both sides
// are in one process.
type curve struct {
	Title  string
	X      string
	Stacks []stackName
	Points []point
	// values[stack][point] are medians, in bits or operations a second.
	values map[stackName][]float64
	notes  []string
}

// A point is a workload with its place on the x axis.
type point struct {
	Label string
	workload
	chunk int // of a bulk workload, in bytes
}

// curves are those that C4 of BENCHMARKS.md asks for.
func curves(million bool) []*curve {
	all := []stackName{kernel, gvisor, usern}
	ours := []stackName{gvisor, usern}
	bulk := workload{Place: onPipe, Kind: send, N: 1, Pin: free}
	ping := workload{Place: onPipe, Kind: pingpong, N: 16, Pin: free}

	size := &curve{Title: "bulk, by bytes a Write", X: "bytes", Stacks: all}
	for _, n := range []int{1, 16, 256, 4 << 10, 64 << 10, 1 << 20} {
		size.Points = append(size.Points, point{Label: short10(n), workload: bulk, chunk: n})
	}
	busy := &curve{Title: "1-byte ping-pong, by connections", X: "busy connections", Stacks: all}
	for _, n := range []int{1, 10, 100, 1000, 10000} {
		w := ping
		w.N = n
		busy.Points = append(busy.Points, point{Label: short10(n), workload: w})
	}
	idle := &curve{Title: "ping-pong of 16, beside idle connections", X: "idle connections", Stacks: ours}
	counts := []int{0, 1000, 10_000, 100_000}
	if million {
		counts = append(counts, 1_000_000)
	}
	for _, n := range counts {
		w := ping
		w.Idle = n
		idle.Points = append(idle.Points, point{Label: short10(n), workload: w})
	}
	cores := &curve{Title: "ping-pong of 16, by cores", X: "cores", Stacks: all}
	bulkCores := &curve{Title: "bulk, 4 streams, by cores", X: "cores", Stacks: all}
	for i, p := range []pin{same, free} {
		w, v := ping, bulk
		w.Pin, v.Pin, v.N = p, p, 4
		label := fmt.Sprint(i + 1)
		cores.Points = append(cores.Points, point{Label: label, workload: w})
		bulkCores.Points = append(bulkCores.Points, point{Label: label, workload: v, chunk: largeChunk})
	}
	loss := &curve{Title: "bulk, round trip of 10 ms, by loss", X: "loss", Stacks: ours}
	for _, l := range []float64{0, 0.001, 0.003, 0.01, 0.03} {
		w := bulk
		w.Latency, w.Loss = 5*time.Millisecond, l
		loss.Points = append(loss.Points, point{Label: fmt.Sprintf("%.1f %%", 100*l), workload: w, chunk: largeChunk})
	}
	return []*curve{size, busy, idle, cores, bulkCores, loss}
}

// brief is the first line of an error.
func brief(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line[:min(len(line), 200)]
}

// short10 writes a number with k or M.
func short10(n int) string {
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
	list := curves(b.o.million)
	for _, c := range list {
		b.curve(c)
		fmt.Print(c.text())
	}
	if b.o.markdown != "" {
		var s strings.Builder
		fmt.Fprintf(&s, "# How the cost grows\n\nOne run of `go run . -growth` on %s, %s: both sides in one process, medians of %d runs of %v.\n",
			time.Now().UTC().Format("2006-01-02"), machine(), b.o.runs, b.o.time)
		for _, c := range list {
			s.WriteString(c.markdown())
		}
		if err := os.WriteFile(b.o.markdown, []byte(s.String()), 0o666); err != nil {
			return err
		}
	}
	if b.o.svg != "" {
		if err := os.WriteFile(b.o.svg, []byte(panels(list)), 0o666); err != nil {
			return err
		}
	}
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}

// curve measures one curve, point by point, the stacks in turn.
func (b *bench) curve(c *curve) {
	c.values = map[stackName][]float64{}
	long := b.time
	defer func() { b.time = long }()
	for i := range c.Points {
		p := &c.Points[i]
		b.time = long
		if p.Latency > 0 {
			// Slow start and the first losses take their time.
			b.time = 10 * long
		}
		r := &row{workload: &p.workload, figures: map[stackName]*figure{}}
		for range b.o.runs {
			for _, s := range c.Stacks {
				f := r.figures[s]
				if f == nil {
					f = &figure{setup: b.defaults(&p.workload, s)}
					f.setup.Chunk = p.chunk
					r.figures[s] = f
				}
				if f.failed < 3 {
					b.sample(r, s, f)
				}
			}
		}
		for _, s := range c.Stacks {
			f := r.figures[s]
			if len(f.samples) == 0 {
				if s == usern {
					b.failed++ // what a peer cannot do is a result
				}
				c.notes = append(c.notes, fmt.Sprintf("%s at %s %s: %s", s, p.Label, c.X, brief(f.err)))
			}
			c.values[s] = append(c.values[s], f.rate())
		}
	}
}

func (c *curve) unit() string { return c.Points[0].unit() }

// amount writes a value in the curve's unit.
func (c *curve) amount(v float64) string {
	if c.Points[0].Kind.bulk() {
		v /= 1e9
		if v < 1 && v > 0 {
			return fmt.Sprintf("%.3f", v)
		}
		return digits(v)
	}
	if v >= 1000 {
		return digits(v/1000) + "k"
	}
	return digits(v)
}

func (c *curve) text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s (%s)\n%-18s", c.Title, c.unit(), c.X)
	for _, p := range c.Points {
		fmt.Fprintf(&s, " %9s", p.Label)
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
	fmt.Fprintf(&s, "\n## %s\n\n| %s (%s) |", c.Title, c.X, c.unit())
	for _, p := range c.Points {
		fmt.Fprintf(&s, " %s |", p.Label)
	}
	s.WriteString("\n|---|" + strings.Repeat("---|", len(c.Points)))
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

// The measures of a panel in pixels.
const (
	panelWidth  = 400
	panelHeight = 250
	panelLeft   = 62
	panelTop    = 40
	panelPlotW  = panelWidth - panelLeft - 24
	panelPlotH  = panelHeight - panelTop - 50
)

var colors = map[stackName]string{kernel: "#404040", gvisor: "#dd8a2e", usern: "#2b6cb0"}

// panels draws the curves, two in a row.
func panels(list []*curve) string {
	rows := (len(list) + 1) / 2
	w, h := 2*panelWidth, rows*panelHeight+30
	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="Helvetica, Arial, sans-serif" font-size="11">`+"\n", w, h, w, h)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", w, h)
	for i, name := range []stackName{kernel, gvisor, usern} {
		legend(&s, 62+i*110, colors[name], string(name))
	}
	for i, c := range list {
		fmt.Fprintf(&s, `<g transform="translate(%d,%d)">`+"\n", i%2*panelWidth, 30+i/2*panelHeight)
		c.draw(&s)
		s.WriteString("</g>\n")
	}
	s.WriteString("</svg>\n")
	return s.String()
}

// draw draws one curve: places are equally far apart, values logarithmic.
func (c *curve) draw(s *strings.Builder) {
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, values := range c.values {
		for _, v := range values {
			if v > 0 {
				lo, hi = min(lo, v), max(hi, v)
			}
		}
	}
	fmt.Fprintf(s, `<text x="%d" y="24" font-weight="bold">%s</text>`+"\n", panelLeft, html.EscapeString(c.Title))
	if lo > hi {
		return
	}
	first, last := math.Floor(math.Log10(lo)), math.Ceil(math.Log10(hi)+1e-9)
	y := func(v float64) float64 {
		return panelTop + panelPlotH - (math.Log10(v)-first)/(last-first)*panelPlotH
	}
	x := func(i int) float64 {
		return panelLeft + 20 + float64(i)*(panelPlotW-40)/math.Max(1, float64(len(c.Points)-1))
	}
	for p := first; p <= last; p++ {
		v := math.Pow(10, p)
		fmt.Fprintf(s, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#d8d8d8"/>`, panelLeft, y(v), panelLeft+panelPlotW, y(v))
		fmt.Fprintf(s, `<text x="%d" y="%.1f" text-anchor="end" fill="#606060">%s</text>`+"\n", panelLeft-5, y(v)+4, c.axis(v))
	}
	for i, p := range c.Points {
		fmt.Fprintf(s, `<text x="%.1f" y="%d" text-anchor="middle" fill="#606060">%s</text>`+"\n",
			x(i), panelTop+panelPlotH+16, html.EscapeString(p.Label))
	}
	fmt.Fprintf(s, `<text x="%d" y="%d" text-anchor="middle" fill="#606060">%s</text>`+"\n",
		panelLeft+panelPlotW/2, panelTop+panelPlotH+32, html.EscapeString(c.X+" ("+c.unit()+")"))
	for _, name := range c.Stacks {
		var path []string
		for i, v := range c.values[name] {
			if v > 0 {
				path = append(path, fmt.Sprintf("%.1f,%.1f", x(i), y(v)))
				fmt.Fprintf(s, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`, x(i), y(v), colors[name])
			}
		}
		fmt.Fprintf(s, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), colors[name])
	}
}

// axis writes a power of ten.
func (c *curve) axis(v float64) string {
	if c.Points[0].Kind.bulk() {
		return fmt.Sprintf("%g", v/1e9)
	}
	if v >= 1000 {
		return fmt.Sprintf("%gk", v/1000)
	}
	return fmt.Sprintf("%g", v)
}
