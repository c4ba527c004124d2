package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// An idleStep has the figures of one step: the performance of one busy connection beside Idle idle ones,
// and how fast the idle connections were made or closed. The process prints an idleStep for each step up,
// and an idleStep for each step down. On the way down only Idle and Close are set.
type idleStep struct {
	Idle int
	// Open is how many connections per second were made to reach this step. Close is how many
	// connections per second were closed to go from this step to the next lower one.
	Open, Close float64
	// Trips is the number of one-byte round trips per second on one connection. Late is the 99th
	// percentile of their time, and TripCPU the CPU time of each.
	Trips   float64
	Late    time.Duration
	TripCPU time.Duration
	// Bits is the throughput of one connection in bits per second.
	Bits float64
	// Short is how many connections per second are made, used and closed, 16 at a time, and
	// ShortCPU the CPU time of each.
	Short    float64
	ShortCPU time.Duration
	// Bytes is the memory of the heap and the stacks for one end of an idle connection.
	Bytes float64
	// Note says why there are no more steps.
	Note string
}

// growIdle makes idle connections up to each of t.Steps, measures at each step, and then closes the
// connections in the same steps. It skips the remaining steps up when t.Limit has passed or no more
// connections are possible.
func growIdle(t *task) error {
	// With the GC percentage of the other workloads, 400, a million connections would need 10 GB of heap.
	debug.SetGCPercent(100)
	files := raiseFiles()
	near, far, err := openIdlePair(t)
	if err != nil {
		return err
	}
	g := &growth{near: near, far: far, t: t, port: firstPort, end: time.Now().Add(t.Limit)}
	out := json.NewEncoder(os.Stdout)
	var up []idleStep
	for _, n := range t.Steps {
		room := n
		if t.Stack == kernel {
			room = min(n, (files-400)/2) // both ends are files; the measurements need the other 400
		}
		if room < n*9/10 { // too few connections to count as this step
			up = append(up, idleStep{Idle: n, Note: fmt.Sprintf("a process may have %d files, and both ends of %d connections", files, room)})
			break
		}
		one, err := g.step(room)
		if err != nil {
			up = append(up, idleStep{Idle: n, Note: brief(err)})
			break
		}
		one.Idle = n
		up = append(up, one)
		if err := out.Encode(one); err != nil {
			return err
		}
	}
	if last := up[len(up)-1]; last.Note != "" {
		if err := out.Encode(last); err != nil {
			return err
		}
	}
	for i := len(t.Steps) - 1; i > 0; i-- {
		had := len(g.keep) / 2
		if had < t.Steps[i]*9/10 {
			if err := g.closeTo(t.Steps[i-1]); err != nil {
				return err
			}
			continue // this step was not reached
		}
		begin := time.Now()
		if err := g.closeTo(t.Steps[i-1]); err != nil {
			return err
		}
		rate := float64(had-len(g.keep)/2) / time.Since(begin).Seconds()
		if err := out.Encode(idleStep{Idle: t.Steps[i], Close: rate}); err != nil {
			return err
		}
	}
	return nil
}

// raiseFiles raises the limit of open files as far as the kernel permits and returns it.
func raiseFiles() int {
	b, _ := os.ReadFile("/proc/sys/fs/nr_open")
	var l unix.Rlimit
	if n, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64); err == nil {
		l = unix.Rlimit{Cur: n, Max: n}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &l) == nil {
			return int(n)
		}
	}
	// The limit stays as it was; Go has already raised it to the hard limit.
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(l.Cur)
}

// openIdlePair opens a stack for both sides. The connections have no keep-alive, because the probes of
// a million connections would distort the figures.
func openIdlePair(t *task) (near, far *network, err error) {
	switch t.Stack {
	case usern:
		p, err := usernetIdle()
		if err != nil {
			return nil, nil, err
		}
		return p.near, p.far, nil
	case kernel:
		d, lc := kernelDialer(t.Setup.CC)
		d.KeepAlive, lc.KeepAlive = -1, -1
		n := kernelNetwork("")
		n.dial = d.Dial
		n.listen = func(network, address string) (net.Listener, error) {
			return lc.Listen(context.Background(), network, address)
		}
		return n, n, nil
	}
	return openPair(t)
}

// A growth is the state of a process that measures one busy connection beside idle connections.
type growth struct {
	near, far *network
	t         *task
	port      int       // port of the next measurement
	end       time.Time // no more idle connections are made afterwards
	empty     uint64    // memory in use without connections

	keep []net.Conn // both ends of each idle connection
	ln   net.Listener
	to   string // address of ln
	left int    // number of connections that may still be made to ln
	used int    // number of ports that ln has had so far
}

var errLimit = errors.New("no more time")

// step makes idle connections until there are n, and then measures the busy connection.
func (g *growth) step(n int) (idleStep, error) {
	one := idleStep{Idle: n}
	if more := n - len(g.keep)/2; more > 0 {
		begin := time.Now()
		if err := g.open(more); err != nil {
			return one, fmt.Errorf("%w at %d of them", err, len(g.keep)/2)
		}
		one.Open = float64(more) / time.Since(begin).Seconds()
		// In every stack, handshakes leave state behind for half a second.
		time.Sleep(time.Second)
	}
	if n > 0 { // 16 bytes are the size of a net.Conn in g.keep
		one.Bytes = (float64(memory()) - float64(g.empty) - 16*float64(cap(g.keep))) / float64(2*n)
	}
	for _, f := range []func(*idleStep) error{g.trips, g.bits, g.short} {
		if err := median(f, &one); err != nil {
			return one, err
		}
	}
	if n == 0 {
		g.empty = memory() // the measurements have allocated their buffers
	}
	return one, nil
}

