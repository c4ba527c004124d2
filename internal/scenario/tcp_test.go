package scenario

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/internal/world"
	"github.com/usernet/usernet/nic"
)

func TestAConnectionAndItsListener(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		require.Equal(t, "tcp", ln.Addr().Network())
		go hosttest.Serve(ln, hosttest.Echo)
		c := w.To(t, ln.Addr())
		require.Equal(t, ln.Addr().String(), c.RemoteAddr().String())
		require.Equal(t, "tcp", c.LocalAddr().Network())
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Minute)))
		for _, n := range []int{1, 10, 1460, 5000, 100_000} {
			go c.Write(hosttest.Text(n))
			require.Equal(t, hosttest.Text(n), readFull(t, c, n))
		}
		require.NoError(t, c.Close())
		require.ErrorIs(t, c.Close(), net.ErrClosed)
	})
}

func TestSeveralServersServeManyClients(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		var clients sync.WaitGroup
		for range 3 {
			ln := w.ListenTCP(t)
			go hosttest.Serve(ln, hosttest.Echo)
			for i := range 8 {
				clients.Go(func() {
					c, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					for j := range 20 {
						question := fmt.Sprintf("%d of %d", j, i)
						answer := make([]byte, len(question))
						c.Write([]byte(question))
						if _, err := io.ReadFull(c, answer); err != nil || string(answer) != question {
							t.Errorf("%q for %q: %v", answer, question, err)
						}
					}
				})
			}
		}
		clients.Wait()
	})
}

func TestHalfAConnectionGoesOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		client.Write([]byte("question"))
		require.NoError(t, client.CloseWrite())
		question, err := io.ReadAll(server)
		require.NoError(t, err)
		require.Equal(t, "question", string(question))
		_, err = client.Write([]byte("more"))
		require.ErrorIs(t, err, syscall.EPIPE)
		// The other direction stays open.
		for range 3 {
			server.Write([]byte("answer"))
			require.Equal(t, "answer", string(readFull(t, client, 6)))
		}
		require.NoError(t, server.CloseWrite())
		_, err = client.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err)
	})
}

func TestCloseReadWakesABlockedRead(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, _ := w.Pair(t)
		failed := make(chan error, 1)
		go func() {
			_, err := client.Read(make([]byte, 1))
			failed <- err
		}()
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, client.CloseRead())
		require.Equal(t, io.EOF, <-failed)
		_, err := client.Write([]byte("still"))
		require.NoError(t, err)
	})
}

func TestAClosedConnectionWakesItsCallers(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, _ := w.Pair(t)
		failed := make(chan error, 2)
		go func() {
			_, err := client.Read(make([]byte, 1))
			failed <- err
		}()
		go func() {
			for {
				if _, err := client.Write(make([]byte, 1<<20)); err != nil {
					failed <- err
					return
				}
			}
		}()
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, client.Close())
		require.ErrorIs(t, <-failed, net.ErrClosed)
		require.ErrorIs(t, <-failed, net.ErrClosed)
		n, err := client.Read(make([]byte, 1))
		require.Zero(t, n)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestEmptyReadsAndWritesDoNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		for _, p := range [][]byte{nil, {}} {
			n, err := client.Read(p)
			require.NoError(t, err)
			require.Zero(t, n)
			n, err = client.Write(p)
			require.NoError(t, err)
			require.Zero(t, n)
		}
		client.Write([]byte("x"))
		require.Equal(t, "x", string(readFull(t, server, 1)), "an empty write sends nothing")
	})
}

func TestMuchIsSentInOneWrite(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		much := hosttest.Text(8 << 20)
		go func() {
			if n, err := client.Write(much); n != len(much) || err != nil {
				t.Error(n, err)
			}
			client.Close()
		}()
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		require.True(t, bytes.Equal(much, got))
	})
}

func TestManyBuffersAreWrittenAsOne(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		var want []byte
		var buffers net.Buffers
		for i := range 300 {
			b := hosttest.Text(i)
			buffers = append(buffers, b)
			want = append(want, b...)
		}
		go func() {
			if n, err := buffers.WriteTo(client); n != int64(len(want)) || err != nil {
				t.Error(n, err)
			}
		}()
		require.Equal(t, want, readFull(t, server, len(want)))
	})
}

