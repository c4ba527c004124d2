package stack

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A tapped is a device that passes each received frame to see, a function of the test.
type tapped struct {
	nic.Device
	see func(f *nic.Frame)
}

func (d *tapped) Nonblocking() nic.Device { return d }

func (d *tapped) Attach(recv func([]nic.Frame)) {
	d.Device.Attach(func(batch []nic.Frame) {
		for i := range batch {
			d.see(&batch[i])
		}
		recv(batch)
	})
}

// A datagram that came through memory may have an incomplete checksum. The quote in an ICMP error has the
// complete checksum, as on a wire.
func TestAnICMPErrorQuotesACompleteChecksum(t *testing.T) {
	x, y := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
	var quotes atomic.Int32
	watched := &tapped{Device: x, see: func(f *nic.Frame) {
		_, ip, _ := wire.ParseEthernet(f.AppendTo(nil))
		h, payload, r := wire.ParseIPv4(ip)
		if r != wire.OK || h.Proto != wire.ProtoICMP {
			return
		}
		_, body, r := wire.ParseICMP(payload)
		require.Equal(t, wire.OK, r)
		q, datagram, r := wire.ParseQuoted(body)
		require.Equal(t, wire.OK, r)
		require.True(t, wire.UDPChecksumOK(q.Src, q.Dst, datagram))
		quotes.Add(1)
	}}
	a := newHost(t, watched, "192.0.2.1/24")
	newHost(t, y, "192.0.2.2/24")
	u, err := a.OpenUDP(Family4, addrPort("0.0.0.0:0"))
	require.NoError(t, err)
	_, err = u.WriteTo([]byte("odd"), addrPort("192.0.2.2:9"), SendOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 1, quotes.Load())
}
