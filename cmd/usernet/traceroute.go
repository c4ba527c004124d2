package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack/wire"
)

func tracerouteCommand() command {
	return command{
		name: "traceroute",
		args: "HOST [BYTES]",
		what: "finds the routers on the way to a host",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var f traceFlags
			l.define(fs)
			l.defineAuto(fs)
			f.define(fs)
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) != 1 && len(args) != 2 {
					return usageError("one host is needed, and perhaps the length of the packets")
				}
				if err := f.check(args[1:]); err != nil {
					return err
				}
				var err error
				if l.dns, err = nameServers(f.dns); err != nil {
					return err
				}
				if err := l.checkFlags(); err != nil {
					return err
				}
				return l.use(ctx, t, func(ctx context.Context, n *network) error {
					return f.run(ctx, t, n.host, args[0])
				})
			}
		},
		more: `Each line is a hop: its routers, and the time until each answer. BYTES is the length of the packets with
their headers, 60 by default (80 over IPv6); a SYN always has 44 (64). What may follow a time:
  *         no answer
  !H !N !P  host, network or protocol unreachable
  !X        prohibited by an administrator
  !F-MTU    the packet is too large for a link, and -F forbids fragments
  !S !V !C  source route failed, precedence violation, precedence cutoff
  !<CODE>   unreachable with another code
The exit code is 1 if the destination has not answered.

Examples:
  usernet traceroute 198.51.100.6          UDP datagrams, as traceroute on Linux
  usernet traceroute -T -p 443 -n 2001:db8:2::2
  usernet traceroute -I -auto -i eth0 www.example.com
`,
	}
}

// traceFlags are the flags of traceroute, with the names that Linux's traceroute uses.
type traceFlags struct {
	fs *flag.FlagSet
	family
	icmp, tcp, numeric, dontFragment bool
	port, tos                        int
	wait, interval                   float64
	dns                              string
	bytes                            int // length of the packets; 0: the default
	cfg                              usernet.TracerouteConfig
}

// A family is the choice of -4 and -6.
type family struct{ four, six bool }

func (f *family) define(fs *flag.FlagSet) {
	fs.BoolVar(&f.four, "4", false, "use IPv4")
	fs.BoolVar(&f.six, "6", false, "use IPv6")
}

// network adds the family to the name of a network, such as "tcp".
func (f *family) network(name string) string {
	switch {
	case f.four:
		return name + "4"
	case f.six:
		return name + "6"
	}
	return name
}

// check returns an error if both flags are set.
func (f *family) check() error {
	if f.four && f.six {
		return usageError("-4 and -6: there is only one destination")
	}
	return nil
}

// lookup returns the first address of a host.
func (f *family) lookup(ctx context.Context, h *usernet.Host, host string) (netip.Addr, error) {
	addrs, err := h.LookupNetIP(ctx, f.network("ip"), host)
	if err != nil {
		return netip.Addr{}, err
	}
	if len(addrs) == 0 {
		return netip.Addr{}, fmt.Errorf("%s: no suitable address found", host)
	}
	return addrs[0].Unmap(), nil
}

func (f *traceFlags) define(fs *flag.FlagSet) {
	f.fs = fs
	f.family.define(fs)
	fs.BoolVar(&f.icmp, "I", false, "send ICMP echo requests instead of UDP datagrams")
	fs.BoolVar(&f.tcp, "T", false, "send TCP SYN segments instead of UDP datagrams")
	fs.BoolVar(&f.numeric, "n", false, "print addresses without their names")
	fs.BoolVar(&f.dontFragment, "F", false, "forbid the fragmentation of the packets")
	fs.IntVar(&f.port, "p", 0, "destination `port`: of TCP, by default 80; of the first UDP datagram, by default 33434; for -I, the first sequence number")
	fs.IntVar(&f.cfg.FirstTTL, "f", 1, "start at `hop`, 1 to 255")
	fs.IntVar(&f.cfg.MaxTTL, "m", 30, "end at `hop`, 1 to 255")
	fs.IntVar(&f.cfg.Probes, "q", 3, "`packets` for each hop, 1 to 10")
	fs.IntVar(&f.cfg.Parallel, "N", 16, "`packets` that may wait for answers at the same time")
	fs.Float64Var(&f.wait, "w", 3, "`seconds` to wait for an answer")
	fs.Float64Var(&f.interval, "z", 0, "`seconds` from one packet to the next")
	fs.IntVar(&f.tos, "t", 0, "type of service or traffic class of the packets, 0 to 255 as a `number`")
	fs.StringVar(&f.dns, "dns", "", "`address` of a name server, with or without its port")
}

