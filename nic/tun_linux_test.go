package nic

import (
	"encoding/binary"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOpenTUNMakesADeviceThatDoesNotExist(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tun, err := OpenTUN(TUNConfig{NoOffload: plain, Name: "tun7", Addr: testPrefix, MTU: 1400})
		require.NoError(t, err)
		require.True(t, tun.Created())
		require.Equal(t, "tun7", tun.Name())
		link := tun.Link()
		require.Equal(t, IP, link.Medium)
		require.Equal(t, 1400, link.MTU)
		require.Zero(t, link.MAC)
		require.True(t, link.Up)
		require.Equal(t, !plain, link.GSO > 0)
		l, exists := showLink(t, "tun7")
		require.True(t, exists)
		require.Equal(t, 1400, l.MTU)
		require.Equal(t, []address{{"192.0.2.1", 24}}, l.Addrs)
		require.Subset(t, l.Flags, []string{"POINTOPOINT", "NOARP", "MULTICAST", "UP", "LOWER_UP"})
		require.NoError(t, tun.Close())
		_, exists = showLink(t, "tun7")
		require.False(t, exists)
	})
}

// pairsOfTUNs runs a test with TUNs of one queue and of four, with and without offloads.
func pairsOfTUNs(t *testing.T, test func(t *testing.T, cfg TAPConfig, v6 bool)) {
	for _, v6 := range []bool{false, true} {
		for _, cfg := range []TAPConfig{{}, {NoOffload: true}, {Queues: 4}} {
			t.Run(fmt.Sprintf("v6 %v, plain %v, %d queues", v6, cfg.NoOffload, max(cfg.Queues, 1)), func(t *testing.T) {
				test(t, cfg, v6)
			})
		}
	}
}

func TestKernelsTalkOverTwoTUNs(t *testing.T) {
	pairsOfTUNs(t, func(t *testing.T, cfg TAPConfig, v6 bool) {
		w := joinedOn(t, IP, cfg, cfg, v6, nil)
		w.exchange(t, 4<<20)
		kind := GSOTCP4
		if v6 {
			kind = GSOTCP6
		}
		for _, dir := range []*watched{&w.fromA, &w.fromB} {
			require.LessOrEqual(t, dir.plain.Load(), int64(1500))
			require.Equal(t, !cfg.NoOffload, dir.kinds[kind].Load() > 0, "super-frames")
			if !cfg.NoOffload {
				require.Greater(t, dir.large.Load(), int64(20000), "bytes in the longest frame")
			}
		}
		for _, tun := range []*tunTap{w.a, w.b} {
			require.Zero(t, tun.Stats().SendDropped)
			require.Zero(t, tun.Stats().RecvDropped)
		}
	})
}

// awaitPath sends datagrams to the second kernel until one arrives. A kernel begins to use a new IPv6
// address only a moment after the address has been added, and drops packets that arrive before. On a TAP,
// such packets wait until the neighbour is resolved.
func (w *wired) awaitPath(t *testing.T) {
	t.Helper()
	eventually(t, "a datagram", func() bool {
		_, err := w.udp[0].Write([]byte("probe"))
		require.NoError(t, err)
		require.NoError(t, w.udp[1].SetReadDeadline(time.Now().Add(10*time.Millisecond)))
		_, err = w.udp[1].Read(make([]byte, 10))
		return err == nil
	})
}

func TestDatagramsCrossATUNInOneSuperFrame(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, kernelCuts := range []bool{true, false} {
			t.Run(fmt.Sprintf("v6 %v, the kernel cuts %v", v6, kernelCuts), func(t *testing.T) {
				w := joinedOn(t, IP, TAPConfig{}, TAPConfig{}, v6, func(w *wired) Device {
					require.True(t, w.b.off.uso, "Linux has it since 6.2")
					w.b.off.uso = kernelCuts
					return w.a
				})
				w.awaitPath(t)
				payload := pattern(20500)
				sendSegments(t, w.udp[0], payload, 1000)
				got := make([]byte, 2000)
				for i := 0; i < len(payload); i += 1000 {
					require.NoError(t, w.udp[1].SetReadDeadline(time.Now().Add(time.Minute)))
					n, err := w.udp[1].Read(got)
					require.NoError(t, err)
					if string(got[:n]) == "probe" { // a datagram of awaitPath
						i -= 1000
						continue
					}
					require.Equal(t, payload[i:min(i+1000, len(payload))], got[:n])
				}
				require.Equal(t, int64(1), w.fromA.kinds[GSOUDP].Load())
				require.Zero(t, w.b.Stats().SendDropped)
			})
		}
	}
}

func TestAPlainTUNMergesWhatTheKernelCutUp(t *testing.T) {
	w := joinedOn(t, IP, TAPConfig{NoOffload: true}, TAPConfig{}, false, func(w *wired) Device {
		w.a.MergeReceived()
		return cutter{w.a}
	})
	w.exchange(t, 8<<20)
	require.Positive(t, w.fromA.kinds[GSOTCP4].Load())
	require.Greater(t, w.fromA.large.Load(), int64(10000), "bytes in the longest frame")
	require.Less(t, w.a.Stats().Received, uint64(8<<20/1448), "not one by one")
	require.Zero(t, w.b.Stats().SendDropped)
}

