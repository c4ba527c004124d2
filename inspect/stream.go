package inspect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/usernet/usernet"
)

const (
	// pingInterval is the time between the comments that keep a stream open.
	pingInterval = 15 * time.Second
	// writeTimeout is how long a write to a client may take. A client that reads nothing is cut off.
	writeTimeout = 30 * time.Second
	// eventQueue and eventBytes are the number of events that wait for a client, and their bytes. Samples of tables
	// do not count: of each topic, the newest one waits.
	eventQueue = 256
	eventBytes = 1 << 20
	// load is the inverse of the part of one CPU that a sampler uses: after a sample that cost a CPU time t, the
	// sampler waits for load*t. See costOf.
	load = 300
	// maxWait is the longest wait because of load.
	maxWait = 10 * time.Second
)

// An event is an event of a stream.
type event struct {
	topic string
	data  []byte // JSON
}

// An eventWriter writes server-sent events to a client.
type eventWriter struct {
	ctx context.Context // of the request
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf []byte
}

func newEventWriter(w http.ResponseWriter, r *http.Request) *eventWriter {
	return &eventWriter{ctx: r.Context(), w: w, rc: http.NewResponseController(w)}
}

// begin writes the header of the answer.
func (o *eventWriter) begin() error {
	o.w.Header().Set("Content-Type", "text/event-stream")
	o.w.Header().Set("X-Accel-Buffering", "no")
	o.w.WriteHeader(http.StatusOK)
	return o.write([]byte(": stream of package inspect\n\n"))
}

// event writes an event.
func (o *eventWriter) event(e event) error {
	o.buf = fmt.Appendf(o.buf[:0], "event: %s\ndata: %s\n\n", e.topic, e.data)
	return o.write(o.buf)
}

func (o *eventWriter) write(b []byte) error {
	// Not every ResponseWriter has deadlines; without one, the server's own timeouts apply.
	if err := o.rc.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := o.w.Write(b); err != nil {
		return err
	}
	return o.rc.Flush()
}

// A subscriber is a client of feeds.
type subscriber struct {
	ready chan struct{} // has a value if queue is not empty

	mu    sync.Mutex
	queue []queuedEvent
	count int    // events of queue that are no tables
	bytes int    // and their bytes
	lost  uint64 // events that found the queue full, or that a later one has replaced
}

func newSubscriber() *subscriber { return &subscriber{ready: make(chan struct{}, 1)} }

// A queuedEvent is an event that waits for a client.
type queuedEvent struct {
	event
	table bool // a later event of the topic replaces this one
}

// put queues an event, or counts it as lost. A table replaces the one of its topic that waits.
func (s *subscriber) put(x event, table bool) {
	e := queuedEvent{x, table}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.table {
		for i := range s.queue {
			if s.queue[i].topic == e.topic {
				s.queue[i] = e
				s.lost++
				return
			}
		}
	} else {
		// An event that is larger than the queue passes alone.
		if s.count == eventQueue || s.count > 0 && s.bytes+len(e.data) > eventBytes {
			s.lost++
			return
		}
		s.count++
		s.bytes += len(e.data)
	}
	s.queue = append(s.queue, e)
	s.signal()
}

// take removes the oldest event. It returns false if there is none, and the number of events that were lost so far.
func (s *subscriber) take() (_ event, ok bool, lost uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 {
		return event{}, false, s.lost
	}
	e := s.queue[0]
	s.queue = slices.Delete(s.queue, 0, 1)
	if !e.table {
		s.count--
		s.bytes -= len(e.data)
	}
	if len(s.queue) > 0 {
		s.signal()
	}
	return e.event, true, s.lost
}

// signal wakes the reader.
func (s *subscriber) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// A producer produces the events of a topic. Producers with the same key produce the same.
type producer struct {
	key, topic string
	sampled    bool // a new client gets the last event at once
	run        func(ctx context.Context, emit func(any))
}

// table reports whether an event says all that the one before says. That of a connection has the events since then.
func (p *producer) table() bool { return p.sampled && p.topic != "conn" }

// A feed produces the events of a topic for all clients that want the same. Its goroutine runs as long as there is a
// client.
type feed struct {
	producer
	cancel context.CancelFunc
	subs   map[*subscriber]bool // guarded by live.mu
	last   *event               // the last sample; guarded by live.mu
}

// subscribe makes a subscriber a client of a feed, and starts the feed if it is the first client. The caller calls
// leave in the end.
func (l *live) subscribe(p producer, s *subscriber) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.feeds[p.key]
	if f == nil {
		ctx, cancel := context.WithCancel(context.Background())
		f = &feed{producer: p, cancel: cancel, subs: make(map[*subscriber]bool)}
		if l.feeds == nil {
			l.feeds = make(map[string]*feed)
		}
		l.feeds[p.key] = f
		go func() {
			defer l.forget(f)
			p.run(ctx, func(v any) { l.emit(f, v) })
		}()
	} else if f.last != nil {
		s.put(*f.last, f.table())
	}
	f.subs[s] = true
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if delete(f.subs, s); len(f.subs) == 0 {
			f.cancel()
			l.remove(f)
		}
	}
}

