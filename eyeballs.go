package usernet

import (
	"context"
	"net"
	"time"
)

const (
	// fallbackDelay is the time after which a dial tries the other address family. RFC 8305 8:
	// "Connection Attempt Delay [...] Recommended to be 250 milliseconds"; RFC 6555 5.5:
	// "150-250 ms". net waits 300 ms, and a Dialer behaves as net's.
	fallbackDelay = 300 * time.Millisecond
	// minAddrTime is the minimum time for one address, if that much time remains.
	minAddrTime = 2 * time.Second
)

// A race is one dial to the addresses of a name: Happy Eyeballs, RFC 8305, as in net. It tries the
// addresses of a family one after the other. If the first family has not succeeded after a delay,
// the race tries the second family in parallel.
type race struct {
	network string
	local   net.Addr      // the local address, for errors; nil if the host chooses it
	delay   time.Duration // until the second family starts; negative: no second family in parallel
	dial    func(ctx context.Context, addr net.Addr) (net.Conn, error)
}

// run tries the addresses and returns the first connection. addrs has at least one address.
func (r *race) run(ctx context.Context, addrs []net.Addr) (net.Conn, error) {
	if r.network == "tcp" && r.delay >= 0 && len(addrs) > 1 {
		if primaries, fallbacks := partition(addrs); len(fallbacks) > 0 {
			return r.parallel(ctx, primaries, fallbacks)
		}
	}
	return r.serial(ctx, addrs)
}

// partition splits a list of addresses in two: the primaries have the family of the first address,
// and the fallbacks have the other family.
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

// parallel tries both families. The fallbacks start when the primaries have failed, or after
// r.delay. The goroutines of parallel end before it returns.
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
	fallback := timer.C // nil after the fallbacks have started
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

// serial tries addresses one after the other. If all fail, it returns the error of the first one. If
// the context is cancelled between two attempts, it returns the cancellation instead, as an error of
// dialling the next address, as net does. If the deadline has passed, the first error stays.
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

// attempt tries one address. remaining is the number of addresses not yet tried, including addr.
// They share the time until the deadline of ctx: each gets an equal part, but at least minAddrTime.
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
