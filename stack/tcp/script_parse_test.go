package tcp

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet/stack/wire"
)

// The language of the scripts is that of packetdrill, as its documentation describes it, except for the
// parts that need a kernel:
//
//	--mss=1460                                     an option of the run, before the first event
//	+0   socket(..., SOCK_STREAM, IPPROTO_TCP) = 3 a call, and what it returns
//	+.1  < S 0:0(0) win 65535 <mss 1460,sackOK>    a segment that comes in
//	+0   > S. 0:0(0) ack 1 <...>                   a segment that must go out at this very time
//	+0...0.2 read(4, ..., 100) = 10                a call that blocks for 0.2 s
//	+.2~+.3 > . 1:1(0) ack 1                       a segment that must go out in this range of time
//	*    > R. 1:1(0) ack 1                         a segment that must go out, at any time
//	+0   < [ce] . 1:11(10) ack 1                   the ECN field of the IP header: ce, ect0 or noecn
//	+0   < [1:1461(1460)] icmp unreachable frag_needed mtu 1200
//	+0   %{ state == "ESTABLISHED", tcpi_snd_cwnd == 10 }%
//
// A time with a + is relative to the previous event. A time without a + is relative to the start of the
// script. Our sequence numbers are relative to our ISS, and the peer's are absolute, also in
// acknowledgement numbers and SACK blocks. All fields of a sent segment are compared, except the window
// if there is no "win", and the options if there is <...>. NOPs are ignored. There are two extensions:
// --name=value lines set what sysctls set in a kernel, and * stands for any timestamp.

// A pktScript is a parsed script.
type pktScript struct {
	head    []string // the comment lines at the start
	options map[string]string
	events  []pktEvent
}

type pktKind uint8

const (
	pktIn pktKind = iota
	pktExpect
	pktICMP
	pktCall
	pktAssert
)

// A pktEvent is a line of a script.
type pktEvent struct {
	line int
	text string

	kind     pktKind
	absolute bool
	anyTime  bool
	blocking bool // end is when the call returns
	ranged   bool // end is the latest time
	at, end  Time

	seg    pktSegment
	icmp   []string
	call   pktSyscall
	checks []pktCheck
}

// A pktSegment is a segment as the script writes it.
type pktSegment struct {
	flags      wire.TCPFlags
	start, end uint32
	n          int
	ack        uint32
	win        int // -1: any window
	urg        uint16
	mark       string   // ECN field of the IP header: "ce", "ect0" or "noecn"; "": any
	anyOpt     bool     // <...>
	opt        wire.TCP // the options; the other fields are not used
	anyVal     bool     // TS val *
	anyEcr     bool     // TS ecr *
}

type pktSyscall struct {
	name string
	args []string
	ret  int
	err  string // name of an errno
}

// A pktCheck is a comparison in %{ }%.
type pktCheck struct{ name, op, want string }

func parseScript(src string) (*pktScript, error) {
	s := &pktScript{options: map[string]string{}}
	lines := strings.Split(src, "\n")
	inHead := true
	for i := 0; i < len(lines); i++ {
		no, text := i+1, strings.TrimSpace(lines[i])
		if c, ok := strings.CutPrefix(text, "//"); ok {
			if inHead {
				s.head = append(s.head, strings.TrimSpace(c))
			}
			continue
		}
		inHead = false
		if k := strings.Index(text, "//"); k >= 0 {
			text = strings.TrimSpace(text[:k])
		}
		if text == "" {
			continue
		}
		if o, ok := strings.CutPrefix(text, "--"); ok {
			name, value, _ := strings.Cut(o, "=")
			s.options[strings.TrimSpace(name)] = strings.TrimSpace(value)
			continue
		}
		for strings.Contains(text, "%{") && !strings.Contains(text, "}%") && i+1 < len(lines) {
			i++
			text += ", " + strings.TrimSpace(lines[i])
		}
		ev, err := parseEvent(text)
		if err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", no, text, err)
		}
		ev.line, ev.text = no, text
		s.events = append(s.events, ev)
	}
	return s, nil
}

