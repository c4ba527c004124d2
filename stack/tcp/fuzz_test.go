package tcp

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/stack/wire"
)

// A fuzzRun runs an op string on a Conn. An op is a segment with any fields, a call of the application,
// or the passing of time.
type fuzzRun struct {
	ops           []byte
	c             Conn
	p             Params
	now           Time
	full          bool // the host is under memory pressure
	written, read int  // bytes of the application
	una, nxt      Seq  // SND.UNA and SND.NXT at the last call of watch
	rnxt, edge    Seq  // RCV.NXT and the right edge of the window, at the same time
	state         State
	peerISS       Seq
	peerClock     uint32 // the peer's timestamp clock
	log           []string
	quiet         bool   // note does nothing
	await         []byte // the buffer that is registered with Await, or nil
}

// byte removes the first byte of the op string and returns it, or 0 at the end of the string.
func (f *fuzzRun) byte() int {
	if len(f.ops) == 0 {
		return 0
	}
	b := f.ops[0]
	f.ops = f.ops[1:]
	return int(b)
}

// size decodes a number of bytes: any number below 128, or a larger number near a limit of the code.
func (f *fuzzRun) size() int {
	b := f.byte()
	if b < 128 {
		return b
	}
	return [...]int{255, 500, 536, 537, 999, 1000, 1001, 1460, 2000, 2921, 4096, 9000, 16384, 32768, 65000, 65535}[b%16] + b/16 - 8
}

// note adds a line to the log.
func (f *fuzzRun) note(format string, args ...any) {
	if !f.quiet {
		f.log = append(f.log, fmt.Sprintf(format, args...))
	}
}

// place returns a sequence number at or near a number of the list near. One in sixteen is far away.
func (f *fuzzRun) place(near ...Seq) Seq {
	b := f.byte()
	x := near[b%len(near)]
	switch b / 16 {
	case 0, 1, 2, 3, 4, 5, 6:
		return x
	case 7, 8, 9:
		return x + Seq(f.size())
	case 10, 11:
		return x - Seq(f.size())
	case 12:
		return x + 1
	case 13:
		return x - 1
	case 14:
		return x + 1<<31
	}
	return x + Seq(f.byte())<<24
}

const fuzzISS, fuzzIRS = Seq(0xffffff00), Seq(0x7ffffff0)

// open makes the Conn as the first bytes say.
func (f *fuzzRun) open() {
	a, b := f.byte(), f.byte()
	f.p = DefaultParams()
	f.p.NoSACK, f.p.NoTimestamps, f.p.NoWindowScale = a&1 != 0, a&2 != 0, a&4 != 0
	f.p.ECN = a&8 != 0
	f.p.Pressure = func() bool { return f.full }
	f.p.MaxRTO = 4 * Second
	if a&16 != 0 {
		f.p.Congestion = NewReno
	}
	f.p.RecvBuffer, f.p.SendBuffer = 600<<(b&7), 600<<(b>>3&7)
	f.p.RecvBufferMax, f.p.SendBufferMax = f.p.RecvBuffer<<(b>>6), f.p.SendBuffer<<(b>>6)
	size := f.byte()
	if a&16 == 0 && size&1 != 0 {
		f.p.Congestion = BBR
	}
	cfg := Config{Params: &f.p, ISS: fuzzISS, TSOffset: 0xffffff00, MSS: 100 + 10*size, NoDelay: a&32 != 0}
	if a&64 != 0 {
		cfg.GSO = 65535
	}
	f.now, f.peerISS, f.peerClock = 1, fuzzIRS, 1000
	if a&128 != 0 {
		f.c.Accept(f.now, cfg, f.segment(wire.FlagSYN, fuzzIRS, 0, 0))
	} else {
		f.c.Open(f.now, cfg)
		f.pull(nil)
		if f.byte()&1 != 0 {
			f.segmentIn(f.segment(wire.FlagSYN|wire.FlagACK, fuzzIRS, fuzzISS+1, 0))
		}
	}
	f.watch()
}

