package tcp

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// A thinPath is a path between two programs on one machine: a TAP that passes on super-segments whole.
type thinPath struct {
	name string
	rate int64 // bytes per millisecond
	rtt  Time
	lose int // every lose-th data segment is lost; 0: none

	sendBuffer int        // fixed size of the sender's buffer; 0: auto-tuning
	recvBuffer int        // fixed size of the receiver's buffer; 0: auto-tuning
	cc         Congestion // the sender's
	cwnd       int        // maximum of the sender's congestion window; 0: none
	wire       bool       // the segments come from a wire, merged by the kernel's GRO
	nagle      bool
	chunk      int  // bytes of each write of the sender's application; 0: 256 KB
	pause      Time // time from one write to the next
	request    int  // bytes after which the sender's application waits for a reply; 0: it never does
	lateness   Time // how late the receiver's timers are
}

// A thinResult is what a transfer over a thinPath has taken.
type thinResult struct {
	time     Time
	acks     int // segments of the receiver
	covered  int // the most bytes that an ACK has covered
	late     int // delayed ACKs
	snd, rcv Info
}

// transfer sends data over the path, in virtual time. The sender always has data, and the receiver reads
// at once. Both are a Conn. In slow start the sender counts bytes, as Linux does.
func (l *thinPath) transfer(t *testing.T, data []byte, off bool) (res thinResult) {
	type event struct {
		at  Time
		seg Segment
	}
	var snd, rcv Conn
	ps, pr := DefaultParams(), DefaultParams()
	pr.NoACKThinning = off
	ps.Congestion = l.cc
	pr.Count = func(k Counter, n int) {
		if k == DelayedACKs {
			res.late += n
		}
	}
	now, free := Time(1), Time(0)
	var toRcv, toSnd []event
	snd.Open(now, Config{Params: &ps, ISS: 1000, MSS: thinMSS, GSO: 65000, NoDelay: !l.nagle})
	if l.sendBuffer > 0 {
		snd.SetSendLimit(l.sendBuffer)
	}
	written, read, sent := 0, 0, 0
	chunk := l.chunk
	if chunk == 0 {
		chunk = 256 << 10
	}
	rest, ready := 0, Time(1)
	asked, replyAt := 0, Time(0) // bytes of the requests so far, and when the reply to the last one arrives; 0: not known
	var seg Segment
	work := func() {
		if l.cwnd > 0 {
			snd.cc.cwnd = min(snd.cc.cwnd, l.cwnd)
		}
		for snd.State().synchronized() && written < len(data) {
			if rest == 0 {
				if now < ready || l.request > 0 && written == asked && written > 0 && (replyAt == 0 || now < replyAt) {
					break
				}
				rest, ready = min(chunk, len(data)-written), now+l.pause
				if l.request > 0 {
					if written == asked {
						asked, replyAt = min(asked+l.request, len(data)), 0
					}
					rest = min(rest, asked-written)
				}
			}
			n := snd.Write(now, data[written:written+rest])
			written += n
			if rest -= n; n == 0 {
				break
			}
		}
		if written == len(data) {
			snd.CloseWrite(now)
		}
		for snd.Next(now, &seg) {
			s := seg
			s.Payload = append(append([]byte(nil), s.Payload...), s.Payload2...)
			s.Payload2, s.Local = nil, !l.wire || s.GSOSize > 0
			if n := s.DataLen(); n > 0 {
				if sent++; l.lose > 0 && sent%l.lose == 0 {
					continue
				}
				free = max(free, now) + Time(n)*Millisecond/Time(l.rate)
			}
			toRcv = append(toRcv, event{max(free, now) + l.rtt/2, s})
		}
	}
	answer := func() {
		if rcv.p == nil {
			return
		}
		for last := rcv.rcv.lastAck; rcv.Next(now, &seg); last = rcv.rcv.lastAck {
			s := seg
			s.Local = !l.wire
			res.acks++
			res.covered = max(res.covered, int(Seq(s.Ack)-last))
			toSnd = append(toSnd, event{now + l.rtt/2, s})
		}
	}
	buf := make([]byte, 256<<10)
	for work(); ; {
		next := Time(0)
		for _, q := range [][]event{toRcv, toSnd} {
			if len(q) > 0 {
				next = earliest(next, q[0].at)
			}
		}
		if d, ok := snd.Deadline(); ok {
			next = earliest(next, d)
		}
		if rcv.p != nil {
			if d, ok := rcv.Deadline(); ok {
				next = earliest(next, d+l.lateness)
			}
		}
		if rest == 0 && written < len(data) {
			if ready > now {
				next = earliest(next, ready)
			}
			if replyAt > now {
				next = earliest(next, replyAt)
			}
		}
		require.NotZero(t, next, "%s: %d of %d bytes", l.name, read, len(data))
		require.Less(t, now, 1000*Second)
		now = max(now, next)
		if d, ok := snd.Deadline(); ok && d <= now {
			snd.Tick(now)
		}
		if rcv.p != nil {
			if d, ok := rcv.Deadline(); ok && d+l.lateness <= now {
				rcv.Tick(now)
				answer()
			}
		}
		for len(toSnd) > 0 && toSnd[0].at <= now {
			snd.Segment(now, &toSnd[0].seg)
			toSnd = toSnd[1:]
			work()
		}
		for len(toRcv) > 0 && toRcv[0].at <= now {
			s := toRcv[0].seg
			toRcv = toRcv[1:]
			if rcv.p == nil {
				rcv.Accept(now, Config{Params: &pr, ISS: 1 << 31, MSS: thinMSS, NoDelay: true}, &s)
				if l.recvBuffer > 0 {
					rcv.SetRecvLimit(l.recvBuffer)
				}
			} else {
				rcv.Segment(now, &s)
			}
			for n := rcv.Read(now, buf); n > 0; n = rcv.Read(now, buf) {
				require.True(t, bytes.Equal(buf[:n], data[read:read+n]), "%s: byte %d", l.name, read)
				read += n
			}
			if l.request > 0 && read == asked && replyAt == 0 {
				replyAt = now + l.rtt/2
			}
			answer()
		}
		work()
		if rcv.p != nil && rcv.AtEOF() {
			break
		}
	}
	require.Equal(t, len(data), read, l.name)
	res.time, res.snd, res.rcv = now, snd.Info(now), rcv.Info(now)
	return res
}

