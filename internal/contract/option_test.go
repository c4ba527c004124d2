package contract

import (
	"context"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// optionBehaviours returns the behaviours of a connection's settings.
func optionBehaviours() []behaviour {
	// on returns a behaviour that calls f, which changes settings, on a new connection.
	on := func(f func(c world.TCPConn) []any) func(*testing.T, *world.World) []any {
		return func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			// The connection carries data before f changes its settings, and afterwards.
			before := []any{writeErr(s), readErr(c)}
			set := f(c)
			return slices.Concat(before, []any{writeErr(s), readErr(c)}, set) // the outcome is the last of them
		}
	}
	return []behaviour{
		{"SetNoDelay", on(func(c world.TCPConn) []any { return []any{c.SetNoDelay(false), c.SetNoDelay(true), c.SetNoDelay(true)} }), "<nil>"},
		{"SetLinger of all kinds", on(func(c world.TCPConn) []any {
			return []any{c.SetLinger(-1), c.SetLinger(0), c.SetLinger(3), c.SetLinger(math.MaxInt32), c.SetLinger(math.MinInt32)}
		}), "<nil>"},
		{"SetKeepAlive", on(func(c world.TCPConn) []any { return []any{c.SetKeepAlive(false), c.SetKeepAlive(true)} }), "<nil>"},
		// Linux accepts times up to 32767 s, and up to 127 probes.
		{"SetKeepAlivePeriod", on(func(c world.TCPConn) []any {
			return []any{
				c.SetKeepAlivePeriod(0), c.SetKeepAlivePeriod(-1), c.SetKeepAlivePeriod(1), c.SetKeepAlivePeriod(time.Minute),
				c.SetKeepAlivePeriod(32767 * time.Second),
			}
		}), "<nil>"},
		{"SetKeepAlivePeriod that is too long", on(func(c world.TCPConn) []any {
			return []any{c.SetKeepAlivePeriod(32768 * time.Second)}
		}), "setsockopt: invalid argument"},
		{"SetKeepAliveConfig", on(func(c world.TCPConn) []any {
			return []any{
				c.SetKeepAliveConfig(net.KeepAliveConfig{}), c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 32767 * time.Second, Interval: 32767 * time.Second, Count: 127}),
			}
		}), "<nil>"},
		{"SetKeepAliveConfig with values that are too large", on(func(c world.TCPConn) []any {
			return []any{
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 24 * time.Hour}),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Interval: 24 * time.Hour}),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Interval: 32768 * time.Second}),
				c.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Count: 128}),
			}
		}), "setsockopt: invalid argument"},
		{"SetReadBuffer and SetWriteBuffer", on(func(c world.TCPConn) []any {
			return []any{
				c.SetReadBuffer(0), c.SetReadBuffer(1), c.SetReadBuffer(1 << 20), c.SetReadBuffer(math.MaxInt32), c.SetReadBuffer(-1),
				c.SetWriteBuffer(0), c.SetWriteBuffer(1), c.SetWriteBuffer(1 << 20), c.SetWriteBuffer(math.MaxInt32), c.SetWriteBuffer(-1),
			}
		}), "<nil>"},
		{"settings that change nothing on a closed connection", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.Close())
			keep := net.KeepAliveConfig{Enable: true, Idle: -1, Interval: -1, Count: -1}
			return []any{c.SetKeepAlivePeriod(-1), c.SetKeepAlivePeriod(math.MaxInt64), c.SetKeepAliveConfig(keep), c.SetDeadline(time.Time{})}
		}, "use of closed network connection"},
		{"MultipathTCP", on(func(c world.TCPConn) []any {
			multipath, err := c.MultipathTCP()
			return []any{err, multipath}
		}), "false"},
		{"a connection that asks for Multipath TCP on both sides", func(t *testing.T, w *world.World) []any {
			ln, err := w.ListenConfig(world.ListenOptions{Multipath: true}).Listen(context.Background(), "tcp4", w.Server+":0")
			require.NoError(t, err)
			defer ln.Close()
			c, err := w.Dial(context.Background(), world.DialOptions{Multipath: true}, "tcp", ln.Addr().String())
			require.NoError(t, err)
			defer c.Close()
			multipath, err := c.(world.TCPConn).MultipathTCP()
			return []any{err, multipath}
		}, "true"},
		{"a connection with the smallest of buffers carries data", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetWriteBuffer(1))
			require.NoError(t, s.SetReadBuffer(1))
			got := make(chan int64, 1)
			go func() {
				n, _ := io.Copy(io.Discard, s)
				got <- n
			}()
			n, err := c.Write(make([]byte, 100_000))
			return []any{n, err, c.CloseWrite(), <-got}
		}, "100000"},
		{"buffers of a UDP socket", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			return []any{
				c.SetReadBuffer(0), c.SetReadBuffer(1 << 20), c.SetReadBuffer(-1),
				c.SetWriteBuffer(0), c.SetWriteBuffer(1 << 20), c.SetWriteBuffer(-1),
			}
		}, "<nil>"},
	}
}

