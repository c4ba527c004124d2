package contract

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
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
		{"ReadFrom of a reader that fails with its last data", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) { return copy(p, "with it"), errors.New("it broke") }))
			return append(read(s, 100), n, err)
		}, "it broke"},
		{"ReadFrom of a reader that reads nothing at times", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			calls := 0
			n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) {
				switch calls++; {
				case calls < 10:
					return 0, nil
				case calls < 12:
					return copy(p, "at last "), nil
				}
				return 0, io.EOF
			}))
			world.Settle()
			return append(read(s, 100), n, err)
		}, "<nil>"},
		{"ReadFrom of a reader that reads more than it may", func(t *testing.T, w *world.World) (got []any) {
			c, _ := w.Pair(t)
			defer func() { got = append(got, c.Close(), fmt.Sprint("panics: ", recover() != nil)) }()
			c.ReadFrom(readerFunc(func(p []byte) (int, error) { return 1 << 30, nil }))
			return nil
		}, `panics: true"`},
		{"ReadFrom of a reader that reads less than nothing", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) { return -5, io.EOF }))
			return []any{n, err}
		}, "<nil>"},
		{"ReadFrom of all sizes", func(t *testing.T, w *world.World) (got []any) {
			c, s := w.Pair(t)
			sum := crc32.NewIEEE()
			done := make(chan error, 1)
			go func() {
				_, err := io.Copy(sum, s)
				done <- err
			}()
			for _, n := range []int{1, 2047, 2048, 2049, 4095, 4096, 4097, 16384, 65535, 65536, 65537, 300_000} {
				p := make([]byte, n)
				for i := range p {
					p[i] = byte(n + i*i)
				}
				k, err := c.ReadFrom(io.LimitReader(bytes.NewReader(p), int64(n)))
				got = append(got, k, err)
			}
			got = append(got, c.CloseWrite())
			err := <-done
			return append(got, sum.Sum32(), err)
		}, "<nil>"},
		{"ReadFrom of a section of a file", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			name := filepath.Join(t.TempDir(), "file")
			require.NoError(t, os.WriteFile(name, []byte("a section of a file"), 0o600))
			f, err := os.Open(name)
			require.NoError(t, err)
			defer f.Close()
			n, err := c.ReadFrom(io.NewSectionReader(f, 2, 7))
			m, again := io.CopyN(c, f, 5)
			at, _ := f.Seek(0, io.SeekCurrent)
			world.Settle()
			return append(read(s, 100), at, n, err, m, again)
		}, "<nil>"},
		{"ReadFrom past a deadline that its source sets", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			calls := 0
			n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) {
				if calls++; calls == 2 {
					require.NoError(t, c.SetWriteDeadline(time.Unix(1, 0)))
				}
				return copy(p, "some data"), nil
			}))
			return append(read(s, 100), n, err)
		}, "i/o timeout"},
		{"ReadFrom on a connection that its source closes", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			calls := 0
			n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) {
				if calls++; calls == 2 {
					require.NoError(t, c.Close())
				}
				return copy(p, "some data"), nil
			}))
			return append(read(s, 100), n, err)
		}, "use of closed network connection"},
		{"ReadFrom after a CloseWrite of its source", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			calls := 0
			n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) {
				if calls++; calls == 2 {
					require.NoError(t, c.CloseWrite())
				}
				return copy(p, "some data"), nil
			}))
			return append(all(s), n, err)
		}, "write: broken pipe"},
		{"ReadFrom on a connection that is reset meanwhile", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			calls := 0
			n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) {
				if calls++; calls == 2 {
					reset(t, s)
				}
				return copy(p, "some data"), nil
			}))
			return []any{n, err}
		}, "connection reset by peer"},
		{"a Write while ReadFrom waits for its source", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			r, pipe := io.Pipe()
			got := after(func() error {
				_, err := c.ReadFrom(r)
				return err
			})
			writeAll(pipe, "first, ")
			world.Settle()
			writeAll(c, "second, ")
			writeAll(pipe, "third")
			pipe.Close()
			err := <-got
			c.CloseWrite()
			return append(all(s), err)
		}, "<nil>"},
		{"WriteTo a writer that panics", func(t *testing.T, w *world.World) (got []any) {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "some data"))
			defer func() {
				got = append(got, recover(), c.Close())
			}()
			c.WriteTo(writerFunc(func([]byte) (int, error) { panic("a sink") }))
			return nil
		}, "<nil>"},
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

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

type failingWriter struct{}

func (failingWriter) Write(p []byte) (int, error) { return 3, errors.New("no space") }

type shortWriter struct{}

func (shortWriter) Write(p []byte) (int, error) { return len(p) / 2, nil }
