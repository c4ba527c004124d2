package stack

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"
)

// tcpListeners holds the listeners of a stack, indexed by port. Adding, removing and finding a listener
// takes constant time, even with 65,535 listeners.
type tcpListeners struct {
	shards atomic.Pointer[[listenerShards]listenerShard] // allocated on first use
}

const listenerShards = 16

// A listenerShard holds the listeners of the ports that are congruent modulo listenerShards.
type listenerShard struct {
	mu    rwMutex[levelTable]
	at    map[listenKey]*TCPListener // allocated on first use
	ports map[uint16]portListeners
}

// A listenKey is a local address and port, and the index of the interface if the address is link-local.
type listenKey struct {
	local netip.AddrPort
	zone  int
}

func (l *TCPListener) key() listenKey { return listenKey{l.local, l.at.zone} }

// portListeners counts the listeners of a port by family. A dual-stack listener counts in both.
type portListeners struct{ v4, v6 int32 }

// shard returns the shard of a port, allocating the shards on first use.
func (tl *tcpListeners) shard(port uint16) *listenerShard {
	all := tl.shards.Load()
	if all == nil {
		tl.shards.CompareAndSwap(nil, new([listenerShards]listenerShard))
		all = tl.shards.Load()
	}
	return &all[port%listenerShards]
}

// find returns the listener for segments to a local address: the listener that is bound to the address, or
// else one that is bound to all addresses of the address's family, or else nil. zone is the index of the
// interface if an address of the segment is link-local.
func (tl *tcpListeners) find(local netip.AddrPort, zone int) *TCPListener {
	sh := tl.shard(local.Port())
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.find(local, zone)
}

// find implements tcpListeners.find. sh.mu is held.
func (sh *listenerShard) find(local netip.AddrPort, zone int) *TCPListener {
	n := sh.ports[local.Port()]
	v4 := local.Addr().Is4()
	if v4 && n.v4 == 0 || !v4 && n.v6 == 0 {
		return nil
	}
	if !isLinkLocal6(local.Addr()) {
		zone = 0 // the zone, if any, is that of the remote address
	}
	if l := sh.at[listenKey{local, zone}]; l != nil {
		return l
	}
	if v4 {
		if l := sh.at[listenKey{netip.AddrPortFrom(netip.IPv4Unspecified(), local.Port()), 0}]; l != nil {
			return l
		}
	}
	// The IPv6 wildcard may take IPv4 as well.
	l := sh.at[listenKey{netip.AddrPortFrom(netip.IPv6Unspecified(), local.Port()), 0}]
	if l == nil || !l.at.takes(local.Addr(), 0) {
		return nil
	}
	return l
}

// conflicts reports whether a new listener cannot bind to b and port, because an existing listener has the
// port.
func (tl *tcpListeners) conflicts(b *bound, port uint16) bool {
	sh := tl.shard(port)
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	if !b.wildcard() {
		return sh.find(netip.AddrPortFrom(b.addr, port), b.zone) != nil
	}
	n := sh.ports[port]
	return b.all&ipv4 != 0 && n.v4 > 0 || b.all&ipv6 != 0 && n.v6 > 0
}

// count adds n to the counts of l's port, for each family of l. sh.mu is held.
func (sh *listenerShard) count(l *TCPListener, n int32) {
	port := l.local.Port()
	c := sh.ports[port]
	of := l.at.all
	if !l.at.wildcard() {
		of = familyOf(l.at.addr)
	}
	if of&ipv4 != 0 {
		c.v4 += n
	}
	if of&ipv6 != 0 {
		c.v6 += n
	}
	if c == (portListeners{}) {
		delete(sh.ports, port)
		return
	}
	sh.ports[port] = c
}

// add adds l. Its local address and port must be free.
func (tl *tcpListeners) add(l *TCPListener) {
	sh := tl.shard(l.local.Port())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.at == nil {
		sh.at, sh.ports = make(map[listenKey]*TCPListener), make(map[uint16]portListeners)
	}
	sh.at[l.key()] = l
	sh.count(l, 1)
}

// remove removes l if it is there.
func (tl *tcpListeners) remove(l *TCPListener) {
	sh := tl.shard(l.local.Port())
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.at[l.key()] != l {
		return
	}
	delete(sh.at, l.key())
	sh.count(l, -1)
	if len(sh.at) == 0 {
		sh.at, sh.ports = nil, nil // free the memory; a map never shrinks
	}
}

// all returns the listeners, ordered by local address, port and zone.
func (tl *tcpListeners) all() []*TCPListener {
	var all []*TCPListener
	shards := tl.shards.Load()
	if shards == nil {
		return nil
	}
	for i := range shards {
		sh := &shards[i]
		sh.mu.RLock()
		for _, l := range sh.at {
			all = append(all, l)
		}
		sh.mu.RUnlock()
	}
	slices.SortFunc(all, func(a, b *TCPListener) int {
		return cmp.Or(a.local.Compare(b.local), cmp.Compare(a.at.zone, b.at.zone))
	})
	return all
}
