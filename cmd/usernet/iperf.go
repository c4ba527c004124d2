package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/iperf"
)

func iperfCommand() command {
	return command{
		name: "iperf",
		what: "measures the speed of TCP or UDP, with iperf3's protocol",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var f iperfFlags
			l.socket.name = "I" // -i is the interval, as in iperf3
			l.define(fs)
			l.defineAuto(fs)
			f.define(fs)
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) > 0 {
					return usageError(fmt.Sprintf("unexpected argument %q", args[0]))
				}
				err := f.check()
				if err == nil {
					l.dns, err = nameServers(f.dns)
				}
				if err == nil {
					err = l.checkFlags()
				}
				switch {
				case err != nil:
					return err
				case f.server && l.wire:
					return usageError("-s and -wire: nobody else is on a wire in memory; with -wire, -c has a server")
				case f.six && l.noIPv6:
					return usageError("-6 and -no-ipv6")
				case f.server:
					return runIperfServer(ctx, t, &l, &f)
				}
				return runIperfClient(ctx, t, &l, &f)
			}
		},
		more: `The flags are those of iperf3. The other side may be an iperf3 of version 3.1 or later. The client decides
about the test. A server runs one test at a time, and refuses -O (omit) and authentication. Rates have the
suffixes K, M and G for 10^3, 10^6 and 10^9, sizes for 2^10, 2^20 and 2^30.

Examples:
  usernet iperf -s                             then: iperf3 -c 192.0.2.2
  usernet iperf -c 192.0.2.1                   with an iperf3 -s on the kernel's side
  usernet iperf -c 192.0.2.1 -R -P 4 -t 5      the server sends over four connections for 5 s
  usernet iperf -c 2001:db8::1 -u -b 100M      UDP at 100 Mbit/s
  usernet iperf -wire -c 192.0.2.1             both sides in this program; needs no root
`,
	}
}

// iperfFlags are the flags of iperf, with the names that iperf3 uses.
type iperfFlags struct {
	server, oneOff  bool
	client          string
	port            int
	seconds         float64
	size, block     sizeFlag
	rate            rateFlag
	interval        float64
	four, six, json bool
	dns             string
	params          iperf.Params
	fs              *flag.FlagSet
}

func (f *iperfFlags) define(fs *flag.FlagSet) {
	f.fs = fs
	fs.BoolVar(&f.server, "s", false, "be the server")
	fs.BoolVar(&f.oneOff, "1", false, "with -s: end after one test")
	fs.StringVar(&f.client, "c", "", "be the client of the server on `host`")
	fs.IntVar(&f.port, "p", iperf.Port, "`port` of the server")
	fs.BoolVar(&f.four, "4", false, "use IPv4 only")
	fs.BoolVar(&f.six, "6", false, "use IPv6 only")
	fs.BoolVar(&f.params.UDP, "u", false, "measure UDP instead of TCP")
	fs.BoolVar(&f.params.Reverse, "R", false, "the server sends")
	fs.BoolVar(&f.params.Bidir, "bidir", false, "both send")
	fs.IntVar(&f.params.Streams, "P", 1, "`number` of streams in each direction, 1 to 128")
	fs.Float64Var(&f.seconds, "t", 10, "`seconds` of the test")
	fs.Var(&f.size, "n", "`bytes` to send instead of a time, as in 10M")
	fs.Var(&f.rate, "b", "`bit/s` of each stream, as in 10M; 0: no limit; by default no limit for TCP, and 1 Mbit/s for UDP")
	fs.Var(&f.block, "l", "`bytes` of a write, by default 128K, or of a datagram, by default as many as fit a packet")
	fs.BoolVar(&f.params.Wide, "udp-counters-64bit", false, "use 64-bit counters in datagrams")
	fs.Float64Var(&f.interval, "i", 1, "`seconds` between reports; 0: only at the end")
	fs.BoolVar(&f.json, "J", false, "print JSON")
	fs.StringVar(&f.dns, "dns", "", "`address` of a name server, with or without its port")
}

// clientFlags are the flags that a server does not have.
var clientFlags = []string{"u", "R", "bidir", "P", "t", "n", "b", "l", "udp-counters-64bit", "dns"}

// check checks the flags and completes params.
func (f *iperfFlags) check() error {
	const maxSeconds = 86400
	switch {
	case f.server == (f.client != ""):
		return usageError("either -s or -c HOST is needed")
	case f.client != "" && f.oneOff:
		return usageError("-1 is for -s")
	case f.four && f.six:
		return usageError("-4 and -6: only one of them is possible")
	case f.params.Reverse && f.params.Bidir:
		return usageError("-R and -bidir: only one of them is possible")
	case f.port < 1 || f.port > 65535:
		return usageError("-p is not from 1 to 65535")
	case f.params.Streams < 1 || f.params.Streams > 128:
		return usageError("-P is not from 1 to 128")
	case !(f.seconds > 0 && f.seconds <= maxSeconds):
		return usageError("-t is not above 0 and up to 86400")
	case !(f.interval == 0 || f.interval >= 0.1 && f.interval <= maxSeconds):
		return usageError("-i is neither 0 nor from 0.1 to 86400")
	case f.params.UDP && f.block != 0 && (f.block < 16 || f.block > 65507):
		return usageError("-l is not from 16 to 65507")
	case f.block > 1<<20:
		return usageError("-l is more than 1M")
	case isSet(f.fs, "n") && f.size == 0:
		return usageError("-n is 0")
	case isSet(f.fs, "n") && isSet(f.fs, "t"):
		return usageError("-n and -t: only one of them is possible")
	}
	if f.server {
		for _, name := range clientFlags {
			if isSet(f.fs, name) {
				return usageError("-" + name + " is for -c: the client decides about the test")
			}
		}
	}
	f.params.Block, f.params.Bytes, f.params.Rate = int(f.block), int64(f.size), int64(f.rate)
	if f.size == 0 {
		f.params.Duration = time.Duration(f.seconds * float64(time.Second))
	}
	if isSet(f.fs, "b") && f.rate == 0 {
		f.params.Rate = -1
	}
	return nil
}

