package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A network namespace may not permit root to change its default congestion control, although a socket of
// root's may use another one. So each socket sets the congestion control itself.
func TestKernelSocketsTakeTheNamedCongestionControl(t *testing.T) {
	list, err := settableCCs()
	if err != nil {
		t.Fatal(err)
	}
	if len(list) == 0 {
		t.Fatal("no congestion control can be set, not even the default of the namespace")
	}
	for _, cc := range list {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := setCC(fd, cc); err != nil {
			t.Error(err)
		}
		if got, err := socketCC(fd); got != cc || err != nil {
			t.Errorf("%q, %v instead of %q", got, err, cc)
		}
		unix.Close(fd)

		n := kernelNetwork(cc)
		ln, err := n.listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		c, err := n.dial("tcp4", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		ln.Close()
	}
	if _, err := kernelNetwork("none such").listen("tcp4", "127.0.0.1:0"); err == nil {
		t.Error("a congestion control that does not exist was taken")
	}
}

// The lab uses CUBIC if sockets may.
func TestLabTakesWhatIsAllowed(t *testing.T) {
	for _, test := range []struct {
		ccs  []string
		want string
	}{
		{[]string{"bbr", "cubic"}, "cubic"},
		{[]string{"reno"}, "reno"},
	} {
		l := lab{ccs: test.ccs}
		if got := l.cc(); got != test.want {
			t.Errorf("%v: %s", test.ccs, got)
		}
	}
}

func TestCompareBuildsAnotherCommit(t *testing.T) {
	c, err := newBuild("HEAD")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.checkout(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(c.program(), "-h").CombinedOutput(); err != nil || !strings.Contains(string(out), "-compare") {
		t.Errorf("%v: %s", err, out)
	}
	c.remove()
	if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
		t.Errorf("%s is left", c.dir)
	}
	if list, err := exec.Command("git", "worktree", "list").Output(); err != nil || strings.Contains(string(list), c.dir) {
		t.Errorf("%v: the worktree is left: %s", err, list)
	}
	if _, err := newBuild("no-such-commit"); err == nil {
		t.Error("a commit that does not exist was found")
	}
}

// Ctrl-C may arrive at any time.
func TestCompareLeavesNothingOfAnInterruptedCheckout(t *testing.T) {
	for _, after := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 100 * time.Millisecond, time.Second} {
		c, err := newBuild("HEAD")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		done := make(chan error)
		go func() { done <- c.checkout(ctx) }()
		<-ctx.Done()
		cancel()
		c.remove()
		<-done
		c.remove() // in case checkout starts only now
		if _, err := os.Stat(c.dir); !os.IsNotExist(err) {
			t.Errorf("%v: %s is left", after, c.dir)
		}
		if list, err := exec.Command("git", "worktree", "list").Output(); err != nil || strings.Contains(string(list), c.dir) {
			t.Errorf("%v: %v: the worktree is left: %s", after, err, list)
		}
	}
}

func TestComparedRowSaysWhatIsSlower(t *testing.T) {
	w := workload{ID: "P3", Name: "x", Place: onPipe, Kind: pingpong}
	r := &row{workload: &w, figures: map[stackName]*figure{
		before: {samples: []sample{{Rate: 100, CPU: 2}}},
		usern:  {samples: []sample{{Rate: 90, CPU: 3}}},
	}}
	if line := r.compared(); !strings.Contains(line, "0.90!") || !strings.Contains(line, "1.50") {
		t.Error(line)
	}
	r.figures[usern].samples[0].Rate = 99
	if line := r.compared(); strings.Contains(line, "!") {
		t.Error(line)
	}
}

// The task of a workload is the same for both trees; only the program that runs it differs.
func TestBeforeRunsInTheOtherProgram(t *testing.T) {
	r := runner{self: "/this", other: "/that"}
	for s, want := range map[stackName]string{usern: "/this", before: "/that", kernel: "/this"} {
		cmd, err := r.command(t.Context(), &task{Stack: s})
		if err != nil {
			t.Fatal(err)
		}
		if cmd.Path != want || strings.Contains(cmd.Args[2], string(before)) {
			t.Errorf("%s: %s", s, cmd.Args)
		}
	}
}
