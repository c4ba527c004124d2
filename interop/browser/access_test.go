//go:build linux

package browser

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/netns"
)

// The version of axe-core, and the checksum of its package.
const (
	axeVersion = "4.14.1"
	axeSum     = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
)

// axe returns the script of axe-core. npm gets it once; the file stays in the user's cache.
func axe(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = t.TempDir()
	}
	dir := filepath.Join(cache, "usernet")
	require.NoError(t, os.MkdirAll(dir, 0o755))
	file := filepath.Join(dir, "axe-core-"+axeVersion+".tgz")
	if sum(file) != axeSum {
		cmd := exec.CommandContext(t.Context(), "npm", "pack", "axe-core@"+axeVersion)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			netns.Lacks(t, "axe-core, from npm", fmt.Errorf("%w: %s", err, out))
		}
	}
	require.Equal(t, axeSum, sum(file), "the checksum of %s", file)
	f, err := os.Open(file)
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	r := tar.NewReader(z)
	for {
		h, err := r.Next()
		require.NoError(t, err)
		if h.Name == "package/axe.min.js" {
			b, err := io.ReadAll(r)
			require.NoError(t, err)
			return string(b)
		}
	}
}

// sum returns the SHA-512 of a file in base64; "" if there is no such file.
func sum(file string) string {
	b, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	s := sha512.Sum512(b)
	return base64.StdEncoding.EncodeToString(s[:])
}

func TestAxeFindsNothing(t *testing.T) {
	script := axe(t)
	imp := slow
	imp.Loss = 0.02
	x := newTransfer(t, imp, discard)
	s := show(t, x.from, inspect.Config{AllowAbort: true})
	for _, width := range []int64{400, 1200} {
		for _, scheme := range []string{"light", "dark"} {
			b := newTab(t) // a new tab for each pass: the time limit is per tab
			b.size(width, 900)
			b.scheme(scheme)
			b.open(s.url, "")
			eval[bool](b, script+"; true")
			for _, v := range []string{"#/", "#/conns", view(x.id), "#/sockets", "#/topology", "#/drops", "#/capture", "#/nothing"} {
				what := fmt.Sprintf("%s at %d pixels, %s", v, width, scheme)
				b.goTo(v)
				if v == view(x.id) {
					b.await("a plot", `document.querySelector('[data-plot="cwnd"] .plot path.s0').getAttribute("d")?.length > 100`)
					b.run(chromedp.Click("details summary"))
				}
				found := eval[[]string](b, `axe.run(document, {resultTypes: ["violations"]}).then((r) => r.violations.flatMap((v) =>
					v.nodes.map((n) => v.id + ": " + v.help + ": " + n.html.slice(0, 200) + " " + n.failureSummary)))`)
				require.Empty(t, found, what)
				require.LessOrEqual(t, eval[int64](b, `document.scrollingElement.scrollWidth`), width, "%s scrolls to the side", what)
			}
			b.noErrors()
		}
	}
}

func TestTheKeyboardReachesEverything(t *testing.T) {
	x := newTransfer(t, slow, discard)
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	for _, v := range []struct {
		view  string
		least int // number of elements in the view itself that Tab reaches at least
	}{
		{"#/", 10}, {"#/conns", 15}, {view(x.id), 4}, {"#/sockets", 20}, {"#/topology", 7}, {"#/drops", 4}, {"#/capture", 5}, {"#/nothing", 1},
	} {
		b.open(s.url, v.view)
		// What can be operated and seen. Tab stops only at the checked radio button of a group.
		want := eval[int](b, `(() => {
			window.all = [...document.querySelectorAll("a[href], button:not(:disabled), input, select, summary, [tabindex='0']")]
				.filter((e) => e.checkVisibility() && !(e.type === "radio" && !e.checked));
			window.reached = new Set();
			document.addEventListener("focusin", (event) => {
				const style = getComputedStyle(event.target);
				if (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2) window.reached.add(event.target);
			});
			document.activeElement?.blur();
			return window.all.length;
		})()`)
		for range want + 5 {
			b.run(chromedp.KeyEvent(kb.Tab))
		}
		// The view may replace an element meanwhile, but not many.
		missed := eval[[]string](b, `window.all.filter((e) => e.isConnected && !window.reached.has(e)).map((e) => e.outerHTML.slice(0, 120))`)
		require.Empty(t, missed, "what the key Tab does not reach with a visible focus in %s", v.view)
		reached := eval[int](b, `window.all.filter((e) => e.isConnected && e.closest("main") && window.reached.has(e)).length`)
		require.GreaterOrEqual(t, reached, v.least, "elements in %s", v.view)
	}
	// Enter follows a link: the view changes, and the focus is on its heading.
	b.open(s.url, "#/conns")
	b.run(chromedp.Focus(`tbody a`), chromedp.KeyEvent(kb.Enter))
	b.await("the connection's view", `location.hash.startsWith("#/conn?") && document.activeElement.tagName === "H1"`)
	b.noErrors()
}

