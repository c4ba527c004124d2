package stack

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A barrier is a device whose Send waits while it is shut.
type barrier struct {
	nic.Device
	mu   sync.Mutex
	cond sync.Cond
	shut bool
	held int // calls of Send that wait
}

func newBarrier(dev nic.Device) *barrier {
	g := &barrier{Device: dev}
	g.cond.L = &g.mu
	return g
}

func (g *barrier) Nonblocking() nic.Device { return g }

func (g *barrier) Send(batch []nic.Frame) (int, error) {
	g.mu.Lock()
	g.held++
	for g.shut {
		g.cond.Wait()
	}
	g.held--
	g.mu.Unlock()
	return g.Device.Send(batch)
}

func (g *barrier) set(shut bool) {
	g.mu.Lock()
	g.shut = shut
	g.cond.Broadcast()
	g.mu.Unlock()
}

// noise returns n pseudo-random bytes.
func noise(n int) []byte {
	r := rand.New(rand.NewPCG(uint64(n), 1))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func TestAWriteDoesNotReturnWhileItsBytesAreInADevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g *barrier
		a, b := wiredPair(t, func(dev nic.Device) nic.Device {
			g = newBarrier(dev)
			return g
		})
		c, d := connect(t, a, b)
		want := noise(100_000)
		g.set(true)
		returned := false
		go func() {
			p := bytes.Clone(want)
			n, err := c.Write(p)
			returned = true
			require.NoError(t, err)
			require.Equal(t, len(want), n)
			clear(p)
			c.CloseWrite()
		}()
		synctest.Wait()
		require.Equal(t, 1, g.held, "the writer's goroutine is in Send")
		require.False(t, returned, "the frames refer to the writer's bytes")
		g.set(false)
		got, err := io.ReadAll(d)
		require.NoError(t, err)
		require.True(t, returned)
		require.True(t, bytes.Equal(want, got))
	})
}

// A peer may answer as soon as it has the last bytes. If Write waited for another goroutine that drains
// the queue, the Read of the answer could return before the Write.
func TestAWriteDoesNotWaitForTheDrainingGoroutine(t *testing.T) {
	for name, size := range map[string]int{"small": 10_000, "large": 60_000, "more than fits": 65_000} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g *barrier
				a, b := wiredPair(t, func(dev nic.Device) nic.Device {
					g = newBarrier(dev)
					return g
				})
				c, d := connect(t, a, b)
				e, _ := connect(t, a, b)
				require.NoError(t, c.SetWriteBuffer(60_000))
				want := noise(size)
				got := make(chan []byte, 1)
				go func() {
					p, _ := io.ReadAll(d)
					got <- p
				}()

				// The writer of another connection blocks in Send of the same interface.
				g.set(true)
				go e.Write([]byte("first"))
				synctest.Wait()
				require.Equal(t, 1, g.held)
				returned := false
				go func() {
					p := bytes.Clone(want)
					n, err := c.Write(p)
					returned = true
					require.NoError(t, err)
					require.Equal(t, len(want), n)
					clear(p)
					c.CloseWrite()
				}()
				synctest.Wait()
				require.Equal(t, size <= 60_000, returned, "only the largest Write waits for room")
				g.set(false)
				require.True(t, bytes.Equal(want, <-got))
				require.True(t, returned)
			})
		})
	}
}

func TestAnAbortedWriteKeepsNoReferenceToItsBytes(t *testing.T) {
	for name, end := range map[string]func(c *TCP){
		"deadline": func(c *TCP) { c.SetWriteDeadline(time.Now()) },
		"close":    func(c *TCP) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := wiredPair(t, nil)
				c, d := connect(t, a, b)
				// The peer does not read, so Write waits for room.
				want := noise(4 << 20)
				p := bytes.Clone(want)
				n := -1
				go func() {
					var err error
					n, err = c.Write(p)
					require.Error(t, err)
					clear(p)
				}()
				synctest.Wait()
				require.Equal(t, -1, n, "Write waits")
				end(c)
				synctest.Wait()
				require.Positive(t, n)
				require.Less(t, n, len(want))
				c.Close() // ends the Write; the bytes that Write has accepted are still delivered
				got, err := io.ReadAll(d)
				require.NoError(t, err)
				require.True(t, bytes.Equal(want[:n], got))
			})
		})
	}
}

