package usernet

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
)

// These texts are those of package net, because programs compare them.
var errMissingAddress = errors.New("missing address")

const noSuitableAddress = "no suitable address found" // for net.AddrError.Err

// errNoHost is the error of a Dialer or ListenConfig without a Host.
var errNoHost = errors.New("usernet: no Host to dial or listen from")

// timeoutError is the error of a dial that timed out. It matches context.DeadlineExceeded and not
// os.ErrDeadlineExceeded, because the deadline belonged to the call, not to a connection.
type timeoutError struct{}

func (timeoutError) Error() string        { return "i/o timeout" }
func (timeoutError) Timeout() bool        { return true }
func (timeoutError) Temporary() bool      { return true }
func (timeoutError) Is(target error) bool { return target == context.DeadlineExceeded }

// canceledError is the error of a dial whose context was cancelled.
type canceledError struct{}

func (canceledError) Error() string        { return "operation was canceled" }
func (canceledError) Is(target error) bool { return target == context.Canceled }

// contextError converts the errors of a context to net's.
func contextError(err error) error {
	switch err {
	case context.Canceled:
		return canceledError{}
	case context.DeadlineExceeded:
		return timeoutError{}
	}
	return err
}

// syscallError wraps an errno in an *os.SyscallError with the name of the system call that returns
// the errno on Linux. This is call, or "socket" if opening the socket already fails. syscallError
// returns other errors unchanged.
func syscallError(call string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		switch {
		case errno == syscall.EPROTONOSUPPORT,
			errno == syscall.EAFNOSUPPORT && call == "bind": // connect itself can return it
			call = "socket"
		}
		return os.NewSyscallError(call, errno)
	}
	return err
}

// opAddr returns addr, or nil if addr holds a nil pointer.
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

// dialError returns the error of a dial.
func dialError(network string, source, addr net.Addr, err error) error {
	return &net.OpError{Op: "dial", Net: network, Source: opAddr(source), Addr: opAddr(addr), Err: err}
}

// listenError returns the error of a listen.
func listenError(network string, addr net.Addr, err error) error {
	return &net.OpError{Op: "listen", Net: network, Addr: opAddr(addr), Err: err}
}
