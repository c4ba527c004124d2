// Package dropin is package net on a usernet.Host. A file that imports
//
//	import net "github.com/usernet/usernet/dropin"
//
// in place of "net", and is not changed otherwise, runs on the network of the Host
// that the program gave to Use:
//
//	host, err := usernet.New(usernet.Config{...})
//	...
//	dropin.Use(host)
//
// Data types are aliases of those of net: Addr, IP, OpError, Conn, Listener and the like,
// so that values pass freely between files that import one and the other. TCPConn,
// TCPListener, UDPConn and IPConn are usernet's. Functions, and the methods of Dialer,
// ListenConfig, Resolver and Interface, use the Host. None of them uses
// the network of the kernel: before Use they fail, with an error that says so.
//
// Only files whose import is changed use the Host. Packages that they call do not:
// http.Get and tls.Dial still dial through the kernel. Pass them a connection, a listener or a dial
// function, as with http.Transport.DialContext, tls.Client and
// http.Serve. To make this mistake a compile error, *Dialer, *Resolver and *Interface are types of their
// own, which cannot be assigned to a field such as tls.Dialer.NetDialer.
//
// Every exported name of net is here, or is listed below with the reason why it is not. The
// list is generated from net's source, and a test fails if a release of Go has a new name.
//
// There is one default Host in a process, because net's functions have no place for one. A program that
// can pass a Host around should, and use its methods.
package dropin

//go:generate go run ./internal/gen .

import (
	"errors"
	"net"
	"sync/atomic"

	"github.com/usernet/usernet"
)

// current is the default Host. Such a global variable is the purpose of this package.
var current atomic.Pointer[usernet.Host]

// errNoHost is the cause of all errors before Use.
var errNoHost = errors.New("no network: call dropin.Use with a Host first")

// Use makes h the default Host for all calls that begin from now on, and returns the former
// one, which may be nil. Existing connections and listeners stay on their Host. With
// nil there is no default Host. A test that replaces the default for its duration writes
//
//	defer dropin.Use(dropin.Use(h))
func Use(h *usernet.Host) (before *usernet.Host) { return current.Swap(h) }

// hostFor returns the default Host, or the error of a call with an op and a
// network in net's sense.
func hostFor(op, network string) (*usernet.Host, error) {
	if h := current.Load(); h != nil {
		return h, nil
	}
	return nil, &net.OpError{Op: op, Net: network, Err: errNoHost}
}
