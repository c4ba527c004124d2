package usernet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// seeded returns a Config.Rand that yields the same bytes for a seed.
func seeded(seed uint64) func(p []byte) {
	var mu sync.Mutex
	var key [32]byte
	key[0] = byte(seed)
	src := rand.NewChaCha8(key)
	return func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		src.Read(p)
	}
}

// captured returns the frames that two hosts exchange on a link, as pcapng, with all seeds fixed.
func captured(t *testing.T, imp nic.Impairment, link func() (a, b nic.Device), use func(t *testing.T, a, b *Host)) (pcap []byte) {
	synctest.Test(t, func(t *testing.T) {
		var w bytes.Buffer
		da, db := link()
		da = nic.Impair(da, nic.ImpairConfig{In: imp, Out: imp, Seed: 7})
		a := newHost(t, nic.Capture(da, &w, nic.CaptureConfig{}), addrA, func(c *Config) { c.Rand = seeded(1) })
		b := newHost(t, db, addrB, func(c *Config) { c.Rand = seeded(2) })
		use(t, a, b)
		time.Sleep(5 * time.Minute)
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		synctest.Wait()
		pcap = w.Bytes()
	})
	return pcap
}

// frames formats the frames of a capture, each with its time.
func frames(pcap []byte) (lines []string) {
	le := binary.LittleEndian
	for len(pcap) > 0 {
		b := pcap[:le.Uint32(pcap[4:])]
		pcap = pcap[len(b):]
		if le.Uint32(b) == 6 { // an Enhanced Packet Block (draft-ietf-opsawg-pcapng 4.3)
			at := uint64(le.Uint32(b[12:]))<<32 | uint64(le.Uint32(b[16:]))
			lines = append(lines, fmt.Sprintf("%v %s", time.Unix(0, int64(at)).UTC(), wire.Describe(b[28:][:le.Uint32(b[20:])])))
		}
	}
	return lines
}

// pingPong exchanges single bytes.
func pingPong(t *testing.T, a, b *Host) {
	ln, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	defer ln.Close()
	go serve(ln, echo)
	c, err := a.Dial("tcp", addrB+":80")
	require.NoError(t, err)
	defer c.Close()
	for range 50 {
		_, err := c.Write([]byte{1})
		require.NoError(t, err)
		_, err = io.ReadFull(c, make([]byte, 1))
		require.NoError(t, err)
	}
}

// discarded listens on a host, and discards what a connection brings. It returns a channel that gets the number of bytes.
func discarded(t *testing.T, h *Host, addr string) <-chan int64 {
	ln, err := h.Listen("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	got := make(chan int64)
	go serve(ln, func(c net.Conn) {
		defer c.Close()
		n, _ := io.Copy(io.Discard, c)
		got <- n
	})
	return got
}

// bulk sends 1 MB in writes of several sizes.
func bulk(t *testing.T, a, b *Host) {
	got := discarded(t, b, ":81")
	c, err := a.Dial("tcp", addrB+":81")
	require.NoError(t, err)
	sent := 0
	for i := 0; sent < 1<<20; i++ {
		n, err := c.Write(make([]byte, []int{1, 1000, 4096, 32 << 10, 100_000}[i%5]))
		require.NoError(t, err)
		sent += n
	}
	require.NoError(t, c.Close())
	require.EqualValues(t, sent, <-got)
}

// proxied sends 1 MB through a proxy on b, which sends it back to a: each host sends data of one connection and
// acknowledgments of another at the same time.
func proxied(t *testing.T, a, b *Host) {
	got := discarded(t, a, ":83")
	ln, err := b.Listen("tcp", ":82")
	require.NoError(t, err)
	defer ln.Close()
	go serve(ln, func(in net.Conn) {
		defer in.Close()
		out, err := b.Dial("tcp", addrA+":83")
		if err == nil {
			io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 64<<10))
			out.Close()
		}
	})
	c, err := a.Dial("tcp", addrB+":82")
	require.NoError(t, err)
	for range 16 {
		_, err := c.Write(make([]byte, 64<<10))
		require.NoError(t, err)
	}
	require.NoError(t, c.Close())
	require.EqualValues(t, 1<<20, <-got)
}

func TestOneSeedGivesOneCapture(t *testing.T) {
	onPipe := func() (a, b nic.Device) { return nic.Pipe(nic.PipeConfig{Seed: 3}) }
	onSwitch := func() (a, b nic.Device) {
		sw := nic.NewSwitch(nic.SwitchConfig{Seed: 3})
		return sw.Port(), sw.Port()
	}
	clean := nic.Impairment{Latency: 10 * time.Millisecond}
	lossy := nic.Impairment{Latency: 10 * time.Millisecond, Loss: 0.01}
	for _, c := range []struct {
		name string
		imp  nic.Impairment
		link func() (a, b nic.Device)
		use  func(t *testing.T, a, b *Host)
	}{
		{"ping-pong without latency", nic.Impairment{}, onPipe, pingPong},
		{"ping-pong", clean, onPipe, pingPong},
		{"ping-pong over a switch", clean, onSwitch, pingPong},
		{"proxy", clean, onPipe, proxied},
		{"bulk with loss", lossy, onPipe, bulk},
		{"bulk with loss over a switch", lossy, onSwitch, bulk},
	} {
		t.Run(c.name, func(t *testing.T) {
			first := captured(t, c.imp, c.link, c.use)
			for i := range 19 {
				again := captured(t, c.imp, c.link, c.use)
				require.Equal(t, frames(first), frames(again), "run %d", i+2)
				require.True(t, bytes.Equal(first, again))
			}
		})
	}
}
