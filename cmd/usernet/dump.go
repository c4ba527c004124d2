package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"

	"github.com/usernet/usernet/nic"
)

func dumpCommand() command {
	return command{
		name: "dump",
		what: "prints the frames that arrive on a TAP or a TUN device, decoded",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var count int
			var answer bool
			l.define(fs)
			fs.IntVar(&count, "c", 0, "end after `count` frames; 0: at Ctrl-C only")
			fs.BoolVar(&answer, "answer", false, "run a host at -addr that answers ARP, ping and so on, and print its frames too")
			return func(ctx context.Context, t terminal, args []string) error {
				switch {
				case len(args) > 0:
					return usageError(fmt.Sprintf("unexpected argument %q", args[0]))
				case l.wire:
					return usageError("nobody sends on a wire in memory: ping -wire -v shows frames there")
				case count < 0:
					return usageError("-c is negative")
				}
				if err := l.checkFlags(); err != nil {
					return err
				}
				return runDump(ctx, t, &l, count, answer)
			}
		},
		more: `Examples:
  usernet dump                    then: ping 192.0.2.2, in another window
  usernet dump -answer -c 20      the same, with answers
  usernet dump -pcap trace.pcapng
`,
	}
}

func runDump(ctx context.Context, t terminal, l *linkFlags, count int, answer bool) error {
	log := l.newLog(t, slog.LevelInfo)
	file, err := createOutput(l.pcap)
	if err != nil {
		return err
	}
	tap, p, err := l.attachTAP(t, log)
	if err != nil {
		file.discard()
		return advised(err)
	}
	l.verbose = false // dump has its own trace
	n := newNetwork(p, tap.Name(), log)
	n.file, n.kind = file, l.kind()
	dev, err := n.wrap(l, t, tap)
	if err != nil {
		tap.Close()
		n.Close()
		return err
	}
	full := make(chan struct{})
	dev = trace(dev, &tracer{w: &lineLimit{w: t.out, left: count, endless: count == 0, end: func() { close(full) }}})
	if answer {
		n.host, err = newHost(dev, p.ours(), p.hosts(), l.dns, true, log)
		if err != nil {
			dev.Close()
			n.Close()
			return err
		}
		n.follow()
		n.report()
	} else {
		tap.NotifyDown(func(err error) { n.down <- err })
		dev.Attach(func([]nic.Frame) {})
	}
	select {
	case <-ctx.Done():
	case <-full:
	case err = <-n.down:
	}
	if !answer {
		dev.Close()
	}
	if cerr := n.Close(); err == nil {
		err = cerr
	}
	return err
}

// A lineLimit writes the first left lines to w and then calls end. Each call of Write has one line,
// and there are no concurrent calls.
type lineLimit struct {
	w       io.Writer
	left    int
	endless bool
	end     func()
}

func (w *lineLimit) Write(p []byte) (int, error) {
	if w.endless {
		return w.w.Write(p)
	}
	if w.left == 0 {
		return len(p), nil
	}
	if w.left--; w.left == 0 {
		defer w.end()
	}
	return w.w.Write(p)
}
