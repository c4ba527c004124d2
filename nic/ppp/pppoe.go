package ppp

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/nic"
)

// ClientConfig configures a PPPoE client.
type ClientConfig struct {
	Config
	// Service is the name of the service that is wanted. If it is empty, any service will do. It has at most
	// 255 bytes.
	Service string
	// ACName is the name of the access concentrator that is wanted. If it is empty, the client uses the first access
	// concentrator that offers the service.
	ACName string
}

// NewClient returns a device that uses PPPoE on dev, an Ethernet. The returned device is the only user of dev.
//
// Attach begins to look for an access concentrator. If a session ends, the client looks for an access concentrator
// again. The MTU of the session is at most Config.MTU. It is also at most 1492, unless the access concentrator
// supports RFC 4638. The MTU of dev must be at least Config.MTU plus 8. Close ends the session and closes dev. The
// errors of NewClient wrap EINVAL.
func NewClient(dev nic.Device, cfg ClientConfig) (*Device, error) {
	link, err := checkEthernet(dev)
	if err != nil {
		return nil, err
	}
	if len(cfg.Service) > maxName {
		return nil, fmt.Errorf("ppp: the name of the service is longer than %d bytes: %w", maxName, syscall.EINVAL)
	}
	room := link.MTU - pppoeLen - 2
	c, err := cfg.Config.check(min(pppoeMTU, room))
	if err == nil && c.MTU > room {
		err = fmt.Errorf("ppp: an MTU of %d does not fit into the frames of %s: %w", c.MTU, link.Name, syscall.EINVAL)
	}
	if err != nil {
		return nil, err
	}
	c.session = true
	d := newDevice(c)
	l := &pppoeLine{dev: d, eth: dev, mac: link.MAC, wanted: c.MTU}
	l.client = &pppoeClient{mac: link.MAC, service: cfg.Service, acName: cfg.ACName, rand: c.Rand}
	if c.MTU > pppoeMTU {
		l.client.payload = c.MTU
	}
	d.line = l
	return d, nil
}

// checkEthernet returns the link of a device for PPPoE, or an error if PPPoE cannot use the device.
func checkEthernet(dev nic.Device) (nic.Link, error) {
	if err := nic.CheckFree(dev); err != nil {
		return nic.Link{}, fmt.Errorf("ppp: %w: %w", err, syscall.EINVAL)
	}
	link := dev.Link()
	if link.Medium != nic.Ethernet {
		return link, fmt.Errorf("ppp: PPPoE needs an Ethernet, and %s is none: %w", link.Name, syscall.EINVAL)
	}
	return link, nil
}

// A peerSession identifies the PPPoE session of a line: the MAC address of the peer, and the session identifier.
type peerSession struct {
	mac [6]byte
	id  uint16
}

// pppoeLine is the line of a PPPoE session. The line of a client also runs the discovery and owns the Ethernet
// device. For a line of a server, the Server does both.
type pppoeLine struct {
	dev     *Device
	eth     nic.Device
	mac     [6]byte
	client  *pppoeClient // nil on a server; under Device.mu
	wanted  int          // on a client: the MTU of a session that the access concentrator does not limit further
	session atomic.Pointer[peerSession]
	ended   func()                // on a server: forgets the session
	early   [][]byte              // on a server: frames before Attach; under Device.mu
	begun   bool                  // on a server: Attach has handled early; under Device.mu
	gone    bool                  // on a server: tick has seen the end of the machine; under Device.mu
	peer    atomic.Pointer[error] // on a server: the error if the peer has ended the session, else nil
	scratch sync.Pool             // of *pppoeBatch
}

// A pppoeBatch is the memory for one call of data or receive.
type pppoeBatch struct {
	frames []nic.Frame
	index  []int
	buf    []byte
}

func (l *pppoeLine) blocking() bool { return !nic.IsNonblocking(l.eth) }

func (l *pppoeLine) start() {
	d := l.dev
	if l.client == nil {
		d.step(d.m.start)
		for more := true; more; { // frames that arrive meanwhile go to l.early, behind earlier ones
			d.mu.Lock()
			early := l.early
			l.early = nil
			more = len(early) > 0
			l.begun = !more
			d.mu.Unlock()
			for _, b := range early {
				l.take(b)
			}
		}
		return
	}
	if n, ok := l.eth.(nic.DownNotifier); ok {
		n.NotifyDown(d.lineFailed)
	}
	l.eth.Attach(l.receive)
	d.step(l.client.start)
}

