package stack

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// pipedHosts returns two hosts on a wire. set changes the Config of both.
func pipedHosts(t *testing.T, set ...func(*Config)) (a, b *Stack) {
	x, y := nic.Pipe(nic.PipeConfig{})
	return newHost(t, x, "192.0.2.1/24", set...), newHost(t, y, "192.0.2.2/24", set...)
}

func noTimestamps(c *Config) {
	p := tcp.DefaultParams()
	p.NoTimestamps = true
	c.TCP.Params = &p
}

// acceptAndClose accepts connections. It closes each connection when the peer does, or keeps it open if hold is
// true.
func acceptAndClose(t *testing.T, s *Stack, on string, hold bool) {
	l, err := s.ListenTCP(FamilyAny, addrPort(on), ListenOptions{})
	require.NoError(t, err)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if hold {
				continue
			}
			go func() {
				c.Read(make([]byte, 1))
				c.Close()
			}()
		}
	}()
}

func TestConnectsMoreThanThereArePorts(t *testing.T) {
	// RFC 6191 and Linux's tcp_tw_reuse allow reusing a port in TIME-WAIT.
	dials := 30_000 // there are 28,232 ports
	if full(t) {
		dials = 70_000
	}
	for _, tc := range []struct {
		name, to string
		set      []func(*Config)
		virtual  time.Duration // maximum virtual time
	}{
		{"wire", "192.0.2.2:80", nil, time.Second},
		{"loopback", "127.0.0.1:80", nil, time.Second},
		{"without timestamps", "192.0.2.2:80", []func(*Config){noTimestamps}, 3 * time.Minute},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := pipedHosts(t, tc.set...)
				if tc.name == "loopback" {
					b = a
				}
				acceptAndClose(t, b, "0.0.0.0:80", false)
				began := time.Now()
				for i := range dials {
					c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort(tc.to), TCPOptions{})
					require.NoError(t, err, "connect %d", i)
					require.NoError(t, c.Close())
					synctest.Wait()
				}
				require.LessOrEqual(t, time.Since(began), tc.virtual)
				require.Zero(t, a.tcp.waits.queued.Load())
			})
		})
	}
}

func TestManyDialsWaitForPorts(t *testing.T) {
	// All ports are used within one millisecond. The timestamp clock does not advance in this time, so no
	// port can be reused yet.
	synctest.Test(t, func(t *testing.T) {
		a, b := pipedHosts(t)
		acceptAndClose(t, b, "0.0.0.0:80", false)
		for range numEphemeral {
			c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.NoError(t, err)
			require.NoError(t, c.Close())
			synctest.Wait()
		}
		began := time.Now()
		var done sync.WaitGroup
		for i := range 300 {
			done.Go(func() {
				ctx := t.Context()
				if i%3 == 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithCancel(ctx)
					cancel()
				}
				c, err := a.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
				if i%3 == 0 {
					require.ErrorIs(t, err, context.Canceled)
					return
				}
				require.NoError(t, err)
				c.Close()
			})
		}
		done.Wait()
		require.LessOrEqual(t, time.Since(began), 2*time.Millisecond)
		require.Zero(t, a.tcp.waits.queued.Load())
	})
}

func TestAQueuedDialEnds(t *testing.T) {
	// fillPorts makes two hosts without timestamps, and fills all ports with connections in TIME-WAIT.
	fillPorts := func(t *testing.T) (a, b *Stack) {
		a, b = pipedHosts(t, noTimestamps)
		acceptAndClose(t, b, "0.0.0.0:80", false)
		for range numEphemeral {
			c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.NoError(t, err)
			c.Close()
			synctest.Wait()
		}
		return a, b
	}
	t.Run("with its context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, _ := fillPorts(t)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := a.DialTCP(ctx, FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.Zero(t, a.tcp.waits.queued.Load())
		})
	})
	t.Run("with its host", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, _ := fillPorts(t)
			time.AfterFunc(time.Second, func() { a.Close() })
			_, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.ErrorIs(t, err, net.ErrClosed)
		})
	})
	t.Run("when 2 MSL are over", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a, _ := fillPorts(t)
			began := time.Now()
			_, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.NoError(t, err)
			require.LessOrEqual(t, time.Since(began), time.Minute)
		})
	})
}

func TestADialFailsWhereOpenConnectionsHoldThePorts(t *testing.T) {
	// As on Linux, the dial does not wait: the connections may stay open forever.
	synctest.Test(t, func(t *testing.T) {
		a, b := pipedHosts(t)
		acceptAndClose(t, b, "0.0.0.0:80", true)
		var last *TCP
		for range numEphemeral {
			c, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			require.NoError(t, err)
			last = c
		}
		dial := func() error {
			_, err := a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
			return err
		}
		require.ErrorIs(t, dial(), syscall.EADDRNOTAVAIL)
		// The application closes a connection, which therefore ends at some time. The dial waits for its
		// port.
		require.NoError(t, last.Close())
		began := time.Now()
		require.NoError(t, dial(), "after FIN-WAIT-2")
		require.InDelta(t, 60, time.Since(began).Seconds(), 5)
	})
}

func TestANewConnectionIsBeyondTheOneInTimeWait(t *testing.T) {
	// RFC 1122 4.2.2.13: "its initial sequence number [...] larger than the largest
	// sequence number it used on the previous connection incarnation". RFC 6191: its
	// timestamp is later, too.
	synctest.Test(t, func(t *testing.T) {
		a, b := pipedHosts(t)
		acceptAndClose(t, b, "0.0.0.0:80", false)
		c, d := connect(t, a, b)
		path, remote := c.path, c.RemoteAddr()
		_ = d
		require.NoError(t, c.Close())
		require.NoError(t, d.Close())
		synctest.Wait()
		_, tw := a.tcp.table.lookup(&c.key)
		require.NotNil(t, tw)
		next := a.newTCP(c.LocalAddr(), remote, path)
		ok, at := a.tcp.waits.take(a.now(), tw, next)
		require.False(t, ok, "not in the same tick")
		require.LessOrEqual(t, at-a.now(), tcp.Millisecond)
		time.Sleep(time.Duration(at - a.now()))
		ok, _ = a.tcp.waits.take(a.now(), tw, next)
		require.True(t, ok)
		require.Zero(t, a.tcp.waits.n)
		sock, wait := a.tcp.table.lookup(&c.key)
		require.Same(t, next, sock)
		require.Nil(t, wait)
		ok, _ = a.tcp.waits.take(a.now(), tw, next)
		require.False(t, ok, "the entry is taken only once")
	})
}
