package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/resolve"
)

func ssCommand() command {
	return command{
		name: "ss",
		args: "TARGET [FILTER]",
		what: "lists the sockets of a running program, as ss lists the kernel's",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var f ssFlags
			f.define(fs)
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) == 0 {
					return usageError("the target is missing: the Unix socket or the URL of the program")
				}
				filter, err := parseSSFilter(args[1:])
				if err != nil {
					return err
				}
				if err := f.check(filter); err != nil {
					return err
				}
				from, err := newInspector(args[0])
				if err != nil {
					return err
				}
				return f.run(ctx, t, from, filter)
			}
		},
		letters: true,
		more: `TARGET is the Unix socket of usernet serve -inspect-socket, or the URL of the page of package inspect in a
program, with its token. Without -t and -u, both are listed; without -l and -a, sockets with a peer.

A FILTER has states and conditions, as that of Linux's ss:
  state NAME, exclude NAME      established, syn-sent, time-wait, …, connected, synchronized, bucket, big, all
  sport = :80, dport > :1024    also !=, <, <=, >= and eq, ne, lt, le, gt, ge
  src 192.0.2.0/24, dst [2001:db8::1]:80
  and, or, not, ( )

Examples:
  usernet ss /run/app.sock
  usernet ss -ti /run/app.sock state established dport = :443
  usernet ss -lntu 'http://127.0.0.1:8080/debug/usernet/?token=…'
  usernet ss -K /run/app.sock dst 198.51.100.7
`,
	}
}

// ssFlags are the flags of ss, with the names of Linux's.
type ssFlags struct {
	tcp, udp, listening, all, numeric, info, timer, summary, kill, json, noHeader, four, six bool
}

func (f *ssFlags) define(fs *flag.FlagSet) {
	fs.BoolVar(&f.tcp, "t", false, "TCP")
	fs.BoolVar(&f.udp, "u", false, "UDP and raw sockets")
	fs.BoolVar(&f.listening, "l", false, "only sockets without a peer")
	fs.BoolVar(&f.all, "a", false, "sockets with and without a peer")
	fs.BoolVar(&f.numeric, "n", false, "print ports as numbers")
	fs.BoolVar(&f.info, "i", false, "print the state of each TCP connection in detail")
	fs.BoolVar(&f.timer, "o", false, "print the timer of each TCP connection")
	fs.BoolVar(&f.summary, "s", false, "print only a summary of all sockets")
	fs.BoolVar(&f.kill, "K", false, "reset the TCP connections that the filter selects, and print them")
	fs.BoolVar(&f.json, "j", false, "print JSON, with the keys of package inspect")
	fs.BoolVar(&f.noHeader, "H", false, "print no header")
	fs.BoolVar(&f.four, "4", false, "only IPv4")
	fs.BoolVar(&f.six, "6", false, "only IPv6")
}

func (f *ssFlags) check(filter *ssFilter) error {
	switch {
	case f.summary && f.kill:
		return usageError("-s and -K")
	case f.summary && (f.tcp || f.udp || f.listening || f.four || f.six || filter.given):
		return usageError("-s counts all sockets: it cannot be combined with -t, -u, -l, -4, -6 and a filter")
	case f.kill && !filter.given:
		return usageError("-K needs a filter: it would reset every connection; \"state all\" selects them")
	case f.kill && f.udp:
		return usageError("-K and -u: only TCP connections can be reset")
	}
	if !f.tcp && !f.udp {
		f.tcp, f.udp = true, !f.kill
	}
	return nil
}

func (f *ssFlags) run(ctx context.Context, t terminal, from *inspector, filter *ssFilter) error {
	if f.summary {
		return f.printSummary(ctx, t, from)
	}
	entries, err := f.entries(ctx, from)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e *ssEntry) bool { return !f.selects(e, filter) })
	var failed error
	if f.kill {
		entries, failed = abortAll(ctx, from, entries)
	}
	details := make(map[*ssEntry]*inspect.ConnDetail)
	if (f.info || f.json) && !f.kill {
		for _, e := range entries {
			if e.id == "" {
				continue
			}
			d := new(inspect.ConnDetail)
			if err := from.get(ctx, "conn", url.Values{"id": {e.id}}, d); err == nil {
				details[e] = d
			} else if !isGone(err) { // a connection may have ended meanwhile
				return err
			}
		}
	}
	if f.json {
		return cmp.Or(failed, printSSJSON(t.out, entries, details))
	}
	f.print(t.out, entries, details)
	return failed
}

