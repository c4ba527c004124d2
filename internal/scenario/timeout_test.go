package scenario

import (
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/world"
)

// deadliner has the methods that set deadlines.
type deadliner interface {
	SetDeadline(t time.Time) error
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// timeouts has deadlines, relative to now, that have passed or pass soon.
var timeouts = []time.Duration{-5 * time.Second, -time.Nanosecond, time.Nanosecond, 20 * time.Millisecond}

// timesOut sets a deadline and checks that call fails with os.ErrDeadlineExceeded, not before the deadline,
// and that later calls fail at once. It does so for each of timeouts.
func timesOut(t *testing.T, set func(time.Time) error, call func() error) {
	t.Helper()
	for _, timeout := range timeouts {
		deadline := time.Now().Add(timeout)
		require.NoError(t, set(deadline))
		for range 3 {
			err := call()
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.True(t, err.(net.Error).Timeout())
			require.False(t, time.Now().Before(deadline))
		}
	}
	require.NoError(t, set(time.Time{}))
}

func TestAcceptTimesOutAndGoesOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		timesOut(t, ln.(interface{ SetDeadline(time.Time) error }).SetDeadline, func() error {
			_, err := ln.Accept()
			return err
		})
		go w.To(t, ln.Addr())
		c, err := ln.Accept()
		require.NoError(t, err)
		c.Close()
	})
}

func TestADeadlineWakesABlockedAccept(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		ln := w.ListenTCP(t)
		set := ln.(interface{ SetDeadline(time.Time) error }).SetDeadline
		failed := make(chan error, 1)
		go func() {
			_, err := ln.Accept()
			failed <- err
		}()
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, set(time.Now().Add(10*time.Millisecond)))
		require.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)

		// A deadline that is removed has no effect.
		require.NoError(t, set(time.Now().Add(20*time.Millisecond)))
		require.NoError(t, set(time.Time{}))
		go func() {
			c, err := ln.Accept()
			if err == nil {
				c.Close()
			}
			failed <- err
		}()
		time.Sleep(60 * time.Millisecond)
		require.Empty(t, failed)
		w.To(t, ln.Addr())
		require.NoError(t, <-failed)
	})
}

func TestReadsTimeOutAndGoOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		for _, set := range []func(time.Time) error{client.SetReadDeadline, client.SetDeadline} {
			timesOut(t, set, func() error {
				n, err := client.Read(make([]byte, 1))
				require.Zero(t, n)
				return err
			})
		}
		server.Write([]byte("late"))
		require.Equal(t, "late", string(readFull(t, client, 4)))

		// A read deadline does not affect writes.
		require.NoError(t, client.SetReadDeadline(time.Now().Add(-time.Second)))
		_, err := client.Write([]byte("w"))
		require.NoError(t, err)
		require.Equal(t, "w", string(readFull(t, server, 1)))
	})
}

func TestAPassedDeadlineComesBeforeTheData(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		server.Write([]byte("there"))
		require.NoError(t, client.SetReadDeadline(time.Now().Add(time.Minute)))
		require.Equal(t, "t", string(readFull(t, client, 1)))
		require.NoError(t, client.SetReadDeadline(time.Now().Add(-time.Second)))
		_, err := client.Read(make([]byte, 4))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, client.SetReadDeadline(time.Time{}))
		require.Equal(t, "here", string(readFull(t, client, 4)), "and none is lost")
	})
}

func TestADeadlineWakesABlockedRead(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, _ := w.Pair(t)
		failed := make(chan error, 1)
		for _, deadline := range []time.Duration{-time.Hour, 0, 10 * time.Millisecond} {
			require.NoError(t, client.SetReadDeadline(time.Time{}))
			go func() {
				_, err := client.Read(make([]byte, 1))
				failed <- err
			}()
			time.Sleep(10 * time.Millisecond)
			require.NoError(t, client.SetReadDeadline(time.Now().Add(deadline)))
			require.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
		}
	})
}

func TestAReadWithoutADeadlineWaits(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		require.NoError(t, client.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
		require.NoError(t, client.SetReadDeadline(time.Time{}))
		got := make(chan string, 1)
		go func() {
			b := make([]byte, 4)
			n, err := client.Read(b)
			if err != nil {
				t.Error(err)
			}
			got <- string(b[:n])
		}()
		time.Sleep(60 * time.Millisecond)
		require.Empty(t, got)
		server.Write([]byte("now"))
		require.Equal(t, "now", <-got)
	})
}

func TestWritesTimeOutAndGoOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		client.SetWriteBuffer(32 << 10)
		server.SetReadBuffer(32 << 10)
		sent := 0
		for _, set := range []func(time.Time) error{client.SetWriteDeadline, client.SetDeadline} {
			timesOut(t, set, func() error {
				for { // fill both buffers
					n, err := client.Write(make([]byte, 16<<10))
					sent += n
					if err != nil {
						return err
					}
					require.Equal(t, 16<<10, n)
				}
			})
		}
		go func() {
			client.Write([]byte("end"))
			client.CloseWrite()
		}()
		got, err := io.ReadAll(server)
		require.NoError(t, err)
		require.Len(t, got, sent+3, "exactly the bytes that Write counted were sent")
		require.Equal(t, "end", string(got[sent:]))
	})
}

func TestADeadlineWakesABlockedWrite(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, _ := w.Pair(t)
		failed := make(chan error, 1)
		go func() {
			for {
				if _, err := client.Write(make([]byte, 1<<20)); err != nil {
					failed <- err
					return
				}
			}
		}()
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, client.SetWriteDeadline(time.Now()))
		require.ErrorIs(t, <-failed, os.ErrDeadlineExceeded)
	})
}

func TestADeadlineThatMovesWithTheDataNeverPasses(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		go func() {
			for range 10 {
				time.Sleep(10 * time.Millisecond)
				server.Write([]byte("tick"))
			}
			server.Close()
		}()
		for {
			// The deadline is much later than the next tick. In virtual time, it would pass at once if
			// nothing else happened.
			require.NoError(t, client.SetReadDeadline(time.Now().Add(5*time.Second)))
			_, err := client.Read(make([]byte, 4))
			if err == io.EOF {
				return
			}
			require.NoError(t, err)
		}
	})
}

func TestADeadlineEndsAStream(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		for _, timeout := range []time.Duration{time.Nanosecond, time.Microsecond, time.Millisecond, 30 * time.Millisecond} {
			client, server := w.Pair(t)
			server.SetWriteDeadline(time.Now().Add(10 * time.Second)) // limits the time of a failing test
			var stream sync.WaitGroup
			stream.Go(func() { // runs until the connection is closed
				for {
					if _, err := server.Write(make([]byte, 8<<10)); err != nil {
						return
					}
					time.Sleep(time.Millisecond)
				}
			})
			deadline := time.Now().Add(timeout)
			require.NoError(t, client.SetDeadline(deadline))
			_, err := io.Copy(io.Discard, client)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.False(t, time.Now().Before(deadline))
			client.Close()
			stream.Wait()
		}
	})
}

func TestManyGoroutinesSetDeadlines(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, server := w.Pair(t)
		pc := w.ListenUDP(t, w.Server)
		var all sync.WaitGroup
		for _, d := range []deadliner{client, server, pc.(deadliner)} {
			for range 4 {
				all.Go(func() {
					for i := range 200 {
						at := time.Now().Add(time.Duration(i) * time.Microsecond)
						d.SetDeadline(at)
						d.SetReadDeadline(at)
						d.SetWriteDeadline(at)
					}
				})
			}
		}
		for _, c := range []world.TCPConn{client, server} {
			all.Go(func() {
				for range 200 {
					c.Read(make([]byte, 1))
					c.Write([]byte("x"))
				}
			})
		}
		all.Wait()
		for _, c := range []world.TCPConn{client, server} {
			require.NoError(t, c.SetDeadline(time.Time{}))
			require.NoError(t, c.CloseWrite())
		}
		_, err := io.Copy(io.Discard, client)
		require.NoError(t, err, "no deadline is left behind")
	})
}

func TestDatagramReadsTimeOutAndGoOn(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server)
		for _, set := range []func(time.Time) error{pc.SetReadDeadline, pc.SetDeadline} {
			timesOut(t, set, func() error {
				n, from, err := pc.ReadFrom(make([]byte, 1))
				require.Zero(t, n)
				require.Nil(t, from)
				return err
			})
		}
		c := w.To(t, pc.LocalAddr())
		c.Write([]byte("late"))
		b := make([]byte, 10)
		n, from, err := pc.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, "late", string(b[:n]))
		require.Equal(t, c.LocalAddr().String(), from.String())
	})
}

func TestDatagramWritesObeyTheirDeadline(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server)
		require.NoError(t, pc.SetWriteDeadline(time.Now().Add(-time.Second)))
		for range 2 {
			n, err := pc.WriteTo([]byte("never"), pc.LocalAddr())
			require.Zero(t, n)
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		}
		require.NoError(t, pc.SetWriteDeadline(time.Time{}))
		_, err := pc.WriteTo([]byte("now"), pc.LocalAddr())
		require.NoError(t, err)
	})
}

func TestAClosedSocketIsNotAnExpiredOne(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		client, _ := w.Pair(t)
		require.NoError(t, client.SetDeadline(time.Now().Add(-time.Second)))
		require.NoError(t, client.Close())
		_, err := client.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
		_, err = client.Write([]byte("x"))
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, client.SetDeadline(time.Time{}), net.ErrClosed)
	})
}
