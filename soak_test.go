package usernet

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// envInt returns the number in an environment variable, or fallback if the variable is not set.
func envInt(t testing.TB, name string, fallback int) int {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return fallback
	}
	n, err := strconv.Atoi(s)
	require.NoError(t, err, name)
	return n
}

// Several goroutines change buffers, deadlines and linger of connections on which both ends write
// more than the windows hold. No data is lost, and no connection stalls.
func TestOptionsChangeWhileBothEndsWrite(t *testing.T) {
	seeds := envInt(t, "USERNET_OPTION_SEEDS", 10)
	first := envInt(t, "USERNET_SEED", 1)
	for seed := first; seed < first+seeds; seed++ {
		t.Run(fmt.Sprint("seed=", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := rand.New(rand.NewPCG(uint64(seed), 40))
				latency := [...]time.Duration{0, time.Millisecond, 50 * time.Millisecond}[r.IntN(3)]
				loss := [...]float64{0, 0, 0.02}[r.IntN(3)]
				a, b := newImpairedPair(t, nic.Impairment{Latency: latency, Loss: loss})
				ln, err := b.Listen("tcp", addrB+":80")
				require.NoError(t, err)
				f := newForum(uint64(seed))
				var wg sync.WaitGroup
				wg.Go(func() { f.accept(ln) })
				var clients sync.WaitGroup
				for id := range uint64(4) {
					c := randomConversation(id, r, 200_000)
					for i := range c.side {
						s := &c.side[i]
						s.fiddlers, s.end = 1+r.IntN(3), endPolitely
						s.total = 100_000 + r.IntN(200_000)
						s.writeMax, s.readMax = max(s.writeMax, 1000), max(s.readMax, 1000)
						s.pause = min(s.pause, 10*time.Millisecond)
						s.interrupt = 0.2
						s.rcvbuf, s.sndbuf = 1<<(12+r.IntN(4)), 1<<(12+r.IntN(4))
						s.readAfter = time.Duration(id) * 3 * time.Second // the windows close during this time
						s.total += int(id) * 500_000
					}
					clients.Go(func() {
						f.converse(func() (net.Conn, error) { return a.Dial("tcp", addrB+":80") }, c)
					})
				}
				clients.Wait()
				f.accepted()
				require.NoError(t, ln.Close())
				wg.Wait()
				require.NoError(t, f.end())
			})
		})
	}
}

// soakRound is the number of conversations between one pair of hosts in one bubble.
const soakRound = 2000

// The soak runs conversations over wires that lose, repeat, reorder and damage frames. In some of them
// both sides write more than the windows hold. No byte is lost, and nothing is left of any conversation.
// USERNET_SOAK is the number of conversations, and USERNET_SEED the first seed.
func TestSoakOfRandomConversations(t *testing.T) {
	n := envInt(t, "USERNET_SOAK", 400)
	seed := envInt(t, "USERNET_SEED", 1)
	var before runtime.MemStats
	goroutines := 0
	for i := 0; i*soakRound < n; i++ {
		t.Run(fmt.Sprint("seed=", seed+i), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { soak(t, uint64(seed+i), min(soakRound, n-i*soakRound)) })
		})
		if i == 0 {
			collect()
			runtime.ReadMemStats(&before)
			goroutines = runtime.NumGoroutine()
		}
	}
	collect()
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	require.LessOrEqual(t, runtime.NumGoroutine(), goroutines)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(4<<20), "memory of the heap")
}

// collect runs the garbage collector three times, because pools keep their items through the first
// collection.
func collect() {
	for range 3 {
		runtime.GC()
	}
}

// soak runs n conversations between two hosts.
func soak(t *testing.T, seed uint64, n int) {
	r := rand.New(rand.NewPCG(seed, 105))
	goroutines := bubbleGoroutines()
	wires := []nic.Impairment{
		{},
		{Latency: 50 * time.Millisecond},
		{Latency: time.Millisecond, Loss: 0.01, Reorder: 0.05, ReorderGap: 2 * time.Millisecond},
		{Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.03, Duplicate: 0.02, Reorder: 0.05, ReorderGap: 30 * time.Millisecond, Corrupt: 0.02},
		{Latency: 5 * time.Millisecond, Loss: 0.1, Duplicate: 0.1, Corrupt: 0.05},
		{Latency: 10 * time.Millisecond, Rate: 100_000_000},
	}
	out, in := wires[r.IntN(len(wires))], wires[r.IntN(len(wires))]
	t.Logf("out %+v, in %+v", out, in)
	ea, eb := nic.Pipe(nic.PipeConfig{MTU: [...]int{576, 1500, 9000}[r.IntN(3)]})
	a, b := newHost(t, nic.Impair(ea, nic.ImpairConfig{Out: out, In: in, Seed: seed}), addrA), newHost(t, eb, addrB)
	ln, err := b.Listen("tcp", addrB+":80")
	require.NoError(t, err)
	f := newForum(seed)
	f.tries = 4
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		f.accept(ln)
	}()
	var mu sync.Mutex
	var socks []weak.Pointer[stack.TCP]
	next := uint64(0)
	var clients sync.WaitGroup
	for range 50 {
		clients.Go(func() {
			for {
				mu.Lock()
				id := next
				next++
				c := randomConversation(id, r, 150_000)
				mu.Unlock()
				if id >= uint64(n) {
					return
				}
				for i := range c.side {
					c.side[i].fiddlers = int(id+uint64(i)) % 8 / 7 // one for every eighth conversation
				}
				f.converse(func() (net.Conn, error) {
					c, err := a.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addrB+":80")))
					if err != nil {
						return nil, err // not c, which is a nil *TCPConn
					}
					mu.Lock()
					socks = append(socks, weak.Make(c.tcp))
					mu.Unlock()
					return c, nil
				}, c)
			}
		})
	}
	clients.Wait()
	f.accepted()
	require.NoError(t, ln.Close())
	<-accepting
	require.NoError(t, f.end())
	// Closed connections may exist as long as a side is in TIME-WAIT or retransmits data whose
	// acknowledgement was lost.
	time.Sleep(30 * time.Minute)
	require.Zero(t, a.Stats().TCP.Memory)
	require.Zero(t, b.Stats().TCP.Memory)
	collect()
	left := 0
	for _, w := range socks {
		if w.Value() != nil {
			left++
		}
	}
	require.Zero(t, left, "of %d sockets", len(socks))
	require.Equal(t, goroutines, bubbleGoroutines(), "goroutines")
}
