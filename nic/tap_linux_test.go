package nic

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// inNamespace makes a network namespace for the test, and moves the thread of the test's goroutine into it.
// The goroutine stays locked to the thread, so the thread ends with the test and no other goroutine uses it.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace")
	}
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("cannot make a network namespace: %v", err)
		}
		t.Skipf("cannot make a network namespace: %v", err)
	}
	// Check that the namespace is new, and not that of the machine.
	links, err := net.Interfaces()
	require.NoError(t, err)
	for _, l := range links {
		require.Zero(t, l.Flags&net.FlagUp, "%s is up: this is no new namespace", l.Name)
	}
	if _, err := os.Stat(tunFile); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
}

// run runs a command in the test's namespace.
func run(t *testing.T, command string) string {
	t.Helper()
	args := strings.Fields(command)
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	require.NoError(t, err, "%s: %s", command, out)
	return string(out)
}

// address is an address of an interface in the output of ip.
type address struct {
	Local     string
	Prefixlen int
}

// ipLink is an interface in the output of ip.
type ipLink struct {
	MTU     int
	Flags   []string
	Address string
	Addrs   []address `json:"addr_info"`
}

func showLink(t *testing.T, name string) (l ipLink, exists bool) {
	t.Helper()
	out, err := exec.Command("ip", "-j", "addr", "show", "dev", name).Output()
	if err != nil {
		return l, false
	}
	var links []ipLink
	require.NoError(t, json.Unmarshal(out, &links))
	require.Len(t, links, 1)
	// Skip link-local addresses, which depend on the state of the link.
	for _, a := range links[0].Addrs {
		if !strings.HasPrefix(a.Local, "fe80:") {
			l.Addrs = append(l.Addrs, a)
		}
	}
	links[0].Addrs = l.Addrs
	return links[0], true
}

// patience ends a test that hangs.
const patience = 2 * time.Minute

// eventually waits until another thread has done something.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Fatalf("never came: %s", what)
}

// readers returns the number of goroutines that read devices.
func readers() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "created by github.com/usernet/usernet/nic.(*rxLoop).Attach")
}

func openFiles(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(files)
}

var testPrefix = netip.MustParsePrefix("192.0.2.1/24")

func TestOpenTAPMakesADeviceThatDoesNotExist(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap7", Addr: testPrefix, MTU: 1400, MAC: macA, GSO: 65535})
		require.NoError(t, err)
		require.True(t, tap.Created())
		require.Equal(t, "tap7", tap.Name())
		want := Link{Name: "tap7", MAC: macA, MTU: 1400, GSO: 65535, TxChecksum: true, Up: true}
		if plain {
			want.GSO, want.TxChecksum = 0, false
		}
		require.Equal(t, want, tap.Link())
		l, exists := showLink(t, "tap7")
		require.True(t, exists)
		require.Equal(t, 1400, l.MTU)
		require.Contains(t, l.Flags, "UP")
		require.Equal(t, []address{{"192.0.2.1", 24}}, l.Addrs)
		host := tap.HostMAC()
		require.Equal(t, l.Address, net.HardwareAddr(host[:]).String())
		require.NotEqual(t, host, tap.Link().MAC)

		require.NoError(t, tap.Close())
		_, exists = showLink(t, "tap7")
		require.False(t, exists, "the device is deleted when its creator closes it")
	})
}

func TestOpenTAPGivesAnIPv6Address(t *testing.T) {
	inNamespace(t)
	tap, err := OpenTAP(TAPConfig{Name: "tap7", Addr: netip.MustParsePrefix("2001:db8::1/64")})
	require.NoError(t, err)
	defer tap.Close()
	l, _ := showLink(t, "tap7")
	require.Equal(t, []address{{"2001:db8::1", 64}}, l.Addrs)
	require.Equal(t, 1500, l.MTU)
	require.Equal(t, byte(2), tap.Link().MAC[0]&3, "a random MAC is unicast and locally administered")
}

