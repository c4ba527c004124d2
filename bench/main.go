// Bench compares usernet with gVisor's netstack, lneto and the kernel. It runs the same programs on
// all of them and prints the ratios. See README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// allStacks is the default of -stacks.
const allStacks = "kernel,kernel-big,gVisor,lneto,usernet"

// options are the command-line options.
type options struct {
	quick, noisy    bool
	million, growth bool
	only            string
	runs            int
	time, budget    time.Duration
	svg, markdown   string
	profiles, place string
	stacks          string
	probe           bool
	compare         string
	families, links bool
	where           bool
	charts          bool
	gso             int
	pictures        string // the directory of the charts
	task            string
}

func parse(args []string) (o options, err error) {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.BoolVar(&o.quick, "quick", false, "one short run of each, four minutes in all; the figures are rough")
	fs.BoolVar(&o.noisy, "noisy", false, "do not repeat runs that other processes or virtual machines disturbed")
	fs.BoolVar(&o.million, "million", false, "also measure the memory of 1,000,000 idle connections")
	fs.BoolVar(&o.growth, "growth", false, "only measure how the cost grows (writes GROWTH.md and ../docs/growth.svg)")
	fs.StringVar(&o.only, "only", "", "workloads to run, such as T1,P3,C5; a prefix selects several")
	fs.IntVar(&o.runs, "runs", 0, "runs of each workload; the median counts (default 5)")
	fs.DurationVar(&o.time, "time", 0, "time of each run (default 800ms)")
	fs.DurationVar(&o.budget, "budget", 24*time.Minute, "start no more runs after this time")
	fs.StringVar(&o.svg, "svg", "", "write a chart (default ../docs/bench.svg for a full run)")
	fs.StringVar(&o.markdown, "md", "", "write the tables (default RESULTS.md for a full run)")
	fs.StringVar(&o.profiles, "cpuprofile", "", "write a CPU profile of usernet's process for each workload to this directory")
	fs.IntVar(&o.gso, "gso", 0, "limit of usernet's super-frames in `bytes`, such as 65535 or 196608 (default that of the device)")
	fs.StringVar(&o.place, "place", "", "placement: free, same or cross, instead of the workloads' own")
	fs.StringVar(&o.stacks, "stacks", allStacks, "stacks to run")
	fs.BoolVar(&o.probe, "probe", true, "first find each stack's best settings; if false, use the default ones")
	fs.StringVar(&o.compare, "compare", "", "compare this tree with the `commit`, interleaved, in every workload")
	fs.BoolVar(&o.families, "families", false, "compare IPv6 with IPv4, interleaved (a full run writes FAMILIES.md)")
	fs.BoolVar(&o.links, "links", false, "compare TUN with TAP, VLAN tags with none, and WireGuard with the netstack of wireguard-go (a full run writes LINKS.md)")
	fs.BoolVar(&o.where, "where", false, "profile usernet and show what its process spends its CPU time on (a full run writes WHERE.md)")
	fs.BoolVar(&o.charts, "charts", false, "measure nothing; draw the charts in ../docs again from RESULTS.md and GROWTH.md")
	fs.StringVar(&o.task, "task", "", "internal: the task of a process that the harness starts")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.pictures = filepath.Join("..", "docs")
	text, picture := "RESULTS.md", "bench.svg"
	runs, t := 5, 800*time.Millisecond
	if o.growth {
		text, picture = "GROWTH.md", "growth.svg"
		runs, t = 3, 300*time.Millisecond
	}
	if o.compare != "" {
		if o.growth {
			return o, errors.New("-compare and -growth exclude each other")
		}
		if o.stacks == allStacks {
			o.stacks = string(before) + "," + string(usern)
		}
	}
	if o.families {
		if o.growth || o.compare != "" {
			return o, errors.New("-families excludes -growth and -compare")
		}
		if o.stacks == allStacks {
			o.stacks = string(usern) + "," + string(usern6)
		}
		text = "FAMILIES.md"
	}
	if o.links || o.where {
		if o.growth || o.compare != "" || o.families || o.links && o.where || o.stacks != allStacks {
			return o, errors.New("-links and -where exclude each other, -growth, -compare, -families and -stacks")
		}
		text = "LINKS.md"
	}
	if o.where {
		text, t = "WHERE.md", 3*time.Second
	}
	full := !o.quick && o.only == "" && o.compare == ""
	if full && o.markdown == "" {
		o.markdown = text
	}
	if full && o.svg == "" && !o.families && !o.links && !o.where {
		o.svg = filepath.Join(o.pictures, picture)
	}
	if o.quick {
		runs, t, o.probe, o.noisy = 1, 500*time.Millisecond, false, true
	}
	if o.runs <= 0 {
		o.runs = runs
	}
	if o.time <= 0 {
		o.time = t
	}
	return o, nil
}

