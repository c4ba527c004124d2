package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"syscall"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/site"
)

// inspectFlags are the flags of the commands that show their host in a browser.
type inspectFlags struct {
	on     bool
	socket string // path of a Unix socket; may be empty
}

func (f *inspectFlags) define(fs *flag.FlagSet) {
	fs.BoolVar(&f.on, "inspect", true, "show the host at "+site.InspectPath+"; the URL has a token, and is printed")
	fs.StringVar(&f.socket, "inspect-socket", "", "show the host on a Unix socket at `path`, too, for usernet ss and usernet top")
}

// handler returns the handler for the web site and its token, or nil if there is to be none.
func (f *inspectFlags) handler(h *usernet.Host) (http.Handler, string) {
	if !f.on {
		return nil, ""
	}
	token := inspect.NewToken()
	return inspect.NewHandler(h, inspect.Config{Token: token}), token
}

// listenSocket serves the inspector on the Unix socket, if there is to be one. Only the user of the program can connect.
// The caller calls end.
func (f *inspectFlags) listenSocket(h *usernet.Host) (end func(), err error) {
	if f.socket == "" {
		return func() {}, nil
	}
	ln, err := net.Listen("unix", f.socket)
	if errors.Is(err, syscall.EADDRINUSE) {
		// The file may be that of a program that has died.
		c, derr := net.Dial("unix", f.socket)
		if derr == nil {
			c.Close()
			return nil, fmt.Errorf("-inspect-socket %s: another program uses it", f.socket)
		}
		if st, serr := os.Stat(f.socket); serr == nil && st.Mode()&os.ModeSocket != 0 {
			os.Remove(f.socket)
			ln, err = net.Listen("unix", f.socket)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("-inspect-socket: %w", err)
	}
	if err := os.Chmod(f.socket, 0o600); err != nil {
		ln.Close()
		return nil, fmt.Errorf("-inspect-socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(site.InspectPath, inspect.NewHandler(h, inspect.Config{AllowAbort: true}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(ln)
	return func() { srv.Close() }, nil
}
