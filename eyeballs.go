package usernet

import (
	"context"
	"net"
	"time"
)

const (
	// fallbackDelay is the time after which the other address family is tried.
	// RFC 8305 8: "Connection Attempt Delay [...] Recommended to be 250 milliseconds";
	// RFC 6555 5.5: "150-250 ms"; net, whose programs run here, waits 300 ms.
	fallbackDelay = 300 * time.Millisecond
	// minAddrTime is the least time for one address, if the remaining time permits.
	minAddrTime = 2 * time.Second
)

// A race is one dial to the addresses of a name: Happy Eyeballs, RFC 8305, as net has it.
// The addresses of a family are tried one after the other. The second family is tried in parallel
// if the first has not succeeded after a delay.
type race struct {
	network string
	local   net.Addr      // for errors; nil if the host chooses it
	delay   time.Duration // until the second family starts; there is no race if negative
	dial    func(ctx context.Context, addr net.Addr) (net.Conn, error)
}

// run connects to one of the addresses, of which there is at least one, in the order in which
// they are to be tried.
func (r *race) run(ctx context.Context, addrs []net.Addr) (net.Conn, error) {
	if r.network == "tcp" && r.delay >= 0 && len(addrs) > 1 {
		if primaries, fallbacks := partition(addrs); len(fallbacks) > 0 {
			return r.parallel(ctx, primaries, fallbacks)
		}
	}
	return r.serial(ctx, addrs)
}

// partition splits a list into the addresses of the family of the first, and the others.
func partition(addrs []net.Addr) (primaries, fallbacks []net.Addr) {
	for _, addr := range addrs {
		if isIPv4(addr) == isIPv4(addrs[0]) {
			primaries = append(primaries, addr)
		} else {
			fallbacks = append(fallbacks, addr)
		}
	}
	return primaries, fallbacks
}

// parallel tries both families: the fallbacks start when the primaries
// have failed, or have not succeeded for r.delay. Its goroutines end before it returns.
func (r *race) parallel(ctx context.Context, primaries, fallbacks []net.Addr) (net.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		conn    net.Conn
		err     error
		primary bool
	}
	results := make(chan result)
	running := 0
	start := func(addrs []net.Addr, primary bool) {
		running++
		go func() {
			c, err := r.serial(ctx, addrs)
			results <- result{c, err, primary}
		}()
	}
	delay := r.delay
	if delay == 0 {
		delay = fallbackDelay
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	fallback := timer.C // nil once they are under way
	start(primaries, true)
	var primaryErr error
	for {
		select {
		case <-fallback:
			fallback = nil
			start(fallbacks, false)
		case res := <-results:
			running--
			if res.err == nil {
				// RFC 8305 5: "Once one of the connection attempts succeeds [...], all
				// other connections attempts that have not yet succeeded SHOULD be
				// canceled."
				cancel()
				for ; running > 0; running-- {
					if late := <-results; late.err == nil {
						late.conn.Close()
					}
				}
				return res.conn, nil
			}
			if res.primary {
				primaryErr = res.err
				if fallback != nil {
					fallback = nil
					start(fallbacks, false)
				}
			}
			if running == 0 {
				return nil, primaryErr
			}
		}
	}
}

// serial tries addresses one after the other. The error is that of the first; if the context ends, it
// is that of the next address, as in net.
func (r *race) serial(ctx context.Context, addrs []net.Addr) (net.Conn, error) {
	var first error
	for i, addr := range addrs {
		if err := ctx.Err(); err != nil {
			if first == nil || err == context.Canceled {
				first = dialError(r.network, r.local, addr, contextError(err))
			}
			break
		}
		c, err := r.attempt(ctx, addr, len(addrs)-i)
		if err == nil {
			return c, nil
		}
		if first == nil {
			first = dialError(r.network, r.local, addr, err)
		}
	}
	return nil, first
}

// attempt tries one address, in its share of the remaining time: remaining addresses share it.
func (r *race) attempt(ctx context.Context, addr net.Addr, remaining int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		if left <= 0 {
			return nil, timeoutError{}
		}
		if share := max(left/time.Duration(remaining), minAddrTime); share < left {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, share)
			defer cancel()
		}
	}
	return r.dial(ctx, addr)
}
