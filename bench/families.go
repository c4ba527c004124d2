package main

import (
	"fmt"
	"math"
	"os"
	"strings"
	"time"
)

// The proportion of IPv4's median that IPv6 has to reach on a pipe and on TAP. IPv6 frames are 20 bytes
// longer. On TAP the proportion is smaller, because the kernel's side counts too.
const (
	enoughPipe6 = 0.97
	enoughTAP6  = 0.95
)

// families measures usernet over both families alternately, prints the figures and writes them.
func (b *bench) families() error {
	const head = "%-8s %-46s %-6s %9s %9s %7s  %7s %7s %7s\n"
	fmt.Println("ratios are the median over IPv6 divided by that over IPv4; CPU is in seconds for a GB or a million operations")
	fmt.Printf(head, "", "", "", "IPv4", "IPv6", "ratio", "CPU", "CPU v6", "ratio")
	var slower []string
	for i := range workloads {
		w := &workloads[i]
		if !b.o.wanted(w.ID) {
			continue
		}
		r := b.measure(w)
		b.rows = append(b.rows, r)
		ratio, sign := r.familyRatio(), ""
		if math.IsNaN(ratio) || ratio < w.enough6() {
			sign = "!"
			slower = append(slower, fmt.Sprintf("%s %.2f", w.ID, ratio))
		}
		f, g := r.figures[usern], r.figures[usern6]
		fmt.Printf(strings.TrimSuffix(head, "\n"), w.ID, w.Name, w.unit(), r.amount(usern), r.amount(usern6), digits(ratio)+sign,
			digits(f.cpu()), digits(g.cpu()), digits(g.cpu()/f.cpu()))
		for _, s := range []stackName{usern, usern6} {
			fmt.Printf("  %s: %s;", s, r.note(s))
		}
		fmt.Println()
	}
	fmt.Printf("%d workloads below %.2f on a pipe or %.2f on TAP: %s; %s\n", len(slower), enoughPipe6, enoughTAP6,
		strings.Join(slower, ", "), time.Since(b.begin).Round(time.Second))
	if b.o.markdown != "" {
		if err := os.WriteFile(b.o.markdown, []byte(b.familiesMarkdown()), 0o666); err != nil {
			return err
		}
	}
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}

// enough6 returns the ratio that a workload has to reach over IPv6.
func (w *workload) enough6() float64 {
	if w.Place == onPipe {
		return enoughPipe6
	}
	return enoughTAP6
}

// familyRatio returns the median over IPv6 divided by the median over IPv4.
func (r *row) familyRatio() float64 { return r.figures[usern6].rate() / r.figures[usern].rate() }

// familiesMarkdown returns the table of FAMILIES.md.
func (b *bench) familiesMarkdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "# Both families\n\nOne interleaved run of `go run . -families` on %s, %s: medians of %d runs of %v. The target of a\nratio is in"+
		" parentheses; a ratio in bold misses it. CPU is that of both sides, in seconds for a GB or for a million operations.\n%s\n\n",
		time.Now().UTC().Format("2006-01-02"), machine(), b.o.runs, b.o.time, b.busy())
	s.WriteString("| | workload | unit | IPv4 | IPv6 | IPv6 / IPv4 | CPU IPv4 | CPU IPv6 |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range b.rows {
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", r.ID, r.Name, r.unit(), r.amount(usern), r.amount(usern6),
			bold(r.familyRatio(), r.enough6()), digits(r.figures[usern].cpu()), digits(r.figures[usern6].cpu()))
	}
	return s.String()
}
