package dhcp

import (
	"container/heap"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A world is a link with a server and its clients. It loses messages.
type world struct {
	t       *testing.T
	cfg     ServerConfig4
	s       *Server4
	now     time.Time
	random  *rand.Rand
	loss    float64
	clients []*Client4
	inUse   map[netip.Addr]int // the client that uses an address
	gone    []bool             // clients that are switched off
	kinds   map[EventKind4]int
	wakes   wakes
}

// wakes is a heap of the times at which clients have something to do. An entry may be out of date.
type wakes []wake

type wake struct {
	at time.Time
	i  int
}

func (h wakes) Len() int { return len(h) }
func (h wakes) Less(i, j int) bool {
	return h[i].at.Before(h[j].at) || h[i].at.Equal(h[j].at) && h[i].i < h[j].i
}
func (h wakes) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *wakes) Push(x any)   { *h = append(*h, x.(wake)) }
func (h *wakes) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}

// newWorld makes a world of n clients and a server for a network with the given number of addresses.
func newWorld(t *testing.T, n, addrs int, change func(*ServerConfig4)) *world {
	first := addr("10.0.0.10")
	last := first.As4()
	binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])+uint32(addrs)-1)
	w := &world{
		t: t, now: start, random: rand.New(rand.NewPCG(7, 7)), loss: 0.15, inUse: make(map[netip.Addr]int), gone: make([]bool, n), kinds: make(map[EventKind4]int),
		cfg: ServerConfig4{ID: addr("10.0.0.1"), Link: Network4{
			Prefix: netip.MustParsePrefix("10.0.0.0/16"), Pools: []Range4{{first, netip.AddrFrom4(last)}}, Lease: 12 * time.Hour,
		}},
	}
	if change != nil {
		change(&w.cfg)
	}
	w.restart(nil)
	for i := range n {
		mac := [6]byte{2, 0, 0, 1, byte(i >> 8), byte(i)}
		w.clients = append(w.clients, NewClient4(ClientConfig4{MAC: mac, Rand: w.random.Uint64}))
	}
	return w
}

// restart starts the server again, with the bindings of an earlier one.
func (w *world) restart(bindings []Binding4) {
	cfg := w.cfg
	cfg.Bindings = bindings
	s, err := NewServer4(cfg, w.now)
	require.NoError(w.t, err)
	w.s = s
}

// work delivers the messages of client i and of the server, and applies the events, until there are none.
func (w *world) work(i int) {
	c := w.clients[i]
	defer func() {
		if at := c.Deadline(); !at.IsZero() {
			heap.Push(&w.wakes, wake{at, i})
		}
	}()
	for again := true; again; {
		again = false
		for m, ok := c.NextSend(); ok; m, ok = c.NextSend() {
			again = true
			if w.s != nil && w.random.Float64() >= w.loss {
				w.s.Receive(w.now, m.Message, !m.To.IsValid())
			}
		}
		for e, ok := c.NextEvent(); ok; e, ok = c.NextEvent() {
			again = true
			w.kinds[e.Kind]++
			w.apply(i, e)
		}
		if w.s == nil {
			continue
		}
		for _, ok := w.s.NextEvent(); ok; _, ok = w.s.NextEvent() {
		}
		for r, ok := w.s.NextReply(); ok; r, ok = w.s.NextReply() {
			again = true
			if w.random.Float64() >= w.loss {
				c.Receive(w.now, mustParse(w.t, r.Payload))
			}
		}
	}
}

// apply applies an event of client i. No two clients may use an address at the same time.
func (w *world) apply(i int, e Event4) {
	switch e.Kind {
	case Probe:
		_, used := w.inUse[e.Lease.Addr.Addr()]
		w.clients[i].Probed(w.now, !used)
	case Acquired:
		a := e.Lease.Addr.Addr()
		_, used := w.inUse[a]
		require.False(w.t, used, "%v is used twice", a)
		w.inUse[a] = i
	case Lost:
		delete(w.inUse, e.Lease.Addr.Addr())
	}
}

