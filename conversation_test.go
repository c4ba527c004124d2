package usernet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing/synctest"
	"time"
)

// A conversation describes what both ends of one TCP connection do: how much each writes, in what
// pieces and with what pauses, when it starts reading, and how it ends. The fuzzer of hosts, the
// soak, and the tests of options that change during a transfer consist of conversations.
//
// The client's stream starts with the number of the conversation, by which the server identifies
// the conversation. All bytes follow a pattern that depends on their offset, so each read is verified
// at once.
type conversation struct {
	id   uint64
	side [2]speaker // the client, the server

	mu         sync.Mutex
	began      time.Time
	identified bool    // the server has identified the conversation
	done       [2]bool // the side has ended
	errs       []error
}

// A speaker describes one side of a conversation.
type speaker struct {
	total     int           // bytes to write, without the number of the conversation
	writeMax  int           // maximum length of a Write
	readMax   int           // maximum length of a Read
	readAfter time.Duration // delay before the first Read
	pause     time.Duration // maximum time between two calls
	interrupt float64       // probability that a call has a deadline that may pass during it
	readFrom  bool          // write with ReadFrom
	writeTo   bool          // read with WriteTo
	sndbuf    int           // SetWriteBuffer; 0: none
	rcvbuf    int           // SetReadBuffer; 0: none
	fiddlers  int           // goroutines that change options at the same time
	end       ending
}

// An ending is how a side ends its conversation.
type ending uint8

const (
	endPolitely ending = iota // CloseWrite, read to io.EOF, Close when all data has arrived
	endAfter                  // the same, but CloseWrite only after io.EOF was read
	endLinger                 // as endPolitely, with a linger time for Close
	endClose                  // Close after the last Write; the other side writes nothing
	endRudely                 // Close at any time, possibly with a reset
)

// conversationLimit is the virtual time after which a conversation counts as hanging.
const conversationLimit = 2 * time.Hour

// randomConversation returns a random conversation. All its bytes arrive unless the wire is cut. A side writes at most
// the given number of bytes, or that many more than the windows hold.
func randomConversation(id uint64, r *rand.Rand, most int) *conversation {
	c := &conversation{id: id}
	pause := func(d ...time.Duration) time.Duration { return d[r.IntN(len(d))] }
	for i := range c.side {
		s := &c.side[i]
		s.total = [...]int{0, r.IntN(10), r.IntN(3000), r.IntN(max(most/4, 1)), r.IntN(most)}[r.IntN(5)]
		s.writeMax = max(1+r.IntN(100_000)>>r.IntN(12), s.total/50+1)
		s.readMax = max(1+r.IntN(100_000)>>r.IntN(12), most/100+500)
		s.pause = pause(0, 0, time.Millisecond, 50*time.Millisecond, 300*time.Millisecond)
		s.readAfter = pause(0, 0, 100*time.Millisecond, 3*time.Second, 25*time.Second)
		s.interrupt = [...]float64{0, 0, 0.3}[r.IntN(3)]
		s.readFrom, s.writeTo = r.IntN(5) == 0, r.IntN(5) == 0
		if r.IntN(2) == 0 {
			s.sndbuf = 1 << (10 + r.IntN(9))
		}
		if r.IntN(2) == 0 {
			s.rcvbuf = 1 << (10 + r.IntN(9))
		}
		s.end = [...]ending{endPolitely, endPolitely, endLinger, endAfter}[r.IntN(4)]
	}
	if c.side[0].end == endAfter {
		c.side[1].end = endPolitely // otherwise the sides would wait for each other
	}
	if r.IntN(5) == 0 {
		// Both sides write more than the windows hold before either reads.
		wait := pause(time.Second, 10*time.Second, 25*time.Second)
		for i := range c.side {
			s := &c.side[i]
			s.rcvbuf, s.sndbuf = 4096<<r.IntN(4), 4096<<r.IntN(4)
			s.total = 3*s.sndbuf + 32<<10 + r.IntN(most)
			s.writeMax, s.readMax, s.pause = max(s.writeMax, 3000), max(s.readMax, 3000), min(s.pause, time.Millisecond)
			s.readAfter = wait + time.Duration(r.IntN(2)*r.IntN(100))*time.Millisecond
			s.end = endPolitely
		}
		return c
	}
	if r.IntN(6) == 0 {
		i := r.IntN(2)
		c.side[i].end, c.side[i].total = endClose, max(c.side[i].total, 1)
		c.side[1-i].end, c.side[1-i].total = endPolitely, 0
	}
	return c
}

