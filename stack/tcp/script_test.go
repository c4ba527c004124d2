package tcp

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/stack/wire"
)

// TestScripts runs testdata/*.pkt. Each file proves one rule, which its first line names. See
// script_parse_test.go for the language.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.pkt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".pkt"), func(t *testing.T) {
			src, err := os.ReadFile(f)
			require.NoError(t, err)
			for _, n := range scriptRuns {
				if err := runScript(string(src), n); err != nil {
					t.Errorf("%s, %s:%v", f, n.name, err)
				}
			}
		})
	}
}

// TestEveryScriptNamesItsRule checks the first comment lines of the scripts. docs/rfc9293.md is made from
// these lines.
func TestEveryScriptNamesItsRule(t *testing.T) {
	files, err := filepath.Glob("testdata/*.pkt")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 120)
	for _, f := range files {
		src, err := os.ReadFile(f)
		require.NoError(t, err)
		s, err := parseScript(string(src))
		require.NoError(t, err, f)
		require.NotEmpty(t, s.head, "%s has no head line", f)
		require.Regexp(t, `^RFC \d+ [0-9A-Z]`, s.head[0], f)
		require.NotEmpty(t, s.events, f)
	}
}

func TestAScriptThatIsWrongFails(t *testing.T) {
	const open = `
+0 socket(..., SOCK_STREAM, IPPROTO_TCP) = 3
+0 listen(3, 1) = 0
+0 < S 0:0(0) win 65535 <mss 1460>
+0 > S. 0:0(0) ack 1 <mss 1460>
+0 < . 1:1(0) ack 1 win 65535
+0 accept(3, ..., ...) = 4
`
	for _, tc := range []struct{ name, rest, want string }{
		{"right", "+0 write(4, ..., 10) = 10\n+0 > P. 1:11(10) ack 1", ""},
		{"a segment that does not come", "+.5 > . 1:1(0) ack 1", "nothing was sent"},
		{"a segment too many", "+0 write(4, ..., 10) = 10\n+.1 %{ state == ESTABLISHED }%", "not expected"},
		{"the wrong time", "+0 write(4, ..., 10) = 10\n+.1 > P. 1:11(10) ack 1", "0.000 s"},
		{"the wrong flags", "+0 write(4, ..., 10) = 10\n+0 > . 1:11(10) ack 1", "P. 1:11(10) ack 1 win"},
		{"the wrong acknowledgement", "+0 write(4, ..., 10) = 10\n+0 > P. 1:11(10) ack 2", "P. 1:11(10) ack 1 win"},
		{"the wrong window", "+0 write(4, ..., 10) = 10\n+0 > P. 1:11(10) ack 1 win 5", "win 65535"},
		{"options that are not there", "+0 write(4, ..., 10) = 10\n+0 > P. 1:11(10) ack 1 <sack 1:2>", "P. 1:11(10)"},
		{"the wrong result", "+0 write(4, ..., 10) = 9", "returned 10"},
		{"an error that does not come", "+0 write(4, ..., 10) = -1 EPIPE", "returned 10"},
		{"the wrong state", "+0 %{ state == CLOSED }%", "ESTABLISHED"},
		{"the wrong number", "+0 %{ tcpi_snd_cwnd > 10 }%", "tcpi_snd_cwnd is 10"},
		{"a call that returns too late", "+0...0.1 read(4, ..., 10) = 10\n+.2 < P. 1:11(10) ack 1 win 65535", "still blocks"},
		{"a call that returns too early", "+0...0.1 read(4, ..., 10) = 10\n+.05 < P. 1:11(10) ack 1 win 65535", "returned after 0.050"},
		{"nonsense", "+0 dance(4) = 0", "dance"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			err := runScript(open+tc.rest, scriptRuns[0])
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tc.want)
			}
		})
	}
}

// runScript runs a script. Its error has the line, the expected event and the actual event.
func runScript(src string, n scriptNumbers) (err error) {
	s, err := parseScript(src)
	if err != nil {
		return err
	}
	h, err := newScriptHost(s.options, n)
	if err != nil {
		return err
	}
	for i := range s.events {
		ev := &s.events[i]
		if err := h.event(ev); err != nil {
			return fmt.Errorf("%d: %s\n%w", ev.line, ev.text, err)
		}
	}
	if len(h.out) > 0 {
		return fmt.Errorf("at the end: not expected: %s", h.formatOut(h.out[0]))
	}
	if h.blocked != nil {
		return fmt.Errorf("at the end: %s still blocks", h.blocked.ev.text)
	}
	return nil
}

// event executes one line of the script.
func (h *scriptHost) event(ev *pktEvent) error {
	from, to := h.last+ev.at, h.last+ev.end
	if ev.absolute {
		from, to = scriptStart+ev.at, scriptStart+ev.end
	}
	if ev.blocking {
		to = from + ev.end
	}
	if ev.kind == pktExpect {
		return h.expect(ev, from, to)
	}
	if err := h.advance(from); err != nil {
		return err
	}
	h.last = from
	if ev.kind != pktAssert && len(h.out) > 0 {
		return fmt.Errorf("before it, not expected: %s", h.formatOut(h.out[0]))
	}
	switch ev.kind {
	case pktIn:
		return h.receive(&ev.seg)
	case pktICMP:
		return h.receiveICMP(ev)
	case pktAssert:
		return h.check(ev.checks)
	}
	return h.syscall(ev, to)
}

