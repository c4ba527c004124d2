// Package site is the web site of the commands that serve on a usernet host: a start page, which shows the connection
// over which the browser has loaded it, and the files of a directory.
package site

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

//go:embed page.html
var page string

// The paths that the site reserves. All other paths are the user's files.
const (
	PagePath    = "/.usernet/" // the start page
	factsPath   = "/.usernet/facts"
	InspectPath = "/debug/usernet/" // Site.Inspect; a file of the user if that is nil
)

// shutdownTime is how long requests in progress may take to finish. It is short, so that a program ends within a
// second of Ctrl-C.
const shutdownTime = 300 * time.Millisecond

// A Site is the content of a server: the user's files, the start page, and the facts that the page shows. Its handlers
// are plain handlers of net/http.
type Site struct {
	Host    *usernet.Host
	Addr    netip.Addr // the host's main address
	Addr6   netip.Addr // the host's IPv6 address; may be invalid, or the same as Addr
	Link    string     // a description of the link, such as "the TAP device tap0"
	Bridged bool       // the browser is on the kernel's network, behind a bridge
	Dir     string     // directory of the files; if empty, the start page is also at "/"

	Inspect http.Handler // of package inspect; may be nil

	begun time.Time
	page  *template.Template
}

// Server returns a server of the site. The server logs its errors to log, or to the standard logger if log is nil.
func (s *Site) Server(log *slog.Logger) *http.Server {
	s.begun = time.Now()
	s.page = template.Must(template.New("page").Parse(page))
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PagePath+"{$}", s.servePage)
	mux.HandleFunc("GET "+factsPath, s.serveFacts)
	if s.Dir != "" {
		mux.Handle("/", http.FileServer(http.Dir(s.Dir)))
	} else {
		mux.HandleFunc("GET /{$}", s.servePage)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ConnContext: withConn}
	if s.Inspect != nil {
		// Shutdown waits for requests in progress, and a stream of the inspector never ends by itself.
		ended, end := context.WithCancel(context.Background())
		srv.RegisterOnShutdown(end)
		mux.HandleFunc(InspectPath, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			defer context.AfterFunc(ended, cancel)()
			s.Inspect.ServeHTTP(w, r.WithContext(ctx))
		})
	}
	if log != nil {
		srv.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	}
	return srv
}

// Shutdown shuts a server down gracefully. If that takes longer than shutdownTime, it closes the connections.
func Shutdown(srv *http.Server, log *slog.Logger) error {
	log.Info("ending; Ctrl-C again ends at once")
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	err := srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		log.Warn("requests were cut off", "after", shutdownTime)
		srv.Close()
		return nil
	}
	return err
}

// connKey is the context key of a request's connection.
type connKey struct{}

// withConn is the server's ConnContext. It adds the connection to the context of each request.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func (s *Site) servePage(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	if err := s.page.Execute(&b, s.facts(r)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(b.Bytes())
}

func (s *Site) serveFacts(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(s.facts(r))
}

// Facts are the values that the page shows. The page contains them when it is loaded, and then gets them as JSON.
type Facts struct {
	Addr    string
	Addr6   string // empty if the host has no IPv6 address
	Over6   bool   // the connection of this request is over IPv6
	NoLink  bool   // the link carries IP packets without a link layer such as Ethernet
	Link    string
	Bridged bool
	Groups  []Group
	RTT     float64 // milliseconds, of the connection of this request
}

// A Group is a table of the page.
type Group struct {
	Name  string
	Facts []Fact
}

// A Fact is a line of a table.
type Fact struct {
	Name, Value string
}

