package nic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// writeRecorder records each Write separately.
type writeRecorder struct{ writes [][]byte }

func (w *writeRecorder) Write(b []byte) (int, error) {
	w.writes = append(w.writes, append([]byte(nil), b...))
	return len(b), nil
}

// captureFile is the parsed contents of a pcapng file.
type captureFile struct {
	linkType uint16
	snapLen  uint32
	options  map[uint16][]byte // options of the interface
	appl     string
	packets  []capturedPacket
}

type capturedPacket struct {
	time     time.Time
	data     []byte
	original int
	flags    uint32 // 1: inbound, 2: outbound
}

// readCapture parses pcapng as draft-ietf-opsawg-pcapng sections 3 and 4 describe it. It fails the test if
// the draft does not allow something.
func readCapture(t *testing.T, b []byte) (c captureFile) {
	t.Helper()
	le := binary.LittleEndian
	c.options = map[uint16][]byte{}
	for first := true; len(b) > 0; first = false {
		require.GreaterOrEqual(t, len(b), 12)
		kind, n := le.Uint32(b), int(le.Uint32(b[4:]))
		require.Zero(t, n%4, "blocks end on 32 bits")
		require.LessOrEqual(t, n, len(b))
		require.Equal(t, uint32(n), le.Uint32(b[n-4:n]), "the length is repeated at the end")
		require.Equal(t, first, kind == 0x0a0d0d0a, "one section header, at the beginning")
		body := b[8 : n-4]
		b = b[n:]
		switch kind {
		case 0x0a0d0d0a: // section header
			require.Equal(t, uint32(0x1a2b3c4d), le.Uint32(body))
			require.Equal(t, []byte{1, 0, 0, 0}, body[4:8], "version 1.0")
			require.Equal(t, ^uint64(0), le.Uint64(body[8:]))
			c.appl = string(readOptions(t, body[16:])[4]) // shb_userappl
		case 1: // interface description
			require.Empty(t, c.options, "one interface")
			c.linkType, c.snapLen = le.Uint16(body), le.Uint32(body[4:])
			require.Zero(t, le.Uint16(body[2:]))
			c.options = readOptions(t, body[8:])
		case 6: // enhanced packet
			require.NotEmpty(t, c.options, "the interface comes before its packets")
			require.Zero(t, le.Uint32(body), "the interface's number")
			ns := uint64(le.Uint32(body[4:]))<<32 | uint64(le.Uint32(body[8:]))
			size := int(le.Uint32(body[12:]))
			p := capturedPacket{time: time.Unix(0, int64(ns)), original: int(le.Uint32(body[16:]))}
			p.data = body[20 : 20+size]
			p.flags = le.Uint32(readOptions(t, body[20+(size+3)/4*4:])[2]) // epb_flags
			c.packets = append(c.packets, p)
		default:
			t.Fatalf("block of kind %d", kind)
		}
	}
	return c
}

// readOptions parses the options of a block, and returns them by code.
func readOptions(t *testing.T, b []byte) map[uint16][]byte {
	t.Helper()
	options := map[uint16][]byte{}
	for {
		require.GreaterOrEqual(t, len(b), 4, "options end with opt_endofopt")
		code, n := binary.LittleEndian.Uint16(b), int(binary.LittleEndian.Uint16(b[2:]))
		if code == 0 {
			require.Zero(t, n)
			require.Len(t, b, 4)
			return options
		}
		options[code] = b[4 : 4+n]
		b = b[4+(n+3)/4*4:]
	}
}

