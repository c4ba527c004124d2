// The program asks a server for a word, and tries again if the server does not answer.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
)

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	client := lab.Host(lab.Capture(left), 1, "192.0.2.1/24")
	server := lab.Host(right, 2, "192.0.2.2/24")
	defer client.Close()
	defer server.Close()

	began := time.Now()
	time.AfterFunc(5*time.Second, func() { serve(server, "192.0.2.2:80", "hello") })
	word, err := fetch(context.Background(), client.DialContext, "192.0.2.2:80")
	fmt.Println(word, err, "after", time.Since(began))
}

// errGivenUp is the error of fetch when no try has succeeded.
var errGivenUp = errors.New("given up")

// A dialFunc is the DialContext of a host, or of a net.Dialer.
type dialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// fetch reads what a server sends. It tries five times, with pauses of 1, 2, 4 and 8 seconds between the tries.
//
//guide:begin fetch
func fetch(ctx context.Context, dial dialFunc, address string) (string, error) {
	pause := time.Second
	for try := 1; ; try++ {
		word, err := fetchOnce(ctx, dial, address)
		if err == nil {
			return word, nil
		}
		if try == 5 {
			return "", errors.Join(errGivenUp, err)
		}
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(pause):
			pause *= 2
		}
	}
}

//guide:end

// fetchOnce is one try. It takes at most three seconds.
func fetchOnce(ctx context.Context, dial dialFunc, address string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	c, err := dial(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	c.SetReadDeadline(deadline)
	buf := make([]byte, 100)
	n, err := c.Read(buf)
	return string(buf[:n]), err
}

// A listener makes listeners: a host, or a net.ListenConfig with a small adapter.
type listener interface {
	Listen(network, address string) (net.Listener, error)
}

// serve sends a word to each client.
func serve(l listener, address, word string) error {
	ln, err := l.Listen("tcp", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, word)
			c.Close()
		}
	}()
	return nil
}
