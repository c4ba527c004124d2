package ppp

import (
	"io"
	"sync"
	"time"

	"github.com/usernet/usernet/nic"
)

// readSize is the maximum number of bytes that one Read of a line returns.
const readSize = 16 << 10

// writeSize limits how many packets Send collects for one Write: it adds no packet once there are writeSize bytes.
const writeSize = 16 << 10

// New returns a device that uses PPP with HDLC-like framing on rw, which carries octets in both
// directions: a serial line, a pseudo-terminal, a connection. The stream must pass all octets unchanged.
//
// Attach starts a goroutine that calls Read. Close closes rw. An error from Read or Write ends the device.
// The errors of New wrap EINVAL.
func New(rw io.ReadWriteCloser, cfg Config) (*Device, error) {
	cfg.serial = true
	cfg, err := cfg.check(defaultMRU)
	if err != nil {
		return nil, err
	}
	d := newDevice(cfg)
	s := &serial{dev: d, rw: rw}
	s.cond.L = &s.mu
	// RFC 1661 6.1: "If smaller packets are requested, an implementation MUST still be able to receive the
	// full 1500 octet information field". The other 8 octets are for the fields around the information field.
	s.rx = decoder{accm: allEscaped, max: max(cfg.MTU, defaultMRU) + 8}
	d.line = s
	return d, nil
}

// serial is a line that carries octets.
type serial struct {
	dev *Device
	rw  io.ReadWriteCloser

	// These fields belong to the reading goroutine.
	rx    decoder
	batch []nic.Frame

	mu    sync.Mutex
	cond  sync.Cond
	taken bool   // there is a writing goroutine
	buf   []byte // belongs to the writing goroutine
}

func (s *serial) blocking() bool { return true }

func (s *serial) close() error { return s.rw.Close() }

func (s *serial) start() {
	s.dev.step(s.dev.m.start)
	go s.read()
}

func (s *serial) tick(time.Time) {}

func (s *serial) deadline() time.Time { return time.Time{} }

// read is the goroutine that reads from the line.
func (s *serial) read() {
	buf := make([]byte, readSize)
	empty := 0
	for {
		n, err := s.rw.Read(buf)
		if n > 0 {
			empty = 0
			s.take(buf[:n])
		} else if empty++; err == nil && empty >= 100 {
			err = io.ErrNoProgress
		}
		if err != nil {
			if !s.dev.closed.Load() {
				s.dev.lineFailed(err)
			}
			return
		}
	}
}

// take handles octets of the line.
func (s *serial) take(b []byte) {
	d := s.dev
	bad := s.rx.bad
	s.rx.feed(b, func(proto uint16, info []byte) {
		if d.passes(proto, info) {
			s.batch = append(s.batch, nic.Frame{Head: info})
			return
		}
		// Deliver the packets that came before the control frame first: the frame may change the state.
		s.flush()
		d.receive(proto, info)
		s.rx.accm = d.view.Load().rxACCM
	})
	s.flush()
	if n := s.rx.bad - bad; n > 0 {
		d.recvDropped.Add(n)
	}
}

// flush delivers the packets that were read.
func (s *serial) flush() {
	s.dev.deliver(s.batch)
	clear(s.batch)
	s.batch = s.batch[:0]
}

// lock waits until no other goroutine writes, and makes the caller the writing goroutine. The writing goroutine does
// not hold s.mu during a Write, because a Write may block for long.
func (s *serial) lock() {
	s.mu.Lock()
	for s.taken {
		s.cond.Wait()
	}
	s.taken = true
	s.mu.Unlock()
}

func (s *serial) unlock() {
	s.mu.Lock()
	s.taken = false
	s.mu.Unlock()
	s.cond.Signal()
}

// write writes the octets in s.buf.
func (s *serial) write() error {
	n, err := s.rw.Write(s.buf)
	if err == nil && n < len(s.buf) {
		err = io.ErrShortWrite
	}
	s.buf = s.buf[:0]
	return err
}

func (s *serial) control(frames []controlFrame) {
	s.lock()
	for _, f := range frames {
		s.buf = f.fr.appendFrame(s.buf, f.proto, f.info, nil)
	}
	err := s.write()
	s.unlock()
	if err != nil && !s.dev.closed.Load() {
		s.dev.lineFailed(err)
	}
}

func (s *serial) data(d *Device, batch []nic.Frame, fr framing, mtu int) (n int, err error) {
	s.lock()
	defer s.unlock()
	for n < len(batch) {
		end := n
		for ; end < len(batch) && len(s.buf) < writeSize; end++ {
			f := &batch[end]
			if proto := d.protocol(f, mtu); proto != 0 {
				s.buf = fr.appendFrame(s.buf, proto, f.Head, f.Body)
				d.countSent(f)
			}
		}
		if len(s.buf) > 0 {
			if err := s.write(); err != nil {
				return n, err
			}
		}
		n = end
	}
	return n, nil
}
