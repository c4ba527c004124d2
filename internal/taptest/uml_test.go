//go:build linux

package taptest

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// This file boots Linux as a process (user-mode Linux), for tests of what the kernel of this machine may
// lack: PPP, PPPoE and VLANs. The root of the guest is the root of this machine, read-only, so the
// guest has the same programs. /dev, which the kernel mounts, /proc, /sys and /run are the guest's own.
//
// The guest's init is the script umlInit. It runs the scripts that arrive on the guest's serial line 0.
//
// Debian's UML fails on a processor with AMX: "ptrace set fp regs failed". Its buffer is too small for
// the registers, and the kernel then rejects PTRACE_SETREGSET. umlExec makes the kernel reject
// PTRACE_GETREGSET too. UML then saves only the registers up to SSE, so programs in the guest must not
// use AVX: GLIBC_TUNABLES tells the C library so.

// A umlConfig is the hardware of a guest. The guest has an interface vec0, vec1, … for each of ether.
type umlConfig struct {
	modules []string   // kernel modules to load, beside ipv6
	serial  *os.File   // one end of a stream: the guest's /dev/ttyS1; may be nil
	ether   []*os.File // each is one end of a Unix socket of type SOCK_DGRAM, a message is a frame
}

// A uml is a running guest.
type uml struct {
	cmd     *exec.Cmd
	console *umlConsole
	ended   chan struct{} // closed after the guest has ended
	scripts net.Conn      // the other end of serial line 0
	answers *bufio.Reader
}

// A umlConsole keeps what the guest's kernel prints.
type umlConsole struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (c *umlConsole) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.Write(b)
}

func (c *umlConsole) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

