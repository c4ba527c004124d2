//go:build linux

package browser

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

// tries are requests by which a page of another site may try to learn or to change something. Each is a promise of
// the text that it got.
const tries = `
const tries = {
  fetch: () => fetch(target + "api/overview").then((r) => r.text()),
  credentials: () => fetch(target + "api/overview", {credentials: "include"}).then((r) => r.text()),
  opaque: () => fetch(target + "api/overview", {mode: "no-cors", credentials: "include"}).then((r) => r.text()),
  capture: () => fetch(target + "api/capture", {method: "POST", body: new URLSearchParams({seconds: 1}), headers: {"X-Usernet-Inspect": "1"}}).then((r) => r.text()),
  form: () => fetch(target + "api/capture", {method: "POST", mode: "no-cors", credentials: "include", body: new URLSearchParams({seconds: 1})}).then((r) => r.text()),
  stream: () => new Promise((resolve, reject) => {
    const s = new EventSource(target + "api/stream?topics=overview", {withCredentials: true});
    s.addEventListener("overview", (e) => resolve(e.data));
    s.onerror = () => { s.close(); reject(new Error("refused")); };
  }),
  script: () => new Promise((resolve, reject) => {
    const s = document.createElement("script");
    s.src = target + "assets/units.js";
    s.onload = () => resolve("loaded");
    s.onerror = () => reject(new Error("refused"));
    document.head.append(s);
  }),
};
const learned = Object.entries(tries).map(([name, f]) => f().then((text) => text ? name + ": " + text : "", () => ""));
Promise.all(learned).then((all) => all.filter(Boolean))
`

func TestAnotherSiteLearnsNothing(t *testing.T) {
	s := show(t, hosttest.Loopback(t), inspect.Config{})
	site := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte(`<!DOCTYPE html><title>another site</title><iframe src="` + s.url + `"></iframe>`))
	}))
	defer site.Close()
	b := newTab(t)
	// The page itself works, and so do the requests that follow when it is the page that makes them.
	b.open(s.url, "")
	require.Contains(t, eval[string](b, `fetch("api/overview").then((r) => r.text())`), `"interfaces"`)
	// By another port and by another name of this machine, the site is another one.
	for _, url := range []string{site.URL, strings.Replace(site.URL, "127.0.0.1", "localhost", 1)} {
		b.run(chromedp.Navigate(url))
		b.await("the other site", `document.title === "another site"`)
		require.Empty(t, eval[[]string](b, "const target = "+quote(s.url)+";"+tries), "from %s", url)
		require.Equal(t, 0, eval[int](b, `(() => { try { return frames[0].document.querySelectorAll("h1").length } catch { return 0 } })()`))
	}
	require.EqualValues(t, 0, s.streams.Load())
}

func TestRequestsWithoutTheTokenFail(t *testing.T) {
	s := show(t, hosttest.Loopback(t), inspect.Config{Token: inspect.NewToken()})
	b := newTab(t)
	b.run(chromedp.Navigate(s.url))
	b.await("the answer", `document.body.textContent.includes("this page needs its token")`)
	status := `fetch("api/overview").then((r) => r.status)`
	require.Equal(t, http.StatusUnauthorized, eval[int](b, status))
	b.run(chromedp.Navigate(s.url + "?token=wrong"))
	require.Equal(t, http.StatusUnauthorized, eval[int](b, status))
}

func TestTheTokenOpensThePage(t *testing.T) {
	token := inspect.NewToken()
	s := show(t, hosttest.Loopback(t), inspect.Config{Token: token})
	b := newTab(t)
	b.open(s.url+"?token="+token, "")
	require.NotContains(t, eval[string](b, "location.href"), token)
	require.Equal(t, "", eval[string](b, "document.cookie"), "scripts see the cookie")
	b.goTo("#/conns")
	b.open(s.url, "") // the cookie is enough
	b.noErrors()
}

func TestNobodyIsSampledForAPageThatIsPausedOrLeft(t *testing.T) {
	s := show(t, hosttest.Loopback(t), inspect.Config{})
	b := newTab(t)
	// awaitStreams waits until n streams are open.
	awaitStreams := func(n int32) {
		t.Helper()
		for s.streams.Load() != n {
			select {
			case <-b.ctx.Done():
				t.Fatalf("%d streams, not %d", s.streams.Load(), n)
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	b.open(s.url, "#/conns")
	awaitStreams(1)
	b.run(chromedp.Click("#pause"))
	awaitStreams(0)
	require.Equal(t, "paused", b.text("#status"))
	b.run(chromedp.Click("#pause"))
	awaitStreams(1)
	b.goTo("#/capture") // which shows nothing live
	awaitStreams(0)
	b.goTo("#/")
	awaitStreams(1)
	b.run(chromedp.Navigate("about:blank"))
	awaitStreams(0)
	b.noErrors()
}

func TestTextFromOutsideIsNotHTML(t *testing.T) {
	const evil = `<img src=x onerror=alert(1)>`
	dev := nic.NewNull(nic.Link{MTU: 1500, Medium: nic.IP})
	h := hosttest.New(t, usernet.Config{NICs: []usernet.NIC{{Name: evil, Device: dev}}})
	s := show(t, h, inspect.Config{})
	b := newTab(t)
	for _, v := range []string{"#/", "#/topology", "#/conn?id=" + evil, "#/" + evil} {
		b.open(s.url, v)
		require.Equal(t, 0, eval[int](b, `document.querySelectorAll("main img").length`), v)
	}
	require.Contains(t, b.text("main"), evil)
}