func (l *pppoeLine) close() error {
	if l.client == nil {
		l.ended()
		return nil
	}
	return l.eth.Close()
}

func (l *pppoeLine) deadline() time.Time {
	if l.client == nil {
		return time.Time{}
	}
	return l.client.deadline
}

// tick runs the discovery of a client, and adds the discovery's frames to those of the machine. On a server, tick
// queues a PADT once the machine has ended, unless the peer has ended the session.
func (l *pppoeLine) tick(now time.Time) {
	m, c := l.dev.m, l.client
	l.encapsulate()
	if c == nil {
		if s := l.session.Load(); m.done && !l.gone {
			l.gone = true
			if l.peer.Load() == nil {
				d := discovery{dst: s.mac, src: l.mac, code: codePADT, session: s.id}
				m.out = append(m.out, controlFrame{raw: d.append(nil)})
			}
		}
		return
	}
	c.tick(now)
	switch {
	case m.done:
		c.stop()
	case m.over:
		m.over = false
		m.lcp.fire(now, evDown)
		m.out = nil
		c.terminate()
		c.wait(now, m.holdoff, m.err)
		m.holdoff = min(2*m.holdoff, maxHoldoff)
	}
	l.follow(now)
	for _, b := range c.out {
		m.out = append(m.out, controlFrame{raw: b})
	}
	c.out = nil
}

// follow starts the machine when the client's session begins, and takes the machine down when the session ends. It
// also reports an error of the discovery.
func (l *pppoeLine) follow(now time.Time) {
	m, c := l.dev.m, l.client
	old := l.session.Load()
	switch {
	case c.stage == stageSession && (old == nil || old.id != c.session || old.mac != c.ac):
		l.session.Store(&peerSession{c.ac, c.session})
		m.cfg.MTU = min(l.wanted, c.mtu)
		m.start(now)
		l.encapsulate()
	case c.stage != stageSession && old != nil:
		l.session.Store(nil)
		if m.lcp.state > starting && !m.done {
			m.fail(c.err)
			m.lcp.fire(now, evDown)
			m.out = nil
		}
	case c.stage != stageSession && c.err != nil && !m.done:
		m.err, m.last = c.err, c.err
		m.tell()
	}
}

// encapsulate makes Ethernet frames of the machine's frames. It does nothing while there is no session.
func (l *pppoeLine) encapsulate() {
	s := l.session.Load()
	for i := range l.dev.m.out {
		f := &l.dev.m.out[i]
		if f.raw == nil && s != nil {
			f.raw = appendPPPoE(nil, s.mac, l.mac, etherSession, codeSession, s.id, 2+len(f.info))
			f.raw = append(append(f.raw, byte(f.proto>>8), byte(f.proto)), f.info...)
		}
	}
}

// control sends frames. It skips frames that no session has encapsulated. It does not repeat lost frames: the timers
// of the machine and of the client do.
func (l *pppoeLine) control(frames []controlFrame) {
	batch := make([]nic.Frame, 0, len(frames))
	for _, f := range frames {
		if f.raw != nil {
			batch = append(batch, nic.Frame{Head: f.raw})
		}
	}
	if _, err := l.eth.Send(batch); err != nil && !l.dev.closed.Load() {
		l.dev.lineFailed(err)
	}
}

func (l *pppoeLine) get() *pppoeBatch {
	if s, ok := l.scratch.Get().(*pppoeBatch); ok {
		return s
	}
	return new(pppoeBatch)
}

func (l *pppoeLine) put(s *pppoeBatch) {
	clear(s.frames)
	s.frames, s.index, s.buf = s.frames[:0], s.index[:0], s.buf[:0]
	l.scratch.Put(s)
}

