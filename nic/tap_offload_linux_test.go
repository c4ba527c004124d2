package nic

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// eachTAPMode runs a test with and without offloads, each in its own namespace.
func eachTAPMode(t *testing.T, f func(t *testing.T, plain bool)) {
	for name, plain := range map[string]bool{"offload": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			inNamespace(t)
			f(t, plain)
		})
	}
}

// wired is two kernels, each in its own namespace with a TAP or a TUN. This process connects the two
// devices.
type wired struct {
	a, b  *tunTap
	fromA watched // the frames that a received, which the first kernel sent
	fromB watched // the frames that b received
	kernels
}

// kernels has the addresses and the sockets of two kernels.
type kernels struct {
	listener net.Listener
	dial     func() net.Conn
	udp      [2]*net.UDPConn // connected to each other
}

// addresses returns the addresses of the two kernels, the prefix length with an option for "ip addr add",
// and the suffix that the family has in the networks of package net.
func addresses(v6 bool) (addrs [2]string, prefix, family string) {
	if v6 {
		return [2]string{"2001:db8::1", "2001:db8::2"}, "/64 nodad", "6"
	}
	return [2]string{"198.51.100.1", "198.51.100.2"}, "/24", "4"
}

// listen opens the sockets of the first kernel. The test's thread must be in the namespace of that kernel.
func (k *kernels) listen(t *testing.T, v6 bool) {
	t.Helper()
	addrs, _, family := addresses(v6)
	k.udp[0] = datagrams(t, family, addrs[0], addrs[1])
	l, err := net.Listen("tcp"+family, net.JoinHostPort(addrs[0], "0"))
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	k.listener = l
}

