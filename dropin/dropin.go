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
// What is data in net is net's here: Addr, IP, OpError, Conn, Listener and the like are aliases,
// so that values pass freely between files that import the one and the other. TCPConn,
// TCPListener, UDPConn and IPConn are usernet's. Functions, and the methods of Dialer,
// ListenConfig, Resolver and Interface, go to the Host. None of them ever asks
// the kernel: before Use they fail, with an error that says so.
//
// What moves to the Host is the code of the files whose import is changed. Packages that it calls
// have their own: http.Get and tls.Dial still dial through the kernel, and what is handed to them must be
// a connection, a listener or a dial function, as for http.Transport.DialContext, tls.Client and
// http.Serve. So that this does not happen unseen, a *Dialer, *Resolver or *Interface is
// not one of net's, and cannot be assigned to a field that is to dial for itself, such as tls.Dialer.NetDialer.
//
// Every name that net exports is here, or is listed below with the reason why it is not. The
// list is generated from net's source, and a test fails when a release of Go has more.
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

// current is the default Host. That it is a variable of the package is the purpose
// of the package.
var current atomic.Pointer[usernet.Host]

// errNoHost is the cause of all errors before Use.
var errNoHost = errors.New("no network: call dropin.Use with a Host first")

// Use makes h the default Host, for all calls that begin from now on, and returns the one
// before, which may be nil. Connections and listeners stay on the Host that they were made on. With
// nil there is no default Host any more. A test that borrows the default writes
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
