package usernet_test

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/netip"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
)

func TestTraceHooksFireAsNets(t *testing.T) {
	name := netip.MustParseAddr("127.0.0.1")
	h, err := usernet.New(usernet.Config{Hosts: map[string][]netip.Addr{"server.example": {name}}})
	require.NoError(t, err)
	defer h.Close()
	ours, err := h.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	kernels, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer kernels.Close()

	// run returns the events of a dial. It leaves out the ports, which differ.
	run := func(dial func(context.Context, string, string) (net.Conn, error), addr string) (events []string) {
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			DNSStart: func(i httptrace.DNSStartInfo) { events = append(events, "lookup "+i.Host) },
			DNSDone:  func(i httptrace.DNSDoneInfo) { events = append(events, "found "+i.Addrs[0].String()) },
			ConnectStart: func(network, addr string) {
				host, _, _ := net.SplitHostPort(addr)
				events = append(events, "connect "+network+" "+host)
			},
			ConnectDone: func(network, addr string, err error) {
				host, _, _ := net.SplitHostPort(addr)
				result := "done"
				if err != nil && runtime.GOOS == "windows" {
					result = "failed" // the text of net's error is Winsock's
				} else if err != nil {
					result = err.Error()
				}
				events = append(events, result+" "+network+" "+host)
			},
		})
		if c, err := dial(ctx, "tcp4", addr); err == nil {
			c.Close()
		}
		return events
	}
	want := run(new(net.Dialer).DialContext, kernels.Addr().String())
	require.Equal(t, []string{"connect tcp4 127.0.0.1", "done tcp4 127.0.0.1"}, want)
	require.Equal(t, want, run(h.DialContext, ours.Addr().String()))

	refused := run(new(net.Dialer).DialContext, "127.0.0.1:1")
	require.Equal(t, refused, run(h.DialContext, "127.0.0.1:1"))

	_, port, _ := net.SplitHostPort(ours.Addr().String())
	require.Equal(t, append([]string{"lookup server.example", "found 127.0.0.1"}, want...), run(h.DialContext, "server.example:"+port))
}

func TestConnectionsToNameServersFireNoHooks(t *testing.T) {
	h, err := usernet.New(usernet.Config{DNS: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.1:53")}})
	require.NoError(t, err)
	defer h.Close()
	ask := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return h.DialContext(ctx, "udp", "127.0.0.1:53") // nothing listens there
	}
	for name, d := range map[string]*usernet.Dialer{
		"the host's resolver": {Host: h},
		"a resolver of net":   {Host: h, Resolver: &net.Resolver{PreferGo: true, Dial: ask}},
	} {
		var events []string
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			DNSStart:     func(i httptrace.DNSStartInfo) { events = append(events, "lookup "+i.Host) },
			DNSDone:      func(i httptrace.DNSDoneInfo) { events = append(events, "done") },
			ConnectStart: func(network, addr string) { events = append(events, "connect "+network+" "+addr) },
			ConnectDone:  func(network, addr string, _ error) { events = append(events, "connected "+network+" "+addr) },
		})
		_, err := d.DialContext(ctx, "tcp", "nowhere.usernet.test.:80")
		require.ErrorContains(t, err, "connection refused", name)
		require.Equal(t, []string{"lookup nowhere.usernet.test.", "done"}, events, name)
	}
}

func TestADialerAsksItsLookupForNames(t *testing.T) {
	h, err := usernet.New(usernet.Config{Hosts: map[string][]netip.Addr{"server.example": {netip.MustParseAddr("127.0.0.1")}}})
	require.NoError(t, err)
	defer h.Close()
	ln, err := h.Listen("tcp", "127.0.0.7:80")
	require.NoError(t, err)
	var asked []string
	d := usernet.Dialer{Host: h, LookupNetIP: func(_ context.Context, network, host string) ([]netip.Addr, error) {
		asked = append(asked, network+" "+host)
		if host != "server.example" {
			return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		}
		return []netip.Addr{netip.MustParseAddr("127.0.0.6"), netip.MustParseAddr("127.0.0.7")}, nil
	}}
	c, err := d.Dial("tcp", "server.example:80")
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, ln.Addr().String(), c.RemoteAddr().String(), "the second address, after the first has refused")
	c, err = d.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	_, err = d.Dial("udp4", "nobody.example:80")
	require.EqualError(t, err, "dial udp4: lookup nobody.example: no such host")
	require.Equal(t, []string{"ip server.example", "ip4 nobody.example"}, asked)
}