func (c *conversation) fail(me int, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.errs = append(c.errs, fmt.Errorf("conversation %d, %s, after %v: %w", c.id, [...]string{"client", "server"}[me], time.Since(c.began), fmt.Errorf(format, args...)))
}

// Err returns the conversation's error, after both sides have ended.
func (c *conversation) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	// A rude side may end before the client has sent the number.
	rude := c.side[0].end == endRudely || c.side[1].end == endRudely
	if !rude && (!c.done[0] || !c.done[1]) {
		c.errs = append(c.errs, fmt.Errorf("conversation %d: client ended %v, server ended %v", c.id, c.done[0], c.done[1]))
	}
	if len(c.errs) > 0 {
		c.errs = append(c.errs, fmt.Errorf("client %+v, server %+v", c.side[0], c.side[1]))
	}
	return errors.Join(c.errs...)
}

// patternPeriod is the period of the pattern. It is a prime, so that data shifted by a power of two
// does not match.
const patternPeriod = 65521

var pattern = func() []byte {
	b := make([]byte, 2*patternPeriod)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range patternPeriod {
		b[i] = byte(r.Uint32())
	}
	copy(b[patternPeriod:], b)
	return b
}()

// text returns up to n bytes of a side's stream, from offset off.
func (c *conversation) text(side, off, n int) []byte {
	// Streams of different conversations and sides begin at different places of the pattern.
	at := (uint64(off) + c.id*7919 + uint64(side)*31337) % patternPeriod
	return pattern[at:][:min(n, patternPeriod)]
}

// verify reports whether p equals a side's stream from offset off.
func (c *conversation) verify(side, off int, p []byte) bool {
	for len(p) > 0 {
		want := c.text(side, off, len(p))
		if !bytes.Equal(want, p[:len(want)]) {
			return false
		}
		off, p = off+len(want), p[len(want):]
	}
	return true
}

// run runs one side of a conversation. It returns when both directions have ended.
func (c *conversation) run(conn *TCPConn, me int, seed uint64) {
	s := &c.side[me]
	defer func() {
		c.mu.Lock()
		c.done[me] = true
		c.mu.Unlock()
	}()
	hung := time.AfterFunc(conversationLimit, func() {
		c.fail(me, "hangs: %+v", conn.Info())
		conn.SetLinger(0)
		conn.Close()
	})
	defer hung.Stop()
	if s.sndbuf > 0 {
		conn.SetWriteBuffer(s.sndbuf)
	}
	if s.rcvbuf > 0 {
		conn.SetReadBuffer(s.rcvbuf)
	}
	rng := func(k uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, c.id<<8|uint64(me)<<7|k)) }
	var streams, fiddlers sync.WaitGroup
	rude := s.end == endRudely || c.side[1-me].end == endRudely
	stop := make(chan struct{})
	for k := range s.fiddlers {
		fiddlers.Go(func() { c.fiddle(conn, rng(uint64(10+k)), stop) })
	}
	stopFiddlers := sync.OnceFunc(func() {
		close(stop)
		fiddlers.Wait()
	})
	if s.end == endRudely {
		r := rng(3)
		early := time.AfterFunc(time.Duration(r.Int64N(int64(3*time.Second))), func() {
			if r.IntN(2) == 0 {
				conn.SetLinger(0)
			}
			conn.Close()
		})
		defer early.Stop()
	}
	eof := make(chan struct{})
	streams.Go(func() {
		c.write(conn, me, rng(1))
		if s.end == endAfter {
			<-eof
		}
		if s.end == endClose {
			stopFiddlers()
			conn.SetLinger(-1) // a fiddler may have changed it
			conn.Close()
			return
		}
		if err := conn.CloseWrite(); err != nil && !rude {
			c.fail(me, "CloseWrite: %w", err)
		}
	})
	streams.Go(func() {
		c.read(conn, me, rng(2))
		close(eof)
	})
	streams.Wait()
	stopFiddlers()
	switch s.end {
	case endLinger:
		conn.SetLinger(20)
	case endPolitely, endAfter:
		// This stands for an application whose protocol reports that all data has arrived.
		for i := conn.Info(); i.Unacked+i.NotSent > 0 && i.State.String() != "CLOSED"; i = conn.Info() {
			time.Sleep(100 * time.Millisecond)
		}
		conn.SetLinger(-1)
	}
	if err := conn.Close(); err != nil && s.end != endClose && !rude {
		c.fail(me, "Close: %w", err)
	}
}

