package guide

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack/wire"
)

// Alice sees her two frames, bob's answer and carol's broadcast. Each has 60 bytes.
func TestSolution02_1CaptureOfASwitchPort(t *testing.T) {
	var file bytes.Buffer
	sw := nic.NewSwitch(nic.SwitchConfig{})
	alice := nic.Capture(sw.Port(), &file, nic.CaptureConfig{})
	bob, carol := sw.Port(), sw.Port()
	macs := map[nic.Device]wire.MAC{alice: {2, 0, 0, 0, 0, 0xa}, bob: {2, 0, 0, 0, 0, 0xb}, carol: {2, 0, 0, 0, 0, 0xc}}
	for dev := range macs {
		dev.Attach(func([]nic.Frame) {})
	}
	send := func(from nic.Device, to wire.MAC) {
		b := make([]byte, 60)
		h := wire.Ethernet{Dst: to, Src: macs[from], Type: 0x88b5} // IEEE 802's local experimental EtherType
		h.Put(b)
		_, err := from.Send([]nic.Frame{{Head: b}})
		require.NoError(t, err)
	}
	send(alice, macs[bob])
	send(bob, macs[alice])
	send(alice, macs[bob])
	send(carol, wire.Broadcast())
	send(bob, macs[carol]) // the switch knows carol: alice does not see it

	r, err := pcap.NewReader(&file)
	require.NoError(t, err)
	var sources []byte
	for p, err := r.Next(); err != io.EOF; p, err = r.Next() {
		require.NoError(t, err)
		require.Len(t, p.Data, 60)
		h, _, _ := wire.ParseEthernet(p.Data)
		sources = append(sources, h.Src[5])
	}
	require.Equal(t, []byte{0xa, 0xb, 0xa, 0xc}, sources)
}

// The callbacks form. The driver gets each frame that the stack sends, in send, and passes each received frame to the
// stack, with Receive. Here the two drivers are joined by a function call.
func TestSolution02_2Callbacks(t *testing.T) {
	solution(t, func(t *testing.T) {
		link := nic.Link{Medium: nic.Ethernet, MTU: 1500, Up: true}
		var left, right *nic.FuncDevice
		left = nic.FromFuncs(link, func(frame []byte) error { return right.Receive(frame) })
		right = nic.FromFuncs(link, func(frame []byte) error { return left.Receive(frame) })
		a, b := lab.Host(left, 1, "192.0.2.1/24"), lab.Host(right, 2, "192.0.2.2/24")
		closeLater(t, a, b)
		requirePage(t, a, b)
	})
}

// requirePage loads a page from b by HTTP.
func requirePage(t *testing.T, a, b *usernet.Host) {
	t.Helper()
	ln, err := b.Listen("tcp", "192.0.2.2:80")
	require.NoError(t, err)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "a page of ", r.Host)
	})}
	go web.Serve(ln)
	defer web.Close()
	transport := &http.Transport{DialContext: a.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://192.0.2.2/")
	require.NoError(t, err)
	page, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, "a page of 192.0.2.2", string(page))
}

// A cable is one end of a wire: a device of our own.
type cable struct {
	mac    [6]byte
	other  *cable
	sent   atomic.Int64
	mu     sync.Mutex
	recv   func(batch []nic.Frame)
	closed bool
}

// newCable returns the two ends of a wire.
func newCable() (a, b *cable) {
	a, b = &cable{mac: [6]byte{2, 0, 0, 0, 0, 1}}, &cable{mac: [6]byte{2, 0, 0, 0, 0, 2}}
	a.other, b.other = b, a
	return a, b
}

// Link describes the wire.
func (c *cable) Link() nic.Link {
	c.mu.Lock()
	defer c.mu.Unlock()
	return nic.Link{Name: "cable", MAC: c.mac, MTU: 1500, Medium: nic.Ethernet, Up: !c.closed}
}

// Attach sets who receives the frames.
func (c *cable) Attach(recv func(batch []nic.Frame)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.recv = recv
}

// Send passes the frames to the other end, in the goroutine of the sender. No lock is held meanwhile: the receiver may
// answer at once.
func (c *cable) Send(batch []nic.Frame) (int, error) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed {
		return 0, net.ErrClosed
	}
	c.other.mu.Lock()
	recv := c.other.recv
	if c.other.closed {
		recv = nil
	}
	c.other.mu.Unlock()
	c.sent.Add(int64(len(batch)))
	if recv != nil {
		recv(batch)
	}
	return len(batch), nil
}

// Close ends this end of the wire.
func (c *cable) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	return nil
}

func TestSolution02_3ADeviceOfOurOwn(t *testing.T) {
	solution(t, func(t *testing.T) {
		left, right := newCable()
		a, b := lab.Host(left, 1, "192.0.2.1/24"), lab.Host(right, 2, "192.0.2.2/24")
		closeLater(t, a, b)
		before := left.sent.Load()
		stats, err := a.Ping(t.Context(), "192.0.2.2", usernet.PingConfig{Count: 3})
		require.NoError(t, err)
		require.Equal(t, 3, stats.Received)
		require.GreaterOrEqual(t, left.sent.Load()-before, int64(4), "an ARP request and three echo requests")
		require.Positive(t, right.sent.Load())
		requirePage(t, a, b)
	})
}
