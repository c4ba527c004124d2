package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// openPTY returns both ends of a pseudo-terminal of 100 columns and 30 rows.
func openPTY(t *testing.T) (master, slave *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	master = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { master.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetUint32(fd, unix.TIOCGPTN)
	require.NoError(t, err)
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { slave.Close() })
	require.NoError(t, unix.IoctlSetWinsize(int(slave.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: 100, Row: 30}))
	return master, slave
}

func TestTopOnATerminal(t *testing.T) {
	n := newInspected(t)
	master, slave := openPTY(t)
	before, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	var screen, errs safeBuffer
	go io.Copy(&screen, master)
	done := make(chan int, 1)
	cmd := topCommand(slave)
	go func() { done <- cmd.run(t.Context(), terminal{slave, &errs}, []string{"-d", "0.5", n.socket}) }()
	shows := func(want string) {
		t.Helper()
		require.Eventually(t, func() bool { return strings.Contains(screen.String(), want) }, time.Minute, time.Millisecond, "%q", want)
	}
	shows(screenBegin)
	shows("*IN")
	raw, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	require.Zero(t, raw.Lflag&(unix.ICANON|unix.ECHO))
	for _, c := range []struct{ keys, want string }{{"sss", "by retrans"}, {"\x1b[C", "by rtt"}, {"\x1b[D\x1b[D", "by rate_out"}} {
		_, err = io.WriteString(master, c.keys)
		require.NoError(t, err)
		shows(c.want)
	}
	for line := range strings.SplitSeq(screen.String(), "\r\n") {
		line = strings.NewReplacer(screenBegin, "", screenHome, "", lineClear, "", screenClear, "").Replace(line)
		require.LessOrEqual(t, len([]rune(line)), 100, "%q", line)
	}
	_, err = io.WriteString(master, "q")
	require.NoError(t, err)
	require.Equal(t, exitOK, <-done, errs.String())
	shows(screenEnd)
	after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	require.NoError(t, err)
	require.Equal(t, before, after, "the terminal is restored")
}
