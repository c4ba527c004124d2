package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// dropFlags are the flags of the commands that print what their host drops.
type dropFlags struct{ on bool }

func (f *dropFlags) define(fs *flag.FlagSet) {
	fs.BoolVar(&f.on, "drops", false, "print each packet that our host drops, with the reason and the rule of the RFC")
}

// dropBuffer is the limit in bytes of the memory for drops that wait to be printed.
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

// appendDropped appends the lines that describe d.
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

// dumpDrops prints the packets that another program drops, until ctx ends, d.count packets are printed, or the program
// ends the stream.
func dumpDrops(ctx context.Context, w io.Writer, d *dumpFlags) error {
	from, err := newInspector(d.drops)
	if err != nil {
		return err
	}
	var failed error
	n := 0
	err = from.stream(ctx, url.Values{"topics": {"dropped"}}, func(topic string, data []byte) bool {
		var p inspect.Dropped
		switch topic {
		case "dropped":
		case "end":
			failed = errors.New("a recording has no stream of dropped packets")
			return false
		default:
			return true
		}
		if failed = json.Unmarshal(data, &p); failed != nil {
			return false
		}
		_, failed = w.Write(d.remoteDrop(&p))
		n++
		return failed == nil && n != d.count
	})
	if ctx.Err() != nil {
		return nil // Ctrl-C
	}
	if failed != nil {
		return failed
	}
	return err
}

// remoteDrop returns the lines that describe a packet that another program has dropped.
func (d *dumpFlags) remoteDrop(p *inspect.Dropped) []byte {
	dst := appendDropped(nil, &droppedPacket{
		Time: p.Time.Local(), NIC: p.NIC, Out: p.Dir == "out", What: p.Summary, Reason: p.Reason, Rule: p.Rule, Lost: p.Lost,
	})
	if d.fields {
		dst = append(dst, p.Decoded...)
	}
	dst = []byte(printableLines(string(dst))) // the other program chooses the text
	if b, err := hex.DecodeString(p.Hex); err == nil && d.hex {
		dst = appendHex(dst, b)
	}
	return dst
}
