package ppp

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/nic"
)

// ServerConfig configures a PPPoE server, which RFC 2516 calls an access concentrator.
type ServerConfig struct {
	// Name is the AC-Name; "usernet" if empty. It has at most 255 bytes.
	Name string
	// Services are the names of the services that are offered. A client that asks for no particular service is
	// served too. There are at most 31 services. Each name has at most 255 bytes. Name and the names of the
	// services, with 4 bytes for each of them, have at most 1024 bytes in all.
	Services []string
	// MaxSessions is the maximum number of sessions at a time, from 1 to 65534; 256 if 0.
	MaxSessions int
	// Session returns the configuration of the PPP link of a new session, such as the addresses of both ends.
	// If Session returns an error, the server refuses the session and sends the error's text to the client.
	// The server calls Session in the goroutine that received the client's packet. Session must not block,
	// and must not call the server.
	Session func(Session) (Config, error)
	// Rand fills p with unpredictable bytes. If it is nil, the server uses crypto/rand.
	Rand func(p []byte)
}

// A Session describes a session of a PPPoE client.
type Session struct {
	ID      uint16  // from 1 to 65534, unique among the server's current sessions
	Client  [6]byte // the client's MAC address
	Service string  // the service that the client asked for; empty if it asked for none
}

// A Server is a PPPoE server on an Ethernet. Each session is a Device, which Accept returns.
//
// If a client vanishes, its session ends when Echo-Requests have not been answered (see Config.Echo). The
// device of the session then fails. The program should close the device, for example by closing its host.
type Server struct {
	dev  nic.Device
	mac  [6]byte
	cfg  ServerConfig
	room int // the largest packet that fits into the frames of dev

	mu     sync.Mutex
	cond   sync.Cond // signals queue, closed and err
	disc   *pppoeServer
	lines  map[uint16]*pppoeLine
	queue  []*Device // not accepted yet
	closed bool
	err    error // why the Ethernet has failed

	dropped atomic.Uint64 // frames that belong to no session
}

// NewServer returns a server on dev, an Ethernet, and begins to serve. The server is the only user of dev. The errors
// of NewServer wrap EINVAL.
func NewServer(dev nic.Device, cfg ServerConfig) (*Server, error) {
	link, err := checkEthernet(dev)
	if err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = "usernet"
	}
	if cfg.MaxSessions == 0 {
		cfg.MaxSessions = 256
	}
	if cfg.Rand == nil {
		cfg.Rand = func(p []byte) { rand.Read(p) } // never fails
	}
	total := 0
	for _, name := range append([]string{cfg.Name}, cfg.Services...) {
		if len(name) > maxName {
			err = fmt.Errorf("the name %.20q... is longer than %d bytes", name, maxName)
		}
		total += 4 + len(name)
	}
	switch {
	case cfg.Session == nil:
		err = errors.New("Session is nil")
	case cfg.MaxSessions < 1 || cfg.MaxSessions >= reservedSession:
		err = fmt.Errorf("a limit of %d sessions is not from 1 to %d", cfg.MaxSessions, reservedSession-1)
	case total > 1024 || len(cfg.Services) >= maxTags/2:
		err = errors.New("the names do not fit into a frame")
	}
	if err != nil {
		return nil, fmt.Errorf("ppp: %w: %w", err, syscall.EINVAL)
	}
	s := &Server{dev: dev, mac: link.MAC, cfg: cfg, room: link.MTU - pppoeLen - 2, lines: make(map[uint16]*pppoeLine)}
	s.cond.L = &s.mu
	s.disc = &pppoeServer{
		mac: link.MAC, name: cfg.Name, services: cfg.Services, payload: max(pppoeMTU, s.room), limit: cfg.MaxSessions,
		secret: make([]byte, 32), sessions: make(map[uint16]*pppoeSession),
	}
	cfg.Rand(s.disc.secret)
	if n, ok := dev.(nic.DownNotifier); ok {
		n.NotifyDown(s.fail)
	}
	dev.Attach(s.receive)
	return s, nil
}

// Accept waits for a session and returns its device. The negotiation begins when the device is attached. After Close,
// Accept returns net.ErrClosed. After a failure of the Ethernet, Accept returns the error of the failure.
func (s *Server) Accept() (*Device, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 && !s.closed && s.err == nil {
		s.cond.Wait()
	}
	switch {
	case s.closed:
		return nil, net.ErrClosed
	case s.err != nil:
		return nil, s.err
	}
	d := s.queue[0]
	s.queue = s.queue[1:]
	return d, nil
}

// Sessions returns the number of sessions.
func (s *Server) Sessions() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.lines)
}