// network returns "tcp", with the family that -4 or -6 selects.
func (f *iperfFlags) network() string {
	switch {
	case f.four:
		return "tcp4"
	case f.six:
		return "tcp6"
	}
	return "tcp"
}

// addr returns the address of the server. The host of -c may be an IPv6 address in brackets.
func (f *iperfFlags) addr() string {
	host := f.client
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host = strings.TrimSuffix(inner, "]")
	}
	return net.JoinHostPort(host, strconv.Itoa(f.port))
}

// events returns the events that print the results.
func (f *iperfFlags) events(t terminal) iperf.Events {
	if f.json {
		return iperf.JSON(t.out)
	}
	return iperf.Text(t.out)
}

// every returns the time between reports.
func (f *iperfFlags) every() time.Duration { return time.Duration(f.interval * float64(time.Second)) }

// maxCommandValue is the largest value of -n and -b.
const maxCommandValue = 1 << 50

// parseUnits parses a number with a suffix for a power of base.
func parseUnits(s string, base float64) (int64, error) {
	number, factor := s, 1.0
	if s != "" {
		if i := strings.IndexByte("KMGT", s[len(s)-1]&^0x20); i >= 0 {
			number = s[:len(s)-1]
			for range i + 1 {
				factor *= base
			}
		}
	}
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || !(v >= 0 && v*factor <= maxCommandValue) {
		return 0, errors.New("not a number as in 1500, 10M or 1.5G, or too large")
	}
	return int64(v * factor), nil
}

// A sizeFlag is a number of bytes. Its suffixes are powers of 1024.
type sizeFlag int64

func (f *sizeFlag) String() string { return "" }

func (f *sizeFlag) Set(s string) error {
	n, err := parseUnits(s, 1024)
	*f = sizeFlag(n)
	return err
}

// A rateFlag is a number of bits per second. Its suffixes are powers of 1000.
type rateFlag int64

func (f *rateFlag) String() string { return "" }

func (f *rateFlag) Set(s string) error {
	n, err := parseUnits(s, 1000)
	*f = rateFlag(n)
	return err
}

func runIperfClient(ctx context.Context, t terminal, l *linkFlags, f *iperfFlags) error {
	return l.use(ctx, t, func(ctx context.Context, n *network) error {
		if n.peer != nil {
			// On a wire in memory there is no other server, so the second host runs one.
			end, err := startIperf(ctx, n.peer, f.port)
			if err != nil {
				return err
			}
			defer end()
		}
		err := f.newClient(n.host, t).Run(ctx)
		if err != nil && ctx.Err() != nil {
			err = errors.New("interrupted")
		}
		return err
	})
}

// newClient returns a client on the host h.
func (f *iperfFlags) newClient(h *usernet.Host, t terminal) *iperf.Client {
	return &iperf.Client{
		Dial: h.DialContext, Network: f.network(), Addr: f.addr(), Params: f.params, Interval: f.every(), Events: f.events(t),
	}
}

// startIperf starts a server without output, which runs until the caller calls end.
func startIperf(ctx context.Context, h *usernet.Host, port int) (end func(), err error) {
	ln, err := h.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := iperf.Server{Listener: ln, ListenPacket: h.ListenPacket}
		s.Serve(ctx)
	}()
	return func() {
		cancel()
		<-done
	}, nil
}

func runIperfServer(ctx context.Context, t terminal, l *linkFlags, f *iperfFlags) error {
	return l.use(ctx, t, func(ctx context.Context, n *network) error { return n.serveIperf(ctx, t, f) })
}

// serveIperf runs the server until ctx ends, or with -1 until a test has ended.
func (n *network) serveIperf(ctx context.Context, t terminal, f *iperfFlags) error {
	ln, err := n.host.Listen(f.network(), fmt.Sprintf(":%d", f.port))
	if err != nil {
		return err
	}
	events := f.events(t)
	print := events.End
	events.End = func(r *iperf.Report, err error) {
		if err != nil && !f.json && !f.oneOff && ctx.Err() == nil {
			fmt.Fprintf(t.err, "usernet iperf: the test of %v: %v\n", r.Remote, err)
		}
		print(r, err)
	}
	where := n.addrs()
	switch {
	case f.four:
		where = n.addr.String()
	case f.six:
		where = n.six.String()
	}
	if !f.json {
		fmt.Fprintf(t.out, "iperf server on port %d of %s (Ctrl-C ends)\n", f.port, where)
	}
	s := iperf.Server{
		Listener: ln, ListenPacket: n.host.ListenPacket, Interval: f.every(), OneOff: f.oneOff, Events: events,
		Warn: func(err error) { n.log.Warn("accept", "err", err) },
	}
	return s.Serve(ctx)
}
