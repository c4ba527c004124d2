package stack

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// SYN cookies (RFC 4987 3.6): while a listener's queue of half-open connections is full, the listener
// keeps no state for a further SYN. It encodes the state in the sequence number of the SYN,ACK, and the
// peer's ACK returns that number:
//
//	5 bits   number of the period, modulo 32; a period is cookiePeriod long
//	3 bits   index in cookieMSS of the MSS of the peer
//	24 bits  keyed hash of the addresses, the ports, the peer's sequence
//	         number, and the eight bits above; each period has its own key
//
// If the peer uses timestamps, the low six bits of the timestamp value in the SYN,ACK encode other
// options of the SYN: bits 0 to 3 are the window scale (15: none), bit 4 is SACK, and bit 5 is unused. A
// connection that is opened during an attack then has the same options as any other.
const (
	cookiePeriod  = 64 * tcp.Second
	cookieTSBits  = 6      // low bits of the timestamp value that encode options
	cookieNoScale = 15     // window scale of a SYN without the Window Scale option
	cookieSACK    = 1 << 4 // the SYN had the SACK-Permitted option
	cookieLife    = 2      // number of periods in which a cookie is valid
)

// cookieMSS returns the MSS values that a cookie can encode, in ascending order: the smallest possible MSS
// (RFC 791 3.2, with RFC 9293 3.7.1), and common values. A cookie encodes the largest value that does not
// exceed the peer's MSS.
func cookieMSS() [8]uint16 { return [8]uint16{28, 256, 536, 1024, 1220, 1440, 1460, 8960} }

// cookieKeys holds the keys of the current period and of the previous period. Each key is valid for two
// periods. After that, a key is of no use to an attacker who knows it.
type cookieKeys struct {
	mu        mutex[levelTable]
	count     uint32 // number of the period of cur
	cur, prev hashKey
	made      bool // cur is valid
	before    bool // prev is valid: it is the key of period count-1
}

// cookieKey returns the key of the period count. It reports false if there is none. The current period
// always has a key, which cookieKey makes on first use. The previous period has a key only if cookieKey was
// called in it. Earlier periods have none.
func (s *Stack) cookieKey(count uint32) (hashKey, bool) {
	k := &s.tcp.cookies
	k.mu.Lock()
	defer k.mu.Unlock()
	if at := s.cookieCount(); !k.made || k.count != at {
		k.prev, k.before = k.cur, k.made && k.count+1 == at
		k.cur, k.count, k.made = hashKey{s.random.next(randCookie), s.random.next(randCookie)}, at, true
	}
	switch {
	case count == k.count:
		return k.cur, true
	case count+1 == k.count && k.before:
		return k.prev, true
	}
	return hashKey{}, false
}

// cookie returns the initial sequence number of a SYN,ACK in the period count. irs is the initial sequence
// number of the peer, and mss is an index in cookieMSS. cookie reports false if the period has no key.
func (s *Stack) cookie(local, remote netip.AddrPort, irs, count uint32, mss int) (tcp.Seq, bool) {
	key, ok := s.cookieKey(count)
	if !ok {
		return 0, false
	}
	top := count<<3&0xff | uint32(mss) // the upper eight bits of the cookie
	var b [45]byte
	l, r := local.Addr().As16(), remote.Addr().As16()
	copy(b[:], l[:])
	copy(b[16:], r[:])
	binary.BigEndian.PutUint16(b[32:], local.Port())
	binary.BigEndian.PutUint16(b[34:], remote.Port())
	binary.BigEndian.PutUint32(b[36:], irs)
	binary.BigEndian.PutUint32(b[40:], count)
	b[44] = byte(mss)
	return tcp.Seq(top<<24 | uint32(key.sum(b[:]))&0xffffff), true
}

// cookieCount returns the number of the current period.
func (s *Stack) cookieCount() uint32 { return uint32(s.now() / cookiePeriod) }

