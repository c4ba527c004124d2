package guide

import (
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// congested makes a host with a congestion control.
func congested(t *testing.T, dev nic.Device, seed uint64, control tcp.Congestion, addr string) *usernet.Host {
	params := tcp.DefaultParams()
	params.Congestion = control
	cfg := lab.Config(dev, seed, addr)
	cfg.TCP.Params = &params
	h, err := usernet.New(cfg)
	require.NoError(t, err)
	closeLater(t, h)
	return h
}

// rates sends for eleven seconds from a host per control to a receiver behind a link of 20 Mbit/s with a round trip of 40 ms
// and a queue of the given bytes. It returns the rates in Mbit/s after the first second.
func rates(t *testing.T, queue int, controls ...tcp.Congestion) (mbits []float64) {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	left, right := lab.Wire()
	link := nic.Impairment{Latency: 20 * time.Millisecond, Rate: 20_000_000, Queue: queue}
	receiver := congested(t, lab.Slow(right, link, 1), 100, tcp.CUBIC, "192.0.2.100/24")
	_, err := sw.Attach(left)
	require.NoError(t, err)
	ln, err := receiver.Listen("tcp", "192.0.2.100:80")
	require.NoError(t, err)
	closeLater(t, ln)
	var conns []*usernet.TCPConn
	for i, control := range controls {
		addr := []string{"192.0.2.1/24", "192.0.2.2/24"}[i]
		sender := congested(t, sw.Port(), uint64(i+1), control, addr)
		c, err := sender.Dial("tcp", "192.0.2.100:80")
		require.NoError(t, err)
		s, err := ln.Accept()
		require.NoError(t, err)
		go io.Copy(io.Discard, s)
		go c.Write(make([]byte, 100<<20))
		closeLater(t, c, s)
		conns = append(conns, c.(*usernet.TCPConn))
	}
	time.Sleep(time.Second)
	var before []uint64
	for _, c := range conns {
		before = append(before, c.Info().BytesAcked)
	}
	const measured = 10 * time.Second
	time.Sleep(measured)
	for i, c := range conns {
		mbits = append(mbits, float64(c.Info().BytesAcked-before[i])*8/measured.Seconds()/1e6)
	}
	return mbits
}

// The window is halved when the queue overflows. With a queue of a quarter of the bandwidth-delay product, 1.25 products
// are on the way then, and half of them does not fill the link. CUBIC goes down to 0.7 only, and grows back faster: it
// suffers less. BBR keeps the queue short in any case.
func TestSolution10_1ShortQueue(t *testing.T) {
	solution(t, func(t *testing.T) {
		const product = 20_000_000 / 8 * 40 / 1000
		newReno := rates(t, product/4, tcp.NewReno)[0]
		cubic := rates(t, product/4, tcp.CUBIC)[0]
		full := rates(t, product, tcp.NewReno)[0]
		t.Logf("NewReno %.1f, CUBIC %.1f, NewReno with the whole queue %.1f Mbit/s", newReno, cubic, full)
		require.Less(t, newReno, cubic)
		require.Less(t, newReno, full)
	})
}

// Both together fill the link. On a path as short as this one CUBIC behaves much like NewReno, so that it does not take
// more than its share (RFC 9438 4.3).
func TestSolution10_2Share(t *testing.T) {
	solution(t, func(t *testing.T) {
		shares := rates(t, 100_000, tcp.CUBIC, tcp.NewReno)
		t.Logf("CUBIC %.1f, NewReno %.1f Mbit/s", shares[0], shares[1])
		require.Greater(t, shares[0]+shares[1], 18.0)
		require.Greater(t, shares[1], 3.0)
		require.Greater(t, shares[0], 3.0)
	})
}
