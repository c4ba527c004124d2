// The command usernet-wg is a web server inside a WireGuard interface. It runs net/http on usernet's TCP/IP stack, so
// it needs no kernel device and no root privileges. It serves the start page of usernet serve, or the files of a
// directory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/site"
	"github.com/usernet/usernet/wireguard"
)

const usage = `Usage: usernet-wg [-listen :80] [-v] FILE [DIR]

A web server inside a WireGuard interface, with the files of DIR and a start page. FILE has the form of
wg-quick(8), for example:

  [Interface]
  PrivateKey = ...
  Address = 192.0.2.2/24, 2001:db8::2/64
  ListenPort = 51820
  [Peer]
  PublicKey = ...
  AllowedIPs = 192.0.2.1/32, 2001:db8::1/128

Without a ListenPort, a peer has to have an Endpoint, and a PersistentKeepalive so that it learns ours.

`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal shuts the program down. A second one kills it.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the command line and returns the exit code: 1 for a failure, 2 for a wrong command line.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	fs := flag.NewFlagSet("usernet-wg", flag.ContinueOnError)
	fs.SetOutput(errs)
	listen := fs.String("listen", ":80", "`address` to listen on")
	verbose := fs.Bool("v", false, "log the handshakes")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	case fs.NArg() < 1 || fs.NArg() > 2:
		fs.Usage()
		return 2
	}
	level := slog.LevelInfo
	if *verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(errs, &slog.HandlerOptions{Level: level}))
	if err := serve(ctx, fs.Arg(0), *listen, fs.Arg(1), out, log); err != nil {
		fmt.Fprintf(errs, "usernet-wg: %v\n", err)
		return 1
	}
	return 0
}

// readConfig reads a file in the form of wg-quick.
func readConfig(name string) (wireguard.Config, error) {
	f, err := os.Open(name)
	if err != nil {
		return wireguard.Config{}, err
	}
	defer f.Close()
	cfg, err := wireguard.ParseConfig(f)
	if err == nil && len(cfg.Addresses) == 0 {
		err = errors.New("there is no Address")
	}
	if err != nil {
		return wireguard.Config{}, fmt.Errorf("%s: %w", name, err)
	}
	return cfg, nil
}

// serve runs the web server until ctx ends, the interface fails or the server fails.
func serve(ctx context.Context, file, listen, dir string, out io.Writer, log *slog.Logger) error {
	cfg, err := readConfig(file)
	if err != nil {
		return err
	}
	if dir != "" {
		if st, err := os.Stat(dir); err != nil {
			return err
		} else if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
	}
	wg, err := wireguard.OpenWith(ctx, cfg, wireguard.Options{Logger: log, Host: usernet.Config{Logger: log}})
	if err != nil {
		return err
	}
	defer wg.Close()
	ln, err := wg.Listen("tcp", listen)
	if err != nil {
		return err
	}
	content := site.Site{Host: wg.Host, Link: "a WireGuard interface", Dir: dir}
	for _, p := range cfg.Addresses {
		if a := p.Addr(); !content.Addr.IsValid() || a.Is4() && !content.Addr.Is4() {
			content.Addr = a
		}
		if a := p.Addr(); a.Is6() && !content.Addr6.IsValid() {
			content.Addr6 = a
		}
	}
	srv := content.Server(log)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	fmt.Fprintf(out, "serving on %s (Ctrl-C ends)\n", urls(ln.Addr().(*net.TCPAddr), cfg.Addresses))
	select {
	case err := <-served:
		return err
	case <-wg.Done():
		srv.Close()
		return fmt.Errorf("the interface has failed: %w", wg.Err())
	case <-ctx.Done():
		return site.Shutdown(srv, log)
	}
}

// urls returns the URLs of a server. at is the address of its listener. If at is unspecified, the server has a URL
// for each address in addrs.
func urls(at *net.TCPAddr, addrs []netip.Prefix) (list string) {
	if ip := at.AddrPort().Addr().Unmap(); !ip.IsUnspecified() {
		addrs = []netip.Prefix{netip.PrefixFrom(ip, ip.BitLen())}
	}
	for _, p := range addrs {
		host := net.JoinHostPort(p.Addr().String(), strconv.Itoa(at.Port))
		if at.Port == 80 {
			host = host[:len(host)-len(":80")]
		}
		if list != "" {
			list += " and "
		}
		list += "http://" + host + "/"
	}
	return list
}
