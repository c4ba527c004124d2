package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/pprof/profile"
)

// A use is what a process spends its CPU time on.
type use string

const (
	deviceOut   use = "frames out"     // system calls that send frames, and what the kernel's receiver does within them
	deviceIn    use = "frames in"      // system calls that receive frames
	otherCalls  use = "other calls"    // system calls on files and the kernel's sockets
	scheduling  use = "scheduling"     // goroutines and threads that wait, are woken and are switched
	heap        use = "memory"         // allocation, garbage collection, growth of stacks
	copying     use = "copying"        // memmove and memclr
	inTCP       use = "TCP"            // package stack/tcp
	inStack     use = "stack, devices" // the other packages of usernet
	application use = "application"    // the program on both sides of usernet: net/http, crypto/tls, this harness
)

// uses are the columns of the table.
var uses = []use{deviceOut, deviceIn, otherCalls, copying, inTCP, inStack, scheduling, heap, application}

const usernetModule = "github.com/usernet/usernet"

// module returns the name of a function without usernet's module path, and whether it is one of usernet's. The packages
// of this harness are not.
func module(name string) (string, bool) {
	rest, ok := strings.CutPrefix(name, usernetModule)
	return rest, ok && !strings.HasPrefix(rest, "/bench")
}

// memoryCalls and schedulingCalls are functions of package runtime. Whatever they call, and the runtime's own work
// below them, is of that use.
var (
	memoryCalls = []string{"runtime.mallocgc", "runtime.gcBgMarkWorker", "runtime.gcAssistAlloc", "runtime.bgsweep",
		"runtime.bgscavenge", "runtime.newstack", "runtime.morestack", "runtime.gcStart", "runtime.growslice"}
	schedulingCalls = []string{"runtime.mcall", "runtime.schedule", "runtime.findRunnable", "runtime.park_m", "runtime.mstart",
		"runtime.goready", "runtime.ready", "runtime.goparkunlock", "runtime.gopark", "runtime.semacquire", "runtime.semrelease",
		"runtime.netpoll", "runtime.futex", "runtime.usleep", "runtime.Gosched", "runtime.newproc", "runtime.goexit0",
		"runtime.notifyList", "sync.runtime_", "internal/sync.runtime_", "runtime.selectgo", "runtime.chan", "runtime.lock2", "runtime.unlock2",
		"runtime.wakep", "runtime.casgstatus", "runtime.exitsyscall", "runtime.entersyscall", "runtime.reentersyscall", "runtime.procyield"}
)

// standard are the packages whose functions belong to the use of their caller.
var standard = []string{"runtime", "internal/", "sync", "syscall", "os", "time", "unsafe", "encoding/binary", "net/netip", "math",
	"slices", "errors", "hash/", "aeshash", "memhash", "memequal", "memeqbody", "cmpbody", "indexbytebody", "gogo", "golang.org/x/sys/", "vendor/", "io.", "maps", "type:"}

func begins(name string, with []string) bool {
	return slices.ContainsFunc(with, func(s string) bool { return strings.HasPrefix(name, s) })
}

// useOf returns the use of a sample. stack has the names of its functions, beginning with the one that ran.
func useOf(stack []string) use {
	leaf := stack[0]
	if leaf == "runtime.memmove" || strings.HasPrefix(leaf, "runtime.memclr") {
		if slices.ContainsFunc(stack, func(f string) bool { return begins(f, memoryCalls) }) {
			return heap
		}
		return copying
	}
	call := isSystemCall(leaf)
	for _, f := range stack {
		name, ours := module(f)
		switch {
		case ours && call && strings.HasPrefix(name, "/nic.") && strings.Contains(name, "eader)"):
			return deviceIn
		case ours && call && strings.HasPrefix(name, "/nic."):
			return deviceOut
		case ours && call:
			return otherCalls
		case ours && strings.HasPrefix(name, "/stack/tcp."):
			return inTCP
		case ours:
			return inStack
		case begins(f, memoryCalls):
			return heap
		case begins(f, schedulingCalls):
			return scheduling
		case !begins(f, standard) && call:
			return otherCalls
		case !begins(f, standard):
			return application
		}
	}
	if call {
		return otherCalls
	}
	return scheduling // the runtime's own threads
}

// isSystemCall reports whether a function enters the kernel, other than to wait or to wake another thread.
func isSystemCall(name string) bool {
	return strings.HasSuffix(name, "Syscall6") || strings.HasSuffix(name, "RawSyscall") || strings.HasPrefix(name, "syscall.") && strings.Contains(name, "yscall")
}

// readProfile returns the proportion of each use in the CPU profile of a file, and the number of processors that the
// process kept busy.
func readProfile(file string) (shares map[use]float64, cores float64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	p, err := profile.Parse(f)
	if err != nil {
		return nil, 0, fmt.Errorf("%s: %w", file, err)
	}
	shares = map[use]float64{}
	var total int64
	for _, s := range p.Sample {
		var stack []string
		for _, at := range s.Location {
			for _, line := range at.Line { // a function that is inlined comes before its caller
				stack = append(stack, line.Function.Name)
			}
		}
		if len(stack) == 0 {
			continue
		}
		ns := s.Value[len(s.Value)-1]
		shares[useOf(stack)] += float64(ns)
		total += ns
	}
	if total == 0 {
		return nil, 0, fmt.Errorf("%s has no samples", file)
	}
	for u := range shares {
		shares[u] /= float64(total)
	}
	return shares, float64(total) / float64(p.DurationNanos), nil
}

// where profiles usernet in each workload, prints what its process spends its CPU time on, and writes a table.
func (b *bench) where() error {
	dir := b.profiles
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("", "where"); err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.profiles = dir
	}
	var s strings.Builder
	fmt.Fprintf(&s, "# Where the time goes\n\nOne run of `go run . -where` on %s, %s: a run of %v with the default settings, profiled at 100 Hz.\n"+
		"Percent of the CPU time of usernet's process; the columns are explained in [README.md](README.md#where-the-time-goes).\n"+
		"In the P workloads the process has both sides. cores is how many processors it kept busy.\n\n",
		time.Now().UTC().Format("2006-01-02"), machine(), b.o.time)
	s.WriteString("| | workload | cores")
	for _, u := range uses {
		fmt.Fprintf(&s, " | %s", u)
	}
	s.WriteString(" |\n|---|---|---" + strings.Repeat("|---", len(uses)) + "|\n")
	for _, w := range every() {
		if !b.o.wanted(w.ID) {
			continue
		}
		if _, err := b.run(w, usern, b.defaults(w, usern)); err != nil {
			b.failed++
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		shares, cores, err := readProfile(b.profile(w, usern))
		if err != nil {
			return err
		}
		line := fmt.Sprintf("| %s | %s | %.2f", w.ID, w.Name, cores)
		for _, u := range uses {
			line += fmt.Sprintf(" | %.0f", 100*shares[u])
		}
		s.WriteString(line + " |\n")
		fmt.Println(line + " |")
	}
	if b.o.markdown != "" {
		if err := os.WriteFile(b.o.markdown, []byte(s.String()), 0o666); err != nil {
			return err
		}
	}
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}
