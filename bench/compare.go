package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// A build is this harness built with usernet of another commit.
type build struct {
	mu     sync.Mutex // held while the build is made, and while it is removed
	root   string     // root of the repository
	dir    string     // directory of the tree and the program
	commit string
}

// tree returns the directory of the commit's checkout.
func (c *build) tree() string { return filepath.Join(c.dir, "tree") }

// program returns the path of the harness built with the commit's usernet.
func (c *build) program() string { return filepath.Join(c.dir, "bench") }

// newBuild resolves the commit of -compare and makes a directory for its build.
func newBuild(commit string) (*build, error) {
	c := &build{}
	var err error
	if c.root, err = command(context.Background(), "", "git", "rev-parse", "--show-toplevel"); err != nil {
		return nil, err
	}
	if c.commit, err = command(context.Background(), "", "git", "rev-parse", "--verify", "--short", commit+"^{commit}"); err != nil {
		return nil, fmt.Errorf("-compare %s: %w", commit, err)
	}
	c.dir, err = os.MkdirTemp("", "usernet-bench-")
	return c, err
}

// checkout checks out the commit and builds a harness with the commit's usernet. It stops if ctx ends.
// It builds this tree's harness, so that both sides run the same programs. If this does not compile,
// because the commit's usernet has another API, checkout builds the commit's own harness. The files
// stay until remove is called.
func (c *build) checkout(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := command(ctx, c.root, "git", "worktree", "add", "--detach", c.tree(), c.commit); err != nil {
		return err
	}
	// The harness imports this package, which older commits do not have.
	helper := filepath.Join("internal", "netns")
	err := os.CopyFS(filepath.Join(c.tree(), helper), os.DirFS(filepath.Join(c.root, helper)))
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	harness := filepath.Join(c.tree(), "bench-compare")
	if err := os.CopyFS(harness, os.DirFS(filepath.Join(c.root, "bench"))); err != nil {
		return err
	}
	_, first := command(ctx, harness, "go", "build", "-o", c.program(), ".")
	if first == nil {
		return nil
	}
	_, second := command(ctx, filepath.Join(c.tree(), "bench"), "go", "build", "-o", c.program(), ".")
	if second == nil {
		fmt.Fprintf(os.Stderr, "%s runs under its own harness; this tree's does not compile with it\n", c.commit)
		return nil
	}
	return errors.Join(first, second)
}

// remove removes the checkout and the program. If checkout is running, remove waits until it returns.
func (c *build) remove() {
	c.mu.Lock()
	defer c.mu.Unlock()
	command(context.Background(), c.root, "git", "worktree", "remove", "--force", "--force", c.tree()) // twice, because an incomplete worktree is locked
	os.RemoveAll(c.dir)
}

// command runs a program until ctx ends, and returns the first line of its output.
func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, shorten(errs.String()))
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return first, nil
}

// compare measures this tree and the commit of -compare alternately, and prints the figures of both.
func (b *bench) compare(ctx context.Context) error {
	if err := b.before.checkout(ctx); err != nil {
		return err
	}
	b.other = b.before.program()
	fmt.Printf("%s is the commit %s; ratios are this tree's median divided by that of the commit; CPU is in seconds for a GB or a million operations\n",
		before, b.before.commit)
	fmt.Printf("%-8s %-46s %9s %9s %7s  %7s %7s %7s\n", "", "", "before", "now", "ratio", "CPU", "CPU now", "ratio")
	var slower []string
	for _, w := range every() {
		if !b.o.wanted(w.ID) {
			continue
		}
		r := b.measure(w)
		fmt.Println(r.compared())
		if r.ratio(before) < enough {
			slower = append(slower, fmt.Sprintf("%s %.2f", w.ID, r.ratio(before)))
		}
	}
	if b.o.wanted("C1") {
		c := b.idleCost(10_000)
		fmt.Println(c.line())
	}
	fmt.Printf("%d workloads below %.2f: %s; %s\n", len(slower), enough, strings.Join(slower, ", "),
		time.Since(b.begin).Round(time.Second))
	if b.failed > 0 {
		return fmt.Errorf("%d measurements failed", b.failed)
	}
	return nil
}

// enough is the smallest ratio of medians at which a workload counts as not slower. Runs of the same
// tree differ by 2 % too.
const enough = 0.98

// compared returns the row's line for -compare.
func (r *row) compared() string {
	f, g := r.figures[before], r.figures[usern]
	ratio := r.ratio(before)
	sign := " "
	if math.IsNaN(ratio) || ratio < enough {
		sign = "!"
	}
	line := fmt.Sprintf("%-8s %-46s %9s %9s %7s%s %7s %7s %7s", r.ID, r.Name, r.amount(before), r.amount(usern),
		digits(ratio), sign, digits(f.cpu()), digits(g.cpu()), digits(g.cpu()/f.cpu()))
	for _, s := range []stackName{before, usern, kernel, gvisor, lnetoS} {
		if n := r.note(s); n != "" {
			line += fmt.Sprintf("  %s: %s;", s, n)
		}
	}
	return line
}
