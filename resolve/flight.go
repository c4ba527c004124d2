package resolve

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A flight is a question that is being asked, by a goroutine of its own, for all callers that
// have the same one. It ends with its answer or when the last of them has given up.
//
// RFC 5452 5 has the reason beside the traffic: with many equivalent questions under way, a forged
// answer has to fit only one of them.
type flight struct {
	ctx     *flightContext
	waiters int           // under Resolver.mu; no one joins a flight that has none
	landed  chan struct{} // closed when ans and err are there
	ans     *answer       // shared by all that get it
	err     *net.DNSError // copied for each; nil if there is an answer

	// address is the flight of the A records of the same name, if the caller that began this one
	// has begun that before.
	address *flight
	once    sync.Once
	first   chan struct{} // closed when the answer to the first query is judged
	vouches string        // the server that has the records of the name in mixed case; "" if none has
}

// judged tells others what the server said to the first query, which was in mixed case.
// Nobody has to be told of a nil flight.
func (f *flight) judged(s *server, records bool) {
	if f == nil {
		return
	}
	f.once.Do(func() {
		if records {
			f.vouches = s.addr
		}
		close(f.first)
	})
}

// A question is what one caller asks.
type question struct {
	key  cacheKey
	name dnsmessage.Name // in the case of this caller
	f    *flight         // nil if the answer, or the error, is there already
	ans  *answer
	err  error
}

// begin asks the servers, unless that is being done, or was done just now. It does not wait for
// their answer. address is the flight of the A records of the same name that the caller has begun,
// or nil.
func (r *Resolver) begin(ctx context.Context, fqdn string, typ dnsmessage.Type, address *flight) *question {
	q := &question{key: cacheKey{lower(fqdn), typ}}
	name, err := dnsmessage.NewName(fqdn)
	if err != nil {
		q.err = dnsError(errCannotMarshal, fqdn, "")
		return q
	}
	q.name = name
	if q.ans = r.cache.get(q.key, time.Now()); q.ans != nil {
		return q
	}
	if done(ctx) != nil {
		// Dial is to say so, as in net.
		q.ans, q.err = r.chase(ctx, name, typ, nil)
		return q
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.f = r.flights[q.key]; q.f == nil {
		if q.ans = r.cache.get(q.key, time.Now()); q.ans != nil {
			return q
		}
		q.f = r.launch(ctx, q.key, name, address)
	}
	q.f.waiters++
	return q
}

// wait waits for the answer to a question that has begun.
func (r *Resolver) wait(ctx context.Context, q *question) (*answer, error) {
	if q.f == nil {
		return q.ans, q.err
	}
	select {
	case <-q.f.landed:
		return q.f.result()
	case <-ctx.Done():
		return r.leave(ctx, q.f, q.key, q.name)
	}
}

// launch starts a flight. The caller holds r.mu.
func (r *Resolver) launch(ctx context.Context, key cacheKey, name dnsmessage.Name, address *flight) *flight {
	f := &flight{
		landed: make(chan struct{}), err: dnsError(errNotEnded, name.String(), ""),
		address: address, first: make(chan struct{}),
	}
	r.flights[key] = f
	f.ctx = &flightContext{values: ctx, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(f.ctx)
	go func() {
		// Even where Dial ends the goroutine nobody is left waiting.
		defer func() {
			r.forget(f, key)
			cancel()
			f.judged(nil, false)
			close(f.landed)
		}()
		ans, err := r.chase(ctx, name, key.typ, f)
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
	f.ctx.end(ctx.Err())
	<-f.landed
	return f.result()
}

// result is what a flight that has landed brought.
func (f *flight) result() (*answer, error) {
	if f.err != nil {
		err := *f.err
		return nil, &err
	}
	return f.ans, nil
}

// A flightContext ends when the last waiter's ends, and as that has. It has the values of the first one's for
// as long as that has not ended, as the lookups of net have: a flight belongs to no caller, but Dial may
// want to know what is in a context.
type flightContext struct {
	values context.Context
	done   chan struct{}

	mu  sync.Mutex
	err error
}

func (c *flightContext) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
	close(c.done)
}

func (c *flightContext) Deadline() (deadline time.Time, ok bool) { return time.Time{}, false }
func (c *flightContext) Done() <-chan struct{}                   { return c.done }

func (c *flightContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *flightContext) Value(key any) any {
	if c.values.Err() != nil {
		return nil
	}
	return c.values.Value(key)
}
