package stack

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// slowBusy is a reference for tcpPorts.busy. It checks all entries.
func slowBusy(all map[tuple]*tcpEntry, local netip.AddrPort, forListener bool) bool {
	for k, e := range all {
		if forListener && (e.sock == nil || e.sock.listener != nil) {
			continue // TIME-WAIT and connections that others opened do not count for a listener
		}
		if have := k.local(); have.Port() == local.Port() && (local.Addr().IsUnspecified() || have.Addr() == local.Addr()) {
			return true
		}
	}
	return false
}

func TestAPortIsBusyIfOneOfItsConnectionsIs(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	defer s.Close()
	tt := &s.tcp.table
	rng := rand.New(rand.NewPCG(5, 6))
	addrs := []netip.Addr{addrA, addrB, addr("127.0.0.1")}
	ports := []uint16{0, 80, 127, 128, 65535}
	have := map[tuple]*tcpEntry{}
	var order []*tcpEntry
	passive := &TCPListener{} // the listener of connections that others opened
	busy := 0
	for range 20_000 {
		switch n := rng.IntN(10); {
		case n < 5 && len(order) < 20 || len(order) == 0:
			local := netip.AddrPortFrom(addrs[rng.IntN(len(addrs))], ports[rng.IntN(len(ports))])
			e := s.newTCP(local, netip.AddrPortFrom(addrB, uint16(rng.IntN(3))), &path{ifc: s.lo})
			if n%2 == 0 {
				e.listener = passive
			}
			require.Equal(t, have[e.key] == nil, tt.insert(&e.tcpEntry))
			if have[e.key] == nil {
				have[e.key], order = &e.tcpEntry, append(order, &e.tcpEntry)
			}
		case n < 7: // TIME-WAIT
			i := rng.IntN(len(order))
			w := &timeWait{}
			w.key, w.wait = order[i].key, w
			require.True(t, tt.replace(order[i], &w.tcpEntry))
			have[w.key], order[i] = &w.tcpEntry, &w.tcpEntry
		default:
			i := rng.IntN(len(order))
			tt.remove(order[i])
			tt.remove(order[i]) // already removed
			delete(have, order[i].key)
			order[i] = order[len(order)-1]
			order = order[:len(order)-1]
		}
		for _, a := range append(addrs, netip.IPv4Unspecified()) {
			for _, port := range ports {
				local, b := netip.AddrPortFrom(a, port), bind(Family4, a, 0)
				for _, forListener := range []bool{false, true} {
					want := slowBusy(have, local, forListener)
					require.Equal(t, want, tt.ports.busy(&b, port, forListener), "%v %v", local, forListener)
					if want {
						busy++
					}
				}
			}
		}
	}
	require.Greater(t, busy, 100_000)
}

// The test holds the locks of all shards of the table, so a call that visited connections would wait
// forever.
func TestListenAndCloseVisitNoConnection(t *testing.T) {
	a, b := wiredPair(t, nil)
	c, _ := connect(t, a, b)
	tt := &a.tcp.table
	var held, released sync.WaitGroup
	release := make(chan bool)
	for i := range tcpShards {
		held.Add(1)
		released.Go(func() { // a goroutine may hold only one lock of each level, so each shard needs a goroutine
			mu := &tt.parts()[i].mu
			mu.Lock()
			held.Done()
			<-release
			mu.Unlock()
		})
	}
	held.Wait()
	defer released.Wait()
	defer close(release)
	done := make(chan error, 1)
	go func() {
		for _, port := range []uint16{0, 81} {
			l, err := a.ListenTCP(Family4, netip.AddrPortFrom(netip.Addr{}, port), ListenOptions{})
			if err == nil {
				err = l.Close()
			}
			if err != nil {
				done <- err
				return
			}
		}
		_, err := a.ListenTCP(Family4, c.LocalAddr(), ListenOptions{})
		done <- err
	}()
	select {
	case err := <-done:
		require.ErrorIs(t, err, syscall.EADDRINUSE, "this host opened a connection from the port")
	case <-time.After(20 * time.Second):
		t.Fatal("a call waits for the lock of a shard")
	}
}

func TestCloseOfAListenerResetsItsHalfOpenConnections(t *testing.T) {
	s, p := hostAndPeer(t)
	ln, err := s.ListenTCP(Family4, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	other, err := s.ListenTCP(Family4, addrPort("0.0.0.0:81"), ListenOptions{})
	require.NoError(t, err)
	send := func(h wire.TCP) {
		b := make([]byte, h.Len())
		h.Put(b)
		wire.SetTCPChecksum(addrB, addrA, b)
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, b)
	}
	const n = 100
	for i := range uint16(n) {
		send(wire.TCP{SrcPort: 1000 + i, DstPort: 80, Seq: 7, Flags: wire.FlagSYN, Window: 1000})
		send(wire.TCP{SrcPort: 1000 + i, DstPort: 81, Seq: 7, Flags: wire.FlagSYN, Window: 1000})
		p.reply()
	}
	require.EqualValues(t, n, ln.nhalf.Load())
	for i := uint16(0); i < n; i += 3 { // a third of the connections end before the listener is closed
		send(wire.TCP{SrcPort: 1000 + i, DstPort: 80, Seq: 8, Flags: wire.FlagRST})
	}
	const left = n - (n+2)/3
	require.EqualValues(t, left, ln.nhalf.Load())
	require.Len(t, s.tcp.table.sockets(), left+n)
	for i, half := range ln.half {
		require.EqualValues(t, i+1, half.half)
	}
	p.take()
	require.NoError(t, ln.Close())
	require.Len(t, p.take(), left, "one RST each")
	require.Len(t, s.tcp.table.sockets(), n)
	require.Zero(t, ln.nhalf.Load())
	require.NoError(t, other.Close())
	require.Len(t, p.take(), n)
	require.Empty(t, s.tcp.table.sockets())
}
