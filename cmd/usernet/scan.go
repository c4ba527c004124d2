package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/resolve"
)

func scanCommand() command {
	return command{
		name: "scan",
		args: "HOST",
		what: "finds the open ports of a host",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var f scanFlags
			l.define(fs)
			l.defineAuto(fs)
			f.define(fs)
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) != 1 {
					return usageError("one host is needed")
				}
				if err := f.check(); err != nil {
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
		more: `The states of a port:
  open           a program accepts connections or answers datagrams
  closed         the host has refused
  filtered       no answer, or an ICMP error of a firewall
  open|filtered  no answer to datagrams: open, or filtered
A host limits the rate of its ICMP errors, so a scan of UDP ports becomes slower when answers are lost.
Scan only hosts whose owner agrees.

Examples:
  usernet scan 192.0.2.1                    the TCP ports below 1025, by connections
  usernet scan -sS -p 22,80,8000-8100 2001:db8::1
  usernet scan -sU -p 53,123,161 192.0.2.1
`,
	}
}

// scanFlags are the flags of scan. Those with the names of nmap's have the same meaning.
type scanFlags struct {
	family
	connect, syn, udp, open bool
	ports                   portList
	rate                    float64
	parallel, retries       int
	wait                    float64
	dns                     string
}

func (f *scanFlags) define(fs *flag.FlagSet) {
	f.family.define(fs)
	fs.BoolVar(&f.connect, "sT", false, "scan TCP by connections (the default)")
	fs.BoolVar(&f.syn, "sS", false, "scan TCP by SYN segments; connections are reset when they are half-open")
	fs.BoolVar(&f.udp, "sU", false, "scan UDP")
	fs.BoolVar(&f.open, "open", false, "print only ports that are or may be open")
	fs.Var(&f.ports, "p", "`ports`: numbers, names and ranges, such as 22,http,8000-8100; by default 1-1024")
	fs.Float64Var(&f.rate, "rate", 1000, "send at most this many `packets` (or connections) each second")
	fs.IntVar(&f.parallel, "parallel", 100, "`ports` that are probed at the same time")
	fs.IntVar(&f.retries, "retries", 2, "`times` that a packet without an answer is sent again")
	fs.Float64Var(&f.wait, "w", 1, "`seconds` to wait for an answer")
	fs.StringVar(&f.dns, "dns", "", "`address` of a name server, with or without its port")
}

func (f *scanFlags) check() error {
	switch {
	case f.syn && f.udp, f.syn && f.connect, f.udp && f.connect:
		return usageError("-sT, -sS and -sU: one scan at a time")
	case !(f.rate >= 0.1 && f.rate <= 1e6):
		return usageError("-rate is not from 0.1 to 1000000")
	case f.parallel < 1 || f.parallel > 10000:
		return usageError("-parallel is not from 1 to 10000")
	case f.retries < 0 || f.retries > 20:
		return usageError("-retries is not from 0 to 20")
	case !(f.wait >= 0.001 && f.wait <= 1e6):
		return usageError("-w is not from 0.001 to 1000000")
	}
	return f.family.check()
}

// A portList is the value of a flag for ports. The ports are in order, each once.
type portList []uint16

func (l *portList) String() string { return "" }

func (l *portList) Set(s string) error {
	names := resolve.New(resolve.Config{})
	port := func(s string) (int, error) {
		n, err := names.LookupPort(context.Background(), "ip", s)
		if err != nil || n == 0 || s == "" {
			return 0, fmt.Errorf("%q is no port from 1 to 65535", s)
		}
		return n, nil
	}
	for _, part := range strings.Split(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if _, err := strconv.Atoi(first); !isRange || err != nil { // a name may have a hyphen
			first, last = part, part
		}
		low, err := port(first)
		if err != nil {
			return err
		}
		high, err := port(last)
		if err != nil {
			return err
		}
		if high < low {
			return fmt.Errorf("%s: the range ends before it begins", part)
		}
		for p := low; p <= high; p++ {
			*l = append(*l, uint16(p))
		}
	}
	slices.Sort(*l)
	*l = slices.Compact(*l)
	return nil
}

// A portState is what a scan has found out about a port.
type portState string

const (
	stateOpen           portState = "open"
	stateClosed         portState = "closed"
	stateFiltered       portState = "filtered"
	stateOpenOrFiltered portState = "open|filtered"
)

// run scans a host and prints the result.
func (f *scanFlags) run(ctx context.Context, t terminal, h *usernet.Host, host string) error {
	to, err := f.lookup(ctx, h, host)
	if err != nil {
		return err
	}
	ports := f.ports
	if len(ports) == 0 {
		ports.Set("1-1024")
	}
	s := &scanner{
		host: h, to: to, udp: f.udp, ports: ports, parallel: f.parallel, tries: 1 + f.retries,
		interval: time.Duration(float64(time.Second) / f.rate),
		timeout:  time.Duration(f.wait * float64(time.Second)),
		states:   make(map[uint16]portState),
	}
	scan := s.connect
	if f.syn || f.udp {
		scan = s.raw
	}
	began := time.Now()
	if err := scan(ctx); err != nil {
		return err
	}
	fmt.Fprintf(t.out, "%s (%v): %d ports in %.1f s\n", host, to, len(ports), time.Since(began).Seconds())
	printPorts(t.out, s.network(), s.states, f.open)
	return nil
}

// manyPorts is a limit of printPorts: if so many ports or more are in a state other than "open", it prints only their
// number.
const manyPorts = 26

// printPorts prints a table of the ports, as nmap does.
func printPorts(w io.Writer, network string, states map[uint16]portState, onlyOpen bool) {
	counts := make(map[portState]int)
	for _, s := range states {
		counts[s]++
	}
	hidden := func(s portState) bool {
		return s != stateOpen && counts[s] >= manyPorts || onlyOpen && (s == stateClosed || s == stateFiltered)
	}
	var notShown []string
	order := slices.SortedFunc(maps.Keys(counts), func(a, b portState) int { return cmp.Or(counts[b]-counts[a], strings.Compare(string(a), string(b))) })
	for _, s := range order {
		if hidden(s) {
			notShown = append(notShown, fmt.Sprintf("%d %s", counts[s], s))
		}
	}
	if len(notShown) > 0 {
		fmt.Fprintf(w, "Not shown: %s\n", strings.Join(notShown, ", "))
	}
	head := false
	for _, port := range slices.Sorted(maps.Keys(states)) {
		if hidden(states[port]) {
			continue
		}
		if !head {
			fmt.Fprintf(w, "%-9s %-13s %s\n", "PORT", "STATE", "SERVICE")
			head = true
		}
		name := cmp.Or(resolve.ServiceName(network, int(port)), "unknown")
		fmt.Fprintf(w, "%-9s %-13s %s\n", fmt.Sprintf("%d/%s", port, network), states[port], name)
	}
}

// interrupted returns an error if ctx has ended.
func interrupted(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return errors.New("interrupted")
}

// A scanner scans the ports of one address.
type scanner struct {
	host     *usernet.Host
	to       netip.Addr
	udp      bool
	ports    []uint16
	parallel int
	tries    int           // how many times a port without an answer is probed
	interval time.Duration // from one probe to the next
	timeout  time.Duration
	states   map[uint16]portState
}

// network returns "tcp" or "udp".
func (s *scanner) network() string {
	if s.udp {
		return "udp"
	}
	return "tcp"
}
