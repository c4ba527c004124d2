//go:build lockorder && !race

package stack

import (
	"fmt"
	"sync"
)

// A mutex is a sync.Mutex whose Lock and TryLock check the order of locks.
type mutex[L lockLevel] struct{ m sync.Mutex }

func (m *mutex[L]) Lock() {
	lockTaken[L]()
	m.m.Lock()
}

func (m *mutex[L]) TryLock() bool {
	if !m.m.TryLock() {
		return false
	}
	lockTaken[L]()
	return true
}

func (m *mutex[L]) Unlock() {
	m.m.Unlock()
	lockReleased[L]()
}

// A rwMutex is a sync.RWMutex whose Lock and RLock check the order of locks.
type rwMutex[L lockLevel] struct{ m sync.RWMutex }

func (m *rwMutex[L]) Lock() {
	lockTaken[L]()
	m.m.Lock()
}

func (m *rwMutex[L]) Unlock() {
	m.m.Unlock()
	lockReleased[L]()
}

func (m *rwMutex[L]) RLock() {
	lockTaken[L]()
	m.m.RLock()
}

func (m *rwMutex[L]) RUnlock() {
	m.m.RUnlock()
	lockReleased[L]()
}

// heldLocks has the levels of the locks that each goroutine holds: bit n stands for level n. Its elements are
// shards; changeHeld selects one by the goroutine.
var heldLocks [64]struct {
	mu sync.Mutex
	of map[uintptr]uint32
}

// lockTaken records that the goroutine is about to take a lock. It panics if the goroutine holds a lock
// of the same or a later level.
func lockTaken[L lockLevel]() {
	var l L
	if held := changeHeld(0, 1<<l.level()); held>>l.level() != 0 {
		changeHeld(1<<l.level()&^held, 0) // restore held
		panic(fmt.Sprintf("stack: lock order: a lock of level %d is taken while those of levels %b are held", l.level(), held))
	}
}

// lockReleased records that the goroutine has released a lock.
func lockReleased[L lockLevel]() {
	var l L
	changeHeld(1<<l.level(), 0)
}

// changeHeld removes the levels less from those that the calling goroutine holds, adds the levels more, and
// returns the levels that the goroutine held before.
func changeHeld(less, more uint32) (held uint32) {
	id := goroutine()
	h := &heldLocks[id>>8%uintptr(len(heldLocks))]
	h.mu.Lock()
	held = h.of[id]
	if now := held&^less | more; now == 0 {
		delete(h.of, id)
	} else {
		if h.of == nil {
			h.of = make(map[uintptr]uint32)
		}
		h.of[id] = now
	}
	h.mu.Unlock()
	return held
}