// thinPaths returns the paths of TestThinningSlowsNoSenderDown.
func thinPaths() []thinPath {
	paths := []thinPath{{name: "defaults"}, {name: "a wire behind a bridge", wire: true}}
	for _, cc := range []Congestion{CUBIC, NewReno, BBR} {
		for _, rate := range []int64{125_000, 1_250_000, 5_000_000} { // 1, 10 and 40 Gbit/s
			for _, rtt := range []Time{20 * Microsecond, 100 * Microsecond, 500 * Microsecond, 5 * Millisecond} {
				paths = append(paths, thinPath{name: "rates and delays", cc: cc, rate: rate, rtt: rtt})
			}
		}
	}
	for _, n := range []int{32, 64, 100, 128, 150, 200, 256, 300, 400, 512, 1024} {
		for _, rtt := range []Time{20 * Microsecond, 200 * Microsecond} {
			paths = append(paths,
				thinPath{name: "a small send buffer", sendBuffer: n << 10, rtt: rtt},
				thinPath{name: "a small send buffer and Nagle", sendBuffer: n<<10 + 7, rtt: rtt, nagle: true},
				thinPath{name: "a small receive buffer", recvBuffer: n << 10, rtt: rtt},
				thinPath{name: "a small congestion window", cwnd: n << 10, rtt: rtt},
			)
		}
	}
	for _, chunk := range []int{1000, thinSuper, 300_000, 1_000_000} {
		paths = append(paths, thinPath{name: "an application that writes from time to time", chunk: chunk, pause: Time(chunk) * 10})
	}
	for _, request := range []int{300_000, 1 << 20, 4 << 20, 8 << 20} {
		for _, chunk := range []int{30_000, 40_000, 300_000, request} {
			for _, lateness := range []Time{0, 300 * Microsecond, 900 * Microsecond} {
				paths = append(paths, thinPath{name: "requests and Nagle", request: request, chunk: chunk, nagle: true,
					recvBuffer: 512 << 10, rate: 2_500_000, lateness: lateness})
			}
		}
	}
	for _, n := range []int{80, 100, 150, 190, 200, 220, 300} {
		for _, rate := range []int64{125_000, 250_000, 400_000, 450_000, 600_000} {
			paths = append(paths, thinPath{name: "a small send buffer and a slow path", sendBuffer: n << 10, rate: rate, recvBuffer: 512 << 10})
		}
		paths = append(paths, thinPath{name: "a slow application and a small send buffer", sendBuffer: n << 10, chunk: 12_500, pause: 50 * Microsecond,
			recvBuffer: 512 << 10})
	}
	paths = append(paths, thinPath{name: "loss", lose: 500}, thinPath{name: "loss with BBR", lose: 500, cc: BBR})
	for i := range paths {
		l := &paths[i]
		if l.rate == 0 {
			l.rate = 5_000_000
		}
		if l.rtt == 0 {
			l.rtt = 20 * Microsecond
		}
	}
	return paths
}

// TestThinningSlowsNoSenderDown transfers the same data with and without ACK thinning. The results must be
// the same except for the number of ACKs, and the transfer must not take longer. A sender that cannot
// send thinBytes and more without an ACK stops for about 1 % of the time.
func TestThinningSlowsNoSenderDown(t *testing.T) {
	const size = 24 << 20
	all := make([]byte, size)
	for n := 0; n < size; n += copy(all[n:], simPattern[:simPeriod]) {
	}
	for _, l := range thinPaths() {
		name := fmt.Sprintf("%+v", l)
		data := all
		switch {
		case l.name == "defaults":
		case l.rate < 1_000_000, l.chunk > 0 && l.request == 0:
			data = all[:size/4]
		case racing:
			data = all[:size/3]
		}
		on, off := l.transfer(t, data, false), l.transfer(t, data, true)
		require.LessOrEqual(t, on.time, off.time+off.time*2/stallShare+2*thinDelay+l.lateness+l.rtt, name)
		require.Equal(t, off.rcv.BytesReceived, on.rcv.BytesReceived, name)
		require.LessOrEqual(t, off.covered, 2*65000, name)
		require.LessOrEqual(t, on.covered, thinBytes+2*65000+int(l.rate*int64(thinRTT)/int64(Millisecond)), name)
		if l.lose == 0 {
			require.Zero(t, on.snd.Retrans, name)
			require.Zero(t, off.snd.Retrans, name)
		}
		switch l.name {
		case "defaults":
			require.Less(t, 2*on.acks, off.acks)
		case "a wire behind a bridge":
			require.Equal(t, off, on)
		}
	}
}
