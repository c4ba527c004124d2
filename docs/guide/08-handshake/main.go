// The program opens and closes a TCP connection step by step and prints the segments and the states of both ends.
package main

import (
	"fmt"
	"io"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	slow := lab.Slow(left, nic.Impairment{Latency: 10 * time.Millisecond}, 1)
	a := lab.Host(lab.Show(lab.Capture(slow), "tcp"), 1, "192.0.2.1/24")
	b := lab.Host(right, 2, "192.0.2.2/24")
	defer a.Close()
	defer b.Close()
	//guide:begin step
	step := func(what string) {
		time.Sleep(50 * time.Millisecond) // until the segments have arrived
		fmt.Printf("%s: a has %s, b has %s\n", what, states(a), states(b))
	}
	//guide:end

	//guide:begin open
	ln := lab.Must(b.Listen("tcp", ":80"))
	client := lab.Must(a.Dial("tcp", "192.0.2.2:80")).(*usernet.TCPConn)
	server := lab.Must(ln.Accept()).(*usernet.TCPConn)
	step("after the handshake")
	//guide:end

	//guide:begin half
	fmt.Fprint(client, "a question")
	lab.Check(client.CloseWrite())
	step("a has closed its half")

	question := lab.Must(io.ReadAll(server))
	fmt.Fprintf(server, "an answer to %q", question)
	lab.Check(server.Close())
	step("b has closed")
	fmt.Printf("a reads: %s\n", lab.Must(io.ReadAll(client)))
	//guide:end

	//guide:begin timewait
	client.Close()
	ln.Close()
	time.Sleep(time.Minute)
	step("a minute later")
	//guide:end

	//guide:begin reset
	_, err := a.Dial("tcp", "192.0.2.2:80")
	fmt.Println(err)
	//guide:end
}

// states returns the states of a host's connections.
//
//guide:begin states
func states(h *usernet.Host) string {
	s := ""
	for c := range h.Conns() {
		s += c.State.String() + " "
	}
	if s == "" {
		return "nothing"
	}
	return s[:len(s)-1]
}

//guide:end
