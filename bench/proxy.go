package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"time"
)

// startProxy starts the proxy of a task between a client on front and the server at t.Addr on back. The kernel's
// loopback, which is back or, if t.Client is set, front, uses IPv4.
func startProxy(front, back *network, t *task) error {
	frontTCP, backTCP := t.network("tcp"), "tcp4"
	if t.Client {
		frontTCP, backTCP = "tcp4", t.network("tcp")
	}
	ln, err := front.listen(frontTCP, fmt.Sprintf(":%d", t.Port))
	if err != nil {
		return err
	}
	dial := func() (net.Conn, error) { return back.dial(backTCP, t.Addr) }
	switch t.Proxy {
	case tcpProxy:
		go accept(ln, func(c net.Conn) { relay(c, dial) })
	case httpProxy:
		p := &httputil.ReverseProxy{
			Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: t.Addr}) },
			Transport: &http.Transport{
				DialContext:         func(context.Context, string, string) (net.Conn, error) { return dial() },
				MaxIdleConns:        t.N,
				MaxIdleConnsPerHost: t.N,
				DisableCompression:  true,
			},
		}
		go http.Serve(ln, p)
	default:
		return fmt.Errorf("no proxy %q", t.Proxy)
	}
	return nil
}

// relay copies between a connection and a new one, in both directions, until both have ended.
func relay(c net.Conn, dial func() (net.Conn, error)) {
	defer c.Close()
	d, err := dial()
	if err != nil {
		return
	}
	defer d.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		half(c, d)
	}()
	half(d, c)
	<-done
}

// half copies one direction: from src to dst until the end of src, which it passes on with CloseWrite. After an error it
// makes the calls of the other direction fail, too.
func half(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.SetDeadline(time.Now())
		src.SetDeadline(time.Now())
		return
	}
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}
