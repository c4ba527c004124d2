package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/usernet/usernet/internal/site"
)

func serveCommand() command {
	return command{
		name: "serve",
		args: "[DIR]",
		what: "a web server: net/http on this stack, with the files of DIR and a start page",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var listen string
			var show inspectFlags
			var drops dropFlags
			l.define(fs)
			drops.define(fs)
			l.defineAuto(fs)
			show.define(fs)
			fs.StringVar(&listen, "listen", ":80", "`address` to listen on")
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) > 1 {
					return usageError(fmt.Sprintf("unexpected argument %q", args[1]))
				}
				dir := ""
				if len(args) == 1 {
					dir = args[0]
				}
				at, err := parseListen(listen, isSet(fs, "listen"))
				if err == nil {
					err = l.checkFlags()
				}
				if err != nil {
					return err
				}
				return runServe(ctx, t, &l, &show, &drops, at, dir)
			}
		},
		more: `If there can be no TAP device, the server runs on a wire in memory, and a port of
127.0.0.1 is forwarded to it: the port of -listen, or the first free one from 8080 on.

Examples:
  usernet serve                                the start page
  usernet serve ~/www                          files of your own
  usernet serve -listen :8080 -tap tap0        on a device of your own
  usernet serve -auto -tap tap0                with the addresses that the network on tap0 gives
  usernet serve -vlan 100 -tap tap0            with VLAN tags on the device
  usernet serve -tun tun0                      on a TUN device, without Ethernet
  usernet serve -ppp /dev/ttyS0                on a serial line, with the address that the peer assigns
  usernet serve -pppoe eth0 -user joe -password FILE
  usernet serve -wire                          without a TAP, and so without root
  usernet serve -i eth0 -auto                  on an interface that the kernel uses too
  usernet serve -vde /run/vde.ctl              on a port of a vde_switch
  usernet serve -stream unix:/tmp/passt.sock -addr 192.168.69.2/24
                                               as the guest of passt
  usernet serve -stream listen:unix:/run/vm    for a virtual machine: qemu -netdev
                                               stream,id=n,addr.type=unix,addr.path=/run/vm
  usernet serve -pcap trace.pcapng -v          with a capture and a trace
  usernet serve -drops                         with each dropped packet, and why
  usernet serve -inspect-socket /tmp/un.sock   with a socket for usernet ss and usernet top
`,
	}
}

func runServe(ctx context.Context, t terminal, l *linkFlags, show *inspectFlags, drops *dropFlags, listen listenFlag, dir string) error {
	if dir != "" {
		if st, err := os.Stat(dir); err != nil {
			return err
		} else if !st.IsDir() {
			return fmt.Errorf("%s is not a directory", dir)
		}
	}
	l.check = func(p plans) error { return listen.check(p, l.wire) }
	log := l.newLog(t, slog.LevelInfo)
	open := l.openOrWire
	if l.assigned() {
		open = l.open
	}
	n, err := open(t, log)
	if err != nil {
		return err
	}
	endDrops, err := drops.print(n.host, t.err)
	if err != nil {
		n.Close()
		return err
	}
	defer endDrops()
	if err = n.awaitAddrs(ctx, l); err == nil {
		err = n.serve(ctx, t, show, listen, dir)
	} else if ctx.Err() != nil {
		err = nil // Ctrl-C
	}
	if cerr := n.Close(); err == nil {
		err = cerr
	}
	return err
}

// serve runs the web server until ctx ends or the link fails.
func (n *network) serve(ctx context.Context, t terminal, show *inspectFlags, listen listenFlag, dir string) error {
	ln, err := n.host.Listen("tcp", listen.inner())
	if err != nil {
		return err
	}
	at := ln.Addr().(*net.TCPAddr)
	url := n.url(n.listenAddr(at), at.Port)
	content := site.Site{Host: n.host, Addr: n.addr, Addr6: n.six, Link: "the " + n.kind + " " + n.link, Dir: dir}
	if n.peer != nil {
		content.Link, content.Bridged = "a wire in memory", true
		outer, err := listen.outer(n.log)
		if err != nil {
			ln.Close()
			return err
		}
		to := net.JoinHostPort(n.listenAddr(at).String(), strconv.Itoa(at.Port))
		br := newBridge(outer, n.log, func(ctx context.Context) (net.Conn, error) {
			return n.peer.DialContext(ctx, "tcp", to)
		})
		defer br.Close()
		url = "http://" + outer.Addr().String() + "/"
	}
	endSocket, err := show.listenSocket(n.host)
	if err != nil {
		ln.Close()
		return err
	}
	defer endSocket()
	var token string
	content.Inspect, token = show.handler(n.host)
	srv := content.Server(n.log)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	and := ""
	if n.peer == nil && at.IP.IsUnspecified() && n.six.IsValid() {
		and = " and " + n.url(n.six, at.Port)
	}
	fmt.Fprintf(t.out, "serving on %s%s (Ctrl-C ends)\n", url, and)
	if dir != "" {
		fmt.Fprintf(t.out, "status page: %s\n", url+site.PagePath[1:])
	}
	if token != "" {
		fmt.Fprintf(t.out, "inspector: %s%s?token=%s\n", url, site.InspectPath[1:], token)
	}
	select {
	case err := <-served:
		return err
	case err := <-n.down:
		srv.Close()
		return fmt.Errorf("the link has failed: %w", err)
	case <-ctx.Done():
	}
	return site.Shutdown(srv, n.log)
}

// listenAddr returns the address at which a listener of our host, bound to a, can be reached.
func (n *network) listenAddr(a *net.TCPAddr) netip.Addr {
	if ip := a.AddrPort().Addr().Unmap(); ip.IsValid() && !ip.IsUnspecified() {
		return ip
	}
	return n.addr
}

// url returns the URL to open in a browser.
func (n *network) url(addr netip.Addr, port int) string {
	host := addr.String()
	switch {
	case port != 80:
		host = net.JoinHostPort(host, strconv.Itoa(port))
	case addr.Is6():
		host = "[" + host + "]"
	}
	return "http://" + host + "/"
}

// bridgePort is the first port of the kernel's loopback that serve tries if the user gave no port.
const bridgePort = 8080
