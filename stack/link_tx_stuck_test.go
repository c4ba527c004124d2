package stack

import (
	"context"
	"errors"
	"io"
	"net/netip"
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

// A stuckTunnel is an io.ReadWriteCloser of frames. Write blocks while stuck is set and the tunnel is not
// closed.
type stuckTunnel struct {
	mu     sync.Mutex
	cond   sync.Cond
	in     [][]byte
	out    *stuckTunnel // the other end, which receives the written frames
	stuck  bool
	closed bool
}

func newTunnel() *stuckTunnel {
	w := new(stuckTunnel)
	w.cond.L = &w.mu
	return w
}

func (w *stuckTunnel) Read(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.in) == 0 && !w.closed {
		w.cond.Wait()
	}
	if w.closed {
		return 0, io.EOF
	}
	n := copy(b, w.in[0])
	w.in = w.in[1:]
	return n, nil
}

func (w *stuckTunnel) Write(b []byte) (int, error) {
	w.mu.Lock()
	for w.stuck && !w.closed {
		w.cond.Wait()
	}
	closed := w.closed
	w.mu.Unlock()
	if closed {
		return 0, os.ErrClosed
	}
	if w.out != nil {
		w.out.mu.Lock()
		w.out.in = append(w.out.in, append([]byte(nil), b...))
		w.out.cond.Broadcast()
		w.out.mu.Unlock()
	}
	return len(b), nil
}

// set sets stuck and closed, and wakes the waiting calls.
func (w *stuckTunnel) set(stuck, closed bool) {
	w.mu.Lock()
	w.stuck, w.closed = stuck, closed
	w.cond.Broadcast()
	w.mu.Unlock()
}

func (w *stuckTunnel) Close() error {
	w.set(false, true)
	return nil
}

// A shell is a device with only the four methods of nic.Device, as a user may write one.
type shell struct{ nic.Device }

// stuckDevices are devices that wrap a stuck tunnel in different ways.
var stuckDevices = map[string]func(w *stuckTunnel) nic.Device{
	"adapter": func(w *stuckTunnel) nic.Device { return nic.FromReadWriter(w, nic.Link{}) },
	"captured": func(w *stuckTunnel) nic.Device {
		return nic.Capture(nic.FromReadWriter(w, nic.Link{}), io.Discard, nic.CaptureConfig{})
	},
	"impaired": func(w *stuckTunnel) nic.Device {
		return nic.Impair(nic.FromReadWriter(w, nic.Link{}), nic.ImpairConfig{})
	},
	"own": func(w *stuckTunnel) nic.Device { return shell{nic.FromReadWriter(w, nic.Link{})} },
	"funcs": func(w *stuckTunnel) nic.Device {
		d := nic.FromFuncs(nic.Link{}, func(b []byte) error {
			_, err := w.Write(b)
			return err
		})
		return &funcsOver{d, w}
	},
	"embedded": func(w *stuckTunnel) nic.Device { return &blockedNull{nic.NewNull(nic.Link{}), w} },
}

// A funcsOver is a FuncDevice whose Close also closes the tunnel w.
type funcsOver struct {
	*nic.FuncDevice
	w *stuckTunnel
}

func (d *funcsOver) Close() error {
	d.w.Close()
	return d.FuncDevice.Close()
}

// A blockedNull has the method Nonblocking of the embedded Null, although its own Send may block.
type blockedNull struct {
	*nic.Null
	w *stuckTunnel
}

func (d *blockedNull) Send(batch []nic.Frame) (int, error) {
	_, err := d.w.Write(nil)
	return len(batch), err
}

func (d *blockedNull) Close() error {
	d.w.Close()
	return d.Null.Close()
}

