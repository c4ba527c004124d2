package stack

import (
	"encoding/binary"
	"net/netip"

	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// SYN cookies (RFC 4987 3.6): when a listener's queue of half-open connections
// is full, it keeps nothing of a further SYN. All that it has to know later is
// in the SYN,ACK's sequence number, and comes back in the acknowledgement:
//
//	5 bits   a counter of cookiePeriod
//	3 bits   which of cookieMSS the peer can receive
//	24 bits  a keyed hash of the addresses, the ports, the peer's sequence
//	         number, and the eight bits above; the key is another in each period
//
// With timestamps, the low six bits of ours carry what else the SYN offered:
// four bits of window scale (15: none) and one for SACK; so that a connection
// made under attack is as good as any.
const (
	cookiePeriod  = 64 * tcp.Second
	cookieTSBits  = 6
	cookieNoScale = 15
	cookieSACK    = 1 << 4
	cookieLife    = 2 // periods for which an acknowledgement is believed
)

// cookieMSS returns the values that a cookie can carry: those that are common,
// in growing order, and the least that there can be (RFC 791 3.2, with RFC 9293 3.7.1).
// The largest that is not more than the peer's is used.
func cookieMSS() [8]uint16 { return [8]uint16{28, 256, 536, 1024, 1220, 1440, 1460, 8960} }

// cookieKeys are the secrets of the cookies of this period and of the one before. A secret
// that was guessed, or found by many trials, is of no use in the next period.
type cookieKeys struct {
	mu        mutex[levelTable]
	count     uint32 // the period that cur is for
	cur, prev hashKey
	made      bool // cur is
	before    bool // prev is that of the period before
}

// cookieKey returns the secret of a period, and whether there is one: that of this period,
// or of the one before if a cookie was made or looked at in it.
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

// cookie makes the initial sequence number of a SYN,ACK for a period. It reports false where
// there is no secret for that.
func (s *Stack) cookie(local, remote netip.AddrPort, irs, count uint32, mss int) (tcp.Seq, bool) {
	key, ok := s.cookieKey(count)
	if !ok {
		return 0, false
	}
	top := count<<3&0xff | uint32(mss)
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

func (s *Stack) cookieCount() uint32 { return uint32(s.now() / cookiePeriod) }

// sendCookie answers a SYN for which there is no room. l.mu is not held.
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
		return // the period has just ended: the peer tries again
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
		// The value must not be in the future: later ones would be older.
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

// takeCookie makes a connection of an acknowledgement that carries a cookie of
// ours. It reports false when it does not.
func (l *TCPListener) takeCookie(local, remote netip.AddrPort, zone int, seg *tcp.Segment) bool {
	s := l.s
	if at := l.overflowAt.Load(); at == 0 || s.now()-tcp.Time(at) > (cookieLife+1)*cookiePeriod {
		return false
	}
	iss, irs := tcp.Seq(seg.Ack-1), seg.Seq-1
	mss := int(iss>>24) & 7
	for age := range uint32(cookieLife) {
		if want, ok := s.cookie(local, remote, irs, s.cookieCount()-age, mss); !ok || want != iss {
			continue
		}
		if l.full() {
			s.drop(dropAcceptQueue) // as if it were lost: the peer comes back with what it sends next
			return true
		}
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
			s.drop(dropNoReply)
			return true
		}
		if !s.admits(s.now()) {
			s.drop(dropTCPMemory)
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
