package resolve

import (
	"context"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A flight is a question that is being asked, by a goroutine of its own, for all callers that
// have the same one. It ends with its answer or when the last of them has given up.
//
// RFC 5452 5 has the reason beside the traffic: with many equivalent questions under way, a forged
// answer has to fit only one of them.
type flight struct {
	cancel  context.CancelFunc
	waiters int           // under Resolver.mu; no one joins a flight that has none
	landed  chan struct{} // closed when ans and err are there
	ans     *answer       // shared by all that get it
	err     *net.DNSError // copied for each; nil if there is an answer
}

// askOnce asks the servers, unless that is being done, or was done just now.
func (r *Resolver) askOnce(ctx context.Context, key cacheKey, name dnsmessage.Name) (*answer, error) {
	if done(ctx) != nil {
		// Dial is to say so, as in net.
		return r.chase(ctx, name, key.typ)
	}
	r.mu.Lock()
	f := r.flights[key]
	if f == nil {
		if ans := r.cache.get(key, time.Now()); ans != nil {
			r.mu.Unlock()
			return ans, nil
		}
		f = r.launch(ctx, key, name)
	}
	f.waiters++
	r.mu.Unlock()
	select {
	case <-f.landed:
		return f.result()
	case <-ctx.Done():
		return r.leave(ctx, f, key, name)
	}
}

// launch starts a flight. The caller holds r.mu.
func (r *Resolver) launch(ctx context.Context, key cacheKey, name dnsmessage.Name) *flight {
	f := &flight{landed: make(chan struct{}), err: dnsError(errNotEnded, name.String(), "")}
	r.flights[key] = f
	ctx, f.cancel = context.WithCancel(valuesOf{context.Background(), ctx})
	go func() {
		// Even where Dial ends the goroutine nobody is left waiting.
		defer func() {
			r.forget(f, key)
			f.cancel()
			close(f.landed)
		}()
		ans, err := r.chase(ctx, name, key.typ)
		switch e := err.(type) {
		case nil:
			f.ans, f.err = ans, nil
			r.cache.put(key, ans, time.Now())
		case *net.DNSError:
			f.err = e
		}
	}()
	return f
}

// forget has the next caller with the same question begin a new flight.
func (r *Resolver) forget(f *flight, key cacheKey) {
	r.mu.Lock()
	if r.flights[key] == f {
		delete(r.flights, key)
	}
	r.mu.Unlock()
}

// leave is for a caller whose context has ended. The last one ends the flight, and returns
// when it has ended.
func (r *Resolver) leave(ctx context.Context, f *flight, key cacheKey, name dnsmessage.Name) (*answer, error) {
	r.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last && r.flights[key] == f {
		delete(r.flights, key)
	}
	r.mu.Unlock()
	select {
	case <-f.landed: // both at the same time
		return f.result()
	default:
	}
	if !last {
		return nil, dnsError(ctx.Err(), name.String(), "")
	}
	f.cancel()
	<-f.landed
	if f.err == nil {
		return f.ans, nil
	}
	return nil, dnsError(ctx.Err(), name.String(), f.err.Server)
}

// result is what a flight that has landed brought.
func (f *flight) result() (*answer, error) {
	if f.err != nil {
		err := *f.err
		return nil, &err
	}
	return f.ans, nil
}

// valuesOf is a context that never ends and has the values of another one for as long as that
// has not ended, as the lookups of net have: a flight belongs to no caller, but Dial may want
// to know what the first one has in its context.
type valuesOf struct {
	context.Context
	values context.Context
}

func (c valuesOf) Value(key any) any {
	if c.values.Err() != nil {
		return nil
	}
	return c.values.Value(key)
}
