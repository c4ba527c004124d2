package stack

import (
	"io"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// With several queues and with one, concurrent transfers arrive whole, and the segments of each connection arrive in
// order: a segment that overtakes another would be queued by the receiver.
func TestBulkQueuesKeepTheOrderOfEachConnection(t *testing.T) {
	for name, one := range map[string]bool{"several queues": false, "one queue": true} {
		t.Run(name, func(t *testing.T) {
			da, db := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
			set := func(c *Config) { c.NICs[0].OneQueue = one }
			a, b := newHost(t, da, "192.0.2.1/24", set), newHost(t, db, "192.0.2.2/24", set)
			const conns, size = 8, 10_000_000
			var wg sync.WaitGroup
			used := map[*txQueue]int{}
			var mu sync.Mutex
			for range conns {
				c, d := connect(t, a, b)
				for _, ends := range [][2]*TCP{{c, d}, {d, c}} {
					wg.Go(func() {
						exchange(t, ends[0], ends[1], size)
						mu.Lock()
						used[ends[0].lockedTxQueue()]++
						mu.Unlock()
					})
				}
			}
			wg.Wait()
			for _, s := range []*Stack{a, b} {
				events := s.Stats().TCP.Events
				require.Zero(t, events[tcp.OFOQueue], "segments that arrived out of order")
				shared := used[&s.ifaceNamed("eth0").tx]
				if one {
					require.Equal(t, conns, shared)
					require.Nil(t, s.ifaceNamed("eth0").txBulk.Load())
				} else {
					require.Less(t, shared, conns, "each has sent 10 MB")
				}
			}
			if !one {
				require.Greater(t, len(used), 4, "each host has used several queues")
			}
		})
	}
}

// A connection keeps the shared queue while a frame of it may wait there, because a frame in another queue could
// overtake that frame.
func TestAConnectionChangesItsQueueWhenNoneOfItsFramesWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, d := connect(t, a, b)
		go io.Copy(io.Discard, d)
		q := &a.ifaceNamed("eth0").tx
		write := func(n int) {
			k, err := c.Write(make([]byte, n))
			require.NoError(t, err)
			require.Equal(t, n, k)
		}
		write(pinBytes - 1)
		require.Same(t, q, c.lockedTxQueue(), "the connection has not sent in bulk")

		require.True(t, q.draining.CompareAndSwap(false, true), "another goroutine sends")
		write(pinBytes)
		require.Positive(t, q.n.Load())
		require.Same(t, q, c.lockedTxQueue())
		write(pinBytes)
		require.Same(t, q, c.lockedTxQueue(), "frames wait")
		q.drainOn(maxDrain)

		write(pinBytes)
		require.NotSame(t, q, c.lockedTxQueue())
		require.Zero(t, q.n.Load())
	})
}

// A connection that has received a large super-frame acknowledges through a queue for bulk transfers.
func TestAConnectionThatReceivesInBulkHasABulkQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, d := connect(t, a, b)
		shared := &b.ifaceNamed("eth0").tx
		receive := func(n int) {
			go c.Write(make([]byte, n))
			_, err := io.ReadFull(d, make([]byte, n))
			require.NoError(t, err)
			synctest.Wait()
		}
		receive(pinBytes - 1)
		require.Same(t, shared, d.lockedTxQueue(), "the segments are small")
		for range 10 {
			receive(4 * pinBytes) // the congestion window may be too small for a large segment at first
		}
		require.NotSame(t, shared, d.lockedTxQueue())
		receive(1)
		require.NotSame(t, shared, d.lockedTxQueue(), "it keeps the queue")
	})
}

// The frames of a bulk transfer leave in order even if the neighbour is unknown, or its address is old. A frame that waits
// for the neighbour, or makes the host probe it, goes to the queue of the others.
func TestBulkFramesStayInOrderWhileTheNeighborIsProbed(t *testing.T) {
	for name, age := range map[string]func(*Stack){
		"stale": func(s *Stack) {
			nt := s.ifaceNamed("eth0").neighbors(addrB)
			nt.mu.Lock()
			nt.m[addrB].setState(NeighborStale)
			nt.mu.Unlock()
		},
		"unknown": (*Stack).FlushNeighbors,
	} {
		t.Run(name, func(t *testing.T) {
			a, b := twoHosts(t, nic.PipeConfig{GSO: -1})
			c, d := connect(t, a, b)
			for _, size := range []int{pinBytes, 2 * pinBytes} { // no more than may wait for a neighbour
				for range 3 {
					go func() {
						_, err := c.Write(make([]byte, size))
						assert.NoError(t, err)
					}()
					_, err := io.ReadFull(d, make([]byte, size))
					require.NoError(t, err)
					age(a)
				}
			}
			require.NotSame(t, &a.ifaceNamed("eth0").tx, c.lockedTxQueue())
			require.Zero(t, b.Stats().TCP.Events[tcp.OFOQueue], "segments that arrived out of order")
		})
	}
}

