package stack

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A stressTest has three hosts on a switch, which several goroutines use at random.
type stressTest struct {
	t     *testing.T
	hosts []*Stack
	addrs []netip.Addr
	other *nic.Switch  // a second switch, to which the first host has a link from time to time
	used  atomic.Int32 // number of connections that use has handled
}

func newStressTest(t *testing.T, imp nic.Impairment) *stressTest {
	x := &stressTest{t: t}
	sw := nic.NewSwitch(nic.SwitchConfig{})
	x.other = nic.NewSwitch(nic.SwitchConfig{})
	for i := range 3 {
		a := netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)})
		var dev nic.Device = sw.Port()
		if i == 2 {
			dev = nic.Impair(dev, nic.ImpairConfig{Out: imp, In: imp, Seed: 1})
		}
		s, err := New(Config{
			NICs: []NIC{{Device: dev, Addrs: []netip.Prefix{netip.PrefixFrom(a, 24)}}},
			TCP:  TCPConfig{SynBacklog: 4, TimeWaits: 16, Memory: 4 << 20},
		})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		x.hosts, x.addrs = append(x.hosts, s), append(x.addrs, a)
	}
	require.NoError(t, x.hosts[2].AddNIC(NIC{Device: x.other.Port(), Addrs: []netip.Prefix{prefix("198.51.100.3/24")}}))
	x.addrs = append(x.addrs, addr("198.51.100.3"))
	return x
}

// port returns one of four ports, so that goroutines often use the same port.
func (x *stressTest) port(r *rand.Rand) uint16 { return uint16(1000 + r.IntN(4)) }

// soon returns a deadline that may have passed already.
func (x *stressTest) soon(r *rand.Rand) time.Time {
	return time.Now().Add(time.Duration(r.IntN(3000)-200) * time.Microsecond)
}

// use reads and writes on a connection, and ends it in one of several ways.
func (x *stressTest) use(c *TCP, r *rand.Rand) {
	x.used.Add(1)
	var wg sync.WaitGroup
	c.SetDeadline(time.Now().Add(20 * time.Millisecond))
	size, cut := 1+r.IntN(200_000), r.IntN(3) == 0
	seed := r.Uint64()
	wg.Go(func() {
		if cut {
			c.SetWriteDeadline(time.Now().Add(time.Duration(seed%2000) * time.Microsecond))
		}
		b := make([]byte, size)
		c.Write(b)
		clear(b) // the caller owns b again
		if seed%5 == 0 {
			c.CloseWrite()
		}
	})
	wg.Go(func() {
		b := make([]byte, 50_000)
		for left := size; left > 0; {
			if seed%3 == 0 {
				if _, _, storage := c.Take(); storage != nil {
					c.Release(storage)
				}
			}
			n, err := c.Read(b)
			if err != nil {
				return
			}
			left -= n
		}
	})
	if r.IntN(2) == 0 { // end the connection while it is in use
		runtime.Gosched()
		x.end(c, r)
		wg.Wait()
		return
	}
	wg.Wait()
	x.end(c, r)
}

// end closes c in one of four ways.
func (x *stressTest) end(c *TCP, r *rand.Rand) {
	switch r.IntN(4) {
	case 0:
		c.SetLinger(0)
	case 1:
		c.CloseRead()
		c.CloseWrite()
	case 2:
		c.SetReadBuffer(4096)
		c.SetKeepAlive(r.IntN(2) == 0)
	}
	c.Close()
}

// step makes one random change or use.
func (x *stressTest) step(r *rand.Rand) {
	i := r.IntN(len(x.hosts))
	s := x.hosts[i]
	switch r.IntN(10) {
	case 0, 1, 8:
		l, err := s.ListenTCP(FamilyAny, netip.AddrPortFrom(netip.Addr{}, x.port(r)), ListenOptions{Backlog: 1 + r.IntN(3)})
		if err != nil {
			return
		}
		for range 1 + r.IntN(5) {
			l.SetDeadline(time.Now().Add(5 * time.Millisecond))
			if c, err := l.Accept(); err == nil {
				x.use(c, r)
			}
		}
		l.Close()
	case 2, 3, 4, 5:
		ctx, cancel := context.WithDeadline(context.Background(), x.soon(r).Add(2*time.Millisecond))
		defer cancel()
		local := netip.AddrPort{}
		if r.IntN(4) == 0 {
			local = netip.AddrPortFrom(netip.Addr{}, x.port(r))
		}
		to := netip.AddrPortFrom(x.addrs[r.IntN(len(x.addrs))], x.port(r))
		if c, err := s.DialTCP(ctx, FamilyAny, local, to, TCPOptions{KeepAlive: true}); err == nil {
			x.use(c, r)
		}
	case 6:
		u, err := s.OpenUDP(FamilyAny, netip.AddrPortFrom(netip.Addr{}, x.port(r)))
		if err != nil {
			return
		}
		u.SetDeadline(x.soon(r))
		u.Join(addr("224.1.2.3"), 2)
		for range 1 + r.IntN(5) {
			u.WriteTo(make([]byte, r.IntN(5000)), netip.AddrPortFrom(x.addrs[r.IntN(len(x.addrs))], x.port(r)), SendOptions{})
			u.WriteTo(make([]byte, 100), netip.AddrPortFrom(addr("224.1.2.3"), x.port(r)), SendOptions{})
			u.ReadFrom(make([]byte, 1000))
		}
		u.Close()
	case 7:
		s.FlushNeighbors()
		s.Stats()
		s.Neighbors()
		s = x.hosts[0]
		if s.AddNIC(NIC{Name: "eth9", Device: x.other.Port(), Addrs: []netip.Prefix{prefix("198.51.100.1/24")}}) == nil {
			time.Sleep(time.Duration(r.IntN(5)) * time.Millisecond)
			s.RemoveNIC("eth9")
		}
	case 9:
		// Add and remove an address with a lifetime, and remove and add the address in use.
		link := s.Interfaces()[1].Name
		s.AddAddr(link, prefix("192.0.2.9/24"), AddrOptions{Valid: time.Duration(1+r.IntN(4)) * time.Millisecond, Origin: AddrDHCP})
		if r.IntN(2) == 0 {
			s.RemoveAddr(link, x.addrs[i])
			time.Sleep(time.Duration(r.IntN(3)) * time.Millisecond)
			s.AddAddr(link, netip.PrefixFrom(x.addrs[i], 24), AddrOptions{})
		}
		s.Changed()
	}
}

