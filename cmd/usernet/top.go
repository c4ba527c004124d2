package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet/inspect"
)

// topCommand returns the command top, which reads keys from in if in and the output are terminals.
func topCommand(in *os.File) command {
	return command{
		name: "top",
		args: "TARGET",
		what: "shows the busiest connections of a running program, again each second",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			f := topFlags{in: in}
			f.define(fs)
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) != 1 {
					return usageError("one target is needed: the Unix socket or the URL of the program")
				}
				if err := f.check(); err != nil {
					return err
				}
				from, err := newInspector(args[0])
				if err != nil {
					return err
				}
				return f.run(ctx, t, from)
			}
		},
		more: `TARGET is the Unix socket of usernet serve -inspect-socket, or the URL of the page of package inspect in a
program, with its token. Keys: q ends, s or the right arrow sorts by the next column, the left arrow by the
previous one, up and down scroll. If the output is not a terminal, each table follows the one before.

Examples:
  usernet top /run/app.sock
  usernet top -n 1 -sort retrans /run/app.sock
`,
	}
}

// topFlags are the flags of top.
type topFlags struct {
	in       *os.File
	count    int
	interval float64
	sort     string
	limit    int
}

// topKeys are the sort keys of top, in the order of the key s.
var topKeys = []string{"rate", "rate_in", "rate_out", "retrans", "rtt", "cwnd", "send_q", "recv_q", "bytes_in", "bytes_out"}

// topKeyNames has the sort keys of package inspect.
var topKeyNames = map[string]string{"rate_in": "rate_in_bytes_per_s", "rate_out": "rate_out_bytes_per_s", "rtt": "rtt_s"}

func (f *topFlags) define(fs *flag.FlagSet) {
	fs.IntVar(&f.count, "n", 0, "end after `count` tables; 0: at Ctrl-C only")
	fs.Float64Var(&f.interval, "d", 1, "`seconds` from one table to the next, 0.5 to 60")
	fs.StringVar(&f.sort, "sort", topKeys[0], "`key` by which the connections are sorted, the largest first: "+strings.Join(topKeys, ", "))
	fs.IntVar(&f.limit, "limit", 20, "`connections` in a table, if the output is not a terminal, 1 to 1000")
}

func (f *topFlags) check() error {
	switch {
	case f.count < 0:
		return usageError("-n is negative")
	case !(f.interval >= 0.5 && f.interval <= 60): // package inspect samples tables at most every 0.5 s
		return usageError("-d is not from 0.5 to 60")
	case !slices.Contains(topKeys, f.sort):
		return usageError(fmt.Sprintf("-sort %s: the keys are %s", f.sort, strings.Join(topKeys, ", ")))
	case f.limit < 1 || f.limit > 1000:
		return usageError("-limit is not from 1 to 1000")
	}
	return nil
}

// query returns the parameters of the stream of a view.
func (f *topFlags) query(v view) url.Values {
	key := v.sort
	if name, ok := topKeyNames[key]; ok {
		key = name
	}
	return url.Values{
		"topics": {"overview,conns"}, "sort": {key}, "desc": {"1"}, "limit": {strconv.Itoa(v.limit)}, "offset": {strconv.Itoa(v.offset)},
		"interval_ms": {strconv.Itoa(int(f.interval * 1000))},
	}
}

// A view is what top shows.
type view struct {
	sort          string
	limit, offset int // rows
	total         int // connections in the last table; 0 before the first one
}

func (f *topFlags) run(ctx context.Context, t terminal, from *inspector) error {
	if out, ok := t.out.(*os.File); ok && f.in != nil && isTerminal(f.in) && isTerminal(out) {
		return f.interactive(ctx, out, from)
	}
	n := 0
	err := f.follow(ctx, from, view{sort: f.sort, limit: f.limit}, func(o *inspect.Overview, c *inspect.Conns) bool {
		if n++; n > 1 {
			fmt.Fprintln(t.out)
		}
		io.WriteString(t.out, topTable(o, c, view{sort: f.sort}, math.MaxInt))
		return n != f.count
	})
	if ctx.Err() != nil {
		return nil // Ctrl-C
	}
	return err
}