// A patternReader is a reader of a side's stream, for ReadFrom.
type patternReader struct {
	c       *conversation
	me, off int
	total   int
	chunk   int
}

func (p *patternReader) Read(b []byte) (int, error) {
	if p.off == p.total {
		return 0, io.EOF
	}
	n := copy(b, p.c.text(p.me, p.off, min(p.total-p.off, p.chunk)))
	p.off += n
	return n, nil
}

// write writes the whole stream of a side. It retries after deadlines.
func (c *conversation) write(conn *TCPConn, me int, r *rand.Rand) {
	s := &c.side[me]
	buf := make([]byte, min(s.writeMax, patternPeriod))
	off := 0
	for off < s.total {
		if r.Float64() < s.interrupt {
			conn.SetWriteDeadline(time.Now().Add(time.Duration(r.IntN(20_000)) * time.Microsecond))
		}
		var n int
		var err error
		if s.readFrom {
			var n64 int64
			n64, err = conn.ReadFrom(&patternReader{c, me, off, s.total, s.writeMax})
			n = int(n64)
		} else {
			p := buf[:copy(buf, c.text(me, off, min(1+r.IntN(s.writeMax), s.total-off)))]
			n, err = conn.Write(p)
			for i := range p {
				p[i] = ^p[i] // the buffer belongs to the caller again
			}
			if n < len(p) && err == nil {
				c.fail(me, "Write: %d of %d bytes and no error", n, len(p))
			}
		}
		if off += n; err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			if s.end != endRudely && c.side[1-me].end != endRudely {
				c.fail(me, "Write at %d of %d: %w", off, s.total, err)
			}
			return
		}
		if err != nil {
			time.Sleep(time.Duration(1+r.IntN(5000)) * time.Microsecond)
			conn.SetWriteDeadline(time.Time{})
		} else if s.pause > 0 {
			time.Sleep(time.Duration(r.Int64N(int64(s.pause))))
		}
	}
	if off != s.total {
		c.fail(me, "wrote %d of %d bytes", off, s.total)
	}
}

// A verifier is a writer that verifies a side's stream, for WriteTo.
type verifier struct {
	c       *conversation
	me, off int
	bad     bool
}

func (v *verifier) Write(p []byte) (int, error) {
	if !v.bad && !v.c.verify(1-v.me, v.off, p) {
		v.bad = true
		v.c.fail(v.me, "bytes from %d on (of %d) are not what was written", v.off, len(p))
	}
	v.off += len(p)
	return len(p), nil
}

// read reads the other side's stream to its end. It retries after deadlines.
func (c *conversation) read(conn *TCPConn, me int, r *rand.Rand) {
	s, other := &c.side[me], &c.side[1-me]
	v := &verifier{c: c, me: me}
	buf := make([]byte, s.readMax)
	time.Sleep(s.readAfter)
	for {
		if r.Float64() < s.interrupt {
			conn.SetReadDeadline(time.Now().Add(time.Duration(r.IntN(20_000)) * time.Microsecond))
		}
		var err error
		if s.writeTo {
			off := v.off
			var n int64
			if n, err = conn.WriteTo(v); int(n) != v.off-off {
				c.fail(me, "WriteTo: %d bytes, of which %d were written", n, v.off-off)
			}
			if err == nil {
				err = io.EOF
			}
		} else {
			var n int
			n, err = conn.Read(buf[:1+r.IntN(len(buf))])
			v.Write(buf[:n])
		}
		switch {
		case err == nil:
			if s.pause > 0 {
				time.Sleep(time.Duration(r.Int64N(int64(s.pause))))
			}
			continue
		case errors.Is(err, os.ErrDeadlineExceeded):
			time.Sleep(time.Duration(1+r.IntN(5000)) * time.Microsecond)
			conn.SetReadDeadline(time.Time{})
			continue
		case s.end == endRudely || other.end == endRudely: // any error is possible
		case s.end == endClose && errors.Is(err, net.ErrClosed): // this side has closed
		case err != io.EOF:
			c.fail(me, "Read at %d of %d: %w", v.off, other.total, err)
		case v.off != other.total:
			c.fail(me, "io.EOF at %d of %d", v.off, other.total)
		}
		if v.off > other.total {
			c.fail(me, "read %d of %d bytes", v.off, other.total)
		}
		return
	}
}

