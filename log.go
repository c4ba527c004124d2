package usernet

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"

	"github.com/usernet/usernet/stack"
)

// This file writes the log of a host, but for what the stack and the clients and servers of DHCP log themselves: the
// failures and changes of links, conflicts of addresses, and leases.

// startLog logs what the host has at its start, and then each change of it. cfg is the configuration of the host.
func (h *Host) startLog(cfg *Config) {
	l := &changeLog{h: h, last: h.configuration()}
	l.turns.do = l.log
	if h.logger.Enabled(context.Background(), slog.LevelDebug) {
		h.logger.Debug("host started", "protocols", protocols(cfg))
		for _, e := range new(configuration).events(l.last) {
			attrs := e.args()
			if i := l.last.linkNamed(e.NIC); e.Kind == LinkAdded && i != nil {
				attrs = append(attrs, slog.Bool("up", i.Up), slog.Int("mtu", i.MTU))
				if i.MAC != ([6]byte{}) {
					attrs = append(attrs, slog.Any("mac", i.MAC))
				}
			}
			h.logger.LogAttrs(context.Background(), slog.LevelDebug, e.Kind.String(), attrs...)
		}
		h.logConns()
	}
	h.changes = l
	h.stack.OnChange(l.turns.run)
	l.turns.run() // the changes since last was set: the handler may be slow
}

// protocols returns the names of the protocols that a host with a configuration speaks.
func protocols(cfg *Config) []string {
	all := []string{"IPv4", "ARP", "ICMP", "IGMP", "UDP", "TCP"}
	if !cfg.NoIPv6 {
		all = append(all, "IPv6", "ICMPv6", "ND", "MLD")
	}
	if cfg.DHCP {
		all = append(all, "DHCP")
	}
	if cfg.MDNS != nil {
		all = append(all, "mDNS")
	}
	return all
}

// linkNamed returns the interface with a name, or nil.
func (c *configuration) linkNamed(name string) *stack.InterfaceInfo {
	for i := range c.links {
		if c.links[i].Name == name {
			return &c.links[i]
		}
	}
	return nil
}

// turns makes one goroutine at a time call do. It holds no lock meanwhile, because the handler of a log may block.
type turns struct {
	do func() // set before the first call of run

	mu    sync.Mutex
	turn  bool // a goroutine calls do
	again bool // that goroutine must call do again
	ended sync.Cond
}

// run calls do. If another goroutine is calling do, that goroutine calls it again, and run returns at once.
func (t *turns) run() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.again = true
	if t.turn {
		return
	}
	t.turn = true
	for t.again {
		t.again = false
		t.mu.Unlock()
		t.do()
		t.mu.Lock()
	}
	t.turn = false
	t.ended.Broadcast()
}

// finish calls do as run does, and waits until no goroutine calls it. do must not call finish.
func (t *turns) finish() {
	t.run()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended.L == nil {
		t.ended.L = &t.mu
	}
	for t.turn {
		t.ended.Wait()
	}
}

// A changeLog logs the changes of a host's links, addresses, routes and name servers.
type changeLog struct {
	h     *Host
	turns turns
	last  *configuration // only log uses it
}

// log logs what has changed since the last call.
func (l *changeLog) log() {
	if errors.Is(l.h.Err(), net.ErrClosed) {
		return
	}
	now := l.h.configuration()
	for _, e := range l.last.events(now) {
		switch e.Kind {
		case LinkAdded, LinkRemoved, AddrAdded, AddrChanged, AddrRemoved, RouteAdded, RouteRemoved, NamesChanged:
			l.h.logger.LogAttrs(context.Background(), slog.LevelInfo, e.Kind.String(), e.args()...)
		}
	}
	l.last = now
}

// A connLog logs the beginnings and ends of TCP connections.
type connLog struct {
	h     *Host
	w     *stack.Watcher
	turns turns
}

// logConns logs connections from now on. It needs no goroutine between two connections.
func (h *Host) logConns() {
	l := &connLog{h: h}
	l.turns.do = l.log
	w, err := h.stack.Watch(stack.WatchConfig{Conns: true, Notify: l.turns.run})
	if err != nil {
		return // the host is closed
	}
	l.w = w
	h.conns = l
}

// log logs the events that wait.
func (l *connLog) log() {
	ended, cancel := context.WithCancel(context.Background())
	cancel() // Next must not wait
	for e := range l.w.Events(ended) {
		if e.Lost > 0 {
			l.h.logger.Warn("connection events lost", "count", e.Lost)
		}
		l.h.logger.LogAttrs(context.Background(), slog.LevelDebug, e.Kind.String(), connAttrs(&e)...)
	}
}

// connAttrs returns what a log says of the event of a connection.
func connAttrs(e *stack.WatchEvent) []slog.Attr {
	attrs := []slog.Attr{slog.Any("local", e.Local), slog.Any("remote", e.Remote), slog.Bool("passive", e.Passive)}
	if i := e.Info; e.Kind == stack.ConnClosed && i != nil {
		attrs = append(attrs, slog.Duration("duration", e.Duration),
			slog.Uint64("sent", i.BytesAcked), slog.Uint64("received", i.BytesReceived), slog.Int("retransmitted", i.Retrans))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.Any("err", e.Err))
	}
	return attrs
}