// follow calls show for each sample except the first, which has no rates, until show returns false.
func (f *topFlags) follow(ctx context.Context, from *inspector, v view, show func(*inspect.Overview, *inspect.Conns) bool) error {
	var o inspect.Overview
	var bad error
	recording := false
	samples := 0
	err := from.stream(ctx, f.query(v), func(topic string, data []byte) bool {
		switch topic {
		case "overview":
			o = inspect.Overview{}
			bad = json.Unmarshal(data, &o)
		case "conns":
			var c inspect.Conns
			if bad = json.Unmarshal(data, &c); bad != nil {
				break
			}
			if samples++; samples > 1 && !o.Time.IsZero() {
				return show(&o, &c)
			}
		case "end":
			recording = true
			return false
		}
		return bad == nil
	})
	if bad != nil {
		return fmt.Errorf("not the answer of package inspect: %w", bad)
	}
	if recording {
		return errors.New("a recording has no rates; usernet ss lists its connections")
	}
	return err
}

// topTable returns a table of at most the given number of columns. Text that the other program chooses cannot
// control the terminal.
func topTable(o *inspect.Overview, c *inspect.Conns, v view, columns int) string {
	sort := v.sort
	var lines []string
	line := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	var in, out float64
	for _, x := range c.Conns {
		in, out = in+rate(x.RateIn), out+rate(x.RateOut)
	}
	var rx, tx, dropped uint64
	for _, i := range o.Interfaces {
		rx, tx, dropped = rx+i.RxBytes, tx+i.TxBytes, dropped+i.RxDropped+i.TxDropped
	}
	line("%s  up %s  %d connections (%d established), %d listeners, %d sockets", o.Time.Local().Format(time.TimeOnly),
		(time.Duration(o.Host.UptimeS) * time.Second).String(), o.Totals.Conns, o.Totals.ByState["ESTABLISHED"], o.Totals.Listeners, o.Totals.Sockets)
	line("in %s  out %s of the connections shown; interfaces: received %s, sent %s, dropped %d", bits(in), bits(out), size(rx), size(tx), dropped)
	line("TCP segments: received %d, sent %d, retransmitted %d; memory: %s of buffers", o.Stats.TCP.Received, o.Stats.TCP.Sent,
		o.Stats.TCP.Events["RetransSegs"], size(uint64(max(o.Memory.TCPBuffers, 0))))
	line("connections sorted by %s", sort)
	head := fmt.Sprintf("%-24s %-24s %-11s %9s %9s %8s %8s %8s %8s %8s %8s %8s", "LOCAL", "REMOTE", "STATE",
		title("rate_in", "IN", sort), title("rate_out", "OUT", sort), title("bytes_in", "TOTAL-IN", sort), title("bytes_out", "TOTAL-OUT", sort),
		title("rtt", "RTT", sort), title("cwnd", "CWND", sort), title("retrans", "RETRANS", sort), title("recv_q", "RECV-Q", sort), title("send_q", "SEND-Q", sort))
	line("%s", head)
	for _, x := range c.Conns {
		line("%-24s %-24s %-11s %9s %9s %8s %8s %8s %8s %8d %8s %8s", x.Local, x.Remote, x.State, bits(rate(x.RateIn)), bits(rate(x.RateOut)),
			size(x.BytesIn), size(x.BytesOut), rtt(x.RTTS), size(uint64(max(x.Cwnd, 0))), x.Retrans, size(uint64(max(x.RecvQ, 0))), size(uint64(max(x.SendQ, 0))))
	}
	if more := c.Total - v.offset - len(c.Conns); more > 0 {
		line("… and %d more", more)
	}
	var b strings.Builder
	for _, l := range lines {
		l = printable(l)
		if r := []rune(l); len(r) > columns {
			l = string(r[:columns])
		}
		b.WriteString(strings.TrimRight(l, " ") + "\n")
	}
	return b.String()
}

// title marks the title of the column by which a table is sorted.
func title(key, title, sort string) string {
	if key == sort || sort == "rate" && strings.HasPrefix(key, "rate_") {
		return "*" + title
	}
	return title
}

func rate(r *float64) float64 {
	if r == nil {
		return 0
	}
	return *r
}

// rtt formats a round-trip time.
func rtt(s float64) string {
	if s == 0 {
		return "-"
	}
	return strconv.FormatFloat(s*1000, 'f', 2, 64) + "ms"
}

// size formats a number of bytes with a unit of a power of 1024.
func size(n uint64) string {
	if n < 1024 {
		return strconv.FormatUint(n, 10)
	}
	x := float64(n)
	for _, unit := range []string{"K", "M", "G", "T", "P"} {
		if x /= 1024; x < 1000 {
			return strconv.FormatFloat(x, 'f', 1, 64) + unit
		}
	}
	return strconv.FormatFloat(x/1024, 'f', 1, 64) + "E"
}