// sendCookie answers a SYN with a cookie. The caller must not hold l.mu.
func (l *TCPListener) sendCookie(local, remote netip.AddrPort, zone int, p *path, syn *tcp.Segment) {
	s := l.s
	mss, peer := 0, syn.MSS
	if peer == 0 {
		peer = uint16(p.defaultMSS())
	}
	for i, v := range cookieMSS() {
		if v <= peer {
			mss = i
		}
	}
	params := &s.tcp.params
	now := s.now()
	iss, ok := s.cookie(local, remote, syn.Seq, s.cookieCount(), mss)
	if !ok {
		return // the period has just ended; the peer will retransmit its SYN
	}
	out := tcp.Segment{TCP: wire.TCP{
		Seq:    uint32(iss),
		Ack:    syn.Seq + 1,
		Flags:  wire.FlagSYN | wire.FlagACK,
		Window: uint16(min(params.RecvBuffer, 65535)),
		MSS:    uint16(p.advMSS()),
	}}
	if syn.HasTS && !params.NoTimestamps {
		bits := uint32(cookieNoScale)
		if syn.HasWScale && !params.NoWindowScale {
			bits = uint32(min(syn.WScale, 14))
			out.HasWScale, out.WScale = true, params.WindowScale()
		}
		if syn.SACKPermitted && !params.NoSACK {
			bits |= cookieSACK
			out.SACKPermitted = true
		}
		// Replace the low bits of the timestamp. The result must not be in the future, because later
		// timestamps would then look old.
		ts := tcp.Timestamp(now, p.tsOffset)
		v := ts&^(1<<cookieTSBits-1) | bits
		if int32(v-ts) > 0 {
			v -= 1 << cookieTSBits
		}
		out.HasTS, out.TSVal, out.TSEcr = true, v, syn.TSVal
	}
	s.counts.synCookiesSent.Add(1)
	s.sendLone(local, remote, zone, &out)
}

// takeCookie opens a connection if the ACK seg, in the packet in, has a valid cookie. If the listener's queue is
// full, memory is short, or there is no route to the peer, takeCookie drops seg instead. The result is true in
// both cases. It is false if seg has no valid cookie, or the listener is closed.
func (l *TCPListener) takeCookie(in *packet, local, remote netip.AddrPort, zone int, seg *tcp.Segment) bool {
	s := l.s
	if at := l.overflowAt.Load(); at == 0 || s.now()-tcp.Time(at) > (cookieLife+1)*cookiePeriod {
		return false
	}
	iss, irs := tcp.Seq(seg.Ack-1), seg.Seq-1
	mss := int(iss>>24) & 7
	for age := range uint32(cookieLife) {
		if want, ok := s.cookie(local, remote, irs, s.cookieCount()-age, mss); !ok || want != iss {
			continue // not a cookie of that period
		}
		if l.full() {
			in.drop(dropAcceptQueue) // the peer's next segment has the cookie again
			return true
		}
		// Rebuild the SYN from the cookie.
		syn := tcp.Segment{TCP: wire.TCP{
			Seq: irs, Flags: wire.FlagSYN, MSS: cookieMSS()[mss], Window: seg.Window,
		}}
		if seg.HasTS {
			syn.HasTS, syn.TSVal = true, seg.TSVal
			bits := seg.TSEcr & (1<<cookieTSBits - 1)
			syn.SACKPermitted = bits&cookieSACK != 0
			if w := bits & 15; w != cookieNoScale {
				syn.HasWScale, syn.WScale = true, uint8(w)
			}
		}
		p, err := s.sharedRoute(remote.Addr(), local.Addr(), zone)
		if err != nil || p.group {
			in.drop(dropNoReply)
			return true
		}
		if !s.admits(s.now()) {
			in.drop(dropTCPMemory)
			return true
		}
		s.counts.synCookiesTaken.Add(1)
		now := s.now()
		return l.open(now, local, remote, p, func(t *TCP, cfg tcp.Config) {
			cfg.ISS = iss
			t.conn.AcceptCookie(now, cfg, &syn)
			t.conn.Segment(now, seg)
		})
	}
	s.counts.synCookiesBad.Add(1)
	return false
}
