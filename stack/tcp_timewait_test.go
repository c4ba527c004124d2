package stack

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

func TestASegmentAfterTimeWaitReachesTheNewConnection(t *testing.T) {
	// A goroutine has received a segment and has looked up the connection in TIME-WAIT. Before it has
	// the lock, the TIME-WAIT ends, and a new connection takes the ports.
	var sent recorder
	a, b := wiredPair(t, func(dev nic.Device) nic.Device {
		sent.Device = dev
		return &sent
	})
	c, d := connect(t, a, b)
	key, path := c.key, c.path
	require.NoError(t, c.Close())
	require.NoError(t, d.Close())
	_, tw := a.tcp.table.lookup(&key)
	require.NotNil(t, tw)

	sent.discard.Store(true) // the peer does not know the new connection and would reset it
	const iss = 5000
	answer := tcp.Segment{TCP: wire.TCP{Seq: 9000, Ack: iss + 1, Flags: wire.FlagSYN | wire.FlagACK, Window: 1000}}
	answer.DstPort, answer.SrcPort = key.ports()
	payload := make([]byte, answer.Len())
	answer.Put(payload)
	p := packet{ifc: path.ifc, now: a.now(), src: path.dst, dst: path.src, payload: payload, checksumOK: true}

	w := &a.tcp.waits
	w.mu.Lock()
	done := make(chan struct{})
	go func() {
		a.inputTCP(&p)
		close(done)
	}()
	time.Sleep(20 * time.Millisecond) // long enough for the goroutine to look up the timeWait
	w.drop(tw)
	var next *TCP
	elsewhere(func() {
		var err error
		next, _, err = a.bindDial(t.Context(), path, answer.DstPort, answer.SrcPort)
		if err != nil {
			panic(err)
		}
		next.mu.Lock()
		defer next.mu.Unlock()
		cfg := next.config(a.now(), &TCPOptions{})
		cfg.ISS = iss
		next.conn.Open(a.now(), cfg)
		var syn tcp.Segment
		next.conn.Next(a.now(), &syn)
	})
	w.mu.Unlock()
	<-done
	a.drain()
	require.Zero(t, sent.resets.Load())
	next.mu.Lock()
	require.Equal(t, tcp.Established, next.conn.State())
	next.mu.Unlock()
}