// What a seeded host sends does not depend on the scheduler, so its frames leave through one queue.
func TestASeededHostHasOneQueue(t *testing.T) {
	for name, rand := range map[string]func([]byte){"seeded": testRand(), "not seeded": nil} {
		da, db := nic.Pipe(nic.PipeConfig{})
		s, err := New(Config{NICs: []NIC{{Name: "eth0", Device: da, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}}}, Rand: rand})
		require.NoError(t, err)
		defer s.Close()
		require.NoError(t, s.AddNIC(NIC{Name: "eth1", Device: db, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}}))
		for _, n := range []string{"eth0", "eth1"} {
			ifc := s.ifaceNamed(n)
			require.Equal(t, rand != nil, ifc.bulkQueue(1) == &ifc.tx, "%s, %s", name, n)
		}
	}
}

// No queue sends before the device is attached.
func TestBulkQueuesWaitForTheDeviceToBeAttached(t *testing.T) {
	s, _ := twoHosts(t, nic.PipeConfig{})
	da, db := nic.Pipe(nic.PipeConfig{})
	var got []nic.Frame
	db.Attach(func(batch []nic.Frame) { got = append(got, batch...) })
	s.mu.Lock()
	ifc, err := s.checkNIC(*s.ifaces.Load(), NIC{Name: "eth1", Device: da, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}})
	s.mu.Unlock()
	require.NoError(t, err)
	ifc.oneQueue = false // although Rand is set
	q := ifc.bulkQueue(1)
	require.NotSame(t, &ifc.tx, q)
	q.enqueue(&txEntry{frame: nic.Frame{Head: make([]byte, 60)}})
	ifc.drain()
	require.Empty(t, got)
	ifc.beginSending()
	ifc.drain()
	require.Len(t, got, 1)
}

// The frames in the bulk queues of an interface that is removed are dropped and completed, and later frames too. No
// queue is made any more.
func TestBulkQueuesOfARemovedInterfaceAreClosed(t *testing.T) {
	a, _ := twoHosts(t, nic.PipeConfig{})
	ifc := a.ifaceNamed("eth0")
	done := 0
	entry := func() *txEntry {
		return &txEntry{frame: nic.Frame{Head: make([]byte, 60)}, done: func() { done++ }}
	}
	q := ifc.bulkQueue(1)
	require.NotSame(t, &ifc.tx, q)
	require.True(t, q.draining.CompareAndSwap(false, true)) // nothing drains the queue
	q.enqueue(entry())
	require.NoError(t, a.RemoveNIC("eth0"))
	require.Equal(t, 1, done)
	q.enqueue(entry())
	require.Equal(t, 2, done)

	a, _ = twoHosts(t, nic.PipeConfig{})
	ifc = a.ifaceNamed("eth0")
	require.NoError(t, a.RemoveNIC("eth0"))
	require.Same(t, &ifc.tx, ifc.bulkQueue(1))
}

// Close sends what waits in the bulk queues.
func TestCloseSendsWhatWaitsInBulkQueues(t *testing.T) {
	a, p := hostAndPeer(t)
	ifc := a.ifaceNamed("eth0")
	q := ifc.bulkQueue(bulkQueues)
	q.enqueue(&txEntry{frame: nic.Frame{Head: ethernet(macB, []byte("the last frame"))}})
	require.NoError(t, a.Close())
	var got []byte
	for _, f := range p.take() {
		got = append(got, f...)
	}
	require.Contains(t, string(got), "the last frame")
}

// A device whose Send may block has one goroutine that sends, so bulk queues would be of no use.
func TestADeviceThatMayBlockHasNoBulkQueues(t *testing.T) {
	for name, wrap := range stuckDevices {
		s := newHost(t, wrap(newTunnel()), "192.0.2.1/24")
		ifc := (*s.ifaces.Load())[1]
		require.Same(t, &ifc.tx, ifc.bulkQueue(1), name)
	}
}
