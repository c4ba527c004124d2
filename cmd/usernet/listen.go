package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"github.com/usernet/usernet/resolve"
)

// A listenFlag is the parsed value of -listen.
type listenFlag struct {
	text  string
	addr  netip.Addr // the zero Addr means all our addresses
	port  int
	given bool // whether the command line has the flag
}

// parseListen parses the value of -listen.
func parseListen(s string, given bool) (listenFlag, error) {
	l := listenFlag{text: s, given: given}
	bad := func(format string, args ...any) (listenFlag, error) {
		return l, usageError("-listen " + s + ": " + fmt.Sprintf(format, args...))
	}
	host, service, err := net.SplitHostPort(s)
	if err != nil {
		var addrErr *net.AddrError
		if _, number := strconv.Atoi(s); number == nil {
			return bad("the colon is missing, as in :%s", s)
		} else if errors.As(err, &addrErr) {
			return bad("%s", addrErr.Err)
		}
		return bad("%v", err)
	}
	if l.port, err = resolve.New(resolve.Config{}).LookupPort(context.Background(), "tcp", service); err != nil {
		return bad("%q is no port", service)
	}
	switch {
	case host == "":
		return l, nil
	case strings.EqualFold(host, "localhost"):
		l.addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		return l, nil
	}
	if l.addr, err = netip.ParseAddr(host); err != nil {
		return bad("%q is no address", host)
	}
	if l.addr = l.addr.Unmap(); l.addr.IsUnspecified() {
		l.addr = netip.Addr{}
	}
	return l, nil
}

// check returns an error if a host with the addresses of p cannot listen on l. With a wire in memory, a
// loopback address is valid: serve listens on the kernel's loopback and forwards to the host.
func (l *listenFlag) check(p plans, wire bool) error {
	switch {
	case l.addr.IsLoopback() && !wire:
		return usageError(fmt.Sprintf("-listen %s: the loopback of this stack is not the kernel's: nobody else can reach it; "+
			"-listen :%d is at %v", l.text, l.port, p.four.addr.Addr()))
	case l.addr.IsLoopback(), !l.addr.IsValid(), l.addr == p.four.addr.Addr(), l.addr == p.six.addr.Addr():
		return nil
	}
	ours := p.four.addr.Addr().String()
	if p.six.addr.IsValid() {
		ours += " or " + p.six.addr.Addr().String()
	}
	return usageError(fmt.Sprintf("-listen %s: our address is %s", l.text, ours))
}

// inner returns the address at which the host listens.
func (l *listenFlag) inner() string {
	host := ""
	if l.addr.IsValid() && !l.addr.IsLoopback() {
		host = l.addr.String()
	}
	return net.JoinHostPort(host, strconv.Itoa(l.port))
}

// outer returns the listener of the bridge, on the kernel's loopback. The port is the one that the user
// gave. If the user gave none, or only root may use it, the port is the first free one from 8080 on.
func (l *listenFlag) outer(log *slog.Logger) (net.Listener, error) {
	host := "127.0.0.1"
	if l.addr.IsLoopback() {
		host = l.addr.String()
	}
	if !l.given {
		return listenLoopback(host, bridgePort)
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(l.port)))
	if errors.Is(err, syscall.EACCES) {
		log.Info(fmt.Sprintf("only root may listen on port %d of %s: using another port", l.port, host))
		return listenLoopback(host, bridgePort)
	}
	return ln, err
}
