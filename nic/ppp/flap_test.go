package ppp

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/leak"
	"github.com/usernet/usernet/nic"
)

// requireNoGrowth calls flap a thousand times and checks that no goroutine and no memory is left behind.
func requireNoGrowth(t *testing.T, flap func()) {
	t.Helper()
	goroutines, bytes := leak.Growth(1000, flap)
	require.LessOrEqual(t, goroutines, 0, "goroutines")
	require.Less(t, bytes, int64(100_000), "bytes: the heap of a test process is never quite the same")
}

// Either end takes the link down, and the link comes up again.
func TestPPPFlapsAThousandTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(0)
		server, client := serverConfig(), clientConfig()
		server.Logger, client.Logger = slog.New(slog.DiscardHandler), slog.New(slog.DiscardHandler)
		x, y := connect(t, c, server, client)
		time.Sleep(time.Second)
		n := 0
		requireNoGrowth(t, func() {
			n++
			d := x
			if n%2 == 0 {
				d = y
			}
			d.step(func(now time.Time) {
				d.m.lcp.fire(now, evDown)
				d.m.start(now)
			})
			both(x, y, 30*time.Second)
			require.True(t, x.Link().Up && y.Link().Up, "flap %d", n)
		})
		for _, d := range []*end{x, y} {
			require.Len(t, d.negotiated().Addrs, 2)
			d.Device.mu.Lock()
			require.Empty(t, d.m.notes)
			require.Empty(t, d.m.out)
			require.Empty(t, d.Device.control)
			d.Device.mu.Unlock()
		}
		x.Close()
		y.Close()
	})
}

// Either end ends the sessions of a client, and the client gets others.
func TestPPPoESessionsFlapAThousandTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := slowPipe(nic.PipeConfig{}, 0)
		s := newISP(t, a, ServerConfig{})
		go func() { // serves each session until it ends
			for {
				d, err := s.Accept()
				if err != nil {
					return
				}
				d.NotifyDown(func(error) { d.Close() })
				d.Attach(func([]nic.Frame) {})
			}
		}()
		y := subscribe(t, b, ClientConfig{Config: Config{Logger: slog.New(slog.DiscardHandler)}})
		n := 0
		requireNoGrowth(t, func() {
			n++
			for end := time.Now().Add(time.Minute); !y.view.Load().ipv4 && time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
			}
			require.True(t, y.view.Load().ipv4, "flap %d: %v", n, y.LinkErr())
			s.mu.Lock()
			lines := s.list()
			s.mu.Unlock()
			require.Len(t, lines, 1)
			if n%2 == 0 {
				lines[0].dev.step(func(time.Time) { lines[0].dev.m.end(errNoEcho) }) // sends a PADT
			} else {
				y.Device.step(func(now time.Time) { y.m.terminate(now, errNoEcho) })
			}
			for end := time.Now().Add(time.Minute); y.Link().Up && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			require.False(t, y.Link().Up)
		})
		require.NoError(t, y.Close())
		time.Sleep(10 * time.Minute)
		require.Zero(t, s.Sessions())
		s.mu.Lock()
		require.Empty(t, s.disc.sessions)
		require.Empty(t, s.queue)
		s.mu.Unlock()
		require.NoError(t, s.Close())
	})
}
