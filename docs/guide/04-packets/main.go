// The program shows the headers of IPv4 and IPv6, and how a large datagram is sent in fragments.
package main

import (
	"encoding/hex"
	"fmt"
	"time"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/stack/wire"
)

func main() { lab.Run(run) }

func run() {
	left, right := lab.Wire()
	a := lab.Host(lab.Frames(lab.Capture(left), "udp", show), 1, "192.0.2.1/24", "2001:db8::1/64")
	b := lab.Host(right, 2, "192.0.2.2/24", "2001:db8::2/64")
	defer a.Close()
	defer b.Close()

	//guide:begin send
	pc := lab.Must(b.ListenPacket("udp", ":9"))
	defer pc.Close()
	for _, address := range []string{"192.0.2.2:9", "[2001:db8::2]:9"} {
		c := lab.Must(a.Dial("udp", address))
		for _, size := range []int{5, 3000} {
			fmt.Printf("%d bytes to %s\n", size, address)
			lab.Must(c.Write(make([]byte, size)))
			buf := make([]byte, 4000)
			n, _, err := pc.ReadFrom(buf)
			lab.Check(err)
			fmt.Printf("  received: %d bytes\n", n)
		}
		c.Close()
	}
	//guide:end
}

// show prints what is in the IP header of a frame.
//
//guide:begin show
func show(_ time.Duration, frame []byte) {
	packet := frame[wire.EthernetLen:]
	if wire.Version(packet) == 4 {
		h, payload, _ := wire.ParseIPv4(packet)
		fmt.Printf("  IPv4 id=%d ttl=%d DF=%t MF=%t offset=%d, payload of %d bytes\n",
			h.ID, h.TTL, h.DontFragment, h.MoreFragments, h.FragOffset, len(payload))
	} else {
		h, payload, _ := wire.ParseIPv6(packet)
		fmt.Printf("  IPv6 flow=%#05x hop limit=%d next header=%d, payload of %d bytes\n",
			h.FlowLabel, h.HopLimit, h.Next, len(payload))
		if c, _ := wire.WalkIPv6(h.Next, payload); c.Fragmented {
			fmt.Printf("    fragment id=%#x offset=%d more=%t\n", c.Fragment.ID, c.Fragment.Offset, c.Fragment.More)
		}
	}
	if len(packet) < 100 {
		fmt.Print(hex.Dump(packet))
	}
}

//guide:end
