package usernet

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/netip"
)

// untraced is a key of contexts. The connections to name servers that a dial makes have it:
// as with net, they are no business of those who trace the dial.
type untraced struct{}

// dialOne fires the hooks of net/http/httptrace around an attempt at one
// address, as package net does.
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

// traced fires the hooks around a lookup, or, where the lookup fires them itself, only sees
// to it that it does not fire those of the connections that it makes.
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