// median calls f three times and stores the median result in one. f sets one of Trips, Bits and Short,
// so the sum of the three orders the results.
func median(f func(*idleStep) error, one *idleStep) error {
	var all [3]idleStep
	for i := range all {
		all[i] = *one
		if err := f(&all[i]); err != nil {
			return err
		}
	}
	slices.SortFunc(all[:], func(a, b idleStep) int {
		return int(a.Trips + a.Bits + a.Short - b.Trips - b.Bits - b.Short)
	})
	*one = all[1]
	return nil
}

// open makes n idle connections.
func (g *growth) open(n int) error {
	for i := range n {
		if i%1024 == 0 && time.Now().After(g.end) {
			return errLimit
		}
		if g.left == 0 {
			ln, err := g.far.listen("tcp4", fmt.Sprintf(":%d", firstIdle+g.used))
			if err != nil {
				return err
			}
			if g.ln != nil {
				g.ln.Close()
			}
			g.ln, g.left = ln, perListener
			g.to = fmt.Sprintf("%s:%d", g.t.Addr, firstIdle+g.used)
			g.used++
		}
		a, err := g.near.dial("tcp4", g.to)
		if err != nil {
			return err
		}
		b, err := g.ln.Accept()
		if err != nil {
			return errors.Join(err, a.Close())
		}
		g.keep = append(g.keep, a, b)
		g.left--
	}
	return nil
}

// closeTo closes idle connections until there are n.
func (g *growth) closeTo(n int) error {
	for len(g.keep) > 2*n {
		last := len(g.keep) - 2
		if err := errors.Join(g.keep[last].Close(), g.keep[last+1].Close()); err != nil {
			return err
		}
		g.keep[last], g.keep[last+1] = nil, nil
		g.keep = g.keep[:last]
	}
	return nil
}

// task returns the task of one measurement, on a new port.
func (g *growth) task(k kind, n int) *task {
	t := *g.t
	t.Kind, t.N, t.Port, t.Setup.Chunk = k, n, g.port, largeChunk
	t.arrived = new(atomic.Int64)
	g.port++
	return &t
}

// bits measures the throughput of one connection.
func (g *growth) bits(one *idleStep) error {
	r, err := g.measure(g.task(flow, 1))
	one.Bits = 8 * r.Count / r.Time.Seconds()
	return err
}

// short measures connections that are made, used and closed, 16 at a time.
func (g *growth) short(one *idleStep) error {
	cpuBefore := ownCPU()
	r, err := g.measure(g.task(short, 16))
	one.Short = r.Count / r.Time.Seconds()
	one.ShortCPU = time.Duration(float64(ownCPU()-cpuBefore) / r.Total)
	return err
}

// measure runs the server and the client of a task.
func (g *growth) measure(t *task) (report, error) {
	if err := startServer(g.far, t); err != nil {
		return report{}, err
	}
	r, err := runClient(g.near, t)
	if err == nil && r.Errors > 0 {
		err = fmt.Errorf("%d operations failed: %s", r.Errors, r.Note)
	}
	return r, err
}

// trips measures one-byte round trips on one connection.
func (g *growth) trips(one *idleStep) error {
	t := g.task(pingpong, 1)
	if err := startServer(g.far, t); err != nil {
		return err
	}
	conn, err := g.near.dial("tcp4", fmt.Sprintf("%s:%d", t.Addr, t.Port))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(t.Time + 10*time.Second))
	took := make([]time.Duration, 0, 1<<20)
	buf := make([]byte, 1)
	begin, cpuBefore := time.Now(), ownCPU()
	for last := begin; last.Sub(begin) < t.Time && len(took) < cap(took); {
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, buf); err != nil {
			return err
		}
		now := time.Now()
		took = append(took, now.Sub(last))
		last = now
	}
	one.Trips = float64(len(took)) / time.Since(begin).Seconds()
	one.TripCPU = (ownCPU() - cpuBefore) / time.Duration(len(took))
	slices.Sort(took)
	one.Late = took[len(took)*99/100]
	runtime.KeepAlive(g.keep)
	return nil
}

// runGrowIdle runs growIdle in a process and returns the figures that the process printed, even if it failed
// later.
func (r *runner) runGrowIdle(s stackName, t *task) (list []idleStep, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*t.Limit+10*time.Second)
	defer cancel()
	cmd, err := r.command(ctx, t)
	if err != nil {
		return nil, err
	}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := r.lab.tap.start(cmd, -1); err != nil {
		return nil, err
	}
	in := bufio.NewScanner(out)
	for in.Scan() {
		var one idleStep
		if err := json.Unmarshal(in.Bytes(), &one); err != nil {
			break
		}
		list = append(list, one)
		fmt.Fprintf(os.Stderr, "%s: %s\n", s, in.Text())
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped after %v", 2*t.Limit+10*time.Second)
	} else if err != nil {
		err = fmt.Errorf("%w: %s", err, shorten(errs.String()))
	}
	return list, err
}
