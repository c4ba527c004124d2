// The program shows how a host finds the link address of its neighbour, by ARP and by Neighbor Discovery.
package main

import (
	"fmt"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
)

func main() { lab.Run(run) }

func run() {
	//guide:begin hosts
	left, right := lab.Wire()
	a := lab.Host(lab.ShowFrames(lab.Capture(left), "not host ff02::16"), 1, "192.0.2.1/24", "2001:db8::1/64")
	b := lab.Host(right, 2, "192.0.2.2/24", "2001:db8::2/64")
	defer a.Close()
	defer b.Close()
	//guide:end

	time.Sleep(5 * time.Second)
	fmt.Println("--- the hosts have started; a sends two datagrams to each address of b")
	//guide:begin send
	pc := lab.Must(b.ListenPacket("udp", ":9"))
	defer pc.Close()
	for _, address := range []string{"192.0.2.2:9", "[2001:db8::2]:9"} {
		c := lab.Must(a.Dial("udp", address))
		fmt.Fprint(c, "one")
		fmt.Fprint(c, "two")
		c.Close()
	}
	//guide:end

	//guide:begin table
	print := func() {
		for _, n := range a.Neighbors() {
			fmt.Printf("%-12v is at %v, %s for %v\n", n.Addr, n.MAC, n.State, n.Age)
		}
	}
	print()
	fmt.Println("--- a minute without a packet")
	time.Sleep(time.Minute)
	print()
	//guide:end
}
