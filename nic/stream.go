package nic

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack/wire"
)

// StreamConfig configures OpenStream.
type StreamConfig struct {
	// Network is the kind of socket, "unix" or "tcp". Address is the path of a Unix socket, or the IP
	// address and the port of a TCP socket.
	Network, Address string
	// Listen makes the device listen at Address. The device has one peer at a time; further peers wait
	// until the current one closes its connection. Without Listen the device dials Address.
	Listen bool
	// Redial is the time before each attempt to dial after the connection has ended. If Redial is 0 or
	// negative, the device fails when the connection ends. A device that listens ignores Redial.
	Redial time.Duration

	Name string  // name in messages; empty stands for Address
	MAC  [6]byte // address of this end; zero stands for a random one
	MTU  int     // in bytes, at most 65535; 0 stands for 1500
}

// Stream is a device whose frames travel over a stream socket. The length of each frame, as a 32-bit
// number in network byte order, precedes the frame. QEMU (-netdev stream) and passt use this form.
//
// While a device that listens or redials has no peer, sent frames are dropped and counted, and
// Link().Up is false. A peer that announces a frame longer than 65553 bytes, or that closes the
// connection within a frame, is disconnected.
type Stream struct {
	rxLoop
	peer   *streamPeer
	sendMu condMutex
	out    []byte // under sendMu: the frames of the next Write
}

var _ Device = (*Stream)(nil)

// dialTime is the maximum time of an attempt to dial.
const dialTime = 10 * time.Second

// OpenStream dials a stream socket, or listens at one. It replaces a socket that exists at the
// path to listen at, unless a process listens there.
func OpenStream(cfg StreamConfig) (*Stream, error) {
	s, err := openStream(cfg)
	if err != nil {
		return nil, fmt.Errorf("nic: open stream device: %w", err)
	}
	return s, nil
}

func openStream(cfg StreamConfig) (*Stream, error) {
	addr, err := streamAddr(cfg.Network, cfg.Address)
	if err != nil {
		return nil, err
	}
	link := Link{Name: cfg.Name, MAC: cfg.MAC, MTU: cfg.MTU, Up: !cfg.Listen}.withDefaults(cfg.Address)
	if err := checkMTU(link.MTU); err != nil {
		return nil, err
	}
	if cfg.Listen {
		ln, err := listenStream(addr)
		if err != nil {
			return nil, err
		}
		return newListeningStream(ln, link), nil
	}
	p := newStreamPeer(link)
	ctx, cancel := context.WithCancel(context.Background())
	dial := func() (io.ReadWriteCloser, error) {
		d := net.Dialer{Timeout: dialTime}
		return d.DialContext(ctx, addr.Network(), addr.String())
	}
	if p.conn, err = dial(); err != nil {
		cancel()
		return nil, err
	}
	p.cancel = cancel
	if cfg.Redial > 0 {
		p.next = func() (io.ReadWriteCloser, error) { return redial(ctx, cfg.Redial, dial) }
	}
	return newStream(p, link), nil
}

// newListeningStream returns a device whose peers are the connections of ln.
func newListeningStream(ln net.Listener, link Link) *Stream {
	p := newStreamPeer(link)
	p.listener = ln
	p.next = func() (io.ReadWriteCloser, error) { return acceptStream(ln) }
	return newStream(p, link)
}

// FromStream returns a device over a connected stream. link describes the device; the offloads in it are
// ignored. The defaults are the Name "stream", an MTU of 1500 and, on Ethernet, a random MAC. The largest
// MTU is 65535. The device fails when the stream ends. Close closes the stream.
func FromStream(rw io.ReadWriteCloser, link Link) *Stream {
	link = link.withDefaults("stream")
	link.GSO, link.TxChecksum, link.Up = 0, false, true
	link.MTU = min(link.MTU, maxPacket)
	p := newStreamPeer(link)
	p.conn = rw
	return newStream(p, link)
}

func newStream(p *streamPeer, link Link) *Stream {
	s := &Stream{rxLoop: rxLoop{src: p}, peer: p}
	s.setLink(link)
	p.onPeer = func(up bool) {
		link := *s.current()
		link.Up = up
		s.setLink(link)
	}
	return s
}

// checkMTU returns an error if a link cannot have the MTU.
func checkMTU(mtu int) error {
	if mtu < 1 || mtu > maxPacket {
		return fmt.Errorf("bad MTU %d: it is not in the range 1 to %d", mtu, maxPacket)
	}
	return nil
}

// streamAddr parses the address of a stream socket. It looks up no names.
func streamAddr(network, address string) (net.Addr, error) {
	switch network {
	case "unix":
		if address == "" {
			return nil, errors.New("the path of the socket is empty")
		}
		return &net.UnixAddr{Name: address, Net: network}, nil
	case "tcp":
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, fmt.Errorf("%q is not an IP address with a port", address)
		}
		return net.TCPAddrFromAddrPort(ap), nil
	}
	return nil, fmt.Errorf("unknown network %q: it is unix or tcp", network)
}

