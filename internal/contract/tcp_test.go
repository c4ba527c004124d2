package contract

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

func tcpBehaviours() []behaviour {
	past := time.Unix(1, 0)
	return []behaviour{
		{"read past the deadline", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			_, err := c.Read(make([]byte, 1))
			return []any{err}
		}, "i/o timeout"},
		{"write past the deadline", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetWriteDeadline(past))
			_, empty := c.Write(nil)
			_, err := c.Write(make([]byte, 1))
			return []any{empty, err}
		}, "i/o timeout"},
		{"a deadline wakes a blocked read", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
			_, err := c.Read(make([]byte, 1))
			return []any{err}
		}, "i/o timeout"},
		{"read after the peer's FIN", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			_, again := c.Read(make([]byte, 1))
			return []any{err, again}
		}, "EOF"},
		{"read after a reset, then read and write", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			_, second := c.Read(make([]byte, 1))
			_, third := c.Write(make([]byte, 1))
			return []any{err, second, third}
		}, "broken pipe"},
		{"write after a reset, then write and read", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			_, err := c.Write(make([]byte, 1))
			_, second := c.Write(make([]byte, 1))
			_, third := c.Read(make([]byte, 1))
			return []any{err, second, third}
		}, "EOF"},
		{"the peer closes with data unread", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			_, err := c.Write([]byte("unread"))
			require.NoError(t, err)
			require.NoError(t, s.Close())
			_, err = c.Read(make([]byte, 1))
			return []any{err}
		}, "connection reset by peer"},
		{"write after CloseWrite", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			first := c.CloseWrite()
			second := c.CloseWrite()
			_, err := c.Write([]byte("x"))
			return []any{first, second, err}
		}, "broken pipe"},
		{"read after CloseRead", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			first := c.CloseRead()
			_, err := c.Read(make([]byte, 1))
			return []any{first, err}
		}, "EOF"},
		{"shutdown after a reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			return []any{err, c.CloseRead(), c.CloseWrite()}
		}, "shutdown: transport endpoint is not connected"},
		{"write after the peer has closed, then write and read", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.Close())
			_, first := c.Write([]byte("x"))
			world.Settle() // the answer is a reset
			_, second := c.Write([]byte("x"))
			_, third := c.Write([]byte("x"))
			_, err := c.Read(make([]byte, 1))
			return []any{first, second, third, err}
		}, "EOF"},
		{"read after the peer has closed and reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.Close())
			_, first := c.Write([]byte("x"))
			world.Settle()
			_, second := c.Read(make([]byte, 1))
			_, third := c.Write([]byte("x"))
			return []any{first, second, third}
		}, "broken pipe"},
		{"shutdown after the peer has closed", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.Close())
			_, err := c.Read(make([]byte, 1))
			return []any{err, c.CloseRead(), c.CloseWrite()}
		}, "<nil>"},
		{"shutdown after both sides have closed for writing", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			first := c.CloseWrite()
			second := s.CloseWrite()
			_, err := c.Read(make([]byte, 1))
			world.Settle()
			_, again := s.Read(make([]byte, 1))
			_, write := c.Write([]byte("x"))
			return []any{first, second, err, again, c.CloseWrite(), c.CloseRead(), s.CloseWrite(), write}
		}, "broken pipe"},
		{"received data is not read past the deadline", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			_, err := s.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, s.Close())
			world.Settle()
			require.NoError(t, c.SetReadDeadline(past))
			_, err = c.Read(make([]byte, 1))
			require.NoError(t, c.SetReadDeadline(time.Time{}))
			_, data := c.Read(make([]byte, 1))
			_, end := c.Read(make([]byte, 1))
			return []any{err, data, end}
		}, "EOF"},
		{"data that came before a reset is read before it", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			_, err := s.Write([]byte("x"))
			require.NoError(t, err)
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			world.Settle()
			_, data := c.Read(make([]byte, 1))
			_, second := c.Read(make([]byte, 1))
			_, third := c.Read(make([]byte, 1))
			return []any{data, second, third}
		}, "EOF"},
		{"CloseRead wakes a blocked read", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			got := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 1))
				got <- err
			}()
			world.Settle()
			require.NoError(t, c.CloseRead())
			return []any{<-got}
		}, "EOF"},
		{"CloseWrite wakes a blocked write", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			got, data := make(chan error), make([]byte, 64<<20)
			go func() {
				_, err := c.Write(data)
				got <- err
			}()
			time.Sleep(20 * time.Millisecond)
			require.NoError(t, c.CloseWrite())
			return []any{<-got}
		}, "broken pipe"},
		{"a deadline wakes a blocked write", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetWriteDeadline(time.Now().Add(20*time.Millisecond)))
			_, err := c.Write(make([]byte, 64<<20))
			_, again := c.Write([]byte("x"))
			return []any{err, again}
		}, "i/o timeout"},
		{"a reset wakes a blocked write", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.SetReadBuffer(4096))
			require.NoError(t, c.SetWriteBuffer(4096))
			_, err := c.Write([]byte("unread"))
			require.NoError(t, err)
			got, data := make(chan error), make([]byte, 64<<20)
			go func() {
				_, err := c.Write(data)
				got <- err
			}()
			_, err = io.ReadFull(s, make([]byte, len("unread")+1))
			require.NoError(t, err, "it has begun")
			// Wait until the call is blocked. Otherwise the kernel might return EPIPE instead.
			time.Sleep(50 * time.Millisecond)
			require.NoError(t, s.Close(), "with data unread")
			err = <-got
			_, end := c.Read(make([]byte, 1))
			return []any{err, end}
		}, "EOF"},
		{"a reset wakes a blocked read", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			got := make(chan error)
			go func() {
				_, err := c.Read(make([]byte, 1))
				got <- err
			}()
			world.Settle()
			require.NoError(t, s.SetLinger(0))
			require.NoError(t, s.Close())
			err := <-got
			_, write := c.Write([]byte("x"))
			return []any{err, write}
		}, "broken pipe"},
		{"a connection that is not accepted is reset by the listener's Close", func(t *testing.T, w *world.World) []any {
			ln, err := w.Listen("tcp4", w.Server+":0")
			require.NoError(t, err)
			accepted, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
			require.NoError(t, err)
			defer accepted.Close()
			s, err := ln.Accept()
			require.NoError(t, err)
			defer s.Close()
			waiting, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
			require.NoError(t, err)
			defer waiting.Close()
			require.NoError(t, ln.Close())
			_, stays := s.Write([]byte("x"))
			_, reads := accepted.Read(make([]byte, 1))
			_, err = waiting.Read(make([]byte, 1))
			return []any{stays, reads, err}
		}, "connection reset by peer"},
		{"listen again where a connection is in TIME-WAIT", func(t *testing.T, w *world.World) []any {
			ln, err := w.Listen("tcp4", w.Server+":0")
			require.NoError(t, err)
			c, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			require.NoError(t, s.Close())
			_, err = c.Read(make([]byte, 1))
			require.Equal(t, io.EOF, err)
			require.NoError(t, c.Close())
			require.NoError(t, ln.Close())
			again, err := w.Listen("tcp4", ln.Addr().String())
			if err == nil {
				again.Close()
			}
			return []any{err}
		}, "<nil>"},
		{"an empty read", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			_, err := c.Read(nil)
			return []any{err}
		}, "<nil>"},
		{"ReadFrom that cannot write", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.CloseWrite())
			// The kernel has no system call to copy from such a reader.
			_, err := c.ReadFrom(strings.NewReader("x"))
			return []any{err}
		}, "write: broken pipe"},
		{"WriteTo that cannot read", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetReadDeadline(past))
			_, err := c.WriteTo(io.Discard)
			return []any{err}
		}, "i/o timeout"},
	}
}