func TestAFileIsSent(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		want := hosttest.Text(1 << 20)
		name := filepath.Join(t.TempDir(), "file")
		require.NoError(t, os.WriteFile(name, want, 0o600))
		send := func(copy func(c net.Conn, f *os.File) (int64, error)) []byte {
			client, server := w.Pair(t)
			f, err := os.Open(name)
			require.NoError(t, err)
			defer f.Close()
			go func() {
				defer client.Close()
				if _, err := copy(client, f); err != nil {
					t.Error(err)
				}
			}()
			got, err := io.ReadAll(server)
			require.NoError(t, err)
			return got
		}
		require.True(t, bytes.Equal(want, send(func(c net.Conn, f *os.File) (int64, error) { return io.Copy(c, f) })))
		require.True(t, bytes.Equal(want, send(func(c net.Conn, f *os.File) (n int64, err error) {
			for n < int64(len(want)) && err == nil { // in pieces
				var k int64
				k, err = io.CopyN(c, f, min(100_003, int64(len(want))-n))
				n += k
			}
			return n, err
		})))
		require.True(t, bytes.Equal(want[1000:], send(func(c net.Conn, f *os.File) (int64, error) {
			f.Seek(1000, io.SeekStart)
			return io.Copy(c, f)
		})))
		require.True(t, bytes.Equal(want[10:20], send(func(c net.Conn, f *os.File) (int64, error) {
			f.Seek(10, io.SeekStart)
			n, err := c.(io.ReaderFrom).ReadFrom(io.LimitReader(f, 10))
			if at, _ := f.Seek(0, io.SeekCurrent); at != 20 {
				t.Errorf("the file stands at %d", at)
			}
			return n, err
		})))
	})
}

func TestACopyEndsWithTheDeadline(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		client.SetWriteBuffer(64 << 10)
		server.SetReadBuffer(64 << 10)
		// The deadline is set only after some data has been sent. On a loaded machine, an earlier deadline
		// could pass before that.
		n, err := io.Copy(client, &onceRead{r: io.LimitReader(hosttest.Zeros{}, 64<<20), then: func() {
			if err := client.SetWriteDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
				t.Error(err)
			}
		}})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Greater(t, n, int64(0), "what was sent is counted")
		require.Less(t, n, int64(64<<20))
	})
}

func TestAConnectionIsCopiedIntoAnother(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, inbound := w.Pair(t)
		outbound, server := w.Pair(t)
		copied := make(chan error, 1)
		go func() { // copies between two connections, as a proxy does
			_, err := io.Copy(outbound, inbound)
			outbound.CloseWrite()
			copied <- err
		}()
		want := hosttest.Text(3 << 20)
		go func() {
			client.Write(want)
			client.CloseWrite()
		}()
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want, got))
		require.NoError(t, <-copied)
	})
}

func TestACopyIntoAClosedConnectionEnds(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		r, pw := io.Pipe()
		copied := make(chan error, 1)
		go func() {
			_, err := io.Copy(client, r)
			r.CloseWithError(err)
			copied <- err
		}()
		pw.Write([]byte("hello"))
		require.Equal(t, "hello", string(readFull(t, server, 5)))
		client.Close()
		_, err := pw.Write([]byte("more"))
		if err == nil { // the copy has read the data and failed
			_, err = pw.Write([]byte("more"))
		}
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, <-copied, net.ErrClosed)
	})
}

func TestARefusedPortIsNeverConnectedToItself(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		// The port is ephemeral, so a dial may choose it as its own port too. The connection would then open with
		// itself (a simultaneous open). The dial must be refused instead.
		free := world.FreePort(t, w)
		for range 300 {
			c, err := w.Dial(context.Background(), world.DialOptions{Timeout: time.Second}, "tcp", free)
			if err == nil {
				require.NotEqual(t, c.LocalAddr().String(), c.RemoteAddr().String())
				c.Close()
			}
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
		}
	})
}

func TestARefusalIsQuick(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		_, err := w.Dial(context.Background(), world.DialOptions{Timeout: time.Minute}, "tcp", world.FreePort(t, w))
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "and not the timeout")
	})
}

