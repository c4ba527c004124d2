package wire_test

import (
	"fmt"
	"net/netip"

	"github.com/usernet/usernet/stack/wire"
)

// A UDP datagram is written into an IPv4 packet and read back.
func Example() {
	src, dst := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	payload := []byte("hello")
	packet := make([]byte, wire.IPv4Len+wire.UDPLen+len(payload))
	ip := wire.IPv4{TTL: 64, Proto: wire.ProtoUDP, Src: src, Dst: dst}
	ip.Put(packet, wire.UDPLen+len(payload))
	datagram := packet[wire.IPv4Len:]
	udp := wire.UDP{SrcPort: 1024, DstPort: 7}
	udp.Put(datagram, len(payload))
	copy(datagram[wire.UDPLen:], payload)
	wire.SetUDPChecksum(src, dst, datagram)
	fmt.Printf("%x\n", packet)

	h, body, reason := wire.ParseIPv4(packet)
	fmt.Println(h.Src, h.Dst, h.TTL, len(body), reason)
	u, text, reason := wire.ParseUDP(body)
	fmt.Println(u.SrcPort, u.DstPort, string(text), reason, wire.UDPChecksumOK(h.Src, h.Dst, body))

	packet[16]++ // the first byte of the destination
	_, _, reason = wire.ParseIPv4(packet)
	fmt.Println(reason)
	// Output:
	// 45000021000000004011f6c8c0000201c000020204000007000d33f768656c6c6f
	// 192.0.2.1 192.0.2.2 64 13 ok
	// 1024 7 hello ok true
	// bad IPv4 checksum
}

// Describe formats a frame as tcpdump does.
func ExampleDescribe() {
	frame := []byte("\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02\x08\x06" +
		"\x00\x01\x08\x00\x06\x04\x00\x01\x02\x00\x00\x00\x00\x02\xc0\x00\x02\x01\x00\x00\x00\x00\x00\x00\xc0\x00\x02\x02")
	fmt.Println(wire.Describe(frame))
	// Output: 02:00:00:00:00:02 > 02:00:00:00:00:01 ARP who-has 192.0.2.2 tell 192.0.2.1
}
