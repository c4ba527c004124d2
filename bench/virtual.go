package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime/pprof"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// In virtual time, only the work of the hosts and links takes CPU time. The figure is the number of packets that links
// deliver from host to host per second of CPU time.

// inBubble calls f in a bubble of testing/synctest, prints its report and ends the process. A bubble needs a test, so
// the process becomes a test program.
func inBubble(f func() (report, error)) {
	os.Args = os.Args[:1]
	run := func(t *testing.T) {
		var r report
		var err error
		synctest.Test(t, func(*testing.T) { r, err = f() })
		if err == nil {
			err = json.NewEncoder(os.Stdout).Encode(r)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		pprof.StopCPUProfile() // if it was started: the process ends here
		os.Exit(0)
	}
	all := func(string, string) (bool, error) { return true, nil }
	testing.Main(all, []testing.InternalTest{{Name: "virtual", F: run}}, nil, nil)
}

// The links of a simulation.
const (
	simulatedRate    = 1e9 // bits per second, of the link of a pair
	bottleneckRate   = 10e9
	simulatedLatency = time.Millisecond
	bottleneckTime   = 10 * time.Millisecond // latency of a bottleneck
)

// simulate runs t.N bulk transfers for t.Time of virtual time. If t.Size is 0, each transfer has two hosts and a link of
// its own, with a latency. If t.Paced is set, the link also has a rate and a seed: then each packet arrives by itself, at
// an instant of its own, as in a simulation that can be repeated. If t.Size is not 0, all transfers go from one host to
// another, over one link of bottleneckRate with a queue of t.Size bytes.
//
// In the report, Count is the number of packets that the links have delivered, Total is the number of bytes that have been
// read, Lost is the number of packets that a queue has dropped, and CPU is the CPU time of the whole simulation.
func simulate(t *task) (report, error) {
	s := &simulation{time: t.Time}
	pairs, flows := t.N, 1
	imp := nic.Impairment{Latency: simulatedLatency}
	if t.Paced {
		imp.Rate = simulatedRate
	}
	if t.Size > 0 {
		pairs, flows = 1, t.N
		imp = nic.Impairment{Latency: bottleneckTime, Rate: bottleneckRate, Queue: t.Size}
	}
	cpuBefore := ownCPU()
	for i := range pairs {
		if err := s.pair(imp, uint64(i+1), flows); err != nil {
			return report{}, errors.Join(err, s.close())
		}
	}
	time.Sleep(s.time)
	if err := s.close(); err != nil {
		return report{}, err
	}
	r := report{Time: t.Time, Total: float64(s.read), CPU: ownCPU() - cpuBefore}
	for _, l := range s.links {
		for _, st := range []nic.ImpairStats{l.InStats(), l.OutStats()} {
			r.Count += float64(st.Delivered)
			r.Lost += int(st.QueueDropped)
		}
	}
	return r, nil
}

// A simulation is a number of hosts that transfer data.
type simulation struct {
	time  time.Duration
	hosts []*usernet.Host
	links []*nic.Impaired
	wg    sync.WaitGroup

	mu   sync.Mutex
	read int64 // bytes
	err  error // the first error of a transfer before the end
	over bool
}

// pair makes two hosts, a link and flows, which send until the end of the simulation.
func (s *simulation) pair(imp nic.Impairment, seed uint64, flows int) error {
	a, b := nic.Pipe(nic.PipeConfig{Seed: seed})
	cfg := nic.ImpairConfig{Out: imp, In: imp}
	if imp.Rate > 0 {
		cfg.Seed = seed
	}
	link := nic.Impair(a, cfg)
	s.links = append(s.links, link)
	near, err := usernetHost(link, nearAddr+prefixed, 0)
	if err != nil {
		return err
	}
	s.hosts = append(s.hosts, near)
	far, err := usernetHost(b, farAddr+prefixed, 0)
	if err != nil {
		return err
	}
	s.hosts = append(s.hosts, far)
	ln, err := far.Listen("tcp4", fmt.Sprintf(":%d", firstPort))
	if err != nil {
		return err
	}
	s.wg.Go(func() {
		for range flows {
			c, err := ln.Accept()
			if err != nil {
				s.failed(err)
				return
			}
			s.wg.Go(func() { s.receive(c) })
		}
	})
	for range flows {
		s.wg.Go(func() { s.failed(s.send(near)) })
	}
	return nil
}

func (s *simulation) receive(c net.Conn) {
	n, err := io.Copy(io.Discard, c)
	s.mu.Lock()
	s.read += n
	s.mu.Unlock()
	s.failed(err)
}

func (s *simulation) send(h *usernet.Host) error {
	c, err := h.Dial("tcp4", fmt.Sprintf("%s:%d", farAddr, firstPort))
	if err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	for {
		if _, err := c.Write(buf); err != nil {
			return err
		}
	}
}

// failed notes an error, unless the simulation is over.
func (s *simulation) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.over && s.err == nil {
		s.err = err
	}
}

// close ends the simulation and returns the first error of a transfer.
func (s *simulation) close() error {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	for _, h := range s.hosts {
		h.Close()
	}
	s.wg.Wait()
	return s.err
}
