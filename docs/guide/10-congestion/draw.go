package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
)

// A plot is the congestion window of one connection.
type plot struct {
	name    string
	windows []point
}

// The size of one plot in the picture, and its scales.
const (
	width, height = 640, 150
	left, top     = 60, 24
	seconds       = 6
	most          = 320_000 // bytes
)

// draw writes the plots to an SVG file, one below the other.
func draw(file string, plots []plot) {
	var b strings.Builder
	total := len(plots) * (height + 50)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" role="img" font-family="sans-serif" font-size="12">`+"\n",
		left+width+20, total+10)
	b.WriteString("<title>Congestion windows of NewReno, CUBIC and BBR at a loss of 0.1%</title>\n")
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="#fff"/>`+"\n")
	for i, p := range plots {
		y := top + i*(height+50)
		fmt.Fprintf(&b, `<text x="%d" y="%d" font-weight="bold">%s</text>`+"\n", left, y-8, p.name)
		axes(&b, y)
		b.WriteString(`<polyline fill="none" stroke="#06c" stroke-width="1.5" points="`)
		for _, w := range p.windows {
			if w.at <= seconds*time.Second {
				x := left + w.at.Seconds()*width/seconds
				fmt.Fprintf(&b, "%.1f,%.1f ", x, float64(y+height)-float64(min(w.window, most))*height/most)
			}
		}
		b.WriteString(`"/>` + "\n")
	}
	b.WriteString("</svg>\n")
	lab.Check(os.WriteFile(file, []byte(b.String()), 0o644))
}

// axes draws the axes of a plot with its upper edge at y, and a line at the bandwidth-delay product.
func axes(b *strings.Builder, y int) {
	fmt.Fprintf(b, `<path d="M%d %dv%dh%d" fill="none" stroke="#444"/>`+"\n", left, y, height, width)
	for s := 0; s <= seconds; s += 2 {
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">%d s</text>`+"\n", left+s*width/seconds, y+height+16, s)
	}
	for v := 0; v <= most; v += 100_000 {
		fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end">%d kB</text>`+"\n", left-6, y+height+4-v*height/most, v/1000)
	}
	line := y + height - queue*height/most
	fmt.Fprintf(b, `<path d="M%d %dh%d" stroke="#999" stroke-dasharray="4 4"/>`+"\n", left, line, width)
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="end" fill="#666">rate x round trip</text>`+"\n", left+width, line-4)
}
