package inspect

import (
	"bytes"
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
)

// Limits of the parameters of api/conns.
const (
	maxPage     = 1000
	defaultPage = 100
	maxQuery    = 200 // bytes
)

// A connQuery selects and orders connections.
type connQuery struct {
	sort   string
	desc   bool
	text   string // in lower case
	state  string
	limit  int
	offset int
}

// A connEntry is a connection that a query selects.
type connEntry struct {
	stack.ConnInfo
	key float64 // the sort key, unless the order is that of addresses or states
}

// infoKeys are the sort keys that need the details of each connection.
var infoKeys = map[string]func(*stack.TCPInfo) float64{
	"rtt_s":       func(i *stack.TCPInfo) float64 { return float64(i.RTT) },
	"cwnd":        func(i *stack.TCPInfo) float64 { return float64(i.SndCwnd) },
	"in_flight":   func(i *stack.TCPInfo) float64 { return float64(i.InFlight) },
	"snd_wnd":     func(i *stack.TCPInfo) float64 { return float64(i.SndWnd) },
	"rcv_wnd":     func(i *stack.TCPInfo) float64 { return float64(i.RcvWnd) },
	"retrans":     func(i *stack.TCPInfo) float64 { return float64(i.Retrans) },
	"bytes_in":    func(i *stack.TCPInfo) float64 { return float64(i.BytesReceived) },
	"bytes_out":   func(i *stack.TCPInfo) float64 { return float64(i.BytesAcked) },
	"last_send_s": func(i *stack.TCPInfo) float64 { return float64(i.LastDataSent) },
	"last_recv_s": func(i *stack.TCPInfo) float64 { return float64(i.LastDataRecv) },
}

// plainKeys are the sort keys that the iterator over the connections returns.
var plainKeys = map[string]func(*stack.ConnInfo) float64{
	"state":     func(c *stack.ConnInfo) float64 { return float64(c.State) },
	"passive":   func(c *stack.ConnInfo) float64 { return boolKey(c.Passive) },
	"orphan":    func(c *stack.ConnInfo) float64 { return boolKey(c.Orphan) },
	"recv_q":    func(c *stack.ConnInfo) float64 { return float64(c.RecvQ) },
	"send_q":    func(c *stack.ConnInfo) float64 { return float64(c.SendQ) },
	"timer":     func(c *stack.ConnInfo) float64 { return float64(c.Timer) },
	"expires_s": func(c *stack.ConnInfo) float64 { return float64(c.Expires) },
}

// rateKeys are the sort keys that need the sample before.
var rateKeys = []string{"rate_in_bytes_per_s", "rate_out_bytes_per_s", "rate"}

