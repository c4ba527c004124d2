package inspect

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// RecordConfig bounds a recording. The zero value selects the defaults.
type RecordConfig struct {
	// Interval is the time between two samples; 10 ms if it is not positive.
	Interval time.Duration
	// MaxSamples is the number of samples after which the recording ends by itself; 60,000 if it is not positive.
	MaxSamples int
	// MaxBytes is the number of bytes, before they are compressed, after which the recording ends by itself; 64 MiB
	// if it is not positive.
	MaxBytes int64
	// MaxConns is the number of connections that are sampled at the same time; 1000 if it is not positive. Further
	// connections are left out.
	MaxConns int
	// MaxSegments is the number of TCP segments that are recorded, for the sequence-time diagrams; 100,000 if it is 0.
	// If it is negative, no segments are recorded.
	MaxSegments int
}

// The first line of a recording, which the decompressed file begins with.
const recordFormat = "usernet inspect"

type recordHead struct {
	Format    string    `json:"format"`
	Version   int       `json:"version"`
	Time      time.Time `json:"time"`
	IntervalS float64   `json:"interval_s"`
}

// A recordLine is each further line: a value of a topic.
type recordLine struct {
	Topic string          `json:"topic"`
	ID    string          `json:"id,omitempty"` // of the connection of a segment
	Value json.RawMessage `json:"value"`
}

// A recordEnd is the value of the last line, whose topic is "end".
type recordEnd struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"` // "closed", "host closed" or "limit"
	// SkippedConns is the largest number of connections that were left out of a sample.
	SkippedConns int `json:"skipped_conns"`
	// Lost is the number of frames, drops and ends of connections that came too fast.
	Lost uint64 `json:"lost"`
}

// A Recording records a host for Open.
type Recording struct {
	host *usernet.Host
	cfg  RecordConfig

	mu      sync.Mutex
	gz      *gzip.Writer
	timer   *time.Timer
	ended   bool
	err     error
	bytes   int64
	samples int
	skipped int
	watches map[tuple]*recordedConn
	tables  map[string][]byte // the last value of each topic, without its time
	before  *configRows

	watcher  *stack.Watcher // nil if the host is closed
	lost     uint64
	segments int // recorded
	dropped  map[stack.DropReason][]DroppedFrame
}

const (
	// recordBuffer is the memory of the frames between two samples, in bytes.
	recordBuffer = 8 << 20
	// recordEvents is the number of events that a sample reads, so that a flood does not keep it from its end. It is
	// more than recordBuffer holds: what waits when the sample begins is read.
	recordEvents = 25_000
)

// A recordedConn is a connection that is in the recording.
type recordedConn struct {
	connWatch
	sample int        // the last sample that has found it
	last   ConnDetail // as it was last written
	seg    segmentReader
}

// Record samples a host from now on, and writes the samples to w as a compressed file that Open reads. The times are
// those of the host: in a testing/synctest bubble, where no browser can be, they are virtual. Close ends the
// recording. It also ends when the host is closed, at the limits of cfg, and at an error of w.
//
// A recording has no goroutine, and a timer for the next sample. A forgotten Close loses the samples that w has not
// got yet, and nothing else. Record calls Write of w from the goroutine of the timer, one call at a time.
func Record(h *usernet.Host, w io.Writer, cfg RecordConfig) *Recording {
	if cfg.Interval <= 0 {
		cfg.Interval = 10 * time.Millisecond
	}
	if cfg.MaxSamples <= 0 {
		cfg.MaxSamples = 60_000
	}
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 64 << 20
	}
	if cfg.MaxConns <= 0 {
		cfg.MaxConns = 1000
	}
	if cfg.MaxSegments == 0 {
		cfg.MaxSegments = 100_000
	}
	r := &Recording{
		host: h, cfg: cfg, gz: gzip.NewWriter(w), watches: make(map[tuple]*recordedConn), tables: make(map[string][]byte),
		dropped: make(map[stack.DropReason][]DroppedFrame),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.line(recordHead{Format: recordFormat, Version: 1, Time: time.Now(), IntervalS: cfg.Interval.Seconds()})
	// The error is that of a closed host, which the first sample finds too.
	r.watcher, _ = h.Watch(stack.WatchConfig{Frames: cfg.MaxSegments > 0, Drops: true, Conns: true, SnapLen: dropSnap, Buffer: recordBuffer})
	r.timer = time.AfterFunc(cfg.Interval, r.fired)
	r.sample()
	return r
}

