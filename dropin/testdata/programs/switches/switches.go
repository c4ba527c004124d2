// Package switches asks values for their types, as proxies and servers do.
package switches

import (
	"fmt"
	"io"
	"net"
	"syscall"
	"time"
)

func kind(c any) string {
	switch c := c.(type) {
	case *net.TCPConn:
		c.SetKeepAlivePeriod(time.Minute)
		return "TCP"
	case *net.UDPConn:
		c.SetReadBuffer(1 << 20)
		return "UDP"
	case *net.IPConn, *net.UnixConn, *net.UnixListener:
		return "other"
	case *net.TCPListener:
		c.SetDeadline(time.Now().Add(time.Minute))
		return "listener"
	}
	return "unknown"
}

// settings uses the descriptor if there is one.
func settings(c net.Conn) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(uintptr) {})
}

// Run writes the results of its calls to w.
func Run(w io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer pc.Close()
	_, datagrams := pc.(net.Conn)
	_, stream := c.(net.PacketConn)
	_, half := c.(interface{ CloseWrite() error })
	fmt.Fprintln(w, kind(ln), kind(c), kind(pc), datagrams, stream, half, settings(c))
	for _, addr := range []net.Addr{ln.Addr(), pc.LocalAddr(), &net.IPAddr{IP: net.IPv4zero}, &net.UnixAddr{Name: "/a", Net: "unix"}} {
		switch addr := addr.(type) {
		case *net.TCPAddr:
			fmt.Fprintln(w, "TCP", addr.IP, addr.Port > 0)
		case *net.UDPAddr:
			fmt.Fprintln(w, "UDP", addr.IP, addr.Port > 0)
		default:
			fmt.Fprintf(w, "%T %v\n", addr, addr)
		}
	}
	return nil
}
