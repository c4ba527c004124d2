package inspect

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack"
)

// Limits of a capture.
const (
	maxCaptures       = 2 // at the same time
	maxSeconds        = 60
	maxCaptureBytes   = 64 << 20
	maxSnap           = 256 << 10
	maxFilter         = 1000
	maxForm           = 16 << 10
	defaultSeconds    = 10
	defaultCapture    = 16 << 20
	captureBuffer     = 8 << 20                // frames that the capture has not taken yet, in bytes
	captureHold       = 4096                   // frames that wait for the reason of their drop
	captureHoldBytes  = 1 << 20                // and their bytes
	captureQuiet      = 20 * time.Millisecond  // after this time without a frame, none of them is dropped any more
	captureWriteAhead = 200 * time.Millisecond // the client gets the frames at least this often
)

// captureForm are the parameters of a capture, checked.
type captureForm struct {
	filter  string
	seconds time.Duration
	bytes   int64
	snap    int
}

// parseCapture checks the form of a request.
func parseCapture(w http.ResponseWriter, r *http.Request) (f captureForm, err error) {
	f = captureForm{seconds: defaultSeconds * time.Second, bytes: defaultCapture}
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		return f, badRequest("the form is malformed or longer than 16 KiB: send it as application/x-www-form-urlencoded")
	}
	for key, values := range r.PostForm {
		if len(values) != 1 {
			return f, badRequest("the parameter " + quote(key) + " is there more than once")
		}
		v := values[0]
		switch key {
		case "filter":
			if len(v) > maxFilter {
				return f, badRequest("filter has to have at most 1000 bytes")
			}
			f.filter = v
		case "seconds":
			s, err := strconv.ParseFloat(v, 64)
			if err != nil || math.IsNaN(s) || s <= 0 || s > maxSeconds {
				return f, badRequest("seconds has to be a number above 0, and at most 60")
			}
			f.seconds = time.Duration(s * float64(time.Second))
		case "bytes":
			n, err := number(key, v, 1, maxCaptureBytes)
			if err != nil {
				return f, err
			}
			f.bytes = int64(n)
		case "snap":
			if f.snap, err = number(key, v, 0, maxSnap); err != nil {
				return f, err
			}
		default:
			return f, badRequest("there is no parameter " + quote(key) + ": the form has filter, seconds, bytes and snap")
		}
	}
	return f, nil
}

// capture answers api/capture with a pcapng file of what the host receives, sends and drops. If the client is on the
// network of the host, the frames of its connection are left out.
func (l *live) capture(w http.ResponseWriter, r *http.Request) error {
	f, err := parseCapture(w, r)
	if err != nil {
		return err
	}
	if l.captures.Add(1) > maxCaptures {
		l.captures.Add(-1)
		w.Header().Set("Retry-After", "10")
		return &requestError{http.StatusServiceUnavailable, "two captures run already: wait until one has ended"}
	}
	defer l.captures.Add(-1)
	cfg := stack.WatchConfig{Frames: true, Drops: true, Filter: f.filter, Buffer: captureBuffer}
	if f.snap > 0 {
		cfg.SnapLen = max(f.snap, segmentSnap) // the headers are needed to recognize frames; the writer cuts them
	}
	watcher, err := l.host.Watch(cfg)
	if err != nil {
		return watchError(err)
	}
	defer watcher.Close()
	ctx, cancel := context.WithTimeout(r.Context(), f.seconds)
	defer cancel()
	w.Header().Set("Content-Type", "application/x-pcapng")
	w.Header().Set("Content-Disposition", `attachment; filename="usernet-`+time.Now().Format("20060102-150405")+`.pcapng"`)
	w.WriteHeader(http.StatusOK)
	c := &capture{left: f.bytes, snap: f.snap, keys: l.cfg.KeyLog, nics: captureInterfaces(l.host)}
	c.own = l.ownConn(r)
	c.to = &clientWriter{w: w, rc: http.NewResponseController(w)}
	defer c.to.rc.SetWriteDeadline(time.Time{}) // the connection may serve more requests
	c.whole = c.keys != nil
	c.to.Flush() // the client learns that the capture has begun
	c.run(ctx, watcher)
	if r.Context().Err() == nil {
		c.finish()
	}
	return nil // the answer has begun
}