// segment returns a segment of the peer, with n bytes of text from the peer's stream at seq.
func (f *fuzzRun) segment(flags wire.TCPFlags, seq, ack Seq, n int) *Segment {
	s := &Segment{}
	s.Flags, s.Seq, s.Ack, s.Window = flags, uint32(seq), uint32(ack), 20000
	text := seq
	if flags&wire.FlagSYN != 0 {
		text++
		s.MSS, s.HasWScale, s.WScale, s.SACKPermitted = 1000, true, 3, true
		if f.p.ECN {
			s.Flags |= wire.FlagECE
			if flags&wire.FlagACK == 0 {
				s.Flags |= wire.FlagCWR
			}
		}
	}
	s.HasTS, s.TSVal, s.TSEcr = true, f.peerClock, f.c.snd.tsOffset+tsClock(f.now)
	s.Payload = fuzzText(text-fuzzIRS-1, n)
	return s
}

// fuzzText returns n bytes of the stream that both sides write, from offset off.
func fuzzText(off Seq, n int) []byte {
	i := int(off % 65536)
	return fuzzPattern[i : i+n]
}

// fuzzPattern repeats after 65536 bytes. This period divides 2^32, so offsets below 0, which wrap, have
// text too.
var fuzzPattern = func() []byte {
	b := make([]byte, 3*65536)
	for i := range b {
		b[i] = byte(i ^ i>>8&255)
	}
	return b
}()

// step runs one op.
func (f *fuzzRun) step() error {
	c := &f.c
	op := f.byte()
	late := op&0x80 != 0 // do not call pull after this op
	switch op & 0x7f % 18 {
	case 0, 1, 2, 3:
		f.segmentIn(f.anySegment())
	case 4, 5: // the next data in the peer's stream arrives
		f.segmentIn(f.segment(wire.FlagACK|wire.FlagPSH, c.rcv.nxt, c.snd.una, f.size()))
	case 6, 7: // the peer acknowledges all sent data
		f.segmentIn(f.segment(wire.FlagACK, c.rcv.nxt, c.snd.nxt, 0))
	case 8:
		n := f.size()
		got := c.Write(f.now, fuzzText(Seq(f.written), n))
		f.note("write %d of %d", got, n)
		f.written += got
	case 9:
		if err := f.readSome(f.size()); err != nil {
			return err
		}
	case 10:
		f.note("close write")
		c.CloseWrite(f.now)
	case 11:
		f.rareCall(f.byte())
	case 12:
		d := Time(1) << (f.byte() % 36)
		f.note("wait %v", d)
		f.now += d
		c.Tick(f.now)
	case 13, 14:
		if d, ok := c.Deadline(); ok {
			f.now = max(f.now, d)
			f.note("tick at %v", f.now)
			c.Tick(f.now)
		}
	case 15:
		f.peerClock += uint32(f.byte() - 64)
	case 16:
		switch n := f.size(); {
		case n&1 != 0:
			f.full = !f.full
		case f.await == nil:
			f.note("await %d", n)
			f.await = make([]byte, n)
			c.Await(f.await)
		}
	case 17:
		mss := f.size()
		f.note("path MTU %d", mss)
		c.PathMTU(f.now, mss)
	}
	if late {
		return f.check(false)
	}
	return f.pull(f)
}

// rareCall makes a call that an application makes rarely. Some of these calls end the connection.
func (f *fuzzRun) rareCall(b int) {
	c := &f.c
	f.note("call %d", b%8)
	switch b % 8 {
	case 0:
		c.Close(f.now)
	case 1:
		c.Abort(f.now)
	case 2:
		c.HardError(f.now, ErrHostUnreachable)
	case 3:
		c.SoftError(ErrNetUnreachable)
	case 4:
		c.SetRecvLimit(f.size())
	case 5:
		c.SetSendLimit(f.size())
	case 6:
		c.SetKeepAlive(f.now, KeepAlive{Idle: Time(b) * Millisecond, Interval: Second, Count: 2})
	case 7:
		c.SetNoDelay(b&8 != 0)
	}
}