func TestAWriteDoesNotWaitForTheNeighborsAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		c, d := connect(t, a, b)
		// Forget the neighbour; the next route lookup resolves it again.
		ifc := a.ifaceNamed(a.Interfaces()[1].Name)
		ifc.flushNeighbors(false)
		a.gen.Add(1)
		b.ifaceNamed(b.Interfaces()[1].Name).neigh4.closed = true // b does not answer
		want := noise(60_000)
		p := bytes.Clone(want)
		began := time.Now()
		n, err := c.Write(p)
		require.NoError(t, err)
		require.Equal(t, len(want), n)
		require.Zero(t, time.Since(began))
		clear(p)
		c.Close()
		got, err := io.ReadAll(d)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
	})
}

func TestWritersReuseTheirBuffersOnAnyLink(t *testing.T) {
	// The test overwrites the buffer as soon as Write has returned. The peer must receive the bytes that
	// were in the buffer before. The race detector reports a read of the buffer after Write.
	plain := func(cfg nic.PipeConfig) func(t *testing.T) (a, b *Stack) {
		return func(t *testing.T) (a, b *Stack) { return twoHosts(t, cfg) }
	}
	impaired := func(i nic.Impairment) func(t *testing.T) (a, b *Stack) {
		return func(t *testing.T) (a, b *Stack) {
			return wiredPair(t, func(dev nic.Device) nic.Device {
				return nic.Impair(dev, nic.ImpairConfig{Out: i, In: i, Seed: 1})
			})
		}
	}
	for name, hosts := range map[string]func(t *testing.T) (a, b *Stack){
		"pipe":      plain(nic.PipeConfig{}),
		"plain":     plain(nic.PipeConfig{NoTxChecksum: true}),
		"one frame": plain(nic.PipeConfig{GSO: -1}),
		"IP":        plain(nic.PipeConfig{Medium: nic.IP}),
		"loss":      impaired(nic.Impairment{Latency: 3 * time.Millisecond, Loss: 0.02, Reorder: 0.01, Duplicate: 0.01}),
		"slow":      impaired(nic.Impairment{Latency: 10 * time.Millisecond, Rate: 100e6}),
		"switch": func(t *testing.T) (a, b *Stack) {
			sw := nic.NewSwitch(nic.SwitchConfig{})
			return newHost(t, sw.Port(), "192.0.2.1/24"), newHost(t, sw.Port(), "192.0.2.2/24")
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := hosts(t)
				var wg sync.WaitGroup
				for range 3 {
					c, d := connect(t, a, b)
					wg.Go(func() { exchange(t, c, d, 1_000_000) })
					wg.Go(func() { exchange(t, d, c, 1_000_000) })
				}
				wg.Wait()
			})
		})
	}
	t.Run("loopback", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, _ := wiredPair(t, nil)
			l, err := a.ListenTCP(FamilyAny, netip.AddrPort{}, ListenOptions{})
			require.NoError(t, err)
			c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), l.LocalAddr().Port()), TCPOptions{})
			require.NoError(t, err)
			d, err := l.Accept()
			require.NoError(t, err)
			exchange(t, c, d, 5_000_000)
		})
	})
}

func TestFramesBuiltWhileAWriterWaitsAreCopies(t *testing.T) {
	// The interface may drop a frame while t.mu is held. The completion of a frame with pinned bytes locks
	// t.mu if a writer waits. A frame that is built while a writer waits must therefore be a copy, which
	// needs no completion.
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		c, _ := connect(t, a, b)
		c.mu.Lock()
		c.startPinning()
		completed := false
		c.zc.done = func() { completed = true; c.zc.frames.Add(-1) }
		c.queueFull = true // so that no frame is built before the link is down
		require.Positive(t, c.conn.Pin(a.now(), noise(60_000)))
		c.zc.frames.Add(1) // an earlier frame is in the device
		c.mu.Unlock()
		returned := false
		go func() {
			c.mu.Lock()
			c.awaitFrames()
			c.unpin()
			returned = true
			c.mu.Unlock()
		}()
		synctest.Wait()

		// The device has sent the earlier frame but has not locked c.mu yet. The link goes down.
		c.mu.Lock()
		c.zc.frames.Add(-1)
		c.path.ifc.down.Store(true)
		c.queueFull = false
		c.run(a.now())
		sent := c.conn.Info(0).InFlight
		c.path.ifc.down.Store(false)
		c.wakeWriters()
		c.mu.Unlock()
		synctest.Wait()
		require.Positive(t, sent, "frames were built and dropped")
		require.False(t, completed, "the completion would have locked c.mu again")
		require.True(t, returned)
		c.Close()
	})
}

