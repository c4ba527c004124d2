package iperf

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// A Total has the sums over the streams of one direction.
type Total struct {
	Sender                    bool // this side sends
	Sent, Received            int64
	SentTime, ReceivedTime    time.Duration // the longest of the streams
	Retransmits               int64         // -1: not known
	Packets, Lost, OutOfOrder int64
	Jitter                    time.Duration // the mean of the streams
	Streams                   int
}

// Totals returns the sums of the directions that have streams: that in which the client sends first.
func (r *Report) Totals() []Total {
	var all []Total
	for _, sender := range []bool{!r.Server, r.Server} {
		t := Total{Sender: sender, Retransmits: -1}
		for i := range r.Streams {
			s := &r.Streams[i]
			if s.Sender != sender {
				continue
			}
			t.Streams++
			t.Sent += s.Sent
			t.Received += s.Received
			t.SentTime, t.ReceivedTime = max(t.SentTime, s.SentTime), max(t.ReceivedTime, s.ReceivedTime)
			if s.Retransmits >= 0 {
				t.Retransmits = max(t.Retransmits, 0) + s.Retransmits
			}
			t.Packets += s.Packets
			t.Lost += s.Lost
			t.OutOfOrder += s.OutOfOrder
			t.Jitter += s.Jitter
		}
		if t.Streams > 0 {
			t.Jitter /= time.Duration(t.Streams)
			all = append(all, t)
		}
	}
	return all
}

// rate returns a rate in bits per second.
func rate(bytes int64, d time.Duration) float64 {
	if d <= 0 {
		return 0
	}
	return float64(bytes) * 8 / d.Seconds()
}

// percent returns how many percent lost is of n.
func percent(lost, n int64) float64 {
	if n <= 0 {
		return 0
	}
	return 100 * float64(lost) / float64(n)
}

// scaled formats a value with a prefix: base 1000 or 1024.
func scaled(v, base float64, unit string) string {
	prefix := ""
	for _, p := range []string{"K", "M", "G", "T"} {
		if v < base {
			break
		}
		v, prefix = v/base, p
	}
	digits := 0
	switch {
	case v < 10 && prefix != "":
		digits = 2
	case v < 100 && prefix != "":
		digits = 1
	}
	return fmt.Sprintf("%5s %s%s", strconv.FormatFloat(v, 'f', digits, 64), prefix, unit)
}

// A textPrinter prints what iperf3 prints.
type textPrinter struct {
	w       io.Writer
	params  Params
	heading bool
}

// Text returns events that print the tests to w, in the form of iperf3. Errors are not printed.
func Text(w io.Writer) Events {
	p := &textPrinter{w: w}
	return Events{Start: p.start, Interval: p.interval, End: p.end}
}

func (p *textPrinter) start(r *Report) {
	p.params = r.Params
	if r.Server {
		fmt.Fprintf(p.w, "Accepted connection from %v\n", r.Remote)
	} else {
		fmt.Fprintf(p.w, "Connected to %v\n", r.Remote)
	}
	for i := range r.Streams {
		s := &r.Streams[i]
		verb := "receives from"
		if s.Sender {
			verb = "sends to"
		}
		fmt.Fprintf(p.w, "[%3d] local %v %s %v\n", s.ID, s.Local, verb, s.Remote)
	}
	p.heading = true
}

func (p *textPrinter) interval(v *Interval) {
	if p.heading {
		p.heading = false
		if p.params.UDP {
			fmt.Fprintf(p.w, "[ ID] Interval           Transfer      Bitrate           Jitter    Lost/Total Datagrams\n")
		} else {
			fmt.Fprintf(p.w, "[ ID] Interval           Transfer      Bitrate           Retr  Cwnd\n")
		}
	}
	var sum [2]StreamInterval
	var n [2]int
	for i := range v.Streams {
		s := &v.Streams[i]
		p.streamInterval(v, fmt.Sprintf("%3d", s.ID), s)
		k := 0
		if s.Sender {
			k = 1
		}
		n[k]++
		sum[k].Sender = s.Sender
		sum[k].Bytes += s.Bytes
		sum[k].Packets += s.Packets
		sum[k].Lost += s.Lost
		sum[k].Jitter += s.Jitter
		sum[k].Retransmits += s.Retransmits
	}
	for k := range sum {
		if n[k] > 1 {
			sum[k].Jitter /= time.Duration(n[k])
			p.streamInterval(v, "SUM", &sum[k])
		}
	}
}

