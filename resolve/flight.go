package resolve

import (
	"context"
	"net"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// A flight is a question that is being asked. Whoever has the same one meanwhile waits
// for its answer.
//
// RFC 5452 5 has the reason beside the traffic: with many equivalent questions under way, a forged
// answer has to fit only one of them.
type flight struct {
	landed chan struct{} // closed when the rest is there
	ans    *answer       // shared by all that get it
	err    *net.DNSError // copied for each; nil if there is an answer
	// abandoned: the one who asked gave up, which says nothing to the others.
	abandoned bool
}

// askOnce asks the servers, unless that is being done, or was done just now.
func (r *Resolver) askOnce(ctx context.Context, key cacheKey, name dnsmessage.Name) (*answer, error) {
	for {
		r.mu.Lock()
		f := r.flights[key]
		if f == nil {
			if ans := r.cache.get(key, time.Now()); ans != nil {
				r.mu.Unlock()
				return ans, nil
			}
			f = &flight{landed: make(chan struct{}), abandoned: true}
			r.flights[key] = f
			r.mu.Unlock()
			return r.fly(ctx, f, key, name)
		}
		r.mu.Unlock()
		select {
		case <-f.landed:
		case <-ctx.Done():
			return nil, dnsError(ctx.Err(), name.String(), "")
		}
		switch {
		case f.abandoned:
		case f.err != nil:
			err := *f.err
			return nil, &err
		default:
			return f.ans, nil
		}
	}
}

// fly asks the servers for all that wait for f.
func (r *Resolver) fly(ctx context.Context, f *flight, key cacheKey, name dnsmessage.Name) (*answer, error) {
	defer func() {
		r.mu.Lock()
		delete(r.flights, key)
		r.mu.Unlock()
		close(f.landed)
	}()
	ans, err := r.chase(ctx, name, key.typ)
	switch e := err.(type) {
	case nil:
		f.abandoned, f.ans = false, ans
		r.cache.put(key, ans, time.Now())
	case *net.DNSError:
		own := *e
		f.abandoned, f.err = done(ctx) != nil, &own
	}
	return ans, err
}
