package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/usernet/usernet"
)

func pingCommand() command {
	return command{
		name: "ping",
		args: "ADDR",
		what: "sends ICMP echo requests and prints the answers",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var p pingFlags
			l.socket.name = "I" // -i is the interval, as in Linux's ping
			l.define(fs)
			l.defineAuto(fs)
			p.define(fs)
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) != 1 {
					return usageError("one address is needed")
				}
				cfg, err := p.config()
				if err != nil {
					return err
				}
				if l.dns, err = nameServers(p.dns); err != nil {
					return err
				}
				if err := l.checkFlags(); err != nil {
					return err
				}
				return runPing(ctx, t, &l, args[0], cfg)
			}
		},
		more: `The exit code is 1 if nothing was answered.

Examples:
  usernet ping 192.0.2.1                           the kernel's side of the TAP
  usernet ping -wire -c 3 192.0.2.1                without root, in this program
  usernet ping -c 1000 -i 0 -s 1472 192.0.2.1      as fast as the answers come
`,
	}
}

// pingFlags are the flags of ping, with the names that Linux's ping uses.
type pingFlags struct {
	count             int
	size              int
	ttl               int
	interval, timeout float64
	dns               string
}

func (p *pingFlags) define(fs *flag.FlagSet) {
	fs.IntVar(&p.count, "c", 0, "end after `count` requests; 0: at Ctrl-C only")
	fs.Float64Var(&p.interval, "i", 1, "`seconds` from one request to the next; 0: as soon as the answer arrives")
	fs.Float64Var(&p.timeout, "W", 1, "`seconds` to wait for an answer")
	fs.IntVar(&p.size, "s", 56, "`bytes` of data, 0 to 65507")
	fs.IntVar(&p.ttl, "t", 64, "time to live of the requests, 1 to 255 `hops`")
	fs.StringVar(&p.dns, "dns", "", "`address` of a name server, with or without its port")
}

// config checks the flags and converts them to a PingConfig.
func (p *pingFlags) config() (usernet.PingConfig, error) {
	const maxSeconds = 1e6
	switch {
	case p.count < 0:
		return usernet.PingConfig{}, usageError("-c is negative")
	case p.size < 0 || p.size > 65507:
		return usernet.PingConfig{}, usageError("-s is not from 0 to 65507")
	case p.ttl < 1 || p.ttl > 255:
		return usernet.PingConfig{}, usageError("-t is not from 1 to 255")
	case !(p.interval >= 0 && p.interval <= maxSeconds):
		return usernet.PingConfig{}, usageError("-i is not from 0 to 1000000")
	case !(p.timeout > 0 && p.timeout <= maxSeconds):
		return usernet.PingConfig{}, usageError("-W is not above 0 and up to 1000000")
	}
	cfg := usernet.PingConfig{
		Count:    p.count,
		Interval: time.Duration(p.interval * float64(time.Second)),
		Timeout:  time.Duration(p.timeout * float64(time.Second)),
		Size:     p.size,
		TTL:      uint8(p.ttl),
	}
	if cfg.Count == 0 {
		cfg.Count = -1
	}
	if p.interval == 0 {
		cfg.Interval = -1
	}
	return cfg, nil
}

func runPing(ctx context.Context, t terminal, l *linkFlags, addr string, cfg usernet.PingConfig) error {
	return l.use(ctx, t, func(ctx context.Context, n *network) error { return ping(ctx, t, n.host, addr, cfg) })
}

// ping pings addr and prints what Linux's ping prints.
func ping(ctx context.Context, t terminal, h *usernet.Host, addr string, cfg usernet.PingConfig) error {
	shown := addr
	if a, err := netip.ParseAddr(addr); err == nil {
		shown = a.String()
	}
	if a, err := netip.ParseAddr(addr); err == nil && a.Is6() && !a.Is4In6() {
		fmt.Fprintf(t.out, "PING %s: %d data bytes\n", shown, cfg.Size)
	} else {
		fmt.Fprintf(t.out, "PING %s: %d(%d) bytes of data.\n", shown, cfg.Size, cfg.Size+28) // with the IPv4 and ICMP headers
	}
	cfg.OnReply = func(r usernet.PingReply) { fmt.Fprintln(t.out, replyLine(&r)) }
	start := time.Now()
	st, err := h.Ping(ctx, addr, cfg)
	if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return err
	}
	printSummary(t, shown, &st, time.Since(start))
	if st.Received == 0 {
		return errQuiet
	}
	return nil
}

// replyLine formats the line for one reply. It counts requests from 1, as Linux's ping does.
func replyLine(r *usernet.PingReply) string {
	seq := r.Seq + 1
	var errno syscall.Errno
	switch {
	case errors.Is(r.Err, os.ErrDeadlineExceeded):
		return fmt.Sprintf("no answer yet for icmp_seq=%d", seq)
	case errors.As(r.Err, &errno):
		return fmt.Sprintf("From %v icmp_seq=%d %v", r.From, seq, errno)
	case r.Err != nil:
		return fmt.Sprintf("icmp_seq=%d %v", seq, r.Err)
	}
	dup := ""
	if r.Duplicate {
		dup = " (DUP!)"
	}
	return fmt.Sprintf("%d bytes from %v: icmp_seq=%d ttl=%d time=%s ms%s", r.Size+8, r.From, seq, r.TTL, shortTime(r.RTT), dup)
}

func printSummary(t terminal, addr string, st *usernet.PingStats, took time.Duration) {
	more := ""
	if st.Duplicates > 0 {
		more += fmt.Sprintf(", +%d duplicates", st.Duplicates)
	}
	if st.Errors > 0 {
		more += fmt.Sprintf(", +%d errors", st.Errors)
	}
	loss := strconv.FormatFloat(100*st.Loss(), 'g', 4, 64)
	fmt.Fprintf(t.out, "\n--- %s ping statistics ---\n%d packets transmitted, %d received%s, %s%% packet loss, time %dms\n",
		addr, st.Sent, st.Received, more, loss, took.Milliseconds())
	if st.Received > 0 {
		fmt.Fprintf(t.out, "rtt min/avg/max/mdev = %.3f/%.3f/%.3f/%.3f ms\n",
			milliseconds(st.Min), milliseconds(st.Avg), milliseconds(st.Max), milliseconds(st.MDev))
	}
}

// shortTime formats a time in milliseconds as Linux's ping does: with three decimals below 1 ms, with
// three significant digits below 1 s, and without decimals from there on.
func shortTime(d time.Duration) string {
	ms := milliseconds(d)
	switch {
	case ms < 1:
		return strconv.FormatFloat(ms, 'f', 3, 64)
	case ms < 10:
		return strconv.FormatFloat(ms, 'f', 2, 64)
	case ms < 100:
		return strconv.FormatFloat(ms, 'f', 1, 64)
	}
	return strconv.FormatFloat(ms, 'f', 0, 64)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
