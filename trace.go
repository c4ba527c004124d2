package usernet

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/netip"

	"github.com/usernet/usernet/resolve"
)

// dialOne fires the hooks of net/http/httptrace around an attempt at one
// address, as package net does.
func (d *Dialer) dialOne(ctx context.Context, network string, addr net.Addr) (c net.Conn, err error) {
	if t := httptrace.ContextClientTrace(ctx); t != nil && !d.quiet {
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

// lookupTraced fires the hooks around a lookup of ours; a *net.Resolver has its
// own.
func lookupTraced(ctx context.Context, r nameResolver, network, host string) (ips []netip.Addr, err error) {
	t := httptrace.ContextClientTrace(ctx)
	if _, ours := r.(*resolve.Resolver); t != nil && ours {
		if t.DNSStart != nil {
			t.DNSStart(httptrace.DNSStartInfo{Host: host})
		}
		if t.DNSDone != nil {
			defer func() {
				info := httptrace.DNSDoneInfo{Err: err}
				for _, ip := range ips {
					info.Addrs = append(info.Addrs, net.IPAddr{IP: ip.AsSlice(), Zone: ip.Zone()})
				}
				t.DNSDone(info)
			}()
		}
	}
	return r.LookupNetIP(ctx, network, host)
}
