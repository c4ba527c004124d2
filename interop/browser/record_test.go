//go:build linux

package browser

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
)

// TestARunInVirtualTimeIsShownAfterwards records a transfer with loss in a synctest bubble, where a browser cannot be,
// and opens the recording in the page.
func TestARunInVirtualTimeIsShownAfterwards(t *testing.T) {
	var file bytes.Buffer
	var id string
	synctest.Test(t, func(t *testing.T) {
		a, b, impair := hosttest.ImpairedPair(t, 1)
		imp := slow
		imp.Loss = 0.01
		impair(imp)
		client, server := hosttest.Connect(t, a, b, hosttest.AddrB)
		id = idOf(client)
		recording := inspect.Record(a, &file, inspect.RecordConfig{})
		go func() {
			client.Write(make([]byte, 4<<20))
			client.CloseWrite()
		}()
		n, err := io.Copy(io.Discard, server)
		require.NoError(t, err)
		require.EqualValues(t, 4<<20, n)
		time.Sleep(20 * time.Millisecond)
		require.NoError(t, recording.Close())
	})
	handler, err := inspect.Open(&file)
	require.NoError(t, err)
	s := serve(t, handler)
	b := newTab(t)
	b.open(s.url, "")
	b.await("the traffic", `document.querySelector('[data-plot="traffic"] .plot path.s1').getAttribute("d")?.split("L").length > 20`)
	b.await("the state", `document.getElementById("status").textContent === "a recording"`)
	b.await("the counters", column(1)+`.includes("tcp.events.RetransSegs")`)
	b.goTo("#/conns")
	require.Contains(t, eval[[]string](b, `[...document.querySelectorAll("tbody a")].map((a) => decodeURIComponent(a.hash))`), "#/conn?id="+id)
	b.goTo(view(id))
	b.await("the plot of the whole run", `document.querySelector('[data-plot="cwnd"] .plot path.s0').getAttribute("d")?.split("H").length > 50`)
	b.await("the cause", `document.getElementById("limit").dataset.cause === "loss"`)
	b.await("the segments", `document.querySelector('[data-plot="sequence"] .plot path.seq-again').getAttribute("d")?.length > 20`)
	// 4 MiB are 2897 segments of 1448 bytes, and some were retransmitted.
	require.Regexp(t, `^Sequence numbers over time: 2,9[0-9]+ segments with 4\.[12][0-9]* MB in the recording, `,
		eval[string](b, `document.querySelector('[data-plot="sequence"] .plot').getAttribute("aria-label")`))
	b.noErrors()
}
