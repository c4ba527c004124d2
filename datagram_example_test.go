package usernet_test

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
)

// One call sends, or receives, several datagrams.
func ExampleUDPConn_WriteBatch() {
	a, b := twoHosts()
	defer a.Close()
	defer b.Close()
	server, err := b.ListenUDP("udp", &net.UDPAddr{Port: 7})
	if err != nil {
		panic(err)
	}
	client, err := a.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 7})
	if err != nil {
		panic(err)
	}

	var out, in []usernet.Message
	for _, text := range []string{"one", "two", "three"} {
		out = append(out, usernet.Message{Buffers: [][]byte{[]byte(text)}})
		in = append(in, usernet.Message{Buffers: [][]byte{make([]byte, 1500)}})
	}
	n, err := client.WriteBatch(out, 0)
	fmt.Println(n, err)
	n, err = server.ReadBatch(in, 0) // returns all queued datagrams, at least one
	fmt.Println(n, err)
	for _, m := range in[:n] {
		fmt.Printf("%s\n", m.Buffers[0][:m.N])
	}
	// Output:
	// 3 <nil>
	// 3 <nil>
	// one
	// two
	// three
}

// A server with several addresses answers from the address to which the request was sent. The
// control messages have Linux's form. ReadPacket and WritePacket do the same without control messages.
func ExampleUDPConn_SetControlMessage() {
	wireA, wireB := nic.Pipe(nic.PipeConfig{})
	a := host(wireA, "192.0.2.1/24")
	defer a.Close()
	b, err := usernet.New(usernet.Config{NIC: wireB, Addrs: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.2/24"), netip.MustParsePrefix("192.0.2.3/24"),
	}})
	if err != nil {
		panic(err)
	}
	defer b.Close()
	server, err := b.ListenUDP("udp4", &net.UDPAddr{Port: 7})
	if err != nil {
		panic(err)
	}
	if err := server.SetControlMessage(usernet.FlagDst|usernet.FlagTTL, true); err != nil {
		panic(err)
	}
	go func() {
		buf, oob := make([]byte, 1500), make([]byte, 100)
		n, oobn, _, from, err := server.ReadMsgUDP(buf, oob)
		if err != nil {
			return
		}
		var info usernet.PacketInfo
		if err := info.ParseControl(oob[:oobn]); err != nil {
			return
		}
		fmt.Printf("%s, to %v, TTL %d\n", buf[:n], info.Local, info.TTL)
		info.TTL = 0 // use the socket's TTL instead of the received one
		server.WriteMsgUDP([]byte("here"), info.AppendControl(nil), from)
	}()

	client, err := a.Dial("udp", "192.0.2.3:7") // receives only from this address
	if err != nil {
		panic(err)
	}
	defer client.Close()
	fmt.Fprint(client, "who is there?")
	buf := make([]byte, 1500)
	n, err := client.Read(buf)
	fmt.Println(string(buf[:n]), err)
	// Output:
	// who is there?, to 192.0.2.3, TTL 64
	// here <nil>
}

// The settings of TCP apply to the whole host. In this example the host uses BBR, which paces segments.
func ExampleConfig() {
	params := tcp.DefaultParams()
	params.Congestion = tcp.BBR
	h, err := usernet.New(usernet.Config{TCP: stack.TCPConfig{Params: &params}})
	if err != nil {
		panic(err)
	}
	defer h.Close()

	ln, err := h.Listen("tcp", "127.0.0.1:80")
	if err != nil {
		panic(err)
	}
	defer ln.Close()
	c, err := h.Dial("tcp", "127.0.0.1:80")
	if err != nil {
		panic(err)
	}
	defer c.Close()
	fmt.Println(c.(*usernet.TCPConn).Info().Congestion)
	// Output: bbr
}
