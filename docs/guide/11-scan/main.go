// The program scans the TCP and UDP ports of a host.
package main

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/stack/wire"
)

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	//guide:begin firewall
	firewall := lab.Drop(lab.Capture(left), func(frame []byte) bool {
		ip, segment, _ := wire.ParseIPv4(frame[wire.EthernetLen:])
		h, _, _ := wire.ParseTCP(segment)
		return ip.Proto == wire.ProtoTCP && h.DstPort == 23
	})
	//guide:end
	scanner := lab.Host(firewall, 1, "192.0.2.1/24")
	target := lab.Host(right, 2, "192.0.2.2/24")
	defer scanner.Close()
	defer target.Close()

	//guide:begin target
	for _, port := range []string{":22", ":80", ":443"} {
		ln := lab.Must(target.Listen("tcp", port))
		defer ln.Close()
	}
	echo := lab.Must(target.ListenPacket("udp", ":7"))
	defer echo.Close()
	go func() {
		buf := make([]byte, 100)
		for {
			n, from, err := echo.ReadFrom(buf)
			if err != nil {
				return
			}
			echo.WriteTo(buf[:n], from)
		}
	}()
	silent := lab.Must(target.ListenPacket("udp", ":514"))
	defer silent.Close()
	//guide:end

	for _, port := range []int{22, 23, 25, 80, 443} {
		fmt.Printf("tcp/%-4d %s\n", port, scanTCP(scanner, "192.0.2.2", port))
	}
	for _, port := range []int{7, 53, 514} {
		fmt.Printf("udp/%-4d %s\n", port, scanUDP(scanner, "192.0.2.2", port))
	}
}

// scanTCP tries to connect to a port.
//
//guide:begin tcp
func scanTCP(h *usernet.Host, addr string, port int) string {
	c, err := h.DialTimeout("tcp", net.JoinHostPort(addr, fmt.Sprint(port)), 2*time.Second)
	switch {
	case err == nil:
		c.Close()
		return "open" // a SYN,ACK arrived
	case errors.Is(err, syscall.ECONNREFUSED):
		return "closed" // a RST arrived
	case timedOut(err):
		return "filtered" // nothing arrived
	}
	return err.Error()
}

//guide:end

// scanUDP sends a datagram to a port.
//
//guide:begin udp
func scanUDP(h *usernet.Host, addr string, port int) string {
	c := lab.Must(h.Dial("udp", net.JoinHostPort(addr, fmt.Sprint(port))))
	defer c.Close()
	lab.Must(c.Write([]byte("anybody there?")))
	c.SetReadDeadline(time.Now().Add(2 * time.Second))
	_, err := c.Read(make([]byte, 100))
	switch {
	case err == nil:
		return "open" // an answer arrived
	case errors.Is(err, syscall.ECONNREFUSED):
		return "closed" // an ICMP port unreachable arrived
	case timedOut(err):
		return "open or filtered" // nothing arrived
	}
	return err.Error()
}

//guide:end

// timedOut reports whether an error says that time ran out.
func timedOut(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