func run(args []string) error {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.task != "" {
		return runTask(o.task)
	}
	if o.charts {
		return redraw(&o)
	}
	b, err := newBench(o)
	if err != nil {
		return err
	}
	defer b.close()
	if o.compare != "" {
		if b.before, err = newBuild(o.compare); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-stop
		cancel()
		b.close()
		os.Exit(1)
	}()
	if o.growth {
		return b.grow()
	}
	if o.compare != "" {
		return b.compare(ctx)
	}
	if o.families {
		return b.families()
	}
	if o.links {
		return b.links()
	}
	if o.where {
		return b.where()
	}
	b.all()
	return b.write()
}

// close removes the namespaces and the build of -compare.
func (b *bench) close() {
	b.lab.close()
	if b.before != nil {
		b.before.remove()
	}
}

// A bench is one run of the harness.
type bench struct {
	runner
	o      options
	begin  time.Time
	stacks []stackName
	rows   []*row
	costs  []cost
	failed int    // number of workloads that a stack could not run
	alone  alone  // for -links
	before *build // the build for -compare, or nil
	files  int    // for -growth: the maximum number of open files of a process
	// lnetoFailed is the number of workloads that lneto could not run.
	lnetoFailed int
}

// A row holds the figures of a workload.
type row struct {
	*workload
	figures map[stackName]*figure
}

// A figure holds the samples of a workload on a stack.
type figure struct {
	setup     setup
	samples   []sample
	disturbed int   // number of samples that others disturbed even when repeated
	failed    int   // number of failed runs; each was repeated once
	err       error // the error of the last failed run
}

// disturbance is the maximum proportion of the machine that others may use during a run: see runner.others.
const disturbance = 0.08

// repeats is how many times at most a disturbed run is repeated.
const repeats = 3

func newBench(o options) (*bench, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("needs root, for network namespaces and TAP devices of its own")
	}
	b := &bench{o: o, begin: time.Now()}
	for s := range strings.SplitSeq(o.stacks, ",") {
		name := stackName(s)
		if !slices.Contains([]stackName{kernel, kernelBig, gvisor, lnetoS, usern, usern6, netPipe, before}, name) || name == before && o.compare == "" {
			return nil, fmt.Errorf("no stack %q", s)
		}
		b.stacks = append(b.stacks, name)
	}
	b.pin = pin(o.place)
	if b.pin != "" && b.pin != free && b.pin != same && b.pin != cross {
		return nil, fmt.Errorf("no placement %q", o.place)
	}
	b.time, b.profiles = o.time, o.profiles
	if b.profiles != "" {
		if err := os.MkdirAll(b.profiles, 0o777); err != nil {
			return nil, err
		}
	}
	var err error
	if b.self, err = os.Executable(); err != nil {
		return nil, err
	}
	b.ksoftirqds = findKsoftirqds()
	b.lab, err = newLab()
	return b, err
}

// wanted reports whether the options select a workload.
func (o *options) wanted(id string) bool {
	if o.only == "" {
		return true
	}
	for s := range strings.SplitSeq(o.only, ",") {
		rest, ok := strings.CutPrefix(id, s)
		// T1 does not select T10, but T14 selects all workloads of T14.
		if ok && (rest == "" || rest[0] < '0' || rest[0] > '9') {
			return true
		}
	}
	return false
}

// all measures the workloads and the costs that the options select.
func (b *bench) all() {
	for _, w := range every() {
		if b.o.wanted(w.ID) {
			r := b.measure(w)
			b.rows = append(b.rows, r)
			fmt.Fprintln(os.Stderr, r.line())
		}
	}
	b.measureCosts()
}

// followers are the forms of usernet that have the same settings as usernet itself, so that they can be compared
// with it: another tree, another family, other links.
var followers = []stackName{before, usern6, usernTUN, usernBridge, usernVLAN}

// measure runs a workload on each stack in turn, o.runs times, unless the budget ends earlier.
func (b *bench) measure(w *workload) *row {
	r := &row{workload: w, figures: map[stackName]*figure{}}
	for _, s := range b.stacks {
		if s == netPipe && (w.Place != onPipe || w.Kind != pingpong) || s == lnetoS && (b.lnetoFailed >= lnetoPatience || !w.forLneto()) {
			continue
		}
		if s.bridged() && (w.Kind == wrkHTTP || w.Client) {
			continue // wrk uses the kernel's TCP, and both sides are the same
		}
		if s == kernelBig && (w.Place != onTAP || !w.Kind.bulk() || w.Kind == udpBulk || w.Over == overQUIC || w.Plain) {
			continue // only TCP super-frames can be longer
		}
		f := &figure{setup: b.defaults(w, s)}
		if b.o.probe && !slices.Contains(followers, s) {
			f.setup = b.probe(w, s, f.setup)
		}
		r.figures[s] = f
	}
	for _, s := range followers {
		if f := r.figures[s]; f != nil && r.figures[usern] != nil {
			f.setup = r.figures[usern].setup
		}
	}
	for n := range b.o.runs {
		if n > 0 && time.Since(b.begin) > b.o.budget {
			break
		}
		for i := range b.stacks {
			s := b.stacks[i]
			if n%2 == 1 { // reverse the order, so that no stack always runs after the same one
				s = b.stacks[len(b.stacks)-1-i]
			}
			f := r.figures[s]
			switch {
			case f == nil || f.failed >= 3:
				// The stack does not run the workload, or fails too often.
			case s != lnetoS:
				b.sample(r, s, f)
			case n < lnetoTimes && f.failed < 2:
				b.sampleLneto(r, f)
			}
		}
	}
	for s, f := range r.figures {
		if len(f.samples) == 0 && s != lnetoS {
			b.failed++
		}
	}
	return r
}

