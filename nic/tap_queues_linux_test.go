package nic

import (
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestKernelsTalkOverSeveralQueues(t *testing.T) {
	for name, plain := range map[string]bool{"offload": false, "plain": true} {
		for family, v6 := range map[string]bool{"IPv4": false, "IPv6": true} {
			t.Run(name+" "+family, func(t *testing.T) {
				eventually(t, "the end of the readers of other tests", func() bool { return readers() == 0 })
				w := joined(t, TAPConfig{NoOffload: plain, Queues: 3}, TAPConfig{NoOffload: plain, Queues: 2}, v6, nil)
				require.Equal(t, 5+2, readers(), "one for each queue, and one for each link")
				for range 4 {
					w.exchange(t, 2<<20)
				}
				require.NoError(t, w.a.Close())
				require.NoError(t, w.b.Close())
				eventually(t, "the end of the readers", func() bool { return readers() == 0 })
			})
		}
	}
}

// TestTheKernelAnswersOnTheQueueThatItWasAskedOn sends requests from many ports and reads the
// answers on each queue separately.
func TestTheKernelAnswersOnTheQueueThatItWasAskedOn(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Addr: testPrefix, Queues: 3})
		require.NoError(t, err)
		defer tap.Close()
		kernel := kernelPeer(t, tap)
		const flows = 60
		used := make(map[int]int)
		want := make(map[uint16]int)
		for i := range uint16(flows) {
			b := toKernel(t, tap, []byte("hello"))
			port := 1000 + i
			b[34], b[35] = byte(port>>8), byte(port)
			b[40], b[41] = 0, 0 // a UDP datagram without a checksum
			want[port] = tap.queueOf(&Frame{Head: b})
			used[want[port]]++
			n, err := tap.Send(one(b))
			require.NoError(t, err)
			require.Equal(t, 1, n)
			require.NoError(t, kernel.SetReadDeadline(time.Now().Add(patience)))
			n, from, err := kernel.ReadFromUDP(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 5, n)
			_, err = kernel.WriteToUDP([]byte("answer"), from)
			require.NoError(t, err)
		}
		require.Len(t, used, 3, "all queues are used")
		for q, n := range used {
			require.Greater(t, n, flows/10, "queue %d", q)
		}
		got := make(map[uint16]int)
		for q, src := range tap.sources() {
			r := src.(*tapReader)
			require.NoError(t, r.file.SetReadDeadline(time.Now().Add(patience)))
			for n := 0; n < used[q]; {
				frames, _, err := r.read()
				require.NoError(t, err)
				for i := range frames {
					if b := frames[i].Head; isUDP4(b) {
						port := uint16(b[36])<<8 | uint16(b[37])
						require.NotContains(t, got, port)
						got[port] = q
						n++
						require.Equal(t, q, tap.queueOf(&frames[i]), "both directions are one flow")
					}
				}
			}
		}
		require.Equal(t, want, got)
	})
}

func TestADeviceWithSeveralQueuesThatIsDeletedIsDeadOnce(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		before := readers()
		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Queues: 4})
		require.NoError(t, err)
		defer tap.Close()
		errs := make(chan error, 10)
		tap.NotifyDown(func(err error) { errs <- err })
		tap.Attach(func([]Frame) {})
		run(t, "ip link del tap0")
		require.ErrorContains(t, <-errs, "nic: tap0: ")
		eventually(t, "the end of the readers", func() bool { return readers() <= before }) // readers of other tests may end too
		require.Empty(t, errs)
		require.False(t, tap.Link().Up)
	})
}

func TestADeviceHasOneQueueOrSeveral(t *testing.T) {
	eachTAPMode(t, func(t *testing.T, plain bool) {
		run(t, "ip tuntap add dev tap0 mode tap")
		run(t, "ip tuntap add dev tap1 mode tap multi_queue")
		files := openFiles(t)
		_, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap0", Queues: 2})
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "is not a TAP device with several queues")
		_, err = OpenTAP(TAPConfig{NoOffload: plain, Name: "tap1"})
		require.ErrorIs(t, err, unix.EINVAL)
		require.ErrorContains(t, err, "is one with several queues")
		require.Equal(t, files, openFiles(t))

		tap, err := OpenTAP(TAPConfig{NoOffload: plain, Name: "tap1", Queues: 2})
		require.NoError(t, err)
		require.False(t, tap.Created())
		require.NoError(t, tap.Close())
		require.Equal(t, files, openFiles(t))
		_, err = net.InterfaceByName("tap1")
		require.NoError(t, err, "the device stays")

		tap, err = OpenTAP(TAPConfig{NoOffload: plain, Name: "tap2", Queues: 2})
		require.NoError(t, err)
		require.True(t, tap.Created())
		require.NoError(t, tap.Close())
		require.Equal(t, files, openFiles(t))
		_, err = net.InterfaceByName("tap2")
		require.Error(t, err, "the device is deleted when its creator closes it")
	})
}

func TestFramesOfEveryKindHaveAQueue(t *testing.T) {
	w := &tapWriter{queues: make([]syscall.RawConn, 7)}
	flow := func(p packetSpec, change func(b []byte)) int {
		b, _, _ := p.build(t)
		w.medium = p.medium
		if change != nil {
			change(b)
		}
		return w.queueOf(&Frame{Head: b})
	}
	fragment := func(b []byte) { b[20] = 0x20 }
	first, next := packetSpec{payload: pattern(64)}, packetSpec{payload: pattern(100)[50:]}
	require.Equal(t, flow(first, fragment), flow(next, func(b []byte) { fragment(b); b[35] ^= 1 }), "all fragments go one way")
	for _, p := range []packetSpec{{}, {tcp: true}, {v6: true}, {v6: true, tcp: true}, {vlan: true}, {ipOpts: []byte{1, 1, 1, 0}}, {medium: IP}, {medium: IP, v6: true}} {
		b, _, _ := p.build(t)
		w.medium = p.medium
		for n := range b {
			q := w.queueOf(&Frame{Head: b[:n]})
			require.Less(t, q, 7)
			require.GreaterOrEqual(t, q, 0)
		}
	}
	w.medium = Ethernet
	require.Zero(t, w.queueOf(&Frame{Head: ether(macA, bcst, 1, 60)}), "what is not IP")

	// The queue depends on the packet, and not on the header before it.
	for _, v6 := range []bool{false, true} {
		plain := flow(packetSpec{v6: v6}, nil)
		require.Equal(t, plain, flow(packetSpec{v6: v6, vlan: true}, nil))
		require.Equal(t, plain, flow(packetSpec{v6: v6, medium: IP}, nil))
	}
}
