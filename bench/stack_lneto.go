package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/soypat/lneto/tcp"
	"github.com/soypat/lneto/x/xnet"
	"golang.org/x/sys/unix"
)

// lneto's limits and the harness's choices for it.
const (
	lnetoMTU       = 1500
	lnetoBuffer    = 65535                 // the maximum: lneto has no window scaling
	lnetoQueue     = 256                   // segments in flight, datagrams queued
	lnetoPool      = 256                   // connections of a listener, including those being closed
	lnetoBatch     = 16                    // frames read before the host may send
	lnetoHold      = 20 * time.Millisecond // see lnetoConn.hold
	lnetoDial      = 3 * time.Second       // time limit of a dial
	lnetoEphemeral = 10000                 // the lowest ephemeral port
)

// An lnetoHost is an lneto stack with the parts that lneto leaves to its user: it moves frames and
// wakes waiting goroutines. lneto's own blocking calls poll, and sleep up to 5 ms. In an lnetoHost, a
// goroutine waits on a channel, and calls lneto only if the call need not wait. A goroutine that writes
// also sends the frames. All calls of lneto are made with mu held.
type lnetoHost struct {
	mu        sync.Mutex
	stack     xnet.StackAsync
	send      func(frame []byte)
	out       []byte
	conns     map[uint32]*lnetoConn // key: lnetoKey
	listeners map[uint16]*lnetoListener
	nextPort  uint16
	closing   []*tcp.Conn // connections that dial may reuse once they are CLOSED
	// holding is the number of connections that have called hold and not yet release. While it is not 0, the
	// host sends nothing.
	holding int
	closed  chan struct{}
}

func newLnetoHost(addr string, mac, peer [6]byte, send func([]byte)) (*lnetoHost, error) {
	h := &lnetoHost{
		send:      send,
		out:       make([]byte, lnetoMTU+14),
		conns:     map[uint32]*lnetoConn{},
		listeners: map[uint16]*lnetoListener{},
		nextPort:  lnetoEphemeral,
		closed:    make(chan struct{}),
	}
	err := h.stack.Reset(xnet.StackConfig{
		StaticAddress:     netip.MustParseAddr(addr),
		RandSeed:          time.Now().UnixNano() | 1,
		Hostname:          "bench",
		MaxActiveTCPPorts: 128,
		MaxActiveUDPPorts: 4,
		HardwareAddress:   mac,
		MTU:               lnetoMTU,
	})
	if err != nil {
		return nil, fmt.Errorf("lneto: %w", err)
	}
	// The peer is configured as the gateway, so that lneto sends everything to the peer's MAC. lneto would
	// not learn that MAC from the peer's ARP request.
	h.stack.SetGateway6(peer)
	return h, nil
}

var (
	lnetoMAC1 = [6]byte{2, 0, 0, 0, 0, 1}
	lnetoMAC2 = [6]byte{2, 0, 0, 0, 0, 2}
)

// lnetoOnTAP makes a TAP device without offloads and a host on it.
func lnetoOnTAP() (*network, error) {
	file, err := openTAP(false)
	if err != nil {
		return nil, fmt.Errorf("lneto's TAP: %w", err)
	}
	ifc, err := net.InterfaceByName(tapName)
	if err != nil {
		file.Close()
		return nil, err
	}
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	h, err := newLnetoHost(farAddr, lnetoMAC2, [6]byte(ifc.HardwareAddr), func(frame []byte) { file.Write(frame) })
	if err != nil {
		file.Close()
		return nil, err
	}
	go h.readTAP(raw)
	return h.network(file), nil
}

// readTAP reads frames until the file is closed. It lets the host send when no frame is waiting or
// after lnetoBatch frames, so that one acknowledgment covers many segments.
func (h *lnetoHost) readTAP(raw syscall.RawConn) {
	buf := make([]byte, lnetoMTU+14)
	got := 0
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.Read(int(fd), buf)
			empty := err == unix.EAGAIN
			switch {
			case err == unix.EINTR:
				continue
			case err != nil && !empty:
				return true
			case err == nil:
				h.mu.Lock()
				h.arrive(buf[:n])
				h.mu.Unlock()
				got++
			}
			if got == lnetoBatch || got > 0 && empty {
				h.answer()
				got = 0
			}
			if empty {
				return false // wait
			}
		}
	})
}