// expect waits until a segment is sent, if none was, and compares it and its time with ev.
func (h *scriptHost) expect(ev *pktEvent, from, to Time) error {
	if !ev.ranged {
		to = from
	}
	if ev.anyTime {
		from, to = 0, h.now+scriptPatience
	}
	if err := h.advanceUntil(to+h.tolerance, func() bool { return len(h.out) > 0 }); err != nil {
		return err
	}
	if len(h.out) == 0 {
		d, _ := h.deadline()
		return fmt.Errorf("nothing was sent by %s; next deadline %s, state %v", formatTime(to), formatTime(d), h.state())
	}
	o := h.out[0]
	h.out = h.out[1:]
	h.last = from
	if ev.ranged || ev.anyTime {
		h.last = o.at
	}
	got := h.formatOut(o)
	if o.at < from-h.tolerance || o.at > to+h.tolerance {
		return fmt.Errorf("expected at %s\ngot %s", formatTime(from), got)
	}
	if why := h.compare(&ev.seg, &o); why != "" {
		return fmt.Errorf("%s differs\ngot %s", why, got)
	}
	return nil
}

// compare returns the name of the first field in which a segment differs from the expected one, or "".
func (h *scriptHost) compare(want *pktSegment, o *scriptOut) string {
	got := &o.seg
	seq := got.Seq - uint32(o.iss)
	ack := got.Ack - o.peer
	switch {
	case got.Flags != want.flags:
		return "flags"
	case seq != want.start || got.DataLen() != want.n:
		return "sequence"
	case got.has(wire.FlagACK) && ack != want.ack:
		return "ack"
	case want.win >= 0 && int(got.Window) != want.win:
		return "win"
	case got.Urgent != want.urg:
		return "urg"
	case want.mark != "" && got.ECT != (want.mark == "ect0"):
		return "mark"
	case want.anyOpt:
		return ""
	}
	a, b := got.TCP, want.opt
	switch {
	case a.MSS != b.MSS:
		return "mss"
	case a.HasWScale != b.HasWScale || a.HasWScale && a.WScale != b.WScale:
		return "wscale"
	case a.SACKPermitted != b.SACKPermitted:
		return "sackOK"
	case a.HasTS != b.HasTS:
		return "TS"
	case a.HasTS && !want.anyVal && h.tsOut(a.TSVal, b.TSVal) != b.TSVal:
		return "TS val"
	case a.HasTS && !want.anyEcr && a.TSEcr != b.TSEcr:
		return "TS ecr"
	case a.NSACK != b.NSACK:
		return "sack"
	}
	for i := range a.NSACK {
		if a.SACK[i].Start-o.peer != b.SACK[i].Start || a.SACK[i].End-o.peer != b.SACK[i].End {
			return "sack"
		}
	}
	return ""
}

// tsOut translates the sent timestamp live to the numbers of the script. The first timestamp that the
// script names defines the offset.
func (h *scriptHost) tsOut(live, named uint32) uint32 {
	if !h.tsKnown {
		h.tsKnown, h.tsBase = true, live-named
	}
	return live - h.tsBase
}

func formatTime(at Time) string {
	return fmt.Sprintf("%.3f s", float64(at-scriptStart)/float64(Second))
}

// formatOut formats a segment as a script does.
func (h *scriptHost) formatOut(o scriptOut) string {
	s := &o.seg
	var b strings.Builder
	fmt.Fprintf(&b, "%s > ", formatTime(o.at))
	if s.ECT {
		b.WriteString("[ect0] ")
	}
	for i, c := range []wire.TCPFlags{wire.FlagSYN, wire.FlagFIN, wire.FlagRST, wire.FlagPSH, wire.FlagURG, wire.FlagECE, wire.FlagCWR, wire.FlagACK} {
		if s.has(c) {
			b.WriteByte("SFRPUEW."[i])
		}
	}
	seq := s.Seq - uint32(o.iss)
	fmt.Fprintf(&b, " %d:%d(%d)", seq, seq+uint32(s.DataLen()), s.DataLen())
	if s.has(wire.FlagACK) {
		fmt.Fprintf(&b, " ack %d", s.Ack-o.peer)
	}
	fmt.Fprintf(&b, " win %d", s.Window)
	var opt []string
	if s.MSS != 0 {
		opt = append(opt, fmt.Sprintf("mss %d", s.MSS))
	}
	if s.SACKPermitted {
		opt = append(opt, "sackOK")
	}
	if s.HasTS {
		opt = append(opt, fmt.Sprintf("TS val %d ecr %d", s.TSVal-h.tsBase, s.TSEcr))
	}
	if s.HasWScale {
		opt = append(opt, fmt.Sprintf("wscale %d", s.WScale))
	}
	if s.NSACK > 0 {
		k := "sack"
		for _, x := range s.SACK[:s.NSACK] {
			k += fmt.Sprintf(" %d:%d", x.Start-o.peer, x.End-o.peer)
		}
		opt = append(opt, k)
	}
	if len(opt) > 0 {
		fmt.Fprintf(&b, " <%s>", strings.Join(opt, ","))
	}
	return b.String()
}