func boolKey(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// isSortKey reports whether connections can be sorted by a key.
func isSortKey(key string) bool {
	return key == "id" || key == "local" || key == "remote" || infoKeys[key] != nil || plainKeys[key] != nil || slices.Contains(rateKeys, key)
}

// sortKeys returns all sort keys.
func sortKeys() string {
	all := append([]string{"id", "local", "remote"}, rateKeys...)
	for k := range infoKeys {
		all = append(all, k)
	}
	for k := range plainKeys {
		all = append(all, k)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// A tuple identifies a connection.
type tuple struct{ local, remote netip.AddrPort }

// A connList makes pages of the connections. It keeps the totals of the sample before, for the rates.
type connList struct {
	query connQuery
	at    time.Time // of totals

	// totals and old are of each connection, from this sample and from the one before.
	totals, old map[tuple]tally

	// The following are kept from one sample to the next, so that a connection that is not on the page needs no
	// allocation.
	all  []connEntry
	text []byte
	info stack.TCPInfo
}

// sample returns the connections that the query selects now.
func (l *connList) sample(h *usernet.Host) *Conns {
	now := time.Now()
	q := &l.query
	elapsed := now.Sub(l.at).Seconds()
	l.totals, l.old = l.old, l.totals
	if clear(l.totals); l.totals == nil {
		l.totals = make(map[tuple]tally)
	}
	rated := slices.Contains(rateKeys, q.sort)
	plain, detail := plainKeys[q.sort], infoKeys[q.sort]
	l.all = l.all[:0]
	out := &Conns{Time: now, Conns: []Conn{}}
	for c := range h.Conns() {
		out.All++
		l.all = append(l.all, connEntry{ConnInfo: c})
		e := &l.all[len(l.all)-1] // a pointer to c would move each c to the heap
		switch {
		case !l.selects(&e.ConnInfo):
			l.all = l.all[:len(l.all)-1]
		case plain != nil:
			e.key = plain(&e.ConnInfo)
		case detail != nil:
			var ok bool
			if l.info, ok = e.Info(); ok {
				e.key = detail(&l.info)
			}
		case rated:
			e.key = l.rate(&e.ConnInfo, elapsed)
		}
	}
	out.Total = len(l.all)
	l.order()
	for i := range page(l.all, q.limit, q.offset) {
		out.Conns = append(out.Conns, l.conn(&l.all[q.offset+i].ConnInfo, elapsed))
	}
	l.at = now
	clear(l.all) // releases the connections
	return out
}

// selects reports whether the query selects a connection.
func (l *connList) selects(c *stack.ConnInfo) bool {
	q := &l.query
	if q.state != "" && !strings.EqualFold(q.state, c.State.String()) {
		return false
	}
	if q.text == "" {
		return true
	}
	l.text = appendID(l.text[:0], c)
	l.text = append(append(l.text, ' '), strings.ToLower(c.State.String())...)
	return bytes.Contains(l.text, []byte(q.text))
}

// rate returns the rate of a connection in both directions or one, and remembers its totals.
func (l *connList) rate(c *stack.ConnInfo, elapsed float64) float64 {
	info, ok := c.Info()
	if !ok {
		return 0
	}
	k := tuple{c.Local, c.Remote}
	now := tally{info.BytesReceived, info.BytesAcked, info.Retrans}
	l.totals[k] = now
	was, ok := l.old[k]
	if !ok || elapsed <= 0 || now.in < was.in || now.out < was.out {
		return 0
	}
	switch l.query.sort {
	case "rate_in_bytes_per_s":
		was.out = now.out
	case "rate_out_bytes_per_s":
		was.in = now.in
	}
	return float64(now.in-was.in+now.out-was.out) / elapsed
}

// order sorts the entries.
func (l *connList) order() {
	q := &l.query
	sign := 1
	if q.desc {
		sign = -1
	}
	slices.SortFunc(l.all, func(a, b connEntry) int {
		c := 0
		switch q.sort {
		case "remote":
			c = a.Remote.Compare(b.Remote)
		case "id", "local", "":
			c = cmp.Or(a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
		default:
			c = cmp.Compare(a.key, b.key)
		}
		// Entries with the same key keep their places in a live table.
		return cmp.Or(sign*c, a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
}

// conn describes a connection of the page.
func (l *connList) conn(c *stack.ConnInfo, elapsed float64) Conn {
	info, ok := c.Info()
	out := connOf(c, &info, ok)
	if !ok {
		return out
	}
	k := tuple{c.Local, c.Remote}
	l.totals[k] = tally{info.BytesReceived, info.BytesAcked, info.Retrans}
	if was, ok := l.old[k]; ok && elapsed > 0 && was.in <= info.BytesReceived && was.out <= info.BytesAcked {
		out.RateIn = new(float64(info.BytesReceived-was.in) / elapsed)
		out.RateOut = new(float64(info.BytesAcked-was.out) / elapsed)
		out.LimitedBy = limitedBy(was, infoOf(c, &info), elapsed)
	}
	return out
}

// connOf describes a connection. has reports whether there is an info.
func connOf(c *stack.ConnInfo, i *stack.TCPInfo, has bool) Conn {
	out := Conn{
		ID: string(appendID(nil, c)), Local: c.Local.String(), Remote: c.Remote.String(), State: c.State.String(),
		Passive: c.Passive, Orphan: c.Orphan, RecvQ: c.RecvQ, SendQ: c.SendQ,
		Timer: c.Timer.String(), ExpiresS: seconds(c.Expires),
	}
	if has {
		out.RTTS, out.Cwnd, out.InFlight = seconds(i.RTT), i.SndCwnd, i.InFlight
		out.SndWnd, out.RcvWnd, out.Retrans = i.SndWnd, i.RcvWnd, i.Retrans
		out.BytesIn, out.BytesOut = i.BytesReceived, i.BytesAcked
		out.LastSendS, out.LastRecvS = seconds(i.LastDataSent), seconds(i.LastDataRecv)
		out.Congestion = i.Congestion.String()
	}
	return out
}

// appendID appends the ID of a connection.
func appendID(b []byte, c *stack.ConnInfo) []byte {
	b = c.Local.AppendTo(b)
	b = append(b, "->"...)
	return c.Remote.AppendTo(b)
}

// parseID returns the addresses in the ID of a connection.
func parseID(id string) (t tuple, err error) {
	local, remote, ok := strings.Cut(id, "->")
	if ok && len(id) <= maxQuery {
		t.local, err = netip.ParseAddrPort(local)
		if err == nil {
			t.remote, err = netip.ParseAddrPort(remote)
		}
	}
	if !ok || err != nil || len(id) > maxQuery {
		return tuple{}, fmt.Errorf("id has to be that of a connection in api/conns, such as 192.0.2.1:80->192.0.2.2:40000")
	}
	return t, nil
}

// A connWatch samples one connection, and finds what has happened between two samples.
type connWatch struct {
	tuple
	last *Info
	at   time.Time // of last
	seen bool      // the connection was there once
}

// id returns the ID of the connection.
func (w *connWatch) id() string {
	return string(appendID(nil, &stack.ConnInfo{Local: w.local, Remote: w.remote}))
}

// sample describes the connection. It returns nil if there is no such connection, and none has been seen before.
func (w *connWatch) sample(h *usernet.Host) *ConnDetail {
	c, ok := h.Conn(w.local, w.remote)
	if !ok && !w.seen {
		return nil
	}
	if !ok {
		return w.ended()
	}
	return w.observe(&c)
}

// observe describes the connection, which exists.
func (w *connWatch) observe(c *stack.ConnInfo) *ConnDetail {
	d := &ConnDetail{Time: time.Now(), Events: []ConnEvent{}}
	w.seen = true
	info, ok := c.Info()
	d.Conn = connOf(c, &info, ok)
	if ok {
		d.Info = infoOf(c, &info)
		d.Events = append(d.Events, connEvents(w.last, d.Info, d.Time)...)
		elapsed := d.Time.Sub(w.at).Seconds()
		if w.last != nil && elapsed > 0 && w.last.BytesAcked <= d.Info.BytesAcked && w.last.BytesReceived <= d.Info.BytesReceived {
			d.Conn.LimitedBy = limitedBy(tallyOf(w.last), d.Info, elapsed)
		}
		w.last, w.at = d.Info, d.Time
	} else if w.last != nil && w.last.State != d.Conn.State {
		d.Events = append(d.Events, ConnEvent{Time: d.Time, Kind: "state", Text: d.Conn.State})
		w.last = nil
	}
	return d
}

// ended describes the connection after its end.
func (w *connWatch) ended() *ConnDetail {
	c := stack.ConnInfo{Local: w.local, Remote: w.remote, State: tcp.Closed}
	d := &ConnDetail{Time: time.Now(), Conn: connOf(&c, nil, false), Ended: true}
	d.Events = []ConnEvent{{Time: d.Time, Kind: "state", Text: d.Conn.State}}
	return d
}

// connEvents returns what has happened between two samples. a is nil for the first sample.
func connEvents(a, b *Info, at time.Time) []ConnEvent {
	if a == nil {
		return nil
	}
	var all []ConnEvent
	add := func(is bool, kind string, n int) {
		if is {
			all = append(all, ConnEvent{Time: at, Kind: kind, N: n})
		}
	}
	if a.State != b.State {
		all = append(all, ConnEvent{Time: at, Kind: "state", Text: b.State})
	}
	add(b.Retrans > a.Retrans, "retransmission", b.Retrans-a.Retrans)
	add(b.Backoff > a.Backoff, "timeout", b.Backoff-a.Backoff)
	add(b.Recovery && !a.Recovery, "recovery_begin", 0)
	add(!b.Recovery && a.Recovery, "recovery_end", 0)
	add(b.SndWnd == 0 && a.SndWnd > 0, "window_closed", 0)
	add(b.SndWnd > 0 && a.SndWnd == 0, "window_opened", 0)
	add(b.RcvWnd == 0 && a.RcvWnd > 0, "full", 0)
	add(b.SndCwnd < a.SndCwnd, "cwnd_reduced", a.SndCwnd-b.SndCwnd)
	add(b.OutOfOrder > 0 && a.OutOfOrder == 0, "out_of_order", 0)
	add(b.Reordering && !a.Reordering, "reordering", 0)
	return all
}
