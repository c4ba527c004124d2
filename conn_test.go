package usernet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
)

// newCuttablePair makes two hosts on a wire. After a call of cut, the wire loses all frames.
func newCuttablePair(t testing.TB) (a, b *Host, cut func()) {
	t.Helper()
	// The medium is IP: on Ethernet, ARP would notice the cut first.
	ea, eb := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	wire := nic.Impair(ea, nic.ImpairConfig{})
	return newHost(t, wire, addrA), newHost(t, eb, addrB), func() {
		wire.SetOut(nic.Impairment{Loss: 1})
		wire.SetIn(nic.Impairment{Loss: 1})
	}
}

func TestAWriteThatIsNeverAcknowledgedTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, cut := newCuttablePair(t)
		c, _ := connect(t, a, b, addrB)
		require.NoError(t, c.SetKeepAlive(false))
		cut()
		began := time.Now()
		_, err := c.Write([]byte("into the void"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ETIMEDOUT)
		oe := err.(*net.OpError)
		require.True(t, oe.Timeout())
		require.True(t, oe.Temporary())
		require.ErrorContains(t, err, "read: connection timed out")
		// RFC 9293 3.8.3 SHLD-11: "R2 [...] SHOULD correspond to at least 100 seconds."
		require.Greater(t, time.Since(began), 100*time.Second)
		_, err = c.Read(make([]byte, 1))
		require.Equal(t, io.EOF, err, "the error is reported once")
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, syscall.EPIPE)
	})
}

func TestLingerWaitsForTheData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newImpairedPair(t, nic.Impairment{Latency: 100 * time.Millisecond})
		c, s := connect(t, a, b, addrB)
		require.NoError(t, c.SetLinger(5))
		_, err := c.Write([]byte("the last words"))
		require.NoError(t, err)
		began := time.Now()
		require.NoError(t, c.Close())
		require.Equal(t, 200*time.Millisecond, time.Since(began), "one round trip")
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.Equal(t, "the last words", string(got))
	})
}

func TestLingerGivesUpAfterItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, cut := newCuttablePair(t)
		c, _ := connect(t, a, b, addrB)
		cut()
		require.NoError(t, c.SetLinger(3))
		_, err := c.Write([]byte("never heard"))
		require.NoError(t, err)
		began := time.Now()
		require.NoError(t, c.Close())
		require.Equal(t, 3*time.Second, time.Since(began))
	})
}

func TestCloseDeliversInTheBackground(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newImpairedPair(t, nic.Impairment{Latency: 100 * time.Millisecond, Loss: 0.05})
		c, s := connect(t, a, b, addrB)
		data := bytes.Repeat([]byte("usernet "), 10000)
		go func() {
			c.Write(data)
			c.Close()
		}()
		got, err := io.ReadAll(s)
		require.NoError(t, err)
		require.True(t, bytes.Equal(data, got))
	})
}

func TestConcurrentWritesDoNotMix(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	const writers, size = 8, 200 << 10 // more than a buffer takes at once
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			if _, err := c.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
				t.Error(err)
			}
		})
	}
	got := make([]byte, writers*size)
	_, err := io.ReadFull(s, got)
	require.NoError(t, err)
	wg.Wait()
	for ; len(got) > 0; got = got[size:] {
		require.Equal(t, bytes.Repeat(got[:1], size), got[:size])
	}
}

func TestDeadlinesAreMovedInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t)
		c, s := connect(t, a, b, addrB)
		began := time.Now()
		require.NoError(t, c.SetReadDeadline(began.Add(time.Second)))
		time.AfterFunc(500*time.Millisecond, func() { c.SetReadDeadline(began.Add(3 * time.Second)) })
		_, err := c.Read(make([]byte, 1))
		require.True(t, err.(*net.OpError).Timeout())
		require.Equal(t, 3*time.Second, time.Since(began))

		// net/http sets a deadline in the past to end a blocked Read, and then removes the deadline.
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		time.AfterFunc(time.Second, func() { c.SetReadDeadline(time.Unix(1, 0)) })
		_, err = c.Read(make([]byte, 1))
		require.True(t, err.(*net.OpError).Timeout())
		require.NoError(t, c.SetReadDeadline(time.Time{}))
		_, err = s.Write([]byte("x"))
		require.NoError(t, err)
		n, err := c.Read(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, 1, n)
	})
}

func TestShrinkingABufferLosesNothing(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	data := bytes.Repeat([]byte("0123456789"), 6000)
	_, err := c.Write(data)
	require.NoError(t, err)
	require.NoError(t, s.SetReadBuffer(1))
	require.NoError(t, c.SetWriteBuffer(1))
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

// A failingDevice is a device whose Send fails once deleted is set, as that of a TAP device that was deleted.
type failingDevice struct {
	nic.Device
	deleted atomic.Bool
}

func (m *failingDevice) Nonblocking() nic.Device { return m }

func (m *failingDevice) Send(batch []nic.Frame) (int, error) {
	if m.deleted.Load() {
		return 0, errors.New("the device has vanished")
	}
	return m.Device.Send(batch)
}

func TestADeviceThatDiesIsSeenAsANetworkThatIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ea, eb := nic.Pipe(nic.PipeConfig{})
		dev := &failingDevice{Device: ea}
		a, b := newHost(t, dev, addrA), newHost(t, eb, addrB)
		c, s := connect(t, a, b, addrB)
		_, err := s.Write([]byte("acknowledged"))
		require.NoError(t, err)
		dev.deleted.Store(true)
		got := make([]byte, 12)
		_, err = io.ReadFull(c, got)
		require.NoError(t, err)
		require.Equal(t, "acknowledged", string(got), "what had come is not lost")
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(got)
		require.Error(t, err)
		require.IsType(t, &net.OpError{}, err)
		_, err = a.Dial("tcp", addrB+":80")
		require.EqualError(t, err, "dial tcp "+addrB+":80: connect: network is down")
		require.ErrorIs(t, err, syscall.ENETDOWN)
		_, err = a.Dial("udp", addrB+":80")
		require.EqualError(t, err, "dial udp "+addrB+":80: connect: network is down")
		_, err = a.Dial("tcp", "127.0.0.1:80")
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "the rest of the host lives on")
	})
}

// FuzzResolveTCPAddr compares the results of ResolveTCPAddr with net's.
func FuzzResolveTCPAddr(f *testing.F) {
	for _, s := range []string{"127.0.0.1:80", ":1", "[::1]:65535", "[::1%lo]:0", "1.2.3.4:65536", "1.2.3.4:-1", "::1:80", "[1.2.3.4]:5", "[::ffff:1.2.3.4]:5", "0:80", "a:b:c"} {
		f.Add(s)
	}
	h, err := New(Config{})
	require.NoError(f, err)
	defer h.Close()
	f.Fuzz(func(t *testing.T, address string) {
		// Names are skipped, because net would query a real name server.
		if host, port, err := net.SplitHostPort(address); err == nil {
			if _, err := strconv.Atoi(port); err != nil && port != "" {
				t.Skip()
			}
			if _, err := netip.ParseAddr(host); err != nil && host != "" {
				t.Skip()
			}
		}
		for _, network := range []string{"tcp", "tcp4", "tcp6"} {
			want, wantErr := net.ResolveTCPAddr(network, address)
			got, err := h.ResolveTCPAddr(network, address)
			require.Equal(t, want, got)
			if wantErr == nil {
				require.NoError(t, err)
				continue
			}
			require.EqualError(t, err, wantErr.Error())
			require.IsType(t, wantErr, err)
		}
	})
}
