package usernet_test

import (
	"context"
	"net"
	"net/http/httptrace"
	"net/netip"
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

	// What happens, without the ports, which differ.
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
				if err != nil {
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
