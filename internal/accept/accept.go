// Package accept has the accept loop of the commands and of the servers in tests.
package accept

import (
	"context"
	"errors"
	"net"
	"time"
)

// The wait after a temporary error, as in net/http's Server.Serve.
const (
	minWait = 5 * time.Millisecond
	maxWait = time.Second
)

// Serve accepts connections and calls serve for each, which must not block. Serve returns nil when the
// listener is closed, and the error of Accept when the listener fails. A temporary error, such as EMFILE
// ("too many open files"), does not end Serve: Serve calls warn, if warn is not nil, and waits. It waits for
// 5 ms after the first of successive errors, and for twice as long after each further one, but at most for
// a second. If ctx ends during a wait, Serve returns nil.
func Serve(ctx context.Context, ln net.Listener, warn func(err error, wait time.Duration), serve func(net.Conn)) error {
	var wait time.Duration
	for {
		c, err := ln.Accept()
		switch {
		case err == nil:
			wait = 0
			serve(c)
		case errors.Is(err, net.ErrClosed):
			return nil
		case !isTemporary(err):
			return err
		default:
			wait = min(max(2*wait, minWait), maxWait)
			if warn != nil {
				warn(err, wait)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wait):
			}
		}
	}
}

func isTemporary(err error) bool {
	// Temporary is deprecated because its meaning is vague. For Accept it means what is needed here.
	e, ok := err.(interface{ Temporary() bool })
	return ok && e.Temporary()
}
