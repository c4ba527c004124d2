//go:build linux

package netns

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDoRunsInTheNamespaceAndReturns(t *testing.T) {
	Need(t)
	ns := New(t)
	runtime.LockOSThread() // so that the links below are those of the same thread
	defer runtime.UnlockOSThread()
	before, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	failed := errors.New("failed")
	require.ErrorIs(t, ns.Do(func() error {
		links, err := net.Interfaces()
		require.NoError(t, err)
		require.Len(t, links, 1)
		require.NotZero(t, links[0].Flags&net.FlagUp, "the loopback is up")
		there, err := os.Readlink("/proc/thread-self/ns/net")
		require.NoError(t, err)
		require.NotEqual(t, before, there)
		return failed
	}), failed)
	after, err := os.Readlink("/proc/thread-self/ns/net")
	require.NoError(t, err)
	require.Equal(t, before, after)
	require.Error(t, Namespace("usernet-none").Do(func() error { return nil }))
}

func TestRemoveKillsTheProcessesInTheNamespace(t *testing.T) {
	Need(t, "sleep")
	ns, err := Make(string(New(t)) + "-b")
	require.NoError(t, err)
	cmd := exec.Command("sleep", "1000")
	require.NoError(t, ns.Do(cmd.Start))
	require.NoError(t, ns.Remove())
	var exit *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &exit)
	require.Equal(t, syscall.SIGKILL, exit.Sys().(syscall.WaitStatus).Signal())
	require.NoFileExists(t, "/run/netns/"+string(ns))
}

func TestLoseCountsWhatItDrops(t *testing.T) {
	Need(t, "nft", "ping")
	a, b := New(t), New(t)
	Join(t, a, b)
	a.Run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "veth")
	b.Run(t, "ip", "addr", "add", "192.0.2.2/24", "dev", "veth")
	b.Lose(t, "meta l4proto icmp")
	a.Try(t, "ping", "-q", "-f", "-c", "3000", "-w", "60", "192.0.2.2")
	in, out := b.Lost(t)
	require.NotZero(t, in)
	require.NotZero(t, out)
	b.Shell(t, "ping -q -c 1 127.0.0.1 || true; nft delete table inet loss")
	a.Run(t, "ping", "-q", "-c", "1", "-w", "60", "192.0.2.2")
}
