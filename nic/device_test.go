package nic

import (
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// devicePair is a device and a function that makes the device receive a frame. After inject and then
// synctest.Wait have returned, the device has received the frame.
type devicePair struct {
	dev    Device
	inject func(frame []byte)
}

// memoryDevices returns the devices in memory by name. Null is not among them, because it receives nothing.
func memoryDevices() map[string]func() devicePair {
	sender := func(d Device) func([]byte) {
		d.Attach(func([]Frame) {})
		return func(b []byte) { d.Send(one(b)) }
	}
	pipe := func() devicePair {
		a, b := Pipe(PipeConfig{})
		return devicePair{a, sender(b)}
	}
	return map[string]func() devicePair{
		"pipe": pipe,
		"ip pipe": func() devicePair {
			a, b := Pipe(PipeConfig{Medium: IP})
			return devicePair{a, sender(b)}
		},
		"loopback": func() devicePair {
			lo := NewLoopback(LoopbackConfig{})
			return devicePair{lo, func(b []byte) { lo.Send(one(b)) }}
		},
		"switch port": func() devicePair {
			sw := NewSwitch(SwitchConfig{})
			return devicePair{sw.Port(), sender(sw.Port())}
		},
		"impaired": func() devicePair {
			p := pipe()
			return devicePair{Impair(p.dev, ImpairConfig{}), p.inject}
		},
		"captured": func() devicePair {
			p := pipe()
			return devicePair{Capture(p.dev, io.Discard, CaptureConfig{}), p.inject}
		},
		"adapter": func() devicePair {
			near, far := framePipe()
			return devicePair{FromReadWriter(near, Link{}), func(b []byte) { far.Write(b) }}
		},
		"stream": func() devicePair {
			near, far := framePipe()
			return devicePair{FromStream(near, Link{}), func(b []byte) { far.Write(prefixed(b)) }}
		},
		"funcs": func() devicePair {
			d := FromFuncs(Link{}, func([]byte) error { return nil })
			return devicePair{d, func(b []byte) { d.Receive(b) }}
		},
		"tunnel": func() devicePair {
			d := NewTunnel(TunnelConfig{})
			return devicePair{d, func(b []byte) { d.Write([][]byte{b}, 0) }}
		},
	}
}

func eachDevice(t *testing.T, f func(t *testing.T, p devicePair)) {
	for name, mk := range memoryDevices() {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := mk()
				defer p.dev.Close()
				f(t, p)
			})
		})
	}
}

func TestADeviceIsUpUntilItIsClosed(t *testing.T) {
	eachDevice(t, func(t *testing.T, p devicePair) {
		l := p.dev.Link()
		require.True(t, l.Up)
		require.NotEmpty(t, l.Name)
		require.Greater(t, l.MTU, 0)
		if l.Medium == Ethernet {
			require.Equal(t, byte(2), l.MAC[0]&3, "unicast, and locally administered")
		}
		require.NoError(t, p.dev.Close())
		l.Up = false
		require.Equal(t, l, p.dev.Link(), "nothing but Up changes")
	})
}

func TestAfterCloseSendAndCloseReturnErrClosed(t *testing.T) {
	eachDevice(t, func(t *testing.T, p devicePair) {
		p.dev.Attach(func([]Frame) {})
		require.NoError(t, p.dev.Close())
		n, err := p.dev.Send(one(ether(macA, macB, 1, 60)))
		require.Zero(t, n)
		require.ErrorIs(t, err, net.ErrClosed)
		n, err = p.dev.Send(nil)
		require.Zero(t, n)
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, p.dev.Close(), net.ErrClosed)
	})
}

func TestAfterCloseNothingIsReceived(t *testing.T) {
	eachDevice(t, func(t *testing.T, p devicePair) {
		var r recorder
		p.dev.Attach(r.recv)
		p.inject(ether(bcst, macB, 1, 60))
		synctest.Wait()
		require.Equal(t, []uint32{1}, tags(r.all()))
		require.NoError(t, p.dev.Close())
		p.inject(ether(bcst, macB, 2, 60))
		synctest.Wait()
		require.Equal(t, []uint32{1}, tags(r.all()))
	})
}