// forget removes a feed that has ended by itself. Its clients get no more events of the topic.
func (l *live) forget(f *feed) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(f)
}

// remove removes a feed, so that the next client starts another. l.mu is held.
func (l *live) remove(f *feed) {
	if l.feeds[f.key] == f {
		delete(l.feeds, f.key)
	}
}

// emit passes an event to the clients of a feed.
func (l *live) emit(f *feed, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b, _ = json.Marshal(Error{err.Error()}) // a string can be marshaled
	}
	e := event{f.topic, b}
	l.mu.Lock()
	defer l.mu.Unlock()
	if f.sampled {
		f.last = &e
	}
	for s := range f.subs {
		s.put(e, f.table())
	}
}

// producer returns the producer of a topic.
func (l *live) producer(topic string, p *params) (producer, error) {
	switch topic {
	case "events":
		return producer{key: topic, topic: topic, run: l.runEvents}, nil
	case "dropped":
		return producer{key: topic, topic: topic, run: l.runDropped}, nil
	case "segments":
		return l.segments(p)
	}
	sample, err := l.sampler(topic, p)
	if err != nil {
		return producer{}, err
	}
	interval := max(p.interval, 500*time.Millisecond)
	if p.interval == 0 {
		interval = time.Second
	}
	v := url.Values{}
	switch topic {
	case "conn":
		if sample() == nil {
			return producer{}, errNoConn
		}
		interval = cmp.Or(p.interval, 100*time.Millisecond)
		v.Set("id", p.id)
	case "conns", "sockets":
		v.Set("query", fmt.Sprintf("%q", fmt.Sprint(p.conns)))
	}
	v.Set("interval", interval.String())
	run := func(ctx context.Context, emit func(any)) { every(ctx, interval, sample, emit) }
	if topic == "drops" {
		run = l.runDrops(run)
	}
	return producer{topic + "?" + v.Encode(), topic, true, run}, nil
}

// costOf calls f and returns the CPU time that f has used. Where the system does not tell the CPU time, it returns the
// time that f has taken. In a testing/synctest bubble it returns 0, as the bubble's clock says.
func costOf(f func()) time.Duration {
	runtime.LockOSThread() // so that the CPU time of the thread is that of f
	defer runtime.UnlockOSThread()
	began := time.Now()
	before, ok := threadCPU()
	f()
	cost := time.Since(began)
	if after, still := threadCPU(); ok && still {
		cost = min(cost, after-before)
	}
	return cost
}

// every emits a sample each interval. If samples cost much, it emits fewer. It ends after a last sample: one that says
// that the connection has ended.
func every(ctx context.Context, interval time.Duration, sample func() any, emit func(any)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		began := time.Now()
		last := false
		cost := costOf(func() {
			v := sample()
			if v != nil {
				emit(v)
			}
			d, ok := v.(*ConnDetail)
			last = v == nil || ok && d.Ended
		})
		if last {
			return
		}
		timer.Reset(max(interval-time.Since(began), min(load*cost, maxWait)))
	}
}

// runEvents emits the changes of the host's configuration.
func (l *live) runEvents(ctx context.Context, emit func(any)) {
	for e := range l.host.Events(ctx) {
		emit(changeOf(&e))
	}
}

func changeOf(e *usernet.Event) ChangeEvent {
	return ChangeEvent{Time: time.Now(), Kind: e.Kind.String(), NIC: e.NIC, Text: e.String()}
}

// stream passes the events of the topics to a client until it goes or the host is closed.
func (l *live) stream(p *params, out *eventWriter) error {
	if len(p.topics) == 0 {
		return badRequest("the stream needs topics, for example topics=overview,conns")
	}
	if l.closed() {
		return errClosed
	}
	var all []producer
	for _, topic := range p.topics {
		x, err := l.producer(topic, p)
		if err != nil {
			return err
		}
		all = append(all, x)
	}
	if out.begin() != nil {
		return nil // the client has gone
	}
	s := newSubscriber()
	for _, x := range all {
		defer l.subscribe(x, s)()
	}
	defer out.rc.SetWriteDeadline(time.Time{}) // the connection may serve more requests
	l.copy(s, out)
	return nil
}

// copy writes the events of a subscriber to its client.
func (l *live) copy(s *subscriber, out *eventWriter) {
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	var told uint64
	for {
		changed := l.host.Changed()
		if l.closed() {
			out.event(event{"closed", []byte("{}")})
			return
		}
		var err error
		lost := told
		select {
		case <-out.ctx.Done():
			return
		case <-changed:
		case <-s.ready:
			var e event
			var ok bool
			if e, ok, lost = s.take(); ok {
				err = out.event(e)
			}
		case <-ping.C:
			err = out.write([]byte(": ping\n\n"))
		}
		if lost != told && err == nil {
			told = lost
			err = out.event(event{"lost", fmt.Appendf(nil, `{"lost":%d}`, lost)})
		}
		if err != nil {
			return
		}
	}
}

// closed reports whether the host is closed.
func (l *live) closed() bool { return errors.Is(l.host.Err(), net.ErrClosed) }
