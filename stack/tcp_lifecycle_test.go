package stack

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// dialed returns a connection from a to b, and the listener, which has not accepted it.
func dialed(t *testing.T, a, b *Stack) (*TCP, *TCPListener) {
	l, err := b.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	c, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
	require.NoError(t, err)
	return c, l
}

func TestTextOnASYNIsFreedWithTheConnection(t *testing.T) {
	server, _, f := floodPair(t)
	_, err := server.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	src := addr("192.0.2.77")
	for i := range 500 {
		p := uint16(2000 + i)
		f.send(src, addrA, wire.TCP{SrcPort: p, DstPort: 80, Seq: 1000, Flags: wire.FlagSYN, Window: 1000, MSS: 1460}, make([]byte, 15))
		f.send(src, addrA, wire.TCP{SrcPort: p, DstPort: 80, Seq: 1001 + 15, Flags: wire.FlagRST, Window: 1000}, nil)
	}
	require.Empty(t, server.tcp.table.sockets())
	require.Zero(t, server.Stats().TCP.Memory)
}

func TestUnreadDataOfAResetConnectionIsFreed(t *testing.T) {
	t.Run("closed", func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, l := dialed(t, a, b)
		d, err := l.Accept()
		require.NoError(t, err)
		c.Write(make([]byte, 10000))
		c.SetLinger(0)
		c.Close()
		d.SetLinger(0)
		d.Close()
		require.Zero(t, b.Stats().TCP.Memory)
	})
	t.Run("never accepted", func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, l := dialed(t, a, b)
		c.Write(make([]byte, 10000))
		c.SetLinger(0)
		c.Close()
		l.Close()
		require.Zero(t, b.Stats().TCP.Memory)
	})
}

// With -race, the test fails if Listen and Close access the same data without a lock.
func TestListenAndCloseOfTheStackMayOverlap(t *testing.T) {
	for range 200 {
		s, err := New(Config{Rand: testRand()})
		require.NoError(t, err)
		var wg sync.WaitGroup
		for i := range 3 {
			wg.Go(func() {
				for j := range 8 {
					if _, err := s.ListenTCP(FamilyAny, netip.AddrPortFrom(netip.Addr{}, uint16(80+10*i+j)), ListenOptions{}); err != nil {
						return
					}
				}
			})
		}
		wg.Go(func() { s.Close() })
		wg.Wait()
	}
}

func TestADialWithAContextThatHasEndedFails(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	_, err := b.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = a.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
	require.ErrorIs(t, err, context.Canceled)
}

func TestALargerWriteBufferWakesAWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, _ := dialed(t, a, b)
		require.NoError(t, c.SetWriteBuffer(4096))
		done := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 300<<10)) // more than the peer's window
			done <- err
		}()
		synctest.Wait()
		require.Empty(t, done)
		require.NoError(t, c.SetWriteBuffer(1<<20))
		synctest.Wait()
		require.Len(t, done, 1)
		require.NoError(t, <-done)
	})
}

// A heldDevice blocks in each Send until the test releases it.
type heldDevice struct {
	name string
	in   chan struct{}
	out  chan error
	sent chan int // if not nil, Send reports its frames here and does not block
}

func (d *heldDevice) Link() nic.Link {
	return nic.Link{Name: d.name, MTU: 1500, Medium: nic.IP, Up: true}
}
func (d *heldDevice) Attach(func([]nic.Frame)) {}
func (d *heldDevice) Close() error             { return nil }
func (d *heldDevice) Send(b []nic.Frame) (int, error) {
	if d.sent != nil {
		d.sent <- len(b)
		return len(b), nil
	}
	d.in <- struct{}{}
	if err := <-d.out; err != nil {
		return 0, err
	}
	return len(b), nil
}

// While a connection waits for room in a transmit queue, its route may change. When there is room, the
// segments must go to the queue of the new interface.
func TestAWaitingConnectionMovesToTheRemainingLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e0 := &heldDevice{name: "e0", sent: make(chan int, 1000)}
		e1 := &heldDevice{name: "e1", in: make(chan struct{}), out: make(chan error)}
		s, err := New(Config{Rand: testRand(), NICs: []NIC{
			{Device: e0, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}, Gateway: addr("192.0.2.254")},
			{Device: e1, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}, Gateway: addr("198.51.100.254")},
		}})
		require.NoError(t, err)
		u, err := s.OpenUDP(FamilyAny, netip.AddrPort{})
		require.NoError(t, err)
		// One datagram is in Send, and the queue behind it is full.
		go u.WriteTo([]byte("x"), addrPort("198.51.100.9:9"), SendOptions{})
		<-e1.in
		for (*s.ifaces.Load())[2].tx.room() {
			u.WriteTo([]byte("x"), addrPort("198.51.100.9:9"), SendOptions{})
		}
		go s.DialTCP(context.Background(), FamilyAny, addrPort("198.51.100.1:0"), addrPort("203.0.113.1:80"), TCPOptions{})
		synctest.Wait()
		require.Empty(t, e0.sent)
		start := time.Now()
		e1.out <- errors.New("gone")
		for len(e0.sent) == 0 {
			select {
			case <-e1.in:
				e1.out <- errors.New("gone")
			case <-e0.sent:
				e0.sent <- 1 // put it back, to end the loop
			}
		}
		require.Equal(t, start, time.Now(), "the SYN was sent at once, and not by the retransmission timer")
		go func() {
			for range e1.in {
				e1.out <- errors.New("gone")
			}
		}()
		s.Close()
		synctest.Wait()
		close(e1.in)
	})
}