func TestAFrameForARemovedLinkIsCompleted(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{Medium: nic.IP})
	c, _ := connect(t, a, b)
	ifc := c.path.ifc
	require.NoError(t, a.RemoveNIC(ifc.name))
	ifc.down.Store(false) // as the writer has seen it, before the removal
	l := &zeroCopySend{t: c}
	l.frames.Add(1)
	sl := c.path.slot(a.now(), 0, false)
	a.emit(a.now(), c.path, &ipHeader{proto: wire.ProtoTCP, ttl: defaultTTL}, &sl, 0, &frameMeta{body: make([]byte, 4000), done: l.complete})
	a.drain()
	require.Zero(t, l.frames.Load(), "Write would wait forever")
}

func TestFramesThatANeighborDropsAreCompleted(t *testing.T) {
	// In the stack, no frame with pinned bytes waits for a neighbour. The test makes one wait: it must be
	// completed when it is dropped.
	for name, lose := range map[string]func(t *testing.T, nt *neighborTable, n *neighbor){
		"the neighbor does not answer": func(t *testing.T, nt *neighborTable, n *neighbor) {
			n.word.Store(packNeighbor(wire.MAC{}, NeighborIncomplete))
			n.tries, n.queued, nt.asking = maxRequests, true, append(nt.asking, n)
			nt.fired()
		},
		"the link is down":     func(t *testing.T, nt *neighborTable, n *neighbor) { nt.flush(true) },
		"the table is flushed": func(t *testing.T, nt *neighborTable, n *neighbor) { nt.flush(false) },
		"the bytes are needed for other datagrams": func(t *testing.T, nt *neighborTable, n *neighbor) {
			nt.mu.Lock()
			nt.park(n, addrA, &nt.ifc.tx, txEntry{buf: nt.ifc.s.bufs.get(maxWaiting)})
			nt.mu.Unlock()
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := twoHosts(t, nic.PipeConfig{})
			c, _ := connect(t, a, b)
			nt := c.path.ifc.neigh4
			l := &zeroCopySend{t: c}
			l.frames.Add(1)
			nt.mu.Lock()
			n := nt.getLocked(addr("192.0.2.99"))
			n.waiting.list = append(n.waiting.list, waitingDatagram{src: addrA, frames: []txEntry{{
				frame: nic.Frame{Head: make([]byte, 60)}, buf: a.bufs.get(100), done: l.complete,
			}}})
			nt.mu.Unlock()
			lose(t, nt, n)
			require.Zero(t, l.frames.Load(), "Write would wait forever")
		})
	}
}

// A watcher is a device with a slow Send. It counts the batches whose bytes change during Send.
type watcher struct {
	nic.Device
	seen, changed atomic.Int64
}

func (w *watcher) Nonblocking() nic.Device { return w }

func (w *watcher) Send(batch []nic.Frame) (int, error) {
	sum := func() (s uint32) {
		for i := range batch {
			s = s*31 + crc32.ChecksumIEEE(batch[i].Body)
			w.seen.Add(int64(len(batch[i].Body)))
		}
		return s
	}
	before := sum()
	for range 5 {
		runtime.Gosched()
	}
	if sum() != before {
		w.changed.Add(1)
	}
	return w.Device.Send(batch)
}

