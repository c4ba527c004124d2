//go:build !race && !lockorder

package ppp

import (
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A sink discards what is written. Its Read blocks for ever.
type sink struct{}

func (sink) Read([]byte) (int, error)    { select {} }
func (sink) Write(b []byte) (int, error) { return len(b), nil }
func (sink) Close() error                { return nil }

var _ io.ReadWriteCloser = sink{}

// Packets are sent and received without an allocation, over a line of octets and over PPPoE.
func TestPacketsNeedNoAllocation(t *testing.T) {
	dev, err := New(sink{}, serverConfig())
	require.NoError(t, err)
	got := 0
	count := func(batch []nic.Frame) { got += len(batch) }
	dev.recv.Store(&count)
	dev.view.Store(&view{mtu: 1500, ipv4: true})
	batch := []nic.Frame{{Head: packet4(40), Body: make([]byte, 1400)}, {Head: packet4(1500)}}
	line := dev.line.(*serial)
	octets := framing{}.appendFrame(nil, protoIPv4, packet4(1500), nil)
	require.Zero(t, testing.AllocsPerRun(100, func() { dev.Send(batch) }), "Send")
	require.Zero(t, testing.AllocsPerRun(100, func() { line.take(octets) }), "receive")

	a, b := nic.Pipe(nic.PipeConfig{})
	var frames []nic.Frame
	b.Attach(func(batch []nic.Frame) {
		for i := range batch {
			if frames == nil {
				frames = []nic.Frame{{Head: batch[i].AppendTo(nil)}}
			}
		}
	})
	dev, err = NewClient(a, ClientConfig{})
	require.NoError(t, err)
	dev.recv.Store(&count)
	eth := dev.line.(*pppoeLine)
	a.Attach(eth.receive)
	dev.view.Store(&view{mtu: 1492, ipv4: true})
	eth.session.Store(&peerSession{b.Link().MAC, 7})
	batch[1].Head = packet4(1492)
	require.Zero(t, testing.AllocsPerRun(100, func() { dev.Send(batch) }), "Send over PPPoE")
	// The same frame in the other direction.
	head := frames[0].Head
	peerMAC := b.Link().MAC
	ownMAC := a.Link().MAC
	copy(head[0:], ownMAC[:])
	copy(head[6:], peerMAC[:])
	got = 0
	require.Zero(t, testing.AllocsPerRun(100, func() { eth.receive(frames) }), "receive over PPPoE")
	require.Equal(t, 101, got) // AllocsPerRun calls the function once more, to warm up
}
