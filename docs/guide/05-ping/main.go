// The program pings a host over a wire that loses packets, and prints what ping prints.
package main

import (
	"context"
	"fmt"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

func main() { lab.Run(run) }

func run() {
	//guide:begin wire
	left, right := lab.Wire()
	far := lab.Slow(left, nic.Impairment{Latency: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Loss: 0.1}, 1)
	a := lab.Host(lab.Capture(far), 1, "192.0.2.1/24")
	b := lab.Host(right, 2, "192.0.2.2/24")
	defer a.Close()
	defer b.Close()
	//guide:end
	time.Sleep(time.Second) // the hosts have announced themselves

	//guide:begin ping
	stats := lab.Must(a.Ping(context.Background(), "192.0.2.2", usernet.PingConfig{
		Count:    10,
		Interval: 300 * time.Millisecond,
		Size:     56,
		OnReply: func(r usernet.PingReply) {
			if r.Err != nil {
				fmt.Printf("seq=%d %v\n", r.Seq, r.Err)
				return
			}
			fmt.Printf("%d bytes from %v: seq=%d ttl=%d time=%.3f ms\n", r.Size, r.From, r.Seq, r.TTL, lab.Milliseconds(r.RTT))
		},
	}))
	fmt.Printf("%d sent, %d received, %.0f%% lost\n", stats.Sent, stats.Received, 100*stats.Loss())
	fmt.Printf("min/avg/max/mdev = %v/%v/%v/%v\n", stats.Min, stats.Avg, stats.Max, stats.MDev)
	//guide:end

	//guide:begin nobody
	stats = lab.Must(a.Ping(context.Background(), "192.0.2.99", usernet.PingConfig{
		OnReply: func(r usernet.PingReply) { fmt.Println("192.0.2.99:", r.Err) },
	}))
	fmt.Println("answers:", stats.Received)
	//guide:end
}
