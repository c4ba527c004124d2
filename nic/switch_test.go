package nic

import (
	"encoding/binary"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// testStation is a port of a switch and the frames that it has received.
type testStation struct {
	*SwitchPort
	recorder
	mac [6]byte
}

func stations(sw *Switch, macs ...[6]byte) (s []*testStation) {
	for _, mac := range macs {
		st := &testStation{SwitchPort: sw.Port(), mac: mac}
		st.Attach(st.recv)
		s = append(s, st)
	}
	return s
}

func (s *testStation) send(t *testing.T, dst [6]byte, tag uint32) {
	t.Helper()
	n, err := s.Send(one(ether(dst, s.mac, tag, 60)))
	require.NoError(t, err)
	require.Equal(t, 1, n)
}

func counts(s []*testStation) (n []int) {
	for _, st := range s {
		n = append(n, st.count())
	}
	return n
}

func TestASwitchFloodsUntilItHasLearned(t *testing.T) {
	s := stations(NewSwitch(SwitchConfig{}), macA, macB, macC)
	s[0].send(t, macB, 1)
	require.Equal(t, []int{0, 1, 1}, counts(s), "B is not known")
	s[1].send(t, macA, 2)
	require.Equal(t, []int{1, 1, 1}, counts(s), "A has spoken")
	s[0].send(t, macB, 3)
	require.Equal(t, []int{1, 2, 1}, counts(s), "so has B")
	s[0].send(t, bcst, 4)
	require.Equal(t, []int{1, 3, 2}, counts(s))
	s[0].send(t, [6]byte{0x33, 0x33, 0, 0, 0, 1}, 5)
	require.Equal(t, []int{1, 4, 3}, counts(s), "multicast")
	s[0].send(t, macA, 6)
	require.Equal(t, []int{1, 4, 3}, counts(s), "A is on the port that it came from")
	require.Equal(t, uint64(5), s[0].Stats().Sent)
	require.Equal(t, uint64(4), s[1].Stats().Received)
}

func TestASwitchFollowsAStationThatMoves(t *testing.T) {
	s := stations(NewSwitch(SwitchConfig{}), macA, macB, macC)
	s[1].send(t, macC, 0)
	s[2].mac = macB
	s[2].send(t, macA, 0)
	before := counts(s)
	s[0].send(t, macB, 1)
	require.Equal(t, []int{before[0], before[1], before[2] + 1}, counts(s))
}

func TestASwitchForgetsWhoIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := stations(NewSwitch(SwitchConfig{MaxAge: time.Minute}), macA, macB, macC)
		s[1].send(t, macA, 0) // the switch floods it: one frame at each of the two other stations
		time.Sleep(time.Minute - time.Nanosecond)
		s[0].send(t, macB, 1)
		require.Equal(t, []int{1, 1, 1}, counts(s))
		time.Sleep(time.Nanosecond)
		s[0].send(t, macB, 2)
		require.Equal(t, []int{1, 2, 2}, counts(s))
	})
}

func TestASwitchLearnsNoMoreThanItsTableHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := NewSwitch(SwitchConfig{MaxMACs: 100, MaxAge: time.Minute})
		s := stations(sw, macA, macB, macC)
		for i := range 1000 {
			s[0].mac = [6]byte{2, 1, 0, 0, byte(i >> 8), byte(i)}
			s[0].send(t, bcst, 0)
		}
		require.Len(t, sw.macs, 100)
		s[1].send(t, bcst, 0)
		before := counts(s)
		s[0].send(t, macB, 0)
		require.Equal(t, []int{before[0], before[1] + 1, before[2] + 1}, counts(s), "the table has no room for B")
		time.Sleep(time.Minute)
		s[1].send(t, bcst, 0)
		require.Len(t, sw.macs, 1, "the old entries were removed")
		before = counts(s)
		s[0].send(t, macB, 0)
		require.Equal(t, []int{before[0], before[1] + 1, before[2]}, counts(s))
	})
}

func TestASwitchDoesNotLearnAGroupAddress(t *testing.T) {
	sw := NewSwitch(SwitchConfig{})
	s := stations(sw, bcst, macB)
	s[0].send(t, macB, 0)
	require.Empty(t, sw.macs)
}

func TestASwitchDoesNotRelayReservedAddresses(t *testing.T) {
	s := stations(NewSwitch(SwitchConfig{}), macA, macB)
	s[0].send(t, [6]byte{1, 0x80, 0xc2, 0, 0, 0}, 0)
	s[0].send(t, [6]byte{1, 0x80, 0xc2, 0, 0, 0x0f}, 0)
	require.Zero(t, s[1].count())
	s[0].send(t, [6]byte{1, 0x80, 0xc2, 0, 0, 0x10}, 0)
	require.Equal(t, 1, s[1].count())
}