// join opens the sockets of the second kernel. The test's thread must be in the namespace of that kernel,
// now and when dial is called.
func (k *kernels) join(t *testing.T, v6 bool) {
	t.Helper()
	addrs, _, family := addresses(v6)
	k.udp[1] = datagrams(t, family, addrs[1], addrs[0])
	k.dial = func() net.Conn {
		conn, err := net.Dial("tcp"+family, k.listener.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
}

func datagrams(t *testing.T, family, at, to string) *net.UDPConn {
	t.Helper()
	local, err := net.ResolveUDPAddr("udp"+family, net.JoinHostPort(at, "700"))
	require.NoError(t, err)
	remote, err := net.ResolveUDPAddr("udp"+family, net.JoinHostPort(to, "700"))
	require.NoError(t, err)
	conn, err := net.DialUDP("udp"+family, local, remote)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return conn
}

// watched records the frames of one direction.
type watched struct {
	kinds [GSOUDP + 1]atomic.Int64 // frames of each kind
	large atomic.Int64             // length of the longest frame in bytes
	plain atomic.Int64             // length of the longest frame that is not a super-frame, in bytes
}

func (w *watched) see(batch []Frame) {
	for i := range batch {
		f := &batch[i]
		w.kinds[f.GSO].Add(1)
		w.large.Store(max(w.large.Load(), int64(f.Len())))
		if f.GSO == GSONone {
			w.plain.Store(max(w.plain.Load(), int64(f.Len())))
		}
	}
}

// joined makes two namespaces with a TAP each, and connects the TAPs. The test's thread stays in the second
// namespace. If wrap is not nil, it returns the device to use in place of w.a, and may change w.
func joined(t *testing.T, cfgA, cfgB TAPConfig, v6 bool, wrap func(w *wired) Device) *wired {
	t.Helper()
	return joinedOn(t, Ethernet, cfgA, cfgB, v6, wrap)
}

// joinedOn is joined for TAPs if m is Ethernet, and for TUNs if m is IP.
func joinedOn(t *testing.T, m Medium, cfgA, cfgB TAPConfig, v6 bool, wrap func(w *wired) Device) *wired {
	t.Helper()
	w := new(wired)
	addrs, prefix, _ := addresses(v6)
	open := func(cfg TAPConfig, addr string) *tunTap {
		tap := new(tunTap)
		require.NoError(t, tap.openAny(m, cfg))
		t.Cleanup(func() { tap.Close() })
		run(t, "ip addr add "+addr+prefix+" dev "+tap.Name())
		return tap
	}
	inNamespace(t)
	w.a = open(cfgA, addrs[0])
	w.listen(t, v6)
	require.NoError(t, unix.Unshare(unix.CLONE_NEWNET))
	w.b = open(cfgB, addrs[1])
	w.join(t, v6)

	var devA Device = w.a
	if wrap != nil {
		devA = wrap(w)
		t.Cleanup(func() { devA.Close() })
	}
	devA.Attach(func(batch []Frame) { w.fromA.see(batch); w.b.Send(batch) })
	w.b.Attach(func(batch []Frame) { w.fromB.see(batch); devA.Send(batch) })
	return w
}

// exchange sends n bytes in each direction over one connection between the two kernels, and checks that all
// bytes arrive.
func (k *kernels) exchange(t *testing.T, n int) {
	t.Helper()
	dialed := k.dial()
	accepted, err := k.listener.Accept()
	require.NoError(t, err)
	defer accepted.Close()
	data := bytes.Repeat(pattern(65521), n/65521+1)[:n]
	want := sha256.Sum256(data)
	var wg sync.WaitGroup
	for _, c := range []*net.TCPConn{dialed.(*net.TCPConn), accepted.(*net.TCPConn)} {
		c.SetDeadline(time.Now().Add(time.Minute))
		wg.Go(func() {
			if _, err := c.Write(data); err != nil {
				t.Error(err)
			}
			c.CloseWrite()
		})
		wg.Go(func() {
			h := sha256.New()
			if got, err := io.Copy(h, c); err != nil || got != int64(n) || !bytes.Equal(h.Sum(nil), want[:]) {
				t.Errorf("%d of %d bytes, or others: %v", got, n, err)
			}
		})
	}
	wg.Wait()
}

func TestKernelsTalkOverTwoTAPsInSuperFrames(t *testing.T) {
	for name, kind := range map[string]GSOKind{"IPv4": GSOTCP4, "IPv6": GSOTCP6} {
		t.Run(name, func(t *testing.T) {
			w := joined(t, TAPConfig{}, TAPConfig{}, kind == GSOTCP6, nil)
			w.exchange(t, 8<<20)
			for _, dir := range []*watched{&w.fromA, &w.fromB} {
				require.Positive(t, dir.kinds[kind].Load())
				require.Greater(t, dir.large.Load(), int64(20000), "bytes in the longest frame")
				require.LessOrEqual(t, dir.plain.Load(), int64(1514))
			}
			for _, tap := range []*tunTap{w.a, w.b} {
				require.Zero(t, tap.Stats().SendDropped)
				require.Zero(t, tap.Stats().RecvDropped)
			}
		})
	}
}

func TestATAPWithoutOffloadsDropsSuperFrames(t *testing.T) {
	inNamespace(t)
	tap, err := OpenTAP(TAPConfig{Name: "tap0", NoOffload: true})
	require.NoError(t, err)
	defer tap.Close()
	require.Zero(t, tap.Link().GSO)
	require.False(t, tap.Link().TxChecksum)
	n, err := tap.Send([]Frame{packetSpec{tcp: true, payload: pattern(5000)}.super(t, 1000, true)})
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, uint64(1), tap.Stats().SendDropped)
}

func TestKernelsTalkOverTwoPlainTAPs(t *testing.T) {
	w := joined(t, TAPConfig{NoOffload: true}, TAPConfig{NoOffload: true}, false, nil)
	w.exchange(t, 2<<20)
	for _, dir := range []*watched{&w.fromA, &w.fromB} {
		require.Equal(t, int64(1514), dir.large.Load())
	}
}

func TestAReaderThatSpinsReceivesAndCloses(t *testing.T) {
	const spin = time.Millisecond
	for _, plain := range []bool{false, true} {
		before := readers()
		w := joined(t, TAPConfig{Spin: spin, NoOffload: plain}, TAPConfig{Spin: spin, NoOffload: plain}, false, nil)
		w.exchange(t, 2<<20)
		time.Sleep(2 * spin) // let the reader stop spinning, so that the next frame has to wake it
		w.exchange(t, 1<<10)
		require.NoError(t, w.a.Close())
		require.NoError(t, w.b.Close())
		eventually(t, "the end of the readers", func() bool { return readers() <= before }) // readers of other tests may end too
	}
}

func TestSuperFramesAreCutForAWireWithoutOffloads(t *testing.T) {
	// An Impaired carries frames of a real wire even if it impairs nothing.
	var cut *Impaired
	impaired := func(w *wired) Device {
		cut = Impair(w.a, ImpairConfig{})
		return cut
	}
	w := joined(t, TAPConfig{}, TAPConfig{NoOffload: true}, false, impaired)
	w.exchange(t, 2<<20)
	require.Equal(t, int64(1514), w.fromA.large.Load())
	require.Greater(t, cut.InStats().Delivered, w.a.Stats().Received+500, "super-frames became many")
	require.Zero(t, w.b.Stats().SendDropped)
}

// cutter is a device that segments super-frames before it sends them.
type cutter struct{ *tunTap }

func (c cutter) Send(batch []Frame) (int, error) {
	for i := range batch {
		alloc := func(n int) []byte { return make([]byte, n) }
		c.Link().Medium.complete(&batch[i], alloc, func(b []byte) { c.tunTap.Send(one(b)) })
	}
	return len(batch), nil
}

func TestAPlainTAPMergesWhatTheKernelCutUp(t *testing.T) {
	for name, kind := range map[string]GSOKind{"IPv4": GSOTCP4, "IPv6": GSOTCP6} {
		t.Run(name, func(t *testing.T) {
			w := joined(t, TAPConfig{NoOffload: true}, TAPConfig{}, kind == GSOTCP6, func(w *wired) Device {
				w.a.MergeReceived()
				return cutter{w.a}
			})
			w.exchange(t, 8<<20)
			require.Positive(t, w.fromA.kinds[kind].Load())
			require.Greater(t, w.fromA.large.Load(), int64(10000), "bytes in the longest frame")
			require.LessOrEqual(t, w.fromA.plain.Load(), int64(1514))
			require.Less(t, w.a.Stats().Received, uint64(8<<20/1448), "not one by one")
			require.Zero(t, w.a.Stats().RecvDropped)
			require.Zero(t, w.b.Stats().SendDropped)
		})
	}
}

// setSegmentSize makes the kernel send each payload as one UDP super-frame, with datagrams of size bytes.
func setSegmentSize(t *testing.T, conn *net.UDPConn, size int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size)
	}))
	require.NoError(t, err)
}