func (s *Site) facts(r *http.Request) Facts {
	f := Facts{Addr: s.Addr.String(), Link: s.Link, Bridged: s.Bridged}
	if s.Addr6.IsValid() {
		f.Addr6 = s.Addr6.String()
	}
	if c, ok := r.Context().Value(connKey{}).(*usernet.TCPConn); ok {
		f.Over6 = c.LocalAddr().(*net.TCPAddr).IP.To4() == nil
		f.RTT = milliseconds(time.Duration(c.Info().RTT))
		f.Groups = append(f.Groups, connGroup(c))
	}
	f.NoLink = !slices.ContainsFunc(s.Host.Interfaces(), func(ifc stack.InterfaceInfo) bool {
		return !ifc.Loopback && ifc.Medium == nic.Ethernet
	})
	st := s.Host.Stats()
	f.Groups = append(f.Groups, s.hostGroup())
	for _, n := range st.NICs {
		if n.RxFrames+n.TxFrames == 0 {
			continue
		}
		f.Groups = append(f.Groups, Group{"Link " + n.Name, []Fact{
			{"frames received", count(n.RxFrames)},
			{"frames sent", count(n.TxFrames)},
			{"bytes received", count(n.RxBytes)},
			{"bytes sent", count(n.TxBytes)},
			{"ARP received, sent", count(st.ARP.Received) + ", " + count(st.ARP.Sent)},
			{"ICMP received, sent", count(st.ICMP.Received) + ", " + count(st.ICMP.Sent)},
			{"Neighbor Discovery received, sent", count(st.ND.Received) + ", " + count(st.ND.Sent)},
			{"ICMPv6 received, sent", count(st.ICMP6.Received) + ", " + count(st.ICMP6.Sent)},
		}})
	}
	if len(st.Drops) > 0 {
		f.Groups = append(f.Groups, dropGroup(st.Drops))
	}
	return f
}

func (s *Site) hostGroup() Group {
	g := Group{Name: "Host", Facts: []Fact{
		{"address", s.Addr.String()},
		{"link", s.Link},
	}}
	if s.Addr6.IsValid() {
		g.Facts = slices.Insert(g.Facts, 1, Fact{"IPv6 address", s.Addr6.String()})
	}
	for _, ifc := range s.Host.Interfaces() {
		if ifc.Loopback {
			continue
		}
		if ifc.Medium == nic.Ethernet {
			g.Facts = append(g.Facts, Fact{"MAC address", ifc.MAC.String()})
		}
		g.Facts = append(g.Facts, Fact{"MTU", fmt.Sprintf("%d bytes", ifc.MTU)})
	}
	g.Facts = append(g.Facts, Fact{"up for", time.Since(s.begun).Round(time.Second).String()})
	return g
}

func connGroup(c *usernet.TCPConn) Group {
	i := c.Info()
	return Group{"This connection", []Fact{
		{"from", c.RemoteAddr().String()},
		{"to", c.LocalAddr().String()},
		{"state", fmt.Sprint(i.State)},
		{"round trip", time.Duration(i.RTT).Round(time.Microsecond).String()},
		{"retransmission timeout", time.Duration(i.RTO).Round(time.Millisecond).String()},
		{"congestion window", fmt.Sprintf("%d bytes", i.SndCwnd)},
		{"send window", fmt.Sprintf("%d bytes", i.SndWnd)},
		{"receive window", fmt.Sprintf("%d bytes", i.RcvWnd)},
		{"segment size", fmt.Sprintf("%d bytes", i.SndMSS)},
		{"sent again", fmt.Sprintf("%d segments", i.Retrans)},
		{"SACK, timestamps, scaling", yes(i.SACK) + ", " + yes(i.Timestamps) + ", " + yes(i.WScale)},
	}}
}

func dropGroup(drops map[stack.DropReason]uint64) Group {
	g := Group{Name: "Dropped packets, by reason"}
	for why, n := range drops {
		g.Facts = append(g.Facts, Fact{string(why), count(n)})
	}
	slices.SortFunc(g.Facts, func(a, b Fact) int { return strings.Compare(a.Name, b.Name) })
	return g
}

func count(n uint64) string { return fmt.Sprint(n) }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