func TestABatchIsDeliveredInRunsOfOneDestination(t *testing.T) {
	s := stations(NewSwitch(SwitchConfig{}), macA, macB, macC)
	s[1].send(t, bcst, 0)
	s[2].send(t, bcst, 0)
	for i := range s {
		s[i].frames, s[i].batch = nil, nil
	}
	var batch []Frame
	for i, dst := range [][6]byte{macB, macB, macC, macB, bcst, bcst} {
		batch = append(batch, Frame{Head: ether(dst, macA, uint32(i), 60)})
	}
	n, err := s[0].Send(batch)
	require.NoError(t, err)
	require.Equal(t, 6, n)
	require.Equal(t, []uint32{0, 1, 3, 4, 5}, tags(s[1].all()))
	require.Equal(t, []int{2, 1, 2}, s[1].batch)
	require.Equal(t, []uint32{2, 4, 5}, tags(s[2].all()))
}

func TestAClosedPortIsOffTheSwitch(t *testing.T) {
	sw := NewSwitch(SwitchConfig{})
	s := stations(sw, macA, macB, macC)
	s[1].send(t, macA, 0)
	require.NoError(t, s[1].Close())
	require.Empty(t, sw.macs)
	require.Len(t, *sw.ports.Load(), 2)
	s[0].send(t, macB, 1)
	require.Equal(t, []int{1, 0, 2}, counts(s), "flooded to those that are left")
}

func TestPortsHaveNamesAndAddressesOfTheirOwn(t *testing.T) {
	sw := NewSwitch(SwitchConfig{MTU: 9000, GSO: -1})
	a, b := sw.Port(), sw.Port()
	require.NotEqual(t, a.Link().MAC, b.Link().MAC)
	l := b.Link()
	l.MAC = [6]byte{}
	require.Equal(t, Link{Name: "port1", MTU: 9000, TxChecksum: true, Up: true}, l)
	l = NewSwitch(SwitchConfig{NoTxChecksum: true}).Port().Link()
	require.Zero(t, l.GSO)
	require.False(t, l.TxChecksum)
}

func TestAPlainDeviceOnASwitchGetsFinishedFrames(t *testing.T) {
	sw := NewSwitch(SwitchConfig{})
	s := stations(sw, macA)
	near, far := Pipe(PipeConfig{NoTxChecksum: true})
	p, err := sw.Attach(near)
	require.NoError(t, err)
	var r recorder
	far.Attach(r.recv)

	spec := packetSpec{tcp: true, payload: pattern(3000)}
	n, err := s[0].Send([]Frame{
		{Head: ether(macB, macA, 9, 60)},
		spec.super(t, 1460, true),
	})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	frames := r.all()
	require.Len(t, frames, 4)
	require.Equal(t, uint32(9), tagOf(frames[0]))
	for i, f := range r.meta {
		require.Equal(t, Frame{}, f, "frame %d asks for an offload", i)
	}
	spec.payload = spec.payload[:1460]
	want, _, _ := spec.build(t)
	require.Equal(t, want, frames[1])

	// Send a frame in the other direction.
	far.Send(one(ether(macA, macB, 10, 60)))
	require.Equal(t, []uint32{10}, tags(s[0].all()))
	require.Equal(t, uint64(1), p.Stats().Sent)
	require.Equal(t, uint64(2), p.Stats().Received)

	_, err = p.Send(one(ether(macA, macB, 10, 60)))
	require.ErrorIs(t, err, net.ErrClosed)
	require.Panics(t, func() { p.Attach(func([]Frame) {}) })
}

func TestADeviceWithTheSameOffloadsGetsFramesAsTheyAre(t *testing.T) {
	sw := NewSwitch(SwitchConfig{})
	s := stations(sw, macA)
	near, far := Pipe(PipeConfig{})
	_, err := sw.Attach(near)
	require.NoError(t, err)
	var r recorder
	far.Attach(r.recv)
	super := packetSpec{tcp: true, payload: pattern(3000)}.super(t, 1460, true)
	s[0].Send([]Frame{super})
	require.Equal(t, [][]byte{super.AppendTo(nil)}, r.all())
	require.Equal(t, GSOTCP4, r.meta[0].GSO)
}

func TestADeviceThatFailsIsTakenOffTheSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := NewSwitch(SwitchConfig{})
		s := stations(sw, macA)
		broken := errors.New("broken")
		dev := FromFuncs(Link{}, func([]byte) error { return broken })
		p, err := sw.Attach(dev)
		require.NoError(t, err)
		s[0].send(t, bcst, 0)
		synctest.Wait()
		require.False(t, p.Link().Up)
		require.False(t, dev.Link().Up)
		require.Len(t, *sw.ports.Load(), 1)
		require.Equal(t, uint64(1), p.Stats().RecvDropped)
	})
}

