package stack

import (
	"iter"
	"net/netip"
)

// groupScan is the largest number of groups that a groupMap keeps in a slice.
const groupScan = 8

// A groupMap maps multicast groups to values. It keeps up to groupScan groups in a slice, because the
// smallest map takes more than 300 bytes and nearly all interfaces have few groups. With more groups it
// becomes a map, and stays one until it is empty. The zero value is empty.
type groupMap[V any] struct {
	few  []groupEntry[V]  // in no order; nil if many is not nil
	many map[netip.Addr]V // nil unless there were more than groupScan groups since the map was empty
}

type groupEntry[V any] struct {
	group netip.Addr
	value V
}

func (m *groupMap[V]) len() int { return len(m.few) + len(m.many) }

// get returns the value of a group, and whether the map has the group.
func (m *groupMap[V]) get(group netip.Addr) (V, bool) {
	for i := range m.few {
		if e := &m.few[i]; e.group == group {
			return e.value, true
		}
	}
	v, ok := m.many[group]
	return v, ok
}

// set adds a group, or replaces its value.
func (m *groupMap[V]) set(group netip.Addr, v V) {
	for i := range m.few {
		if e := &m.few[i]; e.group == group {
			e.value = v
			return
		}
	}
	if m.many == nil && len(m.few) < groupScan {
		m.few = append(m.few, groupEntry[V]{group, v})
		return
	}
	if m.many == nil {
		m.many = make(map[netip.Addr]V, 2*groupScan)
		for _, e := range m.few {
			m.many[e.group] = e.value
		}
		m.few = nil
	}
	m.many[group] = v
}

// delete removes a group, if the map has it.
func (m *groupMap[V]) delete(group netip.Addr) {
	for i := range m.few {
		if m.few[i].group == group {
			last := len(m.few) - 1
			m.few[i], m.few[last] = m.few[last], groupEntry[V]{}
			m.few = m.few[:last]
			return
		}
	}
	if delete(m.many, group); len(m.many) == 0 {
		m.many = nil
	}
}

// all returns the groups and their values in no order. The loop must not change the map.
func (m *groupMap[V]) all() iter.Seq2[netip.Addr, V] {
	return func(yield func(netip.Addr, V) bool) {
		for i := range m.few {
			if !yield(m.few[i].group, m.few[i].value) {
				return
			}
		}
		for group, v := range m.many {
			if !yield(group, v) {
				return
			}
		}
	}
}
