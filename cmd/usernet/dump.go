package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/usernet/usernet/internal/filter"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack/wire"
)

// dumpFlags are the flags of dump in addition to those of the link.
type dumpFlags struct {
	count  int
	answer bool
	read   string // the capture file to print instead of a link
	drops  string // the running program whose dropped packets are printed instead of a link's frames
	write  string // the capture file to write
	fields bool
	hex    bool
	filter *filter.Filter
}

func dumpCommand() command {
	return command{
		name: "dump",
		args: "[FILTER]",
		what: "prints the frames of a link or of a capture, decoded",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var d dumpFlags
			l.define(fs)
			fs.IntVar(&d.count, "c", 0, "end after `count` frames; 0: at Ctrl-C only")
			fs.BoolVar(&d.answer, "answer", false, "run a host at -addr that answers ARP, ping and so on, and print its frames too")
			fs.StringVar(&d.read, "r", "", "print the frames of a `file` (pcap or pcapng) instead of those of a link; - is standard input")
			fs.StringVar(&d.drops, "drops", "", "print the packets that a running program drops, and why; `target` is the socket of serve -inspect-socket or the URL of the inspector")
			fs.StringVar(&d.write, "w", "", "write the frames that FILTER selects to `file` (pcapng); unlike -pcap, which writes all")
			fs.BoolVar(&d.fields, "vv", false, "print each field of each header")
			fs.BoolVar(&d.hex, "x", false, "print each frame in hexadecimal and as text, too")
			return func(ctx context.Context, t terminal, args []string) error {
				if err := d.check(&l, args); err != nil {
					return err
				}
				if d.drops != "" {
					return dumpDrops(ctx, t.out, &d)
				}
				return runDump(ctx, t, &l, &d)
			}
		},
		more: `FILTER is an expression as tcpdump has it, of the words host, net, port, src, dst,
ip, ip6, arp, tcp, udp, icmp, icmp6, igmp, not, and, or, and parentheses. Names are not
looked up. "and" and "or" have equal precedence and associate to the left.

Examples:
  usernet dump                    then: ping 192.0.2.2, in another window
  usernet dump -answer -c 20      the same, with answers
  usernet dump -i eth0 -vv 'icmp6 or arp'
  usernet dump -i eth0 -w web.pcapng tcp port 80 or 443
  usernet dump -r web.pcapng -x src 192.0.2.1 and not port 80
  usernet dump -vde /run/vde.ctl
  usernet dump -drops /tmp/un.sock            what usernet serve -inspect-socket /tmp/un.sock drops
`,
	}
}

// check returns an error if flags conflict, and parses the filter.
func (d *dumpFlags) check(l *linkFlags, args []string) (err error) {
	switch {
	case d.count < 0:
		return usageError("-c is negative")
	case l.wire:
		return usageError("nobody sends on a wire in memory: ping -wire -v shows frames there")
	case d.read != "" && d.answer:
		return usageError("-r and -answer: nobody receives the answers")
	case d.read != "" && l.pcap != "":
		return usageError("-r and -pcap: -w writes the frames of a capture")
	}
	if d.drops != "" && (d.read != "" || d.answer || d.write != "" || l.pcap != "" || len(args) > 0) {
		return usageError("-drops cannot be combined with -r, -w, -answer, -pcap and a filter")
	}
	if d.read != "" {
		for _, link := range []string{"tap", "tun", "i", "vde", "stream", "dgram"} {
			if isSet(l.fs, link) {
				return usageError(fmt.Sprintf("-r and -%s: there is only one source of frames", link))
			}
		}
	}
	if d.filter, err = filter.Parse(strings.Join(args, " ")); err != nil {
		return usageError(err.Error())
	}
	if err := l.checkFlags(); err != nil {
		return err
	}
	l.everything = !d.answer
	if d.answer {
		return l.socket.checkAddrs(l)
	}
	return nil
}

func runDump(ctx context.Context, t terminal, l *linkFlags, d *dumpFlags) error {
	out, err := newDumper(t.out, d)
	if err != nil {
		return err
	}
	if d.read != "" {
		err = out.readFile(ctx, d.read)
	} else {
		err = dumpLink(ctx, t, l, d, out)
	}
	if cerr := out.close(); err == nil {
		err = cerr
	}
	return err
}

// dumpLink prints the frames of a link.
func dumpLink(ctx context.Context, t terminal, l *linkFlags, d *dumpFlags, out *dumper) error {
	log := l.newLog(t, slog.LevelInfo)
	file, err := createOutput(l.pcap)
	if err != nil {
		return err
	}
	link, p, err := l.attachTAP(t, log)
	if err != nil {
		file.discard()
		return advised(err)
	}
	l.verbose = false // dump has its own trace
	n := newNetwork(p, link.Link().Name, log)
	n.file, n.kind = file, l.kind()
	dev, err := n.wrap(l, t, link)
	if err != nil {
		link.Close()
		n.Close()
		return err
	}
	if l.everything && l.socket.iface != "" {
		mac := link.Link().MAC
		out.mac = mac[:]
	}
	dev = trace(dev, &tracer{dump: out})
	if d.answer {
		n.host, err = l.newHost(dev, p.ours(), p.hosts(), l.dns, true, log)
		if err != nil {
			dev.Close()
			n.Close()
			return err
		}
		n.follow()
		n.report()
	} else {
		link.NotifyDown(func(err error) { n.down <- err })
		dev.Attach(func([]nic.Frame) {})
	}
	select {
	case <-ctx.Done():
	case <-out.done:
	case err = <-n.down:
	}
	if !d.answer {
		dev.Close()
	}
	if cerr := n.Close(); err == nil {
		err = cerr
	}
	return err
}

