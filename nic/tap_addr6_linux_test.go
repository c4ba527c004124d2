package nic

import (
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// The first solicitation is sent as soon as OpenTAP has returned. If the kernel did not answer it, a
// connection would wait a second for the next one. On a busy machine the kernel may need longer than OpenTAP
// waits, so a few may be lost.
func TestTheKernelAnswersForItsIPv6AddressAtOnce(t *testing.T) {
	inNamespace(t)
	ours, kernels := netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("2001:db8::1")
	group := wire.SolicitedNode(kernels)
	late := 0
	for range 50 {
		tap, err := OpenTAP(TAPConfig{Name: "tap7", Addr: netip.PrefixFrom(kernels, 64), MAC: macA})
		require.NoError(t, err)
		sol := wire.NeighborSol{Target: kernels, Source: macA, HasSource: true}
		body := sol.Append(nil)
		frame := make([]byte, wire.EthernetLen+wire.IPv6Len+wire.ICMPLen+len(body))
		eth := wire.Ethernet{Dst: wire.MulticastMAC(group), Src: macA, Type: wire.EtherTypeIPv6}
		eth.Put(frame)
		ip := wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: wire.NDHopLimit, Src: ours, Dst: group}
		ip.Put(frame[wire.EthernetLen:], wire.ICMPLen+len(body))
		icmp := wire.ICMPv6{Type: wire.ICMPv6NeighborSol}
		icmp.Put(ours, group, frame[wire.EthernetLen+wire.IPv6Len:], body)
		n, err := tap.Send([]Frame{{Head: frame}})
		require.NoError(t, err)
		require.Equal(t, 1, n)

		answered := make(chan struct{}, 100)
		tap.Attach(func(batch []Frame) {
			for _, f := range batch {
				b := f.AppendTo(nil)
				if len(b) < wire.EthernetLen+wire.IPv6Len || wire.EtherType(b[12])<<8|wire.EtherType(b[13]) != wire.EtherTypeIPv6 {
					continue
				}
				h, body, r := wire.ParseIPv6(b[wire.EthernetLen:])
				if r == wire.OK && h.Dst == ours && len(body) > 0 && wire.ICMPv6Type(body[0]) == wire.ICMPv6NeighborAdv {
					answered <- struct{}{}
				}
			}
		})
		sent := time.Now()
		eventually(t, "the answer", func() bool {
			if len(answered) == 0 && time.Since(sent) > time.Second { // RFC 4861 10, RETRANS_TIMER
				late++
				sent = time.Now()
				_, err = tap.Send([]Frame{{Head: frame}})
				require.NoError(t, err)
			}
			return len(answered) > 0
		})
		require.NoError(t, tap.Close())
	}
	require.LessOrEqual(t, late, 5, "answers to repeated solicitations")
}