// Close takes a last sample and completes the file. It returns the first error of the writer. A second Close returns
// net.ErrClosed, unless the recording had ended by itself.
func (r *Recording) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.timer == nil {
		return net.ErrClosed
	}
	r.timer.Stop()
	r.timer = nil
	if !r.ended {
		r.sample()
		r.end("closed")
	}
	return r.err
}

// fired takes the next sample.
func (r *Recording) fired() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended || r.timer == nil {
		return
	}
	if errors.Is(r.host.Err(), net.ErrClosed) {
		r.watched()
		r.end("host closed")
		return
	}
	r.sample()
	if !r.ended {
		r.timer.Reset(r.cfg.Interval)
	}
}

// end writes the last line. r.mu is held, as in the methods below.
func (r *Recording) end(reason string) {
	if r.ended {
		return
	}
	r.value("end", recordEnd{time.Now(), reason, r.skipped, r.lost})
	r.ended = true
	r.watches, r.tables, r.before, r.dropped = nil, nil, nil, nil
	if r.watcher != nil {
		r.watcher.Close()
	}
	if err := r.gz.Close(); r.err == nil && err != nil {
		r.err = fmt.Errorf("inspect: record: %w", err)
	}
}

// sample writes what has changed since the sample before.
func (r *Recording) sample() {
	r.samples++
	r.conns()
	r.watched()
	rows := rowsOf(r.host)
	for _, e := range r.before.changes(rows) {
		r.value("events", e)
	}
	r.before = rows
	o := overview(r.host)
	o.Host.Recorded = true
	o.Memory.HeapInUse = 0 // changes all the time, and is that of the tests
	at, uptime := o.Time, o.Host.UptimeS
	o.Time, o.Host.UptimeS = time.Time{}, 0
	if r.changed("overview", o) {
		o.Time, o.Host.UptimeS = at, uptime
		r.value("overview", o)
	}
	d := &Drops{Reasons: dropCounts(r.host), Lost: r.lost}
	for i := range d.Reasons {
		x := &d.Reasons[i]
		x.Last = append(x.Last, r.dropped[stack.DropReason(x.Reason)]...)
	}
	if r.changed("drops", d) {
		d.Time = at
		r.value("drops", d)
	}
	l, s, n := listeners(r.host), sockets(r.host, maxPage, 0), neighbors(r.host)
	for i := range n.Neighbors {
		n.Neighbors[i].AgeS = 0
	}
	l.Time, s.Time, n.Time = time.Time{}, time.Time{}, time.Time{}
	if r.changed("listeners", l) {
		l.Time = at
		r.value("listeners", l)
	}
	if r.changed("sockets", s) {
		s.Time = at
		r.value("sockets", s)
	}
	if r.changed("neighbors", n) {
		n.Time = at
		r.value("neighbors", n)
	}
	r.slowTables(at)
	switch {
	case r.err != nil:
		r.end("error")
	case r.samples >= r.cfg.MaxSamples || r.bytes >= r.cfg.MaxBytes:
		r.end("limit")
	case r.samples%100 == 0:
		r.failed(r.gz.Flush())
	}
}

// slowTables writes the tables that change rarely.
func (r *Recording) slowTables(at time.Time) {
	x, a, g, l, n := routes(r.host), addresses(r.host), groups(r.host), leases(r.host), names(r.host)
	x.Time, a.Time, g.Time, l.Time, n.Time = time.Time{}, time.Time{}, time.Time{}, time.Time{}, time.Time{}
	if r.changed("routes", x) {
		x.Time = at
		r.value("routes", x)
	}
	if r.changed("addresses", a) {
		a.Time = at
		r.value("addresses", a)
	}
	if r.changed("groups", g) {
		g.Time = at
		r.value("groups", g)
	}
	if r.changed("leases", l) {
		l.Time = at
		r.value("leases", l)
	}
	if r.changed("names", n) {
		n.Time = at
		r.value("names", n)
	}
}

