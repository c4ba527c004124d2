package contract

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// streamBehaviours returns the behaviours of reads and writes of a connection.
func streamBehaviours() []behaviour {
	return []behaviour{
		{"a write and reads of parts of it", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := write(c, "all of it")
			world.Settle()
			return slices.Concat(seen, read(s, 3), read(s, 3), read(s, 100))
		}, "<nil>"},
		{"a read takes what several writes sent", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := slices.Concat(write(c, "one"), write(c, "two"), write(c, "three"))
			world.Settle()
			return append(seen, read(s, 100)...)
		}, "<nil>"},
		{"both directions at once", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			return slices.Concat(write(c, "there"), write(s, "back"), read(s, 100), read(c, 100))
		}, "<nil>"},
		{"ends of a connection", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			return []any{
				c.LocalAddr().String() == s.RemoteAddr().String(), s.LocalAddr().String() == c.RemoteAddr().String(),
				c.LocalAddr() == c.LocalAddr(), c.RemoteAddr() == c.RemoteAddr(),
				c.LocalAddr(), c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr(),
			}
		}, "tcp HOST:P"},
		{"ends of a connection that is closed", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			local, remote := c.LocalAddr(), c.RemoteAddr()
			require.NoError(t, c.Close())
			reset(t, s)
			return []any{local == c.LocalAddr(), remote == c.RemoteAddr(), s.LocalAddr(), s.RemoteAddr()}
		}, "tcp HOST:P"},
		{"an empty read while data waits, and none", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			none := read(s, 0)
			require.NoError(t, writeErr(c))
			world.Settle()
			return slices.Concat(none, read(s, 0), read(s, 1))
		}, "<nil>"},
		{"an empty read at the end", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.Close())
			world.Settle()
			return slices.Concat(read(c, 0), read(c, 1), read(c, 0))
		}, "<nil>"},
		{"an empty read after a reset leaves the error alone", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			reset(t, s)
			return slices.Concat(read(c, 0), read(c, 1))
		}, "connection reset by peer"},
		{"an empty read after Close", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.Close())
			return read(c, 0)
		}, "use of closed network connection"},
		{"an empty write", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := slices.Concat(write(c, ""), write(c, "x"))
			return append(seen, read(s, 10)...)
		}, "<nil>"},
		{"an empty write after CloseWrite", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.CloseWrite())
			return append(write(c, ""), writeErr(c))
		}, "broken pipe"},
		{"an empty write after a reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			reset(t, s)
			return slices.Concat(write(c, ""), write(c, "x"), write(c, ""), read(c, 1))
		}, "EOF"},
		{"a large transfer is whole", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			data := make([]byte, 3<<20)
			rng := rand.New(rand.NewPCG(1, 2))
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			wrote := make(chan []any, 1)
			go func() {
				n, err := c.Write(data)
				wrote <- []any{n, err, c.CloseWrite()}
			}()
			h := sha256.New()
			n, err := io.Copy(h, s)
			want := sha256.Sum256(data)
			return append(<-wrote, n, err, bytes.Equal(h.Sum(nil), want[:]))
		}, "true"},
		{"concurrent writes do not mix", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			const size, writers = 64 << 10, 6
			errs := make(chan error)
			for i := range writers {
				go func() {
					_, err := c.Write(bytes.Repeat([]byte{byte('a' + i)}, size))
					errs <- err
				}()
			}
			got := make([]byte, size*writers)
			_, err := io.ReadFull(s, got)
			seen := []any{err}
			for range writers {
				seen = append(seen, <-errs)
			}
			runs := 1
			for i := 1; i < len(got); i++ {
				if got[i] != got[i-1] {
					runs++
				}
			}
			return append(seen, runs)
		}, "6"},
		{"a write that is cut short returns how much it wrote", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			data := make([]byte, 64<<20)
			got := after(func() []any {
				n, err := c.Write(data)
				return []any{n > 0 && n < len(data), err}
			})
			require.NoError(t, readErr(s), "it has begun")
			require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
			return <-got
		}, "i/o timeout"},
		{"a connection to itself", func(t *testing.T, w *world.World) []any {
			w = w.Self(t)
			var c world.TCPConn
			for err := error(syscall.EADDRINUSE); err != nil; {
				// FreePort finds a port by listening. A dial from that port can still fail, because a
				// connection in TIME-WAIT blocks dials, but not listeners.
				require.ErrorIs(t, err, syscall.EADDRINUSE)
				addr, bad := net.ResolveTCPAddr("tcp", world.FreePort(t, w))
				require.NoError(t, bad)
				// RFC 9293 3.5: a simultaneous open of a connection with itself.
				c, err = w.DialTCP("tcp", addr, addr)
			}
			defer c.Close()
			return slices.Concat([]any{c.LocalAddr(), c.RemoteAddr()}, write(c, "to me"), read(c, 10))
		}, "<nil>"},
		{"interfaces of a connection", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			var v any = c
			_, readerFrom := v.(io.ReaderFrom)
			_, writerTo := v.(io.WriterTo)
			_, packets := v.(net.PacketConn)
			_, closeWriter := v.(interface{ CloseWrite() error })
			_, closeReader := v.(interface{ CloseRead() error })
			_, readFrom := v.(interface {
				ReadFrom([]byte) (int, net.Addr, error)
			})
			_, byteReader := v.(io.ByteReader)
			_, stringWriter := v.(io.StringWriter)
			_, readerAt := v.(io.ReaderAt)
			return []any{readerFrom, writerTo, closeReader, byteReader, stringWriter, readerAt, packets, readFrom, closeWriter}
		}, "true"},
	}
}

