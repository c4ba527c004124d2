package resolve

import (
	"context"
	"errors"
	"net"
)

// A failure is the reason why a lookup failed, before it is wrapped in a *net.DNSError. The texts
// are those of package net, because programs compare them.
type failure struct {
	text      string
	notFound  bool
	temporary bool
}

func (f *failure) Error() string { return f.text }

var (
	errNoSuchHost          = &failure{text: "no such host", notFound: true}
	errUnknownPort         = &failure{text: "unknown port", notFound: true}
	errLameReferral        = &failure{text: "lame referral"}
	errCannotMarshal       = &failure{text: "cannot marshal DNS message"}
	errCannotUnmarshal     = &failure{text: "cannot unmarshal DNS message"}
	errInvalidResponse     = &failure{text: "invalid DNS response"}
	errMisbehaving         = &failure{text: "server misbehaving"}
	errMisbehavingForNow   = &failure{text: "server misbehaving", temporary: true}
	errMalformedRecords    = &failure{text: "DNS response contained records which contain invalid names"}
	errInvalidSRVName      = &failure{text: "SRV header name is invalid"}
	errUnrecognizedAddress = &failure{text: "unrecognized address"}
	errUnknownNetwork      = &failure{text: "unknown network"}
	// Package net does not have these two errors: it does not follow aliases itself, and always has
	// a result.
	errTooManyAliases = &failure{text: "too many aliases"}
	errNotEnded       = &failure{text: "lookup ended without a result", temporary: true}

	// These two are internal. errNotOurs: the message is not a response to our query. errCaseLost:
	// the message is a response to our query, but the case of the name differs.
	errNotOurs  = &failure{text: "not a response to the query"}
	errCaseLost = &failure{text: "case of the question not echoed"}
)

// dnsError wraps err in a *net.DNSError as net does. server is "" if no server was involved.
func dnsError(err error, name, server string) *net.DNSError {
	e := &net.DNSError{Err: err.Error(), Name: name, Server: server}
	switch err {
	case context.Canceled:
		e.Err, e.UnwrapErr = "operation was canceled", err
		return e
	case context.DeadlineExceeded:
		e.Err, e.UnwrapErr = "i/o timeout", err
		e.IsTimeout, e.IsTemporary = true, true
		return e
	}
	switch err := err.(type) {
	case *failure:
		e.IsNotFound, e.IsTemporary = err.notFound, err.temporary
		return e
	case *net.OpError:
		// A server that is unreachable now may be reachable later.
		e.IsTimeout, e.IsTemporary = err.Timeout(), true
	case interface {
		Timeout() bool
		Temporary() bool
	}:
		e.IsTimeout, e.IsTemporary = err.Timeout(), err.Temporary()
	}
	// net never returns ErrClosed here, because its network does not end before the program does.
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.Is(err, net.ErrClosed) {
		e.UnwrapErr = err
	}
	return e
}

// isNotFound reports whether err says that the name or record does not exist, as opposed to a
// failure to find out.
func isNotFound(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.IsNotFound
}

// isTemporary reports whether a later attempt may succeed.
func isTemporary(err error) bool {
	var e *net.DNSError
	return errors.As(err, &e) && e.Temporary()
}

// named sets the name in err to name, which the caller of the lookup gave, and returns err. err must be a
// new *net.DNSError. Its name may have a domain of the search list until then.
func named(err error, name string) error {
	var e *net.DNSError
	if errors.As(err, &e) {
		e.Name = name
	}
	return err
}