// conns writes the connections that have changed.
func (r *Recording) conns() {
	skipped := 0
	for c := range r.host.Conns() {
		k := tuple{c.Local, c.Remote}
		w := r.watches[k]
		if w == nil {
			if len(r.watches) >= r.cfg.MaxConns {
				skipped++
				continue
			}
			w = &recordedConn{connWatch: connWatch{tuple: k}}
			r.watches[k] = w
		}
		w.sample = r.samples
		d := w.observe(&c)
		if w.differs(d) {
			r.value("conn", d)
		}
	}
	r.skipped = max(r.skipped, skipped)
}

// watched writes the segments and the ends of connections since the sample before, and keeps the last dropped frames.
func (r *Recording) watched() {
	if r.watcher != nil {
		n := 0
		drops := make(map[stack.DropReason][]stack.WatchEvent)
		for e := range waiting(r.watcher) {
			r.lost += e.Lost
			switch e.Kind {
			case stack.FrameReceived, stack.FrameSent:
				r.segment(&e)
			case stack.PacketDropped:
				drops[e.Reason] = append(last(drops[e.Reason], lastFrames-1), e)
			case stack.ConnClosed, stack.ConnFailed:
				r.closed(&e)
			}
			if n++; n >= recordEvents || r.bytes >= r.cfg.MaxBytes {
				break
			}
		}
		keepDropped(r.dropped, drops)
	}
	for k, w := range r.watches {
		if w.sample != r.samples {
			r.value("conn", w.ended())
			delete(r.watches, k)
		}
	}
}

// segment writes a segment of a connection that is recorded.
func (r *Recording) segment(e *stack.WatchEvent) {
	if r.segments >= r.cfg.MaxSegments {
		return
	}
	p, ok := parseSegment(e)
	if !ok {
		return
	}
	w := r.watches[p.tuple]
	if w == nil {
		return // a connection with a zone, or of a listener that has refused it
	}
	w.seg.tuple = p.tuple
	switch h := &p.header; {
	case h.Flags&wire.FlagSYN != 0 && h.HasWScale:
		w.seg.scaled = true
		if e.Outbound {
			w.seg.out.shift = h.WScale
		} else {
			w.seg.in.shift = h.WScale
		}
	case h.Flags&wire.FlagSYN != 0:
		// RFC 7323 2.2: "Both sides MUST send Window Scale options in their <SYN> segments to enable window scaling".
		w.seg.scaled, w.seg.out.shift, w.seg.in.shift = true, 0, 0
	case !w.seg.scaled:
		w.seg.scale(r.host)
	}
	r.segments++
	id := w.id()
	b, err := json.Marshal(w.seg.item(e, &p))
	r.failed(err)
	r.line(recordLine{"segments", id, b})
}

// closed writes the totals of a connection at its end, which are later than those of its last sample. A connection that
// has begun and ended between two samples has no other state in the recording.
func (r *Recording) closed(e *stack.WatchEvent) {
	if e.Info == nil {
		return
	}
	k := tuple{e.Local, e.Remote}
	w := r.watches[k]
	if w == nil {
		if len(r.watches) >= r.cfg.MaxConns {
			return
		}
		w = &recordedConn{connWatch: connWatch{tuple: k}} // of no sample, so watched writes its end
		r.watches[k] = w
	}
	info := *e.Info
	if info.State == tcp.TimeWait {
		w.sample = r.samples // the next sample finds it
	} else {
		info.State = tcp.Closed // it was the last state before CLOSED
	}
	c := stack.ConnInfo{Local: e.Local, Remote: e.Remote, State: info.State, Passive: e.Passive}
	d := &ConnDetail{Time: time.Now(), Conn: connOf(&c, &info, true), Info: infoOf(&c, &info), Events: []ConnEvent{}}
	d.Events = append(d.Events, connEvents(w.connWatch.last, d.Info, d.Time)...)
	if e.Err != nil {
		d.Events = append(d.Events, ConnEvent{Time: e.Time, Kind: "state", Text: e.Err.Error()})
	}
	r.value("conn", d)
}