func TestTheKernelNamesADeviceWithoutAName(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		a, err := OpenTAP(TAPConfig{NoOffload: plain})
		require.NoError(t, err)
		defer a.Close()
		b, err := OpenTAP(TAPConfig{NoOffload: plain})
		require.NoError(t, err)
		defer b.Close()
		require.Equal(t, "tap0", a.Name())
		require.Equal(t, "tap1", b.Name())
		require.True(t, a.Created())
		l, _ := showLink(t, "tap0")
		require.Empty(t, l.Addrs)
	})
}

func TestADeviceThatExistsIsLeftAsItIs(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		run(t, "ip tuntap add dev tap0 mode tap")
		run(t, "ip link set tap0 mtu 1300 up")
		run(t, "ip addr add 198.51.100.1/28 dev tap0")
		before, _ := showLink(t, "tap0")
		for range 2 {
			tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix, MTU: 9000})
			require.NoError(t, err)
			require.False(t, tap.Created())
			require.Equal(t, 1300, tap.Link().MTU, "the kernel's")
			during, _ := showLink(t, "tap0")
			require.Equal(t, before.Addrs, during.Addrs)
			require.Equal(t, 1300, during.MTU)
			require.NoError(t, tap.Close())
			after, exists := showLink(t, "tap0")
			require.True(t, exists, "the device is persistent still")
			require.Equal(t, before.Addrs, after.Addrs)
		}
		require.Contains(t, run(t, "ip -d link show tap0"), "persist on")
	})
}

// kernelPeer opens a UDP socket of the kernel on the other side of a TAP.
func kernelPeer(t *testing.T, tap *TAP) *net.UDPConn {
	t.Helper()
	mac := tap.Link().MAC
	// An existing device gets its carrier when the test attaches to it. The kernel drops frames until it
	// has noticed the carrier, which takes some time.
	eventually(t, "the carrier", func() bool {
		state := run(t, "ip -o link show dev "+tap.Name())
		return !strings.Contains(state, "state DOWN") && !strings.Contains(state, "NO-CARRIER")
	})
	run(t, "ip neigh replace 192.0.2.2 lladdr "+net.HardwareAddr(mac[:]).String()+" dev "+tap.Name())
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 9999})
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// toKernel returns a frame with payload from the stack's side to the kernel's socket.
func toKernel(t testing.TB, tap *TAP, payload []byte) []byte {
	b, _, _ := packetSpec{payload: payload}.build(t)
	mac := tap.HostMAC()
	copy(b, mac[:])
	mac = tap.Link().MAC
	copy(b[6:], mac[:])
	return b
}

// isUDP4 reports whether a frame is a UDP datagram of IPv4. The frames that the kernel sends by itself are
// not.
func isUDP4(b []byte) bool { return len(b) >= 42 && b[12] == 8 && b[13] == 0 && b[23] == 17 }

func TestFramesPassATAPBothWays(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix, MAC: macA})
		require.NoError(t, err)
		defer tap.Close()
		kernel := kernelPeer(t, tap)
		frames := make(chan []byte, 100)
		tap.Attach(func(batch []Frame) {
			for _, f := range batch {
				if isUDP4(f.Head) {
					frames <- f.AppendTo(nil)
				}
			}
		})
		for _, n := range []int{0, 1, 100, 1472} {
			_, err = kernel.WriteToUDP(pattern(n), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7})
			require.NoError(t, err)
			frame := <-frames
			host := tap.HostMAC()
			require.Equal(t, macA[:], frame[:6])
			require.Equal(t, host[:], frame[6:12])
			require.Equal(t, pattern(n), frame[42:])
		}

		whole, split := toKernel(t, tap, pattern(1472)), toKernel(t, tap, []byte("split"))
		n, err := tap.Send([]Frame{
			{Head: whole},
			{Head: make([]byte, 1515)}, // too long
			{Head: split[:42], Body: split[42:]},
		})
		require.NoError(t, err)
		require.Equal(t, 3, n)
		buf := make([]byte, 2000)
		for _, want := range [][]byte{pattern(1472), []byte("split")} {
			require.NoError(t, kernel.SetReadDeadline(time.Now().Add(patience)))
			n, from, err := kernel.ReadFromUDPAddrPort(buf)
			require.NoError(t, err)
			require.Equal(t, "192.0.2.2:40000", from.String())
			require.Equal(t, want, buf[:n])
		}
		s := tap.Stats()
		require.Equal(t, uint64(2), s.Sent)
		require.Equal(t, uint64(len(whole)+len(split)), s.SentBytes)
		require.Equal(t, uint64(1), s.SendDropped)
		require.GreaterOrEqual(t, s.Received, uint64(4))
	})
}

