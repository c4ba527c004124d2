package stack

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A zeroCopyDevice is a device in memory that writes payloads to buffers of readers, as a TAP does.
type zeroCopyDevice struct {
	nic.Device
	ask      func() nic.ReceiveBuffer
	recv     func([]nic.Frame)
	mu       sync.Mutex // held from the request of a buffer until its frame is passed on
	inBuffer atomic.Int64
	hold     atomic.Bool // keep received super-frames in held, instead of passing them on
	held     []nic.Frame
}

func (d *zeroCopyDevice) Nonblocking() nic.Device { return d }

func (d *zeroCopyDevice) ReceiveInto(buffer func() nic.ReceiveBuffer) bool {
	d.ask = buffer
	return true
}

func (d *zeroCopyDevice) Attach(recv func([]nic.Frame)) {
	d.recv = recv
	d.Device.Attach(func(batch []nic.Frame) {
		for _, f := range batch {
			switch {
			case f.GSO != nic.GSOTCP4:
				recv([]nic.Frame{f})
			case d.hold.Load():
				f.Head, f.Body = bytes.Clone(f.Head), bytes.Clone(f.Body)
				d.held = append(d.held, f)
			default:
				d.receive(f)
			}
		}
	})
}

// receive passes a frame on, with its payload in a reader's buffer if there is one.
func (d *zeroCopyDevice) receive(f nic.Frame) {
	if !d.mu.TryLock() {
		d.recv([]nic.Frame{f})
		return
	}
	defer d.mu.Unlock()
	room := d.ask()
	if room.Buf == nil {
		d.recv([]nic.Frame{f})
		return
	}
	d.fill(f, room)
}

// fill passes a frame on. If the payload of the frame fits in the buffer of room, fill puts it there.
func (d *zeroCopyDevice) fill(f nic.Frame, room nic.ReceiveBuffer) {
	if b := f.AppendTo(nil); room.Headers == int(f.HeaderLen) {
		f.Head = b[:room.Headers]
		f.Body = room.Buf[:copy(room.Buf, b[room.Headers:])]
		d.inBuffer.Add(1)
	}
	d.recv([]nic.Frame{f})
	room.End()
}

// zeroCopyPair returns two hosts. The device of b is the zeroCopyDevice d.
func zeroCopyPair(t *testing.T) (a, b *Stack, d *zeroCopyDevice) {
	da, db := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
	d = &zeroCopyDevice{Device: db}
	return newHost(t, da, "192.0.2.1/24"), newHost(t, d, "192.0.2.2/24"), d
}

// A reading is a Read with a large buffer in its own goroutine.
type reading struct {
	buf []byte
	n   int
	err error
	end atomic.Bool
}

// startReading starts a Read of c, and returns when it waits or has ended.
func startReading(c *TCP) *reading {
	r := &reading{buf: make([]byte, 128<<10)}
	go func() {
		r.n, r.err = c.Read(r.buf)
		r.end.Store(true)
	}()
	synctest.Wait()
	return r
}

// withHeldFrames runs a test in a synctest bubble, with a connection from c to d. text was written to c. The
// device holds the frames of text in dev.held until the test passes them to d.
func withHeldFrames(t *testing.T, f func(t *testing.T, dev *zeroCopyDevice, c, d *TCP, text []byte)) {
	synctest.Test(t, func(t *testing.T) {
		a, b, dev := zeroCopyPair(t)
		c, d := connect(t, a, b)
		dev.hold.Store(true)
		text := noise(10_000)
		for _, part := range [][]byte{text[:5000], text[5000:]} {
			_, err := c.Write(part)
			require.NoError(t, err)
		}
		require.Len(t, dev.held, 2)
		dev.hold.Store(false)
		f(t, dev, c, d, text)
	})
}

func TestReadReturnsWhatADevicePutIntoItsBuffer(t *testing.T) {
	withHeldFrames(t, func(t *testing.T, dev *zeroCopyDevice, c, d *TCP, text []byte) {
		r := startReading(d)
		room := dev.ask()
		require.Same(t, &r.buf[0], &room.Buf[0])
		f := dev.held[0]
		require.EqualValues(t, f.HeaderLen, room.Headers)
		f.Body = room.Buf[:copy(room.Buf, f.AppendTo(nil)[f.HeaderLen:])]
		f.Head = f.Head[:f.HeaderLen]
		dev.recv([]nic.Frame{f})
		synctest.Wait()
		require.True(t, r.end.Load(), "the device has returned the buffer")
		require.NoError(t, r.err)
		require.Equal(t, 5000, r.n)
		require.True(t, bytes.Equal(text[:5000], r.buf[:r.n]))
		room.End()
		require.Nil(t, dev.ask().Buf, "no reader waits")
	})
}