// New, RemoveNIC, Close and the calls of an application return even if a device accepts no frames.
func TestNoCallBlocksOnAStuckDevice(t *testing.T) {
	for name, newDevice := range stuckDevices {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newTunnel()
				w.set(true, false)
				began := time.Now()
				s, err := New(Config{Rand: testRand(), NICs: []NIC{
					{Name: "stuck", Device: newDevice(w), Addrs: []netip.Prefix{prefix("192.0.2.1/24")}},
				}})
				require.NoError(t, err)
				u := openUDP(t, s, "0.0.0.0:0")
				for range 10 {
					sendTo2(t, u, "x")
				}
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				_, err = s.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
				require.ErrorIs(t, err, context.DeadlineExceeded)
				require.NoError(t, s.AddNIC(NIC{Name: "too", Device: newDevice(w), Addrs: []netip.Prefix{prefix("198.51.100.1/24")}}))
				require.Equal(t, time.Second, time.Since(began))
				require.NoError(t, s.RemoveNIC("too"))
				w.set(true, false) // RemoveNIC has closed the tunnel
				s.AddNIC(NIC{Name: "too", Device: newDevice(w), Addrs: []netip.Prefix{prefix("198.51.100.1/24")}})
				began = time.Now()
				require.NoError(t, s.Close())
				require.LessOrEqual(t, time.Since(began), 2*closeStall)
			})
		})
	}
}

// A deadline ends a Write to a stuck device.
func TestADeadlineEndsAWriteToAStuckDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := nic.Pipe(nic.PipeConfig{})
		stop := make(chan struct{})
		dev := &stoppable{Device: x, stop: stop}
		a, b := newHost(t, dev, "192.0.2.1/24"), newHost(t, y, "192.0.2.2/24")
		c, _ := dialed(t, a, b)
		synctest.Wait()
		dev.stopped.Store(true)
		began := time.Now()
		require.NoError(t, c.SetWriteDeadline(began.Add(time.Second)))
		_, err := c.Write(make([]byte, 8<<20))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		require.NoError(t, c.Close())
		dev.stopped.Store(false)
		close(stop)
	})
}

// A stoppable device blocks in Send while it is stopped. It accepts super-frames.
type stoppable struct {
	nic.Device
	stop    chan struct{}
	stopped atomic.Bool
}

func (d *stoppable) Send(batch []nic.Frame) (int, error) {
	if d.stopped.Load() {
		<-d.stop
	}
	return d.Device.Send(batch)
}

// Keep-alive probes, sends and receives on a link continue while another link is stuck.
func TestAStuckLinkDoesNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck, other := newTunnel(), newTunnel()
		stuck.out, other.out = other, stuck
		x, y := nic.Pipe(nic.PipeConfig{})
		far := newHost(t, nic.FromReadWriter(other, nic.Link{}), "198.51.100.2/24")
		near := newHost(t, y, "192.0.2.2/24")
		s, err := New(Config{Rand: testRand(), NICs: []NIC{
			{Name: "stuck", Device: nic.FromReadWriter(stuck, nic.Link{}), Addrs: []netip.Prefix{prefix("198.51.100.1/24")}},
			{Name: "ok", Device: x, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}},
		}})
		require.NoError(t, err)
		defer s.Close()
		// Open connections over both links. All keep-alive probes are due at the same time, and the probes
		// on the stuck link fill its queue.
		const n = 3 * txQueueLen
		listen := func(to *Stack, remote string) *TCPListener {
			l, err := to.ListenTCP(FamilyAny, addrPort(remote), ListenOptions{})
			require.NoError(t, err)
			return l
		}
		listen(far, "198.51.100.2:80")
		listen(near, "192.0.2.2:80")
		open := func(remote string) *TCP {
			c, err := s.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort(remote), TCPOptions{KeepAlive: true})
			require.NoError(t, err)
			return c
		}
		for range n {
			open("198.51.100.2:80")
		}
		var ok *TCP
		for range 10 {
			ok = open("192.0.2.2:80")
		}
		synctest.Wait()
		stuck.set(true, false)
		before := near.Stats().TCP.Received
		time.Sleep(16 * time.Second)
		require.EqualValues(t, 10, near.Stats().TCP.Received-before, "a probe each")
		require.GreaterOrEqual(t, s.ifaceNamed("stuck").tx.n.Load(), int32(txQueueLen-txBatch), "its queue is full")
		began := time.Now()
		_, err = ok.Write([]byte("x"))
		require.NoError(t, err)
		synctest.Wait()
		require.EqualValues(t, 11, near.Stats().TCP.Received-before)
		require.Equal(t, began, time.Now())
		// When the stuck device accepts frames again, the waiting connections send.
		before = far.Stats().TCP.Received
		stuck.set(false, false)
		time.Sleep(2 * time.Second)
		require.GreaterOrEqual(t, far.Stats().TCP.Received-before, uint64(n))
	})
}