func TestTheLayoutDoesNotJump(t *testing.T) {
	imp := slow
	imp.Loss = 0.02
	x := newTransfer(t, imp, discard)
	s := show(t, x.from, inspect.Config{})
	for _, width := range []int64{400, 1200} {
		b := newTab(t)
		b.size(width, 900)
		b.open(s.url, view(x.id))
		// The observer also gets what has happened since the page began to load.
		eval[bool](b, `(() => {
			window.shifts = [];
			const note = (entries) => {
				for (const e of entries) window.shifts.push({value: e.value, what: e.sources.map((s) => s.node?.outerHTML?.slice(0, 80)).join()});
			};
			const observer = new PerformanceObserver((list) => note(list.getEntries()));
			observer.observe({type: "layout-shift", buffered: true});
			window.shifted = () => {
				note(observer.takeRecords());
				return window.shifts.reduce((n, s) => n + s.value, 0);
			};
			return true;
		})()`)
		b.await("six samples", samples("cwnd", "H")+" > 6")
		// The limit is not 0: a number that gains a digit shifts its own text. web.dev/cls calls a sum of up to 0.1 good.
		require.Less(t, eval[float64](b, "window.shifted()"), 0.005, "at %d pixels: %s", width, eval[string](b, "JSON.stringify(window.shifts)"))
		// The observer works: it sees a shift of the whole view.
		eval[bool](b, `(() => {
			const above = document.createElement("div");
			above.style.height = "200px";
			document.getElementById("main").prepend(above);
			return true;
		})()`)
		b.await("the shift that this test makes", "window.shifted() > 0.05")
	}
}

// samples returns a JavaScript expression for the number of samples in the first curve of a plot. For each sample but the
// first, the curve has a command of SVG: H if it has steps, otherwise L.
func samples(plot, command string) string {
	return fmt.Sprintf(`document.querySelector('[data-plot="%s"] .plot path.s0').getAttribute("d")?.split("%s").length`, plot, command)
}

// A screen reader speaks each change of a live region.
func TestThePageSpeaksSeldom(t *testing.T) {
	stop, resume := make(chan struct{}), make(chan struct{})
	x := newTransfer(t, slow, func(c *usernet.TCPConn) {
		buf := make([]byte, 32<<10)
		for {
			select {
			case <-stop:
				<-resume
			default:
			}
			if _, err := c.Read(buf); err != nil {
				return
			}
		}
	})
	goOn := sync.OnceFunc(func() { close(resume) })
	t.Cleanup(goOn)
	s := show(t, x.from, inspect.Config{})
	b := newTab(t)
	b.open(s.url, view(x.id))
	b.await("the state", `document.getElementById("status").textContent === "live"`)
	eval[bool](b, `(() => {
		window.said = [];
		window.began = performance.now();
		for (const e of document.querySelectorAll("[role=status], [role=alert], [aria-live]")) {
			new MutationObserver(() => window.said.push(e.textContent)).observe(e, {subtree: true, childList: true, characterData: true});
		}
		return true;
	})()`)
	b.await("six samples", samples("rtt", "L")+" > 6")
	const reads = `document.getElementById("limit").dataset.cause === "peer_reads"`
	close(stop)
	b.await("an application that does not read", reads)
	goOn()
	b.await("an application that reads again", "!("+reads+")")
	b.await("a sentence", "window.said.length > 0")
	// When what limits the connection changes, the page says so, but at most once in five seconds.
	require.True(t, eval[bool](b, "window.said.length <= 1 + (performance.now() - window.began) / 5000"), "%q", eval[[]string](b, "window.said"))
}
