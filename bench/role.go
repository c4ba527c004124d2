package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync/atomic"
	"syscall"
	"time"
)

// runTask is the main function of a process that the harness starts. The process runs one side of a
// workload, or both. For each line that a server reads from standard input, it prints the CPU time that
// it has used so far, in nanoseconds. A server ends at the end of the input.
func runTask(arg string) error {
	var t task
	if err := json.Unmarshal([]byte(arg), &t); err != nil {
		return err
	}
	if t.Setup.Procs > 0 {
		runtime.GOMAXPROCS(t.Setup.Procs)
	}
	// All stacks have the same value. It makes gVisor faster.
	debug.SetGCPercent(400)
	if t.Profile != "" {
		f, err := os.Create(t.Profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	switch t.Role {
	case "server", "proxy":
		return serve(&t)
	case "client":
		n, err := openNetwork(&t)
		if err != nil {
			return err
		}
		defer n.close()
		return reportClient(n, &t)
	case "both":
		return both(&t)
	case "frames", "packets":
		carry := carryFrames
		if t.Role == "packets" {
			carry = writePackets
		}
		r, err := carry(&t)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	case "idle":
		return idle(&t)
	case "growth":
		return growIdle(&t)
	case "virtual":
		inBubble(func() (report, error) { return simulate(&t) })
	}
	return fmt.Errorf("no role %q", t.Role)
}

// openNetwork opens a stack for one side of a workload.
func openNetwork(t *task) (*network, error) {
	if t.Place == onWG {
		return wireGuardOnVeth(t)
	}
	switch t.Stack {
	case kernel, kernelBig:
		return kernelNetwork(t.Setup.CC), nil
	case usern, usern6:
		return usernetOnTAP(t.Setup, t.V6)
	case usernTUN:
		return usernetOnTUN(t.Setup)
	case usernBridge, usernVLAN:
		return usernetOnBridge(t)
	case gvisor:
		return gvisorOnTAP(t.Setup)
	case lnetoS:
		return lnetoOnTAP()
	}
	return nil, fmt.Errorf("no stack %q", t.Stack)
}

// openPair opens a stack for both sides of a workload that runs in one process.
func openPair(t *task) (near, far *network, err error) {
	switch t.Stack {
	case kernel:
		if t.Latency > 0 {
			l, err := newKernelLink(t)
			if err != nil {
				return nil, nil, err
			}
			return l.near, l.far, nil
		}
		return kernelNetwork(t.Setup.CC), kernelNetwork(t.Setup.CC), nil
	case usern, usern6, usernVLAN:
		return usernetPipe(t)
	case gvisor:
		if t.Latency > 0 {
			return gvisorWire(t.Latency, t.Loss)
		}
		return gvisorPipe(t.Setup.MTU)
	case lnetoS:
		return lnetoPipe()
	case netPipe:
		n := pipeNetwork()
		return n, n, nil
	}
	return nil, nil, fmt.Errorf("no stack %q", t.Stack)
}

func serve(t *task) error {
	n, err := openNetwork(t)
	if err != nil {
		return err
	}
	defer n.close()
	switch {
	case t.Role == "server":
		err = startServer(n, t)
	case t.Client:
		err = startProxy(kernelNetwork(t.Setup.CC), n, t)
	default:
		err = startProxy(n, kernelNetwork(t.Setup.CC), t)
	}
	if err != nil {
		return err
	}
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		fmt.Println(int64(ownCPU()))
	}
	return in.Err()
}

func both(t *task) error {
	t.arrived = new(atomic.Int64)
	near, far, err := openPair(t)
	if err != nil {
		return err
	}
	defer near.close()
	defer far.close()
	if err := startServer(far, t); err != nil {
		return err
	}
	return reportClient(near, t)
}

// reportClient runs the client and prints its report.
func reportClient(n *network, t *task) error {
	stuck := time.AfterFunc(2*t.Time+20*time.Second, func() {
		fmt.Fprintln(os.Stderr, "stuck")
		buf := make([]byte, 64<<10)
		os.Stderr.Write(buf[:runtime.Stack(buf, true)])
		os.Exit(3)
	})
	defer stuck.Stop()
	cpuBefore := ownCPU()
	r, err := runClient(n, t)
	if err != nil {
		return err
	}
	r.CPU = ownCPU() - cpuBefore
	return json.NewEncoder(os.Stdout).Encode(r)
}

// ownCPU returns the CPU time that this process has used.
func ownCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// An idlePair is a pair of hosts for idle connections.
type idlePair struct {
	near, far *network
	// settle is how long to wait before the memory of the connections is measured.
	settle time.Duration
}

// perListener is the number of connections to one port of the server. It is less than the number of
// ephemeral ports of the client, about 28,000: each connection to the same port of the server needs an
// ephemeral port of its own.
const (
	perListener = 20000
	firstIdle   = 1000 // the first port of the server
)

// idle measures the memory of N established connections, without goroutines of an application. In the
// report, Count is the number of bytes for one end of one connection.
func idle(t *task) error {
	var p *idlePair
	var err error
	switch t.Stack {
	case usern:
		p, err = usernetIdle()
	case gvisor:
		p, err = gvisorIdle()
	default:
		err = fmt.Errorf("no idle connections of %q", t.Stack)
	}
	if err != nil {
		return err
	}
	memBefore := memory()
	keep := make([]net.Conn, 0, 2*t.N)
	own := uint64(cap(keep)) * 16 // a net.Conn has 16 bytes
	for base := 0; base < t.N; base += perListener {
		keep, err = fill(p.near, p.far, farAddr, firstIdle+base/perListener, min(perListener, t.N-base), keep)
		if err != nil {
			return fmt.Errorf("after %d connections: %w", len(keep)/2, err)
		}
	}
	time.Sleep(p.settle)
	memAfter := memory()
	runtime.KeepAlive(keep)
	r := report{Count: float64(memAfter-memBefore-own) / float64(len(keep)), Total: float64(len(keep))}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// fill makes n connections to a new listener on port, and appends both ends of each to keep.
func fill(near, far *network, addr string, port, n int, keep []net.Conn) ([]net.Conn, error) {
	ln, err := far.listen("tcp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return keep, err
	}
	addr = net.JoinHostPort(addr, fmt.Sprint(port))
	for range n {
		a, err := near.dial("tcp4", addr)
		if err != nil {
			return keep, err
		}
		b, err := ln.Accept()
		if err != nil {
			return keep, errors.Join(err, a.Close())
		}
		keep = append(keep, a, b)
	}
	return keep, nil
}

// memory collects the garbage and returns the size of the heap and the goroutines' stacks.
func memory() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}
