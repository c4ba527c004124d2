// Package inspect shows a running host in a browser, as net/http/pprof shows a running program: its interfaces,
// connections, sockets, routes, neighbours and counters, live.
//
//	mux.Handle("/debug/usernet/", inspect.Handler(host))
//
// The handler serves a page and, below api/, the same values as JSON, once or as a stream of server-sent events.
// The types of this package are the JSON. Everything is sampled while a client looks: without clients there is
// no goroutine, no timer and no memory per connection.
//
// Captures have the frames that the host receives and sends, and those that it drops with the reason as a comment. With
// a KeyLog, Wireshark decrypts the TLS connections in them.
//
// A run in a testing/synctest bubble, where no browser can be, is recorded by Record. Open, or the command
// usernet inspect FILE, shows the recording afterwards with the same page.
//
// # Who may look
//
// The page shows the addresses of peers and the content of packets. Handler therefore answers only clients on the
// loopback of the machine, or on a Unix socket. Other clients need a token: see Config. Requests that other web
// sites make a browser send are refused.
package inspect

import (
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/usernet/usernet"
)

//go:embed assets
var assets embed.FS

// Config configures a handler. The zero value is for clients on the same machine.
type Config struct {
	// Token is the secret that a client must know. If it is empty, the handler answers only clients on the
	// loopback and on Unix sockets. A browser passes the token once, in the query parameter token; the handler
	// then sets a cookie. Other clients use the header "Authorization: Bearer TOKEN". NewToken makes a token.
	Token string
	// KeyLog has the secrets of TLS connections, which captures then include. Nil means that they have none.
	KeyLog *KeyLog
	// AllowAbort allows POST api/abort, which resets a connection.
	AllowAbort bool
	// MaxStreams is the maximum number of streams and captures at the same time; 16 if zero. A page uses one or
	// two streams.
	MaxStreams int
}

// Handler returns a handler that shows a host to clients on the same machine.
func Handler(h *usernet.Host) http.Handler { return NewHandler(h, Config{}) }

// NewHandler returns a handler that shows a host. It may be mounted at any path that ends in a slash.
func NewHandler(h *usernet.Host, cfg Config) http.Handler {
	return newServer(cfg, &live{host: h, cfg: cfg})
}

// A source is where the values come from: a running host or a recording.
type source interface {
	// answer returns the value of a topic. The error has the type *requestError if the request is wrong.
	answer(topic string, p *params) (any, error)
	// stream passes the events of topics to out until the client has gone or the host is closed.
	stream(p *params, out *eventWriter) error
	// capture and abort answer the requests of these names.
	capture(w http.ResponseWriter, r *http.Request) error
	abort(p *params) error
}

// A server answers the requests of HTTP.
type server struct {
	cfg     Config
	from    source
	assets  http.Handler
	cookie  string       // name of the cookie with the token
	streams atomic.Int32 // streams and captures in progress
}

func newServer(cfg Config, from source) *server {
	if cfg.MaxStreams <= 0 {
		cfg.MaxStreams = 16
	}
	sub, err := fs.Sub(assets, "assets")
	if err != nil {
		panic(err) // the directory is embedded
	}
	return &server{cfg: cfg, from: from, assets: http.FileServerFS(sub), cookie: cookieName(cfg.Token)}
}

// A requestError is an error that the client can mend.
type requestError struct {
	status int
	text   string // a sentence that says what to do
}

func (e *requestError) Error() string { return e.text }

// errNoConn says that the connection of a request does not exist.
var errNoConn = &requestError{http.StatusNotFound, "there is no connection with this id: it may have ended"}

// errClosed says that the host is closed.
var errClosed = &requestError{http.StatusServiceUnavailable, "the host is closed"}

func badRequest(text string) error { return &requestError{http.StatusBadRequest, text} }

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	setHeaders(w.Header())
	if done, err := s.admit(w, r); err != nil {
		fail(w, err)
		return
	} else if done {
		return
	}
	dir, name := splitPath(r.URL.Path)
	var err error
	switch {
	case dir == "api":
		err = s.api(w, r, name)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		err = &requestError{http.StatusMethodNotAllowed, "use GET for the page"}
	case dir == "assets" || name == "":
		u := *r.URL
		u.Path, u.RawPath = "/"+name, ""
		r2 := r.WithContext(r.Context())
		r2.URL = &u
		w.Header().Set("Cache-Control", "no-cache")
		s.assets.ServeHTTP(w, r2)
	default:
		err = &requestError{http.StatusNotFound, "there is only the page, assets/ and api/ here"}
	}
	if err != nil {
		fail(w, err)
	}
}

// splitPath returns the last directory of a path, if it is api or assets, and the name in it. The page itself has
// the name "". So the handler need not know where it is mounted.
func splitPath(path string) (dir, name string) {
	if strings.HasSuffix(path, "/") || path == "" {
		return "", ""
	}
	i := strings.LastIndexByte(path, '/')
	name, path = path[i+1:], path[:max(i, 0)]
	dir = path[strings.LastIndexByte(path, '/')+1:]
	if dir != "api" && dir != "assets" {
		dir = ""
	}
	if name == "index.html" {
		name = ""
		dir = ""
	}
	return dir, name
}

