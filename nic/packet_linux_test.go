package nic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"net"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// newNamespace makes a network namespace, moves the test's thread into it, and returns a descriptor of the
// namespace.
func newNamespace(t *testing.T) int {
	t.Helper()
	inNamespace(t)
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// enter moves the test's thread into the namespace with the given descriptor.
func enter(t *testing.T, namespace int) {
	t.Helper()
	require.NoError(t, unix.Setns(namespace, unix.CLONE_NEWNET))
}

// veth makes a veth pair and waits until both ends are up. The end named here is in the namespace of the
// test's thread. The end named there is in the namespace with the descriptor other.
func veth(t *testing.T, here string, other int, there string) {
	t.Helper()
	path := "/proc/" + strconv.Itoa(unix.Getpid()) + "/fd/" + strconv.Itoa(other)
	run(t, "ip link add "+here+" type veth peer name "+there+" netns "+path)
	run(t, "ip link set "+here+" up")
	back, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(back)
	enter(t, other)
	run(t, "ip link set "+there+" up")
	// The kernel drops frames until it has noticed that the link is up.
	working := func(name string) {
		eventually(t, "the link of "+name, func() bool {
			return strings.Contains(run(t, "ip link show "+name), " state UP ")
		})
	}
	working(there)
	enter(t, back)
	working(here)
}

// packetPair makes the veth pair v0 and v1, and opens a device on each end. The test's thread stays in the
// namespace of v0. v1 is in another namespace.
func packetPair(t *testing.T, cfg0, cfg1 PacketConfig) (p0, p1 *Packet) {
	t.Helper()
	other := newNamespace(t)
	here := newNamespace(t)
	veth(t, "v0", other, "v1")
	cfg0.Interface, cfg1.Interface = "v0", "v1"
	open := func(cfg PacketConfig) *Packet {
		p, err := OpenPacket(cfg)
		require.NoError(t, err)
		t.Cleanup(func() { p.Close() })
		return p
	}
	p0 = open(cfg0)
	enter(t, other)
	p1 = open(cfg1)
	enter(t, here)
	return p0, p1
}

// ours returns the tags of the test's frames, and skips frames that kernels send by themselves.
func ours(frames [][]byte) (tags []uint32) {
	for _, f := range frames {
		if vlanTagged(f) {
			f = append(bytes.Clone(f[:12]), f[16:]...)
		}
		if binary.BigEndian.Uint16(f[12:]) == 0x88b5 { // the type of the frames that ether makes
			tags = append(tags, tagOf(f))
		}
	}
	return tags
}

func TestAPacketSocketTellsWhatTheInterfaceIs(t *testing.T) {
	newNamespace(t)
	run(t, "ip link add v0 mtu 1400 type veth peer name v1")
	for _, mac := range [][6]byte{{}, macA} {
		p, err := OpenPacket(PacketConfig{Interface: "v0", MAC: mac})
		require.NoError(t, err)
		l, _ := showLink(t, "v0")
		link := p.Link()
		if mac == ([6]byte{}) {
			require.Equal(t, l.Address, net.HardwareAddr(link.MAC[:]).String())
			mac = link.MAC
		}
		require.Equal(t, Link{Name: "v0", MAC: mac, MTU: 1400, GSO: 65535, TxChecksum: true}, link, "it is down")
		require.NoError(t, p.Close())
		require.False(t, p.Link().Up)
		require.ErrorIs(t, p.Close(), net.ErrClosed)
		_, err = p.Send(nil)
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

func TestAPacketSocketReceivesWhatIsForItsAddress(t *testing.T) {
	for name, promiscuous := range map[string]bool{"only": false, "promiscuous": true} {
		t.Run(name, func(t *testing.T) {
			p0, p1 := packetPair(t, PacketConfig{MAC: macA}, PacketConfig{MAC: macB, Promiscuous: promiscuous})
			var rec recorder
			p1.Attach(rec.recv)
			p0.Attach(func([]Frame) {})
			group := [6]byte{0x33, 0x33, 0, 0, 0, 9}
			host := [6]byte{2, 0, 0, 0, 0xa, 0xb} // has some bytes in common with the device's address
			tagged := ether(macB, macA, 0, 100)
			copy(tagged[12:], []byte{0x81, 0, 0, 5, 0x88, 0xb5, 0, 0, 0, 10})
			priority := ether(macB, macA, 0, 100)
			copy(priority[12:], []byte{0x81, 0, 0x60, 0, 0x88, 0xb5, 0, 0, 0, 6})
			n, err := p0.Send([]Frame{
				{Head: ether(macB, macA, 1, 60)},
				{Head: ether(macC, macA, 2, 60)},
				{Head: ether(host, macA, 3, 60)},
				{Head: ether(bcst, macA, 4, 60)},
				{Head: ether(group, macA, 5, 60)},
				{Head: tagged},
				{Head: priority},
				{Head: ether(macB, macA, 7, 1514)},
				{Head: ether(macB, macA, 8, 1515)}, // too long
				{Head: ether(macB, macA, 9, 100)[:50], Body: ether(macB, macA, 9, 100)[50:]},
			})
			require.NoError(t, err)
			require.Equal(t, 10, n)
			want := []uint32{1, 4, 5, 10, 6, 7, 9}
			if promiscuous {
				want = []uint32{1, 2, 3, 4, 5, 10, 6, 7, 9}
			}
			eventually(t, "the last frame", func() bool {
				tags := ours(rec.all())
				return len(tags) > 0 && tags[len(tags)-1] == 9
			})
			require.Equal(t, want, ours(rec.all()))
			require.Equal(t, uint64(1), p0.Stats().SendDropped)
			require.Equal(t, uint64(9), p0.Stats().Sent)
			require.Equal(t, uint64(5*60+100+100+1514+100), p0.Stats().SentBytes)
			require.Equal(t, rec.count(), int(p1.Stats().Received))
			require.Zero(t, p1.Stats().RecvDropped)
		})
	}
}

// A device with Outgoing receives what others send on its interface. Without Promiscuous it receives only what
// is addressed to it or to a group.
func TestAPacketSocketReceivesWhatOthersSend(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{MAC: macA}, PacketConfig{MAC: macB})
	p0.Attach(func([]Frame) {})
	p1.Attach(func([]Frame) {})
	for promiscuous, want := range map[bool][]uint32{false: {3, 4}, true: {2, 3, 4}} {
		w, err := OpenPacket(PacketConfig{Interface: "v0", MAC: macC, Promiscuous: promiscuous, Outgoing: true})
		require.NoError(t, err)
		var rec recorder
		w.Attach(rec.recv)
		w.Send(one(ether(bcst, macC, 1, 60))) // its own frame
		p0.Send([]Frame{{Head: ether(macB, macA, 2, 60)}, {Head: ether(bcst, macA, 3, 60)}, {Head: ether(macC, macA, 4, 60)}})
		eventually(t, "the last frame", func() bool { return slices.Contains(ours(rec.all()), 4) })
		require.Equal(t, want, ours(rec.all()), "promiscuous: %v", promiscuous)
		require.NoError(t, w.Close())
	}
}

// The kernel removes the tag from a received frame, and the device puts it back.
func TestAPacketSocketKeepsVLANTags(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{MAC: macA}, PacketConfig{MAC: macB})
	var rec recorder
	p1.Attach(rec.recv)
	p0.Attach(func([]Frame) {})
	long := ether(macB, macA, 1, 1514+vlanTagLen) // the tag does not count towards the MTU
	copy(long[12:], []byte{0x81, 0, 0xf0, 100, 0x88, 0xb5})
	double := ether(macB, macA, 2, 100)
	copy(double[12:], []byte{0x81, 0, 0, 7, 0x81, 0, 0, 8, 0x88, 0xb5})
	service := ether(macB, macA, 3, 100)
	copy(service[12:], []byte{0x88, 0xa8, 0, 9, 0x88, 0xb5})
	plain, start, _ := packetSpec{vlan: true, payload: pattern(100), unsummed: true}.build(t)
	sent := []Frame{
		{Head: long},
		{Head: double},
		{Head: service},
		{Head: plain, NeedsChecksum: true, ChecksumStart: uint16(start), ChecksumOffset: 6},
		packetSpec{vlan: true, tcp: true, payload: pattern(20000)}.super(t, 1000, true),
		packetSpec{vlan: true, tcp: true, v6: true, payload: pattern(20000)}.super(t, 1000, true),
		packetSpec{vlan: true, payload: pattern(20000)}.super(t, 1000, true),
	}
	n, err := p0.Send(sent)
	require.NoError(t, err)
	require.Equal(t, len(sent), n)
	ofTest := func() (got []Frame) {
		rec.mu.Lock()
		defer rec.mu.Unlock()
		for i, b := range rec.frames {
			if vlanTagged(b) { // the kernels send no frames with tags
				f := rec.meta[i]
				f.Head = b
				got = append(got, f)
			}
		}
		return got
	}
	eventually(t, "the frames", func() bool { return len(ofTest()) == len(sent) })
	for i, f := range ofTest() {
		want := sent[i]
		want.Head, want.Body, want.Local = want.AppendTo(nil), nil, want.NeedsChecksum
		require.Equal(t, want, f, "frame %d", i)
	}
	require.Zero(t, p0.Stats().SendDropped)
	require.Zero(t, p1.Stats().RecvDropped)
}

func TestAPacketSocketDoesNotReceiveWhatItSends(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{Promiscuous: true}, PacketConfig{Promiscuous: true})
	var own, peer recorder
	p0.Attach(own.recv)
	p1.Attach(peer.recv)
	for i := range uint32(10) {
		p0.Send(one(ether(bcst, macA, i, 60)))
	}
	p1.Send(one(ether(bcst, macB, 100, 60)))
	eventually(t, "the frames", func() bool { return len(ours(peer.all())) == 10 && len(ours(own.all())) > 0 })
	require.Equal(t, []uint32{100}, ours(own.all()))
}

