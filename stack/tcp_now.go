package stack

import (
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// A nowState says whether a segment can go at once, without a buffer from the pool
// and a place in the queue, because it is the caller's turn to send on t.path.
type nowState uint8

const (
	notNow   nowState = iota
	mayNow            // it is the caller's turn, who has nothing to send yet
	goesNow           // the segment is in the interface's batch
	nowBytes = txDirect - ipRoom
)

// runNow is run for a caller who sends at once, and whose socket has a segment or
// two to send: a small first one goes without having been queued. t.mu is held, and
// released.
func (t *TCP) runNow(now tcp.Time) {
	ifc := t.path.ifc
	claimed := ifc.tx.claim()
	if claimed {
		t.now = mayNow
	}
	t.run(now)
	goes := t.now == goesNow
	t.now = notNow
	t.mu.Unlock()
	switch {
	case goes:
		ifc.sendClaimed()
	case claimed:
		ifc.unclaim()
	}
	t.s.drain()
}

// hop is the address of the next station on t.path, if it is known.
func (t *TCP) hop(now tcp.Time) (mac wire.MAC, ok bool) {
	p := t.path
	if p.ifc.linkLen == 0 || p.neigh == nil {
		return p.mac, true
	}
	return p.neigh.lookup(now)
}

// sendNow puts a frame into the interface's batch: the IP packet
// buf[headroom:headroom+n], which lies in its bytes. t.mu is held.
func (t *TCP) sendNow(buf []byte, n int, mac wire.MAC, meta *frameMeta) {
	ifc := t.path.ifc
	t.s.counts.ipSent.Add(1)
	f := ifc.frame(buf, n, meta).frame
	if ifc.linkLen > 0 {
		copy(f.Head, mac[:])
	}
	ifc.tx.batch[0] = f
	t.now = goesNow
}