func TestAnAbortedRequestDoesNotStopAccept(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		aborted := w.To(t, ln.Addr())
		require.NoError(t, aborted.(world.TCPConn).SetLinger(0))
		require.NoError(t, aborted.Close())
		go func() {
			c, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			c.Write([]byte("alive"))
		}()
		for {
			c, err := ln.Accept()
			require.NoError(t, err)
			got, err := io.ReadAll(c)
			c.Close()
			if err == nil {
				require.Equal(t, "alive", string(got))
				return
			}
			require.ErrorIs(t, err, syscall.ECONNRESET)
		}
	})
}

func TestManyGoroutinesAcceptAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		const n = 50
		ln := w.ListenTCP(t)
		var accepters sync.WaitGroup
		accepted := make(chan string, n)
		for range 10 {
			accepters.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						if !errors.Is(err, net.ErrClosed) {
							t.Error(err)
						}
						return
					}
					accepted <- c.RemoteAddr().String()
					c.Close()
				}
			})
		}
		seen := map[string]bool{}
		for range n {
			c := w.To(t, ln.Addr())
			seen[c.LocalAddr().String()] = true
		}
		for range n {
			remote := <-accepted
			require.True(t, seen[remote], remote)
			delete(seen, remote) // each connection is accepted only once
		}
		ln.Close()
		accepters.Wait()
	})
}

func TestBothSidesTalkAtOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		want := hosttest.Text(2 << 20)
		var talk sync.WaitGroup
		for _, c := range []world.TCPConn{client, server} {
			talk.Go(func() {
				for p := want; len(p) > 0; {
					n := min(len(p), 7001)
					if _, err := c.Write(p[:n]); err != nil {
						t.Error(err)
						return
					}
					p = p[n:]
				}
				c.CloseWrite()
			})
			talk.Go(func() {
				got, err := io.ReadAll(c)
				if err != nil || !bytes.Equal(want, got) {
					t.Errorf("%d bytes: %v", len(got), err)
				}
			})
		}
		talk.Wait()
	})
}

func TestConnectionsComeAndGo(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		go hosttest.Serve(ln, hosttest.Echo)
		var clients sync.WaitGroup
		for range 4 {
			clients.Go(func() {
				for range 50 {
					c, err := w.Dial(context.Background(), world.DialOptions{}, "tcp", ln.Addr().String())
					if err != nil {
						t.Error(err)
						return
					}
					c.Write([]byte("ping"))
					if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
						t.Error(err)
					}
					c.Close()
				}
			})
		}
		clients.Wait()
	})
}

// onceRead is a Reader that calls then in its second Read, when r has been read once.
type onceRead struct {
	r     io.Reader
	reads int
	then  func()
}

func (r *onceRead) Read(p []byte) (int, error) {
	if r.reads++; r.reads == 2 {
		r.then()
	}
	return r.r.Read(p)
}

// RFC 791 3.2: "Every internet module must be able to forward a datagram of 68 octets without
// further fragmentation." Without the headers, 28 octets remain for TCP options and data. Timestamps take
// 12 of them, and SACK blocks take more.
func TestTheSmallestLinksCarryTCP(t *testing.T) {
	for _, mtu := range []int{68, 69, 75, 80, 88, 99, 100} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				for _, loss := range []float64{0, 0.05} {
					wa, wb := nic.Pipe(nic.PipeConfig{MTU: mtu})
					imp := nic.Impairment{Latency: 10 * time.Millisecond, Loss: loss}
					a := hosttest.Host(t, nic.Impair(wa, nic.ImpairConfig{In: imp, Out: imp, Seed: uint64(mtu)}), hosttest.AddrA)
					b := hosttest.Host(t, wb, hosttest.AddrB)
					c, s := hosttest.Connect(t, a, b, hosttest.AddrB)
					go hosttest.Echo(s)
					want := hosttest.Text(3000)
					go c.Write(want)
					c.SetReadDeadline(time.Now().Add(10 * time.Minute))
					require.Equal(t, want, readFull(t, c, len(want)))
					require.Zero(t, a.Stats().IP.FragmentsSent+b.Stats().IP.FragmentsSent)
					a.Close()
					b.Close()
				}
			})
		})
	}
}