// anySegment returns a segment whose fields all come from the op string.
func (f *fuzzRun) anySegment() *Segment {
	c := &f.c
	flags := wire.TCPFlags(f.byte())
	if flags&0xc0 == 0 {
		flags |= wire.FlagACK
	}
	seq := f.place(c.rcv.nxt, c.rcv.nxt+Seq(c.rcv.mss), c.rcv.edge, c.rcv.irs, c.rcv.nxt-Seq(c.rcv.mss))
	s := f.segment(flags, seq, f.place(c.snd.una, c.snd.nxt, c.snd.una+Seq(c.snd.mss), c.snd.iss), f.size())
	b := f.byte()
	if b&1 != 0 {
		s.Window = uint16(f.byte() << (b >> 5))
	}
	if b&2 != 0 {
		s.TSVal, s.TSEcr = f.peerClock+uint32(f.byte())-128, s.TSEcr+uint32(f.byte())-128
	}
	if b&4 != 0 {
		s.HasTS = false
	}
	if b&8 != 0 && len(s.Payload) > 1 {
		s.GSOSize = 1 + f.byte()%len(s.Payload)
		s.Payload, s.Payload2 = s.Payload[:s.GSOSize], s.Payload[s.GSOSize:]
	}
	s.CE = b&16 != 0
	for n := f.byte() % 16; int(s.NSACK) < min(n, 4); s.NSACK++ {
		at := f.place(c.snd.una, c.snd.una+Seq(c.snd.mss), c.snd.una+Seq(3*c.snd.mss), c.snd.nxt-Seq(c.snd.mss), c.snd.nxt)
		s.SACK[s.NSACK] = wire.SACKBlock{Start: uint32(at), End: uint32(at + Seq(f.size()))}
	}
	if flags&wire.FlagSYN != 0 {
		s.MSS, s.WScale = uint16(f.size()), uint8(f.byte()%16)
	}
	return s
}

// segmentIn passes a segment to the Conn. The payload of segments with an odd number is in the Conn's
// own buffer, if the Conn offers one.
func (f *fuzzRun) segmentIn(s *Segment) {
	c := &f.c
	f.note("< %v %d+%d ack %d win %d sack %v", s.Flags, s.Seq-uint32(c.rcv.irs), s.DataLen(), s.Ack-uint32(fuzzISS), s.Window, s.SACK[:s.NSACK])
	if room, _ := c.TakeBuffer(len(s.Payload)); s.Seq&1 != 0 && len(room) > 0 {
		s.Payload = room[:copy(room, s.Payload)]
	}
	c.Segment(f.now, s)
	c.ReturnBuffer()
}

// readSome reads up to n bytes, and compares them with the peer's stream at that offset.
func (f *fuzzRun) readSome(n int) error {
	if f.await != nil {
		buf := f.await
		f.await = nil
		if err := f.taken(buf[:f.c.Awaited(f.now)]); err != nil {
			return err
		}
	}
	buf := make([]byte, n)
	return f.taken(buf[:f.c.Read(f.now, buf)])
}

// taken compares the data that the application has read with the peer's stream.
func (f *fuzzRun) taken(buf []byte) error {
	n := len(buf)
	f.note("read %d", n)
	want := fuzzText(f.c.rcv.irs-fuzzIRS+Seq(f.read), n)
	f.read += n
	if !bytes.Equal(buf, want) {
		return fmt.Errorf("other text than was sent, in %d bytes before %d", n, f.read)
	}
	return nil
}

// pull calls Next until it returns false, and checks each segment. If check is not nil, pull then checks
// the invariants of the Conn too.
func (f *fuzzRun) pull(check *fuzzRun) error {
	var s Segment
	for n := 0; f.c.Next(f.now, &s); n++ {
		f.note("> %v %d+%d ack %d win %d", s.Flags, s.Seq-uint32(fuzzISS), s.DataLen(), s.Ack-uint32(f.c.rcv.irs), s.Window)
		if n > 3000 {
			return fmt.Errorf("Next does not end")
		}
		if err := f.sent(&s); err != nil {
			return err
		}
	}
	f.c.Events()
	if check == nil {
		return nil
	}
	return f.check(true)
}

