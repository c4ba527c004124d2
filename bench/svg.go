package main

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// The chart's dimensions in pixels.
const (
	chartLabels = 350 // the column of names
	chartBars   = 420
	chartRow    = 26
	chartTop    = 64
)

// chart draws the ratios: two bars for each workload, on a logarithmic scale with a line at 1.
func (b *bench) chart() string {
	lo, hi := 0.5, 2.0
	for _, r := range b.rows {
		for _, v := range []float64{r.ratio(kernel), r.ratio(gvisor)} {
			if !math.IsNaN(v) && v > 0 {
				lo, hi = min(lo, v), max(hi, v)
			}
		}
	}
	// Whole powers of two, for the lines of the grid.
	first, last := math.Floor(math.Log2(lo)), math.Ceil(math.Log2(hi))
	x := func(v float64) float64 { return chartLabels + (math.Log2(v)-first)/(last-first)*chartBars }
	height := chartTop + chartRow*len(b.rows) + 16
	width := chartLabels + chartBars + 60

	var s strings.Builder
	fmt.Fprintf(&s, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %d %d" font-family="Helvetica, Arial, sans-serif" font-size="12">`+"\n",
		width, height, width, height)
	fmt.Fprintf(&s, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&s, `<text x="12" y="22" font-size="15" font-weight="bold">How many times as fast usernet is (ratio of rates)</text>`+"\n")
	legend(&s, chartLabels+60, "#2b6cb0", "over the kernel")
	legend(&s, chartLabels+200, "#dd8a2e", "over gVisor")
	for p := first; p <= last; p++ {
		v := math.Exp2(p)
		color, w := "#d8d8d8", 1
		if v == 1 {
			color, w = "#404040", 2
		}
		fmt.Fprintf(&s, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d" stroke="%s" stroke-width="%d"/>`+"\n",
			x(v), chartTop-6, x(v), height-10, color, w)
		fmt.Fprintf(&s, `<text x="%.1f" y="%d" text-anchor="middle" fill="#606060" font-size="11">%g</text>`+"\n", x(v), chartTop-12, v)
	}
	for i, r := range b.rows {
		y := chartTop + i*chartRow
		fmt.Fprintf(&s, `<text x="12" y="%d">%s</text><text x="74" y="%d">%s</text>`+"\n", y+15, r.ID, y+15, html.EscapeString(r.Name))
		bar(&s, x, y+2, "#2b6cb0", r.ratio(kernel))
		bar(&s, x, y+12, "#dd8a2e", r.ratio(gvisor))
	}
	s.WriteString("</svg>\n")
	return s.String()
}

func legend(s *strings.Builder, x int, color, text string) {
	fmt.Fprintf(s, `<rect x="%d" y="13" width="12" height="10" fill="%s"/><text x="%d" y="22">%s</text>`+"\n", x, color, x+17, text)
}

// bar draws a bar from the line at ratio 1 to the ratio v. x converts a ratio to a position.
func bar(s *strings.Builder, x func(float64) float64, y int, color string, v float64) {
	if math.IsNaN(v) || v <= 0 {
		return
	}
	from, to := min(x(1), x(v)), max(x(1), x(v))
	fmt.Fprintf(s, `<rect x="%.1f" y="%d" width="%.1f" height="9" fill="%s"/>`, from, y, max(to-from, 1), color)
	fmt.Fprintf(s, `<text x="%.1f" y="%d" font-size="10" fill="#404040">%s</text>`+"\n", to+4, y+8, digits(v))
}