// fiddle changes options of a connection in use, for a while or until stop is closed.
func (c *conversation) fiddle(conn *TCPConn, r *rand.Rand, stop chan struct{}) {
	soon := func() time.Time {
		return time.Now().Add(time.Duration(r.IntN(40_000)-10_000) * time.Microsecond)
	}
	for range 2000 {
		select {
		case <-stop:
			return
		case <-time.After(time.Duration(1+r.IntN(30_000)) * time.Microsecond):
		}
		switch r.IntN(12) {
		case 0, 1:
			conn.SetReadBuffer(r.IntN(1 << (1 + r.IntN(20))))
		case 2, 3:
			conn.SetWriteBuffer(r.IntN(1 << (1 + r.IntN(20))))
		case 4:
			conn.SetReadDeadline(soon())
		case 5:
			conn.SetWriteDeadline(soon())
		case 6:
			conn.SetDeadline(soon())
		case 7:
			conn.SetDeadline(time.Time{})
		case 8:
			conn.SetLinger([...]int{-1, 0, 1, 60}[r.IntN(4)])
		case 9:
			conn.SetNoDelay(r.IntN(2) == 0)
		case 10:
			conn.SetKeepAliveConfig(net.KeepAliveConfig{
				Enable: r.IntN(2) == 0, Idle: time.Duration(10+r.IntN(20)) * time.Second, Interval: 15 * time.Second, Count: 9,
			})
		case 11:
			conn.SetTOS(r.IntN(256))
			conn.SetTTL(32 + r.IntN(200))
			conn.Info()
		}
	}
}

// A forum holds the conversations between the clients of one host and the server of another.
type forum struct {
	seed  uint64
	tries int // maximum number of dials; some may fail because the wire loses many frames
	mu    sync.Mutex
	open  map[uint64]*conversation
	serve sync.WaitGroup
}

func newForum(seed uint64) *forum {
	return &forum{seed: seed, tries: 1, open: make(map[uint64]*conversation)}
}

// accept serves the conversations of a listener until it is closed.
func (f *forum) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		f.serve.Go(func() { f.answer(conn.(*TCPConn)) })
	}
}

func (f *forum) answer(conn *TCPConn) {
	var b [8]byte
	conn.SetReadDeadline(time.Now().Add(conversationLimit))
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		conn.Close() // the client gave up and reports the reason
		return
	}
	conn.SetReadDeadline(time.Time{})
	f.mu.Lock()
	c := f.open[binary.BigEndian.Uint64(b[:])]
	f.mu.Unlock()
	if c == nil {
		conn.Close() // a forged connection
		return
	}
	c.mu.Lock()
	c.identified = true
	c.mu.Unlock()
	c.run(conn, 1, f.seed)
}

// converse has a conversation with the server that dial connects to.
func (f *forum) converse(dial func() (net.Conn, error), c *conversation) {
	f.mu.Lock()
	f.open[c.id] = c
	c.began = time.Now()
	f.mu.Unlock()
	var conn net.Conn
	var err error
	for range f.tries {
		if conn, err = dial(); err == nil {
			break
		}
	}
	if err != nil {
		c.fail(0, "%w", err)
		return
	}
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], c.id)
	if _, err := conn.Write(b[:]); err != nil {
		c.fail(0, "Write of the number: %w", err)
	}
	c.run(conn.(*TCPConn), 0, f.seed)
}

// accepted waits until the server has identified every conversation, but ten minutes at most: the
// connections of some clients never arrive. Some clients may have closed their connection long before.
func (f *forum) accepted() {
	missing := func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for _, c := range f.open {
			c.mu.Lock()
			identified := c.identified
			c.mu.Unlock()
			if !identified {
				return true
			}
		}
		return false
	}
	for began := time.Now(); missing() && time.Since(began) < 10*time.Minute; {
		time.Sleep(100 * time.Millisecond)
	}
}

// end waits for the servers and returns the errors of all conversations.
func (f *forum) end() error {
	f.serve.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for _, c := range f.open {
		if err := c.Err(); err != nil {
			errs = append(errs, err)
		}
	}
	clear(f.open)
	return errors.Join(errs...)
}

// bubbleGoroutines returns the number of goroutines in the caller's bubble, including the caller.
func bubbleGoroutines() (n int) {
	synctest.Wait()
	buf := make([]byte, 4<<20)
	mine := ""
	// A stack begins with a line as in "goroutine 7 [running, synctest bubble 3]:".
	for i, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		head, _, _ := strings.Cut(g, "\n")
		_, bubble, in := strings.Cut(head, "synctest bubble ")
		bubble, _, _ = strings.Cut(strings.TrimRight(bubble, "]:"), ",")
		if i == 0 {
			mine = bubble // the caller is the first
		}
		if in && bubble == mine {
			n++
		}
	}
	return n
}
