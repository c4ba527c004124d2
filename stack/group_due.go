package stack

import (
	"cmp"
	"container/heap"

	"github.com/usernet/usernet/stack/tcp"
)

// A groupDue schedules the next report of a group, or the answer to a General Query on a link.
type groupDue struct {
	at    tcp.Time // when it is due; 0: not in the heap
	pos   int      // index in the heap
	link  *groupLink
	group *groupState // nil: the answer to a General Query
}

// compare orders by interface, then by protocol, IGMP first, and then by group. Answers to General Queries
// come before the groups.
func (d *groupDue) compare(o *groupDue) int {
	if c := cmp.Compare(d.link.ifc.index, o.link.ifc.index); c != 0 {
		return c
	}
	switch {
	case d.link.v6 != o.link.v6:
		if o.link.v6 {
			return -1
		}
		return 1
	case d == o:
		return 0
	case d.group == nil:
		return -1
	case o.group == nil:
		return 1
	}
	return d.group.addr.Compare(o.group.addr)
}

// A groupHeap is a heap of the scheduled reports, the earliest first (see container/heap).
type groupHeap []*groupDue

// set schedules d for time at: it adds d to the heap, or moves it. If at is 0, set removes d.
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

// take removes the entries that are due from the heap, and returns them, earliest first.
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
