// The program measures what three congestion controls make of a lossy link, and draws the congestion window.
package main

import (
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// The link: 20 Mbit/s, a round trip of 40 ms, and a queue of one bandwidth-delay product.
//
//guide:begin link
const (
	rate  = 20_000_000            // bit/s
	delay = 20 * time.Millisecond // one way
	queue = rate / 8 * 40 / 1000  // bytes; 40 ms of the link
	size  = 4 * rate / 8          // bytes to send: 4 s of the link
)

//guide:end

var svg = flag.String("svg", "", "draw the congestion windows at a loss of 0.1% in this `file`")

func main() { lab.Run(run) }

func run() {
	controls := []tcp.Congestion{tcp.NewReno, tcp.CUBIC, tcp.BBR}
	fmt.Println("loss    NewReno   CUBIC     BBR     (goodput in Mbit/s)")
	var drawn []plot
	for i, loss := range []float64{0, 0.001, 0.01, 0.03} {
		fmt.Printf("%4.1f%%", 100*loss)
		for n, control := range controls {
			took, windows := transfer(control, loss)
			fmt.Printf("%9.1f", size*8/took.Seconds()/1e6)
			if i == 1 {
				drawn = append(drawn, plot{[]string{"NewReno", "CUBIC", "BBR"}[n], windows})
			}
		}
		fmt.Println()
	}
	if *svg != "" {
		draw(*svg, drawn)
	}
}

// A point is a congestion window at a time.
type point struct {
	at     time.Duration
	window int // bytes
}

// transfer sends size bytes over a new link and returns how long this took, and the congestion window every 20 ms.
//
//guide:begin transfer
func transfer(control tcp.Congestion, loss float64) (took time.Duration, windows []point) {
	left, right := lab.Wire()
	link := nic.Impairment{Latency: delay, Rate: rate, Queue: queue, Loss: loss}
	sender := host(lab.Capture(lab.Slow(left, link, 1)), 1, control, "192.0.2.1/24")
	receiver := host(right, 2, control, "192.0.2.2/24")
	defer sender.Close()
	defer receiver.Close()

	ln := lab.Must(receiver.Listen("tcp", ":80"))
	go func() {
		c := lab.Must(ln.Accept())
		io.Copy(io.Discard, c)
		c.Close()
	}()
	c := lab.Must(sender.Dial("tcp", "192.0.2.2:80")).(*usernet.TCPConn)
	began := time.Now()
	go func() {
		defer c.CloseWrite()
		lab.Must(c.Write(make([]byte, size)))
	}()
	closed := make(chan struct{})
	go func() {
		io.Copy(io.Discard, c) // until the receiver has everything and closes
		close(closed)
	}()
	for {
		select {
		case <-closed:
			return time.Since(began), windows
		case <-time.After(20 * time.Millisecond):
			windows = append(windows, point{time.Since(began), c.Info().SndCwnd})
		}
	}
}

//guide:end

// host makes a host with a congestion control.
//
//guide:begin host
func host(dev nic.Device, seed uint64, control tcp.Congestion, addr string) *usernet.Host {
	params := tcp.DefaultParams()
	params.Congestion = control
	cfg := lab.Config(dev, seed, addr)
	cfg.TCP.Params = &params
	return lab.New(cfg)
}

//guide:end
