package iperf

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/stack"
)

// An informed connection tells the state of TCP, as those of usernet do and those of the kernel do not.
type informed interface{ Info() stack.TCPInfo }

// A stream is one data stream of a test.
type stream struct {
	id     int
	sender bool // this side sends
	udp    bool
	wide   bool // datagrams have 64-bit counters
	conn   net.Conn

	bytes   atomic.Int64 // sent or received
	packets atomic.Int64 // the sender's datagrams; at a receiver, the highest number of a datagram
	last    atomic.Int64 // when data was last sent or received, in ns after the start of the test

	mu sync.Mutex
	// What a receiver of datagrams knows beside.
	lost, disorder  int64
	jitter, transit float64 // seconds
	any             bool    // a datagram was received
	final           bool    // no further datagram counts

	// What a TCP sender knows; Retransmits is -1 if it does not.
	retransmits, maxCwnd int64

	done chan struct{} // closed when the goroutine of the stream has ended
}

// streamID returns the ID of the stream that was created as number i, from 0. iperf3 leaves 2 out.
func streamID(i int) int {
	if i == 0 {
		return 1
	}
	return i + 2
}

// headerSize returns the size of the header of a datagram: the time in seconds and microseconds, and a counter.
func headerSize(wide bool) int {
	if wide {
		return 16
	}
	return 12
}

// putHeader writes the header of datagram n.
func putHeader(b []byte, wide bool, n int64, now time.Time) {
	binary.BigEndian.PutUint32(b, uint32(now.Unix()))
	binary.BigEndian.PutUint32(b[4:], uint32(now.Nanosecond()/1000))
	if wide {
		binary.BigEndian.PutUint64(b[8:], uint64(n))
	} else {
		binary.BigEndian.PutUint32(b[8:], uint32(n))
	}
}

// parseHeader returns what putHeader wrote. It reports false if b is too short, or if the number is none that
// a test can reach.
func parseHeader(b []byte, wide bool) (n int64, sec, usec uint32, ok bool) {
	if len(b) < headerSize(wide) {
		return 0, 0, 0, false
	}
	sec, usec = binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if wide {
		count := binary.BigEndian.Uint64(b[8:])
		return int64(count), sec, usec, count <= maxCount
	}
	return int64(binary.BigEndian.Uint32(b[8:])), sec, usec, true
}