// parseEvent parses one line of a script: a time and an event.
func parseEvent(text string) (ev pktEvent, err error) {
	when, rest, ok := strings.Cut(text, " ")
	if !ok {
		return ev, fmt.Errorf("a time and an event are needed")
	}
	if err := parseWhen(when, &ev); err != nil {
		return ev, err
	}
	rest = strings.TrimSpace(rest)
	switch {
	case strings.HasPrefix(rest, "< [") && strings.Contains(rest, "] icmp "):
		ev.kind = pktICMP
		return ev, parseICMP(rest[2:], &ev)
	case strings.HasPrefix(rest, "< "):
		ev.kind = pktIn
		ev.seg, err = parseSegment(rest[2:])
	case strings.HasPrefix(rest, "> "):
		ev.kind = pktExpect
		ev.seg, err = parseSegment(rest[2:])
	case strings.HasPrefix(rest, "%{"):
		ev.kind = pktAssert
		ev.checks, err = parseChecks(strings.TrimSuffix(strings.TrimPrefix(rest, "%{"), "}%"))
	default:
		ev.kind = pktCall
		ev.call, err = parseCall(rest)
	}
	return ev, err
}

// parseWhen parses the time of an event: "*", "time", "time...time" or "time~time".
func parseWhen(s string, ev *pktEvent) (err error) {
	if s == "*" {
		ev.anyTime = true
		return nil
	}
	ev.absolute = !strings.HasPrefix(s, "+")
	from, to := s, ""
	if a, b, ok := strings.Cut(s, "..."); ok {
		ev.blocking, from, to = true, a, b
	} else if a, b, ok := strings.Cut(s, "~"); ok {
		ev.ranged, from, to = true, a, b
	}
	if ev.at, err = parseSeconds(from); err != nil || to == "" {
		ev.end = ev.at
		return err
	}
	ev.end, err = parseSeconds(to)
	return err
}

func parseSeconds(s string) (Time, error) {
	d, err := time.ParseDuration(strings.TrimPrefix(s, "+") + "s")
	return Time(d), err
}

func parseFlags(s string) (f wire.TCPFlags, err error) {
	for _, c := range s {
		switch c {
		case 'S':
			f |= wire.FlagSYN
		case 'F':
			f |= wire.FlagFIN
		case 'R':
			f |= wire.FlagRST
		case 'P':
			f |= wire.FlagPSH
		case '.':
			f |= wire.FlagACK
		case 'U':
			f |= wire.FlagURG
		case 'E':
			f |= wire.FlagECE
		case 'W':
			f |= wire.FlagCWR
		case '-':
		default:
			return 0, fmt.Errorf("flag %q", c)
		}
	}
	return f, nil
}

// parseRange parses start:end(length), and checks the length.
func parseRange(s string) (start, end uint32, n int, err error) {
	if _, err = fmt.Sscanf(s, "%d:%d(%d)", &start, &end, &n); err == nil && end-start != uint32(n) {
		err = fmt.Errorf("%s: %d to %d are not %d bytes", s, start, end, n)
	}
	return start, end, n, err
}

func parseSegment(s string) (g pktSegment, err error) {
	g.win = -1
	if mark, rest, ok := strings.Cut(s, "]"); ok && strings.HasPrefix(mark, "[") {
		if g.mark = mark[1:]; g.mark != "ce" && g.mark != "ect0" && g.mark != "noecn" {
			return g, fmt.Errorf("mark %q", g.mark)
		}
		s = rest
	}
	if i := strings.Index(s, "<"); i >= 0 {
		if err = parseOptions(strings.TrimSuffix(strings.TrimSpace(s[i+1:]), ">"), &g); err != nil {
			return g, err
		}
		s = s[:i]
	}
	f := strings.Fields(s)
	if len(f) < 2 {
		return g, fmt.Errorf("flags and sequence numbers are needed")
	}
	if g.flags, err = parseFlags(f[0]); err != nil {
		return g, err
	}
	if g.start, g.end, g.n, err = parseRange(f[1]); err != nil {
		return g, err
	}
	for f = f[2:]; len(f) >= 2; f = f[2:] {
		v, err := strconv.ParseUint(f[1], 10, 32)
		if err != nil {
			return g, err
		}
		switch f[0] {
		case "ack":
			g.ack = uint32(v)
		case "win":
			g.win = int(v)
		case "urg":
			g.urg = uint16(v)
		default:
			return g, fmt.Errorf("%q is not known", f[0])
		}
	}
	if len(f) != 0 {
		return g, fmt.Errorf("%q has no value", f[0])
	}
	return g, nil
}