// lnetoPipe makes two hosts on a wire.
func lnetoPipe() (near, far *network, err error) {
	there, back := newLnetoWire(), newLnetoWire()
	h1, err := newLnetoHost(nearAddr, lnetoMAC1, lnetoMAC2, there.put)
	if err != nil {
		return nil, nil, err
	}
	h2, err := newLnetoHost(farAddr, lnetoMAC2, lnetoMAC1, back.put)
	if err != nil {
		return nil, nil, err
	}
	go h1.readWire(back)
	go h2.readWire(there)
	return h1.network(back), h2.network(there), nil
}

// An lnetoWire is one direction of a pipe. The windows of TCP connections bound the number of frames in it. For UDP
// the workloads do: only a fixed number of their datagrams is in flight.
type lnetoWire struct {
	mu     sync.Mutex
	cond   sync.Cond
	frames [][]byte // waiting for take
	spare  [][]byte // buffers for put
	closed bool
}

func newLnetoWire() *lnetoWire {
	w := &lnetoWire{}
	w.cond.L = &w.mu
	return w
}

func (w *lnetoWire) put(frame []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var b []byte
	if n := len(w.spare); n > 0 {
		b, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		b = make([]byte, lnetoMTU+14)
	}
	w.frames = append(w.frames, append(b[:0], frame...))
	w.cond.Signal()
}

// take waits for frames and returns them, or nil after Close. last are the frames that the previous
// call returned. take reuses their buffers.
func (w *lnetoWire) take(last [][]byte) [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spare = append(w.spare, last...)
	for len(w.frames) == 0 && !w.closed {
		w.cond.Wait()
	}
	if w.closed {
		return nil
	}
	frames := w.frames
	w.frames = last[:0] // put appends to the old slice; its buffers are in spare
	return frames
}

func (w *lnetoWire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed = true
	w.cond.Signal()
	return nil
}

func (h *lnetoHost) readWire(w *lnetoWire) {
	var frames [][]byte
	for {
		if frames = w.take(frames); frames == nil {
			return
		}
		h.mu.Lock()
		for _, b := range frames {
			h.arrive(b)
		}
		h.mu.Unlock()
		h.answer()
	}
}

// answer sends the frames that are due after frames have arrived. It first yields to the goroutines
// that the arrived frames woke, so that the data that they write carries the acknowledgment.
func (h *lnetoHost) answer() {
	runtime.Gosched()
	h.mu.Lock()
	h.pump()
	h.mu.Unlock()
}

// pump sends everything that is due. h.mu is held.
func (h *lnetoHost) pump() {
	if h.holding > 0 {
		return
	}
	for {
		n, _ := h.stack.EgressEthernet(h.out)
		if n <= 0 {
			return
		}
		h.send(h.out[:n])
	}
}

// arrive passes a frame to lneto and wakes the connection or listener that the frame is for. h.mu is
// held.
func (h *lnetoHost) arrive(frame []byte) {
	h.stack.IngressEthernet(frame) // an error means that the frame was dropped
	const ethernet, ipv4, minIP, minTCP = 14, 0x0800, 20, 20
	if len(frame) < ethernet+minIP || binary.BigEndian.Uint16(frame[12:]) != ipv4 || frame[ethernet+9] != unix.IPPROTO_TCP {
		return
	}
	header := int(frame[ethernet]&15) * 4 // the length of the IP header
	if header < minIP || len(frame) < ethernet+header+minTCP {
		return
	}
	t := frame[ethernet+header:]
	local, remote := binary.BigEndian.Uint16(t[2:]), binary.BigEndian.Uint16(t)
	if c := h.conns[lnetoKey(local, remote)]; c != nil {
		c.arrived()
	} else if l := h.listeners[local]; l != nil {
		l.poll()
	}
}

func lnetoKey(local, remote uint16) uint32 { return uint32(local)<<16 | uint32(remote) }

// network returns the host's network for a workload. Closing the network also closes link.
func (h *lnetoHost) network(link interface{ Close() error }) *network {
	go h.housekeep()
	return &network{
		dial: func(network, address string) (net.Conn, error) {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(network, "udp") {
				return h.packetConn(0, to)
			}
			return h.dial(to)
		},
		listen: func(network, address string) (net.Listener, error) {
			port, err := lnetoPort(address)
			if err != nil {
				return nil, err
			}
			return h.listen(port)
		},
		listenPacket: func(network, address string) (net.PacketConn, error) {
			port, err := lnetoPort(address)
			if err != nil {
				return nil, err
			}
			return h.packetConn(port, netip.AddrPort{})
		},
		close: func() {
			close(h.closed)
			link.Close()
		},
	}
}

