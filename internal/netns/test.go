//go:build linux

package netns

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience is the time limit of a program. It is long, because only a program that hangs should reach it.
const patience = 3 * time.Minute

// Need skips a test that does not run as root. It calls Lacks if a tool is missing.
func Need(t testing.TB, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	for _, tool := range append(tools, "ip") {
		if _, err := exec.LookPath(tool); err != nil {
			Lacks(t, "the tool "+tool, err)
		}
	}
}

// Lacks skips a test because something that it needs is missing. With CI=true the test fails instead.
func Lacks(t testing.TB, what string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s: %v", what, err)
	}
	t.Skipf("needs %s: %v", what, err)
}

var lastNamespace atomic.Int64

// New makes a namespace with only a loopback, and removes it at the end of the test. The name of the namespace begins
// with the value of the environment variable USERNET_NETNS, or with "usernet" if that is empty. With the variable,
// .ci/run finds the namespaces of tests that died.
func New(t testing.TB) Namespace {
	t.Helper()
	prefix := os.Getenv("USERNET_NETNS")
	if prefix == "" {
		prefix = "usernet"
	}
	ns, err := Make(fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), lastNamespace.Add(1)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ns.Remove(); err != nil {
			t.Error(err)
		}
	})
	return ns
}

// Join connects two namespaces with a veth pair. The interface is named veth in both.
func Join(t testing.TB, a, b Namespace) {
	t.Helper()
	a.Run(t, "ip", "link", "add", "veth", "type", "veth", "peer", "name", "veth", "netns", string(b))
	for _, ns := range []Namespace{a, b} {
		ns.Run(t, "ip", "link", "set", "veth", "up")
	}
}

// Try runs a program in the namespace and returns its output.
func (ns Namespace) Try(t testing.TB, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := ns.Command(ctx, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("%v: %w", ctx.Err(), err)
	}
	return out.String(), errs.String(), err
}

// Run runs a program in the namespace and returns its output. If the program fails, the test fails.
func (ns Namespace) Run(t testing.TB, args ...string) string {
	t.Helper()
	out, errs, err := ns.Try(t, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

// Shell runs a script in the namespace and returns its output. If one of its commands fails, the test fails.
func (ns Namespace) Shell(t testing.TB, script string) string {
	t.Helper()
	return ns.Run(t, "bash", "-euo", "pipefail", "-c", script)
}

// Lose makes the kernel drop one in a hundred of the packets that arrive in the namespace or leave it, at random. match
// is an nft expression that selects the packets. If match is empty, Lose drops from all packets. Lose needs nft.
func (ns Namespace) Lose(t testing.TB, match string) {
	t.Helper()
	ns.Shell(t, fmt.Sprintf(`
		nft add table inet loss
		nft add chain inet loss in '{ type filter hook input priority 0; }'
		nft add chain inet loss out '{ type filter hook output priority 0; }'
		nft add rule inet loss in %[1]s numgen random mod 100 '<' 1 counter drop
		nft add rule inet loss out %[1]s numgen random mod 100 '<' 1 counter drop`, match))
}

// Lost returns how many packets Lose has dropped in each direction.
func (ns Namespace) Lost(t testing.TB) (in, out int) {
	t.Helper()
	count := func(chain string) int {
		fields := strings.Fields(ns.Run(t, "nft", "list", "chain", "inet", "loss", chain))
		for i, f := range fields {
			if f == "packets" {
				n, err := strconv.Atoi(fields[i+1])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		t.Fatalf("no counter in %q", fields)
		return 0
	}
	return count("in"), count("out")
}
