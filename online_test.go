package usernet_test

import (
	"context"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// A program has its own DHCP client, which adds the address and the routes with AddAddr and AddRoute.
func TestWaitOnlineWithAProgramsOwnClient(t *testing.T) {
	router := stack.Route{Dst: netip.MustParsePrefix("192.0.2.1/32")}
	for _, c := range []struct {
		name  string
		addr  string
		probe bool
		route *stack.Route
		after time.Duration // how long WaitOnline waits at least; negative: it fails
		lacks string
	}{
		{name: "a network", addr: "192.0.2.7/24", after: time.Second},
		{name: "probes", addr: "192.0.2.7/24", probe: true, after: 5 * time.Second},
		{name: "a router in no network", addr: "192.0.2.7/32", route: &router, after: 2 * time.Second},
		{name: "no route", addr: "192.0.2.7/32", after: -1, lacks: "it has the address 192.0.2.7, and no route"},
		{name: "no address", addr: "169.254.1.7/16", after: -1, lacks: "it has no address, and neither DHCP nor Auto to get one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dev, _ := nic.Pipe(nic.PipeConfig{})
				h, err := usernet.New(usernet.Config{NIC: dev, NoIPv6: true})
				require.NoError(t, err)
				defer h.Close()
				time.AfterFunc(time.Second, func() {
					h.AddAddr("", netip.MustParsePrefix(c.addr), stack.AddrOptions{Origin: stack.AddrDHCP, Valid: time.Hour, Probe: c.probe})
				})
				time.AfterFunc(2*time.Second, func() {
					if r := c.route; r != nil {
						h.AddRoute(stack.Route{Dst: r.Dst, NIC: h.Interfaces()[1].Name})
					}
				})
				began := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				err = h.WaitOnline(ctx)
				if c.after < 0 {
					require.ErrorContains(t, err, c.lacks)
					return
				}
				require.NoError(t, err)
				require.GreaterOrEqual(t, time.Since(began), c.after)
			})
		})
	}
}