// shutdownBehaviours returns the behaviours of a connection that one side closes first.
func shutdownBehaviours() []behaviour {
	return []behaviour{
		{"a request and a response over a half-closed connection", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := append(write(c, "request"), c.CloseWrite())
			seen = append(seen, all(s)...)
			seen = append(seen, write(s, "response")...)
			seen = append(seen, s.CloseWrite())
			return append(seen, all(c)...)
		}, "<nil>"},
		{"the server closes its side first", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := append(write(s, "bye"), s.CloseWrite())
			seen = append(seen, all(c)...)
			seen = append(seen, write(c, "still here")...)
			return slices.Concat(seen, read(s, 100), []any{c.Close(), readErr(s), s.Close()})
		}, "<nil>"},
		{"Close after CloseWrite and CloseRead", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			return []any{c.CloseWrite(), c.CloseRead(), c.Close(), readErr(s), s.Close()}
		}, "<nil>"},
		{"CloseRead twice, and reads", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			return []any{c.CloseRead(), c.CloseRead(), readErr(c), readErr(c), c.CloseWrite(), c.CloseWrite()}
		}, "<nil>"},
		{"data that is queued before CloseRead, and comes after it, is readable", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := write(s, "before")
			world.Settle()
			seen = append(seen, c.CloseRead())
			seen = append(seen, write(s, " and after")...)
			world.Settle()
			return slices.Concat(seen, read(c, 100), read(c, 100))
		}, "EOF"},
		{"writes to a peer that has closed for reading", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.CloseRead())
			seen := []any{writeErr(s)}
			world.Settle()
			return append(seen, writeErr(s), writeErr(c), readErr(s))
		}, "<nil>"},
		{"data for a side that is shut both ways resets the connection", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := slices.Concat(write(s, "early"), []any{c.CloseWrite(), c.CloseRead()})
			world.Settle()
			seen = append(seen, writeErr(s))
			world.Settle()
			seen = append(seen, read(c, 100)...)
			return append(seen, readErr(c), readErr(c), c.CloseWrite(), readErr(s), writeErr(s), s.CloseWrite())
		}, "transport endpoint is not connected"},
		{"reads and writes after both sides have closed for writing", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := []any{s.CloseWrite(), c.CloseRead(), c.CloseWrite()}
			world.Settle()
			return append(seen, readErr(c), writeErr(c), readErr(s), writeErr(s))
		}, "write: broken pipe"},
		{"a CloseWrite is after the data that is written", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			size := make(chan int64, 1)
			go func() {
				n, _ := io.Copy(io.Discard, s)
				size <- n
			}()
			n, err := c.Write(make([]byte, 1<<20))
			return []any{n, err, c.CloseWrite(), <-size}
		}, "1048576"},
		{"a Close is after the data that is written", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := append(write(c, "and bye"), c.Close())
			return append(seen, all(s)...)
		}, "<nil>"},
		{"a Close that lingers is after the data that is written", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetLinger(5))
			seen := append(write(c, "and bye"), c.Close())
			return append(seen, all(s)...)
		}, "<nil>"},
		{"a Close with a linger that is turned off again", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.SetLinger(0))
			require.NoError(t, c.SetLinger(-1))
			seen := append(write(c, "and bye"), c.Close())
			return append(seen, all(s)...)
		}, "<nil>"},
		{"a Close that resets after CloseWrite", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, c.CloseWrite())
			world.Settle()
			require.NoError(t, c.SetLinger(0))
			seen := []any{c.Close()}
			world.Settle()
			return append(seen, readErr(s), writeErr(s), writeErr(s))
		}, "broken pipe"},
		{"a Close that resets after the peer's CloseWrite", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.CloseWrite())
			world.Settle()
			require.NoError(t, c.SetLinger(0))
			seen := []any{c.Close()}
			world.Settle()
			return append(seen, readErr(s), s.CloseWrite(), s.CloseRead(), s.Close())
		}, "<nil>"},
		{"Close with data unread after CloseWrite resets", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.CloseWrite())
			require.NoError(t, writeErr(c))
			world.Settle()
			seen := []any{s.Close()}
			world.Settle()
			return append(seen, readErr(c), writeErr(c), writeErr(c))
		}, "broken pipe"},
		{"Close with data that was read in part resets", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := write(c, "in part")
			world.Settle()
			seen = append(seen, read(s, 2)...)
			seen = append(seen, s.Close())
			world.Settle()
			return append(seen, readErr(c), readErr(c))
		}, "EOF"},
		{"Close with all data read does not reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			seen := write(c, "whole")
			world.Settle()
			return append(append(seen, read(s, 10)...), s.Close(), readErr(c), readErr(c))
		}, "EOF"},
		{"Close after CloseRead with unread data", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.CloseRead())
			require.NoError(t, writeErr(c))
			world.Settle()
			return []any{s.Close(), readErr(c)}
		}, "connection reset by peer"},
		{"both sides close at the same time", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			got := make(chan error)
			go func() { got <- c.Close() }()
			go func() { got <- s.Close() }()
			return []any{<-got, <-got, c.Close(), s.Close()}
		}, "use of closed network connection"},
		{"settings after a reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			reset(t, s)
			return []any{
				c.SetNoDelay(true), c.SetLinger(1), c.SetKeepAlive(true), c.SetKeepAlivePeriod(time.Minute),
				c.SetReadBuffer(1 << 16), c.SetWriteBuffer(1 << 16), c.SetDeadline(time.Time{}), readErr(c), c.SetNoDelay(false), c.Close(),
			}
		}, "<nil>"},
		{"the first read or write after a reset gets its error, and later ones get others", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			reset(t, s)
			got := errorsInGoroutines(func() error { return readErr(c) }, func() error { return readErr(c) })
			return append(got, writeErr(c))
		}, "broken pipe"},
		{"past deadlines come before a reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			reset(t, s)
			require.NoError(t, c.SetDeadline(time.Unix(1, 0)))
			seen := []any{readErr(c), writeErr(c), c.SetDeadline(time.Time{})}
			return append(seen, readErr(c))
		}, "connection reset by peer"},
		{"past deadlines come before the end", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, s.Close())
			world.Settle()
			require.NoError(t, c.SetReadDeadline(time.Unix(1, 0)))
			seen := []any{readErr(c), c.SetReadDeadline(time.Time{})}
			return append(seen, readErr(c))
		}, "EOF"},
		{"a past deadline comes before a broken pipe", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.CloseWrite())
			require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
			return []any{writeErr(c), c.SetWriteDeadline(time.Time{}), writeErr(c)}
		}, "broken pipe"},
	}
}

// errorsInGoroutines calls the functions one after the other, each in a new goroutine, and returns the errors.
// They must be the same as if one goroutine made all calls.
func errorsInGoroutines(fs ...func() error) []any {
	var seen []any
	for _, f := range fs {
		seen = append(seen, <-after(f))
	}
	return seen
}