// ownConn returns the connection of a request, if it is one of the host.
func (l *live) ownConn(r *http.Request) tuple {
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return tuple{}
	}
	t, err := parseID(a.String() + "->" + r.RemoteAddr)
	if err != nil {
		return tuple{}
	}
	if _, ok := l.host.Conn(t.local, t.remote); !ok {
		return tuple{}
	}
	return tuple{unzoned(t.local), unzoned(t.remote)}
}

// A clientWriter writes to a client. A client that reads nothing is cut off. Between the writes there is no deadline:
// over HTTP/2, a deadline that passes resets the stream even if no write is pending.
type clientWriter struct {
	w  io.Writer
	rc *http.ResponseController
}

func (c *clientWriter) Write(p []byte) (n int, err error) {
	err = c.within(func() (err error) {
		n, err = c.w.Write(p)
		return err
	})
	return n, err
}

// Flush sends what the server has buffered.
func (c *clientWriter) Flush() error { return c.within(c.rc.Flush) }

// within calls f with a deadline, and clears the deadline if f succeeds.
func (c *clientWriter) within(f func() error) error {
	err := c.rc.SetWriteDeadline(time.Now().Add(writeTimeout))
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if err := f(); err != nil {
		return err
	}
	c.rc.SetWriteDeadline(time.Time{})
	return nil
}

// errFull ends a capture that has reached its number of bytes.
var errFull = errors.New("the capture is full")

// A capture is a capture in progress.
type capture struct {
	to    *clientWriter
	left  int64 // bytes that may still be written
	snap  int
	keys  *KeyLog
	nics  []pcap.Interface // of the host when the capture begins; the writer adds later ones
	own   tuple            // the connection of the request itself, if it is one of the host: its frames are left out
	whole bool             // the frames are kept until the end, because the secrets of TLS have to be before them in the file

	out     *pcap.Writer
	held    []pcap.Packet // frames that may still be found to be dropped, or all of them if whole is set
	size    int64         // bytes of held, in the file
	flushed time.Time
	lost    uint64
	err     error
}

// run takes frames until ctx ends, the host is closed or the capture is full.
func (c *capture) run(ctx context.Context, w *stack.Watcher) {
	c.flushed = time.Now()
	for c.err == nil {
		e, err := c.next(ctx, w)
		switch {
		case errors.Is(err, errQuiet):
			c.write(len(c.held))
			c.flush()
		case err != nil:
			return
		default:
			c.take(&e)
		}
	}
}

// take adds an event, and writes frames if there are too many, or if the client has got none for a while.
func (c *capture) take(e *stack.WatchEvent) {
	c.add(e)
	for !c.whole && (len(c.held) > captureHold || c.size > captureHoldBytes) {
		c.write((len(c.held) + 1) / 2)
	}
	if time.Since(c.flushed) < captureWriteAhead {
		return
	}
	n, old := 0, time.Now().Add(-captureQuiet)
	for n < len(c.held) && c.held[n].Time.Before(old) {
		n++
	}
	c.write(n)
	c.flush()
}

// errQuiet says that no frame has come for a while.
var errQuiet = errors.New("quiet")

// next returns the next event, or errQuiet.
func (c *capture) next(ctx context.Context, w *stack.Watcher) (stack.WatchEvent, error) {
	if len(c.held) == 0 || c.whole {
		return w.Next(ctx)
	}
	for e := range waiting(w) {
		return e, nil
	}
	soon, cancel := context.WithTimeout(ctx, captureQuiet)
	defer cancel()
	e, err := w.Next(soon)
	if err != nil && ctx.Err() == nil && soon.Err() != nil {
		err = errQuiet
	}
	return e, err
}