func (p *textPrinter) streamInterval(v *Interval, id string, s *StreamInterval) {
	line := p.line(id, v.Start, v.End, s.Bytes)
	switch {
	case p.params.UDP && s.Sender:
		line += fmt.Sprintf("            %d", s.Packets)
	case p.params.UDP:
		line += fmt.Sprintf("  %6.3f ms  %d/%d (%.2g%%)", s.Jitter.Seconds()*1e3, s.Lost, s.Packets, percent(s.Lost, s.Packets))
	case s.Sender && s.Retransmits >= 0:
		line += fmt.Sprintf("  %4d", s.Retransmits)
		if s.Cwnd > 0 {
			line += "  " + scaled(float64(s.Cwnd), 1024, "Bytes")
		}
	}
	fmt.Fprintln(p.w, line)
}

// line returns the beginning of a line.
func (p *textPrinter) line(id string, start, end time.Duration, bytes int64) string {
	return fmt.Sprintf("[%s] %6.2f-%-6.2f sec  %s  %s", id, start.Seconds(), end.Seconds(),
		scaled(float64(bytes), 1024, "Bytes"), scaled(rate(bytes, end-start), 1000, "bits/sec"))
}

func (p *textPrinter) end(r *Report, err error) {
	if len(r.Streams) == 0 {
		return
	}
	fmt.Fprintf(p.w, "- - - - - - - - - - - - - - - - - - - - - - - - -\n")
	result := func(id string, sender bool, sent, received, retransmits int64, sentTime, receivedTime, jitter time.Duration, lost, packets int64) {
		line := p.line(id, 0, sentTime, sent)
		switch {
		case p.params.UDP:
			line += fmt.Sprintf("  %6.3f ms  %d/%d (%.2g%%)", 0., 0, packets, 0.)
		case retransmits >= 0:
			line += fmt.Sprintf("  %4d", retransmits)
		}
		if sender || r.Complete {
			fmt.Fprintf(p.w, "%s  sender\n", line)
		}
		line = p.line(id, 0, receivedTime, received)
		if p.params.UDP {
			line += fmt.Sprintf("  %6.3f ms  %d/%d (%.2g%%)", jitter.Seconds()*1e3, lost, packets, percent(lost, packets))
		}
		if !sender || r.Complete {
			fmt.Fprintf(p.w, "%s  receiver\n", line)
		}
	}
	for i := range r.Streams {
		s := &r.Streams[i]
		result(fmt.Sprintf("%3d", s.ID), s.Sender, s.Sent, s.Received, s.Retransmits, s.SentTime, s.ReceivedTime, s.Jitter, s.Lost, s.Packets)
	}
	for _, t := range r.Totals() {
		if t.Streams > 1 {
			result("SUM", t.Sender, t.Sent, t.Received, t.Retransmits, t.SentTime, t.ReceivedTime, t.Jitter, t.Lost, t.Packets)
		}
	}
	fmt.Fprintln(p.w)
}

// maxRecords is how many intervals of streams JSON output has, so that a long test does not fill the memory. They
// take about 50 MB when they are printed.
const maxRecords = 50_000

// A jsonPrinter collects a test and prints it.
type jsonPrinter struct {
	w         io.Writer
	intervals []Interval
	records   int
	dropped   int
}

// JSON returns events that print each test to w as a JSON object, with the main figures of iperf3's -J under the
// same names. If a test has failed, the object has the key "error".
func JSON(w io.Writer) Events {
	p := &jsonPrinter{w: w}
	return Events{Interval: p.interval, End: p.end}
}

type object map[string]any

// span returns the keys that all results have.
func span(start, end time.Duration, bytes int64, sender bool) object {
	return object{"start": start.Seconds(), "end": end.Seconds(), "seconds": (end - start).Seconds(), "bytes": bytes,
		"bits_per_second": rate(bytes, end-start), "sender": sender}
}

func (p *jsonPrinter) interval(v *Interval) {
	if p.records += len(v.Streams); p.records > maxRecords {
		p.dropped++
		return
	}
	p.intervals = append(p.intervals, *v)
}

// object returns what iperf3 has for an interval.
func (v *Interval) object() object {
	var streams []object
	var sums [2]object
	var bytes [2]int64
	for i := range v.Streams {
		s := &v.Streams[i]
		o := span(v.Start, v.End, s.Bytes, s.Sender)
		o["id"] = s.ID
		if s.Retransmits >= 0 {
			o["retransmits"], o["snd_cwnd"], o["rtt"] = s.Retransmits, s.Cwnd, s.RTT.Microseconds()
		}
		if s.Packets > 0 {
			o["packets"] = s.Packets
			if !s.Sender {
				o["lost_packets"], o["jitter_ms"], o["lost_percent"] = s.Lost, s.Jitter.Seconds()*1e3, percent(s.Lost, s.Packets)
			}
		}
		streams = append(streams, o)
		k := 0
		if s.Sender != v.Streams[0].Sender {
			k = 1
		}
		bytes[k] += s.Bytes
		sums[k] = span(v.Start, v.End, bytes[k], s.Sender)
	}
	o := object{"streams": streams, "sum": sums[0]}
	if sums[1] != nil {
		o["sum_bidir_reverse"] = sums[1]
	}
	return o
}

