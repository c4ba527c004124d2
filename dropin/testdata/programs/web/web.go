// Package web is a server and a client of HTTP and of net/rpc.
package web

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/rpc"
	"strings"
	"time"
)

// Upper is a service of net/rpc.
type Upper struct{}

// Do is its method.
func (Upper) Do(in string, out *string) error {
	*out = strings.ToUpper(in)
	return nil
}

// Run writes the results of its calls to w.
func Run(w io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			addr := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
			host, _, err := net.SplitHostPort(r.RemoteAddr)
			fmt.Fprintln(w, "you are", host, err, "and I am", addr.IP, r.Context().Value(Upper{}))
			io.Copy(w, r.Body)
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			_, ok := c.(*net.TCPConn)
			return context.WithValue(ctx, Upper{}, ok)
		},
	}
	go server.Serve(ln)
	defer server.Close()
	transport := &http.Transport{DialContext: (&net.Dialer{Timeout: time.Minute, KeepAlive: time.Minute}).DialContext}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	for range 2 {
		trace := &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { fmt.Fprintln(w, "reused:", info.Reused) }}
		ctx := httptrace.WithClientTrace(context.Background(), trace)
		req, err := http.NewRequestWithContext(ctx, "POST", "http://"+ln.Addr().String(), strings.NewReader("a body"))
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Fprintln(w, resp.Status, string(body), err)
	}

	calls, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer calls.Close()
	services := rpc.NewServer()
	if err := services.Register(Upper{}); err != nil {
		return err
	}
	go services.Accept(calls)
	c, err := net.DialTCP("tcp", nil, calls.Addr().(*net.TCPAddr))
	if err != nil {
		return err
	}
	caller := rpc.NewClient(c)
	defer caller.Close()
	var out string
	err = caller.Call("Upper.Do", "in", &out)
	fmt.Fprintln(w, out, err)
	return nil
}