// add adds an event. A dropped packet is a comment of its frame, if the frame is there, and otherwise a packet of
// its own.
func (c *capture) add(e *stack.WatchEvent) {
	c.lost += e.Lost
	if c.own.local.IsValid() {
		// Each frame that is sent to the client would be captured, and would be sent again.
		// On the loopback, the frames of the client's end are there too.
		if p, ok := parseSegment(e); ok && (p.tuple == c.own || p.tuple == tuple{c.own.remote, c.own.local}) {
			return
		}
	}
	comment := ""
	if e.Kind == stack.PacketDropped {
		comment = e.Why()
		for i := len(c.held) - 1; i >= max(len(c.held)-captureHold, 0) && e.Data != nil; i-- {
			if p := &c.held[i]; p.Comment == "" && p.Len == e.Len && bytes.Equal(p.Data, e.Data) {
				p.Comment = comment
				c.size += int64(len(comment))
				return
			}
		}
	}
	if e.Data == nil {
		return
	}
	if c.lost > 0 {
		if comment != "" {
			comment += "\n"
		}
		comment += fmt.Sprintf("%d frames before this one are missing: they came too fast", c.lost)
		c.lost = 0
	}
	p := pcap.Packet{Time: e.Time, Data: e.Data, Len: e.Len, Link: pcap.LinkRaw, Direction: pcap.Inbound, Interface: e.NIC, Comment: comment}
	if e.Ethernet {
		p.Link = pcap.LinkEthernet
	}
	if e.Outbound {
		p.Direction = pcap.Outbound
	}
	c.held = append(c.held, p)
	if c.size += c.sizeOf(&p); c.size >= c.left && c.whole {
		c.err = errFull
	}
}

// sizeOf returns about the number of bytes of a frame in the file.
func (c *capture) sizeOf(p *pcap.Packet) int64 {
	n := len(p.Data)
	if c.snap > 0 {
		n = min(n, c.snap)
	}
	return int64(n + len(p.Comment) + blockOverhead)
}

// blockOverhead is about the number of bytes of a packet's block without the packet and its comment.
const blockOverhead = 64

// write writes the first n of the frames that are held.
func (c *capture) write(n int) {
	if c.whole {
		return
	}
	c.begin()
	for i := range n {
		c.size -= c.sizeOf(&c.held[i])
		if c.err == nil {
			c.err = c.out.Write(c.held[i])
		}
	}
	c.held = slices.Delete(c.held, 0, n) // it also lets go of their bytes
}

// keyBlock is fewer bytes than a block of secrets has, if there are several.
const keyBlock = 32 << 10

// captureInterfaces describes the interfaces of a host.
func captureInterfaces(h *usernet.Host) (all []pcap.Interface) {
	for _, info := range h.Interfaces() {
		link := pcap.LinkEthernet
		if info.Medium == nic.IP || info.Loopback {
			link = pcap.LinkRaw
		}
		all = append(all, pcap.Interface{Name: info.Name, MAC: info.MAC, Link: link})
	}
	return all
}

// begin writes the beginning of the file, with the interfaces, once.
func (c *capture) begin() {
	if c.out != nil || c.err != nil {
		return
	}
	first, more := pcap.Interface{Name: "usernet", Link: pcap.LinkEthernet}, c.nics
	if len(more) > 0 {
		first, more = more[0], more[1:]
	}
	first.SnapLen = c.snap
	c.out, c.err = pcap.NewWriter(c, first)
	for _, ifc := range more {
		if c.err == nil {
			c.err = c.out.AddInterface(ifc)
		}
	}
}

// finish writes what is left, after the secrets of TLS.
func (c *capture) finish() {
	if errors.Is(c.err, errFull) && c.whole {
		c.err = nil
	}
	c.whole = false
	c.begin()
	// The secrets may take what the frames leave, and half of a file that the frames would fill.
	room := max(c.left-c.size, c.left/2)
	lines := lastLines(c.keys.lines(), room-blockOverhead*(1+room/keyBlock))
	if len(lines) > 0 && c.err == nil {
		c.err = c.out.WriteKeyLog(lines)
	}
	c.write(len(c.held))
	c.flush()
}

// lastLines returns the last lines of a key log that have at most n bytes.
func lastLines(lines []byte, n int64) []byte {
	over := int64(len(lines)) - n
	if over <= 0 {
		return lines
	}
	if n <= 0 {
		return nil
	}
	return lines[over+int64(bytes.IndexByte(lines[over-1:], '\n')):] // the last byte is the end of a line
}

func (c *capture) flush() {
	if c.err == nil && !c.whole {
		c.begin()
	}
	c.to.Flush()
	c.flushed = time.Now()
}

// Write writes a block of the file. A block that is over the limit is left out, and ends the capture. So the file is
// always valid.
func (c *capture) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, errFull
	}
	c.left -= int64(len(p))
	return c.to.Write(p)
}

// canCapture reports whether api/capture works.
func (l *live) canCapture() bool { return !l.closed() }
