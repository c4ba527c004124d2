package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// dropFlags are the flags of the commands that print what their host drops.
type dropFlags struct{ on bool }

func (f *dropFlags) define(fs *flag.FlagSet) {
	fs.BoolVar(&f.on, "drops", false, "print each packet that our host drops, with the reason and the rule of the RFC")
}

// dropBuffer is the memory in bytes of the drops that wait to be printed.
const dropBuffer = 4 << 20

// print prints the drops of the host to w until the caller calls end.
func (f *dropFlags) print(h *usernet.Host, w io.Writer) (end func(), err error) {
	if !f.on {
		return func() {}, nil
	}
	watcher, err := h.Watch(stack.WatchConfig{Drops: true, SnapLen: 2048, Buffer: dropBuffer})
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for e := range watcher.Events(context.Background()) {
			if _, err := w.Write(appendDrop(nil, &e)); err != nil {
				return
			}
		}
	}()
	return func() {
		watcher.Close()
		<-done
	}, nil
}

// appendDrop appends the lines that describe a dropped packet: the packet, the reason, and the rule if there is one.
func appendDrop(dst []byte, e *stack.WatchEvent) []byte {
	what := "of which no bytes are known"
	switch {
	case len(e.Data) > 0:
		what = string(wire.AppendFrame(nil, e.Data, e.Ethernet))
	case e.Local.IsValid() || e.Remote.IsValid():
		what = fmt.Sprintf("%v to %v", e.Local, e.Remote)
		if !e.Outbound {
			what = fmt.Sprintf("%v to %v", e.Remote, e.Local)
		}
	}
	return appendDropped(dst, &droppedPacket{Time: e.Time, NIC: e.NIC, Out: e.Outbound, What: what, Reason: string(e.Reason), Rule: e.Reason.Rule(), Lost: e.Lost})
}

// A droppedPacket is what is printed of a dropped packet.
type droppedPacket struct {
	Time         time.Time
	NIC          string
	Out          bool // the host itself has sent it
	What         string
	Reason, Rule string
	Lost         uint64 // dropped packets before this one that are not printed
}

func appendDropped(dst []byte, d *droppedPacket) []byte {
	if d.Lost > 0 {
		dst = fmt.Appendf(dst, "(%d dropped packets are not shown)\n", d.Lost)
	}
	dst = d.Time.AppendFormat(dst, "15:04:05.000000 ")
	if d.NIC != "" {
		dst = append(append(dst, d.NIC...), ' ')
	}
	dir := "in  "
	if d.Out {
		dir = "out "
	}
	dst = fmt.Appendf(dst, "%s %s\n    dropped: %s\n", dir, d.What, d.Reason)
	if d.Rule != "" {
		dst = fmt.Appendf(dst, "    %s\n", d.Rule)
	}
	return dst
}
