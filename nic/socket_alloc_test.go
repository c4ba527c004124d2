//go:build !race && !lockorder

package nic

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// loopStream is a stream that returns the same data in each Read and discards what is written.
type loopStream struct{ b []byte }

func (l *loopStream) Read(b []byte) (int, error)  { return copy(b, l.b), nil }
func (l *loopStream) Write(b []byte) (int, error) { return len(b), nil }
func (l *loopStream) Close() error                { return nil }

func TestAStreamDoesNotAllocatePerFrame(t *testing.T) {
	l := &loopStream{prefixed(ether(macA, macB, 1, 1514), ether(macA, macB, 2, 60))}
	s := FromStream(l, Link{})
	batch := []Frame{{Head: ether(macB, macA, 1, 54), Body: pattern(1460)}, {Head: ether(macB, macA, 1, 60)}}
	require.Zero(t, testing.AllocsPerRun(100, func() { s.Send(batch) }))
	require.Zero(t, testing.AllocsPerRun(100, func() { s.peer.read() }))
}

func TestDatagramsDoNotAllocatePerFrame(t *testing.T) {
	cfg, other := unixPair(t)
	a, err := OpenDatagram(cfg)
	require.NoError(t, err)
	defer a.Close()
	b, err := OpenDatagram(other)
	require.NoError(t, err)
	defer b.Close()
	batch := []Frame{{Head: ether(macB, macA, 1, 54), Body: pattern(1460)}, {Head: ether(macB, macA, 1, 60)}}
	require.Zero(t, testing.AllocsPerRun(100, func() {
		a.Send(batch)
		b.sock.read()
	}))
}
