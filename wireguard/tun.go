package wireguard

import (
	"errors"
	"net"
	"os"
	"sync"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/usernet/usernet/nic"
)

// NewTUN returns the other end of a Tunnel as the tun.Device for a WireGuard device. The WireGuard device comes up
// by itself. Close makes the Tunnel fail for the host.
func NewTUN(t *nic.Tunnel) tun.Device { return newTUN(t, failing(t)).up() }

// failing returns a function that makes a Tunnel fail.
func failing(t *nic.Tunnel) func() error {
	return func() error {
		t.Fail(os.ErrClosed)
		return nil
	}
}

func newTUN(t *nic.Tunnel, close func() error) *tunDevice {
	return &tunDevice{tunnel: t, close: close, events: make(chan tun.Event, 1)}
}

// up makes the WireGuard device come up, in a goroutine of its own.
func (d *tunDevice) up() *tunDevice {
	d.events <- tun.EventUp
	return d
}

// A tunDevice is a tun.Device whose packets are those of a Tunnel.
type tunDevice struct {
	tunnel *nic.Tunnel
	close  func() error
	events chan tun.Event
	once   sync.Once
}

var _ tun.Device = (*tunDevice)(nil)

func (d *tunDevice) File() *os.File           { return nil }
func (d *tunDevice) MTU() (int, error)        { return d.tunnel.Link().MTU, nil }
func (d *tunDevice) Name() (string, error)    { return d.tunnel.Link().Name, nil }
func (d *tunDevice) Events() <-chan tun.Event { return d.events }
func (d *tunDevice) BatchSize() int           { return conn.IdealBatchSize }

func (d *tunDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n, err := d.tunnel.Read(bufs, sizes, offset)
	return n, closed(err)
}

func (d *tunDevice) Write(bufs [][]byte, offset int) (int, error) {
	n, err := d.tunnel.Write(bufs, offset)
	return n, closed(err)
}

// closed replaces net.ErrClosed by the error that a WireGuard device expects from a closed tun.Device.
func closed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return os.ErrClosed
	}
	return err
}

func (d *tunDevice) Close() (err error) {
	d.once.Do(func() {
		err = d.close()
		close(d.events)
	})
	return err
}