func TestALinkThatIsDownIsNotADeadDevice(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		run(t, "ip tuntap add dev tap0 mode tap")
		run(t, "ip addr add 192.0.2.1/24 dev tap0")
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0"})
		require.NoError(t, err)
		defer tap.Close()
		tap.NotifyDown(func(err error) { t.Errorf("reported down: %v", err) })
		tap.Attach(func([]Frame) {})
		l, _ := showLink(t, "tap0")
		require.NotContains(t, l.Flags, "UP", "OpenTAP leaves it down")

		batch := []Frame{{Head: toKernel(t, tap, []byte("lost"))}, {Head: toKernel(t, tap, []byte("lost"))}}
		n, err := tap.Send(batch)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		require.Equal(t, Stats{SendDropped: 2}, tap.Stats())
		require.False(t, tap.Link().Up)

		run(t, "ip link set tap0 up")
		eventually(t, "the link", func() bool { return tap.Link().Up })
		kernel := kernelPeer(t, tap)
		n, err = tap.Send(one(toKernel(t, tap, []byte("found"))))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		buf := make([]byte, 100)
		require.NoError(t, kernel.SetReadDeadline(time.Now().Add(patience)))
		n, _, err = kernel.ReadFromUDPAddrPort(buf)
		require.NoError(t, err)
		require.Equal(t, "found", string(buf[:n]))
		require.NoError(t, tap.Err())
	})
}

// linkChanges registers with NotifyLink and returns a function that returns the number of notifications.
func linkChanges(dev LinkNotifier) func() int32 {
	var n atomic.Int32
	if !dev.NotifyLink(func() {
		dev.Link()
		n.Add(1)
	}) {
		panic("it reports no changes")
	}
	return n.Load
}

// A TAP notifies of changes of its MTU, its state and the MAC of its other end.
func TestATAPTellsWhatBefallsItsLink(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix})
		require.NoError(t, err)
		defer tap.Close()
		require.True(t, tap.Link().Up, "OpenTAP brings it up")
		dev := Capture(Impair(tap, ImpairConfig{}), io.Discard, CaptureConfig{})
		n := linkChanges(dev)
		dev.Attach(func([]Frame) {})
		was := tap.Link()

		run(t, "ip link set tap0 mtu 1000")
		eventually(t, "the MTU", func() bool { return n() > 0 && dev.Link().MTU == 1000 })
		require.Equal(t, was.MAC, dev.Link().MAC)
		// The Ethernet header of 14 bytes does not count for the MTU.
		before := tap.Stats().SendDropped
		_, err = tap.Send(one(ether(bcst, was.MAC, 1, 1015)))
		require.NoError(t, err)
		require.Equal(t, before+1, tap.Stats().SendDropped)
		_, err = tap.Send(one(ether(bcst, was.MAC, 1, 1014)))
		require.NoError(t, err)
		require.Equal(t, before+1, tap.Stats().SendDropped)
		run(t, "ip link set tap0 mtu 9000")
		eventually(t, "the MTU", func() bool { return dev.Link().MTU == 9000 })

		run(t, "ip link set tap0 down")
		eventually(t, "that it is down", func() bool { return !dev.Link().Up })
		run(t, "ip link set tap0 up")
		eventually(t, "that it is up", func() bool { return dev.Link().Up })

		// The kernel's end is another station, so the stack must be notified of its new address.
		notified := n()
		run(t, "ip link set tap0 address 02:00:00:00:77:77")
		eventually(t, "that the kernel's end has moved", func() bool { return n() > notified })
		require.Equal(t, [6]byte{2, 0, 0, 0, 0x77, 0x77}, tap.HostMAC())
		require.Equal(t, was.MAC, dev.Link().MAC)

		// Changes of other interfaces are not reported.
		notified = n()
		run(t, "ip link set lo mtu 1234")
		time.Sleep(20 * time.Millisecond)
		require.Equal(t, notified, n())
		files := openFiles(t)
		require.NoError(t, dev.Close())
		require.Less(t, openFiles(t), files-1, "the descriptor that watches the link is closed too")
	})
}