// TestKernelsTalkOverTwoPacketSockets connects two kernels, each behind a veth pair, through two
// devices in a third namespace.
func TestKernelsTalkOverTwoPacketSockets(t *testing.T) {
	for name, kind := range map[string]GSOKind{"IPv4": GSOTCP4, "IPv6": GSOTCP6} {
		t.Run(name, func(t *testing.T) {
			v6 := kind == GSOTCP6
			addrs, prefix, _ := addresses(v6)
			var k kernels
			var sides [2]*Packet
			var namespaces [2]int
			for i := range namespaces {
				namespaces[i] = newNamespace(t)
			}
			middle := newNamespace(t)
			for i, side := range []string{"v0", "v1"} {
				veth(t, side, namespaces[i], "eth0")
				p, err := OpenPacket(PacketConfig{Interface: side, Promiscuous: true})
				require.NoError(t, err)
				t.Cleanup(func() { p.Close() })
				sides[i] = p
				enter(t, namespaces[i])
				run(t, "ip addr add "+addrs[i]+prefix+" dev eth0")
				enter(t, middle)
			}
			var from [2]watched
			for i := range sides {
				sides[i].Attach(func(batch []Frame) { from[i].see(batch); sides[1-i].Send(batch) })
			}
			enter(t, namespaces[0])
			k.listen(t, v6)
			enter(t, namespaces[1])
			k.join(t, v6)
			k.exchange(t, 8<<20)

			payload := pattern(20500)
			sendSegments(t, k.udp[1], payload, 1000)
			got := make([]byte, 2000)
			for i := 0; i < len(payload); i += 1000 {
				require.NoError(t, k.udp[0].SetReadDeadline(time.Now().Add(patience)))
				n, err := k.udp[0].Read(got)
				require.NoError(t, err)
				require.Equal(t, payload[i:min(i+1000, len(payload))], got[:n])
			}
			require.Equal(t, int64(1), from[1].kinds[GSOUDP].Load())
			for i := range sides {
				require.Positive(t, from[i].kinds[kind].Load())
				require.Greater(t, from[i].large.Load(), int64(20000), "bytes in the longest frame")
				require.Zero(t, sides[i].Stats().SendDropped)
			}
		})
	}
}

