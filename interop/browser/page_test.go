//go:build linux

package browser

import (
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

// column returns a JavaScript expression for the texts of a column, counted from 1.
func column(n int) string {
	return fmt.Sprintf(`[...document.querySelectorAll("tbody tr")].map((r) => r.children[%d].textContent)`, n-1)
}

// heading returns the selector of the button that sorts by a key.
func heading(key string) string { return fmt.Sprintf(`th[data-key="%s"] button`, key) }

// sorted returns a JavaScript expression that is true if the table is sorted by a key, in a direction.
func sorted(key, way string) string {
	return fmt.Sprintf(`document.querySelector('th[data-key="%s"]').getAttribute("aria-sort") === "%s"`, key, way)
}

// connections makes connections between two hosts. Each carries one byte more than the one before.
func connections(t *testing.T, n int) *usernet.Host {
	t.Helper()
	a, b := hosttest.Pair(t)
	ln, err := b.Listen("tcp", net.JoinHostPort(hosttest.AddrB, "7"))
	require.NoError(t, err)
	go hosttest.Serve(ln, hosttest.Echo)
	t.Cleanup(func() { ln.Close() })
	for i := range n {
		c, err := a.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { c.Close() })
		_, err = c.Write(make([]byte, i+1))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, i+1))
		require.NoError(t, err)
	}
	return a
}

func TestTablesFillAndSort(t *testing.T) {
	const n = 30
	s := show(t, connections(t, n), inspect.Config{})
	b := newTab(t)
	b.open(s.url, "#/conns?limit=50&sort=bytes_out&desc=1")
	received := `[...document.querySelectorAll("tbody tr")].map((r) => parseInt(r.children[6].textContent))`
	b.await("all rows, the largest first", received+fmt.Sprintf(`.join() === Array.from({length: %d}, (_, i) => %d - i).join()`, n, n))

	b.run(chromedp.Click(heading("bytes_in")))
	b.await("the sorted heading", sorted("bytes_in", "descending")+" && "+sorted("bytes_out", "none"))
	b.run(chromedp.Click(heading("bytes_in")))
	b.await("the other direction", sorted("bytes_in", "ascending")+" && "+received+fmt.Sprintf(`.join() === Array.from({length: %d}, (_, i) => i + 1).join()`, n))
	// Keys: right to the next heading, down for descending, up for ascending.
	b.run(chromedp.Focus(heading("bytes_in")), chromedp.KeyEvent(kb.ArrowRight), chromedp.KeyEvent(kb.ArrowDown))
	b.await("sorting by the keyboard", sorted("bytes_out", "descending")+` && document.activeElement.closest("th").dataset.key === "bytes_out"`)
	b.run(chromedp.KeyEvent(kb.ArrowUp))
	b.await("the other direction by the keyboard", sorted("bytes_out", "ascending"))

	// Pages.
	b.run(chromedp.SetValue("#limit", "25"))
	eval[bool](b, `document.getElementById("limit").dispatchEvent(new Event("change"))`)
	b.await("the first page", `document.getElementById("range").textContent === "1 to 25 of 30" && document.querySelectorAll("tbody tr").length === 25`)
	b.run(chromedp.Click(".pager button:last-child"))
	b.await("the second page", `document.getElementById("range").textContent === "26 to 30 of 30" && document.querySelectorAll("tbody tr").length === 5`)

	// Search.
	first := eval[string](b, column(1)+`[0]`)
	_, port, err := net.SplitHostPort(first)
	require.NoError(t, err)
	b.run(chromedp.SendKeys("#q", port))
	b.await("the connection that was looked for", `document.querySelectorAll("tbody tr").length === 1 && `+column(1)+`[0] === `+quote(first))
	b.noErrors()
}

func TestTheOverviewAndTheTablesOfTheHostFill(t *testing.T) {
	a := connections(t, 3)
	_, err := a.ListenPacket("udp", ":5353")
	require.NoError(t, err)
	s := show(t, a, inspect.Config{})
	b := newTab(t)
	b.open(s.url, "")
	b.await("the interfaces", column(1)+`.includes("pipe-a")`)
	require.Contains(t, b.text("main"), "ESTABLISHED 3")
	b.goTo("#/sockets")
	require.Contains(t, eval[[]string](b, column(1)), "[::]:5353")
	require.Contains(t, b.text("main"), hosttest.AddrA+"/24")
	b.goTo("#/topology")
	require.Contains(t, eval[[]string](b, column(1)), hosttest.AddrB)
	require.Contains(t, eval[string](b, `document.querySelector(".tree").getAttribute("aria-label")`), "pipe-a with "+hosttest.AddrA)
	require.Contains(t, b.text(".tree"), hosttest.AddrB)
	b.goTo("#/drops")
	require.NotEmpty(t, b.text("main .table"))
	b.noErrors()
}