// check checks the flags and the other arguments, and sets f.cfg and f.bytes.
func (f *traceFlags) check(args []string) (err error) {
	const maxSeconds = 1e6
	if len(args) == 1 {
		if f.bytes, err = strconv.Atoi(args[0]); err != nil || f.bytes < 1 || f.bytes > 65000 {
			return usageError("the length of the packets is not from 1 to 65000")
		}
	}
	minPort := 1
	if f.icmp || !isSet(f.fs, "p") { // a sequence number, or the default
		minPort = 0
	}
	c := &f.cfg
	switch {
	case f.icmp && f.tcp:
		return usageError("-I and -T: there is only one kind of packets")
	case f.port < minPort || f.port > 65535:
		return usageError(fmt.Sprintf("-p is not from %d to 65535", minPort))
	case c.FirstTTL < 1 || c.FirstTTL > 255:
		return usageError("-f is not from 1 to 255")
	case c.MaxTTL < c.FirstTTL || c.MaxTTL > 255:
		return usageError(fmt.Sprintf("-m is not from %d to 255", c.FirstTTL))
	case c.Probes < 1 || c.Probes > 10:
		return usageError("-q is not from 1 to 10")
	case c.Parallel < 1 || c.Parallel > 10000:
		return usageError("-N is not from 1 to 10000")
	case !(f.wait > 0 && f.wait <= maxSeconds):
		return usageError("-w is not above 0 and up to 1000000")
	case !(f.interval >= 0 && f.interval <= maxSeconds):
		return usageError("-z is not from 0 to 1000000")
	case f.tos < 0 || f.tos > 255:
		return usageError("-t is not from 0 to 255")
	}
	c.Port, c.TOS, c.DontFragment = uint16(f.port), uint8(f.tos), f.dontFragment
	c.Timeout = time.Duration(f.wait * float64(time.Second))
	c.Interval = time.Duration(f.interval * float64(time.Second))
	switch {
	case f.icmp:
		c.Method = usernet.TraceICMP
	case f.tcp:
		c.Method = usernet.TraceTCP
	}
	return f.family.check()
}

// size sets f.bytes, if it has its default, and f.cfg.Size for a destination.
func (f *traceFlags) size(to netip.Addr) {
	headers := wire.IPv4Len
	if to.Is6() {
		headers = wire.IPv6Len
	}
	switch {
	case f.tcp:
		const syn = 24 // bytes of a SYN with its MSS option
		f.bytes = headers + syn
		return
	case f.bytes == 0:
		f.bytes = headers + 40
	}
	headers += wire.UDPLen // an echo request has as many
	f.bytes = max(f.bytes, headers)
	if f.cfg.Size = f.bytes - headers; f.cfg.Size == 0 {
		f.cfg.Size = -1
	}
}

// run traces the route to a host and prints it.
func (f *traceFlags) run(ctx context.Context, t terminal, h *usernet.Host, host string) error {
	to, err := f.lookup(ctx, h, host)
	if err != nil {
		return err
	}
	f.size(to)
	names := namer{ctx: ctx, host: h, off: f.numeric}
	fmt.Fprintf(t.out, "traceroute to %s (%v), %d hops max, %d byte packets\n", host, to, f.cfg.MaxTTL, f.bytes)
	reached := false
	f.cfg.OnHop = func(hop usernet.TraceHop) {
		printHop(t.out, hop, to.Is6(), names.name)
		for _, r := range hop.Replies {
			reached = reached || r.Final && r.Err == nil
		}
	}
	_, err = h.Traceroute(ctx, to.String(), f.cfg)
	if err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		return err
	}
	if !reached {
		return errQuiet
	}
	return nil
}

