package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/site"
)

// An inspector is a client of package inspect in another program. It uses the kernel's network.
type inspector struct {
	base   *url.URL // ends with a slash
	token  string
	client *http.Client
}

// newInspector returns a client for a target: the path of a Unix socket, or the URL of the page, perhaps with
// its token.
func newInspector(target string) (*inspector, error) {
	scheme, _, isURL := strings.Cut(target, "://")
	if !isURL {
		if st, err := os.Stat(target); err != nil {
			return nil, err
		} else if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is not a Unix socket", target)
		}
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", target)
		}
		return &inspector{
			base:   &url.URL{Scheme: "http", Host: "localhost", Path: site.InspectPath},
			client: &http.Client{Transport: &http.Transport{DialContext: dial}},
		}, nil
	}
	u, err := url.Parse(target)
	switch {
	case err != nil:
		return nil, usageError(err.Error())
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, usageError(fmt.Sprintf("%s: the scheme %q is neither http nor https", target, scheme))
	case u.Host == "":
		return nil, usageError(target + ": the host is missing")
	}
	i := &inspector{base: u, token: u.Query().Get("token"), client: &http.Client{Transport: &http.Transport{}}}
	u.RawQuery, u.Fragment = "", ""
	if u.Path == "" || u.Path == "/" {
		u.Path = site.InspectPath
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	return i, nil
}

// maxInspectAnswer is the longest answer that an inspector accepts, in bytes.
const maxInspectAnswer = 64 << 20

// do makes a request and returns the body of a successful answer, which the caller closes.
func (i *inspector) do(ctx context.Context, method, name string, q url.Values) (io.ReadCloser, error) {
	u := i.base.JoinPath("api", name)
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Usernet-Inspect", "1")
	if i.token != "" {
		req.Header.Set("Authorization", "Bearer "+i.token)
	}
	resp, err := i.client.Do(req)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	var failed struct{ Error string }
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if json.Unmarshal(b, &failed) == nil && failed.Error != "" {
		return nil, &inspectError{resp.StatusCode, failed.Error}
	}
	return nil, &inspectError{resp.StatusCode, resp.Status}
}

// An inspectError is an error that the other program has answered.
type inspectError struct {
	status int
	text   string
}

func (e *inspectError) Error() string { return e.text }

// isGone reports whether err says that there is no such connection.
func isGone(err error) bool {
	var e *inspectError
	return errors.As(err, &e) && e.status == http.StatusNotFound
}

// get gets the JSON of a request into v.
func (i *inspector) get(ctx context.Context, name string, q url.Values, v any) error {
	body, err := i.do(ctx, http.MethodGet, name, q)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := json.NewDecoder(io.LimitReader(body, maxInspectAnswer)).Decode(v); err != nil {
		return fmt.Errorf("%s: not the answer of package inspect: %w", i.base.JoinPath("api", name), err)
	}
	return nil
}

// abort resets a connection.
func (i *inspector) abort(ctx context.Context, id string) error {
	body, err := i.do(ctx, http.MethodPost, "abort", url.Values{"id": {id}})
	if err == nil {
		body.Close()
	}
	return err
}

// pageSize is the number of entries that an inspector asks for at a time.
const pageSize = 1000

// conns returns all connections.
func (i *inspector) conns(ctx context.Context) ([]inspect.Conn, error) {
	var all []inspect.Conn
	seen := make(map[string]bool) // connections come and go between two pages
	for offset := 0; ; offset += pageSize {
		var page inspect.Conns
		q := url.Values{"limit": {fmt.Sprint(pageSize)}, "offset": {fmt.Sprint(offset)}}
		if err := i.get(ctx, "conns", q, &page); err != nil {
			return nil, err
		}
		for _, c := range page.Conns {
			if !seen[c.ID] {
				seen[c.ID] = true
				all = append(all, c)
			}
		}
		if len(page.Conns) < pageSize {
			return all, nil
		}
	}
}

// sockets returns all UDP and raw sockets.
func (i *inspector) sockets(ctx context.Context) ([]inspect.Socket, error) {
	var all []inspect.Socket
	for {
		var page inspect.Sockets
		q := url.Values{"limit": {fmt.Sprint(pageSize)}, "offset": {fmt.Sprint(len(all))}}
		if err := i.get(ctx, "sockets", q, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Sockets...)
		if len(page.Sockets) < pageSize {
			return all, nil
		}
	}
}

// stream calls f for each event of a stream of the given topics, until f returns false, ctx ends or the other
// program ends the stream.
func (i *inspector) stream(ctx context.Context, q url.Values, f func(topic string, data []byte) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := i.do(ctx, http.MethodGet, "stream", q)
	if err != nil {
		return err
	}
	defer body.Close()
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, maxInspectAnswer)
	topic := ""
	for lines.Scan() {
		if s, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			topic = s
		} else if s, ok := strings.CutPrefix(lines.Text(), "data: "); ok && !f(topic, []byte(s)) {
			return nil
		}
	}
	if err := lines.Err(); err != nil {
		return err
	}
	return errors.New("the program has ended the stream")
}
