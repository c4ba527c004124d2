package stack

import (
	"cmp"
	"container/heap"

	"github.com/usernet/usernet/stack/tcp"
)

// An groupDue is something that is to be said of a group, or in answer to a general query of
// all groups of a link.
type groupDue struct {
	at    tcp.Time // 0: it is not in the heap
	pos   int      // in the heap
	link  *groupLink
	group *groupState // nil: all
}

// compare orders by link, and on each by group, with what is for all groups first.
func (d *groupDue) compare(o *groupDue) int {
	if c := cmp.Compare(d.link.ifc.index, o.link.ifc.index); c != 0 {
		return c
	}
	switch {
	case d.group == nil:
		return -1
	case o.group == nil:
		return 1
	}
	return d.group.addr.Compare(o.group.addr)
}

// An groupHeap has the earliest first, for container/heap.
type groupHeap []*groupDue

// set puts an entry in for a time, moves it there, or takes it out if that is 0.
func (h *groupHeap) set(d *groupDue, at tcp.Time) {
	was := d.at
	switch {
	case was == at:
	case at == 0:
		heap.Remove(h, d.pos)
		d.at = 0
	case was == 0:
		d.at = at
		heap.Push(h, d)
	default:
		d.at = at
		heap.Fix(h, d.pos)
	}
}

// take takes out and returns what is due.
func (h *groupHeap) take(now tcp.Time) (due []*groupDue) {
	for len(*h) > 0 && (*h)[0].at <= now {
		d := heap.Pop(h).(*groupDue)
		d.at = 0
		due = append(due, d)
	}
	return due
}

func (h groupHeap) Len() int           { return len(h) }
func (h groupHeap) Less(i, j int) bool { return h[i].at < h[j].at }

func (h groupHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].pos, h[j].pos = i, j
}

func (h *groupHeap) Push(e any) {
	d := e.(*groupDue)
	d.pos = len(*h)
	*h = append(*h, d)
}

func (h *groupHeap) Pop() any {
	n := len(*h) - 1
	d := (*h)[n]
	(*h)[n] = nil
	*h = (*h)[:n]
	return d
}