func sendSegments(t *testing.T, conn *net.UDPConn, payload []byte, size int) {
	t.Helper()
	setSegmentSize(t, conn, size)
	_, err := conn.Write(payload)
	require.NoError(t, err)
}

func TestDatagramsOfEqualSizeCrossInOneSuperFrame(t *testing.T) {
	for name, v6 := range map[string]bool{"IPv4": false, "IPv6": true} {
		for _, kernelCuts := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				w := joined(t, TAPConfig{}, TAPConfig{}, v6, func(w *wired) Device {
					require.True(t, w.b.off.uso, "Linux has it since 6.2")
					w.b.off.uso = kernelCuts
					return w.a
				})
				payload := pattern(20500)
				sendSegments(t, w.udp[0], payload, 1000)
				got := make([]byte, 2000)
				for i := 0; i < len(payload); i += 1000 {
					require.NoError(t, w.udp[1].SetReadDeadline(time.Now().Add(patience)))
					n, err := w.udp[1].Read(got)
					require.NoError(t, err)
					require.Equal(t, payload[i:min(i+1000, len(payload))], got[:n])
				}
				require.Equal(t, int64(1), w.fromA.kinds[GSOUDP].Load())
				require.Zero(t, w.b.Stats().SendDropped)
			})
		}
	}
}

// TestWiresharkReadsAnOffloadedRun captures the super-frames that two kernels exchange, and makes tshark
// verify all checksums.
func TestWiresharkReadsAnOffloadedRun(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("tshark is not installed")
	}
	name := filepath.Join(t.TempDir(), "offload.pcapng")
	f, err := os.Create(name)
	require.NoError(t, err)
	defer f.Close()
	w := joined(t, TAPConfig{}, TAPConfig{}, false, func(w *wired) Device { return Capture(w.a, f, CaptureConfig{}) })
	w.exchange(t, 1<<20)
	sendSegments(t, w.udp[1], pattern(5500), 1000)
	eventually(t, "the datagrams", func() bool { return w.fromB.kinds[GSOUDP].Load() > 0 })
	require.NoError(t, w.a.Close())
	require.NoError(t, w.b.Close())

	show := func(filter string) []string {
		out, err := exec.Command(tshark, "-r", name, "-n",
			"-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
			"-Y", filter, "-T", "fields", "-e", "frame.number", "-e", "frame.len").Output()
		require.NoError(t, err)
		return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	}
	require.Greater(t, len(show("tcp.checksum.status == 1")), 20)
	require.NotEqual(t, []string{""}, show("tcp.checksum.status == 1 && frame.len > 20000"))
	require.Len(t, show("udp.checksum.status == 1 && frame.len > 5000"), 1)
	require.Equal(t, []string{""}, show("ip.version == 4 && (!ip.checksum.status == 1 || tcp.checksum.status == 0 || udp.checksum.status == 0)"))
	require.Equal(t, []string{""}, show("_ws.malformed"))
}

// tsoOf reports whether the kernel passes TCP super-frames to an interface.
func tsoOf(t *testing.T, name string) bool {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: 0x1e} // ETHTOOL_GTSO
	var req struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:], name)
	req.data = unsafe.Pointer(&value)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	require.Zero(t, errno)
	return value.data != 0
}