// hostPort returns the two parts of an address.
func hostPort(a net.Addr) (host string, port uint16) {
	ap := addrOf(a)
	return ap.Addr().String(), ap.Port()
}

// datagrams adds to o what only tests of UDP have.
func datagrams(o object, jitter time.Duration, lost, packets, disorder int64) object {
	o["jitter_ms"], o["lost_packets"], o["packets"], o["lost_percent"] = jitter.Seconds()*1e3, lost, packets, percent(lost, packets)
	o["out_of_order"] = disorder
	return o
}

func (p *jsonPrinter) end(r *Report, err error) {
	intervals := []object{}
	for i := range p.intervals {
		intervals = append(intervals, p.intervals[i].object())
	}
	out := object{"start": p.describe(r), "intervals": intervals}
	if p.dropped > 0 {
		out["intervals_dropped"] = p.dropped
	}
	if err != nil {
		out["error"] = err.Error()
	}
	var streams []object
	for i := range r.Streams {
		s := &r.Streams[i]
		if r.UDP {
			o := datagrams(span(0, s.SentTime, s.Sent, s.Sender), s.Jitter, s.Lost, s.Packets, s.OutOfOrder)
			o["id"] = s.ID
			streams = append(streams, object{"udp": o})
			continue
		}
		sent, received := span(0, s.SentTime, s.Sent, s.Sender), span(0, s.ReceivedTime, s.Received, s.Sender)
		sent["id"], received["id"] = s.ID, s.ID
		if s.Retransmits >= 0 {
			sent["retransmits"] = s.Retransmits
		}
		if s.MaxCwnd > 0 {
			sent["max_snd_cwnd"] = s.MaxCwnd
		}
		both := object{"sender": sent, "receiver": received}
		r.drop(both, s.Sender, "sender", "receiver")
		streams = append(streams, both)
	}
	end := object{"streams": streams}
	for i, t := range r.Totals() {
		suffix := ""
		if i > 0 {
			suffix = "_bidir_reverse"
		}
		sent, received := span(0, t.SentTime, t.Sent, t.Sender), span(0, t.ReceivedTime, t.Received, t.Sender)
		if r.UDP {
			end["sum"+suffix] = datagrams(span(0, t.SentTime, t.Sent, t.Sender), t.Jitter, t.Lost, t.Packets, t.OutOfOrder)
			datagrams(sent, 0, 0, t.Packets, 0)
			datagrams(received, t.Jitter, t.Lost, t.Packets, t.OutOfOrder)
		} else if t.Retransmits >= 0 {
			sent["retransmits"] = t.Retransmits
		}
		end["sum_sent"+suffix], end["sum_received"+suffix] = sent, received
		r.drop(end, t.Sender, "sum_sent"+suffix, "sum_received"+suffix)
	}
	out["end"] = end
	b, jerr := json.MarshalIndent(out, "", "\t")
	if jerr == nil {
		p.w.Write(append(b, '\n'))
	}
	p.intervals, p.records, p.dropped = nil, 0, 0
}

// drop removes the key of the other side's results if they are not known.
func (r *Report) drop(o object, sender bool, sent, received string) {
	switch {
	case r.Complete:
	case sender:
		delete(o, received)
	default:
		delete(o, sent)
	}
}

// describe returns what iperf3 has under "start".
func (p *jsonPrinter) describe(r *Report) object {
	connected := []object{}
	for i := range r.Streams {
		s := &r.Streams[i]
		local, localPort := hostPort(s.Local)
		remote, remotePort := hostPort(s.Remote)
		connected = append(connected, object{"id": s.ID, "local_host": local, "local_port": localPort, "remote_host": remote, "remote_port": remotePort})
	}
	o := object{
		"connected": connected,
		"test_start": object{
			"protocol": r.Proto(), "num_streams": r.Params.Streams, "blksize": r.Block, "duration": r.Duration.Seconds(),
			"bytes": r.Bytes, "target_bitrate": r.Rate, "reverse": r.Reverse, "bidir": r.Bidir,
		},
	}
	if !r.Began.IsZero() {
		o["timestamp"] = object{"time": r.Began.UTC().Format(time.RFC1123), "timesecs": r.Began.Unix()}
	}
	if r.Remote != nil {
		host, port := hostPort(r.Remote)
		key := "connecting_to"
		if r.Server {
			key = "accepted_connection"
		}
		o[key] = object{"host": host, "port": port}
	}
	return o
}