// deadlineBehaviours returns the behaviours of deadlines that pass, are removed or change.
func deadlineBehaviours() []behaviour {
	past, future := time.Unix(1, 0), time.Now().Add(time.Hour)
	soon := func() time.Time { return time.Now().Add(10 * time.Millisecond) }
	return []behaviour{
		{"a deadline that is cleared", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetDeadline(past))
			seen := []any{readErr(c), writeErr(c), c.SetDeadline(time.Time{}), writeErr(s), writeErr(c)}
			return append(seen, readErr(c))
		}, "<nil>"},
		{"a deadline that is moved into the future", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			seen := []any{readErr(c), c.SetReadDeadline(future), writeErr(s)}
			return append(seen, readErr(c))
		}, "<nil>"},
		{"the read deadline does not apply to writes", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			return []any{c.SetReadDeadline(past), writeErr(c), readErr(c)}
		}, "i/o timeout"},
		{"the write deadline does not apply to reads", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			return []any{c.SetWriteDeadline(past), writeErr(s), readErr(c), writeErr(c)}
		}, "i/o timeout"},
		{"SetDeadline replaces both", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			return []any{c.SetReadDeadline(past), c.SetDeadline(future), writeErr(s), readErr(c), writeErr(c), c.SetDeadline(past), writeErr(c)}
		}, "i/o timeout"},
		{"a read deadline that is moved into the past wakes a blocked read", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(future))
			got := after(func() error { return readErr(c) })
			return []any{c.SetReadDeadline(past), <-got}
		}, "i/o timeout"},
		{"a read deadline that is set wakes a blocked read that had none", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			got := after(func() error { return readErr(c) })
			return []any{c.SetReadDeadline(soon()), <-got}
		}, "i/o timeout"},
		{"SetDeadline wakes a blocked read and a blocked write", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			data := make([]byte, 64<<20)
			blockedRead := after(func() error { return readErr(c) })
			blockedWrite := after(func() error {
				_, err := c.Write(data)
				return err
			})
			time.Sleep(20 * time.Millisecond)
			return []any{c.SetDeadline(time.Now()), <-blockedRead, <-blockedWrite}
		}, "i/o timeout"},
		{"a deadline that is moved later lets a blocked read wait", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
			got := after(func() error { return readErr(c) })
			require.NoError(t, c.SetReadDeadline(future))
			time.Sleep(350 * time.Millisecond)
			return []any{writeErr(s), <-got}
		}, "<nil>"},
		{"a deadline in the far future, and in the far past", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := []any{c.SetDeadline(time.Now().AddDate(1000, 0, 0)), writeErr(s), readErr(c)}
			return append(seen, c.SetDeadline(time.Now().AddDate(-1000, 0, 0)), readErr(c))
		}, "i/o timeout"},
		{"a deadline in the furthest future", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			return []any{c.SetDeadline(time.Unix(math.MaxInt64/2, 0)), writeErr(s), readErr(c)}
		}, "<nil>"},
		{"a deadline is over for every call after it", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(soon()))
			seen := []any{readErr(c), writeErr(s)}
			world.Settle()
			return append(seen, readErr(c), readErr(c))
		}, "i/o timeout"},
		{"a deadline that passes does not lose data", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			seen := []any{writeErr(s), readErr(c)}
			require.NoError(t, c.SetReadDeadline(time.Time{}))
			return append(seen, read(c, 10)...)
		}, "<nil>"},
		{"one deadline wakes several reads", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			first, second := after(func() error { return readErr(c) }), after(func() error { return readErr(c) })
			return []any{c.SetReadDeadline(soon()), <-first, <-second}
		}, "i/o timeout"},
		{"a deadline's error is os.ErrDeadlineExceeded once unwrapped", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			err := readErr(c).(*net.OpError).Err
			return []any{err == os.ErrDeadlineExceeded, err}
		}, "i/o timeout"},
		{"a deadline wakes a blocked read of a UDP socket", func(t *testing.T, w *world.World) []any {
			c := w.Packets(t)
			require.NoError(t, c.SetReadDeadline(soon()))
			_, _, err := c.ReadFromUDPAddrPort(make([]byte, 1))
			return []any{err}
		}, "i/o timeout"},
		{"a write past the deadline of a UDP socket", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, c.SetWriteDeadline(past))
			require.NoError(t, s.SetDeadline(past))
			_, to := s.WriteTo([]byte("x"), c.LocalAddr())
			_, _, msg := c.WriteMsgUDP([]byte("x"), nil, nil)
			return []any{to, msg, writeErr(c)}
		}, "i/o timeout"},
		{"a deadline of a UDP socket that is cleared", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			require.NoError(t, s.SetReadDeadline(past))
			seen := []any{writeErr(c), readErr(s), s.SetReadDeadline(time.Time{})}
			return append(seen, read(s, 10)...)
		}, "<nil>"},
	}
}