// A stream of segments that opens anew begins with other relative sequence numbers.
func TestTheSequenceDiagramBeginsAnewAfterAPause(t *testing.T) {
	x := newTransfer(t, slow, discard)
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	b.open(s.url, view(x.id))
	b.run(chromedp.Click(`input[name="seq-span"][value="20"]`))
	acks := `[...(document.querySelector('[data-plot="sequence"] .plot path.seq-ack').getAttribute("d") ?? "").matchAll(/V([-0-9.]+)/g)].map((m) => Number(m[1]))`
	b.await("acknowledgements", acks+".length > 50")
	b.run(chromedp.Click("#pause"))
	b.await("the pause", `document.getElementById("status").textContent === "paused"`)
	for deadline := b.ctx.Done(); s.streams.Load() != 0; {
		select {
		case <-deadline:
			t.Fatal("the streams do not end")
		case <-time.After(20 * time.Millisecond):
		}
	}
	eval[bool](b, `window.before = document.querySelector('[data-plot="sequence"] .plot path.seq-ack').getAttribute("d"), true`)
	b.run(chromedp.Click("#pause"))
	b.await("more acknowledgements", `document.querySelector('[data-plot="sequence"] .plot path.seq-ack').getAttribute("d") !== window.before && `+acks+".length > 20")
	require.True(t, eval[bool](b, acks+".every((y, i, all) => i === 0 || y <= all[i - 1])"), "what is acknowledged never falls")
	b.noErrors()
}

func TestPlotsMoveDuringALossyTransfer(t *testing.T) {
	imp := slow
	imp.Loss = 0.02
	x := newTransfer(t, imp, discard)
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	b.open(s.url, view(x.id))
	// A path has as many points as the plot has samples.
	path := func(plot, series string) string {
		return fmt.Sprintf(`document.querySelector('[data-plot="%s"] .plot path.%s').getAttribute("d")`, plot, series)
	}
	for _, p := range []struct{ plot, series string }{
		{"cwnd", "s0"}, {"cwnd", "s1"}, {"cwnd", "s2"}, {"rtt", "s0"}, {"rtt", "s1"}, {"rate", "s0"}, {"rate", "s2"},
		{"windows", "s0"}, {"windows", "s1"}, {"queues", "s0"}, {"retrans", "s1"},
	} {
		b.await("five points of "+p.plot+" "+p.series, `(`+path(p.plot, p.series)+` ?? "").split(/[LH]/).length > 5`)
	}
	before := eval[string](b, path("cwnd", "s0"))
	b.await("more points", path("cwnd", "s0")+" !== "+quote(before))
	b.await("signs of retransmissions", path("cwnd", "event-retransmission")+`.length > 0`)
	b.await("signs of loss recovery", path("cwnd", "event-recovery")+`.length > 0`)
	b.await("a retransmission in the table of events", `document.body.textContent.includes("loss recovery begins")`)
	for _, mark := range []string{"segment", "again", "ack", "window", "sack"} {
		b.await("the "+mark+" of the sequence-time diagram", path("sequence", "seq-"+mark)+`?.length > 20`)
	}
	require.Regexp(t, `[0-9]+ segments with [0-9.]+ [kM]B in the last 1 s, [0-9]+ of them retransmissions; [0-9]+ acknowledgements`,
		eval[string](b, `document.querySelector('[data-plot="sequence"] .plot').getAttribute("aria-label")`))
	label := eval[string](b, `document.querySelector('[data-plot="rtt"] svg.plot').getAttribute("aria-label")`)
	require.Regexp(t, `^Round-trip time, in the last 30\.0 s: smoothed [0-9.]+ ms, from [0-9.]+ ms to [0-9.]+ ms; minimum `, label)
	axes := eval[string](b, `[...document.querySelectorAll('[data-plot="rate"] .axis')].map((e) => e.textContent).join()`)
	require.Regexp(t, `^rate \([kM]B/s\),time \(s\), 0 is [0-9:.]{12} UTC$`, axes)
	b.noErrors()
}