// ip4UDP returns an IPv4 packet from 192.0.2.2, port 40000, to a socket of the kernel.
func ip4UDP(t *testing.T, to *net.UDPConn, payload []byte) []byte {
	b, transport, _ := packetSpec{medium: IP, payload: payload}.build(t)
	binary.BigEndian.PutUint16(b[transport+2:], uint16(to.LocalAddr().(*net.UDPAddr).Port))
	b[transport+6], b[transport+7] = 0, 0 // no checksum
	return b
}

// TestAUsersPersistentTUNHasNoPacketInfo attaches to a TUN that belongs to the user and was made with
// packet information, four bytes before each packet. The frames must not have them.
func TestAUsersPersistentTUNHasNoPacketInfo(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		run(t, "ip tuntap add dev tun0 mode tun user nobody pi")
		run(t, "ip addr add 192.0.2.1/24 dev tun0")
		run(t, "ip link set tun0 up")
		require.Contains(t, run(t, "ip -d link show tun0"), "pi on")
		tunFileOf(t, 0o666)
		tun := new(TUN)
		_, err := asNobody(t, func() (*TAP, error) {
			return nil, tun.openAny(IP, TAPConfig{Name: "tun0", NoOffload: plain})
		})
		require.NoError(t, err)
		defer tun.Close()
		require.False(t, tun.Created())
		kernel, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1)})
		require.NoError(t, err)
		defer kernel.Close()
		frames := make(chan []byte, 100)
		tun.Attach(func(batch []Frame) {
			for i := range batch {
				if b := batch[i].AppendTo(nil); b[0]>>4 == 4 && b[9] == 17 {
					frames <- b
				}
			}
		})
		// Send again if there is no frame: the kernel may need some time to bring the device up.
		var b []byte
		for b == nil {
			_, err = kernel.WriteToUDP(pattern(100), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7})
			require.NoError(t, err)
			select {
			case b = <-frames:
			case <-time.After(100 * time.Millisecond):
			}
		}
		require.Equal(t, byte(0x45), b[0], "the packet begins with the IP header")
		require.Equal(t, pattern(100), b[28:])
		n, err := tun.Send([]Frame{
			{Head: ip4UDP(t, kernel, []byte("hello"))},
			{Head: make([]byte, 1501)},          // too long
			{Head: []byte{0x00, 0, 0x08, 0, 1}}, // not IP: the kernel refuses it
		})
		require.NoError(t, err)
		require.Equal(t, 3, n)
		buf := make([]byte, 100)
		require.NoError(t, kernel.SetReadDeadline(time.Now().Add(time.Minute)))
		n, err = kernel.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
		require.Equal(t, uint64(1), tun.Stats().Sent)
		require.Equal(t, uint64(2), tun.Stats().SendDropped)
		require.NoError(t, tun.Close())
		_, exists := showLink(t, "tun0")
		require.True(t, exists, "it is persistent")
	})
}

func TestATUNThatIsDeletedReportsIt(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tun, err := OpenTUN(TUNConfig{NoOffload: plain, Name: "tun0", Queues: 2})
		require.NoError(t, err)
		defer tun.Close()
		errs := make(chan error, 10)
		tun.NotifyDown(func(err error) { errs <- err })
		changes := linkChanges(tun)
		tun.Attach(func([]Frame) {})
		run(t, "ip link set tun0 mtu 1300")
		eventually(t, "the MTU", func() bool { return tun.Link().MTU == 1300 && changes() > 0 })
		run(t, "ip link set tun0 down")
		eventually(t, "the state", func() bool { return !tun.Link().Up })
		require.NoError(t, tun.Err())
		run(t, "ip link del tun0")
		require.ErrorContains(t, <-errs, "nic: tun0: ")
		_, err = tun.Send(one([]byte{0x45}))
		require.Error(t, err)
	})
}

func TestAnInterfaceThatIsNoTUNIsRefused(t *testing.T) {
	inNamespace(t)
	run(t, "ip tuntap add dev tap0 mode tap")
	for _, name := range []string{"lo", "tap0"} {
		_, err := OpenTUN(TUNConfig{Name: name})
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "is not a TUN device")
	}
}

func TestTheCommandsOfATUNsPermissionErrorHelp(t *testing.T) {
	inNamespace(t)
	run(t, "ip tuntap add dev tun0 mode tun user 12345")
	tunFileOf(t, 0o600)
	for range 3 {
		tun := new(TUN)
		_, err := asNobody(t, func() (*TAP, error) { return nil, tun.openAny(IP, TAPConfig{Name: "tun0"}) })
		if err == nil {
			require.NoError(t, tun.Close())
			return
		}
		var denied *TAPPermissionError
		require.ErrorAs(t, err, &denied)
		require.ErrorContains(t, err, "nic: open TUN tun0: ")
		for _, command := range denied.Commands("nobody") {
			run(t, command)
		}
	}
	t.Fatal("still denied")
}