func (l *pppoeLine) data(d *Device, batch []nic.Frame, _ framing, mtu int) (n int, err error) {
	to := l.session.Load()
	if to == nil {
		d.sendDropped.Add(uint64(len(batch)))
		return len(batch), nil
	}
	s := l.get()
	defer l.put(s)
	need := 0
	for i := range batch {
		need += sessionLen + len(batch[i].Head)
	}
	if cap(s.buf) < need {
		s.buf = make([]byte, 0, need) // no append below moves a head
	}
	for i := range batch {
		f := &batch[i]
		proto := d.protocol(f, mtu)
		if proto == 0 {
			continue
		}
		start := len(s.buf)
		s.buf = appendPPPoE(s.buf, to.mac, l.mac, etherSession, codeSession, to.id, 2+f.Len())
		s.buf = append(append(s.buf, byte(proto>>8), byte(proto)), f.Head...)
		s.frames = append(s.frames, nic.Frame{Head: s.buf[start:], Body: f.Body})
		s.index = append(s.index, i)
	}
	sent, err := l.eth.Send(s.frames)
	for _, i := range s.index[:sent] {
		d.countSent(&batch[i])
	}
	if sent < len(s.index) {
		return s.index[sent], err
	}
	return len(batch), err
}

// receive handles frames of the client's Ethernet.
func (l *pppoeLine) receive(batch []nic.Frame) {
	s := l.get()
	defer l.put(s)
	for i := range batch {
		f := &batch[i]
		h, ok := parsePPPoE(f.Head)
		if !ok {
			continue // not PPPoE
		}
		if h.ether == etherDiscovery {
			b := f.Head
			if len(f.Body) > 0 {
				b = f.AppendTo(nil)
			}
			if d, ok := parseDiscovery(b); ok {
				l.dev.step(func(now time.Time) { l.client.receive(now, &d) })
			}
			continue
		}
		to := l.session.Load()
		if to == nil || h.session != to.id || h.src != to.mac || h.dst != l.mac {
			l.dev.recvDropped.Add(1)
			continue
		}
		if packet, ok := l.packet(&h, f); ok {
			s.frames = append(s.frames, packet)
			continue
		}
		l.dev.deliver(s.frames) // the packets that arrived before this frame
		s.frames = s.frames[:0]
		l.take(f.AppendTo(nil))
	}
	l.dev.deliver(s.frames)
}

// packet returns the packet in a frame of the session. It reports false if take must handle the frame: the frame
// has no packet of a negotiated family, or it has a form that packet does not parse.
func (l *pppoeLine) packet(h *pppoeHeader, f *nic.Frame) (nic.Frame, bool) {
	pad := f.Len() - etherLen - pppoeLen - h.length
	if h.code != codeSession || h.length < 2 || pad < 0 || f.NeedsChecksum || f.GSO != nic.GSONone || len(f.Head) <= sessionLen {
		return nic.Frame{}, false
	}
	head, body := f.Head, f.Body
	if pad > 0 && len(body) > 0 {
		return nic.Frame{}, false // the caller joins the parts for take
	}
	head = head[:len(head)-pad]
	proto, _, ok := parseProtocol(head[etherLen+pppoeLen : sessionLen])
	if !ok || proto < 256 && head[etherLen+pppoeLen] != 0 || len(head) <= sessionLen || !l.dev.passes(proto, head[sessionLen:]) {
		return nic.Frame{}, false
	}
	return nic.Frame{Head: head[sessionLen:], Body: body}, true
}

// take handles a frame of the session for which packet reports false: a frame of a control protocol, a rare form of
// a packet, or a malformed frame, which take drops and counts.
func (l *pppoeLine) take(b []byte) {
	h, ok := parsePPPoE(b)
	if !ok || h.code != codeSession || h.length < 1 || h.length > len(b)-etherLen-pppoeLen {
		l.dev.recvDropped.Add(1)
		return
	}
	proto, info, ok := parseProtocol(b[etherLen+pppoeLen:][:h.length])
	switch {
	case !ok:
		l.dev.recvDropped.Add(1)
	case l.dev.passes(proto, info):
		l.dev.deliver([]nic.Frame{{Head: info}})
	default:
		l.dev.receive(proto, info)
	}
}

// errSessionEnded is the error of a server's session that the client has ended.
var errSessionEnded = errors.New("the client has ended the session")
