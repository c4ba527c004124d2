package usernet

import (
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// An answering device calls answer for each batch that it receives, in the goroutine of the sender. It calls
// nothing while answer runs.
type answering struct {
	nic.Device
	answer atomic.Pointer[func()]
	busy   atomic.Bool
}

func (d *answering) Nonblocking() nic.Device { return d }

func (d *answering) Attach(recv func([]nic.Frame)) {
	d.Device.Attach(func(batch []nic.Frame) {
		recv(batch)
		if f := d.answer.Load(); f != nil && d.busy.CompareAndSwap(false, true) {
			defer d.busy.Store(false)
			(*f)()
		}
	})
}

// answeringPair makes two hosts with IPv6 on a wire in memory. The second one's device is an answering device.
func answeringPair(t *testing.T) (a, b *Host, dev *answering) {
	t.Helper()
	x, y := nic.Pipe(nic.PipeConfig{})
	dev = &answering{Device: y}
	for i, d := range []nic.Device{x, dev} {
		h, err := New(Config{NICs: []NIC{{Device: d, DADTransmits: -1, Addrs: []netip.Prefix{
			netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 24),
			netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i + 1)}), 64),
		}}}})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		if a == nil {
			a = h
		} else {
			b = h
		}
	}
	return a, b, dev
}

// withoutDeadlock runs f, and fails the test if f does not return.
func withoutDeadlock(t *testing.T, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("a goroutine waits for a lock that it holds itself")
	}
}

// A DHCPv6 server reports its group when it starts. A client that sees the report may send a message at once,
// which the same goroutine receives.
func TestDHCPv6ServerReceivesWhileItJoins(t *testing.T) {
	router, client, dev := answeringPair(t)
	conn, err := client.stack.OpenUDP(stack.Family6, netip.AddrPortFrom(netip.IPv6Unspecified(), dhcp.ClientPort6))
	require.NoError(t, err)
	solicit := (&dhcp.Message6{Type: dhcp.Solicit6}).Append(nil)
	var sent atomic.Int32
	answer := func() {
		to := netip.AddrPortFrom(dhcp.AllServers6(), dhcp.ServerPort6)
		if _, err := conn.WriteTo(solicit, to, stack.SendOptions{NIC: 2}); err == nil {
			sent.Add(1)
		}
	}
	dev.answer.Store(&answer)
	withoutDeadlock(t, func() {
		var cfg DHCP6ServerConfig
		cfg.Server.Pools = []dhcp.Range6{{First: netip.MustParseAddr("2001:db8::1:0"), Last: netip.MustParseAddr("2001:db8::1:ff")}}
		s, err := router.ServeDHCP6("", cfg)
		require.NoError(t, err)
		require.NoError(t, s.Close())
	})
	require.NotZero(t, sent.Load())
}

// Multicast DNS leaves its groups at the end. A node that sees the report of IGMP may send a query over IPv6 at
// once, which the same goroutine receives.
func TestMulticastDNSReceivesWhileItLeaves(t *testing.T) {
	a, b, dev := answeringPair(t)
	require.NoError(t, a.StartMDNS("", MDNSConfig{HostName: "alice"}))
	conn, err := b.stack.OpenUDP(stack.FamilyAny, netip.AddrPortFrom(netip.IPv6Unspecified(), mdns.Port))
	require.NoError(t, err)
	// A question about the IPv6 addresses of alice.local.
	query := []byte{0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 5, 'a', 'l', 'i', 'c', 'e', 5, 'l', 'o', 'c', 'a', 'l', 0, 0, 28, 0, 1}
	var sent atomic.Int32
	answer := func() {
		for _, group := range []string{"ff02::fb", "224.0.0.251"} {
			if _, err := conn.WriteTo(query, netip.AddrPortFrom(netip.MustParseAddr(group), mdns.Port), stack.SendOptions{NIC: 2}); err == nil {
				sent.Add(1)
			}
		}
	}
	dev.answer.Store(&answer)
	withoutDeadlock(t, func() { require.NoError(t, a.StopMDNS("")) })
	require.NotZero(t, sent.Load())
}