// abortAll resets the connections among the entries, until an error, and returns those that it has reset. It skips
// connections that have ended meanwhile, and those that cannot be reset, such as connections in TIME-WAIT.
func abortAll(ctx context.Context, from *inspector, entries []*ssEntry) (reset []*ssEntry, err error) {
	for _, e := range entries {
		if e.id == "" {
			continue
		}
		if err := from.abort(ctx, e.id); err == nil {
			reset = append(reset, e)
		} else if !isGone(err) {
			return reset, err
		}
	}
	return reset, nil
}

// entries returns the sockets of the chosen protocols.
func (f *ssFlags) entries(ctx context.Context, from *inspector) (all []*ssEntry, err error) {
	if f.udp {
		sockets, err := from.sockets(ctx)
		if err != nil {
			return nil, err
		}
		for _, s := range sockets {
			e := &ssEntry{network: s.Protocol, state: "unconnected", recvQ: s.RecvQ, local: parseEnd(s.Local), peer: parseEnd(s.Remote), any: s.Family == "any", value: s}
			if e.peer.IsValid() {
				e.state = "established"
			}
			if s.Raw {
				e.network = "raw"
			}
			all = append(all, e)
		}
	}
	if !f.tcp {
		return all, nil
	}
	var listeners inspect.Listeners
	if err := from.get(ctx, "listeners", nil, &listeners); err != nil {
		return nil, err
	}
	for _, l := range listeners.Listeners {
		all = append(all, &ssEntry{network: "tcp", state: "listening", recvQ: l.Queue, sendQ: l.Backlog, local: parseEnd(l.Local), any: l.Family == "any", value: l})
	}
	conns, err := from.conns(ctx)
	if err != nil {
		return nil, err
	}
	for _, c := range conns {
		all = append(all, &ssEntry{network: "tcp", state: ssState(c.State), recvQ: c.RecvQ, sendQ: c.SendQ, local: parseEnd(c.Local), peer: parseEnd(c.Remote), id: c.ID, value: c})
	}
	return all, nil
}

// parseEnd parses an address with a port, or without one for a raw socket. It is invalid if s is empty.
func parseEnd(s string) netip.AddrPort {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 0)
	}
	return netip.AddrPort{}
}

// ssState returns the name that filters have for a state of RFC 9293.
func ssState(s string) string {
	s = strings.ToLower(s)
	if s == "syn-received" {
		return "syn-recv"
	}
	return s
}

// selects reports whether the flags and the filter select a socket.
func (f *ssFlags) selects(e *ssEntry, filter *ssFilter) bool {
	four := e.local.Addr().Unmap().Is4()
	if f.four != f.six && !e.any && four != f.four {
		return false
	}
	alone := e.state == "listening" || e.state == "unconnected"
	switch {
	case filter.states != nil:
		if !filter.states[e.state] {
			return false
		}
	case f.all:
	case f.listening:
		if !alone {
			return false
		}
	case alone, e.state == "time-wait":
		return false // as in Linux's ss
	case e.state == "syn-recv" && !f.kill:
		// As in Linux's ss, except that -K also selects half-open connections, to reset them: usernet's choice.
		return false
	}
	return filter.match(e)
}

