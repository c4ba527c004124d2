// The program makes Ethernet frames by hand and sends them through a switch.
package main

import (
	"encoding/hex"
	"fmt"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// The stations on the switch, by their link addresses.
var (
	alice = wire.MAC{2, 0, 0, 0, 0, 0xa}
	bob   = wire.MAC{2, 0, 0, 0, 0, 0xb}
	carol = wire.MAC{2, 0, 0, 0, 0, 0xc}
)

func main() {
	//guide:begin switch
	sw := nic.NewSwitch(nic.SwitchConfig{})
	ports := map[wire.MAC]nic.Device{}
	for _, station := range []struct {
		name string
		mac  wire.MAC
	}{{"alice", alice}, {"bob", bob}, {"carol", carol}} {
		port := sw.Port()
		port.Attach(func(batch []nic.Frame) {
			for _, f := range batch {
				fmt.Printf("  at %s: ", station.name)
				show(f.AppendTo(nil))
			}
		})
		ports[station.mac] = port
	}
	//guide:end

	first := frame(bob, alice, "hello, bob")
	fmt.Print(hex.Dump(first))

	send := func(what string, f []byte) {
		fmt.Println(what)
		h, _, _ := wire.ParseEthernet(f)
		ports[h.Src].Send([]nic.Frame{{Head: f}})
	}
	//guide:begin send
	send("alice to bob:", first)
	send("bob to alice:", frame(alice, bob, "hello, alice"))
	send("alice to bob again:", frame(bob, alice, "how are you?"))
	send("carol to all:", frame(wire.Broadcast(), carol, "good morning"))
	//guide:end
}

// experimental is an EtherType for experiments (IEEE 802, Local Experimental Ethertype 1).
const experimental wire.EtherType = 0x88b5

// frame returns an Ethernet frame.
//
//guide:begin frame
func frame(dst, src wire.MAC, text string) []byte {
	b := make([]byte, wire.EthernetLen, wire.EthernetLen+46)
	h := wire.Ethernet{Dst: dst, Src: src, Type: experimental}
	h.Put(b)
	b = append(b, text...)
	return b[:cap(b)] // zeros up to the shortest frame
}

//guide:end

// show prints a frame.
func show(b []byte) {
	h, payload, reason := wire.ParseEthernet(b)
	if reason != wire.OK {
		fmt.Println("dropped:", reason)
		return
	}
	fmt.Printf("from %v, type %#04x, %d bytes: %.12q\n", h.Src, uint16(h.Type), len(payload), payload)
}
