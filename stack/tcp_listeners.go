package stack

import (
	"net/netip"
	"sync"
)

// tcpListeners holds the listeners of a stack, indexed by port: adding, removing and
// finding one takes as long beside 65,535 others as beside none.
type tcpListeners struct {
	shards [listenerShards]listenerShard
}

const listenerShards = 16

// A listenerShard has the ports of one remainder by listenerShards.
type listenerShard struct {
	mu    sync.RWMutex
	at    map[netip.AddrPort]*TCPListener // made on first use
	ports map[uint16]int                  // listeners on a port, of all addresses
}

func (tl *tcpListeners) shard(port uint16) *listenerShard { return &tl.shards[port%listenerShards] }

// find returns the listener for an address of the host: the one bound to that address,
// or else the one bound to all addresses of its family; nil if there is neither.
func (tl *tcpListeners) find(local netip.AddrPort) *TCPListener {
	sh := tl.shard(local.Port())
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if sh.ports[local.Port()] == 0 {
		return nil
	}
	if l := sh.at[local]; l != nil {
		return l
	}
	return sh.at[netip.AddrPortFrom(unspecifiedOf(local.Addr()), local.Port())]
}

// conflicts reports whether a listener keeps another from being bound to local: one on
// the same port with the same address, or where either address is the unspecified one.
func (tl *tcpListeners) conflicts(local netip.AddrPort) bool {
	sh := tl.shard(local.Port())
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if local.Addr().IsUnspecified() {
		return sh.ports[local.Port()] > 0
	}
	return sh.at[local] != nil || sh.at[netip.AddrPortFrom(unspecifiedOf(local.Addr()), local.Port())] != nil
}

// add enters l at its local address, which must be free.
func (tl *tcpListeners) add(l *TCPListener) {
	sh := tl.shard(l.local.Port())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.at == nil {
		sh.at, sh.ports = make(map[netip.AddrPort]*TCPListener), make(map[uint16]int)
	}
	sh.at[l.local] = l
	sh.ports[l.local.Port()]++
}

// remove takes l out, if it is there.
func (tl *tcpListeners) remove(l *TCPListener) {
	port := l.local.Port()
	sh := tl.shard(port)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.at[l.local] != l {
		return
	}
	delete(sh.at, l.local)
	if sh.ports[port]--; sh.ports[port] == 0 {
		delete(sh.ports, port)
	}
	if len(sh.at) == 0 {
		sh.at, sh.ports = nil, nil // a map never gets smaller
	}
}

// all returns the listeners, in no order.
func (tl *tcpListeners) all() []*TCPListener {
	var all []*TCPListener
	for i := range tl.shards {
		sh := &tl.shards[i]
		sh.mu.RLock()
		for _, l := range sh.at {
			all = append(all, l)
		}
		sh.mu.RUnlock()
	}
	return all
}

// unspecifiedOf is the unspecified address of an address's family.
func unspecifiedOf(a netip.Addr) netip.Addr {
	if a.Is6() {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}
