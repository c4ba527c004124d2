package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet/resolve"
)

// answered is the address of every name.
var answered = netip.MustParseAddr("192.0.2.1")

// serveNames answers each query on pc with one address.
func serveNames(pc net.PacketConn) {
	buf := make([]byte, 4096)
	var out []byte
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		if out, err = answer(out[:0], buf[:n]); err == nil {
			pc.WriteTo(out, from)
		}
	}
}

// answer appends the response to a query.
func answer(out, query []byte) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return out, err
	}
	q, err := p.Question()
	if err != nil {
		return out, err
	}
	b := dnsmessage.NewBuilder(out, dnsmessage.Header{
		ID: h.ID, Response: true, Authoritative: true, RecursionDesired: h.RecursionDesired, RecursionAvailable: true,
	})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return out, err
	}
	if err := b.Question(q); err != nil {
		return out, err
	}
	if err := b.StartAnswers(); err != nil {
		return out, err
	}
	if q.Type == dnsmessage.TypeA {
		about := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, TTL: 300}
		if err := b.AResource(about, dnsmessage.AResource{A: answered.As4()}); err != nil {
			return out, err
		}
	}
	return b.Finish()
}

// A lookup returns the IPv4 addresses of a name.
type lookup func(ctx context.Context, name string) ([]netip.Addr, error)

// resolver returns the lookup function of the task's stack. usernet has its own resolver. The other stacks use that of
// package net, which has no cache.
func (c *client) resolver() (lookup, error) {
	server, err := netip.ParseAddrPort(c.addr())
	if err != nil {
		return nil, err
	}
	if c.t.Stack == usern || c.t.Stack == usern6 {
		size := -1
		if c.t.Cached {
			size = 0 // the default
		}
		r := resolve.New(resolve.Config{
			Servers: []netip.AddrPort{server}, CacheSize: size,
			Dial: func(_ context.Context, network, address string) (net.Conn, error) { return c.n.dial(network, address) },
		})
		return func(ctx context.Context, name string) ([]netip.Addr, error) {
			return r.LookupNetIP(ctx, "ip4", name)
		}, nil
	}
	r := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return c.n.dial(c.t.network("udp"), c.addr())
	}}
	return func(ctx context.Context, name string) ([]netip.Addr, error) {
		return r.LookupNetIP(ctx, "ip4", name)
	}, nil
}

// lookups returns a function that looks up a new name in each call or, if the task has a cache, a hundred names in turn.
func (c *client) lookups() (func(*counter) error, error) {
	look, err := c.resolver()
	if err != nil {
		return nil, err
	}
	var next atomic.Int64
	return c.repeat(func() error {
		n := next.Add(1)
		if c.t.Cached {
			n %= 100
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		got, err := look(ctx, "host-"+strconv.FormatInt(n, 10)+".example.")
		if err == nil && (len(got) != 1 || got[0].Unmap() != answered) {
			err = fmt.Errorf("the addresses %v", got)
		}
		return err
	}), nil
}
