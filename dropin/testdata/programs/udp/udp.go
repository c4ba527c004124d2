// Package udp sends datagrams.
package udp

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// Run writes the results of its calls to w.
func Run(w io.Writer) error {
	server, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP("127.0.0.1")})
	if err != nil {
		return err
	}
	defer server.Close()
	client, err := net.DialUDP("udp", nil, server.LocalAddr().(*net.UDPAddr))
	if err != nil {
		return err
	}
	defer client.Close()
	if _, err := client.Write([]byte("one datagram")); err != nil {
		return err
	}
	b := make([]byte, 3)
	n, _, flags, from, err := server.ReadMsgUDP(b, nil)
	fmt.Fprintf(w, "%q %#x %v %v\n", b[:n], flags, from.String() == client.LocalAddr().String(), err)
	if _, err := server.WriteToUDP([]byte("back"), from); err != nil {
		return err
	}
	b = make([]byte, 100)
	n, addr, err := client.ReadFromUDP(b)
	fmt.Fprintf(w, "%q %v %v\n", b[:n], addr.String() == server.LocalAddr().String(), err)
	_, err = client.WriteTo([]byte("x"), addr)
	fmt.Fprintln(w, "connected:", errors.Is(err, net.ErrWriteToConnected))
	_, err = server.WriteToUDP(make([]byte, 1<<17), addr)
	fmt.Fprintln(w, "too long:", errors.Unwrap(err))

	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "before:", pc.SetDeadline(time.Now().Add(-time.Second)))
	_, _, err = pc.ReadFrom(b)
	fmt.Fprintln(w, "late:", err.(net.Error).Timeout())
	nobody := pc.LocalAddr().(*net.UDPAddr)
	pc.Close()
	_, _, err = pc.ReadFrom(b)
	fmt.Fprintln(w, "closed:", errors.Is(err, net.ErrClosed))

	c, err := net.Dial("udp", nobody.String())
	if err != nil {
		return err
	}
	defer c.Close()
	c.Write([]byte("anybody?"))
	_, err = c.Read(b)
	fmt.Fprintln(w, "nobody:", errors.Unwrap(err))
	return nil
}
