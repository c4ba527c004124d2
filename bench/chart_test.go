package main

import (
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// wellFormed parses an SVG file.
func wellFormed(t *testing.T, svg string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		_, err := d.Token()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// The same tables make the same bytes, so a chart in docs changes only with its table.
func TestChartsInDocsAreThoseOfTheTables(t *testing.T) {
	for _, c := range []struct {
		table, picture string
		draw           func(string) (string, error)
	}{{"RESULTS.md", "bench.svg", drawResults}, {"GROWTH.md", "growth.svg", drawGrowth}} {
		table, err := os.ReadFile(c.table)
		if err != nil {
			t.Fatal(err)
		}
		want, err := c.draw(string(table))
		if err != nil {
			t.Fatal(err)
		}
		wellFormed(t, want)
		got, err := os.ReadFile(filepath.Join("..", "docs", c.picture))
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != want {
			t.Errorf("docs/%s is not what %s makes: run go run . -charts", c.picture, c.table)
		}
	}
}

func TestResultsBeginWithWhatIsLost(t *testing.T) {
	b, err := os.ReadFile("RESULTS.md")
	if err != nil {
		t.Fatal(err)
	}
	list, err := readRatios(string(b))
	if err != nil {
		t.Fatal(err)
	}
	if want := "# Results\n\n" + losses(list) + "\n"; !strings.HasPrefix(string(b), want) {
		t.Errorf("RESULTS.md does not begin with\n%s", want)
	}
}

// resultsOf returns a bench with one row: usernet has half of the kernel's rate and ten times gVisor's.
func resultsOf(name string) *bench {
	w := workload{ID: "T1", Name: name, Place: onTAP, Kind: send, Pin: free, OverKernel: 0.6, OverGVisor: 2, KernelCPU: 0.9}
	return &bench{o: options{runs: 1}, rows: []*row{{workload: &w, figures: map[stackName]*figure{
		kernel:    {samples: []sample{{Rate: 2e9, CPU: 1}}},
		kernelBig: {samples: []sample{{Rate: 4e9, CPU: 0.5}}},
		gvisor:    {samples: []sample{{Rate: 1e8, CPU: 3}}},
		usern:     {samples: []sample{{Rate: 1e9, CPU: 1.5}}},
	}}}}
}

func TestChartHasTheRatiosAndTheirUnit(t *testing.T) {
	b := resultsOf("<&>")
	svg, err := drawResults(b.markdown())
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, svg)
	for _, want := range []string{">0.50<", ">10.0<", "&lt;&amp;&gt;", "a ratio; logarithmic", ">workload<"} {
		if !strings.Contains(svg, want) {
			t.Errorf("%q is not in the chart", want)
		}
	}
}

func TestTargetsAreMissedByRateAndByCPU(t *testing.T) {
	b := resultsOf("x")
	if missed := strings.Join(b.missed(), " "); missed != "T1/kernel T1/CPU" {
		t.Error(missed)
	}
	text := b.markdown()
	for _, want := range []string{"**0.50** (0.60)", "10.00 (2.00)", "**1.50** (0.90)", "| 0.25 |"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	if line := b.rows[0].line(); !strings.Contains(line, "0.50 (0.60)!") || !strings.Contains(line, "1.50 (0.90)!") {
		t.Error(line)
	}
	const want = "usernet is slower than the kernel in 1 of 1 workloads: T1 (0.50) and takes more CPU time in 1 of 1 workloads: T1 (1.50);" +
		" it is slower than the kernel with BIG TCP in 1 of 1 workloads: T1 (0.25) and takes more CPU time in 1 of 1 workloads: T1 (3.00);" +
		" it is slower than gVisor in none of 1 workloads and takes more CPU time in none of 1 workloads."
	if !strings.HasPrefix(text, "# Results\n\n"+want+"\n") {
		t.Errorf("%s\ndoes not begin with\n%s", text, want)
	}
	b.rows[0].KernelCPU, b.rows[0].OverKernel = 1.5, 0.5
	if missed := b.missed(); len(missed) != 0 {
		t.Error(missed)
	}
}

// The targets of the plan, for a workload of each kind.
func TestTargetsAreThoseOfThePlan(t *testing.T) {
	want := map[string][3]float64{ // over the kernel, over gVisor, CPU
		"T1": {1.2, 2, 0.9}, "T2": {1.4, 2, 0.8}, "T3": {0.9, 2, 1.05}, "T4": {1, 2, 0.95}, "T5": {1.35, 2, 0.9},
		"T6": {1, 2, 0.95}, "T7": {1.25, 2, 0.85}, "T9": {1.6, 2, 0.9}, "T11": {1.3, 2, 0.85}, "T12": {1.15, 2, 0.9},
		"T13in": {1, 2, 0}, "T13out": {0.7, 2, 0}, "T14in": {1.2, 2, 0.9}, "T14conn": {1.3, 2, 0.85},
		"T15": {1, 2, 1.1}, "T15big": {1, 2, 1.1}, "T16in": {1, 2, 1.1}, "T17in": {1, 2, 1.1}, "T17out": {1, 2, 1.1},
		"T18in": {0, 2, 0}, "T24": {0, 2, 0},
		"P1": {3, 2.2, 0}, "P2": {4, 2.2, 0}, "P3": {7, 2.2, 0}, "P4": {8, 2.2, 0}, "P6": {1.9, 2.2, 0}, "P8big": {10, 2.2, 0},
	}
	seen := map[string]bool{}
	for _, w := range every() {
		if seen[w.ID] {
			t.Errorf("%s occurs twice", w.ID)
		}
		seen[w.ID] = true
		if w.KernelCPU < 0 || w.KernelCPU > 1.2 || w.OverKernel < 0 || w.OverGVisor < 2 {
			t.Errorf("%s has the targets %g, %g, %g", w.ID, w.OverKernel, w.OverGVisor, w.KernelCPU)
		}
		if v, ok := want[w.ID]; ok && v != [3]float64{w.OverKernel, w.OverGVisor, w.KernelCPU} {
			t.Errorf("%s has the targets %g, %g, %g instead of %g", w.ID, w.OverKernel, w.OverGVisor, w.KernelCPU, v)
		}
		delete(want, w.ID)
	}
	if len(want) > 0 {
		t.Errorf("not measured: %v", want)
	}
}

func TestCurvesAreWellFormedThoughPointsAreMissing(t *testing.T) {
	nan := math.NaN()
	list := []*curve{
		{Title: "<a>", X: "b", Unit: bits, Stacks: []stackName{usern}, Labels: []string{"1", "2"}, values: map[stackName][]float64{usern: {nan, 3}}},
		{Title: "none", X: "b", Unit: rate, Stacks: []stackName{usern}, Labels: []string{"1"}, values: map[stackName][]float64{usern: {nan}}, notes: []string{"why"}},
	}
	text := list[0].markdown() + list[1].markdown()
	svg, err := drawGrowth(text)
	if err != nil {
		t.Fatal(err)
	}
	wellFormed(t, svg)
	if !strings.Contains(svg, ">Gbit/s<") || !strings.Contains(svg, ">operations per second<") {
		t.Error("a unit is not in the chart")
	}
	if !strings.Contains(text, "| usernet | - | 3.00 |") {
		t.Fatal(text)
	}
	if got := list[1].text(); !strings.Contains(got, "why") {
		t.Fatal(got)
	}
	for _, bad := range []string{"", "## a\n| x (y) | 1 |\n|---|---|\n| usernet | 1 | 2 |\n", "| x (y) | 1 |\n"} {
		if _, err := readCurves(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}