func TestNoWriteEndsWhileADeviceReadsItsBytes(t *testing.T) {
	// Writes end normally, at a deadline, or because either end of the connection is closed.
	var w *watcher
	a, b := wiredPair(t, func(dev nic.Device) nic.Device {
		w = &watcher{Device: dev}
		return w
	})
	var wg sync.WaitGroup
	for i := range 6 {
		for range 3 {
			c, d := connect(t, a, b)
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), 2))
				p := make([]byte, 300_000)
				for k := range 40 {
					if i%3 == 1 {
						c.SetWriteDeadline(time.Now().Add(time.Duration(r.IntN(200)) * time.Microsecond))
					}
					_, err := c.Write(p[:r.IntN(len(p))])
					for j := range p {
						p[j] = byte(k)
					}
					if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
						return // the connection was closed by the other goroutine, or reset
					}
				}
				c.Close()
			})
			wg.Go(func() {
				if i%3 == 2 {
					io.CopyN(io.Discard, d, 1_000_000)
					if d.Close(); i == 2 {
						c.Close()
					}
					return
				}
				io.Copy(io.Discard, d)
			})
		}
	}
	wg.Wait()
	require.Zero(t, w.changed.Load())
	require.Greater(t, w.seen.Load(), int64(10_000_000), "the test must send enough")
}

// A deafened device drops the frames that it receives while deaf is set.
type deafened struct {
	nic.Device
	deaf atomic.Bool
}

func (d *deafened) Attach(recv func(batch []nic.Frame)) {
	d.Device.Attach(func(batch []nic.Frame) {
		if !d.deaf.Load() {
			recv(batch)
		}
	})
}

func TestConcurrentLargeWritesWaitForACKs(t *testing.T) {
	const (
		way  = 100 * time.Microsecond // delay of the wire in each direction
		size = 46 * 1448              // 46 segments: the peer acknowledges the last one at once
	)
	synctest.Test(t, func(t *testing.T) {
		dev := new(deafened)
		a, b := wiredPair(t, func(wire nic.Device) nic.Device {
			i := nic.Impairment{Latency: way}
			dev.Device = nic.Impair(wire, nic.ImpairConfig{In: i, Out: i})
			return dev
		})
		c, d := connect(t, a, b)
		require.NoError(t, c.SetWriteBuffer(8*size))
		var want []byte
		write := func() (took time.Duration, unacked int) {
			p := noise(size + len(want))[:size]
			want = append(want, p...)
			began := time.Now()
			n, err := c.Write(p)
			took = time.Since(began)
			require.NoError(t, err)
			require.Equal(t, len(p), n)
			clear(p)
			c.mu.Lock()
			defer c.mu.Unlock()
			return took, c.conn.Unacked()
		}
		got := make(chan []byte, 1)
		go func() {
			p, _ := io.ReadAll(d)
			got <- p
		}()

		took, unacked := write()
		require.Zero(t, took, "a single writer does not wait")
		require.Positive(t, unacked)
		time.Sleep(time.Second)
		writers := &c.path.ifc.bulk
		require.Zero(t, writers.Load())
		writers.Add(crowd - 1)
		took, unacked = write()
		require.Zero(t, unacked)
		require.Less(t, took, time.Duration(ackWait))

		dev.deaf.Store(true)
		took, _ = write()
		require.Equal(t, time.Duration(ackWait), took, "at most ackWait")
		for range 2 {
			took, _ = write()
			require.Zero(t, took, "after a timeout the next Writes do not wait")
		}
		took, _ = write()
		require.Equal(t, time.Duration(ackWait), took)
		dev.deaf.Store(false)
		c.Close()
		require.True(t, bytes.Equal(want, <-got))
	})
}

func TestAWriterFarFromItsPeerDoesNotWaitForACKs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, func(wire nic.Device) nic.Device {
			return nic.Impair(wire, nic.ImpairConfig{Out: nic.Impairment{Latency: time.Millisecond}})
		})
		c, _ := connect(t, a, b)
		require.NoError(t, c.SetWriteBuffer(2*crowdBytes))
		c.path.ifc.bulk.Add(crowd)
		began := time.Now()
		_, err := c.Write(make([]byte, crowdBytes))
		require.NoError(t, err)
		require.Zero(t, time.Since(began))
	})
}
