package stack

import (
	"cmp"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// SetTOS sets the type of service of the packets that are sent from now on: the
// Differentiated Services field in its upper six bits. RFC 9293 3.9.1.9: "The
// application layer MUST be able to specify the Differentiated Services field
// for segments that are sent on a connection." The lower two bits are those of
// ECN, which is TCP's own business, and are ignored.
func (t *TCP) SetTOS(tos uint8) error {
	return t.change(func(tcp.Time) { t.tos = tos &^ 3 })
}

// TOS returns what SetTOS has set, 0 at first.
func (t *TCP) TOS() uint8 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tos
}

// SetTTL sets the time to live of the packets that are sent from now on; 0 is the
// default of 64, or what IPv6 routers have said (RFC 4861 6.3.4). RFC 9293 3.9.2: "The TTL value used to send TCP segments MUST
// be configurable".
func (t *TCP) SetTTL(ttl uint8) error {
	return t.change(func(tcp.Time) { t.ttl = cmp.Or(ttl, t.path.hops) })
}

// TTL returns the time to live of the packets that are sent.
func (t *TCP) TTL() uint8 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ttl
}

// SetUserTimeout sets how long what was sent may stay unacknowledged before the
// connection is given up; 0: until the retransmissions are used up, 15 minutes or
// more.
func (t *TCP) SetUserTimeout(d time.Duration) error {
	return t.change(func(tcp.Time) { t.conn.SetUserTimeout(tcpTime(max(d, 0))) })
}

// tcpTime is how long an application wants to wait, or 30 years: what is added to a time
// must not reach beyond the end of time.
func tcpTime(d time.Duration) tcp.Time { return min(tcp.Time(d), 30*365*24*3600*tcp.Second) }