func TestCloseCanBeCalledFromWithinRecv(t *testing.T) {
	eachDevice(t, func(t *testing.T, p devicePair) {
		calls := 0
		p.dev.Attach(func([]Frame) {
			calls++
			require.NoError(t, p.dev.Close())
		})
		p.inject(ether(bcst, macB, 1, 60))
		p.inject(ether(bcst, macB, 2, 60))
		synctest.Wait()
		require.Equal(t, 1, calls)
	})
}

func TestADeviceHasOneUser(t *testing.T) {
	eachDevice(t, func(t *testing.T, p devicePair) {
		p.dev.Attach(func([]Frame) {})
		require.Panics(t, func() { p.dev.Attach(func([]Frame) {}) })
		require.Panics(t, func() { FromFuncs(Link{}, nil).Attach(nil) })
	})
}

func TestFramesThatTheLinkCannotCarryAreTakenAndDropped(t *testing.T) {
	eachDevice(t, func(t *testing.T, p devicePair) {
		p.dev.Attach(func([]Frame) {})
		l := p.dev.Link()
		long := make([]byte, l.MTU+l.Medium.headerLen()+1)
		bad := []Frame{
			{Head: long},
			{},
			{Head: long[:60], NeedsChecksum: true, ChecksumStart: 59},
			{Head: long[:60], NeedsChecksum: true, GSO: GSOTCP4, GSOSize: 0, HeaderLen: 54},
			{Head: long[:60], GSO: GSOTCP4, GSOSize: 1, HeaderLen: 54},
			{Head: long[:60], NeedsChecksum: true, GSO: GSOTCP4, GSOSize: 1, HeaderLen: 61},
		}
		if l.Medium == Ethernet {
			bad = append(bad, Frame{Head: long[:13]}, Frame{Head: long[:13], Body: long[:60]})
		}
		n, err := p.dev.Send(bad)
		require.NoError(t, err)
		require.Equal(t, len(bad), n)
		synctest.Wait()
		switch d := p.dev.(type) {
		case interface{ Stats() Stats }:
			require.Equal(t, uint64(len(bad)), d.Stats().SendDropped)
			require.Zero(t, d.Stats().Sent)
		case *Impaired:
			require.Equal(t, uint64(len(bad)), d.Invalid())
			require.Zero(t, d.OutStats().Frames)
		case *Captured:
			require.Equal(t, uint64(len(bad)), d.dev.(*PipeEnd).Stats().SendDropped)
		default:
			t.Fatalf("%T has no counters", d)
		}
	})
}

func TestADeviceBearsUseByManyGoroutines(t *testing.T) {
	eachDevice(t, func(t *testing.T, p devicePair) {
		p.dev.Attach(func(batch []Frame) { p.dev.Link() })
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				for j := range 200 {
					b := ether(macA, macB, uint32(j), 100)
					if i%2 == 0 {
						p.dev.Send([]Frame{{Head: b[:20], Body: b[20:]}, {Head: b}})
					} else {
						p.inject(b)
					}
					if i == 3 && j == 150 {
						p.dev.Close()
					}
				}
			})
		}
		wg.Wait()
	})
}

// framePipe returns two connected ReadWriteClosers. As with a TAP's file, each Read returns the data of one
// Write.
func framePipe() (a, b *frameEnd) {
	ab, ba := newFrameQueue(), newFrameQueue()
	return &frameEnd{in: ba, out: ab}, &frameEnd{in: ab, out: ba}
}

type frameEnd struct{ in, out *frameQueue }

func (e *frameEnd) Read(b []byte) (int, error)  { return e.in.read(b) }
func (e *frameEnd) Write(b []byte) (int, error) { return e.out.write(b) }
func (e *frameEnd) Close() error {
	e.in.close()
	e.out.close()
	return nil
}

type frameQueue struct {
	mu     sync.Mutex
	cond   *sync.Cond
	frames [][]byte
	closed bool
}

func newFrameQueue() *frameQueue {
	q := new(frameQueue)
	q.cond = sync.NewCond(&q.mu)
	return q
}