func TestPlotsOfALossyTransferAreReadable(t *testing.T) {
	imp := slow
	imp.Loss = 0.02
	x := newTransfer(t, imp, discard)
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	b.open(s.url, view(x.id))
	b.await("many retransmissions", `Number(document.querySelector('[data-plot="retrans"] .now').textContent) > 60`)
	// Signs that are close together are one, with a number.
	b.await("numbers beside signs", `document.querySelectorAll('[data-plot="cwnd"] .event-counts text').length > 1`)
	starts := func(mark string) string {
		return `[...document.querySelector('[data-plot="cwnd"] path.event-` + mark + `').getAttribute("d").matchAll(/M([0-9.]+)/g)].map((m) => Number(m[1]))`
	}
	for _, mark := range []string{"retransmission", "recovery", "reduced"} {
		xs := eval[[]float64](b, starts(mark))
		for i := 1; i < len(xs); i++ {
			if gap := xs[i] - xs[i-1]; gap != 0 { // a cross has two strokes
				require.Greater(t, gap, 12.0, "signs of %s at %v", mark, xs)
			}
		}
	}
	require.True(t, eval[bool](b, `[...document.querySelectorAll(".plots svg.plot")].every((p) => {
		const line = p.querySelector(".event-line"), curve = p.querySelector(".line");
		return line.compareDocumentPosition(curve) & Node.DOCUMENT_POSITION_FOLLOWING;
	})`), "the lines of events are below the curves")

	// One clock for all plots, all of which end now. A frame may lie between two answers.
	zeros := eval[[]string](b, `[...document.querySelectorAll("svg.plot .axis[text-anchor=end]")].map((e) => e.textContent)`)
	require.Len(t, zeros, 7)
	for _, z := range zeros {
		require.Equal(t, zeros[0], z)
	}
	require.Less(t, eval[float64](b, `Math.max(...[...document.querySelectorAll(".plots svg.plot")].map((p) => {
		const line = [...p.querySelectorAll(".line")].map((e) => e.getAttribute("d")).find(Boolean);
		return Math.abs(p.viewBox.baseVal.width - 14 - Number(line.match(/[HL]([0-9.]+)[^HL]*$/)[1]));
	}))`), 1.0, "the curves end at the right edge")

	// The unit of the axis is that of the legend.
	require.True(t, eval[bool](b, `["rate", "queues", "windows", "cwnd", "rtt"].every((id) => {
		const plot = document.querySelector('[data-plot="' + id + '"]');
		const unit = plot.querySelector(".axis").textContent.match(/\((.*)\)/)[1];
		return [...plot.querySelectorAll("li:not([hidden]) .now")].every((e) => e.textContent.endsWith(" " + unit) || !/[0-9]/.test(e.textContent));
	})`), "%q", eval[string](b, `document.querySelector(".plots").innerText`))

	b.await("the note of older events", `/^These are the newest 50 of [0-9]+ events since/.test(document.getElementById("events-note").textContent)`)
	require.Regexp(t, `congestion window reducedby [0-9.]+ k?B, to [0-9.]+ kB`, b.text("tbody"))

	// A window that is far away does not squash the segments.
	b.run(chromedp.Click(`input[name="seq-span"][value="0.2"]`))
	b.await("the place of the window in words", `document.querySelector('[data-plot="sequence"] .note').textContent.includes("above the plot")`)
	b.await("segments over the height of the plot", `(() => {
		const ys = [...document.querySelector('[data-plot="sequence"] .plot path.seq-segment').getAttribute("d").matchAll(/M[0-9.]+ ([0-9.]+)/g)].map((m) => Number(m[1]));
		return Math.max(...ys) - Math.min(...ys) > 60;
	})()`)
	b.noErrors()
}

func TestAClosedWindowIsAnEvent(t *testing.T) {
	read := make(chan struct{})
	x := newTransfer(t, slow, func(c *usernet.TCPConn) {
		<-read
		discard(c)
	})
	var once sync.Once
	t.Cleanup(func() { once.Do(func() { close(read) }) })
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	// The list says what limits each connection, and the peer's window.
	b.open(s.url, "#/conns")
	b.await("the cause in the list", column(4)+`[0] === "peer's application (reads)" && `+column(11)+`[0] === "0 B"`)
	b.goTo(view(x.id))
	events := `[...document.querySelectorAll("section:has(#events-note) tbody tr")].map((r) => r.innerText).join("\n")`
	b.await("the event", `/peer's window closed before this view was opened/.test(`+events+`)`)
	b.await("the probes", `/seen for [0-9.]+ m?s until now, [1-9][0-9]* window probes? sent, [1-9][0-9]* answered/.test(`+events+`)`)
	require.Regexp(t, `window probe, in [0-9.]+ m?s`, b.text("main .facts"))
	b.await("an empty diagram in words", `/^No data was sent in the last 1 s.*\.$/.test(document.querySelector('[data-plot="sequence"] .note').textContent)`)
	require.Zero(t, eval[int](b, `document.querySelectorAll('[data-plot="sequence"] .grid text[text-anchor=end]').length`), "an axis without data")
	require.Equal(t, []string{"0", "1"}, eval[[]string](b, `[...document.querySelectorAll('[data-plot="retrans"] .grid text[text-anchor=end]')].map((e) => e.textContent)`), "segments are whole")
	once.Do(func() { close(read) })
	b.await("the opened window", `/peer's window opened/.test(`+events+`) && !/until now/.test(`+events+`)`)
	b.noErrors()
}

