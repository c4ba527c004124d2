//go:build linux

package taptest

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A misaddressed device sends the first two frames with SYN segments to the Ethernet broadcast address.
type misaddressed struct {
	nic.Device
	syns atomic.Int32
}

func (d *misaddressed) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		b := batch[i].Head
		if !isSYN(b) || d.syns.Add(1) > 2 {
			continue
		}
		b = append([]byte(nil), b...)
		copy(b, []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		batch[i].Head = b
	}
	return d.Device.Send(batch)
}

// isSYN reports whether a frame has a SYN segment.
func isSYN(b []byte) bool {
	h, packet, r := wire.ParseEthernet(b)
	if r != wire.OK {
		return false
	}
	const flagsOffset, syn = 13, 2
	switch {
	case h.Type == wire.EtherTypeIPv4 && wire.Proto(packet[9]) == wire.ProtoTCP:
		return packet[wire.IPv4Len+flagsOffset]&syn != 0
	case h.Type == wire.EtherTypeIPv6 && wire.Proto(packet[wire.IPv6NextOffset]) == wire.ProtoTCP:
		return packet[wire.IPv6Len+flagsOffset]&syn != 0
	}
	return false
}

// TestTCPIgnoresLinkLayerBroadcasts dials, and sends the first two SYNs to the Ethernet broadcast address. The kernel
// and usernet both drop these SYNs. The connection begins with the third SYN, which is sent to the server's MAC.
//
// RFC 1122 3.3.6: "A host SHOULD silently discard a datagram that is received via a link-layer broadcast but does
// not specify an IP multicast or broadcast destination address."
func TestTCPIgnoresLinkLayerBroadcasts(t *testing.T) {
	t.Parallel()
	need(t)
	dial := func(dev nic.Device) {
		d := &misaddressed{Device: dev}
		h := newHost(t, d)
		for _, e := range families {
			d.syns.Store(0)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			c, err := h.DialContext(ctx, e.network("tcp"), e.at("8000"))
			cancel()
			require.NoError(t, err, e.name)
			c.Close()
			require.Equal(t, int32(3), d.syns.Load(), "%s: SYNs until one was accepted", e.name)
		}
	}
	t.Run("kernel", func(t *testing.T) {
		ns, tap := newTAP(t, true)
		ns.startHelper(t, "ready", "http", ":8000")
		dial(tap)
	})
	t.Run("usernet", func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{})
		server, err := usernet.New(usernet.Config{NIC: far, Addrs: []netip.Prefix{
			netip.MustParsePrefix(kernelAddr + "/24"), netip.MustParsePrefix(kernelAddr6 + "/64"),
		}})
		require.NoError(t, err)
		t.Cleanup(func() { server.Close() })
		ln, err := server.Listen("tcp", ":8000")
		require.NoError(t, err)
		defer ln.Close()
		dial(near)
	})
}
