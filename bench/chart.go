package main

import (
	"bytes"
	"fmt"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// The charts are drawn from the tables of RESULTS.md and GROWTH.md, so that they never show other figures.

// chartColors are the colors of the stacks.
var chartColors = map[stackName]color.Color{
	kernel: color.RGBA{0x40, 0x40, 0x40, 0xff},
	gvisor: color.RGBA{0xdd, 0x8a, 0x2e, 0xff},
	usern:  color.RGBA{0x2b, 0x6c, 0xb0, 0xff},
}

// The sizes of the charts, in points.
const (
	ratioWidth  = 640
	ratioRow    = 20
	ratioBar    = 7
	panelWidth  = 400
	panelHeight = 250
	legendRoom  = 24
)

// newPlot returns a plot with the fonts of all charts.
func newPlot(title string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.BackgroundColor = nil
	sans := func(f *font.Font, size float64) {
		f.Typeface, f.Variant, f.Size = "Liberation", "Sans", font.Length(size)
	}
	sans(&p.Title.TextStyle.Font, 11)
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		sans(&a.Label.TextStyle.Font, 9.5)
		sans(&a.Tick.Label.Font, 8.5)
	}
	sans(&p.Legend.TextStyle.Font, 9.5)
	return p
}

// A ratio is a line of the first table of RESULTS.md.
type ratio struct {
	ID, Name string
	// Over has usernet's rate divided by that of other stacks, and CPU its CPU time divided by theirs. A
	// stack without a figure is absent.
	Over, CPU map[stackName]float64
}

// ratioBars draws two bars for each ratio, from the line at 1.
type ratioBars struct{ list []ratio }

var compared = []stackName{kernel, gvisor}

// y returns the position of the ith of n lines, the first on top.
func (b ratioBars) y(i int) float64 { return float64(len(b.list) - 1 - i) }

// DataRange implements plot.DataRanger. The range consists of whole powers of two.
func (b ratioBars) DataRange() (xmin, xmax, ymin, ymax float64) {
	xmin, xmax = 0.5, 2
	for _, r := range b.list {
		for _, s := range compared {
			if v, ok := r.Over[s]; ok {
				xmin, xmax = min(xmin, v), max(xmax, v)
			}
		}
	}
	return math.Exp2(math.Floor(math.Log2(xmin))), math.Exp2(math.Ceil(math.Log2(xmax))), -0.6, float64(len(b.list)) - 0.4
}

// Plot implements plot.Plotter.
func (b ratioBars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	text := p.X.Tick.Label
	text.Font.Size = 7
	text.XAlign, text.YAlign = draw.XLeft, draw.YCenter
	for i, r := range b.list {
		for k, s := range compared {
			v, ok := r.Over[s]
			if !ok {
				continue
			}
			// The bars of a line touch in its middle.
			low := y(b.y(i)) - vg.Length(k)*ratioBar
			from, to := min(x(1), x(v)), max(x(1), x(v))
			if to-from < 0.5 {
				to = from + 0.5
			}
			c.FillPolygon(chartColors[s], []vg.Point{{X: from, Y: low}, {X: to, Y: low}, {X: to, Y: low + ratioBar}, {X: from, Y: low + ratioBar}})
			c.FillText(text, vg.Point{X: to + 3, Y: low + ratioBar/2 + 1}, digits(v))
		}
	}
}

// A stackBox is the colored box of a stack in a legend.
type stackBox struct{ color.Color }

// Thumbnail implements plot.Thumbnailer.
func (b stackBox) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(b.Color, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
}

