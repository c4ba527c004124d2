package stack

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A device may fail after AddNIC has checked a new VLAN and before the VLAN is in the table of the port.
func TestVLANThatJoinsAFailedDeviceFails(t *testing.T) {
	s, _ := trunkHost(t)
	dev := s.ifaceNamed("eth0").dev
	s.mu.Lock()
	old := *s.ifaces.Load()
	ifc, err := s.checkNIC(old, NIC{Device: dev, VLAN: 7, Addrs: []netip.Prefix{prefix("10.0.7.1/24")}})
	require.NoError(t, err)
	ifaces := append(slices.Clip(old), ifc)
	s.ifaces.Store(&ifaces)
	s.mu.Unlock()
	ifc.port.failed(syscall.EIO)
	s.up(ifc)
	for _, info := range s.Interfaces()[1:] {
		require.False(t, info.Up, info.Name)
		require.ErrorIs(t, info.Err, syscall.EIO, info.Name)
	}
	select {
	case <-s.Done():
	default:
		t.Fatal("the host has no link, and does not say so")
	}
}

// A port with one interface gets a table when a second interface joins. While it joins, ifaces must always
// return the first interface, because a device that fails takes down only the interfaces that ifaces returns.
func TestFirstInterfaceIsFoundWhileAVLANJoins(t *testing.T) {
	first, second := new(iface), &iface{vlan: 7}
	for range 20_000 {
		p := new(port)
		p.store([]*iface{first})
		var begin sync.WaitGroup
		begin.Add(1)
		done := make(chan struct{})
		go func() {
			defer close(done)
			begin.Done()
			p.store([]*iface{first, second})
		}()
		begin.Wait()
		for p.sole.Load() != nil {
			if !slices.Contains(p.ifaces(), first) {
				t.Fatal("the first interface is missing")
			}
			runtime.Gosched()
		}
		<-done
	}
}

// A stuckTrunk is a device whose Send blocks while stuck is set. It counts calls of Close, and records whether
// calls of Send overlap.
type stuckTrunk struct {
	nic.Device
	stuck   atomic.Bool
	free    chan struct{} // closed to end the calls that are stuck
	sending atomic.Int32
	overlap atomic.Bool
	closes  atomic.Int32
}

func (d *stuckTrunk) Nonblocking() nic.Device { return nil }

func (d *stuckTrunk) Send(batch []nic.Frame) (int, error) {
	if d.sending.Add(1) > 1 {
		d.overlap.Store(true)
	}
	defer d.sending.Add(-1)
	if d.stuck.Load() {
		<-d.free
	}
	return d.Device.Send(batch)
}

func (d *stuckTrunk) Close() error {
	d.closes.Add(1)
	return d.Device.Close()
}

// newStuckTrunk makes a host with the VLANs 100 and 200 on a stuckTrunk.
func newStuckTrunk(t *testing.T) (*Stack, *stuckTrunk) {
	t.Helper()
	x, y := nic.Pipe(nic.PipeConfig{})
	y.Attach(func([]nic.Frame) {})
	d := &stuckTrunk{Device: x, free: make(chan struct{})}
	s, err := New(Config{Rand: testRand(), NICs: []NIC{
		{Name: "a", Device: d, VLAN: 100, Addrs: []netip.Prefix{prefix("10.0.1.1/24")}},
		{Name: "b", Device: d, VLAN: 200, Addrs: []netip.Prefix{prefix("10.0.2.1/24")}},
	}})
	require.NoError(t, err)
	return s, d
}

// nic.Device: "Otherwise the host calls Send from one goroutine at a time." While one VLAN is stuck in Send,
// RemoveNIC of another VLAN drops the queued frames of that VLAN instead of calling Send too.
func TestRemovedVLANDoesNotSendBesideAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, d := newStuckTrunk(t)
		synctest.Wait()
		d.stuck.Store(true)
		u := openUDP(t, s, "0.0.0.0:0")
		for _, dst := range []string{"10.0.2.255:9", "10.0.1.255:9"} { // a broadcast waits for no neighbor
			_, err := u.WriteTo([]byte("x"), addrPort(dst), SendOptions{})
			require.NoError(t, err)
			synctest.Wait()
		}
		require.Equal(t, int32(1), d.sending.Load(), "the VLAN b is in Send, and the VLAN a waits")
		began := time.Now()
		require.NoError(t, s.RemoveNIC("a"))
		require.LessOrEqual(t, time.Since(began), closeStall)
		require.False(t, d.overlap.Load())
		require.Zero(t, d.closes.Load(), "the other VLAN uses the device")
		d.stuck.Store(false)
		close(d.free)
		synctest.Wait()
		require.NoError(t, s.Close())
		require.False(t, d.overlap.Load())
		require.Equal(t, int32(1), d.closes.Load())
	})
}

func TestSharedDeviceIsClosedOnce(t *testing.T) {
	for name, end := range map[string]func(s *Stack) error{
		"Close": (*Stack).Close,
		"RemoveNIC": func(s *Stack) error {
			for _, name := range []string{"b", "a"} {
				if err := s.RemoveNIC(name); err != nil {
					return err
				}
			}
			return s.Close()
		},
		"RemoveNIC of one": func(s *Stack) error {
			if err := s.RemoveNIC("a"); err != nil {
				return err
			}
			return s.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, d := newStuckTrunk(t)
				require.NoError(t, end(s))
				require.Equal(t, int32(1), d.closes.Load())
			})
		})
	}
}