// listenStream listens at an address. It replaces a socket that no process uses any more.
func listenStream(addr net.Addr) (net.Listener, error) {
	var lc net.ListenConfig
	ln, err := lc.Listen(context.Background(), addr.Network(), addr.String())
	if err == nil || addr.Network() != "unix" || !removeStale("unix", addr.String()) {
		return ln, err
	}
	return lc.Listen(context.Background(), addr.Network(), addr.String())
}

// acceptStream accepts a connection. It tries again after a temporary error, such as too many open files.
func acceptStream(ln net.Listener) (net.Conn, error) {
	for {
		c, err := ln.Accept()
		if err == nil || errors.Is(err, net.ErrClosed) {
			return c, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// removeStale removes the file of a Unix socket that no process has open, and reports whether it did.
func removeStale(network, path string) bool {
	st, err := os.Lstat(path)
	if err != nil || st.Mode().Type() != os.ModeSocket {
		return false
	}
	d := net.Dialer{Timeout: dialTime}
	c, err := d.Dial(network, path)
	if err == nil {
		c.Close()
		return false
	}
	if now, err := os.Lstat(path); err != nil || !os.SameFile(st, now) {
		return false // another process has replaced the file
	}
	return errors.Is(err, syscall.ECONNREFUSED) && os.Remove(path) == nil
}

// redial calls dial until dial succeeds or ctx ends. It waits for the time gap before each call.
func redial(ctx context.Context, gap time.Duration, dial func() (io.ReadWriteCloser, error)) (io.ReadWriteCloser, error) {
	timer := time.NewTimer(gap)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, net.ErrClosed
		case <-timer.C:
		}
		if c, err := dial(); err == nil {
			return c, nil
		}
		timer.Reset(gap)
	}
}

// NotifyLink registers f. The device calls f when a peer has connected or disconnected. NotifyLink
// reports whether the device may have several peers, one after the other. It must be called before
// Attach.
func (s *Stream) NotifyLink(f func()) bool {
	s.onLink = f
	return s.peer.next != nil
}

// Addr returns the address at which the device listens, or nil if it does not listen.
func (s *Stream) Addr() net.Addr {
	if s.peer.listener == nil {
		return nil
	}
	return s.peer.listener.Addr()
}

// streamWrite is the maximum number of bytes that Send passes to one Write, unless a single frame is
// longer. Send copies several frames into one buffer to write them with one system call.
const streamWrite = 64 << 10

// Send writes the frames, several with each Write, and waits while the peer does not read. It drops and
// counts frames that the link cannot carry, and all frames while there is no peer. After Close it
// returns net.ErrClosed; after a failure it returns the error of Err.
func (s *Stream) Send(batch []Frame) (n int, err error) {
	s.sendMu.lock()
	defer s.sendMu.unlock()
	if err := s.sendError(); err != nil {
		return 0, err
	}
	link := s.current()
	s.out = s.out[:0]
	first := 0 // index of the first frame that has not been written
	for i := range batch {
		f := &batch[i]
		if len(s.out) > 0 && len(s.out)+streamPrefix+f.Len() > streamWrite {
			if err := s.flush(link, batch[first:i]); err != nil {
				return first, err
			}
			first = i
		}
		if link.carries(f) {
			n := unpadded(link.Medium, f)
			s.out = binary.BigEndian.AppendUint32(s.out, uint32(n))
			s.out = f.AppendTo(s.out)
			s.out = s.out[:len(s.out)-(f.Len()-n)]
		}
	}
	if err := s.flush(link, batch[first:]); err != nil {
		return first, err
	}
	return len(batch), nil
}

// minEthernet is the length in bytes to which short frames are padded on an Ethernet, without the check sequence.
const minEthernet = 60

// unpadded returns the length of a frame without the padding behind an IPv4 packet. A stream needs no padding, and
// the kernel of a virtual machine sends none. The passt of March 2023, which is part of Debian 12, ignores IPv4
// packets in frames with padding. It then ignores acknowledgments without data, and stops when it has filled the first
// window.
//
// RFC 894: "This padding is not part of the IP packet and is not included in the total length field of the IP
// header."
func unpadded(m Medium, f *Frame) int {
	n, b := f.Len(), f.Head
	if n > minEthernet || m != Ethernet || len(b) < wire.EthernetLen+wire.IPv4Len || b[12] != 8 || b[13] != 0 {
		return n
	}
	total := int(binary.BigEndian.Uint16(b[wire.EthernetLen+2:]))
	if total < wire.IPv4Len {
		return n // malformed
	}
	return min(n, wire.EthernetLen+total)
}

// flush writes s.out, which has the frames of part that the link carries.
func (s *Stream) flush(link *Link, part []Frame) error {
	conn := s.peer.current()
	var err error
	if conn != nil && len(s.out) > 0 {
		_, err = conn.Write(s.out)
	}
	s.out = s.out[:0]
	sent, bytes := 0, 0
	if conn != nil && err == nil {
		for i := range part {
			if link.carries(&part[i]) {
				sent++
				bytes += part[i].Len()
			}
		}
	}
	s.countSent(sent, bytes)
	if sent < len(part) {
		s.sendDropped.Add(uint64(len(part) - sent))
	}
	if err == nil {
		return nil
	}
	if s.peer.next == nil {
		s.fail(err)
		return s.sendError()
	}
	conn.Close() // the reader gets an error, and waits for the next peer
	return nil
}

// streamPrefix is the length in bytes of the number before each frame.
const streamPrefix = 4

// streamRead is the size in bytes of the buffer of received frames. It holds the longest frame.
const streamRead = 128 << 10

// maxStreamBatch is the maximum number of frames that a reader passes on at once.
const maxStreamBatch = 64

// A streamPeer is the source of a Stream. It holds the connection to the peer, if there is one.
type streamPeer struct {
	min, max int // length of a frame in bytes

	// next waits for the next peer and returns the connection to it. The field is nil if the first peer is
	// the only one.
	next     func() (io.ReadWriteCloser, error)
	onPeer   func(up bool) // called by the reader when the peer has connected or disconnected
	listener net.Listener  // may be nil
	cancel   func()        // ends an attempt to dial; may be nil

	mu     sync.Mutex
	conn   io.ReadWriteCloser // nil while there is no peer
	closed bool

	// Only the reader uses these.
	buf        []byte // has streamRead bytes; allocated by the first read
	start, end int    // buf[start:end] has been received and not passed on
	batch      []Frame
}

func newStreamPeer(link Link) *streamPeer {
	head := link.Medium.headerLen()
	return &streamPeer{min: head, max: link.MTU + head + vlanTagLen}
}

// current returns the connection to the peer, or nil.
func (p *streamPeer) current() io.ReadWriteCloser {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// Close closes the connection and ends the wait for a peer.
func (p *streamPeer) Close() error {
	p.mu.Lock()
	conn := p.conn
	p.closed = true
	p.mu.Unlock()
	var err error
	if p.cancel != nil {
		p.cancel()
	}
	if p.listener != nil {
		err = p.listener.Close()
	}
	if conn != nil {
		err = conn.Close()
	}
	return err
}

// connect waits for the next peer.
func (p *streamPeer) connect() error {
	conn, err := p.next()
	if err != nil {
		return err
	}
	p.mu.Lock()
	closed := p.closed
	if !closed {
		p.conn = conn
	}
	p.mu.Unlock()
	if closed {
		conn.Close()
		return net.ErrClosed
	}
	p.start, p.end = 0, 0
	p.onPeer(true)
	return nil
}

// lost handles the end of the connection because of err. If there can be another peer, lost closes the connection and
// returns nil. Otherwise lost returns err, and the caller closes the connection.
func (p *streamPeer) lost(err error) error {
	if p.next == nil {
		return err
	}
	p.mu.Lock()
	conn := p.conn
	p.conn = nil
	p.mu.Unlock()
	p.onPeer(false)
	conn.Close() // last, so that a peer that dials again finds the link down
	return nil
}

// read returns complete frames that have been received already or, if there are none, the frames that one Read of the
// connection completes. If there is no peer, read waits for one and returns no frames.
func (p *streamPeer) read() (frames []Frame, dropped int, err error) {
	conn := p.current()
	if conn == nil {
		return nil, 0, p.connect()
	}
	if p.buf == nil {
		p.buf = make([]byte, streamRead)
		p.batch = make([]Frame, 0, maxStreamBatch)
	}
	if frames, dropped, err = p.parse(); len(frames) > 0 || dropped > 0 || err != nil {
		if err != nil {
			err = p.lost(err)
		}
		return frames, dropped, err
	}
	if p.start > 0 {
		p.end = copy(p.buf, p.buf[p.start:p.end])
		p.start = 0
	}
	n, err := conn.Read(p.buf[p.end:])
	p.end += n
	switch {
	case n > 0:
		frames, dropped, err = p.parse() // the next Read reports the same error again
	case err == nil:
		err = io.ErrNoProgress
	case errors.Is(err, io.EOF) && p.end > 0:
		err = fmt.Errorf("the peer closed the connection within a frame: %w", io.ErrUnexpectedEOF)
	}
	if err != nil {
		err = p.lost(err)
	}
	return frames, dropped, err
}

// parse takes at most maxStreamBatch complete frames from buf. It counts frames of a bad length as dropped.
func (p *streamPeer) parse() (frames []Frame, dropped int, err error) {
	frames = p.batch[:0]
	for p.end-p.start >= streamPrefix && len(frames) < maxStreamBatch {
		n := int(binary.BigEndian.Uint32(p.buf[p.start:]))
		if n > maxFrame || n < 0 {
			return frames, dropped, fmt.Errorf("the peer announces a frame of %d bytes: the maximum is %d", uint32(n), maxFrame)
		}
		at := p.start + streamPrefix
		if p.end-at < n {
			break
		}
		p.start = at + n
		if n < p.min || n > p.max || n == 0 {
			dropped++
			continue
		}
		frames = append(frames, Frame{Head: p.buf[at : at+n : at+n]})
	}
	return frames, dropped, nil
}