// run advances the time to end.
func (w *world) run(end time.Time) {
	for len(w.wakes) > 0 && w.wakes[0].at.Before(end) {
		next := heap.Pop(&w.wakes).(wake)
		if c := w.clients[next.i]; !w.gone[next.i] && c.Deadline().Equal(next.at) {
			w.now = next.at
			c.Tick(w.now)
			w.work(next.i)
		}
	}
	w.now = end
}

// A thousand clients keep their addresses for a week, with 15 % loss. The server is started again three
// times: with its bindings, without them, and after 13 hours in which it was dead.
func TestAThousandClientsForAWeek(t *testing.T) {
	const n = 1000
	w := newWorld(t, n, n+24, func(cfg *ServerConfig4) { cfg.Authoritative = true })
	begin := w.now
	for i, c := range w.clients {
		c.Up(w.now)
		w.work(i)
	}
	w.run(begin.Add(time.Hour))
	require.Len(t, w.inUse, n)
	checkTable(t, w.s)
	before := w.addrs()

	w.run(begin.Add(24 * time.Hour))
	w.restart(slices.Collect(w.s.Bindings()))
	w.run(begin.Add(48 * time.Hour))
	require.Equal(t, before, w.addrs(), "all have kept their addresses")
	require.Zero(t, w.kinds[Lost])

	w.restart(nil)
	w.run(begin.Add(72 * time.Hour))
	require.Equal(t, before, w.addrs(), "a server that has forgotten everything confirms what the clients have")
	require.Zero(t, w.kinds[Lost])
	require.Len(t, leased(w.s), n)

	w.s = nil
	w.run(begin.Add((72 + 13) * time.Hour))
	require.Empty(t, w.inUse, "all leases have ended")
	w.restart(nil)
	w.run(begin.Add(7 * 24 * time.Hour))
	require.Len(t, w.inUse, n)
	require.Equal(t, before, w.addrs(), "the clients have asked for the addresses of before")
	checkTable(t, w.s)
	require.Zero(t, w.s.Stats().Full)
}

// addrs returns the addresses in use, with the client that uses each.
func (w *world) addrs() map[netip.Addr]int {
	all := make(map[netip.Addr]int)
	for a, i := range w.inUse {
		all[a] = i
	}
	return all
}

func leased(s *Server4) (all []netip.Addr) {
	for b := range s.Bindings() {
		if b.State == Leased {
			all = append(all, b.Addr)
		}
	}
	return all
}

// A server that has forgotten its bindings, and is not authoritative, offers addresses that other clients
// still use. The clients decline them, and in the end each has an address of its own.
func TestAServerForgetsItsBindings(t *testing.T) {
	w := newWorld(t, 60, 100, func(cfg *ServerConfig4) { cfg.DeclineTime = time.Hour })
	w.loss = 0
	for i, c := range w.clients[:40] {
		c.Up(w.now)
		w.work(i)
	}
	require.Len(t, w.inUse, 40)
	w.restart(nil)
	for i, c := range w.clients[40:] {
		c.Up(w.now)
		w.work(40 + i)
	}
	w.run(start.Add(3 * time.Hour))
	require.Len(t, w.inUse, 60)
	require.Positive(t, w.s.Stats().Declines)
	require.Zero(t, w.kinds[Lost])
	checkTable(t, w.s)
	w.run(start.Add(48 * time.Hour))
	require.Len(t, w.inUse, 60)
	require.Equal(t, 60, len(leased(w.s)))
}

// There are more clients than addresses. Clients that are switched off do not return their leases. Their addresses
// go to other clients when the leases end.
func TestClientsThatDisappear(t *testing.T) {
	w := newWorld(t, 40, 20, nil)
	for i, c := range w.clients[:20] {
		c.Up(w.now)
		w.work(i)
	}
	w.run(start.Add(time.Hour))
	require.Len(t, w.inUse, 20)
	for i := range 20 {
		w.gone[i] = true
	}
	for i, c := range w.clients[20:] {
		c.Up(w.now)
		w.work(20 + i)
	}
	w.run(start.Add(11 * time.Hour))
	require.Positive(t, w.s.Stats().Full)
	for _, i := range w.inUse {
		require.Less(t, i, 20)
	}
	w.inUse = make(map[netip.Addr]int) // they are off
	w.run(start.Add(14 * time.Hour))
	require.Len(t, w.inUse, 20)
	checkTable(t, w.s)
}
