package usernet

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// The texts are those of package net, which programs compare.
var (
	errMissingAddress    = errors.New("missing address")
	errNoSuitableAddress = "no suitable address found"
	errNoHost            = errors.New("usernet: no Host to dial or listen from")
)

// timeoutError is the error of a dial that has timed out. It is context.DeadlineExceeded and not
// os.ErrDeadlineExceeded, because the deadline was that of the call, not of a connection.
type timeoutError struct{}

func (timeoutError) Error() string        { return "i/o timeout" }
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Temporary() bool      { return true }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// canceledError is a dial's error when its context was cancelled.
type canceledError struct{}

func (canceledError) Error() string        { return "operation was canceled" }
func (canceledError) Is(target error) bool { return target == context.Canceled }

// contextError turns the errors of a context into those that net has for them.
func contextError(err error) error {
	switch err {
	case context.Canceled:
		return canceledError{}
	case context.DeadlineExceeded:
		return timeoutError{}
	}
	return err
}

// syscallError gives an errno the name of the system call that would have
// returned it. Other errors stay as they are.
func syscallError(call string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		if errno == syscall.EAFNOSUPPORT && call == "bind" || errno == syscall.EPROTONOSUPPORT {
			call = "socket" // the call that fails in the kernel
		}
		return os.NewSyscallError(call, errno)
	}
	return err
}

// opAddr returns addr, or nil if it is an interface that holds a nil pointer.
func opAddr(addr net.Addr) net.Addr {
	switch a := addr.(type) {
	case *net.TCPAddr:
		if a == nil {
			return nil
		}
	case *net.UDPAddr:
		if a == nil {
			return nil
		}
	case *net.IPAddr:
		if a == nil {
			return nil
		}
	}
	return addr
}

// dialError is the error of a dial.
func dialError(network string, source, addr net.Addr, err error) error {
	return &net.OpError{Op: "dial", Net: network, Source: opAddr(source), Addr: opAddr(addr), Err: err}
}

// listenError is the error of a listen.
func listenError(network string, addr net.Addr, err error) error {
	return &net.OpError{Op: "listen", Net: network, Addr: opAddr(addr), Err: err}
}