func TestOffloadsEndWithTheDevicesUse(t *testing.T) {
	inNamespace(t)
	run(t, "ip tuntap add dev tap0 mode tap")
	run(t, "ip addr add 198.51.100.1/28 dev tap0")
	require.False(t, tsoOf(t, "tap0"))
	for range 2 {
		tap, err := OpenTAP(TAPConfig{Name: "tap0", GSO: 9000})
		require.NoError(t, err)
		require.Equal(t, 9000, tap.Link().GSO)
		require.True(t, tap.Link().TxChecksum)
		require.True(t, tsoOf(t, "tap0"))
		require.NoError(t, tap.Close())
		require.False(t, tsoOf(t, "tap0"))
		l, exists := showLink(t, "tap0")
		require.True(t, exists)
		require.Equal(t, []address{{"198.51.100.1", 28}}, l.Addrs)
	}
	require.Contains(t, run(t, "ip -d link show tap0"), "persist on")
}

// leaveOddState changes the settings of a device and does not restore them, like a program that is killed.
func leaveOddState(t *testing.T, name string) {
	t.Helper()
	fd, err := unix.Open(tunFile, unix.O_RDWR, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	require.NoError(t, err)
	req.SetUint16(unix.IFF_TAP | unix.IFF_VNET_HDR) // without IFF_NO_PI, frames have one more header
	require.NoError(t, unix.IoctlIfreq(fd, unix.TUNSETIFF, req))
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, 12))
	require.NoError(t, unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1))
	require.NoError(t, unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO_ECN))
}

func TestADeviceIsUsedWhateverItsLastUserLeft(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		run(t, "ip tuntap add dev tap0 mode tap")
		run(t, "ip addr add 192.0.2.1/24 dev tap0")
		run(t, "ip link set tap0 up")
		leaveOddState(t, "tap0")
		require.True(t, tsoOf(t, "tap0"), "the state is odd")
		tap, err := OpenTAP(TAPConfig{Name: "tap0", NoOffload: plain})
		require.NoError(t, err)
		defer tap.Close()
		require.Equal(t, !plain, tsoOf(t, "tap0"))
		got := make(chan []byte, 10)
		tap.Attach(func(batch []Frame) {
			for i := range batch {
				if f := &batch[i]; isUDP4(f.Head) {
					Ethernet.complete(f, func(n int) []byte { return make([]byte, n) }, func(b []byte) { got <- b })
				}
			}
		})
		kernel := kernelPeer(t, tap)
		// Send again if there is no frame: the kernel may still drop frames (see kernelPeer).
		var b []byte
		for b == nil {
			_, err = kernel.WriteToUDP(pattern(100), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7})
			require.NoError(t, err)
			select {
			case b = <-got:
			case <-time.After(100 * time.Millisecond):
			}
		}
		require.Equal(t, pattern(100), b[42:])
		// The sum of the covered bytes and the checksum is all ones.
		pseudo := append(append([]byte(nil), b[26:34]...), 0, 17, b[38], b[39])
		require.Equal(t, uint16(0xffff), slowSum(pseudo, b[34:]))
		n, err := tap.Send(one(toKernel(t, tap, []byte("hello"))))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		buf := make([]byte, 100)
		require.NoError(t, kernel.SetReadDeadline(time.Now().Add(patience)))
		n, err = kernel.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
	})
}

func TestWhatWaitsIsReceivedInBatches(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{Name: "tap0", Addr: testPrefix, NoOffload: plain})
		require.NoError(t, err)
		defer tap.Close()
		kernel := kernelPeer(t, tap)
		busy, more := make(chan struct{}), make(chan struct{})
		got := make(chan byte, 100)
		var largest atomic.Int64
		first := true
		tap.Attach(func(batch []Frame) {
			largest.Store(max(largest.Load(), int64(len(batch))))
			for i := range batch {
				if !isUDP4(batch[i].Head) {
					continue
				}
				got <- batch[i].Head[42]
				if first {
					first = false
					close(busy)
					<-more
				}
			}
		})
		const frames = 40
		for i := range byte(frames) {
			_, err = kernel.WriteToUDP([]byte{i}, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7})
			require.NoError(t, err)
			if i == 0 {
				<-busy
			}
		}
		close(more)
		for i := range byte(frames) {
			require.Equal(t, i, <-got, "in the order of the wire")
		}
		require.Greater(t, largest.Load(), int64(1))
		require.LessOrEqual(t, largest.Load(), int64(readBatch))
	})
}
