package resolve

import (
	"context"
	"net"
	"sync"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A flight is a query in its own goroutine for all callers that ask the same question. It ends with
// the answer, or when the last caller has given up.
//
// Besides saving traffic, this protects against forgery (RFC 5452 5): if many equal queries were
// outstanding, a forged answer would need to match only one of them.
type flight struct {
	ctx     *flightContext
	waiters int           // guarded by Resolver.mu; a flight without waiters gets no new ones
	landed  chan struct{} // closed when ans and err are set
	ans     *answer       // shared by the callers; never modified
	err     *net.DNSError // nil if there is an answer; each caller gets a copy

	// address is the flight for the A records of the same name if the caller that launched f waits for
	// both flights, and nil otherwise.
	address *flight
	once    sync.Once
	first   chan struct{} // closed when the first query has ended
	vouches string        // the server that returned records for the name in mixed case; "" if none
}

// judged records the end of the first query, which has the name in mixed case. records reports
// whether s answered that query with records for the name. Later calls do nothing. f may be nil.
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

// A question is the state of one caller's lookup of one type.
type question struct {
	key  cacheKey
	name dnsmessage.Name // in the case of this caller
	f    *flight         // nil if the question already has an answer or an error
	ans  *answer
	err  error
}

// begin starts a question. It takes the answer from the cache, joins a flight, or starts a new one.
// It does not wait for the answer. address is the caller's flight for the A records of the same
// name, or nil.
func (r *Resolver) begin(ctx context.Context, fqdn string, typ dnsmessage.Type, address *flight) *question {
	q := &question{key: cacheKey{lower(fqdn), typ}}
	name, err := dnsmessage.NewName(fqdn)
	if err != nil {
		q.err = dnsError(errCannotMarshal, fqdn, "")
		return q
	}
	q.name = name
	r.upstream() // forgets the answers of another network
	if q.ans = r.cache.get(q.key, time.Now()); q.ans != nil {
		return q
	}
	if done(ctx) != nil {
		// As in net, call Dial with the ended context, so that Dial returns the error.
		q.ans, q.err = r.chase(ctx, name, typ, nil)
		return q
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.f = r.flights[q.key]; q.f == nil {
		// A flight may have ended since the cache was read.
		if q.ans = r.cache.get(q.key, time.Now()); q.ans != nil {
			return q
		}
		q.f = r.launch(ctx, q.key, name, address)
	}
	q.f.waiters++
	return q
}

// wait waits for the answer to a question that begin has started.
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
	network := r.network
	f.ctx = &flightContext{values: ctx, done: make(chan struct{})}
	ctx, cancel := context.WithCancel(f.ctx)
	go func() {
		// Even if Dial ends the goroutine by runtime.Goexit, the callers must get a result.
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
			r.keep(key, ans, network)
		case *net.DNSError:
			f.err = e
		}
	}()
	return f
}

// keep caches an answer, unless the network has changed since the question was asked.
func (r *Resolver) keep(key cacheKey, ans *answer, network uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.network == network {
		r.cache.put(key, ans, time.Now())
	}
}

// forget removes a flight, so that the next caller with the same question starts a new one.
func (r *Resolver) forget(f *flight, key cacheKey) {
	r.mu.Lock()
	if r.flights[key] == f {
		delete(r.flights, key)
	}
	r.mu.Unlock()
}

// leave ends the wait of a caller whose context has ended. The last caller also ends the flight and
// waits until it has ended.
func (r *Resolver) leave(ctx context.Context, f *flight, key cacheKey, name dnsmessage.Name) (*answer, error) {
	r.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	if last && r.flights[key] == f {
		delete(r.flights, key)
	}
	r.mu.Unlock()
	select {
	case <-f.landed: // the flight has ended at the same time
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

// result returns the result of a flight that has ended.
func (f *flight) result() (*answer, error) {
	if f.err != nil {
		err := *f.err
		return nil, &err
	}
	return f.ans, nil
}

// A flightContext is the context of a flight. When the last waiter leaves because its context has
// ended, the flightContext ends with the error of that context. As in net, Dial can use the values of
// the context of the caller that launched the flight, until that context ends.
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