// datagram counts a received datagram. It reports false if it does not count.
//
// Like iperf3, it counts the numbers that a datagram skips as lost. A datagram that comes after one with a
// higher number is out of order, and one less is lost.
func (s *stream) datagram(b []byte, now time.Time, since time.Duration) bool {
	n, sec, usec, ok := parseHeader(b, s.wide)
	if !ok {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.final {
		return false
	}
	s.bytes.Add(int64(len(b)))
	s.last.Store(int64(since))
	if highest := s.packets.Load(); n > highest {
		s.lost += n - 1 - highest
		s.packets.Store(n)
	} else {
		s.disorder++
		s.lost = max(s.lost-1, 0)
	}
	// RFC 3550 6.4.1: "J(i) = J(i-1) + (|D(i-1,i)| - J(i-1))/16". D is the difference of the transit times, so
	// that the clocks of the two sides need not agree.
	transit := float64(now.Unix()-int64(sec)) + (float64(now.Nanosecond())/1e3-float64(usec))/1e6
	if s.any {
		d := transit - s.transit
		s.jitter += (max(d, -d) - s.jitter) / 16
	}
	s.transit, s.any = transit, true
	return true
}

// loss returns what the stream has counted as a receiver of datagrams.
func (s *stream) loss() (lost, disorder int64, jitter float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost, s.disorder, s.jitter
}

// tcpInfo returns the state of the connection, and false if it is not known.
func (s *stream) tcpInfo() (stack.TCPInfo, bool) {
	c, ok := s.conn.(informed)
	if !ok {
		return stack.TCPInfo{}, false
	}
	return c.Info(), true
}

// sample notes the retransmissions and the congestion window of a TCP sender.
func (s *stream) sample() (info stack.TCPInfo, ok bool) {
	if s.udp || !s.sender {
		return info, false
	}
	if info, ok = s.tcpInfo(); ok {
		s.retransmits = int64(info.Retrans)
		s.maxCwnd = max(s.maxCwnd, int64(info.SndCwnd))
	}
	return info, ok
}

// A budget is how many bytes the senders of one side may still send.
type budget struct {
	limited bool
	left    atomic.Int64
}

// take returns how many bytes a sender may send, up to n. TCP sends exactly what is left; for datagrams the
// last one is whole.
func (b *budget) take(n int, whole bool) int {
	if !b.limited {
		return n
	}
	for {
		left := b.left.Load()
		if left <= 0 {
			return 0
		}
		take := min(int64(n), left)
		if b.left.CompareAndSwap(left, left-take) {
			if whole {
				return n
			}
			return int(take)
		}
	}
}

// dueAfter returns when, after the start, a sender at rate bits per second may send what follows sent bytes.
func dueAfter(sent, rate int64) time.Duration {
	hi, lo := bits.Mul64(uint64(sent)*8, uint64(time.Second))
	if hi >= uint64(rate) {
		return maxDuration * 2
	}
	d, _ := bits.Div64(hi, lo, uint64(rate))
	return time.Duration(min(d, uint64(maxDuration*2)))
}

// pace waits until the stream may send. It reports false if the test ends before.
func (t *test) pace(s *stream) bool {
	if t.Rate == 0 {
		return !t.stopped()
	}
	due := dueAfter(s.bytes.Load(), t.Rate)
	if !t.server && t.Duration > 0 && due >= t.Duration {
		<-t.stop // the end comes first
		return false
	}
	return t.pause(due - t.since())
}

// pause waits for d. It reports false if the test ends before.
func (t *test) pause(d time.Duration) bool {
	if d <= 0 {
		return !t.stopped()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.stop:
		return false
	}
}

// send sends until the test ends or the budget is used up.
func (t *test) send(s *stream) error {
	block := t.pattern[:t.Block]
	if t.UDP {
		block = append([]byte(nil), block...) // each stream has headers of its own
	}
	for t.pace(s) {
		n := t.budget.take(t.Block, t.UDP)
		if n == 0 {
			return nil
		}
		if t.UDP {
			putHeader(block, t.Wide, s.packets.Load()+1, time.Now())
		}
		n, err := s.conn.Write(block[:n])
		if n > 0 {
			s.last.Store(int64(t.since()))
			s.bytes.Add(int64(n))
			if t.UDP {
				s.packets.Add(1)
			}
		}
		switch {
		case err == nil:
		case t.stopped():
			return nil
		case t.UDP && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded):
			// A datagram that cannot be sent now, for example because of an ICMP error or a full queue, is
			// no failure of the test. The next one gets its number.
			t.budget.left.Add(int64(t.Block))
			if !t.pause(time.Millisecond) {
				return nil
			}
		default:
			return err
		}
	}
	return nil
}

// maxRead is the size of the buffer of a TCP receiver, at most.
const maxRead = 128 << 10

// receive reads until the end of the stream, or until finish sets a deadline.
func (t *test) receive(s *stream) error {
	size := min(t.Block, maxRead)
	if t.UDP {
		size = maxUDPBlock + 1
	}
	buf := make([]byte, size)
	for {
		n, err := s.conn.Read(buf)
		switch {
		case n > 0 && t.UDP:
			t.receivedDatagram(s, buf[:n])
		case n > 0:
			s.last.Store(int64(t.since()))
			s.bytes.Add(int64(n))
			t.count(n)
		}
		switch {
		case err == nil:
		case t.ending.Load():
			return nil
		case t.UDP && !errors.Is(err, net.ErrClosed) && !errors.Is(err, os.ErrDeadlineExceeded):
			// An ICMP error does not end the test: see ErrStalled.
			if !t.pause(time.Millisecond) {
				return nil
			}
		default:
			return endOf(err)
		}
	}
}

// receivedDatagram counts a datagram.
func (t *test) receivedDatagram(s *stream, b []byte) {
	if s.datagram(b, time.Now(), t.since()) {
		t.count(len(b))
	}
}

// count adds to the bytes that this side has received, and ends a test that has received enough.
func (t *test) count(n int) {
	if total := t.received.Add(int64(n)); t.Bytes > 0 && total >= t.Bytes && total-int64(n) < t.Bytes {
		close(t.enough)
	}
}