func parseOptions(s string, g *pktSegment) (err error) {
	if s == "..." {
		g.anyOpt = true
		return nil
	}
	for _, o := range strings.Split(s, ",") {
		f := strings.Fields(o)
		if len(f) == 0 {
			continue
		}
		switch {
		case f[0] == "nop" || f[0] == "eol":
		case f[0] == "sackOK":
			g.opt.SACKPermitted = true
		case f[0] == "mss" && len(f) == 2:
			_, err = fmt.Sscan(f[1], &g.opt.MSS)
		case f[0] == "wscale" && len(f) == 2:
			g.opt.HasWScale = true
			_, err = fmt.Sscan(f[1], &g.opt.WScale)
		case f[0] == "TS" && len(f) == 5:
			g.opt.HasTS = true
			if g.anyVal = f[2] == "*"; !g.anyVal {
				_, err = fmt.Sscan(f[2], &g.opt.TSVal)
			}
			if g.anyEcr = f[4] == "*"; !g.anyEcr && err == nil {
				_, err = fmt.Sscan(f[4], &g.opt.TSEcr)
			}
		case f[0] == "sack" && len(f) <= 5:
			for _, b := range f[1:] {
				k := &g.opt.SACK[g.opt.NSACK]
				if _, err := fmt.Sscanf(b, "%d:%d", &k.Start, &k.End); err != nil {
					return err
				}
				g.opt.NSACK++
			}
		default:
			err = fmt.Errorf("option %q", o)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func parseICMP(s string, ev *pktEvent) (err error) {
	quoted, rest, ok := strings.Cut(strings.TrimPrefix(s, "["), "]")
	f := strings.Fields(rest)
	if !ok || len(f) < 3 || f[0] != "icmp" {
		return fmt.Errorf("[seq:seq(n)] icmp type code is needed")
	}
	ev.icmp = f[1:]
	ev.seg.start, ev.seg.end, ev.seg.n, err = parseRange(quoted)
	return err
}

func parseChecks(s string) (list []pktCheck, err error) {
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ';' }) {
		part = strings.TrimPrefix(strings.TrimSpace(part), "assert ")
		if part == "" {
			continue
		}
		f := strings.Fields(part)
		if len(f) < 3 {
			return nil, fmt.Errorf("check %q", part)
		}
		list = append(list, pktCheck{f[0], f[1], strings.Trim(strings.Join(f[2:], " "), `"`)})
	}
	return list, nil
}

func parseCall(s string) (c pktSyscall, err error) {
	open, eq := strings.Index(s, "("), strings.LastIndex(s, ") =")
	if open < 0 || eq < open {
		return c, fmt.Errorf("name(args) = result is needed")
	}
	c.name = s[:open]
	depth, from := 0, open+1
	for i := open + 1; i <= eq; i++ {
		switch s[i] {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		}
		if i == eq || s[i] == ',' && depth == 0 {
			c.args = append(c.args, strings.TrimSpace(s[from:i]))
			from = i + 1
		}
	}
	f := strings.Fields(s[eq+3:])
	if len(f) == 0 {
		return c, fmt.Errorf("no result")
	}
	if c.ret, err = strconv.Atoi(f[0]); err == nil && len(f) > 1 {
		c.err = f[1]
	}
	return c, err
}