// sent checks a segment that the Conn sends.
func (f *fuzzRun) sent(s *Segment) error {
	off := Seq(s.Seq) - fuzzISS - 1
	n := s.DataLen()
	switch {
	case n == 0:
	case int(off)+n > f.written:
		return fmt.Errorf("sends bytes %d to %d of %d", off, int(off)+n, f.written)
	case !bytes.Equal(append(append([]byte(nil), s.Payload...), s.Payload2...), fuzzText(off, n)):
		return fmt.Errorf("sends other bytes than were written at %d+%d", off, n)
	case s.GSOSize == 0 && n > largest(&f.c), s.GSOSize != 0 && s.GSOSize >= n:
		return fmt.Errorf("sends %d bytes, MSS %d, GSO size %d", n, f.c.snd.mss, s.GSOSize)
	}
	if s.has(wire.FlagURG) || s.Urgent != 0 {
		return fmt.Errorf("sends an urgent pointer %d", s.Urgent)
	}
	if s.Len() > wire.MaxTCPLen {
		return fmt.Errorf("sends a header of %d bytes", s.Len())
	}
	return nil
}

// watch records the state of the Conn with which check compares the next one.
func (f *fuzzRun) watch() {
	c := &f.c
	f.una, f.nxt, f.rnxt, f.edge, f.state = c.snd.una, c.snd.nxt, c.rcv.nxt, c.rcv.edge, c.state
}

// check checks the invariants of the Conn. Some hold only if Next has returned false, which pulled
// reports.
func (f *fuzzRun) check(pulled bool) error {
	c := &f.c
	if pulled {
		if err := checkConn(c); err != nil {
			return err
		}
		c.Deactivate(f.now) // has no effect unless the connection is idle
	} else if err := checkBoard(c); err != nil {
		return err
	}
	if !legalMove(f.state, c.state) {
		return fmt.Errorf("from %v to %v", f.state, c.state)
	}
	if c.snd.una.Less(f.una) || c.snd.nxt.Less(f.nxt) {
		return fmt.Errorf("SND.UNA or SND.NXT went back")
	}
	if f.state != SynSent && (c.rcv.nxt.Less(f.rnxt) || c.rcv.edge.Less(f.edge) && !f.full) {
		return fmt.Errorf("RCV.NXT or the window's edge went back")
	}
	f.watch()
	return nil
}

// end closes the connection and lets time pass. The connection must end even if the peer never answers.
func (f *fuzzRun) end() error {
	f.c.Close(f.now)
	f.note("the end")
	if err := f.pull(f); err != nil {
		return err
	}
	for range 2000 {
		d, ok := f.c.Deadline()
		if !ok {
			break
		}
		if d < f.now {
			d = f.now // an op has moved the time beyond the deadline
		}
		f.now = d
		f.c.Tick(f.now)
		if err := f.pull(f); err != nil {
			return err
		}
		if d, ok := f.c.Deadline(); ok && d <= f.now {
			return fmt.Errorf("after Tick, the deadline has passed by %d", f.now-d)
		}
	}
	if f.c.state != Closed {
		return fmt.Errorf("is %v after the end", f.c.state)
	}
	return nil
}

// fuzzConn runs an op string, and returns the first error. The log is empty if quiet is true.
func fuzzConn(ops []byte, quiet bool) (log []string, err error) {
	f := &fuzzRun{ops: ops, quiet: quiet}
	f.open()
	for len(f.ops) > 0 && err == nil {
		err = f.step()
	}
	if err == nil {
		err = f.end()
	}
	return f.log, err
}

