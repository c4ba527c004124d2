package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
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

// handler returns the handler for the web site and its token, or nil if -inspect is false.
func (f *inspectFlags) handler(h *usernet.Host) (http.Handler, string) {
	if !f.on {
		return nil, ""
	}
	token := inspect.NewToken()
	return inspect.NewHandler(h, inspect.Config{Token: token}), token
}

// listenSocket serves the inspector on the Unix socket of -inspect-socket, until the caller calls end. Only the user who
// runs the program can connect. Without the flag, listenSocket does nothing.
func (f *inspectFlags) listenSocket(h *usernet.Host) (end func(), err error) {
	if f.socket == "" {
		return func() {}, nil
	}
	ln, remove, err := listenPrivate(f.socket)
	if err != nil {
		return nil, fmt.Errorf("-inspect-socket: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle(site.InspectPath, inspect.NewHandler(h, inspect.Config{AllowAbort: true}))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(ln)
	return func() {
		srv.Close()
		remove()
	}, nil
}

// listenPrivate listens on a Unix socket of mode 0600. It replaces the socket of a program that has died, and no other
// file. The caller calls remove after it has closed ln.
func listenPrivate(name string) (ln net.Listener, remove func(), err error) {
	// Between Listen and Chmod, the socket has the mode of the umask, so it is made in a directory of mode 0700.
	dir, err := os.MkdirTemp(filepath.Dir(name), ".u")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	made := filepath.Join(dir, "s")
	ln, err = net.Listen("unix", made)
	if err != nil {
		return nil, nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	err = os.Chmod(made, 0o600)
	if err == nil {
		err = removeDead(name)
	}
	if err == nil {
		err = os.Link(made, name) // unlike Rename, it replaces nothing
		if err != nil && !errors.Is(err, os.ErrExist) {
			err = os.Rename(made, name) // the file system has no hard links
		}
	}
	if err != nil {
		ln.Close()
		return nil, nil, err
	}
	ours, _ := os.Lstat(name)
	return ln, func() {
		if st, err := os.Lstat(name); err == nil && os.SameFile(st, ours) {
			os.Remove(name)
		}
	}, nil
}

// removeDead removes the Unix socket of a program that has died. It returns an error if there is another file.
func removeDead(name string) error {
	st, err := os.Lstat(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s exists and is not a Unix socket", name)
	}
	c, err := net.Dial("unix", name)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s: another program uses it", name)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(name)
}
