//go:build linux

package browser

import (
	"fmt"
	"net"
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
	received := `[...document.querySelectorAll("tbody tr")].map((r) => parseInt(r.children[5].textContent))`
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
	require.Regexp(t, `^rate \([kM]B/s\),time \(s\)$`, axes)
	b.noErrors()
}

// limited waits until the page of a connection names a cause, and returns its sentence.
func (b *tab) limited(s *server, id, cause string) string {
	b.Helper()
	b.open(s.url, view(id))
	b.await("the cause "+cause, fmt.Sprintf(`document.getElementById("limit").dataset.cause === %s`, quote(cause)))
	return b.text("#limit")
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
		far      string // at the receiver
	}{
		{"loss", loss, writeAll, discard, nil, "loss", `^Loss limits the transfer: [0-9.]+ % of the bytes`, ""},
		{"a small receive window", slow, writeAll, discard, func(c *usernet.TCPConn) { c.SetReadBuffer(8 << 10) },
			"rwnd", `^The receive window of the peer limits the transfer: the peer offers [0-9.]+ kB, all of it is in flight`, ""},
		{"an application that does not read", slow, writeAll, nil, nil,
			"peer_reads", `^The application at the other end does not read: the receive window of the peer is closed`, "reads"},
		{"an application that seldom writes", slow, writeSeldom, discard, nil,
			"writes", `^The application on this host limits the transfer: it does not write faster`, "peer"},
		{"a path without loss", slow, writeAll, discard, nil, "cwnd", `^The congestion window limits the transfer`, "peer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var options []func(*usernet.TCPConn)
			if c.option != nil {
				options = append(options, c.option)
			}
			x := newTransferOf(t, c.imp, c.send, c.receive, options...)
			b := newTab(t)
			require.Regexp(t, c.sentence, b.limited(show(t, x.from, inspect.Config{}), x.id, c.cause))
			if c.far != "" {
				b.limited(show(t, x.to, inspect.Config{}), x.backID, c.far)
			}
			b.noErrors()
		})
	}
}
