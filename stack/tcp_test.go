package stack

import (
	"context"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
)

// wiredPair returns two stacks on a wire. impair may wrap the device of a.
func wiredPair(t testing.TB, impair func(nic.Device) nic.Device) (a, b *Stack) {
	x, y := nic.Pipe(nic.PipeConfig{})
	var dx nic.Device = x
	if impair != nil {
		dx = impair(x)
	}
	nets := [2]netip.Prefix{netip.PrefixFrom(addrA, 24), netip.PrefixFrom(addrB, 24)}
	if overIPv6(t) {
		nets = [2]netip.Prefix{prefix("2001:db8::1/64"), prefix("2001:db8::2/64")}
	}
	a, err := New(Config{NICs: []NIC{{Device: dx, Addrs: nets[:1]}}})
	require.NoError(t, err)
	b, err = New(Config{NICs: []NIC{{Device: y, Addrs: nets[1:]}}})
	require.NoError(t, err)
	t.Cleanup(func() {
		a.Close()
		b.Close()
	})
	return a, b
}

// connect opens a connection from a to b, and returns both ends.
func connect(t testing.TB, a, b *Stack) (c, d *TCP) {
	l, err := b.ListenTCP(FamilyAny, netip.AddrPortFrom(netip.Addr{}, 0), ListenOptions{})
	require.NoError(t, err)
	defer l.Close()
	c, err = a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(hostAddr(b), l.LocalAddr().Port()), TCPOptions{})
	require.NoError(t, err)
	d, err = l.Accept()
	require.NoError(t, err)
	return c, d
}

// exchange sends n bytes from c to d, and compares hashes of the sent and the received bytes.
func exchange(t testing.TB, c, d *TCP, n int) {
	want, got := sha256.New(), sha256.New()
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 100_000)
		for left := n; left > 0; {
			p := buf[:min(left, 1+rand.IntN(len(buf)))]
			for i := range p {
				p[i] = byte(rand.Uint32())
			}
			want.Write(p)
			k, err := c.Write(p)
			if err != nil || k != len(p) {
				t.Errorf("write: %d of %d, %v", k, len(p), err)
				return
			}
			left -= len(p)
		}
		if err := c.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	m, err := io.CopyBuffer(got, struct{ io.Reader }{d}, make([]byte, 32<<10))
	require.NoError(t, err)
	require.EqualValues(t, n, m)
	wg.Wait()
	require.Equal(t, want.Sum(nil), got.Sum(nil))
}

func TestTCPCarriesDataOverAPipe(t *testing.T) {
	a, b := wiredPair(t, nil)
	c, d := connect(t, a, b)
	exchange(t, c, d, 20<<20)
	exchange(t, d, c, 1<<20)
	require.NoError(t, c.Close())
	require.NoError(t, d.Close())
	require.ErrorIs(t, d.Close(), net.ErrClosed)
}

func TestTCPCarriesDataOverLoopback(t *testing.T) {
	a, _ := wiredPair(t, nil)
	l, err := a.ListenTCP(FamilyAny, netip.MustParseAddrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	for _, to := range []string{"127.0.0.1:80", "127.1.2.3:80", "192.0.2.1:80"} {
		c, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.MustParseAddrPort(to), TCPOptions{})
		require.NoError(t, err)
		d, err := l.Accept()
		require.NoError(t, err)
		exchange(t, c, d, 3<<20)
		c.Close()
		d.Close()
	}
}

func TestTCPCarriesDataOverALossyLinkInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, func(d nic.Device) nic.Device {
			im := nic.Impairment{Latency: 50 * time.Millisecond, Loss: 0.01}
			return nic.Impair(d, nic.ImpairConfig{Out: im, In: im, Seed: 1})
		})
		c, d := connect(t, a, b)
		exchange(t, c, d, 2<<20)
		exchange(t, d, c, 1<<20)
		c.Close()
		d.Close()
	})
}

func TestDialToAClosedPortIsRefused(t *testing.T) {
	a, _ := wiredPair(t, nil)
	_, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrB, 9), TCPOptions{})
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestDialToNobodyIsUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := wiredPair(t, nil)
		_, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.77:9"), TCPOptions{})
		require.ErrorIs(t, err, syscall.EHOSTUNREACH)
		_, err = a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.MustParseAddrPort("203.0.113.77:9"), TCPOptions{})
		require.ErrorIs(t, err, syscall.ENETUNREACH)
	})
}

func TestDialGivesUpAfterItsRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, func(d nic.Device) nic.Device {
			return nic.Impair(d, nic.ImpairConfig{Out: nic.Impairment{Loss: 1}})
		})
		// Set a static neighbour. Otherwise address resolution would fail before the dial times out.
		peer := b.Interfaces()[1].MAC
		require.NoError(t, a.SetNeighbor(Neighbor{NIC: a.Interfaces()[1].Name, Addr: addrB, MAC: peer}))
		start := time.Now()
		_, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addrB, 80), TCPOptions{})
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		// 1+2+4+8+16+32+64+120 seconds: seven retransmissions, and the wait after the last one.
		// RFC 9293 3.8.3 MUST-23: "at least 3 minutes".
		require.Equal(t, 247*time.Second, time.Since(start).Round(time.Second))
	})
}

func TestCloseOfTheStackWakesEveryone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		c, d := connect(t, a, b)
		l, err := a.ListenTCP(FamilyAny, netip.MustParseAddrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		errs := make(chan error, 3)
		go func() {
			_, err := l.Accept()
			errs <- err
		}()
		go func() {
			_, err := c.Read(make([]byte, 1))
			errs <- err
		}()
		go func() {
			for {
				if _, err := c.Write(make([]byte, 100_000)); err != nil {
					errs <- err
					return
				}
			}
		}()
		synctest.Wait()
		require.NoError(t, a.Close())
		for range 3 {
			require.ErrorIs(t, <-errs, net.ErrClosed)
		}
		// The peer has received a RST. Data that the peer had received before stays readable.
		_, err = io.Copy(io.Discard, d)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		_, err = d.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
	})
}

func TestDeadlinesWakeReadersAndWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		c, _ := connect(t, a, b)
		start := time.Now()
		require.NoError(t, c.SetReadDeadline(start.Add(time.Second)))
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
		require.NoError(t, c.SetWriteDeadline(start.Add(3*time.Second)))
		for err = nil; err == nil; {
			_, err = c.Write(make([]byte, 1<<20))
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}

func BenchmarkPipePingPong(bm *testing.B) {
	a, b := wiredPair(bm, nil)
	c, d := connect(bm, a, b)
	go func() {
		buf := make([]byte, 64)
		for {
			n, err := d.Read(buf)
			if err != nil {
				return
			}
			d.Write(buf[:n])
		}
	}()
	buf := make([]byte, 64)
	for bm.Loop() {
		c.Write(buf[:1])
		c.Read(buf)
	}
}

func BenchmarkPipeBulk(bm *testing.B) {
	a, b := wiredPair(bm, nil)
	c, d := connect(bm, a, b)
	go func() {
		buf := make([]byte, 256<<10)
		for {
			if _, err := d.Read(buf); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 64<<10)
	bm.SetBytes(int64(len(buf)))
	for bm.Loop() {
		c.Write(buf)
	}
}