// socketPair returns the two ends of a Unix socket of the type kind.
func socketPair(t *testing.T, kind int) (a, b *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	a, b = os.NewFile(uintptr(fds[0]), "socket"), os.NewFile(uintptr(fds[1]), "socket")
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// socketConn returns a file of socketPair as a net.Conn, whose calls can be interrupted.
func socketConn(t *testing.T, f *os.File) net.Conn {
	t.Helper()
	c, err := net.FileConn(f)
	require.NoError(t, err)
	f.Close()
	t.Cleanup(func() { c.Close() })
	return c
}

// bootUML boots a guest. After bootUML has returned, the caller can close the files in cfg. The guest is shut
// down at the end of the test.
func bootUML(t *testing.T, cfg umlConfig) *uml {
	t.Helper()
	need(t, "linux.uml", "modprobe")
	exe, err := os.Executable()
	require.NoError(t, err)
	outer, inner := socketPair(t, unix.SOCK_STREAM)
	dir := t.TempDir()
	script := filepath.Join(dir, "init")
	require.NoError(t, os.WriteFile(script, []byte(umlInit), 0o755))
	args := []string{
		"mem=128M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro", "init=" + script, "uml_dir=" + dir,
		"con=null", "con0=null,fd:1", "ssl=null", "ssl0=fd:3,fd:3",
		"GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX,-AVX2,-AVX512F,-AVX512VL,-AVX512BW,-XSAVE,-XSAVEC,-AVX_Fast_Unaligned_Load",
		"UML_MODULES=" + strings.Join(cfg.modules, ","),
	}
	files := []*os.File{inner}
	if cfg.serial != nil {
		files = append(files, cfg.serial)
		args = append(args, "ssl1=fd:4,fd:4")
	}
	for i, f := range cfg.ether {
		args = append(args, fmt.Sprintf("vec%d:transport=fd,fd=%d,depth=128", i, 3+len(files)))
		files = append(files, f)
	}
	u := &uml{cmd: exec.Command(exe, args...), console: new(umlConsole), ended: make(chan struct{})}
	u.cmd.Env = append(os.Environ(), helperVar+"=uml-exec", "TMPDIR="+dir)
	u.cmd.ExtraFiles = files
	u.cmd.Stdout, u.cmd.Stderr = u.console, u.console
	// UML is several processes. The kernel kills them all when the first process of their PID namespace dies,
	// and kills that one when the test dies (Pdeathsig).
	u.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: unix.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	u.cmd.WaitDelay = 5 * time.Second
	require.NoError(t, u.cmd.Start())
	inner.Close()
	u.scripts = socketConn(t, outer)
	u.answers = bufio.NewReader(u.scripts)
	go func() {
		u.cmd.Wait()
		close(u.ended)
	}()
	t.Cleanup(func() { u.shutDown(t) })
	_, err = u.read(t, "boot") // the first answer means that the guest is ready
	require.NoError(t, err)
	return u
}

// shutDown ends the guest. The kernel of the guest must power down after the guest's serial line 0 is closed. Its process
// now and then stays after that; shutDown kills it then.
func (u *uml) shutDown(t *testing.T) {
	u.scripts.Close()
	defer func() { <-u.ended }()
	kill := func() { syscall.Kill(-u.cmd.Process.Pid, syscall.SIGKILL) }
	var down time.Time // when the guest was seen to have powered down
	for end := time.Now().Add(patience); time.Now().Before(end); {
		select {
		case <-u.ended:
			return
		case <-time.After(100 * time.Millisecond):
		}
		switch {
		case !strings.Contains(u.console.String(), "reboot: Power down"):
		case down.IsZero():
			down = time.Now()
		case time.Since(down) > 10*time.Second:
			kill()
			return
		}
	}
	t.Errorf("the guest does not end:\n%s", u.console)
	kill()
}

// umlInit is the init of a guest. A line that arrives is a script in base64. The answer is a line with the
// exit code of the script and its output in base64.
const umlInit = `#!/bin/bash
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs tmpfs /run
mkdir -p /dev/pts
mount -t devpts devpts /dev/pts
cd /run
mkdir -p modules/lib # modprobe looks in lib/modules of the directory that -d names
ln -s /usr/lib/uml/modules modules/lib/modules
modprobe -d /run/modules -a ipv6 ${UML_MODULES//,/ }
ip link set lo up
exec 3<>/dev/ttyS0
stty raw -echo <&3
echo 0 >&3
while read -r line <&3; do
	base64 -d <<<"$line" >script
	code=0
	timeout 180 bash -euo pipefail script >output 2>&1 </dev/null 3>&- || code=$?
	echo "$code $(base64 -w0 output)" >&3
done
echo 1 >/proc/sys/kernel/sysrq
echo o >/proc/sysrq-trigger
sleep 60
`

// read reads an answer of the guest.
func (u *uml) read(t *testing.T, script string) (string, error) {
	t.Helper()
	require.NoError(t, u.scripts.SetReadDeadline(time.Now().Add(patience+10*time.Second)))
	line, err := u.answers.ReadString('\n')
	require.NoError(t, err, "%s: the guest is silent\n%s", script, u.console)
	code, encoded, _ := strings.Cut(strings.TrimSpace(line), " ")
	out, err := base64.StdEncoding.DecodeString(encoded)
	require.NoError(t, err, "%q", line)
	if code != "0" {
		err = fmt.Errorf("exit code %s", code)
	}
	return string(out), err
}

// try runs a script in the guest, and returns its output. One script runs at a time, for patience at most.
// A process that the script leaves in the background must redirect its own stdout and stderr, because those
// it inherits are the script's output file.
func (u *uml) try(t *testing.T, script string) (string, error) {
	t.Helper()
	_, err := fmt.Fprintln(u.scripts, base64.StdEncoding.EncodeToString([]byte(script)))
	require.NoError(t, err)
	return u.read(t, script)
}

// run runs a script in the guest, each command of which must succeed, and returns its output.
func (u *uml) run(t *testing.T, script string) string {
	t.Helper()
	out, err := u.try(t, script)
	require.NoError(t, err, "%s\n%s\n%s", script, out, u.console)
	return out
}

// umlExec replaces this process by UML. For UML and its children, PTRACE_GETREGSET of the extended
// registers fails with EINVAL, as on a processor without XSAVE.
func umlExec(args []string) error {
	runtime.LockOSThread()
	const ptraceNumber, auditArch = unix.SYS_PTRACE, unix.AUDIT_ARCH_X86_64
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	// The offsets in struct seccomp_data are 0 for the system call, 4 for the architecture, and 16 and 32 for the request
	// and the address that ptrace gets.
	filter := []unix.SockFilter{
		load(4), unless(auditArch, 7),
		load(0), unless(ptraceNumber, 5),
		load(16), unless(unix.PTRACE_GETREGSET, 3),
		load(32), unless(0x202, 1), // NT_X86_XSTATE
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return err
	}
	exe, err := exec.LookPath("linux.uml")
	if err != nil {
		return err
	}
	os.Unsetenv(helperVar)
	return unix.Exec(exe, append([]string{"linux.uml"}, args...), os.Environ())
}

// A guest boots, has the modules that were asked for, sends bytes over its serial line and frames over its
// Ethernet, and shuts down.
func TestUserModeLinuxBootsAndShutsDown(t *testing.T) {
	t.Parallel()
	need(t, "linux.uml", "modprobe")
	serial, guestSerial := socketPair(t, unix.SOCK_STREAM)
	wire, guestWire := socketPair(t, unix.SOCK_DGRAM)
	modules := []string{"8021q", "ppp_async", "pppoe"}
	u := bootUML(t, umlConfig{modules: modules, serial: guestSerial, ether: []*os.File{guestWire}})
	loaded := u.run(t, "uname -r; lsmod")
	for _, m := range modules {
		require.Contains(t, loaded, "\n"+m+" ")
	}
	out, err := u.try(t, "echo before; false; echo after")
	require.Error(t, err)
	require.Equal(t, "before\n", out)
	require.Equal(t, strings.Repeat("a", 100_000), u.run(t, "head -c 100000 /dev/zero | tr '\\0' a"))

	u.run(t, "exec 4<>/dev/ttyS1; stty raw -echo <&4; echo hello >&4")
	line, err := bufio.NewReader(socketConn(t, serial)).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "hello\n", line)

	u.run(t, "ip -6 addr add 2001:db8::1/64 dev vec0 nodad; ip link set vec0 up; ping -6 -c 1 -W 1 2001:db8::2 || true")
	b := make([]byte, 2000)
	conn := socketConn(t, wire)
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	n, err := conn.Read(b) // such as a Neighbor Solicitation
	require.NoError(t, err)
	require.Greater(t, n, 14)

	begin := time.Now()
	u.shutDown(t)
	t.Logf("the guest ended after %v", time.Since(begin))
	_, err = os.Stat(filepath.Join("/proc", fmt.Sprint(u.cmd.Process.Pid)))
	require.ErrorIs(t, err, os.ErrNotExist)
}