// api answers a request below api/.
func (s *server) api(w http.ResponseWriter, r *http.Request, name string) error {
	p, err := parseParams(r)
	if err != nil {
		return err
	}
	post := name == "capture" || name == "abort"
	if post {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", "POST")
			return &requestError{http.StatusMethodNotAllowed, "use POST for api/" + name}
		}
		if r.Header.Get("X-Usernet-Inspect") != "1" {
			return &requestError{http.StatusForbidden, "the request needs the header X-Usernet-Inspect: 1"}
		}
	} else if r.Method != http.MethodGet {
		w.Header().Set("Allow", "GET")
		return &requestError{http.StatusMethodNotAllowed, "use GET for api/" + name}
	}
	switch name {
	case "capture", "stream", "segments":
		if int(s.streams.Add(1)) > s.cfg.MaxStreams {
			s.streams.Add(-1)
			w.Header().Set("Retry-After", "10")
			return &requestError{http.StatusServiceUnavailable, "too many streams and captures are open: close a page that shows this host"}
		}
		defer s.streams.Add(-1)
	}
	switch name {
	case "capture":
		return s.from.capture(w, r)
	case "abort":
		if !s.cfg.AllowAbort {
			return &requestError{http.StatusForbidden, "the program does not allow this: it has to set Config.AllowAbort"}
		}
		if err := s.from.abort(p); err != nil {
			return err
		}
		return writeJSON(w, struct{}{})
	case "stream", "segments":
		if name == "segments" {
			p.topics = []string{"segments"}
		}
		return s.from.stream(p, newEventWriter(w, r))
	}
	v, err := s.from.answer(name, p)
	if err != nil {
		return err
	}
	return writeJSON(w, v)
}

func writeJSON(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(b, '\n'))
	return nil
}

// fail answers a request with an error. It does nothing if the answer has begun.
func fail(w http.ResponseWriter, err error) {
	var bad *requestError
	if !errors.As(err, &bad) {
		bad = &requestError{http.StatusInternalServerError, err.Error()}
	}
	b, err := json.Marshal(Error{bad.text})
	if err != nil {
		panic(err) // a string can be marshaled
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(bad.status)
	w.Write(append(b, '\n'))
}

// A live source shows a running host.
type live struct {
	host *usernet.Host
	cfg  Config

	dropped  dropWatch
	captures atomic.Int32 // in progress

	mu    sync.Mutex
	feeds map[string]*feed // those with clients, by their keys
}

// answer returns the present value of a topic.
func (l *live) answer(topic string, p *params) (any, error) {
	f, err := l.sampler(topic, p)
	if err != nil {
		return nil, err
	}
	if v := f(); v != nil {
		return v, nil
	}
	return nil, errNoConn
}

// sampler returns a function that samples a topic. The function is for one goroutine. It returns nil if there is
// nothing to see.
func (l *live) sampler(topic string, p *params) (func() any, error) {
	h := l.host
	switch topic {
	case "overview":
		return func() any { return l.overview() }, nil
	case "conns":
		list := &connList{query: p.conns}
		return func() any { return list.sample(h) }, nil
	case "conn":
		t, err := parseID(p.id)
		if err != nil {
			return nil, badRequest(err.Error())
		}
		w := &connWatch{tuple: t}
		return func() any {
			if d := w.sample(h); d != nil {
				return d
			}
			return nil
		}, nil
	case "listeners":
		return func() any { return listeners(h) }, nil
	case "sockets":
		return func() any { return sockets(h, p.conns.limit, p.conns.offset) }, nil
	case "neighbors":
		return func() any { return neighbors(h) }, nil
	case "routes":
		return func() any { return routes(h) }, nil
	case "addresses":
		return func() any { return addresses(h) }, nil
	case "groups":
		return func() any { return groups(h) }, nil
	case "leases":
		return func() any { return leases(h) }, nil
	case "names":
		return func() any { return names(h) }, nil
	case "drops":
		return func() any { return l.drops() }, nil
	case "all":
		return func() any { return l.all(p) }, nil
	}
	return nil, &requestError{http.StatusNotFound, "there is no " + quote(topic) + ": the topics are " + strings.Join(topics, ", ")}
}

// topics are the names of what GET answers.
var topics = []string{
	"overview", "conns", "conn", "listeners", "sockets", "neighbors", "routes", "addresses", "groups", "leases", "names", "drops", "all",
}

func (l *live) overview() *Overview {
	o := overview(l.host)
	o.Host.CanCapture, o.Host.CanAbort, o.Host.HasSecrets = l.canCapture(), l.cfg.AllowAbort, l.cfg.KeyLog != nil
	return o
}

func (l *live) all(p *params) *All {
	h := l.host
	list := &connList{query: p.conns}
	return &All{
		Overview: l.overview(), Conns: list.sample(h), Listeners: listeners(h), Sockets: sockets(h, maxPage, 0),
		Neighbors: neighbors(h), Routes: routes(h), Addresses: addresses(h), Groups: groups(h), Leases: leases(h),
		Names: names(h), Drops: l.drops(),
	}
}

// abort resets a connection.
func (l *live) abort(p *params) error {
	t, err := parseID(p.id)
	if err != nil {
		return badRequest(err.Error())
	}
	c, ok := l.host.Conn(t.local, t.remote)
	if !ok {
		return errNoConn
	}
	c.Abort()
	return nil
}
