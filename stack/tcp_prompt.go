package stack

import "github.com/usernet/usernet/stack/tcp"

// This file lets a Write of up to promptBytes return as soon as its last bytes are sent. The peer may
// answer them at once, and httputil.ReverseProxy breaks off an answer that is read before the Write
// that ended the request has returned. So nothing that takes long comes in between: no wait for a
// goroutine that sends the bytes in the writer's place, for the lock of the socket, or for the end of
// a queue that others go on filling. Of eight POSTs of 1 MB at once on two processors, 3 % failed without
// it, and 0.1 % do with it; on the kernel's loopback 0.02 %.

const (
	// promptBytes is the size in bytes of the largest Write that is prompt. Larger ones wait rather
	// than have their bytes copied, which took half more CPU time for four streams (P2). ReadFrom
	// writes as much at a time, and so do most requests and answers.
	promptBytes = 64 << 10

	// lockSpins is how often a prompt writer that has sent tries to lock its socket before it
	// parks: some microseconds, where others hold the lock for less than one.
	lockSpins = 2000
)

// copies reports whether the last n bytes of a Write are to be copied: another goroutine is sending at
// the interface, and would send them too. t.mu is held.
func (t *TCP) copies(n int) bool { return t.path.ifc.tx.busy.Load() && t.conn.WriteSpace() >= n }

// runPrompt is run for a prompt Write that has pinned some bytes, perhaps its last. The caller sends
// them, and little else, unless another goroutine is sending at the interface. t.mu is held, and
// released.
func (t *TCP) runPrompt(now tcp.Time, last bool) {
	ifc := t.path.ifc
	mine := !ifc.tx.async.Load() && ifc.tx.busy.CompareAndSwap(false, true)
	t.zc.copying = last && !mine
	t.run(now)
	moved := t.path.ifc != ifc
	t.mu.Unlock()
	if mine {
		ifc.drainQueued()
	}
	if !mine || moved {
		t.s.drain()
	}
}

// lockSoon locks t.mu for a prompt writer that has sent. It tries for a while before it parks: the
// holder is a receiver that is done in a microsecond, but a parked writer would run only after
// those whom the receiver wakes, the reader of the answer among them.
func (t *TCP) lockSoon() {
	for range lockSpins {
		if t.mu.TryLock() {
			return
		}
	}
	t.mu.Lock()
}