// print prints a table.
func (f *ssFlags) print(w io.Writer, entries []*ssEntry, details map[*ssEntry]*inspect.ConnDetail) {
	rows := [][]string{{"Netid", "State", "Recv-Q", "Send-Q", "Local Address:Port", "Peer Address:Port"}}
	for _, e := range entries {
		rows = append(rows, []string{e.network, ssStates[e.state], strconv.Itoa(e.recvQ), strconv.Itoa(e.sendQ), f.end(e, e.local), f.end(e, e.peer)})
	}
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], len(cell))
		}
	}
	first := 0
	if !(f.tcp && f.udp) {
		first = 1 // omit the column Netid
	}
	for i, row := range rows {
		if i == 0 && f.noHeader {
			continue
		}
		var b strings.Builder
		for j := first; j < len(row); j++ {
			fmt.Fprintf(&b, "%-*s ", widths[j], row[j])
		}
		if i > 0 && f.timer {
			b.WriteString(timerText(entries[i-1]))
		}
		fmt.Fprintln(w, strings.TrimRight(printable(b.String()), " "))
		if i > 0 && details[entries[i-1]] != nil && f.info {
			if info := details[entries[i-1]].Info; info != nil {
				fmt.Fprintf(w, "\t %s\n", printable(infoText(info)))
			}
		}
	}
}

// end returns an address with its port, as ss prints it.
func (f *ssFlags) end(e *ssEntry, a netip.AddrPort) string {
	addr, port := "*", "*"
	switch {
	case a.Addr().Unmap().Is4():
		addr = a.Addr().Unmap().String()
	case a.IsValid() && !(e.any && a.Addr().IsUnspecified()):
		addr = "[" + a.Addr().String() + "]"
	}
	if a.Port() != 0 {
		port = strconv.Itoa(int(a.Port()))
		if !f.numeric {
			port = cmp.Or(resolve.ServiceName(e.network, int(a.Port())), port)
		}
	}
	return addr + ":" + port
}

// timerText returns the timer of a connection, as ss -o prints it.
func timerText(e *ssEntry) string {
	c, ok := e.value.(inspect.Conn)
	if !ok || c.Timer == "" || c.Timer == "none" {
		return ""
	}
	return fmt.Sprintf("timer:(%s,%s)", c.Timer, shortSeconds(c.ExpiresS))
}

// shortSeconds formats a time as "123ms", "12sec" or "1min30sec". It rounds before it chooses the units, so it returns
// "1sec" for 0.9997 and "1min0sec" for 59.7.
func shortSeconds(s float64) string {
	if ms := math.Round(s * 1000); ms < 1000 {
		return fmt.Sprintf("%.0fms", ms)
	}
	s = math.Round(s)
	if s < 60 {
		return fmt.Sprintf("%.0fsec", s)
	}
	return fmt.Sprintf("%dmin%dsec", int(s)/60, int(s)%60)
}

