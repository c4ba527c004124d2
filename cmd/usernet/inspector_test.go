package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/site"
)

func TestServeShowsItsHost(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ctx, cancel := context.WithCancel(t.Context())
	var out, errs safeBuffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"serve", "-wire", "-inspect-socket", socket}, terminal{&out, &errs}) }()
	require.Eventually(t, func() bool { return strings.Count(out.String(), "\n") == 2 || len(done) > 0 }, time.Minute, time.Millisecond)
	lines := strings.Split(out.String(), "\n")
	require.Regexp(t, `^inspector: http://127\.0\.0\.1:\d+/debug/usernet/\?token=\w{26}$`, lines[1], errs.String())
	url := strings.Fields(lines[1])[1]

	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Jar: jar}
	defer client.CloseIdleConnections()
	bare, _, _ := strings.Cut(url, "?")
	resp, err := client.Get(bare + "api/overview")
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	resp, err = client.Get(url)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	require.Equal(t, bare, resp.Request.URL.String(), "the token is not in the address bar")
	resp, err = client.Get(bare + "api/overview")
	require.NoError(t, err)
	var o inspect.Overview
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&o))
	resp.Body.Close()
	require.Equal(t, 1, o.Totals.Listeners)

	st, err := os.Stat(socket)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), st.Mode().Perm())
	local := &http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", socket)
	}}}
	defer local.CloseIdleConnections()
	resp, err = local.Get("http://usernet" + site.InspectPath + "api/overview")
	require.NoError(t, err)
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&o))
	resp.Body.Close()
	require.True(t, o.Host.CanAbort, "a client of the socket may reset connections")

	code, _, text := runLine(t, "serve", "-wire", "-inspect-socket", socket)
	require.Equal(t, exitFailure, code)
	require.Contains(t, text, "another program uses it")

	// An open page does not keep the command from ending.
	stream, err := client.Get(bare + "api/stream?topics=overview,events")
	require.NoError(t, err)
	defer stream.Body.Close()
	require.Equal(t, "text/event-stream", stream.Header.Get("Content-Type"))
	cancel()
	require.Equal(t, exitOK, <-done)
	require.NotContains(t, errs.String(), "cut off", "the stream has ended by itself")
	_, err = os.Stat(socket)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestServeWithoutTheInspector(t *testing.T) {
	url, _, end := serve(t, "-inspect=false")
	resp, err := http.Get(url + site.InspectPath[1:])
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
	http.DefaultClient.CloseIdleConnections()
	require.Equal(t, exitOK, end())
}

func TestASocketOfADeadProgramIsReplaced(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", socket)
	require.NoError(t, err)
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	require.NoError(t, ln.Close())
	_, _, end := serve(t, "-inspect-socket", socket)
	c, err := net.Dial("unix", socket)
	require.NoError(t, err)
	c.Close()
	require.Equal(t, exitOK, end())

	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("content"), 0o600))
	code, _, _ := runLine(t, "serve", "-wire", "-inspect-socket", file)
	require.Equal(t, exitFailure, code)
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "content", string(b), "only a socket is removed")
}

func TestInspectShowsARecording(t *testing.T) {
	name := filepath.Join(t.TempDir(), "run.usernet")
	f, err := os.Create(name)
	require.NoError(t, err)
	h, err := usernet.New(usernet.Config{})
	require.NoError(t, err)
	defer h.Close()
	require.NoError(t, inspect.Record(h, f, inspect.RecordConfig{}).Close())
	require.NoError(t, f.Close())

	ctx, cancel := context.WithCancel(t.Context())
	var out, errs safeBuffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, []string{"inspect", name}, terminal{&out, &errs}) }()
	require.Eventually(t, func() bool { return strings.HasSuffix(out.String(), "\n") || len(done) > 0 }, time.Minute, time.Millisecond)
	fields := strings.Fields(out.String()) // of which the fourth is the URL
	require.Len(t, fields, 6, errs.String())
	defer http.DefaultClient.CloseIdleConnections()
	var o inspect.Overview
	require.NoError(t, json.Unmarshal([]byte(get(t, fields[3]+"api/overview")), &o))
	require.True(t, o.Host.Recorded)
	require.Contains(t, get(t, fields[3]), "<html")
	cancel()
	require.Equal(t, exitOK, <-done)

	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "one file is needed"},
		{[]string{"-listen", ":8080", name}, exitUsage, "only an address of the loopback"},
		{[]string{"-listen", "x", name}, exitUsage, "-listen: "},
		{[]string{name + "x"}, exitFailure, "no such file"},
		{[]string{"inspector_test.go"}, exitFailure, "not a recording"},
	} {
		code, _, text := runLine(t, append([]string{"inspect"}, c.args...)...)
		require.Equal(t, c.code, code, text)
		require.Contains(t, text, c.want)
	}
}

func TestTheSocketOfAnotherProgramStays(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "s")
	ln, remove, err := listenPrivate(name)
	require.NoError(t, err)
	st, err := os.Stat(name)
	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, st.Mode())
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, files, 1, "only the socket is left")

	_, _, err = listenPrivate(name)
	require.ErrorContains(t, err, "another program uses it")
	c, err := net.Dial("unix", name)
	require.NoError(t, err)
	c.Close()

	// Another program replaces the file while this one runs.
	require.NoError(t, os.Remove(name))
	other, removeOther, err := listenPrivate(name)
	require.NoError(t, err)
	require.NoError(t, ln.Close())
	remove()
	c, err = net.Dial("unix", name)
	require.NoError(t, err)
	c.Close()
	require.NoError(t, other.Close())
	removeOther()
	files, err = os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, files)
}
