package usernet

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/netip"
)

// untraced is the context key that marks a lookup. As in package net, the hooks of a dial do not
// report the connections to name servers that the dial's lookup makes.
type untraced struct{}

// dialOne dials one address and calls the hooks of net/http/httptrace before and after, as package
// net does.
func (d *Dialer) dialOne(ctx context.Context, network string, addr net.Addr) (c net.Conn, err error) {
	if t := httptrace.ContextClientTrace(ctx); t != nil && ctx.Value(untraced{}) == nil {
		if t.ConnectStart != nil {
			t.ConnectStart(network, addr.String())
		}
		if t.ConnectDone != nil {
			defer func() {
				result := err
				if err != nil {
					result = dialError(network, d.LocalAddr, addr, err)
				}
				t.ConnectDone(network, addr.String(), result)
			}()
		}
	}
	return d.dialAddr(ctx, network, addr)
}

// traced returns a lookup that calls the hooks of net/http/httptrace. If itself is set, lookup
// calls the DNS hooks itself, and traced only suppresses the hooks for the connections to name
// servers that lookup makes.
func traced(lookup lookupFunc, itself bool) lookupFunc {
	return func(ctx context.Context, network, host string) (ips []netip.Addr, err error) {
		t := httptrace.ContextClientTrace(ctx)
		if t == nil {
			return lookup(ctx, network, host)
		}
		ctx = context.WithValue(ctx, untraced{}, true)
		if t.DNSStart != nil && !itself {
			t.DNSStart(httptrace.DNSStartInfo{Host: host})
		}
		if t.DNSDone != nil && !itself {
			defer func() {
				info := httptrace.DNSDoneInfo{Err: err}
				for _, ip := range ips {
					info.Addrs = append(info.Addrs, net.IPAddr{IP: ip.AsSlice(), Zone: ip.Zone()})
				}
				t.DNSDone(info)
			}()
		}
		return lookup(ctx, network, host)
	}
}