// infoText returns the details of a connection in the words of ss -i. As in ss, cwnd and ssthresh are in segments,
// times in milliseconds and rates in bits per second.
func infoText(i *inspect.Info) string {
	var b strings.Builder
	add := func(show bool, format string, args ...any) {
		if show {
			fmt.Fprintf(&b, " "+format, args...)
		}
	}
	ms := func(s float64) string { return strconv.FormatFloat(float64(int(s*1e6+.5))/1e3, 'f', -1, 64) }
	mss := max(i.SndMSS, 1)
	add(i.Timestamps, "ts")
	add(i.SACK, "sack")
	add(i.ECN, "ecn")
	add(i.Congestion != "", "%s", i.Congestion)
	add(i.WScale, "wscale:%d,%d", i.SndWScale, i.RcvWScale)
	add(true, "rto:%s", ms(i.RTOS))
	add(i.Backoff > 0, "backoff:%d", i.Backoff)
	add(i.RTTS > 0, "rtt:%s/%s", ms(i.RTTS), ms(i.RTTVarS))
	add(true, "mss:%d rcvmss:%d cwnd:%d", i.SndMSS, i.RcvMSS, i.SndCwnd/mss)
	add(i.SndSsthresh > 0 && i.SndSsthresh < 1<<30, "ssthresh:%d", i.SndSsthresh/mss)
	add(i.BytesSent > 0, "bytes_sent:%d", i.BytesSent)
	add(i.BytesRetrans > 0, "bytes_retrans:%d", i.BytesRetrans)
	add(i.BytesAcked > 0, "bytes_acked:%d", i.BytesAcked)
	add(i.BytesReceived > 0, "bytes_received:%d", i.BytesReceived)
	add(true, "segs_out:%d segs_in:%d", i.SegsOut, i.SegsIn)
	add(i.DataSegsOut > 0, "data_segs_out:%d", i.DataSegsOut)
	add(i.DataSegsIn > 0, "data_segs_in:%d", i.DataSegsIn)
	add(i.RTTS > 0, "send %s", bits(float64(i.SndCwnd)/i.RTTS))
	add(i.LastDataSentS > 0, "lastsnd:%.0f", i.LastDataSentS*1000)
	add(i.LastDataRecvS > 0, "lastrcv:%.0f", i.LastDataRecvS*1000)
	add(i.LastAckRecvS > 0, "lastack:%.0f", i.LastAckRecvS*1000)
	add(i.PacingRate > 0, "pacing_rate %s", bits(float64(i.PacingRate)))
	add(i.DeliveryRate > 0, "delivery_rate %s", bits(float64(i.DeliveryRate)))
	add(i.Unacked > 0, "unacked:%d", i.Unacked)
	add(i.Retrans > 0, "retrans_total:%d", i.Retrans)
	add(i.Lost > 0, "lost:%d", i.Lost)
	add(i.Sacked > 0, "sacked:%d", i.Sacked)
	add(i.RcvRTTS > 0, "rcv_rtt:%s", ms(i.RcvRTTS))
	add(i.NotSent > 0, "notsent:%d", i.NotSent)
	add(i.MinRTTS > 0, "minrtt:%s", ms(i.MinRTTS))
	add(i.OutOfOrder > 0, "rcv_ooo:%d", i.OutOfOrder)
	add(true, "snd_wnd:%d rcv_wnd:%d", i.SndWnd, i.RcvWnd)
	return strings.TrimPrefix(b.String(), " ")
}

// bits formats a rate in bytes per second as bits per second.
func bits(bytes float64) string {
	r := 8 * bytes
	for _, u := range []struct {
		unit  float64
		name  string
		digit int
	}{{1e9, "Gbps", 2}, {1e6, "Mbps", 1}, {1e3, "kbps", 1}} {
		if r >= u.unit {
			return strconv.FormatFloat(r/u.unit, 'f', u.digit, 64) + u.name
		}
	}
	return strconv.FormatFloat(r, 'f', 0, 64) + "bps"
}

// printSSJSON prints an array of the sockets. Each has the keys of package inspect, the key "netid", and if it is a
// connection the key "info".
func printSSJSON(w io.Writer, entries []*ssEntry, details map[*ssEntry]*inspect.ConnDetail) error {
	all := []map[string]any{}
	for _, e := range entries {
		b, err := json.Marshal(e.value)
		if err != nil {
			return err
		}
		var m map[string]any
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber() // counters may be larger than a float64 holds
		if err := d.Decode(&m); err != nil {
			return err
		}
		m["netid"] = e.network
		if d := details[e]; d != nil && d.Info != nil {
			m["info"] = d.Info
		}
		all = append(all, m)
	}
	return printJSON(w, all)
}

// printSummary prints the number of sockets, as ss -s does.
func (f *ssFlags) printSummary(ctx context.Context, t terminal, from *inspector) error {
	var o inspect.Overview
	if err := from.get(ctx, "overview", nil, &o); err != nil {
		return err
	}
	if f.json {
		return printJSON(t.out, o.Totals)
	}
	count := func(state string) int { return o.Totals.ByState[state] }
	fmt.Fprintf(t.out, "Total: %d\n", o.Totals.Conns+o.Totals.Listeners+o.Totals.Sockets)
	fmt.Fprintf(t.out, "TCP:   %d (estab %d, listen %d, synrecv %d, orphaned %d, timewait %d)\n", o.Totals.Conns+o.Totals.Listeners,
		count("ESTABLISHED"), o.Totals.Listeners, count("SYN-RECEIVED"), o.Stats.TCP.Orphans, count("TIME-WAIT"))
	fmt.Fprintf(t.out, "UDP and raw: %d\n", o.Totals.Sockets)
	return nil
}
