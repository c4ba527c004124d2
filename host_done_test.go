package usernet

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// A deletable is a reader and writer of frames that can fail, like the file of a TAP device.
type deletable struct {
	gone chan struct{}
	err  error
}

func newDeletable() *deletable { return &deletable{gone: make(chan struct{})} }

func (d *deletable) Read([]byte) (int, error) {
	<-d.gone
	return 0, d.err
}
func (d *deletable) Write(b []byte) (int, error) { return len(b), nil }
func (d *deletable) Close() error                { return nil }

func (d *deletable) delete(err error) {
	d.err = err
	close(d.gone)
	synctest.Wait()
}

func isDone(h *Host) bool {
	select {
	case <-h.Done():
		return true
	default:
		return false
	}
}

func TestCloseEndsAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, cfg := range []Config{{}, {NIC: nic.NewNull(nic.Link{})}} {
			h, err := New(cfg)
			require.NoError(t, err)
			require.NoError(t, h.Err())
			require.False(t, isDone(h))
			require.NoError(t, h.Close())
			require.True(t, isDone(h))
			require.Equal(t, net.ErrClosed, h.Err())
		}
	})
}

var errDeleted = errors.New("somebody has deleted it")

// All blocked calls of a host return when its last link has failed.
func TestADeadLinkEndsAHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := newDeletable()
		h := newHost(t, nic.FromReadWriter(file, nic.Link{Name: "tap0"}), addrA)
		done := make(chan error, 10)
		go func() {
			<-h.Done()
			done <- h.Err()
		}()
		ln, err := h.Listen("tcp", ":80")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- http.Serve(ln, nil) }()
		local, err := h.Listen("tcp", "127.0.0.1:81")
		require.NoError(t, err)
		accepted := make(chan error, 1)
		go func() {
			_, err := local.Accept()
			accepted <- err
		}()
		pc, err := h.ListenPacket("udp", ":53")
		require.NoError(t, err)
		ip, err := h.ListenPacket("ip4:icmp", "0.0.0.0")
		require.NoError(t, err)
		read := make(chan error, 2)
		for _, c := range []net.PacketConn{pc, ip} {
			go func() {
				_, _, err := c.ReadFrom(make([]byte, 10))
				read <- err
			}()
		}
		synctest.Wait()
		require.Empty(t, done)

		file.delete(errDeleted)
		require.ErrorIs(t, <-done, errDeleted)
		require.EqualError(t, h.Err(), "link tap0: nic: tap0: somebody has deleted it")
		require.ErrorIs(t, h.Interfaces()[1].Err, errDeleted)

		err = <-served
		require.EqualError(t, err, "accept tcp [::]:80: accept4: network is down")
		require.ErrorIs(t, err, syscall.ENETDOWN)
		ne := err.(*net.OpError)
		require.False(t, ne.Timeout() || ne.Temporary())
		for range 2 {
			err := <-read
			require.ErrorIs(t, err, syscall.ENETDOWN)
		}
		require.NoError(t, pc.SetReadDeadline(time.Now().Add(time.Second)))
		_, _, err = pc.ReadFrom(make([]byte, 10))
		require.True(t, err.(net.Error).Timeout(), "a server that goes on reading gets the error once")

		// The host itself still works.
		require.Empty(t, accepted)
		c, err := h.Dial("tcp", "127.0.0.1:81")
		require.NoError(t, err)
		require.NoError(t, <-accepted)
		require.NoError(t, c.Close())

		// With a new link, connections from the network arrive again.
		ln, err = h.Listen("tcp", ":82")
		require.NoError(t, err, "as on the kernel")
		_, err = ln.Accept()
		require.ErrorIs(t, err, syscall.ENETDOWN)
		a, b := nic.Pipe(nic.PipeConfig{})
		require.NoError(t, h.Stack().AddNIC(stack.NIC{Device: a, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}}))
		require.NoError(t, h.Err())
		require.False(t, isDone(h))
		peer, err := New(Config{NIC: b, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")}})
		require.NoError(t, err)
		defer peer.Close()
		_, err = peer.Dial("tcp", "198.51.100.1:82")
		require.NoError(t, err)
		_, err = ln.Accept()
		require.NoError(t, err)
	})
}

// A host works as long as it has a link.
func TestAHostLivesByItsLastLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := newDeletable(), newDeletable()
		h, err := New(Config{NICs: []stack.NIC{
			{Name: "one", Device: nic.FromReadWriter(one, nic.Link{}), Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}},
			{Name: "two", Device: nic.FromReadWriter(two, nic.Link{}), Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}},
			{Name: "removed", Device: nic.NewNull(nic.Link{})},
		}})
		require.NoError(t, err)
		defer h.Close()
		ln, err := h.Listen("tcp", ":80")
		require.NoError(t, err)
		served := make(chan error, 1)
		go func() { served <- http.Serve(ln, nil) }()
		two.delete(io.ErrUnexpectedEOF)
		one.delete(errDeleted)
		require.False(t, isDone(h))
		require.Empty(t, served)
		require.NoError(t, h.Stack().RemoveNIC("removed"))
		synctest.Wait()
		require.True(t, isDone(h))
		require.EqualError(t, h.Err(), "link one: nic: adapter: somebody has deleted it", "the error is that of the link that failed last")
		require.ErrorIs(t, <-served, syscall.ENETDOWN)
		h.Close()
		require.ErrorIs(t, h.Err(), errDeleted)
	})
}

// A device that its owner closes while the host uses it has failed, too.
func TestADeviceThatIsClosedBeneathAHostEndsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := nic.Pipe(nic.PipeConfig{})
		h := newHost(t, a, addrA)
		require.NoError(t, a.Close())
		pc, err := h.ListenPacket("udp", ":0")
		require.NoError(t, err)
		pc.WriteTo([]byte("x"), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 9})
		require.True(t, isDone(h))
		require.EqualError(t, h.Err(), "link pipe-a: the device was closed: use of closed network connection")
	})
}
