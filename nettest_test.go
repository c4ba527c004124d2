package usernet

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
	"golang.org/x/net/nettest"
)

// makePipe returns a nettest.MakePipe that makes connections from one host to another.
func makePipe(from, to *Host, addr string) nettest.MakePipe {
	return func() (c1, c2 net.Conn, stop func(), err error) {
		ln, err := to.Listen("tcp", net.JoinHostPort(addr, "0"))
		if err != nil {
			return nil, nil, nil, err
		}
		defer ln.Close()
		if c1, err = from.Dial("tcp", ln.Addr().String()); err != nil {
			return nil, nil, nil, err
		}
		if c2, err = ln.Accept(); err != nil {
			c1.Close()
			return nil, nil, nil, err
		}
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	}
}

func TestTCPOverPipePassesNettest(t *testing.T) {
	a, b := newPair(t)
	nettest.TestConn(t, makePipe(a, b, addrB))
}

func TestTCPOverLossyLinkPassesNettest(t *testing.T) {
	a, b := newImpairedPair(t, nic.Impairment{Latency: time.Millisecond, Loss: 0.01, Duplicate: 0.005, Reorder: 0.01, ReorderGap: time.Millisecond})
	nettest.TestConn(t, makePipe(a, b, addrB))
}

func TestTCPOverLoopbackPassesNettest(t *testing.T) {
	h := newLoopback(t)
	nettest.TestConn(t, makePipe(h, h, "127.0.0.1"))
}

func TestTCPToOwnAddressPassesNettest(t *testing.T) {
	a, b := newPair(t, withoutIPv6)
	nettest.TestConn(t, makePipe(a, a, addrA))
	require.Zero(t, b.Stats().IP.Received, "nothing left the host")
}

func TestTCPOverIPv6PassesNettest(t *testing.T) {
	t.Run("loopback", func(t *testing.T) {
		h := sixHost(t)
		nettest.TestConn(t, makePipe(h, h, "::1"))
	})
	t.Run("own address", func(t *testing.T) {
		h := sixHost(t)
		nettest.TestConn(t, makePipe(h, h, "2001:db8:ffff::1"))
	})
	t.Run("wire of IP", func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		a, b := sixPair(t, near, far)
		nettest.TestConn(t, makePipe(a, b, addr6B))
	})
	t.Run("Ethernet", func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{})
		a, b := sixPair(t, near, far)
		nettest.TestConn(t, makePipe(a, b, addr6B))
	})
	t.Run("lossy link", func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		wire := nic.Impair(near, nic.ImpairConfig{Seed: 1})
		imp := nic.Impairment{Latency: time.Millisecond, Loss: 0.01, Duplicate: 0.005, Reorder: 0.01, ReorderGap: time.Millisecond}
		wire.SetOut(imp)
		wire.SetIn(imp)
		a, b := sixPair(t, wire, far)
		nettest.TestConn(t, makePipe(a, b, addr6B))
	})
}
