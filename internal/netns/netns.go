//go:build linux

// Package netns makes network namespaces, and runs functions and programs in them. The tests against the kernel and
// the harness of bench use it. It needs root and the command ip.
package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A Namespace is the name of a network namespace.
type Namespace string

// Make makes a namespace with only a loopback, which is up. The caller removes the namespace.
func Make(name string) (Namespace, error) {
	if err := ip("netns", "add", name); err != nil {
		return "", err
	}
	ns := Namespace(name)
	if err := ip("-n", name, "link", "set", "lo", "up"); err != nil {
		ns.Remove()
		return "", err
	}
	return ns, nil
}

// Remove kills the processes in the namespace and removes it.
func (ns Namespace) Remove() error {
	out, err := exec.Command("ip", "netns", "pids", string(ns)).Output()
	if err != nil {
		err = fmt.Errorf("ip netns pids %s: %w", ns, err)
	}
	for _, pid := range strings.Fields(string(out)) {
		switch n, _ := strconv.Atoi(pid); n {
		case 0:
		case os.Getpid():
			err = fmt.Errorf("a thread of this process is still in the namespace %s", ns)
		default:
			unix.Kill(n, unix.SIGKILL)
		}
	}
	return errors.Join(err, ip("netns", "del", string(ns)))
}

// ip runs the command ip.
func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// Do calls f in a thread that is in the namespace during the call. Sockets that f opens and processes that f starts
// stay in the namespace, and all threads can use them.
func (ns Namespace) Do(f func() error) error {
	runtime.LockOSThread()
	home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(home)
	there, err := unix.Open("/run/netns/"+string(ns), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(there)
	if err := unix.Setns(there, unix.CLONE_NEWNET); err != nil {
		return err
	}
	err = f()
	if err := unix.Setns(home, unix.CLONE_NEWNET); err != nil {
		// The thread stays locked, because no other goroutine may run in the namespace.
		return fmt.Errorf("return to the original namespace: %w", err)
	}
	runtime.UnlockOSThread()
	return err
}

// Command returns a command that runs in the namespace. It is killed when ctx ends.
func (ns Namespace) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", string(ns)}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}
