package stack

import (
	"cmp"
	"time"

	"github.com/usernet/usernet/stack/tcp"
)

// SetTOS sets the type of service of packets that are sent from now on. The upper six bits are the
// Differentiated Services field. The lower two bits are ignored: they are the ECN field, which TCP sets
// itself.
//
// RFC 9293 3.9.1.9: "The application layer MUST be able to specify the Differentiated Services field for
// segments that are sent on a connection."
func (t *TCP) SetTOS(tos uint8) error {
	return t.change(func(tcp.Time) { t.tos = tos &^ 3 })
}

// TOS returns the value that SetTOS has set. The initial value is 0.
func (t *TCP) TOS() uint8 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tos
}

// SetTTL sets the time to live of packets that are sent from now on. A ttl of 0 selects the default: 64,
// or the hop limit that IPv6 routers advertise (RFC 4861 6.3.4).
//
// RFC 9293 3.9.2: "The TTL value used to send TCP segments MUST be configurable".
func (t *TCP) SetTTL(ttl uint8) error {
	return t.change(func(tcp.Time) { t.ttl = cmp.Or(ttl, t.path.hops) })
}

// TTL returns the time to live of sent packets.
func (t *TCP) TTL() uint8 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ttl
}

// SetUserTimeout sets how long sent data may stay unacknowledged before the connection is aborted. If d is 0,
// the connection is aborted after the maximum number of retransmissions, which takes at least 15 minutes.
func (t *TCP) SetUserTimeout(d time.Duration) error {
	return t.change(func(tcp.Time) { t.conn.SetUserTimeout(tcpTime(max(d, 0))) })
}

// tcpTime converts d to a tcp.Time of at most 30 years, so that adding it to a time does not overflow.
func tcpTime(d time.Duration) tcp.Time { return min(tcp.Time(d), 30*365*24*3600*tcp.Second) }
