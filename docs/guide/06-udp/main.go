// The program serves the echo protocol over UDP, and has a client that copes with lost datagrams.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	lossy := lab.Slow(left, nic.Impairment{Latency: 30 * time.Millisecond, Loss: 0.3}, 7)
	client := lab.Host(lab.Show(lab.Capture(lossy), "udp"), 1, "192.0.2.1/24")
	server := lab.Host(right, 2, "192.0.2.2/24")
	defer client.Close()
	defer server.Close()

	pc := lab.Must(server.ListenPacket("udp", ":7"))
	go serve(pc)
	defer pc.Close()

	c := lab.Must(client.Dial("udp", "192.0.2.2:7"))
	defer c.Close()
	for _, word := range []string{"one", "two", "three", "four"} {
		fmt.Println(ask(c, word))
	}
}

// serve sends each datagram back to its sender (RFC 862).
//
//guide:begin serve
func serve(pc net.PacketConn) {
	buf := make([]byte, 65535)
	for {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return // closed
		}
		pc.WriteTo(buf[:n], from)
	}
}

//guide:end

// ask sends a word until the echo arrives.
//
//guide:begin ask
func ask(c net.Conn, word string) string {
	buf := make([]byte, 100)
	for try := 1; try <= 10; try++ {
		lab.Must(c.Write([]byte(word)))
		c.SetReadDeadline(time.Now().Add(time.Second))
		n, err := c.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		lab.Check(err)
		return fmt.Sprintf("%s, at try %d", buf[:n], try)
	}
	return "no answer to " + word
}

//guide:end