func TestADeviceThatIsDeletedIsDead(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix})
		require.NoError(t, err)
		errs := make(chan error, 10)
		tap.NotifyDown(func(err error) { errs <- err })
		tap.Attach(func([]Frame) {})
		require.NoError(t, tap.Err())
		run(t, "ip link del tap0")
		err = <-errs // the reader reports the error and then ends
		require.ErrorIs(t, err, unix.EBADFD)
		require.ErrorContains(t, err, "nic: tap0: ")
		require.Equal(t, err, tap.Err())
		require.False(t, tap.Link().Up)
		n, sendErr := tap.Send(one(toKernel(t, tap, []byte("lost"))))
		require.Zero(t, n)
		require.Equal(t, err, sendErr)
		require.NoError(t, tap.Close())
		_, err = tap.Send(nil)
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, tap.Close(), net.ErrClosed)
		require.Empty(t, errs, "reported once")
	})
}

func TestSendFindsADeletedDeviceWithoutAReader(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix})
		require.NoError(t, err)
		defer tap.Close()
		run(t, "ip link del tap0")
		n, err := tap.Send(one(toKernel(t, tap, []byte("lost"))))
		require.Zero(t, n)
		require.ErrorIs(t, err, unix.EBADFD)
		require.False(t, tap.Link().Up)
	})
}

func TestCloseOfATAPWakesItsReader(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		eventually(t, "the end of the readers of other tests", func() bool { return readers() == 0 })
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix})
		require.NoError(t, err)
		tap.NotifyDown(func(err error) { t.Errorf("reported down: %v", err) })
		tap.Attach(func([]Frame) {})
		require.Equal(t, 2, readers(), "one reads frames, and one reads the changes of the link")
		time.Sleep(10 * time.Millisecond) // let the reader wait in the poller
		require.NoError(t, tap.Close())
		eventually(t, "the reader's end", func() bool { return readers() == 0 })
		_, err = tap.Send(one(toKernel(t, tap, []byte("lost"))))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, tap.Close(), net.ErrClosed)
		require.ErrorIs(t, tap.Err(), net.ErrClosed)
	})
}

func TestATAPIsReadThroughThePoller(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0"})
		require.NoError(t, err)
		defer tap.Close()
		require.NoError(t, tap.src.(*tapReader).file.SetReadDeadline(time.Time{}), "only a file in the poller has deadlines")
		require.NoError(t, tap.queues[0].Control(func(fd uintptr) {
			flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
			require.NoError(t, err)
			require.NotZero(t, flags&unix.O_NONBLOCK)
			flags, err = unix.FcntlInt(fd, unix.F_GETFD, 0)
			require.NoError(t, err)
			require.NotZero(t, flags&unix.FD_CLOEXEC, "children are not to inherit the device")
		}))
	})
}

func TestADeviceInUseIsBusyAndNothingLeaks(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		run(t, "ip tuntap add dev tap0 mode tap")
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0"})
		require.NoError(t, err)
		_, err = OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0"})
		require.ErrorIs(t, err, unix.EBUSY)
		require.EqualError(t, err, "nic: open TAP tap0: device or resource busy (another process, or this one, has it open)")
		files := openFiles(t)
		for range 20 {
			_, err = OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0"})
			require.ErrorIs(t, err, unix.EBUSY)
		}
		require.Equal(t, files, openFiles(t))
		require.NoError(t, tap.Close())
		tap, err = OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0"})
		require.NoError(t, err)
		require.NoError(t, tap.Close())
	})
}

