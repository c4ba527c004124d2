package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/usernet/usernet"
)

//go:embed page.html
var page string

// The paths that the site reserves. All other paths are the user's files.
const (
	pagePath  = "/.usernet/"
	factsPath = "/.usernet/facts"
)

// A site is the content that the serve command serves: the user's files, the start page, and the facts
// that the page shows. Its handlers are plain handlers of net/http.
type site struct {
	host    *usernet.Host
	addr    netip.Addr
	six     netip.Addr // may be invalid
	link    string     // a description of the link
	bridged bool       // the browser is on the kernel's network, behind a bridge
	dir     string     // directory of the files; if empty, the start page is also at "/"
	begun   time.Time
	page    *template.Template
}

// handler returns the site's handler.
func (s *site) handler() http.Handler {
	s.begun = time.Now()
	s.page = template.Must(template.New("page").Parse(page))
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pagePath+"{$}", s.servePage)
	mux.HandleFunc("GET "+factsPath, s.serveFacts)
	if s.dir != "" {
		mux.Handle("/", http.FileServer(http.Dir(s.dir)))
	} else {
		mux.HandleFunc("GET /{$}", s.servePage)
	}
	return mux
}

// connKey is the context key of a request's connection.
type connKey struct{}

// withConn is the server's ConnContext. It makes a request's connection available to the handlers.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func (s *site) servePage(w http.ResponseWriter, r *http.Request) {
	var b bytes.Buffer
	if err := s.page.Execute(&b, s.facts(r)); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Write(b.Bytes())
}

func (s *site) serveFacts(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(s.facts(r))
}

// facts are the values that the page shows.
type facts struct {
	Addr    string
	Addr6   string // empty if the host has no IPv6 address
	Over6   bool   // the connection of this request is over IPv6
	Link    string
	Bridged bool
	Groups  []group
	RTT     float64 // milliseconds, of the connection of this request
}

// A group is a table of the page.
type group struct {
	Name  string
	Facts []fact
}

type fact struct {
	Name, Value string
}

func (s *site) facts(r *http.Request) facts {
	f := facts{Addr: s.addr.String(), Link: s.link, Bridged: s.bridged}
	if s.six.IsValid() {
		f.Addr6 = s.six.String()
	}
	if c, ok := r.Context().Value(connKey{}).(*usernet.TCPConn); ok {
		f.Over6 = c.LocalAddr().(*net.TCPAddr).IP.To4() == nil
		f.RTT = milliseconds(time.Duration(c.Info().RTT))
		f.Groups = append(f.Groups, connGroup(c))
	}
	st := s.host.Stats()
	f.Groups = append(f.Groups, s.hostGroup())
	for _, n := range st.NICs {
		if n.RxFrames+n.TxFrames == 0 {
			continue
		}
		f.Groups = append(f.Groups, group{"Link " + n.Name, []fact{
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

func (s *site) hostGroup() group {
	g := group{Name: "Host", Facts: []fact{
		{"address", s.addr.String()},
		{"link", s.link},
	}}
	if s.six.IsValid() {
		g.Facts = slices.Insert(g.Facts, 1, fact{"IPv6 address", s.six.String()})
	}
	for _, ifc := range s.host.Interfaces() {
		if ifc.Loopback {
			continue
		}
		g.Facts = append(g.Facts,
			fact{"MAC address", ifc.MAC.String()},
			fact{"MTU", fmt.Sprintf("%d bytes", ifc.MTU)})
	}
	g.Facts = append(g.Facts, fact{"up for", time.Since(s.begun).Round(time.Second).String()})
	return g
}

func connGroup(c *usernet.TCPConn) group {
	i := c.Info()
	return group{"This connection", []fact{
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

func dropGroup(drops map[string]uint64) group {
	g := group{Name: "Dropped packets, by reason"}
	for why, n := range drops {
		g.Facts = append(g.Facts, fact{why, count(n)})
	}
	slices.SortFunc(g.Facts, func(a, b fact) int { return strings.Compare(a.Name, b.Name) })
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