// A dial during Close leaves no goroutine or timer behind.
func TestADialDuringCloseOpensNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 50 {
			a, _ := twoHosts(t, nic.PipeConfig{})
			done := make(chan error, 1)
			go func() {
				_, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
				done <- err
			}()
			a.Close()
			if err := <-done; !errors.Is(err, net.ErrClosed) {
				require.ErrorContains(t, err, "connect") // the dial ended before Close: it was refused
			}
			require.Empty(t, a.tcp.table.sockets())
		}
	})
}

// A sticky is a device that blocks one Send after keep is set. It passes all others on.
type sticky struct {
	nic.Device
	keep atomic.Bool
	in   chan struct{}
	out  chan struct{}
}

func (d *sticky) Nonblocking() nic.Device { return d }

func (d *sticky) Send(b []nic.Frame) (int, error) {
	if d.keep.Swap(false) {
		close(d.in)
		<-d.out
	}
	return d.Device.Send(b)
}

func TestCloseSendsItsRSTsWhileAnotherGoroutineSends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
		dev := &sticky{Device: x, in: make(chan struct{}), out: make(chan struct{})}
		a, b := newHost(t, dev, "192.0.2.1/24"), newHost(t, y, "192.0.2.2/24")
		_, l := dialed(t, a, b)
		d, err := l.Accept()
		require.NoError(t, err)
		u, err := a.OpenUDP(FamilyAny, netip.AddrPort{})
		require.NoError(t, err)
		dev.keep.Store(true)
		go u.WriteTo([]byte("x"), addrPort("192.0.2.2:9"), SendOptions{})
		<-dev.in
		require.NoError(t, a.Close())
		_, err = d.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET)
		close(dev.out)
	})
}

func TestASegmentDuringTheChangeToTimeWaitIsAnswered(t *testing.T) {
	// Two goroutines handle two copies of the peer's FIN. After the second goroutine has looked up the
	// connection, the first goroutine moves the connection to TIME-WAIT.
	var sent recorder
	a, b := wiredPair(t, func(dev nic.Device) nic.Device {
		sent.Device = dev
		return &sent
	})
	c, d := connect(t, a, b)
	require.NoError(t, c.CloseWrite())
	var fin tcp.Segment
	d.mu.Lock()
	now := b.now()
	d.conn.CloseWrite(now)
	require.True(t, d.conn.Next(now, &fin))
	d.mu.Unlock()
	require.NotZero(t, fin.Flags&wire.FlagFIN)
	fin.SrcPort, fin.DstPort = d.key.ports()
	payload := make([]byte, fin.Len())
	fin.Put(payload)
	p := packet{ifc: c.path.ifc, now: a.now(), src: c.path.dst, dst: c.path.src, payload: payload, checksumOK: true}

	c.mu.Lock()
	done := make(chan struct{})
	go func() {
		a.inputTCP(&p)
		close(done)
	}()
	time.Sleep(20 * time.Millisecond) // long enough for the goroutine to look up the connection
	now = a.now()
	c.conn.Segment(now, &fin)
	c.run(now)
	require.True(t, c.detached())
	c.mu.Unlock()
	<-done
	a.drain()
	require.Zero(t, sent.resets.Load())
}

// A recorder counts the RSTs that a device sends. While discard is set, it counts and discards the frames.
type recorder struct {
	nic.Device
	resets  atomic.Int32
	discard atomic.Bool
}

func (r *recorder) Nonblocking() nic.Device { return r }

func (r *recorder) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		b := batch[i].AppendTo(nil)
		if len(b) > 47 && b[23] == byte(wire.ProtoTCP) && b[47]&4 != 0 { // a segment with the RST flag
			r.resets.Add(1)
		}
	}
	if r.discard.Load() {
		return len(batch), nil
	}
	return r.Device.Send(batch)
}

// A segment has the time at which its batch was received. While the batch is processed, another goroutine
// may write at a later time. The segment must not move the connection's time back, because a negative
// round-trip time would spoil the estimate and all timers that depend on it.
func TestTimeDoesNotGoBackWithinABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		syn, _, _, wait := dialing(t, s, p, netip.AddrPort{})
		h := wire.TCP{SrcPort: 80, DstPort: syn.SrcPort, Seq: 100, Ack: syn.Seq + 1, Flags: wire.FlagSYN | wire.FlagACK, Window: 60000, MSS: 1460}
		time.Sleep(10 * time.Millisecond)
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), h))
		require.NoError(t, wait())
		c := s.tcp.table.sockets()[0]
		require.Equal(t, tcp.Time(10*time.Millisecond), c.Info().MinRTT)
		time.Sleep(time.Second)
		received := s.now() // when the batch was received
		time.Sleep(100 * time.Millisecond)
		_, err := c.Write(make([]byte, 100))
		require.NoError(t, err)
		wrote := s.now()
		require.True(t, c.segment(nil, received, &tcp.Segment{TCP: wire.TCP{
			SrcPort: 80, DstPort: syn.SrcPort, Flags: wire.FlagACK, Window: 60000, Seq: 101, Ack: syn.Seq + 101,
		}}))
		require.Zero(t, c.Info().Unacked)
		require.Equal(t, wrote, c.lastRun)
		require.GreaterOrEqual(t, c.Info().MinRTT, tcp.Time(0))
		require.NoError(t, c.SetLinger(0))
		require.NoError(t, c.Close())
	})
}
