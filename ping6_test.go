package usernet

import (
	"context"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

func TestPingOfZonesAndGroups(t *testing.T) {
	near, far := nic.Pipe(nic.PipeConfig{})
	a, b := sixPair(t, near, far)
	name := a.Interfaces()[1].Name
	for _, to := range []string{addr6B, "::1", addr6A, addrB} {
		for _, size := range []int{0, 1, 56, 1452, 1453, 8000, 65507} {
			st, err := a.Ping(context.Background(), to, PingConfig{Size: size})
			require.NoError(t, err)
			require.Equal(t, 1, st.Received, "%s, size %d", to, size)
			require.Equal(t, netip.MustParseAddr(to), st.Addr)
		}
	}
	st, err := a.Ping(context.Background(), addr6B, PingConfig{Size: 65527})
	require.NoError(t, err)
	require.Equal(t, 1, st.Received)
	_, err = a.Ping(context.Background(), addr6B, PingConfig{Size: 65528})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	_, err = a.Ping(context.Background(), addrB, PingConfig{Size: 65508})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	// Every node on the link answers from its link-local address.
	var from []netip.Addr
	st, err = a.Ping(context.Background(), "ff02::1%"+name, PingConfig{Timeout: 100 * time.Millisecond, OnReply: func(r PingReply) {
		if r.Err == nil {
			from = append(from, r.From)
		}
	}})
	require.NoError(t, err)
	require.Equal(t, 1, st.Received)
	require.NotEmpty(t, from)
	for _, r := range from {
		require.True(t, r.IsLinkLocalUnicast())
		require.Equal(t, name, r.Zone())
	}
	for _, p := range b.Addrs() {
		if p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			st, err := a.Ping(context.Background(), p.Addr().WithZone(name).String(), PingConfig{})
			require.NoError(t, err)
			require.Equal(t, 1, st.Received)
		}
	}
	_, err = a.Ping(context.Background(), "2001:db8:9::1", PingConfig{})
	require.EqualError(t, err, "write ip6 ::->2001:db8:9::1: sendto: network is unreachable")
}

// The router is a function that answers every request with a Time Exceeded message.
func TestPingSeesTheEndOfAHopLimit(t *testing.T) {
	near, far := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	a := newHost(t, near, addrA, func(cfg *Config) {
		cfg.Addrs = append(cfg.Addrs, netip.MustParsePrefix(addr6A+"/64"))
		cfg.Routes = []stack.Route{{Dst: netip.MustParsePrefix("::/0"), NIC: "pipe-a"}}
	})
	router := netip.MustParseAddr(addr6B)
	far.Attach(func(batch []nic.Frame) {
		for i := range batch {
			in := batch[i].AppendTo(nil)
			h, _, r := wire.ParseIPv6(in)
			if r != wire.OK || h.Next != wire.ProtoICMPv6 {
				continue
			}
			out := make([]byte, wire.IPv6Len+wire.ICMPLen+len(in))
			(&wire.ICMPv6{Type: wire.ICMPv6TimeExceeded}).Put(router, h.Src, out[wire.IPv6Len:], in)
			(&wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: 64, Src: router, Dst: h.Src}).Put(out, len(out)-wire.IPv6Len)
			far.Send([]nic.Frame{{Head: out}})
		}
	})
	var got []PingReply
	st, err := a.Ping(context.Background(), "2001:db8:9::9", PingConfig{Count: 2, Interval: -1, TTL: 1, OnReply: func(r PingReply) { got = append(got, r) }})
	require.NoError(t, err)
	require.Equal(t, 2, st.Errors)
	require.Len(t, got, 2)
	require.Equal(t, router, got[1].From)
	require.Equal(t, syscall.EHOSTUNREACH, got[1].Err)
}
