package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
)

// startH2 serves HTTP/2 over TLS.
func startH2(ln net.Listener, handler http.Handler) error {
	config, err := serverTLS("h2")
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: handler, TLSConfig: config}
	go srv.ServeTLS(ln, "", "")
	return nil
}

// startGRPC serves the health service of gRPC, whose calls are small.
func startGRPC(ln net.Listener) {
	srv := grpc.NewServer()
	grpc_health_v1.RegisterHealthServer(srv, health.NewServer())
	go srv.Serve(ln)
}

// h2 returns a function that sends requests over one connection, which all goroutines share.
func (c *client) h2() func(*counter) error {
	tr := &http.Transport{
		DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
			conn, err := c.dial(c.t.network("tcp"))
			if err != nil {
				return nil, err
			}
			return tls.Client(conn, clientTLS("h2")), nil
		},
		ForceAttemptHTTP2:  true,
		MaxConnsPerHost:    1,
		DisableCompression: true,
	}
	cl := &http.Client{Transport: tr, Timeout: 10 * time.Second}
	return c.repeat(func() error {
		resp, err := cl.Get("https://" + c.addr() + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		n, err := io.Copy(io.Discard, resp.Body)
		if err == nil && (n != 13 || resp.ProtoMajor != 2) { // len("Hello, World!")
			err = fmt.Errorf("a body of %d bytes over %s", n, resp.Proto)
		}
		return err
	})
}

// unary returns a function that makes calls over one connection, which all goroutines share.
func (c *client) unary() (func(*counter) error, error) {
	conn, err := grpc.NewClient("passthrough:///"+c.addr(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return c.dial(c.t.network("tcp")) }))
	if err != nil {
		return nil, err
	}
	stub := grpc_health_v1.NewHealthClient(conn)
	return c.repeat(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		resp, err := stub.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
		if err == nil && resp.Status != grpc_health_v1.HealthCheckResponse_SERVING {
			err = fmt.Errorf("the status %v", resp.Status)
		}
		return err
	}), nil
}

// repeat returns a function that calls op until the run ends and counts its successes. All goroutines have called op
// once when the run begins.
func (c *client) repeat(op func() error) func(*counter) error {
	return func(count *counter) error {
		if err := op(); err != nil {
			return err
		}
		c.connected <- struct{}{}
		<-c.begin
		for !c.stop.Load() {
			if err := op(); err != nil {
				if c.stop.Load() {
					return nil
				}
				c.fail(err)
				time.Sleep(time.Millisecond)
				continue
			}
			count.Add(1)
		}
		return nil
	}
}