// lnetoPort returns the port of a listener's address, such as ":80".
func lnetoPort(address string) (uint16, error) {
	a, err := net.ResolveTCPAddr("tcp4", address)
	if err != nil {
		return 0, err
	}
	return uint16(a.Port), nil
}

// housekeep lets the listeners' pools time out connections that do not end.
func (h *lnetoHost) housekeep() {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-h.closed:
			return
		case <-t.C:
		}
		h.mu.Lock()
		for _, l := range h.listeners {
			l.pool.CheckTimeouts()
		}
		h.pump()
		h.mu.Unlock()
	}
}

// An lnetoListener accepts the connections of a tcp.Listener.
type lnetoListener struct {
	h     *lnetoHost
	port  uint16
	tcp   tcp.Listener
	pool  *xnet.TCPPool
	ready chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (h *lnetoHost) listen(port uint16) (net.Listener, error) {
	pool, err := xnet.NewTCPPool(xnet.TCPPoolConfig{
		PoolSize:           lnetoPool,
		QueueSize:          lnetoQueue,
		TxBufSize:          lnetoBuffer,
		RxBufSize:          lnetoBuffer,
		EstablishedTimeout: time.Second, // of the handshake
		ClosingTimeout:     time.Second,
	})
	if err != nil {
		return nil, err
	}
	l := &lnetoListener{h: h, port: port, pool: pool, ready: make(chan net.Conn, lnetoPool), done: make(chan struct{})}
	if err := l.tcp.Reset(port, pool); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.stack.RegisterListener(&l.tcp); err != nil {
		return nil, err
	}
	h.listeners[port] = l
	return l, nil
}

// poll passes newly established connections to Accept. If ready is full, it aborts the new connection. h.mu is
// held, and no other function sends to ready.
func (l *lnetoListener) poll() {
	for l.tcp.NumberOfReadyToAccept() > 0 {
		t, _, err := l.tcp.TryAccept()
		if err != nil {
			return
		}
		if len(l.ready) == cap(l.ready) {
			t.Abort()
			continue
		}
		l.ready <- l.h.conn(t)
	}
}

func (l *lnetoListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *lnetoListener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.h.mu.Lock()
		defer l.h.mu.Unlock()
		delete(l.h.listeners, l.port)
		l.tcp.Close()
	})
	return nil
}

func (l *lnetoListener) Addr() net.Addr { return &net.TCPAddr{Port: int(l.port)} }

// dial connects to an address. lneto sends the SYN only once, so a lost SYN makes dial fail after
// lnetoDial.
func (h *lnetoHost) dial(to netip.AddrPort) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t, err := h.spare()
	if err != nil {
		return nil, err
	}
	h.nextPort = max(h.nextPort+1, lnetoEphemeral) // 65535 wraps to lnetoEphemeral
	if err := h.stack.DialTCP(t, h.nextPort, to); err != nil {
		return nil, err
	}
	c := h.conn(t)
	h.pump()
	for deadline := time.Now().Add(lnetoDial); t.State() != tcp.StateEstablished; {
		// A new connection is in state CLOSED until it has sent its SYN.
		refused := t.State() == tcp.StateClosed && !t.InternalHandler().AwaitingSynSend()
		left := time.Until(deadline)
		if refused || left <= 0 {
			t.Abort()
			c.remove()
			if refused {
				return nil, syscall.ECONNREFUSED
			}
			return nil, os.ErrDeadlineExceeded
		}
		h.mu.Unlock()
		c.readable.waitFor(left)
		h.mu.Lock()
	}
	return c, nil
}

// spare returns a tcp.Conn for dial: one of h.closing that is CLOSED, or a new one. h.mu is held.
func (h *lnetoHost) spare() (*tcp.Conn, error) {
	for i, t := range h.closing {
		if t.State().IsClosed() {
			h.closing[i] = h.closing[len(h.closing)-1]
			h.closing = h.closing[:len(h.closing)-1]
			return t, nil
		}
	}
	t := new(tcp.Conn)
	err := t.Configure(tcp.ConnConfig{
		RxBuf:             make([]byte, lnetoBuffer),
		TxBuf:             make([]byte, lnetoBuffer),
		TxPacketQueueSize: lnetoQueue,
	})
	if err != nil {
		return nil, fmt.Errorf("lneto: %w", err)
	}
	return t, nil
}