func FuzzConn(f *testing.F) {
	f.Add([]byte{0, 0xff, 90, 1, 8, 200, 6, 4, 100, 9, 100, 10, 6})
	f.Add([]byte{0x80, 0xff, 90, 6, 8, 255, 8, 255, 6, 0, 16, 0, 0, 0, 0, 2, 1, 100, 3, 100, 13, 13, 6})
	f.Add([]byte{0x44, 0, 30, 1, 8, 255, 0, 16, 0, 0, 0, 1, 0, 0, 13, 13, 13, 6, 17, 100, 13})
	for seed := range uint64(64) {
		f.Add(opStrings(seed))
	}
	f.Fuzz(func(t *testing.T, ops []byte) {
		if len(ops) > 2000 {
			return
		}
		if _, err := fuzzConn(ops, true); err != nil {
			log, err := fuzzConn(ops, false)
			for _, l := range log {
				t.Log(l)
			}
			t.Fatal(err)
		}
	})
}

// opStrings returns a random op string that opens the connection, and most of whose segments are
// plausible. Most strings of the fuzzer do neither.
func opStrings(seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 4))
	pick := func(n int) byte { return byte(r.IntN(n)) }
	ops := []byte{pick(256) &^ 7, pick(256), pick(256), 1, 6}
	if r.IntN(3) == 0 {
		ops[0] |= pick(8) // without some of the TCP options
	}
	if r.IntN(3) == 0 {
		ops[1] |= 0x12 // buffer sizes near the limits
	}
	late := byte(0)
	if r.IntN(4) == 0 {
		late = 0x80
	}
	for n := 4 << r.IntN(7); n > 0; n-- {
		op := pick(18) | late&pick(256)
		ops = append(ops, op)
		switch op & 0x7f {
		case 0, 1, 2, 3: // a segment: flags, seq, ack, size, extras, SACK blocks
			flags := byte(wire.FlagACK)
			if r.IntN(12) == 0 {
				flags = pick(256)
			}
			place := func() byte { // mostly a number without an offset: see fuzzRun.place
				if r.IntN(8) == 0 {
					return pick(256)
				}
				return pick(0x70)
			}
			ops = append(ops, flags, place(), place(), pick(256)&^(pick(2)*255), pick(32)&^(pick(2)*31), pick(6))
			for range r.IntN(5) {
				ops = append(ops, place(), pick(256))
			}
		case 8:
			ops = append(ops, 128|pick(128))
		case 10, 11, 17:
			if r.IntN(6) > 0 {
				ops[len(ops)-1] = 6 // mostly an acknowledgement instead: most of these ops end or change a connection
				break
			}
			ops = append(ops, pick(256))
		case 12:
			ops = append(ops, 15+pick(18))
		default:
			ops = append(ops, pick(256))
		}
	}
	return ops
}

// TestConnBearsRandomOperations also proves RFC 9293 MUST-62: no urgent pointer indicates anything but
// the octet after the urgent data. The Conn never sends one.
func TestConnBearsRandomOperations(t *testing.T) {
	n := uint64(20_000)
	if testing.Short() || racing {
		n = 2_000
	}
	if s := os.Getenv("USERNET_SIM"); s != "" {
		k, err := strconv.ParseUint(s, 10, 64)
		require.NoError(t, err, "USERNET_SIM is the number of runs")
		n = k
	}
	for seed := range n {
		ops := opStrings(seed)
		if _, err := fuzzConn(ops, true); err != nil {
			ops = shorten(ops, failure(err))
			log, last := fuzzConn(ops, false)
			for _, l := range log {
				t.Log(l)
			}
			t.Fatalf("seed %d: %v\nthe shortest that fails (%v): %#v", seed, err, last, ops)
		}
	}
}

// shorten removes bytes from a failing string as long as it still fails in the same way.
func shorten(ops []byte, class string) []byte {
	fails := func(x []byte) bool {
		_, err := fuzzConn(x, true)
		return failure(err) == class
	}
	for size := len(ops) / 2; size > 0; size /= 2 {
		for i := 0; i+size <= len(ops); {
			x := append(append([]byte(nil), ops[:i]...), ops[i+size:]...)
			if fails(x) {
				ops = x
			} else {
				i += max(size/2, 1)
			}
		}
	}
	return ops
}