func TestAPacketSocketCutsWhatTheKernelCannot(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{}, PacketConfig{Promiscuous: true})
	var rec recorder
	p1.Attach(rec.recv)
	f := packetSpec{payload: pattern(5000)}.super(t, 1000, true)
	want := pieces(t, f)
	require.NoError(t, p0.raw.Control(func(fd uintptr) {
		require.True(t, (&packetWrite{loop: &p0.rxLoop}).failed(fd, &f, unix.EINVAL))
	}))
	eventually(t, "the pieces", func() bool {
		var got [][]byte
		for _, b := range rec.all() {
			if isUDP4(b) {
				got = append(got, b)
			}
		}
		return len(got) == len(want) && string(got[4]) == string(want[4])
	})
	require.Zero(t, p0.Stats().SendDropped)
}

func TestAnInterfaceThatIsDownIsNotADeadDevice(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{}, PacketConfig{})
	var rec recorder
	p0.NotifyDown(func(err error) { t.Errorf("reported down: %v", err) })
	p0.Attach(rec.recv)
	frame := one(ether(bcst, macB, 1, 60))
	for round := range 2 {
		run(t, "ip link set v0 down")
		n, err := p0.Send(frame)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, uint64(round+1), p0.Stats().SendDropped)
		time.Sleep(50 * time.Millisecond) // let the reader notice that the interface is down
		require.NoError(t, p0.Err())
		run(t, "ip link set v0 up")
		before := len(ours(rec.all()))
		eventually(t, "a frame after it", func() bool {
			p1.Send(frame)
			return len(ours(rec.all())) > before
		})
		n, err = p0.Send(frame)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, uint64(round+1), p0.Stats().SendDropped)
	}
}

