package usernet

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
	"golang.org/x/net/nettest"
)

// makePipe makes a nettest.MakePipe of connections from one host to another.
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
	a, b := newPair(t)
	nettest.TestConn(t, makePipe(a, a, addrA))
	require.Zero(t, b.Stats().IP.Received, "nothing left the host")
}
