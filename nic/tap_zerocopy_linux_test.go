package nic

import (
	"bytes"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A tapStandIn supplies a tapReader with frames as a TAP does: each read returns one frame,
// truncated if it does not fit.
type tapStandIn struct {
	t     *testing.T
	r     *tapReader
	fd    int
	room  ReceiveBuffer
	taken bool // the reader has requested the buffer and has not called End
	asked int  // number of requested buffers
}

func newTAPStandIn(t *testing.T, header, room int) *tapStandIn {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	require.NoError(t, unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20))
	file := os.NewFile(uintptr(fds[1]), "tap")
	raw, err := file.SyscallConn()
	require.NoError(t, err)
	s := &tapStandIn{t: t, fd: fds[0], r: newTAPReader(Ethernet, file, raw, header, 0)}
	t.Cleanup(func() {
		unix.Close(fds[0])
		file.Close()
	})
	s.room = ReceiveBuffer{Headers: 66, Buf: bytes.Repeat([]byte{0xee}, room), End: func() {
		require.True(t, s.taken)
		s.taken = false
	}}
	return s
}

func (s *tapStandIn) ask() ReceiveBuffer {
	require.False(s.t, s.taken, "one at a time")
	if s.room.Buf == nil {
		return ReceiveBuffer{}
	}
	s.taken = true
	s.asked++
	return s.room
}

// pass makes the reader read a frame and returns the reader's frames.
func (s *tapStandIn) pass(f Frame) []Frame {
	s.t.Helper()
	var hdr [vnetHeaderLen]byte
	putVnet(hdr[:], &f)
	_, err := unix.Write(s.fd, append(hdr[:], f.AppendTo(nil)...))
	require.NoError(s.t, err)
	frames, _, err := s.r.read()
	require.NoError(s.t, err)
	return frames
}

func TestATAPReadsTheFrameThatIsExpectedToTheRoom(t *testing.T) {
	s := newTAPStandIn(t, vnetHeaderLen, maxPacket)
	require.True(t, s.r.receiveInto(s.ask))
	f := packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}.super(t, 1448, true)
	require.Empty(t, s.pass(f)[0].Body)
	require.Zero(t, s.asked, "after a large frame another one is likely")
	for range 3 {
		got := s.pass(f)
		require.Equal(t, []Frame{f}, got, "in two parts as well")
		require.Same(t, &s.room.Buf[0], &got[0].Body[0])
		require.True(t, s.taken, "until the frame was delivered")
		s.r.release()
		require.False(t, s.taken)
		s.r.release() // has no effect, because there is no buffer to release
	}
	s.room.Buf = nil
	require.Empty(t, s.pass(f)[0].Body)
}

func TestATAPAsksForRoomWhileLargeFramesComeBetweenShortOnes(t *testing.T) {
	s := newTAPStandIn(t, vnetHeaderLen, maxPacket)
	require.True(t, s.r.receiveInto(s.ask))
	large := packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}.super(t, 1448, true)
	short, _, _ := packetSpec{payload: pattern(1)}.build(t)
	s.pass(large)
	for range fewFrames {
		s.pass(Frame{Head: short})
	}
	require.Equal(t, fewFrames, s.asked)
	s.pass(Frame{Head: short})
	s.pass(large)
	require.Equal(t, fewFrames, s.asked, "that was a pause")
	require.NotEmpty(t, s.pass(large)[0].Body)
}

func TestATAPPutsAnyOtherFrameWhereItWouldBeWithoutTheRoom(t *testing.T) {
	large := packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}
	with := func(change func(p *packetSpec)) packetSpec {
		p := large
		change(&p)
		return p
	}
	single, _, _ := with(func(p *packetSpec) { p.payload = pattern(30_000) }).build(t)
	short, _, _ := packetSpec{payload: pattern(1)}.build(t)
	for name, f := range map[string]Frame{
		"shorter headers":  with(func(p *packetSpec) { p.options = nil }).super(t, 1448, false),
		"longer headers":   with(func(p *packetSpec) { p.options = make([]byte, 24) }).super(t, 1448, false),
		"other headers":    with(func(p *packetSpec) { p.v6 = true; p.options = nil }).super(t, 1448, false),
		"UDP":              packetSpec{payload: pattern(40_000)}.super(t, 1448, false),
		"one segment":      {Head: single},
		"short frame":      {Head: short},
		"longer than room": with(func(p *packetSpec) { p.payload = pattern(60_000) }).super(t, 1448, false),
	} {
		t.Run(name, func(t *testing.T) {
			s := newTAPStandIn(t, vnetHeaderLen, 50_000)
			require.True(t, s.r.receiveInto(s.ask))
			s.pass(large.super(t, 1448, true))
			require.Equal(t, []Frame{f}, s.pass(f))
			require.Equal(t, 1, s.asked)
			require.False(t, s.taken, "it is not in the buffer")
			require.Equal(t, []Frame{f}, s.pass(f), "and again")
		})
	}
}

func TestATAPEndsTheRoomWhenNothingCame(t *testing.T) {
	s := newTAPStandIn(t, vnetHeaderLen, maxPacket)
	require.True(t, s.r.receiveInto(s.ask))
	s.pass(packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}.super(t, 1448, true))
	s.r.frames, s.r.reads, s.r.used = s.r.frames[:0], 0, 0
	require.NoError(t, s.r.raw.Control(func(fd uintptr) { require.False(t, s.r.readBatch(fd)) }))
	require.Equal(t, 1, s.asked)
	require.False(t, s.taken)
}

func TestOnlyATAPWithOffloadsAndOneQueueHasUseForRooms(t *testing.T) {
	place := func() ReceiveBuffer { return ReceiveBuffer{} }
	plain, offload := newTAPStandIn(t, 0, 0), newTAPStandIn(t, vnetHeaderLen, 0)
	require.False(t, (&rxLoop{src: plain.r}).ReceiveInto(place))
	require.True(t, (&rxLoop{src: offload.r}).ReceiveInto(place))
	require.False(t, (&rxLoop{src: offload.r, more: []source{offload.r}}).ReceiveInto(place))
	require.False(t, (&rxLoop{src: newFrameReader(nil, Ethernet, 1514)}).ReceiveInto(place))
}