// ratioChart draws RESULTS.md: how many times as fast usernet is.
func ratioChart(list []ratio) (string, error) {
	bars := ratioBars{list}
	p := newPlot("How many times as fast usernet is")
	p.X.Label.Text = "rate of usernet divided by the rate of the other stack (a ratio; logarithmic)"
	p.Y.Label.Text = "workload"
	p.X.Scale = plot.LogScale{}
	p.Add(bars)
	var xs, ys []plot.Tick
	for v := p.X.Min; v <= p.X.Max; v *= 2 {
		xs = append(xs, plot.Tick{Value: v, Label: fmt.Sprintf("%g", v)})
	}
	for i, r := range list {
		ys = append(ys, plot.Tick{Value: bars.y(i), Label: r.ID + "  " + r.Name})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.ConstantTicks(xs), plot.ConstantTicks(ys)
	p.Y.Tick.Length, p.Y.LineStyle.Width, p.Y.Padding = 0, 0, 24 // leaves room for wider fonts
	grid := plotter.NewGrid()
	grid.Horizontal.Width = 0
	grid.Vertical.Color = color.Gray{0xd8}
	p.Add(grid, bars)
	one, err := plotter.NewLine(plotter.XYs{{X: 1, Y: p.Y.Min}, {X: 1, Y: p.Y.Max}})
	if err != nil {
		return "", err
	}
	p.Add(one)
	return render(ratioWidth, vg.Length(ratioRow*len(list)+90), func(c draw.Canvas) {
		legend(c, 320, "over ", compared)
		p.Draw(draw.Crop(c, 0, 0, 0, -legendRoom))
	})
}

// legend draws one line with the color and the name of each stack at the top of c, from the position x on. prefix
// precedes each name.
func legend(c draw.Canvas, x vg.Length, prefix string, stacks []stackName) {
	for i, s := range stacks {
		l := newPlot("").Legend
		l.Add(prefix+string(s), stackBox{chartColors[s]})
		l.Left, l.Top, l.ThumbnailWidth = true, true, 12
		l.Draw(draw.Crop(c, x+vg.Length(90*i), 0, 0, -6))
	}
}

// curvesChart draws GROWTH.md: the curves, two per row.
func curvesChart(list []*curve) (string, error) {
	rows := (len(list) + 1) / 2
	var plots []*plot.Plot
	for _, c := range list {
		p, err := c.plot()
		if err != nil {
			return "", err
		}
		plots = append(plots, p)
	}
	width, height := vg.Length(2*panelWidth), vg.Length(rows*panelHeight+legendRoom)
	return render(width, height, func(c draw.Canvas) {
		legend(c, 50, "", []stackName{kernel, gvisor, usern})
		tiles := draw.Tiles{Rows: rows, Cols: 2, PadX: 12, PadY: 10, PadLeft: 6, PadRight: 10, PadBottom: 4}
		body := draw.Crop(c, 0, 0, 0, -legendRoom)
		for i, p := range plots {
			p.Draw(tiles.At(body, i%2, i/2))
		}
	})
}

// units are the words for the units of curves.
var units = map[string]string{
	bits: "Gbit/s", rate: "operations per second", micros: "microseconds", inBytes: "bytes",
}

// plot draws one curve: labels at equal distances, values on a logarithmic scale.
func (c *curve) plot() (*plot.Plot, error) {
	p := newPlot(c.Title)
	p.X.Label.Text, p.Y.Label.Text = c.X, units[c.Unit]
	lo, hi := math.Inf(1), math.Inf(-1)
	for _, values := range c.values {
		for _, v := range values {
			if v > 0 {
				lo, hi = min(lo, v), max(hi, v)
			}
		}
	}
	if lo > hi {
		lo, hi = 1, 1 // no figures
	}
	first, last := math.Floor(math.Log10(lo)), math.Floor(math.Log10(hi))+1
	var xs, ys []plot.Tick
	for i, label := range c.Labels {
		xs = append(xs, plot.Tick{Value: float64(i), Label: label})
	}
	for e := first; e <= last; e++ {
		v := math.Pow(10, e)
		ys = append(ys, plot.Tick{Value: v, Label: c.axis(v)})
	}
	p.X.Tick.Marker, p.Y.Tick.Marker = plot.ConstantTicks(xs), plot.ConstantTicks(ys)
	p.Y.Scale = plot.LogScale{}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{0xd8}
	p.Add(grid)
	for _, s := range c.Stacks {
		var points plotter.XYs
		for i, v := range c.values[s] {
			if v > 0 {
				points = append(points, plotter.XY{X: float64(i), Y: v})
			}
		}
		if len(points) == 0 {
			continue
		}
		line, marks, err := plotter.NewLinePoints(points)
		if err != nil {
			return nil, err
		}
		line.Color, line.Width = chartColors[s], 1.5
		marks.Color, marks.Shape, marks.Radius = chartColors[s], draw.CircleGlyph{}, 2.5
		p.Add(line, marks)
	}
	p.X.Min, p.X.Max = -0.3, float64(len(c.Labels))-0.7
	p.Y.Min, p.Y.Max = math.Pow(10, first), math.Pow(10, last)
	return p, nil
}

// axis formats a power of ten for the y axis.
func (c *curve) axis(v float64) string {
	if c.Unit == rate && v >= 1000 {
		return fmt.Sprintf("%gk", v/1000)
	}
	return fmt.Sprintf("%g", v)
}

// render returns an SVG file of w by h points. paint draws on the white background.
func render(w, h vg.Length, paint func(draw.Canvas)) (string, error) {
	canvas := vgsvg.New(w, h)
	c := draw.New(canvas)
	c.FillPolygon(color.White, []vg.Point{c.Min, {X: c.Max.X, Y: c.Min.Y}, c.Max, {X: c.Min.X, Y: c.Max.Y}})
	paint(c)
	var out bytes.Buffer
	_, err := canvas.WriteTo(&out)
	// The style of each text names a font that the reader's machine may not have.
	return strings.NewReplacer(
		"font-family:Liberation Sans;font-variant:normal;font-weight:normal;font-style:normal;", "",
		"\n\txmlns=", "\n\tfont-family=\"Liberation Sans, Arial, Helvetica, sans-serif\" xmlns=",
		"\n\tstyle=", " style=",
	).Replace(out.String()), err
}

// redraw draws the charts again from the tables, without a measurement.
func redraw(o *options) error {
	for _, one := range []struct {
		table, picture string
		draw           func(string) (string, error)
	}{
		{"RESULTS.md", "bench.svg", drawResults},
		{"GROWTH.md", "growth.svg", drawGrowth},
	} {
		b, err := os.ReadFile(one.table)
		if err != nil {
			return err
		}
		svg, err := one.draw(string(b))
		if err != nil {
			return fmt.Errorf("%s: %w", one.table, err)
		}
		if err := os.WriteFile(filepath.Join(o.pictures, one.picture), []byte(svg), 0o666); err != nil {
			return err
		}
	}
	return nil
}

func drawResults(table string) (string, error) {
	list, err := readRatios(table)
	if err != nil {
		return "", err
	}
	return ratioChart(list)
}

func drawGrowth(tables string) (string, error) {
	list, err := readCurves(tables)
	if err != nil {
		return "", err
	}
	return curvesChart(list)
}

// cells returns the cells of a line of a Markdown table, or nil if the line is not part of a table.
func cells(line string) []string {
	line = strings.TrimSpace(line)
	if len(line) < 2 || line[0] != '|' || line[len(line)-1] != '|' {
		return nil
	}
	list := strings.Split(line[1:len(line)-1], "|")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
	}
	return list
}

