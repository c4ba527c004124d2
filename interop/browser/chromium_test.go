//go:build linux

package browser

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/netns"
)

// patience ends a test that hangs, and says nothing about speed.
const patience = 2 * time.Minute

// chromium starts one Chromium for all tests. It ends with the process that runs the tests.
var chromium = sync.OnceValues(func() (context.Context, error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-domain-reliability", true),
		chromedp.Flag("no-pings", true),
		// Nothing but the test is reached.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"),
		chromedp.Flag("proxy-server", "direct://"),
		chromedp.WSURLReadTimeout(patience),
	)
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // Chromium's sandbox does not run as root
	}
	ctx, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(ctx)
	stopChromium = func() {
		cancel()
		stop()
	}
	return ctx, chromedp.Do(ctx)
})

var stopChromium = func() {}

func TestMain(m *testing.M) {
	status := m.Run()
	stopChromium()
	os.Exit(status)
}

// A tab is a tab of the browser. Errors of the page's scripts fail the test.
type tab struct {
	*testing.T
	ctx context.Context

	mu     sync.Mutex
	errors []string // errors that the page has logged
}

// newTab opens a tab. It skips the test if there is no Chromium.
func newTab(t *testing.T) *tab {
	t.Helper()
	browser, err := chromium()
	if errors.Is(err, exec.ErrNotFound) {
		netns.Lacks(t, "chromium", err)
	}
	require.NoError(t, err)
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewBrowserContext())
	require.NoError(t, chromedp.Do(ctx)) // the context of the first call has no timeout
	ctx, stop := context.WithTimeout(ctx, patience)
	t.Cleanup(func() {
		stop()
		cancel()
	})
	b := &tab{T: t, ctx: ctx}
	require.NoError(t, chromedp.Listen(ctx, func(e any) {
		switch e := e.(type) {
		case *runtime.EventExceptionThrown:
			b.logged(fmt.Sprintf("%s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception))
		case *log.EventEntryAdded:
			if e.Entry.Level == log.EntryLevelError {
				b.logged(e.Entry.Text + " " + e.Entry.URL)
			}
		}
	}))
	call(b, log.Enable, cdp.Empty{})
	b.size(1200, 900)
	return b
}

func (b *tab) logged(text string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errors = append(b.errors, text)
}

// noErrors fails the test if the page has logged an error, such as a violation of its policy.
func (b *tab) noErrors() {
	b.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b, b.errors)
}

func (b *tab) run(actions ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	require.NoError(b, chromedp.Do(b.ctx, actions...))
}

// call runs a command of the DevTools protocol.
func call[P, R any](b *tab, command cdp.Command[P, R], params P) R {
	b.Helper()
	r, err := chromedp.Call(b.ctx, command, params)
	require.NoError(b, err)
	return r
}

// size sets the size of the window in pixels.
func (b *tab) size(width, height int64) {
	b.Helper()
	b.run(chromedp.EmulateViewport(width, height))
}

// scheme sets whether the user prefers "light" or "dark".
func (b *tab) scheme(name string) {
	b.Helper()
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}},
	})
}

// open opens a view of the page at a URL, and waits until the view is there.
func (b *tab) open(url, view string) {
	b.Helper()
	// The address is left first, because a changed fragment alone loads nothing.
	b.run(chromedp.Navigate("about:blank"), chromedp.Navigate(url+view))
	b.await("the view "+view, `document.querySelector("main h1") && document.getElementById("main").getAttribute("aria-busy") === "false"`)
}

// goTo changes the view as a link does.
func (b *tab) goTo(view string) {
	b.Helper()
	eval[bool](b, `(() => { document.querySelector("main h1")?.remove(); location.hash = `+quote(view)+`; return true; })()`)
	b.await("the view "+view, `document.querySelector("main h1") && document.getElementById("main").getAttribute("aria-busy") === "false"`)
}

// eval evaluates an expression, which may be a promise, and returns its value.
func eval[T any](b *tab, expression string) T {
	b.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	require.NoError(b, err, expression)
	return v
}

// text returns the text of the first element that a selector matches.
func (b *tab) text(selector string) string {
	b.Helper()
	return eval[string](b, `document.querySelector(`+quote(selector)+`)?.textContent ?? ""`)
}

// await waits until an expression is true.
func (b *tab) await(what, expression string) {
	b.Helper()
	for {
		is, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if err == nil && is {
			return
		}
		select {
		case <-b.ctx.Done():
			b.mu.Lock()
			logged := strings.Join(b.errors, "\n")
			b.mu.Unlock()
			b.Fatalf("waited in vain for %s: %v\nerrors of the page: %s\nmain: %s", what, err, logged, b.remains())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// remains returns the text of the page after the time of the test is over.
func (b *tab) remains() string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 5*time.Second)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.body.innerText.slice(0, 2000)`))
	if err != nil {
		return err.Error()
	}
	return text
}

// screenshot returns a picture of the window.
func (b *tab) screenshot() []byte {
	b.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b, err)
	return png
}

// quote returns a string of JavaScript.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string can be marshaled
	}
	return string(b)
}
