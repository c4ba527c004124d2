package contract

import (
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests. If the process is a child of TestTheContractHoldsWithAndWithoutIPv6, it has its
// own network namespace, which TestMain prepares first.
func TestMain(m *testing.M) {
	families := os.Getenv(familiesEnv)
	if families != "" {
		if err := loopbackUp(); err != nil {
			panic(err)
		}
	}
	if families == onlyIPv4 {
		if err := forbidIPv6(); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// loopbackUp does what "ip link set lo up" does. The loopback then has 127.0.0.1 and ::1.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

// forbidIPv6 disables IPv6 for this process: socket(2) fails with EAFNOSUPPORT, as on a kernel
// without IPv6.
func forbidIPv6() error {
	const nr, domain = 0, 16 // offsets in struct seccomp_data: system call, low half of its first argument
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SOCKET, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: domain},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.AF_INET6, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EAFNOSUPPORT)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// The contract holds if both the kernel's namespace and the hosts have both families, and if both have only
// IPv4.
func TestTheContractHoldsWithAndWithoutIPv6(t *testing.T) {
	if os.Getenv(familiesEnv) != "" {
		return // this process is the child
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace of the kernel's")
	}
	for _, families := range []string{bothFamilies, onlyIPv4} {
		t.Run(families, func(t *testing.T) {
			cmd := exec.Command(os.Args[0], "-test.run=^TestUsernetBehavesAsTheKernel$", "-test.count=1")
			cmd.Env = append(os.Environ(), familiesEnv+"="+families)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}