// Codes of terminals (ECMA-48 and xterm).
const (
	screenBegin = "\x1b[?1049h\x1b[?25l" // the alternate screen, without a cursor
	screenEnd   = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineClear   = "\x1b[K"
	screenClear = "\x1b[J" // from here to the end
)

// A topKey is a key of the keyboard.
type topKey uint8

const (
	keyNone topKey = iota
	keyQuit
	keyNext
	keyPrevious
	keyUp
	keyDown
)

// readKeys sends the keys that are typed, until in ends.
func readKeys(in io.Reader, keys chan<- topKey) {
	defer close(keys)
	var b [64]byte
	for {
		n, err := in.Read(b[:])
		if err != nil {
			return
		}
		for _, k := range parseKeys(b[:n]) {
			keys <- k
		}
	}
}

// parseKeys returns the keys in what one Read returned.
func parseKeys(b []byte) (keys []topKey) {
	for len(b) > 0 {
		if len(b) >= 3 && b[0] == 0x1b && (b[1] == '[' || b[1] == 'O') {
			if k := map[byte]topKey{'A': keyUp, 'B': keyDown, 'C': keyNext, 'D': keyPrevious}[b[2]]; k != keyNone {
				keys = append(keys, k)
			}
			b = b[3:]
			continue
		}
		if k := map[byte]topKey{'q': keyQuit, 'Q': keyQuit, 3: keyQuit, 's': keyNext, 'k': keyUp, 'j': keyDown}[b[0]]; k != keyNone {
			keys = append(keys, k)
		}
		b = b[1:]
	}
	return keys
}

// interactive shows tables on a terminal until the key q or the end of ctx. It restores the terminal.
func (f *topFlags) interactive(ctx context.Context, out *os.File, from *inspector) error {
	restore, err := rawTerminal(f.in)
	if err != nil {
		return err
	}
	defer restore()
	io.WriteString(out, screenBegin)
	defer io.WriteString(out, screenEnd)
	keys := make(chan topKey)
	go readKeys(f.in, keys)
	v := view{sort: f.sort}
	shown := 0
	for {
		columns, rows := terminalSize(out)
		v.limit = min(max(rows-7, 1), 1000) // the lines above the connections, and the one below
		redraw, err := f.screen(ctx, out, from, v, columns, keys, &shown)
		switch {
		case ctx.Err() != nil:
			return nil
		case redraw == nil:
			return err
		}
		redraw(&v)
	}
}

// screen shows a view until a key changes it, and returns the change. It returns nil at the end.
func (f *topFlags) screen(ctx context.Context, out io.Writer, from *inspector, v view, columns int, keys <-chan topKey, shown *int) (change func(*view), err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	total, past := v.total, false // read after ended
	go func() {
		ended <- f.follow(ctx, from, v, func(o *inspect.Overview, c *inspect.Conns) bool {
			if total = c.Total; v.offset > 0 && v.offset >= total {
				past = true // connections have ended
				return false
			}
			table := topTable(o, c, v, columns)
			io.WriteString(out, screenHome+strings.ReplaceAll(table, "\n", lineClear+"\n")+screenClear)
			*shown++
			return *shown != f.count
		})
	}()
	for {
		select {
		case err := <-ended:
			if past {
				return func(v *view) { v.total, v.offset = total, max(total-1, 0)/v.limit*v.limit }, nil
			}
			return nil, err
		case k, ok := <-keys:
			if !ok {
				keys = nil // the keyboard has ended; Ctrl-C ends the program
				continue
			}
			move := k.change()
			if move == nil && k != keyQuit {
				continue
			}
			cancel()
			<-ended // it writes no more
			if move == nil {
				return nil, nil
			}
			return func(v *view) {
				v.total = total
				move(v)
			}, nil
		}
	}
}

// change returns how a key changes the view, or nil.
func (k topKey) change() func(*view) {
	turn := func(n int) func(*view) {
		return func(v *view) {
			i := slices.Index(topKeys, v.sort) + n + len(topKeys)
			v.sort, v.offset = topKeys[i%len(topKeys)], 0
		}
	}
	switch k {
	case keyNext:
		return turn(1)
	case keyPrevious:
		return turn(-1)
	case keyUp:
		return func(v *view) { v.offset = max(v.offset-v.limit, 0) }
	case keyDown:
		return func(v *view) {
			if v.offset+v.limit < v.total {
				v.offset += v.limit
			}
		}
	}
	return nil
}
