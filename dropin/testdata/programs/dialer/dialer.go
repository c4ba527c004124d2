// Package dialer uses net's structs with settings.
package dialer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// A limited listener wraps a listener, as that of golang.org/x/net/netutil does, and counts the calls of Accept.
type limited struct {
	net.Listener
	n int
}

func (l *limited) Accept() (net.Conn, error) {
	l.n++
	return l.Listener.Accept()
}

// dial is a function type that many structs have as a field, for example http.Transport.
type dial func(ctx context.Context, network, address string) (net.Conn, error)

// Run writes the results of its calls to w.
func Run(w io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	lc := net.ListenConfig{KeepAlive: -1, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Hour}}
	inner, err := lc.Listen(ctx, "tcp4", ":0")
	if err != nil {
		return err
	}
	ln := &limited{Listener: inner}
	defer ln.Close()
	fmt.Fprintln(w, "all addresses:", ln.Addr().(*net.TCPAddr).IP.IsUnspecified())
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return err
	}

	var d dial = (&net.Dialer{
		Timeout:       30 * time.Second,
		KeepAlive:     30 * time.Second,
		FallbackDelay: -1,
		LocalAddr:     &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)},
		Resolver:      &net.Resolver{PreferGo: true},
	}).DialContext
	c, err := d(ctx, "tcp", net.JoinHostPort("localhost", port))
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		return err
	}
	defer s.Close()
	fmt.Fprintln(w, "accepted:", ln.n, s.RemoteAddr().String() == c.LocalAddr().String())

	_, err = (&net.Dialer{LocalAddr: &net.UDPAddr{}}).Dial("tcp", ln.Addr().String())
	fmt.Fprintln(w, "local address:", err.(*net.OpError).Err.(*net.AddrError).Err)
	_, err = net.Dial("tcp", "127.0.0.1")
	fmt.Fprintln(w, "no port:", err)
	_, err = net.Dial("pigeon", "127.0.0.1:1")
	fmt.Fprintln(w, "no network:", err)
	_, err = net.Listen("udp", "127.0.0.1:0")
	fmt.Fprintln(w, "no listener:", err.(*net.OpError).Err)
	cancel()
	_, err = d(ctx, "tcp", ln.Addr().String())
	fmt.Fprintln(w, "canceled:", errors.Is(err, context.Canceled), errors.Unwrap(err))
	return nil
}
