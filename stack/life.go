package stack

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// A life tells whether a host is of use. It ends when the host is closed, or the last of its
// links has died.
type life struct {
	mu   mutex[levelTable]
	done chan struct{}
	err  error
	cut  atomic.Bool // the last link has died
}

// Done returns a channel that is closed when the host is of no more use to others: it was
// closed, or it has links besides the loopback and each of them has come to an end by
// itself. Then Err tells why. A host whose links have died and that is given another one by
// AddNIC is of use again: Done then returns another channel.
func (s *Stack) Done() <-chan struct{} {
	s.life.mu.Lock()
	defer s.life.mu.Unlock()
	return s.life.done
}

// Err returns nil while the channel of Done is open. Then it returns net.ErrClosed if the host was
// closed, or the error of the link that died last.
func (s *Stack) Err() error {
	s.life.mu.Lock()
	defer s.life.mu.Unlock()
	return s.life.err
}

// end ends the life, unless it has ended. It reports whether it did.
func (l *life) end(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.err = err
	close(l.done)
	return true
}

// revive begins another life where one has ended for want of links.
func (l *life) revive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut.Swap(false) {
		l.done, l.err = make(chan struct{}), nil
	}
}

// linkGone takes note that a link has died or was removed. If those that are left have all
// died, the host is cut off: who waits for a connection or a datagram is told.
// No lock is held.
func (s *Stack) linkGone() {
	s.mu.Lock()
	var last *iface
	for _, ifc := range (*s.ifaces.Load())[1:] {
		if ifc.cause.Load() == nil {
			s.mu.Unlock()
			return
		}
		if last == nil || ifc.cause.Load().seq > last.cause.Load().seq {
			last = ifc
		}
	}
	if last == nil || s.closed.Load() || !s.life.end(fmt.Errorf("link %s: %w", last.name, last.cause.Load().err)) {
		s.mu.Unlock()
		return
	}
	s.life.cut.Store(true)
	s.mu.Unlock()
	for _, l := range s.tcp.listeners.all() {
		l.mu.Lock()
		l.cond.Broadcast()
		l.mu.Unlock()
	}
	for i := range udpBuckets {
		for _, b := range s.udp.at(uint16(i)) {
			b.u.cutOff(b.u.LocalAddr().Addr())
		}
	}
	for _, r := range s.raw.sockets() {
		r.cutOff(r.LocalAddr())
	}
}

// cutOff tells the socket, once, that nothing will come from another host, as its
// reader would wait for ever.
func (g *dgram) cutOff(local netip.Addr) {
	if !local.IsLoopback() && !g.RemoteAddr().Addr().IsLoopback() {
		g.fail(syscall.ENETDOWN)
	}
}

// A deathCause is why a link has died.
type deathCause struct {
	err error
	seq int64 // orders the deaths of the links of a host
}

// deathError is what is told of a link whose device gave an error.
func deathError(err error) error {
	if err == net.ErrClosed {
		return fmt.Errorf("the device was closed: %w", err)
	}
	return err
}
