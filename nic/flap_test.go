package nic

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/leak"
)

// requireNoGrowth calls flap a thousand times and checks that no goroutine and no memory is left behind.
func requireNoGrowth(t *testing.T, flap func()) {
	t.Helper()
	requireNoGrowthIn(t, 1000, flap)
}

// requireNoGrowthIn is requireNoGrowth for n calls of f, each of which has several flaps.
func requireNoGrowthIn(t *testing.T, n int, f func()) {
	t.Helper()
	goroutines, bytes := leak.Growth(n, f)
	require.LessOrEqual(t, goroutines, 0, "goroutines")
	require.Less(t, bytes, int64(100_000), "bytes: the heap of a test process is never quite the same")
}

// The peer of a stream comes and goes.
func TestAStreamFlapsAThousandTimes(t *testing.T) {
	for name, listens := range map[string]bool{"listening": true, "redialing": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conns := make(chan net.Conn)
				s := newListeningStream(&failingListener{conns: conns}, Link{Name: "stream", MTU: 1500, MAC: macA})
				if !listens {
					s = redialingStream(conns)
				}
				in, changes, flaps := 0, 0, 0
				s.NotifyLink(func() { changes++ })
				s.Attach(func(batch []Frame) { in += len(batch) })
				buf := make([]byte, 100)
				requireNoGrowth(t, func() {
					near, far := net.Pipe()
					conns <- near
					far.Write(prefixed(ether(macA, macB, 1, 60)))
					require.True(t, s.Link().Up)
					go s.Send(one(ether(macB, macA, 2, 60)))
					n, err := far.Read(buf)
					require.NoError(t, err)
					require.Equal(t, prefixed(ether(macB, macA, 2, 60)), buf[:n])
					far.Close()
					synctest.Wait()
					require.False(t, s.Link().Up)
					flaps++
				})
				require.Equal(t, flaps, in)
				require.GreaterOrEqual(t, changes, 2*flaps)
				require.NoError(t, s.Close())
			})
		})
	}
}

// redialingStream returns a stream that redials. A dial waits for one of conns. The first connection ends at once.
func redialingStream(conns <-chan net.Conn) *Stream {
	link := Link{Name: "stream", MTU: 1500, MAC: macA, Up: true}
	p := newStreamPeer(link)
	ctx, cancel := context.WithCancel(context.Background())
	dial := func() (io.ReadWriteCloser, error) {
		select {
		case c := <-conns:
			return c, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	p.cancel = cancel
	p.next = func() (io.ReadWriteCloser, error) { return redial(ctx, time.Second, dial) }
	near, far := net.Pipe()
	far.Close()
	p.conn = near
	return newStream(p, link)
}

// Each device has another peer than the one before.
func TestDatagramSocketsFlapAThousandTimes(t *testing.T) {
	needSockets(t, "unixgram")
	dir := t.TempDir()
	server, err := OpenDatagram(DatagramConfig{Network: "unixgram", Local: filepath.Join(dir, "server")})
	require.NoError(t, err)
	defer server.Close()
	server.Attach(func([]Frame) {})
	n := 0
	requireNoGrowth(t, func() {
		d, err := OpenDatagram(DatagramConfig{Network: "unixgram", Local: filepath.Join(dir, string(rune('a'+n%20))), Remote: filepath.Join(dir, "server")})
		require.NoError(t, err)
		received := make(chan int, 10)
		d.Attach(func(batch []Frame) { received <- len(batch) })
		d.Send(one(ether(macB, macA, 1, 60)))
		n++
		await(t, "the server receives", func() bool { return server.Stats().Received == uint64(n) })
		server.Send(one(ether(macA, macB, 2, 60)))
		require.Equal(t, 1, <-received)
		require.NoError(t, d.Close())
	})
}

// A tunnel's link goes down and comes up, and packets cross it in both directions.
func TestATunnelFlapsAThousandTimes(t *testing.T) {
	tunnel := NewTunnel(TunnelConfig{})
	changes := 0
	tunnel.NotifyLink(func() { changes++ })
	tunnel.Attach(func([]Frame) {})
	bufs, sizes := tunnelBuffers(4, 1500)
	packets := [][]byte{ipPacket(1000)}
	requireNoGrowth(t, func() {
		tunnel.SetLink(0, false)
		tunnel.SetLink(1300, true)
		tunnel.Write(packets, 0)
		tunnel.Send(one(packets[0]))
		n, err := tunnel.Read(bufs, sizes, 0)
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
	require.GreaterOrEqual(t, changes, 2000)
	require.NoError(t, tunnel.Close())
}