func TestACaptureHoldsBothDirectionsAndTheirTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var w writeRecorder
		near, far := Pipe(PipeConfig{MACs: [2][6]byte{macA, macB}})
		c := Capture(near, &w, CaptureConfig{})
		require.Equal(t, near.Link(), c.Link())
		var in, out recorder
		c.Attach(in.recv)
		far.Attach(out.recv)
		start := time.Now()
		sent := []Frame{{Head: ether(macB, macA, 1, 61)}, {Head: pattern(20), Body: pattern(43)}}
		n, err := c.Send(sent)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		time.Sleep(time.Second + 5)
		far.Send(one(ether(macA, macB, 2, 60)))

		require.Len(t, w.writes, 4, "one Write for the header, and one for each packet")
		file := readCapture(t, bytes.Join(w.writes, nil))
		require.Equal(t, "usernet", file.appl)
		require.Equal(t, uint16(1), file.linkType)
		require.Zero(t, file.snapLen)
		// if_name, if_MACaddr, and if_tsresol with nanoseconds.
		require.Equal(t, map[uint16][]byte{2: []byte("pipe-a"), 6: macA[:], 9: {9}}, file.options)
		start = start.Local()
		require.Equal(t, []capturedPacket{
			{start, sent[0].Head, 61, 2},
			{start, sent[1].AppendTo(nil), 63, 2},
			{start.Add(time.Second + 5), ether(macA, macB, 2, 60), 60, 1},
		}, file.packets)
		require.Equal(t, []uint32{2}, tags(in.all()))
		require.Len(t, out.all(), 2)
	})
}

func TestACaptureHasTheChecksumThatTheWireDoesNotYetHave(t *testing.T) {
	var w bytes.Buffer
	near, far := Pipe(PipeConfig{Medium: IP})
	c := Capture(near, &w, CaptureConfig{})
	c.Attach(func([]Frame) {})
	var out recorder
	far.Attach(out.recv)
	spec := packetSpec{tcp: true, medium: IP, payload: pattern(5000)}
	super := spec.super(t, 1460, true)
	before := super.AppendTo(nil)
	c.Send([]Frame{super})
	require.Equal(t, [][]byte{before}, out.all(), "the frame itself is as it was")
	require.True(t, out.meta[0].NeedsChecksum)
	file := readCapture(t, w.Bytes())
	require.Equal(t, uint16(101), file.linkType, "LINKTYPE_RAW")
	require.NotContains(t, file.options, uint16(6), "no MAC on an IP medium")
	want, _, _ := spec.build(t)
	require.Equal(t, want, file.packets[0].data)
}

func TestSnapLenCutsWhatIsKept(t *testing.T) {
	var w bytes.Buffer
	near, far := Pipe(PipeConfig{})
	c := Capture(near, &w, CaptureConfig{SnapLen: 54})
	c.Attach(func([]Frame) {})
	var out recorder
	far.Attach(out.recv)
	spec := packetSpec{tcp: true, payload: pattern(500)}
	c.Send([]Frame{spec.super(t, 100, true)})
	file := readCapture(t, w.Bytes())
	require.Equal(t, uint32(54), file.snapLen)
	want, _, _ := spec.build(t)
	require.Equal(t, want[:54], file.packets[0].data, "the checksum covers the bytes that are cut off")
	require.Equal(t, 554, file.packets[0].original)
	require.Len(t, out.frames[0], 554)
}

// failing is a Writer whose nth Write and all later Writes fail.
type failing struct {
	n     int
	err   error
	calls int
}

func (w *failing) Write(b []byte) (int, error) {
	w.calls++
	if w.calls < w.n {
		return len(b), nil
	}
	return 0, w.err
}

func TestAFailedWriteEndsTheCaptureAndNotTheLink(t *testing.T) {
	full := errors.New("disk full")
	for _, c := range []struct {
		n         int // the Write that fails
		err, want error
	}{
		{1, full, full},
		{3, full, full},
		{2, nil, io.ErrShortWrite}, // it writes 0 bytes and returns no error
	} {
		w := &failing{n: c.n, err: c.err}
		near, far := Pipe(PipeConfig{})
		var out recorder
		far.Attach(out.recv)
		d := Capture(near, w, CaptureConfig{})
		d.Attach(func([]Frame) {})
		for range 5 {
			_, err := d.Send(one(ether(macB, macA, 1, 60)))
			require.NoError(t, err)
		}
		require.ErrorIs(t, d.Err(), c.want)
		require.Equal(t, c.n, w.calls, "nothing is written after an error")
		require.Len(t, out.frames, 5)
	}
}

