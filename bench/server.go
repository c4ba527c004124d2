package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// A network has the functions of a stack that a workload uses. All stacks run the same workload code.
type network struct {
	dial         func(network, address string) (net.Conn, error)
	listen       func(network, address string) (net.Listener, error)
	listenPacket func(network, address string) (net.PacketConn, error)
	close        func()
}

// startServer starts the server of a workload and returns when it can be reached.
func startServer(n *network, t *task) error {
	k, addr := t.Kind, fmt.Sprintf(":%d", t.Port)
	n, err := wrapped(n, t)
	if err != nil {
		return err
	}
	switch k {
	case udpBulk:
		return startDatagramSink(n, t)
	case udpEcho, names:
		pc, err := n.listenPacket(t.network("udp"), addr)
		if err != nil {
			return err
		}
		if k == names {
			go serveNames(pc)
		} else {
			go echoDatagrams(pc)
		}
		return nil
	}
	ln, err := n.listen(t.network("tcp"), addr)
	if err != nil {
		return err
	}
	switch k {
	case send:
		go accept(ln, func(c net.Conn) { sink(c, t.Setup.Chunk) })
	case flow:
		go accept(ln, func(c net.Conn) { count(c, t.Setup.Chunk, t.arrived) })
	case recv:
		go accept(ln, func(c net.Conn) { source(c, t.Setup.Chunk) })
	case pingpong:
		go accept(ln, echo)
	case short:
		go accept(ln, echoOnce)
	case files:
		f, err := newMemoryFile(int64(t.Size))
		if err != nil {
			return err
		}
		go http.Serve(ln, f)
	case wrkHTTP, goHTTP:
		go http.Serve(ln, http.HandlerFunc(hello))
	case h2:
		return startH2(ln, http.HandlerFunc(hello))
	case unary:
		startGRPC(ln)
	}
	return nil
}

var greeting = []byte("Hello, World!")

func hello(w http.ResponseWriter, r *http.Request) {
	w.Header()["Content-Type"] = []string{"text/plain"}
	w.Write(greeting)
}

// accept accepts connections and runs serve for each, until the listener is closed or fails. As in
// net/http, a temporary error does not end it: for example, the process may have too many open files.
// The harness also runs with older versions of usernet, so it does not import a package for this.
func accept(ln net.Listener, serve func(net.Conn)) {
	for {
		c, err := ln.Accept()
		if err == nil {
			go serve(c)
			continue
		}
		if e, ok := err.(interface{ Temporary() bool }); !ok || !e.Temporary() {
			return
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		time.Sleep(10 * time.Millisecond)
	}
}

// sink reads until the end of the stream and sends back the number of bytes.
func sink(c net.Conn, chunk int) {
	defer c.Close()
	buf := make([]byte, chunk)
	var total uint64
	for {
		n, err := c.Read(buf)
		total += uint64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return
		}
	}
	c.Write(binary.BigEndian.AppendUint64(nil, total))
}

// count reads until the end of the stream, and adds the bytes to arrived as they arrive.
func count(c net.Conn, chunk int, arrived *atomic.Int64) {
	defer c.Close()
	buf := make([]byte, chunk)
	for {
		n, err := c.Read(buf)
		arrived.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// source writes until the client closes.
func source(c net.Conn, chunk int) {
	defer c.Close()
	buf := make([]byte, chunk)
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func echo(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 1)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func echoOnce(c net.Conn) {
	defer c.Close()
	buf := make([]byte, 1)
	if _, err := c.Read(buf); err == nil {
		c.Write(buf)
	}
}

// addrPortConn is a UDP socket whose calls do not allocate addresses.
type addrPortConn interface {
	ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
}

func echoDatagrams(pc net.PacketConn) {
	buf := make([]byte, 64<<10)
	if c, ok := pc.(addrPortConn); ok {
		for {
			n, addr, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(buf[:n], addr)
		}
	}
	for {
		n, addr, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		pc.WriteTo(buf[:n], addr)
	}
}
