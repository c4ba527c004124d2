package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"syscall"
)

// A bridge lets a browser reach a server on the wire in memory. It listens on a loopback address of
// the kernel and forwards each connection over a new connection on the wire.
type bridge struct {
	ln   net.Listener
	dial func(context.Context) (net.Conn, error) // makes a connection on the wire
	log  *slog.Logger
	stop context.CancelFunc // cancels the dials

	mu     sync.Mutex
	conns  map[net.Conn]bool // the open connections of both sides
	closed bool
	done   sync.WaitGroup
}

// bridgePorts is how many successive ports listenLoopback tries.
const bridgePorts = 100

// listenLoopback listens on a loopback address, on port or the first free port after it.
func listenLoopback(host string, port int) (net.Listener, error) {
	var first error
	for p := port; p < port+bridgePorts; p++ {
		ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(p)))
		if err == nil {
			return ln, nil
		}
		if first == nil {
			first = err
		}
		if !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
	}
	return nil, first
}

func newBridge(ln net.Listener, log *slog.Logger, dial func(context.Context) (net.Conn, error)) *bridge {
	ctx, stop := context.WithCancel(context.Background())
	b := &bridge{ln: ln, dial: dial, log: log, stop: stop, conns: make(map[net.Conn]bool)}
	b.done.Go(func() { b.accept(ctx) })
	return b
}

func (b *bridge) accept(ctx context.Context) {
	acceptAll(ctx, b.ln, b.log, func(c net.Conn) {
		b.done.Go(func() { b.serve(ctx, c) })
	})
}

// serve forwards data between outer and a new connection on the wire, until both directions have
// ended. When one direction ends, serve forwards the end of the stream, and the other direction
// continues.
func (b *bridge) serve(ctx context.Context, outer net.Conn) {
	if !b.add(outer) {
		return
	}
	defer b.remove(outer)
	inner, err := b.dial(ctx)
	if err != nil {
		b.log.Warn("bridge", "err", err)
		reset(outer)
		return
	}
	if !b.add(inner) {
		return
	}
	defer b.remove(inner)
	var out sync.WaitGroup
	out.Go(func() { forward(outer, inner) })
	forward(inner, outer)
	out.Wait()
}

// forward copies the data of src to dst. When src ends, forward closes the write side of dst. On an error
// it resets both connections.
func forward(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if err != nil {
		// One connection has failed. A reset shows both peers that the data they received is incomplete.
		reset(dst)
		reset(src)
		return
	}
	if c, ok := dst.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	}
}

// reset closes a connection with a reset, so that its peer sees an error instead of the end of the
// stream.
func reset(c net.Conn) {
	if c, ok := c.(interface{ SetLinger(int) error }); ok {
		c.SetLinger(0)
	}
	c.Close()
}

func (b *bridge) add(c net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		c.Close()
		return false
	}
	b.conns[c] = true
	return true
}

func (b *bridge) remove(c net.Conn) {
	b.mu.Lock()
	delete(b.conns, c)
	b.mu.Unlock()
	c.Close()
}

// Close closes the bridge and its connections.
func (b *bridge) Close() {
	b.ln.Close()
	b.stop()
	b.mu.Lock()
	b.closed = true
	for c := range b.conns {
		c.Close()
	}
	b.mu.Unlock()
	b.done.Wait()
}