func TestAnInterfaceThatIsNoTAPIsRefused(t *testing.T) {
	inNamespace(t)
	run(t, "ip tuntap add dev tun0 mode tun")
	for _, name := range []string{"lo", "tun0"} {
		_, err := OpenTAP(TAPConfig{Name: name})
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "is not a TAP device")
	}
}

// tunFileOf moves the test's thread into its own mount namespace, and mounts a /dev/net/tun with the given
// permissions in it.
func tunFileOf(t *testing.T, mode uint32) {
	t.Helper()
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNS))
	require.NoError(t, unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	require.NoError(t, unix.Mount("tmpfs", "/dev/net", "tmpfs", 0, "mode=755"))
	// The device number of /dev/net/tun is 10, 200.
	require.NoError(t, unix.Mknod(tunFile, unix.S_IFCHR|mode, int(unix.Mkdev(10, 200))))
	require.NoError(t, unix.Chmod(tunFile, mode))
}

// becomeNobody removes all privileges of the test's thread. Other threads keep theirs.
func becomeNobody(t *testing.T) {
	t.Helper()
	const nobody = 65534
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
	require.Zero(t, errno)
}

func TestWithoutPermissionTheErrorTellsTheCommands(t *testing.T) {
	inNamespace(t)
	run(t, "ip tuntap add dev tap1 mode tap user 12345")
	tunFileOf(t, 0o666)
	becomeNobody(t)
	files := openFiles(t)
	for _, name := range []string{"tap0", "tap1", ""} { // tap0 does not exist, tap1 belongs to another user
		_, err := OpenTAP(TAPConfig{Name: name, Addr: testPrefix})
		var denied *TAPPermissionError
		require.ErrorAs(t, err, &denied, "%q", name)
		require.Equal(t, name, denied.Name)
		require.ErrorIs(t, err, fs.ErrPermission)
		require.ErrorIs(t, err, unix.EPERM)
		require.NotContains(t, err.Error(), "chmod")
		require.Equal(t, name == "tap1", denied.Exists)
	}
	require.Equal(t, files, openFiles(t))
}

// TestTheCommandsOfAPermissionErrorHelp runs the commands in the error, as root, and then opens the
// device as the user who lacked the permission.
func TestTheCommandsOfAPermissionErrorHelp(t *testing.T) {
	for _, name := range []string{"", "tap0", "tap1"} {
		for _, mode := range []uint32{0o666, 0o600} {
			t.Run(fmt.Sprintf("%s %o", name, mode), func(t *testing.T) {
				inNamespace(t)
				run(t, "ip tuntap add dev tap1 mode tap user 12345")
				tunFileOf(t, mode)
				for range 3 { // the file and the device may each be refused once
					tap, err := asNobody(t, func() (*TAP, error) { return OpenTAP(TAPConfig{Name: name, Addr: testPrefix}) })
					var denied *TAPPermissionError
					if !errors.As(err, &denied) {
						require.NoError(t, err)
						require.NoError(t, tap.Close())
						l, _ := showLink(t, tap.Name())
						require.Equal(t, []address{{"192.0.2.1", 24}}, l.Addrs)
						return
					}
					for _, command := range denied.Commands("nobody") {
						require.Contains(t, err.Error(), command)
						run(t, command)
					}
					if name == "" {
						name = "tap0" // the name that the commands use
					}
				}
				t.Fatal("still denied")
			})
		}
	}
}

// asNobody calls f without any privileges.
func asNobody(t *testing.T, f func() (*TAP, error)) (*TAP, error) {
	t.Helper()
	// set sets the effective user ID. -1 leaves the real and the saved one, so that root's can be set again.
	set := func(uid uintptr) {
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0))
		require.Zero(t, errno)
	}
	set(65534)
	defer set(0)
	return f()
}

func TestWhereTheFileIsClosedToUsersTheErrorTellsIt(t *testing.T) {
	inNamespace(t)
	run(t, "ip tuntap add dev tap0 mode tap user 65534")
	tunFileOf(t, 0o600)
	becomeNobody(t)
	_, err := OpenTAP(TAPConfig{Name: "tap0"})
	require.ErrorIs(t, err, unix.EACCES)
	require.ErrorIs(t, err, fs.ErrPermission)
	require.ErrorContains(t, err, "chmod 666 /dev/net/tun")
}

