package stack

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// tcpPorts counts the entries of a tcpTable by their local addresses and ports: to
// ask whether a port is free takes as long beside a million connections as beside none.
type tcpPorts struct {
	mu     mutex[levelPorts]
	addrs  atomic.Pointer[[][16]byte] // that there were, few; changed under mu only
	shards [portShards]portShard
}

const portShards = 16

// A portShard has the ports of one remainder by portShards.
type portShard struct {
	mu  mutex[levelPorts]
	use map[portKey]portUse
}

// A portKey is a port, and above it the place of an address in addrs.
type portKey uint64

func makePortKey(addr int, port uint16) portKey { return portKey(addr)<<16 | portKey(port) }

// A portUse is how much a port is used with one local address.
type portUse struct {
	all int32 // entries
	own int32 // those of connections that were opened here, without those in TIME-WAIT
}

func (tp *tcpPorts) shard(port uint16) *portShard { return &tp.shards[port%portShards] }

// known returns the addresses that there were.
func (tp *tcpPorts) known() [][16]byte {
	if p := tp.addrs.Load(); p != nil {
		return *p
	}
	return nil
}

// place returns the place of an address among the known ones.
func (tp *tcpPorts) place(addr [16]byte) int {
	if i := slices.Index(tp.known(), addr); i >= 0 {
		return i
	}
	tp.mu.Lock()
	defer tp.mu.Unlock()
	list := tp.known()
	if i := slices.Index(list, addr); i >= 0 {
		return i
	}
	list = append(slices.Clip(list), addr)
	tp.addrs.Store(&list)
	return len(list) - 1
}

// add changes the counts of the tuple's local end. The table's lock is held.
func (tp *tcpPorts) add(k *tuple, all, own int32) {
	port, _ := k.ports()
	key, sh := makePortKey(tp.place([16]byte(k[:16])), port), tp.shard(port)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	u := sh.use[key]
	u.all += all
	u.own += own
	if u.all == 0 {
		delete(sh.use, key)
		return
	}
	if sh.use == nil {
		sh.use = make(map[portKey]portUse)
	}
	sh.use[key] = u
}

// busy reports whether a connection uses a local port with an address of b, as bind(2) asks. For a
// listener, connections that came in through another do not count.
func (tp *tcpPorts) busy(b *bound, port uint16, forListener bool) bool {
	sh := tp.shard(port)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for i, a := range tp.known() {
		if !b.takes(zonedAddr(a)) {
			continue
		}
		u := sh.use[makePortKey(i, port)]
		if u.own > 0 || !forListener && u.all > 0 {
			return true
		}
	}
	return false
}

// zonedAddr takes an address of a tuple apart.
func zonedAddr(a [16]byte) (netip.Addr, int) {
	var k tuple
	copy(k[:], a[:])
	return k.addr(0), k.zone()
}

// own is 1 for a connection that was opened here and is not in TIME-WAIT, and 0 for others.
func (e *tcpEntry) own() int32 {
	if e.sock != nil && e.sock.listener == nil {
		return 1
	}
	return 0
}
