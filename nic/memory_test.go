package nic

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAPipeDeliversWithoutACopyInTheSendersGoroutine(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	b.Attach(func([]Frame) {})
	super := packetSpec{tcp: true, payload: pattern(20000)}.super(t, 1448, true)
	batch := []Frame{{Head: ether(macB, macA, 1, 60)}, super}
	var got []Frame
	a.Attach(func(batch []Frame) { got = batch })
	n, err := b.Send(batch)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, batch, got)
	require.Same(t, &batch[0], &got[0], "the very batch of the sender")
	require.Same(t, &super.Body[0], &got[1].Body[0])
	bytes := uint64(60 + super.Len())
	require.Equal(t, Stats{Sent: 2, SentBytes: bytes}, b.Stats())
	require.Equal(t, Stats{Received: 2, ReceivedBytes: bytes}, a.Stats())
}

func TestAPipeKeepsTheOrderAroundWhatItDrops(t *testing.T) {
	a, b := Pipe(PipeConfig{MTU: 100})
	var r recorder
	b.Attach(r.recv)
	a.Attach(func([]Frame) {})
	var batch []Frame
	for i, n := range []int{114, 115, 60, 60, 200, 115, 60} {
		batch = append(batch, Frame{Head: ether(macB, macA, uint32(i), n)})
	}
	n, err := a.Send(batch)
	require.NoError(t, err)
	require.Equal(t, len(batch), n)
	require.Equal(t, []uint32{0, 2, 3, 6}, tags(r.all()))
	require.Equal(t, []int{1, 2, 1}, r.batch)
	require.Equal(t, uint64(3), a.Stats().SendDropped)
}

func TestAVLANTagDoesNotCountAgainstTheMTU(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	var r recorder
	b.Attach(r.recv)
	a.Attach(func([]Frame) {})
	frame := ether(macB, macA, 1, 1518)
	a.Send(one(frame))
	require.Zero(t, r.count())
	frame[12], frame[13] = 0x81, 0x00 // with a VLAN tag, the frame may be 4 bytes longer
	a.Send(one(frame))
	require.Equal(t, 1, r.count())
}

func TestAPipeDropsWhatNobodyIsThereToTake(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	a.Attach(func([]Frame) {})
	send := func() {
		n, err := a.Send(one(ether(macB, macA, 1, 60)))
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	send()
	require.Equal(t, Stats{SendDropped: 1}, a.Stats())
	b.Attach(func([]Frame) {})
	send()
	require.Equal(t, uint64(1), a.Stats().Sent)
	require.NoError(t, b.Close())
	send()
	require.Equal(t, uint64(2), a.Stats().SendDropped)
	require.True(t, a.Link().Up, "an end does not go down with the other")
}

func TestAPipesConfigurationIsWhatItsLinkSays(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	require.NotEqual(t, a.Link().MAC, b.Link().MAC)
	l := a.Link()
	l.MAC = [6]byte{}
	require.Equal(t, Link{Name: "pipe-a", MTU: 1500, GSO: 65535, TxChecksum: true, Up: true}, l)

	a, b = Pipe(PipeConfig{MTU: 9000, GSO: -1, Medium: IP, MACs: [2][6]byte{macA, macB}})
	require.Equal(t, Link{Name: "pipe-a", MAC: macA, MTU: 9000, TxChecksum: true, Medium: IP, Up: true}, a.Link())
	require.Equal(t, Link{Name: "pipe-b", MAC: macB, MTU: 9000, TxChecksum: true, Medium: IP, Up: true}, b.Link())

	a, _ = Pipe(PipeConfig{NoTxChecksum: true})
	require.Zero(t, a.Link().GSO)
	require.False(t, a.Link().TxChecksum)
	a, _ = Pipe(PipeConfig{GSO: 9000})
	require.Equal(t, 9000, a.Link().GSO)
	a, _ = Pipe(PipeConfig{GSO: 1 << 20})
	require.Equal(t, MaxGSO, a.Link().GSO)
}

func TestASuperFrameHasToFitTheLink(t *testing.T) {
	a, b := Pipe(PipeConfig{GSO: 10000})
	a.Attach(func([]Frame) {})
	var r recorder
	b.Attach(r.recv)
	spec := packetSpec{tcp: true, payload: pattern(10000 - 40)}
	a.Send([]Frame{spec.super(t, 1460, true)})
	require.Equal(t, 1, r.count())
	a.Send([]Frame{spec.super(t, 1461, true)})
	require.Equal(t, 1, r.count(), "pieces that are longer than the MTU")
	spec.payload = pattern(10000 - 39)
	a.Send([]Frame{spec.super(t, 1460, true)})
	require.Equal(t, 1, r.count(), "longer than the link's GSO")
}

func TestAnAnswerIsSentFromWithinRecv(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	var r recorder
	a.Attach(r.recv)
	b.Attach(func(batch []Frame) { b.Send(batch) })
	a.Send(one(ether(macB, macA, 7, 60)))
	require.Equal(t, []uint32{7}, tags(r.all()))
}

func TestAPipeDoesNotAllocate(t *testing.T) {
	a, b := Pipe(PipeConfig{})
	a.Attach(func([]Frame) {})
	b.Attach(func([]Frame) {})
	batch := []Frame{{Head: ether(macB, macA, 1, 60)}, {Head: make([]byte, 9999)}}
	require.Zero(t, testing.AllocsPerRun(100, func() { a.Send(batch) }))
}

func TestALoopbackReceivesWhatItSends(t *testing.T) {
	lo := NewLoopback(LoopbackConfig{})
	require.Equal(t, Link{Name: "lo", MTU: 65535, GSO: 65535, TxChecksum: true, Medium: IP, Up: true}, lo.Link())
	packet := one(pattern(65535))
	n, err := lo.Send(packet)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, uint64(1), lo.Stats().RecvDropped, "nobody is there yet")
	var r recorder
	lo.Attach(r.recv)
	lo.Send(packet)
	require.Equal(t, [][]byte{packet[0].Head}, r.all())
	require.Equal(t, Stats{Sent: 2, SentBytes: 131070, Received: 1, ReceivedBytes: 65535, RecvDropped: 1}, lo.Stats())

	lo = NewLoopback(LoopbackConfig{MTU: 1500, GSO: 3000, NoTxChecksum: true})
	require.Equal(t, Link{Name: "lo", MTU: 1500, Medium: IP, Up: true}, lo.Link())
}

func TestNullTakesAndCounts(t *testing.T) {
	d := NewNull(Link{MAC: macA, Up: false})
	require.Equal(t, Link{Name: "null", MAC: macA, MTU: 1500, Up: true}, d.Link())
	d.Attach(func([]Frame) { t.Error("Null received something") })
	n, err := d.Send([]Frame{{Head: ether(macB, macA, 1, 60)}, {Head: make([]byte, 2000)}})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, Stats{Sent: 1, SentBytes: 60, SendDropped: 1}, d.Stats())
	require.NoError(t, d.Close())
	_, err = d.Send(nil)
	require.ErrorIs(t, err, net.ErrClosed)
	require.ErrorIs(t, d.Close(), net.ErrClosed)
	require.False(t, d.Link().Up)
}

func TestAMediumHasAName(t *testing.T) {
	require.Equal(t, "ethernet", Ethernet.String())
	require.Equal(t, "ip", IP.String())
}
