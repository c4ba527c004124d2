package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
)

// evil clears a terminal, once in ASCII and once with the CSI of ISO 6429 in 8 bits, and reverses the text after it.
const evil = "evil\x1b[2J\u009b2J\u202e\r"

// A hostileProgram answers the requests of an inspector with values of its own.
type hostileProgram map[string]func(w http.ResponseWriter, r *http.Request)

// start returns the URL of the program.
func (p hostileProgram) start(t *testing.T) (url string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := p[path.Base(r.URL.Path)]; f != nil {
			f(w, r)
			return
		}
		io.WriteString(w, "{}")
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// answer answers with a value.
func answer(v any) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v) }
}

// streamOf answers with a stream of one event.
func streamOf(topic string, v any) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		b, _ := json.Marshal(v)
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", topic, b)
	}
}

func TestTheOtherProgramCannotControlTheTerminal(t *testing.T) {
	end := "[fe80::1%" + evil + "]:80"
	var detail inspect.ConnDetail
	detail.Info = &inspect.Info{}
	detail.Info.Congestion = evil
	refuse := func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		json.NewEncoder(w).Encode(inspect.Error{Error: evil})
	}
	lists := hostileProgram{
		"conns":     answer(inspect.Conns{Total: 1, Conns: []inspect.Conn{{ID: evil, Local: end, Remote: end, State: "ESTABLISHED", Timer: evil}}}),
		"conn":      answer(detail),
		"listeners": answer(inspect.Listeners{Listeners: []inspect.Listener{{Local: end, Family: evil}}}),
		"sockets":   answer(inspect.Sockets{Total: 1, Sockets: []inspect.Socket{{Protocol: evil, Local: end, Remote: end}}}),
		"overview":  answer(map[string]any{"totals": map[string]any{"by_state": map[string]int{evil: 1}}}),
		"stream": streamOf("dropped", inspect.Dropped{Reason: evil, Rule: evil, DroppedFrame: inspect.DroppedFrame{
			NIC: evil, Summary: evil, Decoded: evil + "\n"}}),
	}
	refusals := hostileProgram{"conns": refuse, "listeners": refuse, "sockets": refuse, "overview": refuse, "stream": refuse}
	for _, program := range []hostileProgram{lists, refusals} {
		url := program.start(t)
		for _, args := range []string{"ss -a", "ss -ta -i -o", "ss -ua", "ss -j -a", "ss -s -j", "ss -K state all", "dump -vv -x -c 1 -drops", "top -n 1"} {
			command, filter, _ := strings.Cut(args, " state ")
			line := append(strings.Fields(command), url)
			if filter != "" {
				line = append(line, "state", filter)
			}
			_, out, errs := runLine(t, line...)
			text := out + errs
			require.NotEmpty(t, text, args)
			// printJSON escapes control characters, of which U+202E is none.
			require.False(t, strings.ContainsFunc(text, func(r rune) bool {
				return r != '\n' && r != '\t' && !unicode.IsPrint(r) && !(strings.Contains(args, "-j") && r == '\u202e')
			}), "%s: %q", args, text)
		}
	}
	_, out, _ := runLine(t, "ss", "-tioH", lists.start(t))
	require.Contains(t, out, "timer:(evil?[2J?2J??,0ms)", "the text itself is shown")
	_, _, errs := runLine(t, "ss", refusals.start(t))
	require.Contains(t, errs, "usernet ss: evil?[2J?2J??\n")

	// printJSON leaves < and > as they are, and a reader of JSON undoes its escapes.
	var b bytes.Buffer
	require.NoError(t, printJSON(&b, map[string]string{"<>": evil}))
	require.Contains(t, b.String(), `"<>": "evil\u001b[2J\u009b2J`)
	var back map[string]string
	require.NoError(t, json.Unmarshal(b.Bytes(), &back))
	require.Equal(t, map[string]string{"<>": evil}, back)
	require.Equal(t, "a?b\tc\n", printableLines("a\x7fb\tc\n"))
	require.Equal(t, "größe … ?", printable("größe … \n"))
}

