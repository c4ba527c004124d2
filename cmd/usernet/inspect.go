package main

import (
	"context"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/site"
)

func inspectCommand() command {
	return command{
		name: "inspect",
		args: "FILE",
		what: "shows a recording of a host in a browser",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var listen string
			fs.StringVar(&listen, "listen", "127.0.0.1:0", "`address` of this machine's loopback to listen on")
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) != 1 {
					return usageError("one file is needed")
				}
				a, err := net.ResolveTCPAddr("tcp", listen)
				if err != nil {
					return usageError("-listen: " + err.Error())
				}
				if !a.IP.IsLoopback() {
					return usageError("-listen " + listen + ": only an address of the loopback is possible, such as 127.0.0.1:8080")
				}
				return runInspect(ctx, t, a, args[0])
			}
		},
		more: `The file is one that inspect.Record has written, for example in a test in a
testing/synctest bubble. A running host is shown by usernet serve, and by a program
that mounts inspect.Handler.

Examples:
  usernet inspect run.usernet
  usernet inspect -listen 127.0.0.1:8080 run.usernet
`,
	}
}

func runInspect(ctx context.Context, t terminal, at *net.TCPAddr, name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	h, err := inspect.Open(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	ln, err := net.ListenTCP("tcp", at)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle(site.InspectPath, h)
	mux.Handle("GET /{$}", http.RedirectHandler(site.InspectPath, http.StatusSeeOther))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	fmt.Fprintf(t.out, "showing %s on http://%s%s (Ctrl-C ends)\n", name, ln.Addr(), site.InspectPath)
	if err := srv.Serve(ln); ctx.Err() == nil {
		return err
	}
	return nil
}