// sample runs a workload on a stack and adds a sample to the figure. It repeats a failed run once, and
// a disturbed run up to repeats times; the sample is the least disturbed run.
func (b *bench) sample(r *row, s stackName, f *figure) {
	var best sample
	for i := range repeats + 1 {
		one, err := b.run(r.workload, s, f.setup)
		if err != nil {
			f.failed++
			f.err = err
			one, err = b.run(r.workload, s, f.setup)
		}
		if err != nil {
			f.failed++
			f.err = err
			return
		}
		if i == 0 || one.Other < best.Other {
			best = one
		}
		if b.o.noisy || best.Other <= disturbance || time.Since(b.begin) > b.o.budget {
			break
		}
	}
	if best.Other > disturbance {
		f.disturbed++
	}
	f.samples = append(f.samples, best)
}

// defaults returns the initial settings.
func (b *bench) defaults(w *workload, s stackName) setup {
	c := setup{Plain: w.Plain, CC: b.lab.cc()}
	if s == gvisor && w.Place == onPipe {
		c.MTU = 65535
	}
	if slices.Contains([]stackName{usern, usern6, usernTUN, usernBridge, usernVLAN}, s) && !w.Plain {
		c.GSO = b.o.gso
	}
	if w.Kind.chunked() {
		c.Chunk = largeChunk
		if s.isKernel() {
			c.Chunk = smallChunk
		}
	}
	if s == lnetoS {
		c.Plain = true
		if w.Kind == wrkHTTP && w.Pin == free {
			c.Procs = 1 // wrk's shortest run is too long to probe settings
		}
	}
	return c
}

// clearly is how many times the rate of the settings so far a change must reach in probe. Short runs differ by more than
// a real change of a few percent.
const clearly = 1.05

// probe returns the best settings of a stack in a workload. It starts with c, tries each change of
// choices with two short runs, and keeps the changes that make the stack clearly faster.
func (b *bench) probe(w *workload, s stackName, c setup) setup {
	long, profiles := b.time, b.profiles
	b.time, b.profiles = min(200*time.Millisecond, b.time), ""
	if s == lnetoS {
		b.time = min(lnetoTime/2, b.time)
	}
	defer func() { b.time, b.profiles = long, profiles }()
	try := func(c setup) float64 {
		sum := 0.0
		for range 2 {
			one, err := b.run(w, s, c)
			if err != nil {
				return 0 // the measured runs will report it
			}
			sum += one.Rate
		}
		return sum
	}
	choices := b.choices(w, s)
	if len(choices) == 0 {
		return c
	}
	best := try(c)
	for _, change := range choices {
		other := c
		change(&other)
		if rate := try(other); rate > clearly*best {
			best, c = rate, other
		}
	}
	return c
}

// choices returns the changes of settings to try.
func (b *bench) choices(w *workload, s stackName) (list []func(*setup)) {
	p := w.Pin
	if b.pin != "" {
		p = b.pin
	}
	if s == lnetoS {
		if w.Place == onTAP && p == free && w.Kind != wrkHTTP {
			list = append(list, func(c *setup) { c.Procs = 1 })
		}
		return list
	}
	tcp := w.Place != onPipe || s.isKernel()
	if tcp && w.Kind.chunked() && b.lab.cc() != "bbr" && slices.Contains(b.lab.ccs, "bbr") {
		list = append(list, func(c *setup) { c.CC = "bbr" })
	}
	if w.Kind.chunked() {
		list = append(list, func(c *setup) { c.Chunk = smallChunk + largeChunk - c.Chunk }) // the other size
	}
	if p == free {
		list = append(list, func(c *setup) { c.Procs = 1 })
	}
	if s == gvisor && w.Place == onTAP && !w.Plain && !w.Kind.bulk() {
		list = append(list, func(c *setup) { c.Plain = true })
	}
	if s == gvisor && w.Place == onPipe {
		list = append(list, func(c *setup) { c.MTU = 1500 })
	}
	return list
}