// The other program may ignore the offset, so that it sends the same page again and again, and may state any total.
// Connections have IDs: ss lists each ID once, so a repeated page adds nothing, and the list ends without an error.
// Sockets have no IDs: each page adds to the list, so only the limits of an inspector end it, with an error.
func TestListsOfTheOtherProgramEnd(t *testing.T) {
	// The total asks for more pages of connections, and each has the same ones.
	conns := inspect.Conns{Total: math.MaxInt, Conns: make([]inspect.Conn, pageSize)}
	for i := range conns.Conns {
		conns.Conns[i] = inspect.Conn{ID: fmt.Sprint(i), State: "ESTABLISHED", Local: "192.0.2.1:80", Remote: "192.0.2.2:1024"}
	}
	url := hostileProgram{
		"conns": answer(conns),
		// The total says that this is the only page.
		"sockets": answer(inspect.Sockets{Total: pageSize, Sockets: make([]inspect.Socket, pageSize)}),
	}.start(t)
	code, out, errs := runLine(t, "ss", "-aH", url)
	require.Equal(t, exitOK, code, errs)
	require.Equal(t, 2*pageSize, strings.Count(out, "\n"), "a page of connections and a page of sockets")

	for _, page := range []inspect.Sockets{
		{Total: math.MaxInt, Sockets: make([]inspect.Socket, 1)},          // there is always one more page
		{Total: math.MaxInt, Sockets: make([]inspect.Socket, pageSize+1)}, // more than ss asked for
	} {
		code, _, errs = runLine(t, "ss", "-uaH", hostileProgram{"sockets": answer(page)}.start(t))
		require.Equal(t, exitFailure, code)
		require.Contains(t, errs, "the list is too long")
	}
}

func TestSSListsOnlyWhatItHasReset(t *testing.T) {
	var conns inspect.Conns
	for i, id := range []string{"reset", "gone", "refused"} {
		conns.Conns = append(conns.Conns, inspect.Conn{ID: id, State: "ESTABLISHED", Local: "192.0.2.1:80", Remote: fmt.Sprintf("192.0.2.2:%d", 1024+i)})
	}
	conns.Total = len(conns.Conns)
	url := hostileProgram{"conns": answer(conns), "abort": func(w http.ResponseWriter, r *http.Request) {
		code := map[string]int{"reset": http.StatusOK, "gone": http.StatusNotFound, "refused": http.StatusForbidden}[r.FormValue("id")]
		w.WriteHeader(code)
		io.WriteString(w, "{}")
	}}.start(t)
	// The ports are 1024 for "reset", 1025 for "gone" and 1026 for "refused".
	code, out, _ := runLine(t, "ss", "-KnH", url, "dport < :1026")
	require.Equal(t, exitOK, code)
	require.Equal(t, 1, strings.Count(out, "\n"), out)
	require.Contains(t, out, "192.0.2.2:1024")
	code, out, errs := runLine(t, "ss", "-KnH", url, "state all")
	require.Equal(t, exitFailure, code)
	require.Contains(t, errs, "403 Forbidden")
	require.Contains(t, out, "192.0.2.2:1024", "what is reset before an error is listed")
}

// The last event in the stream of a recording has the topic end; the stream then stays open. Without that event, top and
// dump would wait for samples and drops for ever. At that event they end, and say what a recording does not have.
func TestARecordingEndsTopAndDump(t *testing.T) {
	h, err := usernet.New(usernet.Config{})
	require.NoError(t, err)
	defer h.Close()
	var file bytes.Buffer
	require.NoError(t, inspect.Record(h, &file, inspect.RecordConfig{}).Close())
	page, err := inspect.Open(&file)
	require.NoError(t, err)
	srv := httptest.NewServer(page)
	defer srv.Close()
	for args, want := range map[string]string{"top -n 1": "a recording has no rates", "dump -drops": "a recording has no stream of dropped packets"} {
		code, _, errs := runLine(t, append(strings.Fields(args), srv.URL)...)
		require.Equal(t, exitFailure, code)
		require.Contains(t, errs, want)
	}
	code, _, errs := runLine(t, "ss", "-a", srv.URL)
	require.Equal(t, exitOK, code, errs)
}

func TestAStoppedProgramDoesNotStopSS(t *testing.T) {
	for _, begins := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			from, err := newInspector("http://192.0.2.1/")
			require.NoError(t, err)
			from.client.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) {
				a, b := net.Pipe()
				go func() { // the program reads, and says nothing or only begins
					if begins {
						go io.WriteString(b, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
					}
					io.Copy(io.Discard, b)
				}()
				return a, nil
			}
			began := time.Now()
			require.Error(t, from.get(t.Context(), "overview", nil, new(inspect.Overview)))
			require.LessOrEqual(t, time.Since(began), 6*inspectTimeout, "the limit of a whole answer, in virtual time")
			from.client.CloseIdleConnections()
		})
	}
}
