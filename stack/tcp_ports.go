package stack

import (
	"net/netip"
	"slices"
	"sync/atomic"
)

// tcpPorts counts the entries of a tcpTable by local address and port. With it, finding out whether a port
// is free takes constant time, even with a million connections.
type tcpPorts struct {
	mu     mutex[levelPorts]
	addrs  atomic.Pointer[[][16]byte]            // the local addresses seen so far, which are few; stored with mu held
	shards atomic.Pointer[[portShards]portShard] // allocated on first use
}

const portShards = 16

// A portShard holds the counts of the ports that are congruent modulo portShards.
type portShard struct {
	mu  mutex[levelPorts]
	use map[portKey]portUse
}

// A portKey has a port in the low 16 bits, and the index of a local address in addrs in the bits above.
type portKey uint64

func makePortKey(addr int, port uint16) portKey { return portKey(addr)<<16 | portKey(port) }

// A portUse counts the entries with one local address and port.
type portUse struct {
	all int32 // all entries
	own int32 // entries for which tcpEntry.own is 1
}

// shard returns the shard of a port, allocating the shards on first use.
func (tp *tcpPorts) shard(port uint16) *portShard {
	all := tp.shards.Load()
	if all == nil {
		tp.shards.CompareAndSwap(nil, new([portShards]portShard))
		all = tp.shards.Load()
	}
	return &all[port%portShards]
}

// known returns the local addresses seen so far.
func (tp *tcpPorts) known() [][16]byte {
	if p := tp.addrs.Load(); p != nil {
		return *p
	}
	return nil
}

// addrIndex returns the index of an address in addrs, adding it if it is new.
func (tp *tcpPorts) addrIndex(addr [16]byte) int {
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

// add adds all and own to the counts of the tuple's local address and port. The lock of the tuple's tcpShard
// is held.
func (tp *tcpPorts) add(k *tuple, all, own int32) {
	port, _ := k.ports()
	key, sh := makePortKey(tp.addrIndex([16]byte(k[:16])), port), tp.shard(port)
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

// busy reports whether connections prevent a socket from binding to b and port, by the rules of bind(2). For
// a listener, only the connections count that this host opened and that are not in TIME-WAIT. For any other
// socket, all connections count.
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

// zonedAddr returns the address without its zone, and the zone, of an address in the form of a tuple.
func zonedAddr(a [16]byte) (netip.Addr, int) {
	var k tuple
	copy(k[:], a[:])
	return k.addr(0), k.zone()
}

// own returns 1 for a connection that this host opened with DialTCP and that is not in TIME-WAIT, and
// otherwise 0.
func (e *tcpEntry) own() int32 {
	if e.sock != nil && e.sock.listener == nil {
		return 1
	}
	return 0
}
