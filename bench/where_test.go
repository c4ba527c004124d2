package main

import (
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"
	"time"
)

func TestSamplesAreOfTheUseOfTheirInnermostKnownFunction(t *testing.T) {
	const m = usernetModule
	write := []string{m + "/stack.(*TCP).Write", m + ".(*TCPConn).Write", "net/http.(*conn).serve", "runtime.goexit"}
	for _, c := range []struct {
		want  use
		stack []string
	}{
		{deviceOut, append([]string{"internal/runtime/syscall/linux.Syscall6", "syscall.RawSyscall6", "syscall.RawSyscall",
			m + "/nic.(*tapWriter).writeTo", "os.(*rawConn).Control", m + "/nic.(*tunTap).Send"}, write...)},
		{deviceIn, []string{"internal/runtime/syscall/linux.Syscall6", "syscall.RawSyscall", m + "/nic.(*tapReader).readFrame",
			"internal/poll.(*FD).RawRead", m + "/nic.(*rxLoop).read"}},
		{otherCalls, append([]string{"internal/runtime/syscall/linux.Syscall6", "syscall.Syscall", "syscall.pread", "internal/poll.(*FD).Pread",
			"os.(*File).ReadAt"}, write...)},
		{otherCalls, []string{"internal/runtime/syscall/linux.Syscall6", "syscall.read", "internal/poll.(*FD).Read", "net.(*conn).Read", "main.copy"}},
		{copying, append([]string{"runtime.memmove", m + "/stack/tcp.(*ring).put"}, write...)},
		{heap, append([]string{"runtime.memclrNoHeapPointers", "runtime.mallocgcLarge", "runtime.mallocgc"}, write...)},
		{heap, append([]string{"runtime.pcvalue", "runtime.adjustframe", "runtime.copystack", "runtime.newstack"}, write...)},
		{inTCP, append([]string{"runtime.mapaccess1", m + "/stack/tcp.(*Conn).Next"}, write...)},
		{inStack, append([]string{"internal/sync.(*Mutex).Lock", "sync.(*Mutex).Lock"}, write...)},
		{inStack, append([]string{m + "/nic.(*PipeEnd).Send"}, write...)},
		{scheduling, append([]string{"runtime.futex", "runtime.wakep", "runtime.ready", "runtime.goready"}, write...)},
		{scheduling, []string{"internal/runtime/syscall/linux.Syscall6", "internal/runtime/syscall/linux.EpollWait", "runtime.netpoll",
			"runtime.findRunnable", "runtime.mcall"}},
		{scheduling, []string{"runtime.usleep", "runtime.sysmon", "runtime.mstart1"}},
		{application, []string{"runtime.mapaccess1", "net/http.Header.Get", "net/http.(*conn).serve"}},
		{application, []string{"crypto/internal/fips140/aes/gcm.gcmAesEnc", "crypto/tls.(*Conn).Write", "main.(*client).send"}},
		{application, []string{m + "/bench.(*client).pingpong", "runtime.goexit"}},
	} {
		if got := useOf(c.stack); got != c.want {
			t.Errorf("%q is %q, want %q", c.stack, got, c.want)
		}
	}
}

// A profile of a program that only computes is the application's.
func TestAProfileIsReadFromItsFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x.pprof")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
		digits(1.5)
	}
	pprof.StopCPUProfile()
	shares, cores, err := readProfile(name)
	sum := 0.0
	for _, v := range shares {
		sum += v
	}
	if err != nil || shares[application]+shares[heap] < 0.8 || sum < 0.999 || sum > 1.001 || cores <= 0 {
		t.Errorf("%v, %v processors, %v", shares, cores, err)
	}
	if _, _, err = readProfile("README.md"); err == nil || !strings.HasPrefix(err.Error(), "README.md: ") {
		t.Errorf("README.md is read as a profile: %v", err)
	}
}
