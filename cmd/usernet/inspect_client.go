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
	"strconv"
	"strings"
	"time"

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
	dialer := net.Dialer{Timeout: inspectTimeout}
	if !isURL {
		if st, err := os.Stat(target); err != nil {
			return nil, err
		} else if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is not a Unix socket", target)
		}
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", target)
		}
		return &inspector{
			base:   &url.URL{Scheme: "http", Host: "localhost", Path: site.InspectPath},
			client: newInspectClient(dial),
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
	i := &inspector{base: u, token: u.Query().Get("token"), client: newInspectClient(dialer.DialContext)}
	u.RawQuery, u.Fragment = "", ""
	if u.Path == "" || u.Path == "/" {
		u.Path = site.InspectPath
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
	}
	return i, nil
}

// inspectTimeout is how long an inspector waits for a connection, and then for the beginning of each answer. The length
// of a stream has no limit.
const inspectTimeout = 10 * time.Second

func newInspectClient(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DialContext: dial, TLSHandshakeTimeout: inspectTimeout, ResponseHeaderTimeout: inspectTimeout,
	}}
}

// Limits of an inspector, because the other program may send anything.
const (
	maxInspectAnswer = 64 << 20 // bytes of an answer
	maxInspectPage   = 8 << 20  // bytes of a page of a list, which has at most pageSize entries
	maxInspectPages  = 1 << 30  // bytes of all pages of a list
	maxInspectList   = 4 << 20  // entries of a list
)

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

// An inspectError is an error that the other program has sent as its answer.
type inspectError struct {
	status int
	text   string
}

func (e *inspectError) Error() string { return printable(e.text) }

// isGone reports whether err says that there is no such connection.
func isGone(err error) bool {
	var e *inspectError
	return errors.As(err, &e) && e.status == http.StatusNotFound
}

// get gets the JSON of a request into v.
func (i *inspector) get(ctx context.Context, name string, q url.Values, v any) error {
	_, err := i.getSize(ctx, name, q, v, maxInspectAnswer)
	return err
}

// getSize is like get, for an answer of at most limit bytes. It also returns the number of bytes that it has read.
func (i *inspector) getSize(ctx context.Context, name string, q url.Values, v any, limit int64) (size int64, err error) {
	body, err := i.do(ctx, http.MethodGet, name, q)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	defer time.AfterFunc(6*inspectTimeout, func() { body.Close() }).Stop() // the answer is not a stream
	limited := &io.LimitedReader{R: body, N: limit}
	if err := json.NewDecoder(limited).Decode(v); err != nil {
		return 0, fmt.Errorf("%s: not the answer of package inspect: %w", i.base.JoinPath("api", name), err)
	}
	return limit - limited.N, nil
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
	err := i.pages(ctx, "conns", func(page *listPage) (added int) {
		for _, c := range page.Conns {
			if !seen[c.ID] {
				seen[c.ID] = true
				all = append(all, c)
				added++
			}
		}
		return added
	})
	return all, err
}

// sockets returns all UDP and raw sockets.
func (i *inspector) sockets(ctx context.Context) ([]inspect.Socket, error) {
	var all []inspect.Socket
	err := i.pages(ctx, "sockets", func(page *listPage) (added int) {
		all = append(all, page.Sockets...)
		return len(page.Sockets)
	})
	return all, err
}

// A listPage is a page of api/conns or of api/sockets.
type listPage struct {
	Total   int
	Conns   []inspect.Conn
	Sockets []inspect.Socket
}

// pages calls add for each page of a list. It returns after the last page of the list's total, or after a page from which
// add has added nothing.
func (i *inspector) pages(ctx context.Context, name string, add func(*listPage) (added int)) error {
	var bytes int64
	for offset := 0; ; offset += pageSize {
		var page listPage
		q := url.Values{"limit": {strconv.Itoa(pageSize)}, "offset": {strconv.Itoa(offset)}}
		n, err := i.getSize(ctx, name, q, &page, maxInspectPage)
		if err != nil {
			return err
		}
		if add(&page) == 0 || offset+pageSize >= page.Total {
			return nil
		}
		if bytes += n; bytes > maxInspectPages || offset > maxInspectList || len(page.Conns)+len(page.Sockets) > pageSize {
			return fmt.Errorf("%s: the list is too long", i.base.JoinPath("api", name))
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