// differs reports whether a sample differs from the last that was written, except in the times that only pass.
func (w *recordedConn) differs(d *ConnDetail) bool {
	x := *d
	x.Time, x.Conn.ExpiresS, x.Conn.LastRecvS, x.Conn.LastSendS, x.Events = time.Time{}, 0, 0, 0, nil
	old := w.last
	if x.Info != nil {
		info := *x.Info
		info.LastAckRecvS, info.LastDataRecvS, info.LastDataSentS = 0, 0, 0
		x.Info = &info
	}
	w.last = x
	same := x.Conn == old.Conn && (x.Info == nil) == (old.Info == nil) && (x.Info == nil || *x.Info == *old.Info)
	return !same || len(d.Events) > 0
}

// changed reports whether the value of a topic differs from the last one.
func (r *Recording) changed(topic string, v any) bool {
	b, err := json.Marshal(v)
	r.failed(err)
	if bytes.Equal(b, r.tables[topic]) {
		return false
	}
	r.tables[topic] = b
	return true
}

// value writes a line.
func (r *Recording) value(topic string, v any) {
	b, err := json.Marshal(v)
	r.failed(err)
	r.line(recordLine{Topic: topic, Value: b})
}

func (r *Recording) line(v any) {
	if r.err != nil || r.ended {
		return
	}
	b, err := json.Marshal(v)
	r.failed(err)
	n, err := r.gz.Write(append(b, '\n'))
	r.bytes += int64(n)
	r.failed(err)
}

func (r *Recording) failed(err error) {
	if r.err == nil && err != nil {
		r.err = fmt.Errorf("inspect: record: %w", err)
	}
}

// configRows are the configuration as texts, of which a recording writes the differences as events. Host.Events needs a
// goroutine, which a recording has not.
type configRows struct {
	rows []map[string]string // of each of configKinds, by their keys: a text
	nics map[string]bool     // whether the link is up
}

var configKinds = []string{"address", "route", "lease"}

func rowsOf(h *usernet.Host) *configRows {
	c := &configRows{rows: []map[string]string{{}, {}, {}}, nics: make(map[string]bool)}
	for _, info := range h.Interfaces() {
		c.nics[info.Name] = info.Up
		for _, a := range info.AddrInfo {
			c.rows[0][info.Name+" "+a.Prefix.String()+" "+a.State.String()] = info.Name
		}
	}
	for _, x := range h.Routes() {
		text := x.NIC + " " + x.Dst.String()
		if x.Via.IsValid() {
			text += " via " + x.Via.String()
		}
		c.rows[1][text] = x.NIC
	}
	for _, x := range h.DHCP() {
		if x.Lease != nil {
			c.rows[2][x.NIC+" "+x.Lease.Addr.String()] = x.NIC
		}
	}
	return c
}

// changes returns the events that lead from c, which may be nil, to d.
func (c *configRows) changes(d *configRows) (all []ChangeEvent) {
	if c == nil {
		return nil
	}
	now := time.Now()
	add := func(kind, nic, row string) {
		all = append(all, ChangeEvent{Time: now, Kind: kind, NIC: nic, Text: kind + ": " + row})
	}
	for nic, up := range d.nics {
		switch was, ok := c.nics[nic]; {
		case !ok:
			add("link added", nic, nic)
		case up && !was:
			add("link up", nic, nic)
		case was && !up:
			add("link down", nic, nic)
		}
	}
	for nic := range c.nics {
		if _, ok := d.nics[nic]; !ok {
			add("link removed", nic, nic)
		}
	}
	for i, kind := range configKinds {
		for row, nic := range c.rows[i] {
			if _, ok := d.rows[i][row]; !ok {
				add(kind+" removed", nic, row)
			}
		}
		for row, nic := range d.rows[i] {
			if _, ok := c.rows[i][row]; !ok {
				add(kind+" added", nic, row)
			}
		}
	}
	return all
}