func TestAnInterfaceThatIsDeletedIsADeadDevice(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{}, PacketConfig{})
	errs := make(chan error, 10)
	p0.NotifyDown(func(err error) { errs <- err })
	p0.Attach(func([]Frame) {})
	run(t, "ip link del v0")
	err := <-errs
	require.ErrorIs(t, err, unix.ENODEV)
	require.ErrorContains(t, err, "nic: v0: ")
	require.False(t, p0.Link().Up)
	n, sendErr := p0.Send(one(ether(bcst, macA, 1, 60)))
	require.Zero(t, n)
	require.Equal(t, err, sendErr)
	require.NoError(t, p0.Close())
	require.ErrorIs(t, p0.Close(), net.ErrClosed)

	// The other end was deleted too. Its device has no reader, so Send detects that.
	n, err = p1.Send(one(ether(bcst, macA, 1, 60)))
	require.Zero(t, n)
	require.ErrorIs(t, err, unix.ENXIO)
	require.False(t, p1.Link().Up)
}

// The link has the MTU and the state of the interface, and its MAC unless the configuration has one.
func TestAPacketSocketTellsWhatBefallsItsLink(t *testing.T) {
	for _, mac := range [][6]byte{{}, macC} {
		p0, p1 := packetPair(t, PacketConfig{MAC: mac}, PacketConfig{})
		n := linkChanges(p0)
		var r recorder
		p0.Attach(r.recv)
		eventually(t, "the link", func() bool { return p0.Link().Up })
		run(t, "ip link set v0 mtu 1000")
		eventually(t, "the MTU", func() bool { return n() > 0 && p0.Link().MTU == 1000 })
		run(t, "ip link set v0 down")
		eventually(t, "that it is down", func() bool { return !p0.Link().Up })
		run(t, "ip link set v0 up")
		eventually(t, "that it is up", func() bool { return p0.Link().Up })

		run(t, "ip link set v0 address 02:00:00:00:77:77")
		own := [6]byte{2, 0, 0, 0, 0x77, 0x77}
		if mac == ([6]byte{}) {
			eventually(t, "the MAC", func() bool { return p0.Link().MAC == own })
		} else {
			run(t, "ip link set v0 mtu 1001")
			eventually(t, "a later change", func() bool { return p0.Link().MTU == 1001 })
			require.Equal(t, mac, p0.Link().MAC, "it is the stack's own")
			own = mac
		}
		eventually(t, "a frame", func() bool {
			p1.Send(one(ether(own, macB, 7, 60)))
			return slices.Contains(ours(r.all()), 7)
		})
	}
}