func TestAUserOpensItsOwnDevice(t *testing.T) {
	inNamespace(t)
	run(t, "ip tuntap add dev tap0 mode tap user 65534")
	run(t, "ip addr add 192.0.2.1/24 dev tap0")
	run(t, "ip link set tap0 up")
	tunFileOf(t, 0o666)
	becomeNobody(t)
	tap, err := OpenTAP(TAPConfig{Name: "tap0"})
	require.NoError(t, err)
	require.False(t, tap.Created())
	n, err := tap.Send(one(toKernel(t, tap, []byte("hello"))))
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, uint64(1), tap.Stats().Sent)
	require.NoError(t, tap.Close())
	_, err = net.InterfaceByName("tap0")
	require.NoError(t, err, "the device stays")
}

func TestWithoutTheFileTheErrorTellsTheModule(t *testing.T) {
	inNamespace(t)
	tunFileOf(t, 0o666)
	require.NoError(t, os.Remove(tunFile))
	_, err := OpenTAP(TAPConfig{Name: "tap0"})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.EqualError(t, err, "nic: open TAP tap0: no such file or directory (/dev/net/tun is missing: modprobe tun)")
}

func TestErrorsOfTheSystemAreExplained(t *testing.T) {
	cfg := TAPConfig{Name: "tap0"}
	for errno, hint := range map[unix.Errno]string{
		unix.ENOENT: "modprobe tun",
		unix.ENODEV: "modprobe tun",
		unix.EBUSY:  "another process",
		unix.EINVAL: "not a TAP device",
		unix.EPERM:  "ip tuntap add dev tap0",
		unix.EACCES: "ip tuntap add dev tap0",
		unix.EIO:    "input/output error",
	} {
		err := tapError(Ethernet, cfg, false, &fs.PathError{Op: "open", Path: tunFile, Err: errno})
		require.ErrorContains(t, err, hint)
		require.True(t, errors.Is(err, errno))
	}
}

func TestATAPDoesNotAllocatePerFrame(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix})
		require.NoError(t, err)
		defer tap.Close()
		kernel := kernelPeer(t, tap)
		received := make(chan struct{}, 1)
		tap.Attach(func(batch []Frame) {
			for i := range batch {
				if isUDP4(batch[i].Head) {
					received <- struct{}{}
				}
			}
		})
		b := toKernel(t, tap, pattern(100))
		batch := []Frame{{Head: b}, {Head: b[:42], Body: b[42:]}}
		payload := pattern(100)
		if !plain {
			super := packetSpec{payload: pattern(20000)}.super(t, 1000, true)
			copy(super.Head, b[:12])
			batch = append(batch, super)
			payload = pattern(20000)
			setSegmentSize(t, kernel, 1000)
		}
		allocs := testing.AllocsPerRun(100, func() {
			if n, err := tap.Send(batch); n != len(batch) || err != nil {
				t.Fatal(n, err)
			}
		})
		if !raceEnabled {
			require.Zero(t, allocs, "sending")
		}
		require.Zero(t, tap.Stats().SendDropped)
		to := netip.MustParseAddrPort("192.0.2.2:7")
		allocs = testing.AllocsPerRun(100, func() {
			if _, err := kernel.WriteToUDPAddrPort(payload, to); err != nil {
				t.Fatal(err)
			}
			<-received
		})
		if !raceEnabled {
			require.Zero(t, allocs, "receiving")
		}
	})
}

func BenchmarkTAPSend(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root, to make a network namespace")
	}
	runtime.LockOSThread()
	require.NoError(b, unix.Unshare(unix.CLONE_NEWNET))
	tap, err := OpenTAP(TAPConfig{Name: "tap0", Addr: testPrefix})
	require.NoError(b, err)
	defer tap.Close()
	batch := one(toKernel(b, tap, pattern(1400)))
	b.ReportAllocs()
	for b.Loop() {
		tap.Send(batch)
	}
}
