package contract

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// copyBehaviours returns the behaviours of ReadFrom and WriteTo, which io.Copy and net/http call.
func copyBehaviours() []behaviour {
	return []behaviour{
		{"ReadFrom of a reader in memory", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			n, err := c.ReadFrom(strings.NewReader("from memory"))
			return append([]any{n, err}, read(s, 100)...)
		}, "<nil>"},
		{"ReadFrom of an empty reader", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			n, err := c.ReadFrom(strings.NewReader(""))
			return []any{n, err}
		}, "<nil>"},
		{"ReadFrom of a reader that returns EOF together with the data", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			n, err := c.ReadFrom(iotest.DataErrReader(strings.NewReader("the end")))
			return append([]any{n, err}, read(s, 100)...)
		}, "<nil>"},
		{"ReadFrom of a reader that fails in the middle", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			n, err := c.ReadFrom(io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("it broke"))))
			return append(read(s, 100), n, err)
		}, "it broke"},
		{"ReadFrom of a reader that fails with io.ErrUnexpectedEOF", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			n, err := c.ReadFrom(iotest.ErrReader(io.ErrUnexpectedEOF))
			return []any{n, err}
		}, "unexpected EOF"},
		{"ReadFrom of a limited reader takes no more", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			from := strings.NewReader("as much as that and more")
			n, err := c.ReadFrom(io.LimitReader(from, 15))
			rest, _ := io.ReadAll(from)
			return append(read(s, 100), rest, n, err)
		}, "<nil>"},
		{"ReadFrom of a limited connection takes no more", func(t *testing.T, w *world.World) []any {
			a, b := w.Pair(t)
			c, s := w.Pair(t)
			require.NoError(t, writeAll(a, "as much as that and more"))
			world.Settle()
			limited := &io.LimitedReader{R: b, N: 15}
			n, err := c.ReadFrom(limited)
			return append(append(read(s, 100), n, err, limited.N), read(b, 100)...)
		}, "<nil>"},
		{"ReadFrom of a file", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			name := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(name, []byte("of a file"), 0o600))
			f, err := os.Open(name)
			require.NoError(t, err)
			defer f.Close()
			n, err := c.ReadFrom(f)
			return append(read(s, 100), n, err)
		}, "<nil>"},
		{"io.Copy from one connection to another", func(t *testing.T, w *world.World) []any {
			a, b := w.Pair(t)
			c, s := w.Pair(t)
			require.NoError(t, writeAll(a, "through both"))
			require.NoError(t, a.Close())
			n, err := io.Copy(c, b)
			return append(read(s, 100), n, err)
		}, "<nil>"},
		{"io.CopyN from one connection to another", func(t *testing.T, w *world.World) []any {
			a, b := w.Pair(t)
			c, s := w.Pair(t)
			require.NoError(t, writeAll(a, "through"))
			require.NoError(t, a.Close())
			n, err := io.CopyN(c, b, 100)
			return append(read(s, 100), n, err)
		}, "EOF"},
		{"ReadFrom from a connection, after CloseWrite", func(t *testing.T, w *world.World) []any {
			a, b := w.Pair(t)
			c, _ := w.Pair(t)
			require.NoError(t, writeAll(a, "through"))
			require.NoError(t, c.CloseWrite())
			world.Settle()
			n, err := c.ReadFrom(b)
			return []any{n, err}
		}, "splice: broken pipe"},
		{"ReadFrom past the write deadline", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
			n, err := c.ReadFrom(strings.NewReader("late"))
			return []any{n, err}
		}, "i/o timeout"},
		{"ReadFrom of nothing past the write deadline", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
			n, err := c.ReadFrom(strings.NewReader(""))
			return []any{n, err}
		}, "<nil>"},
		{"ReadFrom after a reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			reset(t, s)
			n, err := c.ReadFrom(strings.NewReader("late"))
			m, again := c.ReadFrom(strings.NewReader("late"))
			return []any{n, err, m, again}
		}, "write: broken pipe"},
		{"WriteTo until the end", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "until the end"))
			require.NoError(t, s.Close())
			var b bytes.Buffer
			n, err := c.WriteTo(&b)
			m, again := c.WriteTo(&b)
			return []any{n, err, b.String(), m, again}
		}, "<nil>"},
		{"WriteTo until a reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "until a reset"))
			world.Settle()
			reset(t, s)
			var b bytes.Buffer
			n, err := c.WriteTo(&b)
			return []any{b.String(), n, err}
		}, "read: connection reset by peer"},
		{"WriteTo until the deadline", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "until then"))
			var b bytes.Buffer
			n, err := c.WriteTo(writerFunc(func(p []byte) (int, error) {
				require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
				return b.Write(p)
			}))
			return []any{b.String(), n, err}
		}, "i/o timeout"},
		{"WriteTo a writer that fails", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "some data"))
			n, err := c.WriteTo(failingWriter{})
			return []any{n, err}
		}, "no space"},
		{"WriteTo a writer that writes only half and reports no error", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "some data"))
			n, err := c.WriteTo(shortWriter{})
			return []any{n, err}
		}, "short write"},
		{"WriteTo a pipe that is closed", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "some data"))
			r, pipe := io.Pipe()
			require.NoError(t, r.Close())
			n, err := c.WriteTo(pipe)
			return []any{n, err}
		}, "closed pipe"},
		{"io.Copy of a connection that is closed meanwhile", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			got := after(func() error {
				_, err := io.Copy(io.Discard, c)
				return err
			})
			return []any{c.Close(), <-got}
		}, "use of closed network connection"},
		{"net.Buffers", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			bufs := net.Buffers{[]byte("one "), nil, []byte("two")}
			n, err := bufs.WriteTo(c)
			world.Settle()
			return append(append([]any{n, err, len(bufs)}, read(s, 100)...), s.Close())
		}, "<nil>"},
		{"net.Buffers on a broken pipe", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			require.NoError(t, c.CloseWrite())
			bufs := net.Buffers{[]byte("one "), []byte("two")}
			n, err := bufs.WriteTo(c)
			return []any{n, len(bufs), err}
		}, "writev: broken pipe"},
	}
}

func writeAll(w io.Writer, s string) error {
	_, err := io.WriteString(w, s)
	return err
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type failingWriter struct{}

func (failingWriter) Write(p []byte) (int, error) { return 3, errors.New("no space") }

type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) / 2, nil }
