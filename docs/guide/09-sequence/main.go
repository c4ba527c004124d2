// The program shows sequence numbers, the retransmission of a lost segment, and a window that closes.
package main

import (
	"fmt"
	"io"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

func main() { lab.Run(run) }

func run() {
	//guide:begin wire
	left, right := lab.Wire()
	slow := lab.Slow(left, nic.Impairment{Latency: 10 * time.Millisecond}, 1)
	segments := 0
	third := lab.Drop(slow, func(frame []byte) bool {
		if _, payload := parse(frame); len(payload) == 0 {
			return false
		}
		segments++
		return segments == 3 // the third segment with data is lost
	})
	seen := lab.Frames(lab.Capture(third), "tcp", show)
	//guide:end
	a := lab.Host(seen, 1, "192.0.2.1/24")
	b := small(right, 2, "192.0.2.2/24")
	defer a.Close()
	defer b.Close()
	ln := lab.Must(b.Listen("tcp", ":80"))
	client := lab.Must(a.Dial("tcp", "192.0.2.2:80")).(*usernet.TCPConn)
	server := lab.Must(ln.Accept()).(*usernet.TCPConn)

	fmt.Println("--- 6 segments of data; the third is lost")
	//guide:begin loss
	data := make([]byte, 6*1448)
	lab.Must(client.Write(data))
	lab.Must(io.ReadFull(server, data))
	time.Sleep(time.Second)
	info := client.Info()
	fmt.Printf("retransmitted: %d, round trip: %.1f ms\n", info.Retrans, float64(info.RTT)/1e6)
	//guide:end

	fmt.Println("--- b does not read; its buffer has 16 KiB")
	//guide:begin window
	data = make([]byte, 20_000)
	go client.Write(data)
	time.Sleep(5 * time.Second)
	info = client.Info()
	fmt.Printf("--- after 5 s: %d bytes wait in a, a window of %d bytes\n", info.NotSent, info.SndWnd)
	fmt.Println("--- b reads")
	lab.Must(io.ReadFull(server, data))
	time.Sleep(time.Second)
	fmt.Println("not acknowledged:", client.Info().Unacked)
	//guide:end
}

// small makes a host whose TCP connections have receive buffers of 16 KiB that do not grow.
//
//guide:begin small
func small(dev nic.Device, seed uint64, addr string) *usernet.Host {
	params := tcp.DefaultParams()
	params.RecvBuffer, params.RecvBufferMax = 16<<10, 16<<10
	cfg := lab.Config(dev, seed, addr)
	cfg.TCP.Params = &params
	return lab.New(cfg)
}

//guide:end

// What the SYNs of the two ends said, by port: the first sequence number and the shift count of the windows. The
// program prints sequence numbers relative to the first one, as Wireshark does.
var (
	firstSeq = map[uint16]uint32{}
	scale    = map[uint16]uint8{}
)

// show prints a segment in a few words.
func show(at time.Duration, frame []byte) {
	h, payload := parse(frame)
	if h.Flags&wire.FlagSYN != 0 {
		firstSeq[h.SrcPort], scale[h.SrcPort] = h.Seq, h.WScale
		return
	}
	who, other := "a", "b"
	if h.SrcPort == 80 {
		who, other = other, who
	}
	fmt.Printf("%8.1f ms  %s > %s  ", lab.Milliseconds(at), who, other)
	switch {
	case h.Flags&wire.FlagRST != 0:
		fmt.Print("RST")
	case len(payload) > 0:
		fmt.Printf("seq %d to %d", h.Seq-firstSeq[h.SrcPort], h.Seq-firstSeq[h.SrcPort]+uint32(len(payload)))
	default:
		fmt.Printf("ack %d, window %d", h.Ack-firstSeq[h.DstPort], int(h.Window)<<scale[h.SrcPort])
		for _, s := range h.SACK[:h.NSACK] {
			fmt.Printf(", has %d to %d", s.Start-firstSeq[h.DstPort], s.End-firstSeq[h.DstPort])
		}
	}
	fmt.Println()
}

// parse returns the TCP header and the payload of a frame. Without TCP the payload is nil.
func parse(frame []byte) (h wire.TCP, payload []byte) {
	ip, segment, _ := wire.ParseIPv4(frame[wire.EthernetLen:])
	if ip.Proto == wire.ProtoTCP {
		h, payload, _ = wire.ParseTCP(segment)
	}
	return h, payload
}