// Close waits for a device that is slow but accepts frames.
func TestCloseWaitsForASlowDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := nic.Pipe(nic.PipeConfig{})
		dev := &slowDevice{Device: x}
		a, b := newHost(t, dev, "192.0.2.1/24"), newHost(t, y, "192.0.2.2/24")
		l, err := b.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		const n = 40
		for range n {
			_, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.NoError(t, err)
		}
		synctest.Wait()
		dev.wait.Store(int64(300 * time.Millisecond)) // each Send takes 300 ms
		require.NoError(t, a.Close())
		dev.wait.Store(0)
		for range n {
			c, err := l.Accept()
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1))
			require.Error(t, err)
			require.False(t, errors.Is(err, io.EOF))
		}
	})
}

// A slowDevice sleeps in each Send, for the duration in its field wait.
type slowDevice struct {
	nic.Device
	wait atomic.Int64 // time.Duration
}

func (d *slowDevice) Send(batch []nic.Frame) (int, error) {
	time.Sleep(time.Duration(d.wait.Load()))
	return d.Device.Send(batch)
}

// The timers of connections continue even if the interface's queue is full and makes no progress. A dial
// without an answer and data without an ACK time out, as on any dead link.
func TestConnectionsOverAStuckLinkTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := nic.Pipe(nic.PipeConfig{Medium: nic.IP}) // on Ethernet, ARP would fail first
		stop := make(chan struct{})
		dev := &stoppable{Device: x, stop: stop}
		a, b := newHost(t, dev, "192.0.2.1/24"), newHost(t, y, "192.0.2.2/24")
		defer close(stop)
		c, _ := dialed(t, a, b)
		synctest.Wait()
		dev.stopped.Store(true)
		u := openUDP(t, a, "0.0.0.0:0")
		require.NoError(t, u.SetWriteDeadline(time.Now().Add(time.Second)))
		var err error
		for err == nil { // until the queue is full
			_, err = u.WriteTo(make([]byte, 100), addrPort("192.0.2.2:9"), SendOptions{})
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		began := time.Now()
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := c.Write(make([]byte, 1000))
			require.NoError(t, err)
			_, err = c.Read(make([]byte, 1))
			require.ErrorIs(t, err, syscall.ETIMEDOUT)
		})
		for range 2 {
			wg.Go(func() {
				_, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
				require.ErrorIs(t, err, syscall.ETIMEDOUT)
			})
		}
		done := make(chan struct{})
		go func() {
			wg.Wait()
			close(done)
		}()
		select {
		case <-done:
		case <-time.After(time.Hour):
			t.Error("a connection waits for ever")
			require.NoError(t, a.Close())
		}
		t.Log(time.Since(began))
	})
}

// A stubbornDevice waits in Close, like a tunnel whose Close waits for a Write in progress.
type stubbornDevice struct {
	nic.Device
	closing chan struct{} // when this channel is closed, Close returns
}

func (d *stubbornDevice) Close() error {
	<-d.closing
	return d.Device.Close()
}

func TestCloseDoesNotWaitForADeviceThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		closing := make(chan struct{})
		link := func(name, addr string) NIC {
			return NIC{Name: name, Device: &stubbornDevice{nic.NewNull(nic.Link{}), closing}, Addrs: []netip.Prefix{prefix(addr)}}
		}
		s, err := New(Config{Rand: testRand(), NICs: []NIC{link("one", "192.0.2.1/24"), link("two", "198.51.100.1/24")}})
		require.NoError(t, err)
		began := time.Now()
		require.ErrorContains(t, s.RemoveNIC("two"), "stack: two: the device has not closed")
		require.LessOrEqual(t, time.Since(began), closeStall)
		began = time.Now()
		require.ErrorContains(t, s.Close(), "stack: one: the device has not closed")
		require.LessOrEqual(t, time.Since(began), 2*closeStall)
		close(closing)
	})
}

// stuckAndOther makes a host with a stuck link to 198.51.100.0/24 and a link to 192.0.2.0/24 that can be stopped.
func stuckAndOther(t *testing.T) (s *Stack, stuck *stuckTunnel, ok *stoppable) {
	stuck = newTunnel()
	x, y := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	y.Attach(func([]nic.Frame) {})
	ok = &stoppable{Device: x, stop: make(chan struct{})}
	s, err := New(Config{Rand: testRand(), NoIPv6: true, NICs: []NIC{
		{Name: "stuck", Device: nic.FromReadWriter(stuck, nic.Link{Medium: nic.IP}), Addrs: []netip.Prefix{prefix("198.51.100.1/24")}},
		{Name: "ok", Device: ok, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}},
	}})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s, stuck, ok
}

// fill writes datagrams to an address over an interface whose device is stuck, until the queue is full.
func fill(t *testing.T, ifc *iface, to string) {
	for first := true; first || ifc.tx.room(); first = false {
		u := openUDP(t, ifc.s, "0.0.0.0:0")
		require.NoError(t, u.SetWriteDeadline(time.Now().Add(time.Millisecond)))
		var err error
		for err == nil {
			_, err = u.WriteTo([]byte("x"), addrPort(to), SendOptions{})
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, u.Close())
	}
}

// waitersOf returns the number of waiters of an interface's transmit queue.
func waitersOf(ifc *iface) int {
	ifc.tx.mu.Lock()
	defer ifc.tx.mu.Unlock()
	return len(ifc.tx.waiters)
}

// A socket waits at most once in each transmit queue, although its writers wait for several queues.
func TestASocketIsEnlistedOnceInAQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stuck, ok := stuckAndOther(t)
		stuck.set(true, false)
		fill(t, s.ifaceNamed("stuck"), "198.51.100.2:9")
		u := openUDP(t, s, "0.0.0.0:0")
		write := func(to string) {
			go u.WriteTo([]byte("x"), addrPort(to), SendOptions{})
			synctest.Wait()
		}
		for range 2 {
			write("198.51.100.2:9")
		}
		for range 3 {
			stop := make(chan struct{})
			ok.stop = stop
			ok.stopped.Store(true)
			fill(t, s.ifaceNamed("ok"), "192.0.2.2:9")
			write("192.0.2.2:9")
			ok.stopped.Store(false)
			close(stop)
			synctest.Wait()
		}
		require.Equal(t, 1, waitersOf(s.ifaceNamed("stuck")))
		// All writers are woken when the stuck device accepts frames again.
		before := s.ifaceNamed("stuck").stats.sent()
		stuck.set(false, false)
		synctest.Wait()
		require.GreaterOrEqual(t, s.ifaceNamed("stuck").stats.sent()-before, uint64(txQueueLen))
		require.Zero(t, waitersOf(s.ifaceNamed("stuck")))
		u.mu.Lock()
		enlisted := u.enlisted
		u.mu.Unlock()
		require.Empty(t, enlisted)
	})
}

// The queue of a stuck device keeps no socket that is closed.
func TestAStuckQueueKeepsNoClosedSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stuck, _ := stuckAndOther(t)
		stuck.set(true, false)
		for range 10 {
			fill(t, s.ifaceNamed("stuck"), "198.51.100.2:9")
		}
		require.Zero(t, waitersOf(s.ifaceNamed("stuck")))
	})
}