func (q *frameQueue) read(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.frames) == 0 && !q.closed {
		q.cond.Wait()
	}
	if q.closed {
		return 0, io.EOF
	}
	n := copy(b, q.frames[0])
	q.frames = q.frames[1:]
	return n, nil
}

func (q *frameQueue) write(b []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return 0, io.ErrClosedPipe
	}
	q.frames = append(q.frames, append([]byte(nil), b...))
	q.cond.Signal()
	return len(b), nil
}

func (q *frameQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.cond.Broadcast()
}

// A wrapper is nonblocking if its device is nonblocking. A type with its own Send does not become
// nonblocking because it embeds a nonblocking device.
func TestWhichDevicesAreNonblocking(t *testing.T) {
	pipe := func() Device {
		a, _ := Pipe(PipeConfig{})
		return a
	}
	adapter := func() Device {
		return FromReadWriter(struct {
			io.ReadWriter
			io.Closer
		}{}, Link{})
	}
	type embedded struct{ *Null }
	for _, tt := range []struct {
		name string
		dev  Device
		want bool
	}{
		{"pipe", pipe(), true},
		{"loopback", NewLoopback(LoopbackConfig{}), true},
		{"null", NewNull(Link{}), true},
		{"switch port", NewSwitch(SwitchConfig{}).Port(), true},
		{"adapter", adapter(), false},
		{"funcs", FromFuncs(Link{}, nil), false},
		{"impaired pipe", Impair(pipe(), ImpairConfig{}), true},
		{"impaired adapter", Impair(adapter(), ImpairConfig{}), false},
		{"captured pipe", Capture(pipe(), io.Discard, CaptureConfig{}), true},
		{"captured adapter", Capture(adapter(), io.Discard, CaptureConfig{}), false},
		{"captured and impaired adapter", Capture(Impair(adapter(), ImpairConfig{}), io.Discard, CaptureConfig{}), false},
		{"embedded null", embedded{NewNull(Link{})}, false},
	} {
		require.Equal(t, tt.want, IsNonblocking(tt.dev), tt.name)
	}
}

// An optional is a device that implements all optional interfaces. asked counts the calls of their methods.
type optional struct {
	Device
	asked map[string]int
}

func (d *optional) NotifyDown(func(error))                { d.asked["down"]++ }
func (d *optional) NotifyLink(func()) bool                { d.asked["link"]++; return true }
func (d *optional) MergeReceived()                        { d.asked["merge"]++ }
func (d *optional) ReceiveInto(func() ReceiveBuffer) bool { d.asked["place"]++; return true }
func (d *optional) Nonblocking() Device                   { return d }
func (d *optional) Attached() bool                        { return true }

// A wrapper passes on some optional interfaces of its device. An Impaired and a Captured see the frames of
// a real wire, so they do not pass on the interfaces for offloads.
func TestWhatWrappersPassOn(t *testing.T) {
	for name, wrap := range map[string]func(Device) Device{
		"impaired": func(d Device) Device { return Impair(d, ImpairConfig{}) },
		"captured": func(d Device) Device { return Capture(d, io.Discard, CaptureConfig{}) },
		"both":     func(d Device) Device { return Capture(Impair(d, ImpairConfig{}), io.Discard, CaptureConfig{}) },
	} {
		d := &optional{Device: NewNull(Link{}), asked: map[string]int{}}
		w := wrap(d)
		w.(DownNotifier).NotifyDown(func(error) {})
		require.True(t, w.(LinkNotifier).NotifyLink(func() {}), name)
		require.True(t, IsNonblocking(w), name)
		require.Error(t, CheckFree(w), name)
		_, merges := w.(ReceiveMerger)
		_, places := w.(ZeroCopyReceiver)
		require.False(t, merges || places, name)
		require.Equal(t, map[string]int{"down": 1, "link": 1}, d.asked, name)

		null := NewNull(Link{})
		plain := wrap(null)
		require.Error(t, CheckFree(null, plain), name)
		require.False(t, plain.(LinkNotifier).NotifyLink(func() {}), "%s: the device below has no NotifyLink", name)
		require.NoError(t, CheckFree(plain), name)
	}
}