// printHop prints the line of a hop, as Linux's traceroute does. name returns how an address is printed.
func printHop(w io.Writer, hop usernet.TraceHop, six bool, name func(netip.Addr) string) {
	var b strings.Builder
	fmt.Fprintf(&b, "%2d ", hop.TTL)
	var last netip.Addr
	for _, r := range hop.Replies {
		switch {
		case errors.Is(r.Err, os.ErrDeadlineExceeded):
			b.WriteString(" *")
			continue
		case !r.From.IsValid(): // the host could not send it
			b.WriteString(" !H")
			continue
		}
		if r.From != last {
			b.WriteString(" " + name(r.From))
			last = r.From
		}
		fmt.Fprintf(&b, "  %.3f ms", milliseconds(r.RTT))
		if m := mark(&r, six); m != "" {
			b.WriteString(" " + m)
		}
	}
	fmt.Fprintln(w, b.String())
}

// mark returns what Linux's traceroute prints after the time of an answer.
func mark(r *usernet.TraceReply, six bool) string {
	if !r.ICMP || r.Err == nil {
		return ""
	}
	if r.MTU > 0 {
		return fmt.Sprintf("!F-%d", r.MTU)
	}
	var marks map[uint8]string
	switch {
	case six && wire.ICMPv6Type(r.Type) == wire.ICMPv6Unreachable:
		marks = map[uint8]string{wire.Unreach6NoRoute: "!N", wire.Unreach6Prohibited: "!X", wire.Unreach6BeyondScope: "!H", wire.Unreach6Address: "!H"}
	case six && wire.ICMPv6Type(r.Type) == wire.ICMPv6ParamProblem && r.Code == 1, // RFC 4443 3.4: unrecognized Next Header
		!six && wire.ICMPType(r.Type) == wire.ICMPUnreachable && r.Code == wire.UnreachProto:
		return "!P"
	case !six && wire.ICMPType(r.Type) == wire.ICMPUnreachable:
		marks = map[uint8]string{
			wire.UnreachNet: "!N", wire.UnreachNetUnknown: "!N", wire.UnreachHostIsolated: "!N", wire.UnreachNetTOS: "!N",
			wire.UnreachHost: "!H", wire.UnreachHostUnknown: "!H", wire.UnreachHostTOS: "!H",
			wire.UnreachNetProhibited: "!X", wire.UnreachHostProhibited: "!X", wire.UnreachAdminProhibited: "!X",
			wire.UnreachFragNeeded: "!F", wire.UnreachSourceRoute: "!S", 14: "!V", 15: "!C", // RFC 1812 5.2.7.1
		}
	}
	if m, ok := marks[r.Code]; ok {
		return m
	}
	return fmt.Sprintf("!<%d>", r.Code)
}

// A namer finds the names of addresses. It asks once for each address.
type namer struct {
	ctx   context.Context
	host  *usernet.Host
	off   bool // addresses are printed without names
	known map[netip.Addr]string
}

// nameTime is how long a namer waits for a name.
const nameTime = 5 * time.Second

// name returns "name (address)", or only the address if off is set. The name of an address without a name
// is the address.
func (n *namer) name(a netip.Addr) string {
	if n.off {
		return a.String()
	}
	if s, ok := n.known[a]; ok {
		return s
	}
	ctx, cancel := context.WithTimeout(n.ctx, nameTime)
	defer cancel()
	s := a.String()
	if names, err := n.host.Resolver().LookupAddr(ctx, s); err == nil && len(names) > 0 {
		s = strings.TrimSuffix(names[0], ".")
	}
	if n.known == nil {
		n.known = make(map[netip.Addr]string)
	}
	n.known[a] = fmt.Sprintf("%s (%v)", s, a)
	return n.known[a]
}