func TestReadWaitsWhileADeviceMayWriteToItsBuffer(t *testing.T) {
	for name, x := range map[string]struct {
		end func(dev *zeroCopyDevice, c, d *TCP)
		n   int
		err error
	}{
		"close":           {end: func(dev *zeroCopyDevice, c, d *TCP) { d.Close() }, err: net.ErrClosed},
		"deadline":        {end: func(dev *zeroCopyDevice, c, d *TCP) { d.SetReadDeadline(time.Now().Add(time.Millisecond)) }, err: os.ErrDeadlineExceeded},
		"passed deadline": {end: func(dev *zeroCopyDevice, c, d *TCP) { d.SetReadDeadline(time.Unix(1, 0)) }, err: os.ErrDeadlineExceeded},
		"close of reads":  {end: func(dev *zeroCopyDevice, c, d *TCP) { d.CloseRead() }, err: io.EOF},
		"close of host":   {end: func(dev *zeroCopyDevice, c, d *TCP) { d.s.Close() }, err: net.ErrClosed},
		"data":            {end: func(dev *zeroCopyDevice, c, d *TCP) { dev.recv(dev.held) }, n: 10_000},
		"peer's reset":    {end: func(dev *zeroCopyDevice, c, d *TCP) { c.SetLinger(0); c.Close() }, err: syscall.ECONNRESET},
	} {
		t.Run(name, func(t *testing.T) {
			withHeldFrames(t, func(t *testing.T, dev *zeroCopyDevice, c, d *TCP, text []byte) {
				r := startReading(d)
				room := dev.ask()
				require.NotNil(t, room.Buf)
				x.end(dev, c, d)
				time.Sleep(2 * time.Millisecond)
				synctest.Wait()
				require.False(t, r.end.Load())
				copy(room.Buf, noise(len(room.Buf))) // a frame for another connection
				room.End()
				synctest.Wait()
				require.True(t, r.end.Load())
				require.ErrorIs(t, r.err, x.err)
				require.Equal(t, x.n, r.n)
				require.True(t, bytes.Equal(text[:r.n], r.buf[:r.n]))
				require.Nil(t, dev.ask().Buf)
			})
		})
	}
}

func TestZeroCopyDataIsReadInOrder(t *testing.T) {
	for name, give := range map[string]func(t *testing.T, dev *zeroCopyDevice, c, d *TCP){
		"out of order": func(t *testing.T, dev *zeroCopyDevice, c, d *TCP) {
			dev.receive(dev.held[1])
			dev.receive(dev.held[0])
		},
		"twice": func(t *testing.T, dev *zeroCopyDevice, c, d *TCP) {
			for _, i := range []int{0, 0, 1, 0, 1} {
				dev.receive(dev.held[i])
			}
		},
		"while earlier data arrives without a buffer": func(t *testing.T, dev *zeroCopyDevice, c, d *TCP) {
			room := dev.ask()
			dev.recv(dev.held[:1])
			dev.fill(dev.held[1], room)
		},
		"after it was damaged": func(t *testing.T, dev *zeroCopyDevice, c, d *TCP) {
			f := dev.held[0]
			f.Head = bytes.Clone(f.Head)
			f.Head[20]++ // in the IP header
			f.Body = noise(len(f.Body) + 1)[1:]
			dev.receive(f)
			dev.receive(dev.held[0])
			dev.receive(dev.held[1])
		},
		"in the buffer of another connection": func(t *testing.T, dev *zeroCopyDevice, c, d *TCP) {
			e, f := connect(t, c.s, d.s)
			r := startReading(f) // the device gets the buffer of the reader that began to wait last
			room := dev.ask()
			require.Same(t, &r.buf[0], &room.Buf[0])
			dev.fill(dev.held[0], room)
			dev.receive(dev.held[1])
			require.False(t, r.end.Load())
			text := noise(7000)
			_, err := e.Write(text)
			require.NoError(t, err)
			synctest.Wait()
			require.True(t, bytes.Equal(text, r.buf[:r.n]))
		},
	} {
		t.Run(name, func(t *testing.T) {
			withHeldFrames(t, func(t *testing.T, dev *zeroCopyDevice, c, d *TCP, text []byte) {
				r := startReading(d)
				give(t, dev, c, d)
				synctest.Wait()
				require.True(t, r.end.Load())
				require.NoError(t, r.err)
				got := make([]byte, len(text)-r.n)
				_, err := io.ReadFull(d, got)
				require.NoError(t, err)
				require.True(t, bytes.Equal(text, append(r.buf[:r.n:r.n], got...)))
				require.NotZero(t, dev.inBuffer.Load())
			})
		})
	}
}

func TestOnlyALargeBufferIsOffered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, dev := zeroCopyPair(t)
		_, d := connect(t, a, b)
		go d.Read(make([]byte, minReceiveBuffer-1))
		synctest.Wait()
		require.Nil(t, dev.ask().Buf)
	})
}

// readInterrupted reads to the end, in Reads that deadlines interrupt. After each Read it overwrites its whole
// buffer.
func readInterrupted(d *TCP, r *rand.Rand, seed byte) (n int, err error) {
	buf := make([]byte, 70_000)
	for {
		d.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(2000)) * time.Microsecond))
		k, err := d.Read(buf)
		for i, b := range buf[:k] {
			if b != streamByte(seed, n+i) {
				return n + i, errors.New("another byte than was written")
			}
		}
		n += k
		clear(buf)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
	}
}

func TestReadersThatAreInterruptedReuseTheirBuffers(t *testing.T) {
	// The test runs in real time, so that the race detector sees concurrent writes.
	a, b, dev := zeroCopyPair(t)
	const total = 300_000
	var all sync.WaitGroup
	for k := range 2 {
		c, d := connect(t, a, b)
		seed := byte(k)
		r := rand.New(rand.NewPCG(uint64(k), 1))
		all.Go(func() {
			if _, err := writeInterrupted(c, rand.New(rand.NewPCG(uint64(k), 2)), seed, total); err != nil {
				t.Errorf("write: %v", err)
			}
			c.CloseWrite()
		})
		all.Go(func() {
			n, err := readInterrupted(d, r, seed)
			if err != io.EOF || n != total {
				t.Errorf("read %d bytes, then %v", n, err)
			}
		})
	}
	all.Wait()
	require.Positive(t, dev.inBuffer.Load())
}