// If a device on a switch is stuck, the frames for this device are lost. Other stations are not affected.
func TestAStuckDeviceDoesNotStopASwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := NewSwitch(SwitchConfig{})
		s := stations(sw, macA, macB)
		stuck := make(chan struct{})
		var got []uint32
		dev := FromFuncs(Link{}, func(b []byte) error {
			<-stuck
			got = append(got, tagOf(b))
			return nil
		})
		p, err := sw.Attach(dev)
		require.NoError(t, err)
		const n = 2 * maxEgress / 1514
		for i := range n {
			s[0].Send(one(ether(bcst, macA, uint32(i), 1514))) // does not block
		}
		require.Equal(t, n, s[1].count())
		dropped := p.Stats().RecvDropped
		require.Greater(t, dropped, uint64(0), "what is kept is bounded")
		close(stuck)
		synctest.Wait()
		require.EqualValues(t, n, uint64(len(got))+dropped)
		require.IsIncreasing(t, got)
	})
}

func TestADeviceLeavesTheSwitchWithItsPort(t *testing.T) {
	sw := NewSwitch(SwitchConfig{})
	s := stations(sw, macA)
	near, far := Pipe(PipeConfig{})
	p, err := sw.Attach(near)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.False(t, near.Link().Up)
	far.Attach(func([]Frame) {})
	far.Send(one(ether(bcst, macB, 0, 60)))
	require.Zero(t, s[0].count())
}

func TestASwitchRefusesADeviceThatDoesNotFit(t *testing.T) {
	sw := NewSwitch(SwitchConfig{})
	a, _ := Pipe(PipeConfig{Medium: IP})
	_, err := sw.Attach(a)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	a, _ = Pipe(PipeConfig{MTU: 1400})
	_, err = sw.Attach(a)
	require.EqualError(t, err, "nic: switch: the MTU of pipe-a is 1400, less than the switch's 1500")
	a, _ = Pipe(PipeConfig{})
	a.Attach(func([]Frame) {})
	_, err = sw.Attach(Impair(a, ImpairConfig{}))
	require.EqualError(t, err, "nic: switch: the device has a user already")
	_, err = sw.Attach((*PipeEnd)(nil))
	require.EqualError(t, err, "nic: switch: the device is nil")
	_, err = sw.Attach(nil)
	require.EqualError(t, err, "nic: switch: the device is nil")
	require.Empty(t, *sw.ports.Load())
}

func TestASwitchDoesNotAllocatePerFrame(t *testing.T) {
	sw := NewSwitch(SwitchConfig{})
	a, b, c := sw.Port(), sw.Port(), sw.Port()
	for _, p := range []*SwitchPort{a, b, c} {
		p.Attach(func([]Frame) {})
	}
	b.Send(one(ether(bcst, macB, 0, 60)))
	batch := []Frame{{Head: ether(macB, macA, 0, 60)}, {Head: ether(bcst, macA, 0, 60)}}
	require.Zero(t, testing.AllocsPerRun(100, func() { a.Send(batch) }))

	near, far := Pipe(PipeConfig{NoTxChecksum: true})
	far.Attach(func([]Frame) {})
	_, err := sw.Attach(near)
	require.NoError(t, err)
	super := packetSpec{payload: pattern(3000)}.super(t, 1472, true)
	binary.BigEndian.PutUint16(super.Head, 0xffff) // a group address, so the frame is flooded
	batch = []Frame{super}
	if allocs := testing.AllocsPerRun(100, func() { a.Send(batch) }); !raceEnabled {
		require.Zero(t, allocs)
	}
}

func TestASeedDeterminesMACs(t *testing.T) {
	macs := func(seed uint64) [][6]byte {
		sw := NewSwitch(SwitchConfig{Seed: seed})
		p, q := sw.Port(), sw.Port()
		a, b := Pipe(PipeConfig{Seed: seed})
		return [][6]byte{p.Link().MAC, q.Link().MAC, a.Link().MAC, b.Link().MAC}
	}
	first := macs(1)
	require.Equal(t, first, macs(1))
	require.NotEqual(t, first[0], first[1])
	require.NotEqual(t, first[2], first[3])
	for _, mac := range first {
		require.Equal(t, byte(2), mac[0]&3, "unicast, and locally administered")
		require.NotContains(t, macs(2), mac)
		require.NotContains(t, macs(0), mac)
	}
}

func TestAnEgressReusesItsBuffers(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	b.Attach(func([]Frame) {})
	var dropped atomic.Uint64
	q := &egress{dev: a, dropped: &dropped, sending: true} // with sending set, only the test sends
	run := make([]Frame, 1000)
	for i := range run {
		run[i] = Frame{Head: ether(macB, macA, uint32(i), 60)}
	}
	allocs := testing.AllocsPerRun(20, func() {
		require.Equal(t, len(run), q.put(run))
		q.send()
		q.sending = true
	})
	require.Zero(t, dropped.Load())
	if !raceEnabled { // with the race detector, a sync.Pool drops items
		require.Less(t, allocs, 100.0, "of %d frames", len(run)) // only the two lists of the queue grow
	}
}