func TestASlowWriterIsWaitedForWithoutAMutex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := Pipe(PipeConfig{})
		far.Attach(func([]Frame) {})
		w := writerFunc(func(b []byte) (int, error) {
			time.Sleep(time.Second)
			return len(b), nil
		})
		start := time.Now()
		c := Capture(near, w, CaptureConfig{})
		c.Attach(func([]Frame) {})
		done := make(chan bool, 3)
		for range 3 {
			go func() {
				c.Send(one(ether(macB, macA, 1, 60)))
				done <- true
			}()
		}
		for range 3 {
			<-done
		}
		require.Equal(t, 4*time.Second, time.Since(start), "virtual time passes, one Write after the other")
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func TestACaptureDoesNotAllocatePerFrame(t *testing.T) {
	near, far := Pipe(PipeConfig{})
	far.Attach(func([]Frame) {})
	c := Capture(near, io.Discard, CaptureConfig{})
	c.Attach(func([]Frame) {})
	batch := []Frame{packetSpec{tcp: true, payload: pattern(5000)}.super(t, 1000, true)}
	require.Zero(t, testing.AllocsPerRun(100, func() { c.Send(batch) }))
}

// TestWiresharkReadsACapture makes tshark decode captures of both media and verify every checksum.
func TestWiresharkReadsACapture(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("tshark is not installed")
		}
		t.Skip("tshark is not installed")
	}
	for _, medium := range []Medium{Ethernet, IP} {
		name := filepath.Join(t.TempDir(), "capture.pcapng")
		f, err := os.Create(name)
		require.NoError(t, err)
		near, far := Pipe(PipeConfig{Medium: medium})
		c := Capture(near, f, CaptureConfig{})
		c.Attach(func([]Frame) {})
		far.Attach(func([]Frame) {})
		const outbound, inbound = "0x00000002", "0x00000001" // frame.packet_flags_direction
		type packet struct {
			v6        bool
			direction string
		}
		var want []packet
		for _, spec := range []packetSpec{{}, {tcp: true}, {v6: true}, {tcp: true, v6: true}} {
			spec.medium, spec.flags = medium, 0x10
			spec.payload = pattern(301)
			b, _, _ := spec.build(t)
			c.Send(one(b))
			far.Send(one(b))
			spec.payload = pattern(20000)
			c.Send([]Frame{spec.super(t, 1000, true)})
			want = append(want, packet{spec.v6, outbound}, packet{spec.v6, inbound}, packet{spec.v6, outbound})
		}
		require.NoError(t, c.Err())
		require.NoError(t, f.Close())

		out, err := exec.Command(tshark, "-r", name, "-n",
			"-o", "ip.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE",
			"-T", "fields", "-E", "separator=,", "-e", "_ws.malformed", "-e", "ip.checksum.status",
			"-e", "tcp.checksum.status", "-e", "udp.checksum.status", "-e", "frame.packet_flags_direction",
			"-e", "frame.interface_name").CombinedOutput()
		require.NoError(t, err, "%s", out)
		var lines []string
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			if strings.Contains(line, "pipe-a") {
				lines = append(lines, line)
			}
		}
		require.Len(t, lines, len(want), "%s", out)
		for i, line := range lines {
			fields := strings.Split(line, ",")
			require.Len(t, fields, 6, line)
			require.Empty(t, fields[0], "packet %d is malformed", i)
			if !want[i].v6 {
				require.Equal(t, "1", fields[1], "the header's checksum of packet %d is not good: %s", i, line)
			}
			require.Equal(t, "1", fields[2]+fields[3], "the checksum of packet %d is not good: %s", i, line)
			require.Equal(t, want[i].direction, fields[4], line)
		}
	}
}

// A wrapper passes on NotifyDown: a host on a Captured TAP must be notified that the TAP was deleted.
func TestWrappedDevicesPassOnThatTheDeviceIsDown(t *testing.T) {
	for name, wrap := range map[string]func(Device) Device{
		"capture": func(d Device) Device { return Capture(d, io.Discard, CaptureConfig{}) },
		"impair":  func(d Device) Device { return Impair(d, ImpairConfig{}) },
	} {
		t.Run(name, func(t *testing.T) {
			r, w := io.Pipe()
			dev := wrap(FromReadWriter(struct {
				io.Reader
				io.WriteCloser
			}{r, w}, Link{MTU: 1500}))
			down := make(chan error, 1)
			dev.(interface{ NotifyDown(func(error)) }).NotifyDown(func(err error) { down <- err })
			dev.Attach(func([]Frame) {})
			gone := errors.New("unplugged")
			w.CloseWithError(gone)
			require.ErrorIs(t, <-down, gone)
		})
	}
}
