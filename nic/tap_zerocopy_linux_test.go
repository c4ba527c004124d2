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
	t         *testing.T
	r         *tapReader
	fd        int
	buffer    ReceiveBuffer // of the receiver; the reader may request it
	taken     bool          // the reader has requested the buffer and has not called End
	requested int           // number of requested buffers
}

func newTAPStandIn(t *testing.T, header, size int) *tapStandIn {
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
	s.buffer = ReceiveBuffer{Headers: 66, Buf: bytes.Repeat([]byte{0xee}, size), End: func() {
		require.True(t, s.taken)
		s.taken = false
	}}
	return s
}

// request is the function that the reader calls for a buffer.
func (s *tapStandIn) request() ReceiveBuffer {
	require.False(s.t, s.taken, "one at a time")
	if s.buffer.Buf == nil {
		return ReceiveBuffer{}
	}
	s.taken = true
	s.requested++
	return s.buffer
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

func TestATAPReceivesALargeFrameIntoTheBuffer(t *testing.T) {
	s := newTAPStandIn(t, vnetHeaderLen, maxPacket)
	require.True(t, s.r.receiveInto(s.request))
	f := packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}.super(t, 1448, true)
	require.Empty(t, s.pass(f)[0].Body)
	require.Zero(t, s.requested, "after a large frame another one is likely")
	for range 3 {
		got := s.pass(f)
		f.Local = true
		require.Equal(t, []Frame{f}, got, "the frame is the same with its payload in the buffer")
		require.Same(t, &s.buffer.Buf[0], &got[0].Body[0])
		require.True(t, s.taken, "until the frame was delivered")
		s.r.release()
		require.False(t, s.taken)
		s.r.release() // has no effect, because there is no buffer to release
	}
	s.buffer.Buf = nil
	require.Empty(t, s.pass(f)[0].Body)
}

func TestATAPRequestsABufferWhileLargeFramesCome(t *testing.T) {
	s := newTAPStandIn(t, vnetHeaderLen, maxPacket)
	require.True(t, s.r.receiveInto(s.request))
	large := packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}.super(t, 1448, true)
	short, _, _ := packetSpec{payload: pattern(1)}.build(t)
	s.pass(large)
	for range fewFrames {
		s.pass(Frame{Head: short})
	}
	require.Equal(t, fewFrames, s.requested)
	s.pass(Frame{Head: short})
	s.pass(large)
	require.Equal(t, fewFrames, s.requested, "after so many short frames, none is requested")
	require.NotEmpty(t, s.pass(large)[0].Body)
}

func TestATAPReceivesOtherFramesWithoutTheBuffer(t *testing.T) {
	large := packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}
	with := func(change func(p *packetSpec)) packetSpec {
		p := large
		change(&p)
		return p
	}
	single, _, _ := with(func(p *packetSpec) { p.payload = pattern(30_000) }).build(t)
	short, _, _ := packetSpec{payload: pattern(1)}.build(t)
	for name, f := range map[string]Frame{
		"shorter headers":        with(func(p *packetSpec) { p.options = nil }).super(t, 1448, false),
		"longer headers":         with(func(p *packetSpec) { p.options = make([]byte, 24) }).super(t, 1448, false),
		"other headers":          with(func(p *packetSpec) { p.v6 = true; p.options = nil }).super(t, 1448, false),
		"UDP":                    packetSpec{payload: pattern(40_000)}.super(t, 1448, false),
		"one segment":            {Head: single},
		"short frame":            {Head: short},
		"longer than the buffer": with(func(p *packetSpec) { p.payload = pattern(60_000) }).super(t, 1448, false),
	} {
		t.Run(name, func(t *testing.T) {
			s := newTAPStandIn(t, vnetHeaderLen, 50_000)
			require.True(t, s.r.receiveInto(s.request))
			s.pass(large.super(t, 1448, true))
			f.Local = f.NeedsChecksum
			require.Equal(t, []Frame{f}, s.pass(f))
			require.Equal(t, 1, s.requested)
			require.False(t, s.taken, "it is not in the buffer")
			require.Equal(t, []Frame{f}, s.pass(f), "the next frame is received like it")
		})
	}
}

func TestATAPReturnsTheBufferIfNoFrameCame(t *testing.T) {
	s := newTAPStandIn(t, vnetHeaderLen, maxPacket)
	require.True(t, s.r.receiveInto(s.request))
	s.pass(packetSpec{tcp: true, payload: pattern(40_000), options: make([]byte, 12)}.super(t, 1448, true))
	s.r.frames, s.r.reads, s.r.used = s.r.frames[:0], 0, 0
	require.NoError(t, s.r.raw.Control(func(fd uintptr) { require.False(t, s.r.readBatch(fd)) }))
	require.Equal(t, 1, s.requested)
	require.False(t, s.taken)
}

func TestOnlyATAPWithOffloadsAndOneQueueUsesBuffers(t *testing.T) {
	noBuffer := func() ReceiveBuffer { return ReceiveBuffer{} }
	plain, offload := newTAPStandIn(t, 0, 0), newTAPStandIn(t, vnetHeaderLen, 0)
	require.False(t, (&rxLoop{src: plain.r}).ReceiveInto(noBuffer))
	require.True(t, (&rxLoop{src: offload.r}).ReceiveInto(noBuffer))
	require.False(t, (&rxLoop{src: offload.r, more: []source{offload.r}}).ReceiveInto(noBuffer))
	require.False(t, (&rxLoop{src: newFrameReader(nil, Ethernet, 1514)}).ReceiveInto(noBuffer))
}