// A dumper prints the frames that a filter selects. Its methods frame and close may be called concurrently.
type dumper struct {
	mu sync.Mutex // held by frame and close

	dumpFlags
	w    io.Writer
	mac  []byte       // of a packet socket's interface: frames from it are outbound; nil on other links and with -answer
	file *output      // of -w; may be nil
	pcap *pcap.Writer // made for the first frame, with its link type
	out  []byte
	left int           // frames still to print; not positive without -c
	done chan struct{} // closed after the last frame or an error
	over bool          // no more frames are printed
	err  error         // the error of writing
}

func newDumper(w io.Writer, d *dumpFlags) (*dumper, error) {
	file, err := createOutput(d.write)
	if err == nil && file != nil {
		err = file.begin()
	}
	if err != nil {
		return nil, err
	}
	return &dumper{dumpFlags: *d, w: w, file: file, left: d.count, done: make(chan struct{})}, nil
}

// frame prints a frame, if the filter selects it. link is the name of the link; it may be empty.
func (d *dumper) frame(link string, pkt pcap.Packet) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ethernet := pkt.Link == pcap.LinkEthernet
	if len(d.mac) > 0 && len(pkt.Data) >= wire.EthernetLen && bytes.Equal(pkt.Data[6:12], d.mac) {
		pkt.Direction = pcap.Outbound
	}
	if d.over || !d.filter.Match(pkt.Data, ethernet) {
		return
	}
	d.out = d.out[:0]
	if !pkt.Time.IsZero() {
		d.out = pkt.Time.AppendFormat(d.out, "15:04:05.000000 ")
	}
	if link != "" {
		d.out = append(append(d.out, link...), ' ')
	}
	d.out = append(d.out, map[pcap.Direction]string{pcap.Inbound: "in   ", pcap.Outbound: "out  "}[pkt.Direction]...)
	switch {
	case !ethernet && !pkt.Link.IsIP():
		d.out = fmt.Appendf(d.out, "%v len=%d", pkt.Link, pkt.Len)
	default:
		d.out = wire.AppendFrame(d.out, pkt.Data, ethernet)
	}
	if len(pkt.Data) < pkt.Len {
		d.out = fmt.Appendf(d.out, " [%d of %d bytes captured]", len(pkt.Data), pkt.Len)
	}
	d.out = append(d.out, '\n')
	if d.fields && (ethernet || pkt.Link.IsIP()) {
		d.out = wire.AppendFields(d.out, pkt.Data, ethernet)
	}
	if d.hex {
		d.out = appendHex(d.out, pkt.Data)
	}
	if d.fields || d.hex {
		d.out = append(d.out, '\n')
	}
	_, err := d.w.Write(d.out)
	if werr := d.writePacket(pkt); err == nil {
		err = werr
	}
	if d.left--; err != nil || d.left == 0 {
		d.err, d.over = err, true
		close(d.done)
	}
}

// writePacket writes a frame to the file of -w.
func (d *dumper) writePacket(pkt pcap.Packet) (err error) {
	if d.file == nil {
		return nil
	}
	if d.pcap == nil {
		if d.pcap, err = pcap.NewWriter(d.file, pcap.Interface{Name: pkt.Interface, Link: pkt.Link}); err != nil {
			return err
		}
	}
	return d.pcap.Write(pkt)
}

// isOver reports whether no more frames are printed.
func (d *dumper) isOver() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}

// close completes the file of -w. Without frames, the file is still a valid capture.
func (d *dumper) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.over = true // the link may still call frame
	err := d.err
	if d.file == nil {
		return err
	}
	if d.pcap == nil && err == nil {
		_, err = pcap.NewWriter(d.file, pcap.Interface{Link: pcap.LinkEthernet})
	}
	if cerr := d.file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("the capture is not complete: %w", err)
	}
	return nil
}

// readFile prints the frames of a capture.
func (d *dumper) readFile(ctx context.Context, name string) error {
	file := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		file = f
	}
	// No call can end a Read of standard input, so after Ctrl-C the goroutine that reads may never end.
	ended := make(chan error, 1)
	go func() {
		r, err := pcap.NewReader(file)
		for err == nil && !d.isOver() && ctx.Err() == nil {
			var pkt pcap.Packet
			if pkt, err = r.Next(); err == nil {
				d.frame("", pkt)
			}
		}
		ended <- err
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || ctx.Err() != nil {
		return nil
	}
	if err != nil && name != "-" {
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// appendHex appends the bytes of a frame, 16 on a line, in hexadecimal and as ASCII.
func appendHex(dst, b []byte) []byte {
	for at := 0; at < len(b); at += 16 {
		line := b[at:min(at+16, len(b))]
		dst = fmt.Appendf(dst, "    0x%04x: ", at)
		for i := range 16 {
			switch {
			case i >= len(line):
				dst = append(dst, "  "...)
			default:
				dst = fmt.Appendf(dst, "%02x", line[i])
			}
			if i%2 == 1 {
				dst = append(dst, ' ')
			}
		}
		dst = append(dst, ' ')
		for _, c := range line {
			if c < ' ' || c > '~' {
				c = '.'
			}
			dst = append(dst, c)
		}
		dst = append(dst, '\n')
	}
	return dst
}
