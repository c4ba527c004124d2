package pcap_test

import (
	"bytes"
	"fmt"
	"io"
	"time"

	"github.com/usernet/usernet/nic/pcap"
)

func Example() {
	var file bytes.Buffer
	w, err := pcap.NewWriter(&file, pcap.Interface{Name: "eth0", Link: pcap.LinkEthernet})
	if err != nil {
		panic(err)
	}
	frame := []byte("a frame of 26 bytes, or so")
	w.Write(pcap.Packet{Data: frame, Len: len(frame), Time: time.Unix(1_700_000_000, 0), Link: pcap.LinkEthernet})

	r, err := pcap.NewReader(&file)
	if err != nil {
		panic(err)
	}
	for {
		p, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			panic(err)
		}
		fmt.Println(p.Time.UTC().Format(time.DateTime), p.Link, len(p.Data))
	}
	// Output: 2023-11-14 22:13:20 Ethernet 26
}
