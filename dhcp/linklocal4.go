package dhcp

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// LinkLocalNetwork4 returns the network of link-local IPv4 addresses, 169.254.0.0/16 (RFC 3927 2.1).
func LinkLocalNetwork4() netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254, 0, 0}), 16)
}

// A LinkLocalEvent4 is a change of a link-local address. Its Kind is Probe, Acquired or Lost.
type LinkLocalEvent4 struct {
	Kind EventKind4
	// Addr is the address with the prefix length 16.
	Addr netip.Prefix
}

// A LinkLocal4 chooses a link-local IPv4 address for one link (RFC 3927). It is not safe for concurrent use.
//
// After each call, the caller processes the events from NextEvent, and calls Tick at the time of Deadline. On
// a Probe event, the caller checks whether another host uses the address, and calls Probed. If another host uses
// the address of the last Acquired event, and this host does not defend the address, the caller calls Conflict.
type LinkLocal4 struct {
	random    uint64 // state of the generator of addresses
	addr      netip.Addr
	started   bool
	acquired  bool
	conflicts int       // since Start
	next      time.Time // when Tick has something to do; zero: never
	events    []LinkLocalEvent4
}

// NewLinkLocal4 returns a stopped LinkLocal4. The MAC determines the order in which it chooses addresses. So a host
// chooses the same addresses after each restart, and hosts with different MACs use different orders.
//
// RFC 3927 2.1: the generator "SHOULD be seeded using a value derived from" the MAC address.
func NewLinkLocal4(mac [6]byte) *LinkLocal4 {
	l := &LinkLocal4{random: uint64(binary.BigEndian.Uint16(mac[:]))<<32 | uint64(binary.BigEndian.Uint32(mac[2:]))}
	l.choose()
	return l
}

// choose chooses the next address.
//
// RFC 3927 2.1: "a pseudo-random number generator with a uniform distribution in the range from 169.254.1.0
// to 169.254.254.255 inclusive."
func (l *LinkLocal4) choose() {
	// The generator is SplitMix64.
	l.random += 0x9e3779b97f4a7c15
	z := l.random
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	z ^= z >> 31
	n := uint16(256 + z%(254*256))
	l.addr = netip.AddrFrom4([4]byte{169, 254, byte(n >> 8), byte(n)})
}

// Addr returns the address in use, or an invalid address if there is none.
func (l *LinkLocal4) Addr() netip.Addr {
	if !l.acquired {
		return netip.Addr{}
	}
	return l.addr
}

// Started reports whether Start was called after the last Stop.
func (l *LinkLocal4) Started() bool { return l.started }

// Start begins to acquire an address. It first tries the address that was last chosen.
func (l *LinkLocal4) Start() {
	if l.started {
		return
	}
	l.started, l.conflicts = true, 0
	l.probe()
}

// Stop ends the use of the address.
func (l *LinkLocal4) Stop() {
	if l.acquired {
		l.event(Lost)
	}
	l.started, l.acquired, l.next = false, false, time.Time{}
}

// NextEvent returns the next event. ok is false if there is none.
func (l *LinkLocal4) NextEvent() (e LinkLocalEvent4, ok bool) {
	if len(l.events) == 0 {
		return e, false
	}
	e, l.events = l.events[0], l.events[1:]
	return e, true
}

func (l *LinkLocal4) event(kind EventKind4) {
	l.events = append(l.events, LinkLocalEvent4{kind, netip.PrefixFrom(l.addr, LinkLocalNetwork4().Bits())})
}

// Deadline returns when to call Tick; the zero time means never.
func (l *LinkLocal4) Deadline() time.Time { return l.next }

// Tick starts a delayed probe if its time has come.
func (l *LinkLocal4) Tick(now time.Time) {
	if !l.next.IsZero() && !now.Before(l.next) {
		l.probe()
	}
}

func (l *LinkLocal4) probe() {
	l.next = time.Time{}
	l.event(Probe)
}

// Probed tells whether the address of the last Probe event is free.
func (l *LinkLocal4) Probed(now time.Time, free bool) {
	switch {
	case !l.started || l.acquired || !l.next.IsZero():
	case free:
		l.acquired = true
		l.event(Acquired)
	default:
		l.another(now)
	}
}

// Conflict tells that another host uses the address, and that this host stops using it.
func (l *LinkLocal4) Conflict(now time.Time) {
	if l.acquired {
		l.event(Lost)
		l.acquired = false
		l.another(now)
	}
}

// another chooses another address after a conflict. It probes the address at once, or later if there were too many
// conflicts.
//
// RFC 3927 2.2.1: "if the number of conflicts exceeds MAX_CONFLICTS then the host MUST limit the rate at which it
// probes for new addresses to no more than one new address per RATE_LIMIT_INTERVAL."
func (l *LinkLocal4) another(now time.Time) {
	l.conflicts++
	l.choose()
	if l.conflicts > maxConflicts {
		l.next = now.Add(rateLimitInterval)
		return
	}
	l.probe()
}