// value parses a cell that digits or amount has formatted. It returns NaN if the cell has no figure.
func value(cell string) float64 {
	cell, _, _ = strings.Cut(strings.Trim(cell, "*"), " ")
	cell = strings.Trim(cell, "*")
	scale := 1.0
	if k, ok := strings.CutSuffix(cell, "k"); ok {
		cell, scale = k, 1000
	}
	var v float64
	if n, err := fmt.Sscanf(cell, "%g", &v); n != 1 || err != nil {
		return math.NaN()
	}
	return v * scale
}

// readRatios reads the first table of RESULTS.md.
func readRatios(text string) (list []ratio, err error) {
	var head []string
	for line := range strings.Lines(text) {
		row := cells(line)
		switch {
		case row == nil && head != nil:
			return list, nil // the end of the table
		case row == nil, strings.HasPrefix(row[0], "---"):
			continue
		case head == nil:
			head = row
			continue
		}
		if len(row) != len(head) {
			return nil, fmt.Errorf("%d cells instead of %d: %s", len(row), len(head), line)
		}
		col := func(name string) float64 {
			if i := slices.Index(head, name); i >= 0 {
				return value(row[i])
			}
			return math.NaN()
		}
		r := ratio{ID: row[0], Name: row[1], Over: map[stackName]float64{}, CPU: map[stackName]float64{}}
		for _, s := range []stackName{kernel, kernelBig, gvisor} {
			if v := col(fmt.Sprintf("usernet / %s", s)); v > 0 {
				r.Over[s] = v
			}
			v := col(fmt.Sprintf("CPU usernet / %s", s))
			if math.IsNaN(v) {
				v = col("CPU usernet") / col(fmt.Sprintf("CPU %s", s))
			}
			if v > 0 && !math.IsInf(v, 1) {
				r.CPU[s] = v
			}
		}
		list = append(list, r)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no table")
	}
	return list, nil
}

// readCurves reads the tables of GROWTH.md.
func readCurves(text string) (list []*curve, err error) {
	var c *curve
	for line := range strings.Lines(text) {
		if title, ok := strings.CutPrefix(line, "## "); ok {
			c = &curve{Title: strings.TrimSpace(title), values: map[stackName][]float64{}}
			list = append(list, c)
			continue
		}
		row := cells(line)
		switch {
		case row == nil, strings.HasPrefix(row[0], "---"):
			continue
		case c == nil:
			return nil, fmt.Errorf("a table without a title: %s", line)
		case c.Labels == nil:
			x, unit, ok := strings.Cut(row[0], " (")
			if !ok {
				return nil, fmt.Errorf("no unit: %s", row[0])
			}
			c.X, c.Unit, c.Labels = x, strings.TrimSuffix(unit, ")"), row[1:]
			continue
		case len(row) != 1+len(c.Labels):
			return nil, fmt.Errorf("%d cells instead of %d: %s", len(row), 1+len(c.Labels), line)
		}
		s := stackName(row[0])
		c.Stacks = append(c.Stacks, s)
		for _, cell := range row[1:] {
			c.values[s] = append(c.values[s], value(cell))
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no table")
	}
	return list, nil
}