func TestAnIdleConnectionSaysThatNothingHappens(t *testing.T) {
	x := newTransferOf(t, slow, func(*usernet.TCPConn) {}, discard)
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	b.open(s.url, view(x.id))
	b.await("the cause", `document.getElementById("limit").dataset.cause === "idle"`)
	require.Contains(t, b.text("main"), "Nothing has happened since this view was opened.")
	require.True(t, eval[bool](b, `(() => {
		const none = document.querySelector(".low .none");
		return none.checkVisibility() && none.getBoundingClientRect().top - document.querySelector(".low thead").getBoundingClientRect().bottom < 20;
	})()`), "the sentence is at the top of its box")
	b.noErrors()
}

// limited waits until the page of a connection names a cause, and returns the texts that it shows with it: the sentence,
// those beside it, the period and the shares.
func (b *tab) limited(s *server, id, cause string) []string {
	b.Helper()
	b.open(s.url, view(id))
	// The texts are read at once, because the cause may change.
	b.await("the cause "+cause, `(() => {
		window.texts = ["#limit", "#limit-more", "#limit-period", ".shares"].map((s) => document.querySelector(s)?.textContent ?? "");
		return document.getElementById("limit").dataset.cause === `+quote(cause)+`;
	})()`)
	return eval[[]string](b, "window.texts")
}

func TestASentenceNamesWhatLimitsATransfer(t *testing.T) {
	loss := slow
	loss.Loss = 0.02
	for _, c := range []struct {
		name     string
		imp      nic.Impairment
		send     func(*usernet.TCPConn)
		receive  func(*usernet.TCPConn)
		option   func(*usernet.TCPConn)
		cause    string // at the sender
		sentence string
		more     string // the sentences beside it
		far      string // at the receiver
	}{
		{"loss", loss, writeAll, discard, nil, "loss", `^Loss limits the transfer: [0-9.]+\x{a0}% of the bytes`,
			`^The congestion window, as it was on average, takes .* that is about [0-9.]+ [kM]B/s\. The peer has acknowledged .* The round trip (stays near|is|rises to) .*minimum`, ""},
		{"a small receive window", slow, writeAll, discard, func(c *usernet.TCPConn) { c.SetReadBuffer(8 << 10) },
			"rwnd", `^The receive window of the peer limits the transfer: the peer offers 8\.19 kB, (7\.24 kB of it are in flight, the rest is less than one segment of 1\.45 kB|[0-9.]+ k?B of it are in flight at the moment), `,
			`^The window takes 5 whole segments, 7\.24 kB, in a round trip of [0-9.]+ ms on average: that is about [0-9.]+ kB/s\.`, ""},
		{"an application that does not read", slow, writeAll, nil, nil,
			"peer_reads", `^The application at the other end does not read: the receive window of the peer is closed`, `^$`, "reads"},
		{"an application that seldom writes", slow, writeSeldom, discard, nil,
			"writes", `^The application on this host limits the transfer: it does not write faster`, `^$`, "peer"},
		{"a path without loss", slow, writeAll, discard, nil, "cwnd", `^The congestion window limits the transfer`, `whole segments`, "peer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var options []func(*usernet.TCPConn)
			if c.option != nil {
				options = append(options, c.option)
			}
			x := newTransferOf(t, c.imp, c.send, c.receive, options...)
			b := newTab(t)
			texts := b.limited(show(t, x.from, inspect.Config{}), x.id, c.cause)
			require.Regexp(t, c.sentence, texts[0])
			require.Regexp(t, c.more, texts[1])
			require.Regexp(t, `^Of the last [0-9.]+ m?s, this connection was limited by:$`, texts[2])
			require.Regexp(t, `^[a-z].*: [0-9.]+\x{a0}% of the time$`, texts[3])
			if c.far != "" {
				b.limited(show(t, x.to, inspect.Config{}), x.backID, c.far)
			}
			b.noErrors()
		})
	}
}
