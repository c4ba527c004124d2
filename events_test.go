package usernet_test

import (
	"context"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/internal/nictest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// watch collects the events of a host, and returns a function that returns those since its last call.
func watch(t *testing.T, h *usernet.Host) (events func() []string) {
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var all []string
	changes := h.Events(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range changes {
			mu.Lock()
			all = append(all, e.String())
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return func() []string {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		got := all
		all = nil
		return got
	}
}

func TestEventsOfAddressesRoutesAndLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{})
		defer far.Close()
		dev := nictest.NewChangeable(near)
		var log logBuffer
		h, err := usernet.New(usernet.Config{NIC: dev, NoIPv6: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		defer h.Close()
		events := watch(t, h)
		require.Empty(t, events())

		a := netip.MustParsePrefix("192.0.2.1/24")
		require.NoError(t, h.AddAddr("", a, usernet.AddrOptions{Valid: time.Hour, Preferred: time.Minute}))
		name := h.Interfaces()[1].Name
		require.Equal(t, []string{
			name + ": address added addr=192.0.2.1/24 state=preferred origin=static",
			name + ": route added to=192.0.2.0/24",
		}, events())
		time.Sleep(2 * time.Minute)
		require.Equal(t, []string{name + ": address changed addr=192.0.2.1/24 state=deprecated origin=static"}, events())
		gateway := usernet.Route{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("192.0.2.254")}
		require.NoError(t, h.AddRoute(gateway))
		require.Equal(t, []string{name + ": route added to=0.0.0.0/0 via=192.0.2.254"}, events())
		time.Sleep(time.Hour)
		got := events()
		require.Len(t, got, 3, "the address, and its two routes")
		require.Contains(t, got[0], "address removed addr=192.0.2.1/24")

		x, y := nic.Pipe(nic.PipeConfig{})
		defer y.Close()
		require.NoError(t, h.Stack().AddNIC(stack.NIC{Name: "second", Device: x}))
		require.Equal(t, []string{"second: link added"}, events())
		require.NoError(t, h.Stack().RemoveNIC("second"))
		require.Equal(t, []string{"second: link removed"}, events())
		dev.Plug(false)
		require.Equal(t, []string{name + ": link down"}, events())
		dev.Plug(true)
		require.Equal(t, []string{name + ": link up"}, events())

		for _, text := range []string{"address added", "address changed", "address removed", "route added", "route removed"} {
			require.Contains(t, log.String(), `msg="`+text+`"`)
		}
	})
}

func TestEventsOfALease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{})
		server, err := usernet.New(usernet.Config{NIC: far, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}, NoIPv6: true})
		require.NoError(t, err)
		defer server.Close()
		cfg := pool("192.0.2.10", "192.0.2.20")
		cfg.Server.Link.Routers = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		cfg.Server.Link.DNS = []netip.Addr{netip.MustParseAddr("192.0.2.53")}
		serve(t, server, cfg)
		h, err := usernet.New(usernet.Config{NIC: near, NoIPv6: true})
		require.NoError(t, err)
		defer h.Close()
		events := watch(t, h)
		require.NoError(t, h.StartDHCP("", usernet.DHCPConfig{}))
		time.Sleep(30 * time.Second)
		got := strings.Join(events(), "\n")
		for _, want := range []string{"lease changed addr=192.0.2.10", "address added addr=192.0.2.10/24", "route added to=0.0.0.0/0 via=192.0.2.1", "name servers changed servers=[192.0.2.53:53]"} {
			require.Contains(t, got, want)
		}
		require.NoError(t, h.StopDHCP(""))
		got = strings.Join(events(), "\n")
		for _, want := range []string{"lease ended addr=192.0.2.10", "address removed addr=192.0.2.10/24", "route removed to=0.0.0.0/0 via=192.0.2.1", "name servers changed servers=[]"} {
			require.Contains(t, got, want)
		}
	})
}

func TestEventsEndWithTheHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := usernet.New(usernet.Config{})
		require.NoError(t, err)
		ended := make(chan struct{})
		changes := h.Events(t.Context())
		go func() {
			for range changes {
			}
			close(ended)
		}()
		synctest.Wait()
		require.NoError(t, h.Close())
		<-ended
	})
}

// A slowHandler is a handler of a log that blocks for a second.
type slowHandler struct{ slog.Handler }

func (h slowHandler) Handle(ctx context.Context, r slog.Record) error {
	time.Sleep(time.Second)
	return h.Handler.Handle(ctx, r)
}

// A slow handler of the log does not hold up the host. If the host called the handler with a lock held, the test would
// hang: in a bubble, time stands still while a goroutine waits for a mutex.
func TestASlowLogHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{})
		defer far.Close()
		var log logBuffer
		h, err := usernet.New(usernet.Config{NIC: near, NoIPv6: true, Logger: slog.New(slowHandler{slog.NewTextHandler(&log, nil)})})
		require.NoError(t, err)
		defer h.Close()
		start := time.Now()
		for i := range 3 {
			require.NoError(t, h.AddAddr("", netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + i)}), 32), usernet.AddrOptions{}))
			time.Sleep(time.Millisecond)
		}
		require.Less(t, time.Since(start), time.Second)
		time.Sleep(time.Minute)
		require.Equal(t, 3, strings.Count(log.String(), "address added"))
	})
}

// The handler of an event may close the host, whatever has ended the lease.
func TestTheHandlerOfALostLeaseMayCloseTheHost(t *testing.T) {
	for name, end := range map[string]func(h *usernet.Host) error{
		"the client is stopped":    func(h *usernet.Host) error { return h.StopDHCP("") },
		"the interface is removed": func(h *usernet.Host) error { return h.Stack().RemoveNIC(h.Interfaces()[1].Name) },
		"the host is closed":       func(h *usernet.Host) error { return h.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				_, wire := linkWithServer(t, time.Hour)
				var h *usernet.Host
				lost := make(chan struct{})
				h, err := usernet.New(usernet.Config{NIC: wire, NoIPv6: true})
				require.NoError(t, err)
				require.NoError(t, h.StartDHCP("", usernet.DHCPConfig{OnEvent: func(e dhcp.Event4) {
					if e.Kind == dhcp.Lost {
						h.Close()
						close(lost)
					}
				}}))
				waitOnline(t, h)
				start := time.Now()
				require.NoError(t, end(h))
				<-lost
				require.LessOrEqual(t, time.Since(start), time.Second)
			})
		})
	}
}
