package usernet

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/usernet/usernet/resolve"
)

const (
	httpsPort = 443
	// httpsDelay is how long a dial waits for the HTTPS records of a name after it has the addresses of
	// the name. It equals the Resolution Delay of RFC 8305 section 3, a wait for the addresses of the other family.
	httpsDelay = 50 * time.Millisecond
	// maxEndpoints is the maximum number of endpoints whose addresses a dial looks up.
	maxEndpoints = 4
)

// An httpsLookup looks up the HTTPS records of a name for a dial, at the same time as the addresses.
type httpsLookup struct {
	d        *Dialer
	network  string
	host     string
	cancel   context.CancelFunc
	ended    chan struct{} // closed when the following fields are set
	target   string
	bindings []*resolve.ServiceBinding
	err      error
}

// lookupHTTPS starts the lookup of HTTPS records. It returns nil if the dial does not use them.
func (d *Dialer) lookupHTTPS(ctx context.Context, network, address string) *httpsLookup {
	h := d.Host
	if !h.https || !strings.HasPrefix(network, "tcp") || d.LookupNetIP != nil || d.Resolver != nil {
		return nil
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return nil
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if port, err := h.resolver.LookupPort(ctx, network, service); err != nil || port != httpsPort {
		return nil
	}
	ctx = context.WithValue(ctx, untraced{}, true)
	l := &httpsLookup{d: d, network: network, host: host, ended: make(chan struct{})}
	ctx, l.cancel = context.WithCancel(ctx)
	go func() {
		defer close(l.ended)
		l.target, l.bindings, l.err = h.resolver.LookupHTTPS(ctx, host, httpsPort)
	}()
	return l
}

// endpoints returns the addresses that the dial has to try: those of the endpoints in the HTTPS records, and
// then addrs, the addresses of the name itself. err is the error of the lookup of addrs. endpoints waits for the HTTPS
// records: if err is nil, at most for httpsDelay. It ends the lookup of the records before it returns.
func (l *httpsLookup) endpoints(ctx context.Context, addrs []net.Addr, err error) ([]net.Addr, error) {
	timer := time.NewTimer(httpsDelay)
	defer timer.Stop()
	late := timer.C
	if err != nil {
		late = nil // without addrs, only the records can give addresses
	}
	select {
	case <-l.ended:
	case <-late:
	case <-ctx.Done():
	}
	l.cancel()
	<-l.ended
	if l.err != nil {
		return addrs, err
	}
	if len(addrs) > 0 { // the dial must not wait long: it could already try addrs
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Second)
		defer cancel()
	}
	var all []net.Addr
	if len(l.bindings) == 0 {
		all = l.lookup(ctx, l.target, httpsPort, addrs)
	}
	n := 0
	for _, b := range l.bindings {
		if !overTCP(b) || n == maxEndpoints {
			continue
		}
		n++
		port := httpsPort
		if b.Port != 0 {
			port = int(b.Port)
		}
		found := l.lookup(ctx, b.Target, port, addrs)
		if len(found) == 0 {
			found = l.suitable(slices.Concat(b.IPv6Hint, b.IPv4Hint), port)
		}
		all = append(all, found...)
	}
	for _, a := range addrs {
		if !slices.ContainsFunc(all, func(x net.Addr) bool { return x.String() == a.String() }) {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		return addrs, err
	}
	return all, nil
}

// overTCP reports whether an endpoint supports HTTP over TCP. HTTP/1.1 is the default protocol of the scheme
// "https" (RFC 9460 section 9.5).
func overTCP(b *resolve.ServiceBinding) bool {
	return !b.NoDefaultALPN || slices.Contains(b.ALPN, "h2") || slices.Contains(b.ALPN, "http/1.1")
}

// lookup returns the addresses of an endpoint. own are the addresses of the dialed name.
func (l *httpsLookup) lookup(ctx context.Context, target string, port int, own []net.Addr) []net.Addr {
	if strings.EqualFold(strings.TrimSuffix(target, "."), strings.TrimSuffix(l.host, ".")) {
		addrs := make([]net.Addr, 0, len(own))
		for _, a := range own {
			ip, _, zone := addrIP(a)
			addrs = append(addrs, makeAddr(l.network, ip, zone, port))
		}
		return addrs
	}
	network := "ip" + strings.TrimPrefix(l.network, "tcp")
	ips, err := l.d.Host.resolver.LookupNetIP(context.WithValue(ctx, untraced{}, true), network, target)
	if err != nil {
		return nil
	}
	return l.suitable(ips, port)
}

// suitable converts addresses, and omits those of a family that the dial does not use.
func (l *httpsLookup) suitable(ips []netip.Addr, port int) []net.Addr {
	local, _, _ := addrIP(opAddr(l.d.LocalAddr))
	var addrs []net.Addr
	for _, ip := range ips {
		is4 := ip.Is4() || ip.Is4In6()
		if l.network == "tcp4" && !is4 || l.network == "tcp6" && is4 || !isWildcard(local) && (local.To4() != nil) != is4 {
			continue
		}
		addrs = append(addrs, resolvedAddr(l.network, ip, port))
	}
	return addrs
}
