package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/usernet/usernet/internal/netns"
)

// Each workload of programs runs once in the harness's namespaces, on usernet.
func TestEveryProgramIsMeasured(t *testing.T) {
	netns.Need(t)
	o := options{runs: 1, noisy: true, time: 50 * time.Millisecond, budget: time.Minute, stacks: string(usern)}
	b, err := newBench(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	for _, w := range programs {
		w.Size = min(w.Size, smallFile)
		w.N = min(w.N, 200)
		r := b.measure(&w)
		f := r.figures[usern]
		if len(f.samples) != 1 || f.rate() <= 0 || f.cpu() <= 0 || f.samples[0].Errors > 0 {
			t.Errorf("%s: %+v", w.ID, f)
		}
	}
}

// The kernel's own row, with its three processes in two namespaces.
func TestKernelProxiesBetweenNamespaces(t *testing.T) {
	netns.Need(t)
	o := options{only: "T17", runs: 1, noisy: true, time: 50 * time.Millisecond, budget: time.Minute, stacks: string(kernel)}
	b, err := newBench(o)
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	b.all()
	if len(b.rows) != 2 {
		t.Fatalf("%d workloads were measured", len(b.rows))
	}
	for _, r := range b.rows {
		if f := r.figures[kernel]; f.rate() <= 0 || f.cpu() <= 0 {
			t.Errorf("%s: %+v", r.ID, f)
		}
	}
}

func TestMemoryFileIsServedAsItIs(t *testing.T) {
	const size = 3_000_000
	f, err := newMemoryFile(size)
	if err != nil {
		t.Fatal(err)
	}
	defer f.fd.Close()
	srv := httptest.NewServer(f)
	defer srv.Close()
	resp, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	block := pattern()
	if want := bytes.Repeat(block, size/len(block)+1)[:size]; !bytes.Equal(got, want) {
		t.Errorf("%d bytes arrived, and not those of the file", len(got))
	}
}

// A relay passes on both directions and their ends.
func TestRelayPassesOnTheEndOfEachDirection(t *testing.T) {
	n := kernelNetwork("")
	server, err := n.listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go accept(server, func(c net.Conn) { sink(c, smallChunk) })
	front, err := n.listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	go accept(front, func(c net.Conn) {
		relay(c, func() (net.Conn, error) { return n.dial("tcp4", server.Addr().String()) })
	})
	c := client{n: n, t: &task{Time: 20 * time.Millisecond, Setup: setup{Chunk: smallChunk}}, dialing: make(chan struct{}, 1)}
	host, port, err := net.SplitHostPort(front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c.t.Addr = host
	if c.t.Port, err = net.LookupPort("tcp", port); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(c.t.Time, func() { c.stop.Store(true) })
	if sent, err := c.sendOne(); err != nil || sent == 0 {
		t.Errorf("%d bytes, %v", sent, err)
	}
}

func TestWorkloadsInMemoryComeLast(t *testing.T) {
	list := every()
	if len(list) != len(workloads)+len(programs) {
		t.Fatalf("%d workloads", len(list))
	}
	memory := false
	for _, w := range list {
		if memory && w.Place != onPipe {
			t.Errorf("%s comes after workloads in memory", w.ID)
		}
		memory = w.Place == onPipe
	}
}
