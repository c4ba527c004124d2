package usernet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/stack"
)

// A linkUser uses a UDP port on one interface. It embeds a linkRunner.
type linkUser interface {
	comparable
	// base returns the linkRunner that the linkUser embeds.
	base() *linkRunner
	// socket returns the family and the port of the socket that the users of a linkSet share. name is the word for
	// a user in errors. need is false if this user needs no socket.
	socket() (family stack.Family, port uint16, name string, need bool)
	// receive handles a datagram that has arrived on the interface. It does not block, because it runs on the
	// goroutine that received the packet.
	receive(b []byte, from netip.AddrPort, meta stack.Meta)
	// look is called when an interface, an address or a route of the host may have changed. It does not block.
	look()
	// stop ends the user and removes it from its linkSet. A client waits until time end at the latest. A server waits
	// until a running call of OnEvent has returned.
	stop(end time.Time)
}

// A linkSet has the users of a UDP port on the interfaces of a host: at most one user for each interface. The zero
// linkSet has no users.
type linkSet[T linkUser] struct {
	life sync.Mutex // held by add and remove; no handler takes it

	mu        sync.Mutex
	closed    chan struct{} // closed when close has ended the users; nil: close has not been called
	conn      *stack.UDP    // nil while no user needs it
	users     []T           // in the order in which they were added
	stopWatch func()
}

// setOf returns the linkSet that p points to. It makes the linkSet on first use.
func setOf[T linkUser](p *atomic.Pointer[linkSet[T]]) *linkSet[T] {
	p.CompareAndSwap(nil, new(linkSet[T]))
	return p.Load()
}

// add adds a user. If the user is the first that needs the socket, add opens the socket.
func (s *linkSet[T]) add(u T) error {
	s.life.Lock()
	defer s.life.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	r := u.base()
	family, port, name, need := u.socket()
	switch {
	case s.closed != nil:
		return net.ErrClosed
	case slices.ContainsFunc(s.users, func(x T) bool { return x.base().index == r.index }):
		return fmt.Errorf("%s has a %s already: %w", r.nic, name, syscall.EEXIST)
	}
	if need && s.conn == nil {
		conn, err := r.h.stack.OpenUDP(family, netip.AddrPortFrom(netip.Addr{}, port))
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("a socket of the host has UDP port %d, which the %s needs: %w", port, name, err)
		}
		if err != nil {
			return err
		}
		conn.SetHandler(s.receive)
		s.conn = conn
	}
	if need {
		r.conn = s.conn
	}
	if s.stopWatch == nil {
		s.stopWatch = r.h.stack.OnChange(s.look)
	}
	s.users = append(s.users, u)
	return nil
}

// remove removes a user that has ended. If no other user needs the socket, remove closes the socket.
func (s *linkSet[T]) remove(u T) {
	s.life.Lock()
	defer s.life.Unlock()
	s.mu.Lock()
	s.users = slices.DeleteFunc(s.users, func(x T) bool { return x == u })
	conn, stop := s.conn, s.stopWatch
	if slices.ContainsFunc(s.users, func(x T) bool { return x.base().conn != nil }) {
		conn = nil
	} else {
		s.conn = nil
	}
	if len(s.users) > 0 {
		stop = nil
	} else {
		s.stopWatch = nil
	}
	s.mu.Unlock() // conn.Close may send, and this goroutine may then call receive
	if stop != nil {
		stop()
	}
	if conn != nil {
		conn.Close()
	}
}

// list returns the users. s may be nil.
func (s *linkSet[T]) list() []T {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.users)
}

// on returns the user on an interface. ok is false if there is none. s may be nil.
func (s *linkSet[T]) on(index int) (u T, ok bool) {
	if s == nil {
		return u, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.users {
		if u.base().index == index {
			return u, true
		}
	}
	return u, false
}

// close ends all users, one after the other, and makes add fail from now on. The clients together have dhcpReleaseTime
// to end. If several goroutines call close, each call returns when the users have ended. The caller closes the stack
// afterwards.
func (s *linkSet[T]) close() {
	s.mu.Lock()
	if closed := s.closed; closed != nil {
		s.mu.Unlock()
		<-closed
		return
	}
	s.closed = make(chan struct{})
	users := slices.Clone(s.users)
	s.mu.Unlock()
	end := time.Now().Add(dhcpReleaseTime)
	for _, u := range users {
		u.stop(end)
	}
	close(s.closed)
}

// receive is the handler of the socket.
func (s *linkSet[T]) receive(b []byte, from netip.AddrPort, meta stack.Meta) {
	if u, ok := s.on(meta.NIC); ok {
		u.receive(b, from, meta)
	}
}

// look calls look of all users.
func (s *linkSet[T]) look() {
	for _, u := range s.list() {
		u.look()
	}
}
