package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/site"
)

func getCommand() command {
	return command{
		name: "get",
		args: "URL",
		what: "fetches a URL with net/http over this stack",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var out, dns string
			l.define(fs)
			l.defineAuto(fs)
			fs.StringVar(&out, "o", "", "write to `file` instead of standard output")
			fs.StringVar(&dns, "dns", "", "`address` of a name server, with or without its port")
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) != 1 {
					return usageError("one URL is needed")
				}
				servers, err := nameServers(dns)
				if err != nil {
					return err
				}
				url, err := parseURL(args[0])
				if err != nil {
					return err
				}
				if err := l.checkFlags(); err != nil {
					return err
				}
				return runGet(ctx, t, &l, url, out, servers)
			}
		},
		more: `A URL without a scheme uses http.

Examples:
  usernet get 192.0.2.1:8000                         from a server on the kernel's side
  usernet get -o image.iso http://192.0.2.1:8000/image.iso
`,
	}
}

// nameServers parses the value of -dns: nothing, or an address with or without a port. The default
// port is 53.
func nameServers(s string) ([]netip.AddrPort, error) {
	if s == "" {
		return nil, nil
	}
	if a, err := netip.ParseAddr(s); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(a, 53)}, nil
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil {
		return nil, usageError("-dns: " + err.Error())
	}
	return []netip.AddrPort{ap}, nil
}

// parseURL checks the argument of get and adds http:// if it has no scheme.
func parseURL(s string) (string, error) {
	if scheme, _, ok := strings.Cut(s, "://"); !ok || strings.ContainsAny(scheme, "/?#") {
		s = "http://" + s
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", usageError(err.Error())
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return "", usageError(fmt.Sprintf("%s: the scheme %q is neither http nor https", s, u.Scheme))
	case u.Hostname() == "":
		return "", usageError(s + ": the host is missing")
	}
	return s, nil
}

func runGet(ctx context.Context, t terminal, l *linkFlags, url, out string, dns []netip.AddrPort) error {
	l.dns = dns
	file, err := createOutput(out)
	if err != nil {
		return err
	}
	begun := false
	err = l.use(ctx, t, func(ctx context.Context, n *network) error {
		if n.peer != nil {
			// On a wire in memory there is no other server, so the second host runs one.
			ln, err := n.peer.Listen("tcp", ":80")
			if err != nil {
				return err
			}
			content := site.Site{Host: n.peer, Addr: n.gate.four.Addr(), Addr6: n.gate.six.Addr(), Link: "a wire in memory"}
			srv := content.Server(nil)
			go srv.Serve(ln)
			defer srv.Close()
		}
		begun = true
		return fetch(ctx, t.out, n.host, url, file)
	})
	if !begun {
		file.discard()
	}
	return err
}

// fetch gets the URL and writes the body to file or, if file is nil, to w. It closes file.
func fetch(ctx context.Context, w io.Writer, h *usernet.Host, url string, file *output) (err error) {
	begun := false
	defer func() {
		if !begun {
			file.discard()
		} else if cerr := file.Close(); err == nil {
			err = cerr
		}
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DialContext: h.DialContext}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	if file != nil {
		begun = true
		if err := file.begin(); err != nil {
			return err
		}
		w = file
	}
	n, err := io.Copy(w, resp.Body)
	if err != nil {
		return fmt.Errorf("%s: after %d bytes: %w", url, n, err)
	}
	return nil
}