// requireIdle fails unless all sockets of a host are closed. Closed connections may still be ending.
func requireIdle(t *testing.T, s *Stack) {
	require.Empty(t, s.tcp.listeners.all())
	for i := range udpBuckets {
		require.Empty(t, s.udp.at(uint16(i)))
	}
	require.Len(t, s.Interfaces()[1].Groups, 3, "all nodes of both families, and the group of the link-local address")
	for _, c := range s.tcp.table.sockets() {
		c.mu.Lock()
		closed, writing, half := c.closed, c.writing, c.half
		pinned := c.zc != nil && (c.zc.frames.Load() != 0 || c.zc.charged != 0)
		c.mu.Unlock()
		require.True(t, closed, "an open connection without an owner")
		require.False(t, writing || pinned)
		require.Zero(t, half)
	}
}

// requireEmpty fails unless a closed host has released all of its state.
func requireEmpty(t *testing.T, s *Stack) {
	ts := &s.tcp
	require.Zero(t, ts.used.Load(), "memory of TCP")
	for i := range tcpShards {
		require.Zero(t, ts.table.parts()[i].n, "entries")
	}
	for i := range portShards {
		require.Empty(t, ts.table.ports.shard(uint16(i)).use)
	}
	require.Empty(t, ts.listeners.all())
	require.Zero(t, ts.orphans.count())
	require.Zero(t, ts.waits.n)
	require.Nil(t, ts.waits.first)
	require.Empty(t, ts.wheel.queue.heap)
	for i := range udpBuckets {
		require.Empty(t, s.udp.at(uint16(i)))
	}
	require.Empty(t, s.raw.sockets())
	require.Zero(t, s.frags.cost)
	require.Zero(t, s.loop.n.Load())
	require.Zero(t, s.loop.bytes.Load())
	for _, ifc := range *s.ifaces.Load() {
		for q := range ifc.txQueues {
			require.Zero(t, q.n.Load(), "frames that wait")
			require.Empty(t, q.waiters)
		}
		for _, nt := range ifc.neighborTables() {
			require.Zero(t, nt.waiting)
			require.Empty(t, nt.m)
		}
	}
}

func TestConcurrentUseLeavesNothingBehind(t *testing.T) {
	for name, imp := range map[string]nic.Impairment{
		"a good link": {},
		"a bad link":  {Loss: 0.05, Duplicate: 0.05, Reorder: 0.1, Latency: 100 * time.Microsecond, Jitter: 50 * time.Microsecond},
	} {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			x := newStressTest(t, imp)
			var wg sync.WaitGroup
			seed := rand.Uint64()
			t.Log("seed", seed)
			for i := range 12 {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(seed, uint64(i)))
					for range stressSteps {
						x.step(r)
					}
				})
			}
			// Close one host while the others are in use.
			last := make(chan struct{})
			go func() {
				defer close(last)
				time.Sleep(stressClose)
				x.hosts[1].Close()
			}()
			wg.Wait()
			<-last
			t.Log(x.used.Load(), "connections")
			for i, s := range x.hosts {
				if i != 1 {
					requireIdle(t, s)
				}
				s.Close()
			}
			for i, s := range x.hosts {
				t.Run(fmt.Sprint("host ", i), func(t *testing.T) { requireEmpty(t, s) })
			}
			require.Eventually(t, func() bool { return runtime.NumGoroutine() <= before+1 }, 10*time.Second, time.Millisecond)
		})
	}
}

const (
	stressSteps = 100
	stressClose = 150 * time.Millisecond
)
