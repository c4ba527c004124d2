//go:build linux

package browser

import (
	"context"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/browser"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/internal/netns"
)

// secret is what the server answers over TLS.
const secret = "the answer that only the keys show"

// browse makes requests over TLS from one host to the other, one after the other on connections of their own, until
// the test ends. The server gives its secrets to keys.
func browse(t *testing.T, a, b *usernet.Host, keys io.Writer) {
	t.Helper()
	ln, err := b.Listen("tcp", ":443")
	require.NoError(t, err)
	client, server := hosttest.TLS(t, "http/1.1")
	server.KeyLogWriter = keys
	srv := &http.Server{TLSConfig: server, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, secret)
	})}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { srv.ServeTLS(ln, "", "") })
	web := &http.Client{Transport: &http.Transport{DialContext: a.DialContext, TLSClientConfig: client, DisableKeepAlives: true}}
	get := func() error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+hosttest.NameB+"/secret/page", nil)
		if err != nil {
			return err
		}
		resp, err := web.Do(r)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		return err
	}
	require.NoError(t, get())
	running.Go(func() {
		for get() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	t.Cleanup(func() {
		stop()
		srv.Close()
		running.Wait()
	})
}

func TestTheCaptureButtonsFileOpensInTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		netns.Lacks(t, "tshark", err)
	}
	a, host := hosttest.Pair(t)
	keys := new(inspect.KeyLog)
	s := show(t, host, inspect.Config{KeyLog: keys})
	browse(t, a, host, keys)
	b := newTab(t)
	dir := t.TempDir()
	info := call(b, target.GetTargetInfo, target.GetTargetInfoParams{})
	_, err = chromedp.CallBrowser(b.ctx, browser.SetDownloadBehavior, browser.SetDownloadBehaviorParams{
		Behavior: browser.SetDownloadBehaviorBehaviorAllow, BrowserContextID: info.TargetInfo.BrowserContextID, DownloadPath: dir,
	})
	require.NoError(t, err)
	b.open(s.url, "#/capture")
	require.Contains(t, b.text("main"), "Wireshark decrypts them")
	b.run(chromedp.SetValue("#capture-seconds", "2"), chromedp.SendKeys("#capture-filter", "tcp port 443"), chromedp.Click("button.main"))
	b.await("the file", `/^Done: [0-9.]+ [kM]?B were saved as a pcapng file/.test(document.getElementById("capture-status").textContent)`)
	var files []string
	for len(files) == 0 {
		files, err = filepath.Glob(dir + "/usernet-*.pcapng")
		require.NoError(t, err)
		select {
		case <-b.ctx.Done():
			t.Fatal("no file was saved")
		case <-time.After(20 * time.Millisecond):
		}
	}
	out, err := exec.CommandContext(t.Context(), tshark, "-n", "-r", files[0], "-Y", "http", "-T", "fields", "-e", "http.request.uri", "-e", "http.file_data").CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "/secret/page")
	require.Contains(t, string(out), secret)
	all, err := exec.CommandContext(t.Context(), tshark, "-n", "-r", files[0], "-Y", "not tcp.port == 443").Output()
	require.NoError(t, err)
	require.Empty(t, string(all), "frames that the filter excludes")
	b.noErrors()
}

func TestACaptureThatCannotBeIsExplained(t *testing.T) {
	s := show(t, hosttest.Loopback(t), inspect.Config{})
	b := newTab(t)
	b.open(s.url, "#/capture")
	require.Contains(t, b.text("main"), "TLS stays encrypted")
	b.run(chromedp.SendKeys("#capture-filter", "tcp prot 80"), chromedp.Click("button.main"))
	b.await("the reason", `document.getElementById("capture-status").textContent.startsWith("The capture failed: ")`)
	require.Contains(t, b.text("#capture-status"), "prot")
	// One that is given up.
	eval[bool](b, `(() => { document.getElementById("capture-filter").value = ""; document.getElementById("capture-seconds").value = 60; return true; })()`)
	b.run(chromedp.Click("button.main"))
	b.await("the capture", `document.getElementById("capture-status").textContent === "Capturing for 60 s." && !document.querySelector(".buttons button:last-child").disabled`)
	b.run(chromedp.Click(".buttons button:last-child"))
	b.await("its end", `document.getElementById("capture-status").textContent === "The capture was given up."`)
}

func TestDropsHaveTheirRuleAndFrames(t *testing.T) {
	a, host := hosttest.Pair(t)
	s := show(t, host, inspect.Config{})
	b := newTab(t)
	b.open(s.url, "#/drops")
	c, err := a.Dial("udp", net.JoinHostPort(hosttest.AddrB, "9"))
	require.NoError(t, err)
	defer c.Close()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			c.Write([]byte("nobody listens")) // the error is that of the datagram before
			time.Sleep(50 * time.Millisecond)
		}
	})
	defer running.Wait()
	defer stop()
	b.await("a dropped frame", `document.querySelector("#frames details")`)
	b.run(chromedp.Click("#frames summary"))
	require.Contains(t, b.text("#frames details"), hosttest.AddrA)
	require.Contains(t, b.text("#frames details"), "UDP")
	require.NotEmpty(t, b.text("#frames pre:last-child"))
	require.NotEmpty(t, eval[[]string](b, column(4))[0], "the rule")
	b.noErrors()
}
