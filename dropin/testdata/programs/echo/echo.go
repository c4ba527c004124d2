// Package echo is a server and a client of TCP.
package echo

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Run writes the results of its calls to w.
func Run(w io.Writer) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				fmt.Fprintln(w, "accept:", errors.Is(err, net.ErrClosed))
				return
			}
			served.Go(func() {
				defer c.Close()
				io.Copy(c, c)
			})
		}
	})
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "same end:", c.RemoteAddr().String() == ln.Addr().String(), c.LocalAddr().(*net.TCPAddr).IP)
	fmt.Fprintln(c, "hello")
	tcp := c.(*net.TCPConn)
	if err := tcp.SetNoDelay(false); err != nil {
		return err
	}
	if err := tcp.CloseWrite(); err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	fmt.Fprintf(w, "answer: %q %v\n", answer, err)
	_, err = c.Write([]byte("more"))
	var op *net.OpError
	fmt.Fprintln(w, "write:", errors.As(err, &op), op.Op, op.Net, op.Err)
	fmt.Fprintln(w, "close:", c.Close(), errors.Is(c.Close(), net.ErrClosed))

	quiet, err := net.DialTimeout("tcp", ln.Addr().String(), time.Minute)
	if err != nil {
		return err
	}
	quiet.SetReadDeadline(time.Now().Add(time.Millisecond))
	_, err = quiet.Read(make([]byte, 1))
	var timeout net.Error
	fmt.Fprintln(w, "read:", errors.As(err, &timeout) && timeout.Timeout(), errors.Unwrap(err))
	quiet.Close()
	closed := ln.Addr().String()
	ln.Close()
	served.Wait()
	_, err = net.Dial("tcp", closed)
	fmt.Fprintln(w, "dial:", errors.Unwrap(err))
	return nil
}
