package inspect

import (
	"bufio"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Limits of a recording that is opened.
const (
	maxRecording  = 512 << 20 // bytes, decompressed
	maxRecordLine = 16 << 20
	maxStates     = 2000 // values of a topic in a stream; of more, some are left out
)

// Open reads a recording that Record has written, and returns a handler that shows it as Handler shows a running host.
// The tables are those of the end. The connections are all that the recording has, with their last state before they
// ended, and the stream of one has all of its samples at once. Open holds the whole recording in memory. A recording
// that is cut off is shown as far as it goes.
func Open(r io.Reader) (http.Handler, error) {
	rec, err := readRecording(r)
	if err != nil {
		return nil, fmt.Errorf("inspect: open: %w", err)
	}
	return newServer(Config{}, rec), nil
}

// A recorded source shows a recording.
type recorded struct {
	head   recordHead
	topics map[string][]json.RawMessage // values of each topic in their order, without those of conn
	conns  map[string]*recordedStates   // by their IDs

	segments map[string][]json.RawMessage // by the IDs of their connections
	order    []string                     // the IDs in the order in which they appeared
}

// recordedStates are the samples of a connection.
type recordedStates struct {
	all  []json.RawMessage
	last Conn // the last state before the end
}

func readRecording(r io.Reader) (*recorded, error) {
	gz, err := gzip.NewReader(r)
	if err != nil {
		return nil, fmt.Errorf("not a recording: %w", err)
	}
	limited := &io.LimitedReader{R: gz, N: maxRecording}
	lines := bufio.NewScanner(limited)
	lines.Buffer(make([]byte, 64<<10), maxRecordLine)
	rec := &recorded{topics: make(map[string][]json.RawMessage), conns: make(map[string]*recordedStates), segments: make(map[string][]json.RawMessage)}
	if !lines.Scan() {
		return nil, fmt.Errorf("not a recording: %w", cmp.Or(lines.Err(), io.ErrUnexpectedEOF))
	}
	if json.Unmarshal(lines.Bytes(), &rec.head) != nil || rec.head.Format != recordFormat {
		return nil, errors.New("not a recording of package inspect")
	}
	if rec.head.Version != 1 {
		return nil, fmt.Errorf("a recording of version %d: this program reads version 1", rec.head.Version)
	}
	for n := 2; lines.Scan(); n++ {
		if err := rec.add(lines.Bytes()); err != nil {
			if !lines.Scan() && (lines.Err() != nil || limited.N == 0) {
				break // the file is cut off within this line
			}
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, err
	}
	if len(rec.topics["overview"]) == 0 {
		return nil, errors.New("the recording has no samples")
	}
	return rec, nil
}

// add adds a line.
func (rec *recorded) add(line []byte) error {
	var l recordLine
	if err := json.Unmarshal(line, &l); err != nil {
		return err
	}
	if l.Topic == "segments" {
		rec.segments[l.ID] = append(rec.segments[l.ID], l.Value)
		return nil
	}
	if l.Topic != "conn" {
		rec.topics[l.Topic] = append(rec.topics[l.Topic], l.Value)
		return nil
	}
	var d ConnDetail
	if err := json.Unmarshal(l.Value, &d); err != nil {
		return err
	}
	if _, err := parseID(d.Conn.ID); err != nil {
		return err
	}
	c := rec.conns[d.Conn.ID]
	if c == nil {
		c = new(recordedStates)
		rec.conns[d.Conn.ID] = c
		rec.order = append(rec.order, d.Conn.ID)
		c.last = d.Conn
	}
	c.all = append(c.all, l.Value)
	if d.Info != nil {
		c.last = d.Conn
	} else {
		c.last.State = d.Conn.State // the totals stay those of the last sample
	}
	return nil
}

// end returns the time of the last sample.
func (rec *recorded) end() time.Time {
	var o struct{ Time time.Time }
	for _, topic := range []string{"end", "overview"} {
		if all := rec.topics[topic]; len(all) > 0 && json.Unmarshal(all[len(all)-1], &o) == nil {
			return o.Time
		}
	}
	return rec.head.Time
}

// answer returns the last value of a topic.
func (rec *recorded) answer(topic string, p *params) (any, error) {
	switch topic {
	case "conns":
		return rec.list(&p.conns), nil
	case "conn":
		c, err := rec.conn(p)
		if err != nil {
			return nil, err
		}
		return c.all[len(c.all)-1], nil
	case "sockets":
		var s Sockets
		if json.Unmarshal(rec.last(topic), &s) != nil || s.Sockets == nil {
			return rec.last(topic), nil
		}
		s.Sockets = page(s.Sockets, p.conns.limit, p.conns.offset)
		return &s, nil
	case "all":
		all := map[string]any{"conns": rec.list(&p.conns)}
		for _, topic := range topics {
			if topic != "conns" && topic != "conn" && topic != "all" {
				all[topic] = rec.last(topic)
			}
		}
		return all, nil
	}
	if !slices.Contains(topics, topic) {
		return nil, &requestError{http.StatusNotFound, "there is no " + quote(topic) + ": the topics are " + strings.Join(topics, ", ")}
	}
	return rec.last(topic), nil
}

// last returns the last value of a topic, or null.
func (rec *recorded) last(topic string) json.RawMessage {
	if all := rec.topics[topic]; len(all) > 0 {
		return all[len(all)-1]
	}
	return json.RawMessage("null")
}

// conn returns the connection that a request is about.
func (rec *recorded) conn(p *params) (*recordedStates, error) {
	if _, err := parseID(p.id); err != nil {
		return nil, badRequest(err.Error())
	}
	if c := rec.conns[p.id]; c != nil {
		return c, nil
	}
	return nil, &requestError{http.StatusNotFound, "the recording has no connection with this id"}
}

// connNumbers has the sort keys of recorded connections.
var connNumbers = map[string]func(*Conn) float64{
	"passive": func(c *Conn) float64 { return boolKey(c.Passive) }, "orphan": func(c *Conn) float64 { return boolKey(c.Orphan) },
	"recv_q": func(c *Conn) float64 { return float64(c.RecvQ) }, "send_q": func(c *Conn) float64 { return float64(c.SendQ) },
	"expires_s": func(c *Conn) float64 { return c.ExpiresS }, "rtt_s": func(c *Conn) float64 { return c.RTTS },
	"cwnd": func(c *Conn) float64 { return float64(c.Cwnd) }, "in_flight": func(c *Conn) float64 { return float64(c.InFlight) },
	"snd_wnd": func(c *Conn) float64 { return float64(c.SndWnd) }, "rcv_wnd": func(c *Conn) float64 { return float64(c.RcvWnd) },
	"retrans": func(c *Conn) float64 { return float64(c.Retrans) }, "bytes_in": func(c *Conn) float64 { return float64(c.BytesIn) },
	"bytes_out": func(c *Conn) float64 { return float64(c.BytesOut) }, "last_send_s": func(c *Conn) float64 { return c.LastSendS },
	"last_recv_s": func(c *Conn) float64 { return c.LastRecvS },
}

// connTexts has the sort keys of recorded connections that are texts.
var connTexts = map[string]func(*Conn) string{
	"state": func(c *Conn) string { return c.State }, "timer": func(c *Conn) string { return c.Timer },
	"remote": func(c *Conn) string { return c.Remote }, "local": func(c *Conn) string { return c.Local }, "id": func(c *Conn) string { return c.ID },
}

// list returns a page of the connections.
func (rec *recorded) list(q *connQuery) *Conns {
	out := &Conns{Time: rec.end(), All: len(rec.order), Conns: []Conn{}}
	for _, id := range rec.order {
		c := &rec.conns[id].last
		text := strings.ToLower(c.ID + " " + c.State)
		if (q.state == "" || strings.EqualFold(q.state, c.State)) && strings.Contains(text, q.text) {
			out.Conns = append(out.Conns, *c)
		}
	}
	slices.SortStableFunc(out.Conns, func(a, b Conn) int {
		c := 0
		if f := connNumbers[q.sort]; f != nil {
			c = cmp.Compare(f(&a), f(&b))
		} else if f := connTexts[q.sort]; f != nil {
			c = cmp.Compare(f(&a), f(&b))
		}
		if q.desc {
			c = -c
		}
		return c
	})
	out.Total = len(out.Conns)
	out.Conns = page(out.Conns, q.limit, q.offset)
	return out
}

// stream sends the values of the topics from the beginning to the end of the recording, and then keeps the stream open
// until the client goes, so that a browser does not ask again.
func (rec *recorded) stream(p *params, out *eventWriter) error {
	if len(p.topics) == 0 {
		return badRequest("the stream needs topics, for example topics=overview,conns")
	}
	states := make(map[string][]json.RawMessage)
	for _, topic := range p.topics {
		switch topic {
		case "conn":
			c, err := rec.conn(p)
			if err != nil {
				return err
			}
			states[topic] = c.all
		case "conns":
			b, err := json.Marshal(rec.list(&p.conns))
			if err != nil {
				return err
			}
			states[topic] = []json.RawMessage{b}
		case "segments":
			if _, err := rec.conn(p); err != nil {
				return err
			}
			states[topic] = rec.segments[p.id]
		default:
			states[topic] = thin(rec.topics[topic])
		}
	}
	if out.begin() != nil {
		return nil
	}
	for _, topic := range p.topics {
		for _, v := range states[topic] {
			if out.event(event{topic, v}) != nil || out.ctx.Err() != nil {
				return nil
			}
		}
	}
	if out.event(event{"end", []byte("{}")}) != nil {
		return nil
	}
	ping := time.NewTicker(pingInterval)
	defer ping.Stop()
	for {
		select {
		case <-out.ctx.Done():
			return nil
		case <-ping.C:
			if out.write([]byte(": ping\n\n")) != nil {
				return nil
			}
		}
	}
}

// thin returns at most maxStates of the values, with the last one.
func thin(all []json.RawMessage) []json.RawMessage {
	if len(all) <= maxStates {
		return all
	}
	step := (len(all) + maxStates - 1) / maxStates
	var some []json.RawMessage
	for i := (len(all) - 1) % step; i < len(all); i += step {
		some = append(some, all[i])
	}
	return some
}

func (rec *recorded) capture(http.ResponseWriter, *http.Request) error {
	return &requestError{http.StatusNotFound, "a recording has no frames: capture while the program runs"}
}

func (rec *recorded) abort(*params) error {
	return &requestError{http.StatusNotFound, "the connections of a recording cannot be reset"}
}
