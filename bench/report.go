package main

import (
	"cmp"
	"fmt"
	"math"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

// median calls value for each sample and returns the median of the results.
func (f *figure) median(value func(sample) float64) float64 {
	if f == nil || len(f.samples) == 0 {
		return math.NaN()
	}
	var v []float64
	for _, s := range f.samples {
		v = append(v, value(s))
	}
	slices.SortFunc(v, cmp.Compare)
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

func (f *figure) rate() float64 { return f.median(func(s sample) float64 { return s.Rate }) }
func (f *figure) cpu() float64  { return f.median(func(s sample) float64 { return s.CPU }) }

// spread returns the difference between the largest and the smallest sample, relative to the
// median.
func (f *figure) spread() float64 {
	if f == nil || len(f.samples) == 0 {
		return math.NaN()
	}
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, s := range f.samples {
		lo, hi = min(lo, s.Rate), max(hi, s.Rate)
	}
	return (hi - lo) / f.rate()
}

// ratio returns usernet's median divided by another stack's.
func (r *row) ratio(to stackName) float64 {
	return r.figures[usern].rate() / r.figures[to].rate()
}

// cpuRatio returns usernet's median CPU time divided by another stack's.
func (r *row) cpuRatio(to stackName) float64 {
	return r.figures[usern].cpu() / r.figures[to].cpu()
}

// amount formats a figure with three digits.
func (r *row) amount(s stackName) string {
	f := r.figures[s]
	v := f.rate()
	switch {
	case f != nil && f.err != nil && len(f.samples) == 0:
		return "failed"
	case math.IsNaN(v):
		return "-"
	case r.Kind.bulk():
		return digits(v / 1e9)
	case v >= 1000:
		return digits(v/1000) + "k"
	}
	return digits(v)
}

func digits(v float64) string {
	switch {
	case math.IsNaN(v):
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// verdict formats a ratio with its target, and marks a ratio below the target with "!".
func verdict(ratio, target float64) string {
	if math.IsNaN(ratio) {
		return "-"
	}
	if target == 0 {
		return fmt.Sprintf("%.2f", ratio)
	}
	sign := " "
	if ratio < target {
		sign = "!"
	}
	return fmt.Sprintf("%.2f (%.2f)%s", ratio, target, sign)
}

// ceiling is like verdict, for a ratio that should not exceed its target.
func ceiling(ratio, target float64) string {
	switch {
	case math.IsNaN(ratio):
		return "-"
	case target == 0:
		return fmt.Sprintf("%.2f", ratio)
	case ratio > target:
		return fmt.Sprintf("%.2f (%.2f)!", ratio, target)
	}
	return fmt.Sprintf("%.2f (%.2f) ", ratio, target)
}

// note lists the chosen settings of a stack and the problems of its runs.
func (r *row) note(s stackName) string {
	f := r.figures[s]
	if f == nil {
		return ""
	}
	var words []string
	if r.Place != onPipe && r.Kind.bulk() || s == kernel || s == kernelBig {
		words = append(words, f.setup.CC)
	}
	if f.setup.Chunk > 0 {
		words = append(words, fmt.Sprintf("%d KiB", f.setup.Chunk>>10))
	}
	if f.setup.Procs > 0 {
		words = append(words, fmt.Sprintf("GOMAXPROCS=%d", f.setup.Procs))
	}
	if f.setup.GSO != 0 {
		words = append(words, fmt.Sprintf("GSO %d", f.setup.GSO))
	}
	if f.setup.Plain {
		words = append(words, "plain")
	}
	if f.setup.MTU > 0 {
		words = append(words, fmt.Sprintf("MTU %d", f.setup.MTU))
	}
	if len(f.samples) > 1 {
		words = append(words, fmt.Sprintf("±%.0f%%", 50*f.spread()))
	}
	if f.disturbed > 0 {
		words = append(words, fmt.Sprintf("%d of %d disturbed", f.disturbed, len(f.samples)))
	}
	errs, lost, why := 0, 0, ""
	for _, one := range f.samples {
		errs, lost = errs+one.Errors, lost+one.Lost
		why = cmp.Or(why, one.Note)
	}
	if errs > 0 {
		words = append(words, fmt.Sprintf("%d errors: %s", errs, why))
	}
	if lost > 0 {
		words = append(words, fmt.Sprintf("up to %d datagrams lost", lost))
	}
	if f.failed > 0 {
		words = append(words, fmt.Sprintf("%d runs failed:", f.failed), brief(f.err))
	}
	return strings.Join(words, ", ")
}

// line formats the row as text.
func (r *row) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-8s %-46s %-6s %9s %9s %9s %9s %9s  %-14s %-14s  cpu %6s %6s %6s %-14s",
		r.ID, r.Name, r.unit(), r.amount(kernel), r.amount(kernelBig), r.amount(gvisor), r.amount(lnetoS), r.amount(usern),
		verdict(r.ratio(kernel), r.OverKernel), verdict(r.ratio(gvisor), r.OverGVisor),
		digits(r.figures[kernel].cpu()), digits(r.figures[gvisor].cpu()), digits(r.figures[usern].cpu()),
		ceiling(r.cpuRatio(kernel), r.KernelCPU))
	for _, s := range []stackName{kernel, kernelBig, gvisor, lnetoS, usern} {
		if n := r.note(s); n != "" {
			fmt.Fprintf(&b, "  %s: %s;", s, n)
		}
	}
	if f := r.figures[netPipe]; f != nil {
		fmt.Fprintf(&b, "  net.Pipe: %s", r.amount(netPipe))
	}
	return b.String()
}

// write prints the table and writes the files.
func (b *bench) write() error {
	fmt.Println(b.busy())
	fmt.Printf("%-8s %-46s %-6s %9s %9s %9s %9s %9s  %-14s %-14s  seconds of CPU for a GB or a million: kernel gVisor usernet usernet/kernel\n",
		"", "", "", "kernel", "BIG TCP", "gVisor", "lneto", "usernet", "over kernel", "over gVisor")
	for _, r := range b.rows {
		fmt.Println(r.line())
	}
	for _, c := range b.costs {
		fmt.Println(c.line())
	}
	missed := b.missed()
	fmt.Printf("%d targets missed %s; %s\n", len(missed), strings.Join(missed, " "), time.Since(b.begin).Round(time.Second))
	if err := b.publish(b.markdown(), drawResults); err != nil {
		return err
	}
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}

// publish writes the tables and the chart that draw makes of them, if the options name files for them.
func (b *bench) publish(tables string, draw func(string) (string, error)) error {
	if b.o.markdown != "" {
		if err := os.WriteFile(b.o.markdown, []byte(tables), 0o666); err != nil {
			return err
		}
	}
	if b.o.svg == "" {
		return nil
	}
	svg, err := draw(tables)
	if err != nil {
		return err
	}
	return os.WriteFile(b.o.svg, []byte(svg), 0o666)
}

// missed returns the targets that are not reached.
func (b *bench) missed() (list []string) {
	for _, r := range b.rows {
		if r.ratio(kernel) < r.OverKernel {
			list = append(list, r.ID+"/kernel")
		}
		if r.ratio(gvisor) < r.OverGVisor {
			list = append(list, r.ID+"/gVisor")
		}
		if r.KernelCPU > 0 && r.cpuRatio(kernel) > r.KernelCPU {
			list = append(list, r.ID+"/CPU")
		}
	}
	return list
}

// markdown returns the tables of RESULTS.md.
func (b *bench) markdown() string {
	var s strings.Builder
	fmt.Fprintf(&s, "One interleaved run of `go run .` on %s, %s: medians of %d runs of %v.\n%s\n%s\n\n",
		time.Now().UTC().Format("2006-01-02"), machine(), b.o.runs, b.o.time, strings.Join(versions(), ", "), b.busy())
	s.WriteString("Targets are in parentheses; a ratio in bold misses its target. CPU is that of both sides, in seconds for a GB or\n" +
		"for a million operations; its ratio should be at most the target. kernel-big is the kernel with BIG TCP.\n\n" +
		"| | workload | unit | kernel | kernel-big | gVisor | lneto | usernet | usernet / kernel | usernet / kernel-big | usernet / gVisor " +
		"| CPU kernel | CPU kernel-big | CPU gVisor | CPU usernet | CPU usernet / kernel |\n|" + strings.Repeat("---|", 16) + "\n")
	for _, r := range b.rows {
		place := ""
		if r.Pin != free {
			place = fmt.Sprintf(" (%s core)", r.Pin)
		}
		cpu := func(s stackName) string { return digits(r.figures[s].cpu()) }
		fmt.Fprintf(&s, "| %s | %s%s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n",
			r.ID, r.Name, place, r.unit(), r.amount(kernel), r.amount(kernelBig), r.amount(gvisor), r.amount(lnetoS), r.amount(usern),
			bold(r.ratio(kernel), r.OverKernel), bold(r.ratio(kernelBig), 0), bold(r.ratio(gvisor), r.OverGVisor),
			cpu(kernel), cpu(kernelBig), cpu(gvisor), cpu(usern), boldAbove(r.cpuRatio(kernel), r.KernelCPU))
	}
	if len(b.costs) > 0 {
		s.WriteString("\n| | cost | unit | kernel | gVisor | lneto | usernet | target |\n|---|---|---|---|---|---|---|---|\n")
		for _, c := range b.costs {
			fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s | %s | %s |\n", c.ID, c.Name, c.Unit,
				c.Values[kernel], c.Values[gvisor], c.Values[lnetoS], c.Values[usern], c.Target)
		}
	}
	s.WriteString("\nThe settings that were found best for each stack, and half of the spread of its runs:\n\n" +
		"| | kernel | kernel-big | gVisor | lneto | usernet |\n|---|---|---|---|---|---|\n")
	for _, r := range b.rows {
		fmt.Fprintf(&s, "| %s | %s | %s | %s | %s | %s |\n",
			r.ID, r.note(kernel), r.note(kernelBig), r.note(gvisor), r.note(lnetoS), r.note(usern))
	}
	list, err := readRatios(s.String())
	if err != nil {
		list = nil // no workload was measured
	}
	return "# Results\n\n" + losses(list) + "\n\n" + s.String()
}

// bold formats a ratio with its target in Markdown. A ratio below the target is bold. A target of 0 means no target.
func bold(ratio, target float64) string {
	return boldIf(ratio, target, ratio < target)
}

// boldAbove is like bold, for a ratio that should not exceed its target.
func boldAbove(ratio, target float64) string {
	return boldIf(ratio, target, ratio > target)
}

func boldIf(ratio, target float64, missed bool) string {
	switch {
	case math.IsNaN(ratio):
		return "-"
	case target == 0:
		return fmt.Sprintf("%.2f", ratio)
	case missed:
		return fmt.Sprintf("**%.2f** (%.2f)", ratio, target)
	}
	return fmt.Sprintf("%.2f (%.2f)", ratio, target)
}

// losses returns the sentence with which RESULTS.md begins: where usernet is worse than another stack. A workload
// counts as lost if the ratio of the medians, with two digits, is on the wrong side of 1.
func losses(list []ratio) string {
	round := func(v float64) float64 { return math.Round(100*v) / 100 }
	var parts []string
	for _, s := range []stackName{kernel, kernelBig, gvisor} {
		var slower, costlier []string
		known := 0
		for _, r := range list {
			if v, ok := r.Over[s]; ok {
				known++
				if round(v) < 1 {
					slower = append(slower, fmt.Sprintf("%s (%.2f)", r.ID, v))
				}
			}
			if v := r.CPU[s]; round(v) > 1 {
				costlier = append(costlier, fmt.Sprintf("%s (%.2f)", r.ID, v))
			}
		}
		if known == 0 {
			continue
		}
		name := map[stackName]string{kernel: "the kernel", kernelBig: "the kernel with BIG TCP", gvisor: "gVisor"}[s]
		parts = append(parts, fmt.Sprintf("slower than %s in %s and takes more CPU time in %s", name,
			outOf(slower, known), outOf(costlier, known)))
	}
	if len(parts) == 0 {
		return "usernet was not compared with another stack."
	}
	return "usernet is " + strings.Join(parts, "; it is ") + "."
}

// outOf says how many of n workloads are in list, and names them.
func outOf(list []string, n int) string {
	if len(list) == 0 {
		return fmt.Sprintf("none of %d workloads", n)
	}
	return fmt.Sprintf("%d of %d workloads: %s", len(list), n, strings.Join(list, ", "))
}

// machine describes the machine.
func machine() string {
	out, err := exec.Command("uname", "-r").Output()
	if err != nil {
		out = []byte("?")
	}
	return fmt.Sprintf("%d cores, Linux %s, %s", runtime.NumCPU(), strings.TrimSpace(string(out)), runtime.Version())
}

// versions returns the versions of gVisor and lneto.
func versions() (list []string) {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return nil
	}
	for _, d := range info.Deps {
		if d.Path == "gvisor.dev/gvisor" || d.Path == "github.com/soypat/lneto" {
			list = append(list, d.Path+" "+d.Version)
		}
	}
	return list
}