func TestCloseOfAPacketSocketWakesItsReader(t *testing.T) {
	p0, _ := packetPair(t, PacketConfig{}, PacketConfig{})
	eventually(t, "the end of the readers of other tests", func() bool { return readers() == 0 })
	p0.NotifyDown(func(err error) { t.Errorf("reported down: %v", err) })
	p0.Attach(func([]Frame) {})
	require.Equal(t, 2, readers(), "one reads frames, and one reads the changes of the link")
	time.Sleep(10 * time.Millisecond) // let the reader wait in the poller
	require.NoError(t, p0.Close())
	eventually(t, "the reader's end", func() bool { return readers() == 0 })
	require.ErrorIs(t, p0.Err(), net.ErrClosed)
}

func TestWhatTheKernelHasNoRoomForIsCounted(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{}, PacketConfig{Promiscuous: true})
	// Nothing reads p1 yet.
	batch := make([]Frame, 100)
	for i := range batch {
		batch[i] = Frame{Head: ether(bcst, macA, uint32(i), 1514)}
	}
	for sent := 0; sent < 20000; {
		n, err := p0.Send(batch)
		require.NoError(t, err)
		require.Positive(t, n)
		sent += n
	}
	lost := p1.Stats().RecvDropped
	require.Positive(t, lost)
	require.Equal(t, lost, p1.Stats().RecvDropped, "counted once")
}

func TestErrorsOfPacketSocketsAreExplained(t *testing.T) {
	newNamespace(t)
	run(t, "ip link add v0 type veth peer name v1")
	files := openFiles(t)
	_, err := OpenPacket(PacketConfig{Interface: "eth7"})
	require.ErrorIs(t, err, unix.ENODEV)
	require.EqualError(t, err, "nic: open packet socket on eth7: no such device")
	_, err = OpenPacket(PacketConfig{Interface: "lo"})
	require.ErrorIs(t, err, unix.EINVAL)
	require.ErrorContains(t, err, "it is no Ethernet")
	becomeNobody(t)
	_, err = OpenPacket(PacketConfig{Interface: "v0"})
	require.ErrorIs(t, err, unix.EPERM)
	require.True(t, errors.Is(err, fs.ErrPermission))
	require.ErrorContains(t, err, "CAP_NET_RAW")
	require.Equal(t, files, openFiles(t))
}

func TestAPacketSocketDoesNotAllocatePerFrame(t *testing.T) {
	p0, p1 := packetPair(t, PacketConfig{}, PacketConfig{Promiscuous: true})
	received := make(chan struct{}, 1)
	p1.Attach(func(batch []Frame) {
		for i := range batch {
			if f := &batch[i]; isUDP4(f.Head) && f.Len() > 10000 {
				received <- struct{}{}
			}
		}
	})
	small, _, _ := packetSpec{payload: pattern(100)}.build(t)
	batch := []Frame{
		{Head: small},
		{Head: small[:42], Body: small[42:]},
		packetSpec{payload: pattern(20000)}.super(t, 1000, true),
	}
	allocs := testing.AllocsPerRun(100, func() {
		if n, err := p0.Send(batch); n != len(batch) || err != nil {
			t.Fatal(n, err)
		}
		<-received
	})
	require.Zero(t, p0.Stats().SendDropped)
	if !raceEnabled {
		require.Zero(t, allocs)
	}
}