// Dropped returns the number of received session frames that belong to no session.
func (s *Server) Dropped() uint64 { return s.dropped.Load() }

// Close ends all sessions and closes the Ethernet. The devices of the sessions fail. Close waits at most 200 ms until
// the frames that tell the clients have been sent. A second Close returns net.ErrClosed.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.closed = true
	s.cond.Broadcast()
	lines := s.list()
	s.mu.Unlock()
	end := time.Now().Add(closeTime)
	for _, l := range lines {
		l.dev.step(func(time.Time) { l.dev.m.end(errServerClosed) })
	}
	for _, l := range lines {
		l.dev.drain(end)
	}
	return s.dev.Close()
}

var errServerClosed = errors.New("the server was closed")

// list returns all lines. s.mu is held.
func (s *Server) list() (lines []*pppoeLine) {
	for _, l := range s.lines {
		lines = append(lines, l)
	}
	return lines
}

// fail makes Accept and the devices of all sessions fail because the Ethernet has failed.
func (s *Server) fail(err error) {
	s.mu.Lock()
	s.err = err
	s.cond.Broadcast()
	lines := s.list()
	s.mu.Unlock()
	for _, l := range lines {
		l.dev.lineFailed(err)
	}
}

// receive handles frames of the Ethernet.
func (s *Server) receive(batch []nic.Frame) {
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
				s.discover(&d)
			}
			continue
		}
		s.mu.Lock()
		l := s.lines[h.session]
		s.mu.Unlock()
		if l == nil || h.src != l.session.Load().mac || h.dst != s.mac {
			s.dropped.Add(1)
			continue
		}
		if packet, ok := l.packet(&h, f); ok {
			l.dev.deliver([]nic.Frame{packet})
		} else {
			l.begin(f.AppendTo(nil))
		}
	}
}

// maxEarly is how many frames a session keeps until its device is attached.
const maxEarly = 8

// begin handles a frame of the session. Until the device is attached, begin keeps the first maxEarly frames, and
// drops the others.
func (l *pppoeLine) begin(b []byte) {
	l.dev.mu.Lock()
	begun := l.begun
	if !begun && len(l.early) < maxEarly {
		l.early = append(l.early, b)
	}
	l.dev.mu.Unlock()
	if begun {
		l.take(b)
	}
}

// discover handles a discovery packet.
func (s *Server) discover(d *discovery) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	reply, begun, ended := s.disc.receive(d)
	var opened *pppoeLine
	if begun != nil {
		var err error
		if opened, err = s.open(begun); err != nil {
			delete(s.disc.sessions, begun.id)
			reply = s.disc.systemError(d, clip([]byte(err.Error())))
		}
	}
	var line *pppoeLine
	if ended != nil {
		line = s.lines[ended.id]
		delete(s.lines, ended.id)
		if line != nil { // Accept must not return the session any more
			s.queue = slices.DeleteFunc(s.queue, func(d *Device) bool { return d == line.dev })
		}
	}
	s.mu.Unlock()
	if reply != nil {
		s.dev.Send([]nic.Frame{{Head: reply}}) // if it is lost, the client asks again
	}
	if opened != nil {
		s.offer(begun.id, opened)
	}
	if line != nil {
		line.peer.Store(&errSessionEnded)
		line.dev.lineFailed(errSessionEnded)
	}
}

// offer passes a session to Accept, unless the session has ended. discover sends the PADS before it calls offer, so that
// the client knows of the session when the first frame of the negotiation arrives.
func (s *Server) offer(id uint16, l *pppoeLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines[id] == l {
		s.queue = append(s.queue, l.dev)
		s.cond.Signal()
	}
}

// open makes the device of a session. s.mu is held.
func (s *Server) open(x *pppoeSession) (*pppoeLine, error) {
	cfg, err := s.cfg.Session(Session{x.id, x.client, x.service})
	if err != nil {
		return nil, err
	}
	if cfg.Name == "" {
		cfg.Name = fmt.Sprintf("ppp%d", x.id)
	}
	mtu := min(x.mtu, s.room)
	if cfg.MTU > mtu {
		cfg.MTU = mtu
	}
	if cfg, err = cfg.check(mtu); err != nil {
		return nil, err
	}
	cfg.once = true
	d := newDevice(cfg)
	l := &pppoeLine{dev: d, eth: s.dev, mac: s.mac}
	l.session.Store(&peerSession{x.client, x.id})
	l.ended = func() { s.forget(x.id, l) }
	d.line = l
	s.lines[x.id] = l
	return l, nil
}

// forget removes a session that has ended.
func (s *Server) forget(id uint16, l *pppoeLine) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines[id] == l {
		delete(s.lines, id)
		delete(s.disc.sessions, id)
	}
}
