// Package dropin is package net on a usernet.Host. A file that imports
//
//	import net "github.com/usernet/usernet/dropin"
//
// instead of "net", and is otherwise unchanged, runs on the network of the Host that the program
// passed to Use:
//
//	host, err := usernet.New(usernet.Config{...})
//	...
//	dropin.Use(host)
//
// Addr, IP, OpError, Conn, Listener and the other data types are aliases of net's. Values therefore
// pass freely between files that import net and files that import dropin. TCPConn, TCPListener,
// UDPConn and IPConn are usernet's. The functions that need a network, and the methods of Dialer,
// ListenConfig, Resolver and Interface, use the default Host. None of them uses the kernel's network.
// Until the program has called Use, they return an error that says that there is no Host yet.
// Functions that need no network, such as ParseIP and JoinHostPort, call net's.
//
// Only files whose import is changed use the Host. The packages that they call do not: http.Get and
// tls.Dial still dial through the kernel. Pass these packages a connection, a listener or a dial
// function instead, as with http.Transport.DialContext, tls.Client and http.Serve. *Dialer,
// *Resolver and *Interface are separate types so that the compiler detects this mistake: they
// cannot be assigned to a field such as tls.Dialer.NetDialer.
//
// Every exported name of net is here, or is listed below with the reason for its absence. The list
// is generated from net's source, and a test fails if a release of Go adds a name.
//
// A process has one default Host, because net's functions have no argument for one. A program that
// can pass a Host around should do so and use the Host's methods.
package dropin

//go:generate go run ./internal/gen .

import (
	"errors"
	"net"
	"sync/atomic"

	"github.com/usernet/usernet"
)

// current is the default Host. It is a global variable because net's functions have no argument for a
// Host.
var current atomic.Pointer[usernet.Host]

// errNoHost is the cause of the error if a call fails because there is no default Host.
var errNoHost = errors.New("no network: call dropin.Use with a Host first")

// Use makes h the default Host for all calls that begin from now on. If h is nil, there is no default
// Host. Use returns the previous default Host, which may be nil. Existing connections and listeners
// stay on their Host. A test that replaces the default Host until the test ends writes
//
//	defer dropin.Use(dropin.Use(h))
func Use(h *usernet.Host) (before *usernet.Host) { return current.Swap(h) }

// hostFor returns the default Host. If there is no default Host, hostFor returns an OpError whose Op
// is op and whose Net is network.
func hostFor(op, network string) (*usernet.Host, error) {
	if h := current.Load(); h != nil {
		return h, nil
	}
	return nil, &net.OpError{Op: op, Net: network, Err: errNoHost}
}
