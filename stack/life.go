package stack

import (
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
)

// A life is the state that Done and Err report. A life ends when the host is closed, or when the last of
// the host's links has failed.
type life struct {
	mu   mutex[levelTable]
	done chan struct{}
	err  error
	cut  atomic.Bool // the life has ended because the last link has failed
}

// Done returns a channel that is closed when the host is closed, or when the host has links besides the
// loopback and all of these have failed. Err then returns the reason. If AddNIC adds a link after all links
// have failed, the host is usable again, and Done returns a new channel.
func (s *Stack) Done() <-chan struct{} {
	s.life.mu.Lock()
	defer s.life.mu.Unlock()
	return s.life.done
}

// Err returns nil while Done's channel is open. After that it returns net.ErrClosed if the host was
// closed, or the error of the link that failed last.
func (s *Stack) Err() error {
	s.life.mu.Lock()
	defer s.life.mu.Unlock()
	return s.life.err
}

// end ends the life with the reason err. It reports false if the life had ended before.
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

// revive starts a new life if the last life ended because all links had failed.
func (l *life) revive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut.Swap(false) {
		l.done, l.err = make(chan struct{}), nil
	}
}

// linkGone handles the failure or the removal of a link. If the host has links besides the loopback and all
// of these have failed, it ends the host's life, and the goroutines that wait for a connection or a
// datagram fail with ENETDOWN. No lock is held.
func (s *Stack) linkGone() {
	s.mu.Lock()
	var last *iface
	for _, ifc := range (*s.ifaces.Load())[1:] { // without the loopback
		if ifc.cause.Load() == nil {
			s.mu.Unlock()
			return // this link works
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

// cutOff makes one call of the socket fail with ENETDOWN, because a reader would wait forever. It does
// nothing for a socket that is bound or connected to a loopback address. local is the socket's address.
func (g *dgram) cutOff(local netip.Addr) {
	if !local.IsLoopback() && !g.RemoteAddr().Addr().IsLoopback() {
		g.fail(syscall.ENETDOWN)
	}
}

// A deathCause says why a link has failed.
type deathCause struct {
	err error
	seq int64 // number of the failure, in the order in which the host's links failed
}

// deathError returns the error that Err and InterfaceInfo report for a link whose device failed with err.
func deathError(err error) error {
	if err == net.ErrClosed {
		return fmt.Errorf("the device was closed: %w", err)
	}
	return err
}
