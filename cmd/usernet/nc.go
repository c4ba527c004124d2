package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/resolve"
)

// ncCommand returns the command nc, which sends what it reads from in.
func ncCommand(in io.Reader) command {
	return command{
		name: "nc",
		args: "HOST PORT, or -l PORT",
		what: "connects standard input and output to TCP or UDP, as netcat does",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			f := ncFlags{in: &pump{r: in}}
			l.define(fs)
			l.defineAuto(fs)
			f.define(fs)
			return func(ctx context.Context, t terminal, args []string) error {
				if err := f.check(args); err != nil {
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
					if n.peer != nil {
						// On a wire in memory there is no other server, so the second host runs some.
						s := services{log: n.log}
						defer s.close()
						if err := s.start(n.peer, nil, nil); err != nil {
							return err
						}
					}
					return f.run(ctx, t, n.host)
				})
			}
		},
		more: `The flags have the meaning of those of OpenBSD's netcat. A connection ends when both sides have closed it;
with -l, when the other side has.

Examples:
  usernet nc 192.0.2.1 7
  usernet nc -N 192.0.2.1 8000 < request        with the end of the file, our side is closed
  usernet nc -l 8000 > file                     wait for a connection
  usernet nc -u -l -k 6969                      print the datagrams of everybody
  usernet nc -z 192.0.2.1 20-25                 which ports are open?
`,
	}
}

// ncFlags are the flags of nc.
type ncFlags struct {
	family
	in                             *pump
	listen, udp, zero, keep, shutN bool
	wait                           float64
	source                         int
	dns                            string
	host                           string
	ports                          portList
}

func (f *ncFlags) define(fs *flag.FlagSet) {
	f.family.define(fs)
	fs.BoolVar(&f.listen, "l", false, "wait for a connection instead of connecting; the arguments are [ADDR] PORT")
	fs.BoolVar(&f.udp, "u", false, "UDP instead of TCP")
	fs.BoolVar(&f.zero, "z", false, "only report which ports accept connections; send no data")
	fs.BoolVar(&f.keep, "k", false, "with -l, wait for the next connection after one has ended")
	fs.BoolVar(&f.shutN, "N", false, "close our side of the connection at the end of standard input")
	fs.Float64Var(&f.wait, "w", 0, "give up after `seconds` without a connection or data; 0: never")
	fs.IntVar(&f.source, "p", 0, "connect from this `port`")
	fs.StringVar(&f.dns, "dns", "", "`address` of a name server, with or without its port")
}

// check checks the flags and the arguments, and sets f.host and f.ports.
func (f *ncFlags) check(args []string) error {
	switch {
	case f.listen && len(args) == 1:
		args = append([]string{""}, args...)
	case f.listen && len(args) != 2:
		return usageError("-l needs a port, and perhaps an address before it")
	case len(args) != 2:
		return usageError("a host and a port are needed")
	}
	f.host = args[0]
	if err := f.ports.Set(args[1]); err != nil {
		return usageError(err.Error())
	}
	switch {
	case f.listen && f.zero:
		return usageError("-l and -z: nothing is sent to a listener")
	case f.keep && !f.listen:
		return usageError("-k without -l")
	case f.source != 0 && f.listen:
		return usageError("-p with -l: the port is an argument")
	case f.source < 0 || f.source > 65535:
		return usageError("-p is not from 0 to 65535")
	case !(f.wait >= 0 && f.wait <= 1e6):
		return usageError("-w is not from 0 to 1000000")
	case len(f.ports) > 1 && !f.zero:
		return usageError("several ports without -z")
	case f.zero && f.source != 0:
		return usageError("-p with -z")
	}
	return f.family.check()
}

// network returns the network for dials and listeners.
func (f *ncFlags) network() string {
	if f.udp {
		return f.family.network("udp")
	}
	return f.family.network("tcp")
}

func (f *ncFlags) run(ctx context.Context, t terminal, h *usernet.Host) error {
	switch {
	case f.zero:
		return f.probe(ctx, t, h)
	case f.listen && f.udp:
		return f.listenUDP(ctx, t, h)
	case f.listen:
		return f.listenTCP(ctx, t, h)
	}
	c, err := f.dial(ctx, h, f.ports[0])
	if err != nil {
		return err
	}
	return f.relay(ctx, t, c)
}

// dial connects to a port.
func (f *ncFlags) dial(ctx context.Context, h *usernet.Host, port uint16) (net.Conn, error) {
	d := usernet.Dialer{Host: h, Timeout: f.timeout()}
	switch {
	case f.source != 0 && f.udp:
		d.LocalAddr = &net.UDPAddr{Port: f.source}
	case f.source != 0:
		d.LocalAddr = &net.TCPAddr{Port: f.source}
	}
	return d.DialContext(ctx, f.network(), net.JoinHostPort(f.host, strconv.Itoa(int(port))))
}

// timeout returns the value of -w; 0 means none.
func (f *ncFlags) timeout() time.Duration { return time.Duration(f.wait * float64(time.Second)) }

// probe reports for each port whether it is open. It fails if none is.
func (f *ncFlags) probe(ctx context.Context, t terminal, h *usernet.Host) error {
	network, open := f.network()[:3], false
	for _, port := range f.ports {
		c, err := f.dial(ctx, h, port)
		if err == nil {
			if f.udp {
				err = probeUDP(ctx, c, cmp.Or(f.timeout(), time.Second))
			}
			c.Close()
		}
		switch {
		case ctx.Err() != nil:
			return interrupted(ctx)
		case err != nil:
			fmt.Fprintln(t.err, err)
			continue
		}
		open = true
		fmt.Fprintf(t.err, "Connection to %s %d port [%s/%s] succeeded!\n", f.host, port, network, cmp.Or(resolve.ServiceName(network, int(port)), "*"))
	}
	if !open {
		return errQuiet
	}
	return nil
}

// probeUDP sends a datagram and waits for an ICMP error until the timeout. No answer counts as success.
func probeUDP(ctx context.Context, c net.Conn, timeout time.Duration) error {
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if _, err := c.Write([]byte("X")); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(timeout))
	if _, err := c.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// listenTCP serves one connection or, with -k, all connections one after the other.
func (f *ncFlags) listenTCP(ctx context.Context, t terminal, h *usernet.Host) error {
	ln, err := h.Listen(f.network(), net.JoinHostPort(f.host, strconv.Itoa(int(f.ports[0]))))
	if err != nil {
		return err
	}
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for {
		c, err := ln.Accept()
		if err != nil {
			return unlessEnded(ctx, err)
		}
		if !f.keep {
			ln.Close()
		}
		if err := f.relay(ctx, t, c); err != nil || !f.keep {
			return err
		}
	}
}

// unlessEnded returns err, or nil if ctx has ended: a Ctrl-C is the usual end of nc.
func unlessEnded(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// listenUDP prints datagrams. Without -k, the first datagram chooses the peer, and standard input is sent to
// it.
func (f *ncFlags) listenUDP(ctx context.Context, t terminal, h *usernet.Host) error {
	pc, err := h.ListenPacket(f.network(), net.JoinHostPort(f.host, strconv.Itoa(int(f.ports[0]))))
	if err != nil {
		return err
	}
	defer pc.Close()
	defer context.AfterFunc(ctx, func() { pc.Close() })()
	u := pc.(*usernet.UDPConn)
	b := make([]byte, 1<<16)
	if f.keep {
		for {
			n, _, err := u.ReadFromUDPAddrPort(b)
			if err != nil {
				return unlessEnded(ctx, err)
			}
			if _, err := t.out.Write(b[:n]); err != nil {
				return err
			}
		}
	}
	n, from, err := u.ReadFromUDPAddrPort(b)
	if err != nil {
		return unlessEnded(ctx, err)
	}
	if _, err := t.out.Write(b[:n]); err != nil {
		return err
	}
	return f.relay(ctx, t, &udpPeer{u, from})
}

// A udpPeer is an unconnected socket that sends to one address and receives from it only.
type udpPeer struct {
	*usernet.UDPConn
	peer netip.AddrPort
}

func (c *udpPeer) Read(b []byte) (int, error) {
	for {
		n, from, err := c.ReadFromUDPAddrPort(b)
		if err != nil || from == c.peer {
			return n, err
		}
	}
}

func (c *udpPeer) Write(b []byte) (int, error) { return c.WriteToUDPAddrPort(b, c.peer) }

// A pump reads standard input for successive connections. No call can interrupt a Read. A Read that is in
// progress when a connection ends therefore continues, and the next connection gets its data.
type pump struct {
	r      io.Reader
	once   sync.Once
	chunks chan []byte // closed at the end
	err    error       // of the last Read, unless it is io.EOF; valid when chunks is closed
}

// start starts the reading, on its first call. A chunk is valid until the next one is received.
func (p *pump) start() {
	p.once.Do(func() {
		p.chunks = make(chan []byte)
		go func() {
			defer close(p.chunks)
			var bufs [2][16 << 10]byte
			for i := 0; ; i = 1 - i {
				n, err := p.r.Read(bufs[i][:])
				if n > 0 {
					p.chunks <- bufs[i][:n]
				}
				if err != nil {
					if err != io.EOF {
						p.err = err
					}
					return
				}
			}
		}()
	})
}

// A relay is the state of a call of ncFlags.relay.
type relay struct {
	*ncFlags
	conn net.Conn
	idle *time.Timer   // nil without -w
	over chan struct{} // closed at the end of the call
}

// relay copies standard input to c, and from c to standard output. It closes c.
func (f *ncFlags) relay(ctx context.Context, t terminal, c net.Conn) error {
	r := &relay{ncFlags: f, conn: c, over: make(chan struct{})}
	defer close(r.over)
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	idle := make(chan struct{})
	if f.wait > 0 {
		r.idle = time.AfterFunc(f.timeout(), sync.OnceFunc(func() {
			close(idle)
			c.Close()
		}))
		defer r.idle.Stop()
	}
	f.in.start()
	sent, received := make(chan error, 1), make(chan error, 1)
	go func() { sent <- r.send() }()
	go func() { received <- r.receive(t.out) }()
	var err error
	for in, out := true, true; in || out; {
		select {
		case err = <-sent:
			out = false
			if err != nil || f.udp && f.shutN { // the peer of a datagram socket does not see the end
				in = false
			}
		case err = <-received:
			in = false
			if err != nil || f.listen || f.udp {
				out = false
			}
		}
	}
	select {
	case <-idle: // the errors are those of the Close
		return nil
	default:
	}
	if tcp, ok := c.(*usernet.TCPConn); ok && err == nil {
		drain(ctx, tcp)
	}
	return unlessEnded(ctx, err)
}

// drainSeconds is how long drain waits for the acknowledgment of the data.
const drainSeconds = 10

// drain closes a connection and waits until the peer has acknowledged all data, because the host is closed next and then
// resets its connections.
func drain(ctx context.Context, c *usernet.TCPConn) {
	c.SetLinger(drainSeconds)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		c.Close()
	}()
	select {
	case <-closed:
	case <-ctx.Done():
	}
}

// active restarts the idle time of -w. It is called when data is sent or received.
func (r *relay) active() {
	if r.idle != nil {
		r.idle.Reset(r.timeout())
	}
}

// send copies standard input to the connection, until the end of the input or of the relay. For UDP, the bytes that
// one Read returns are a datagram.
func (r *relay) send() error {
	for {
		select {
		case b, ok := <-r.in.chunks:
			if !ok {
				return r.inputEnded()
			}
			r.active()
			if _, err := r.conn.Write(b); err != nil {
				return err
			}
		case <-r.over:
			return nil
		}
	}
}

// inputEnded handles the end of standard input.
func (r *relay) inputEnded() error {
	c, ok := r.conn.(*usernet.TCPConn)
	if !ok || !r.shutN || r.in.err != nil {
		return r.in.err
	}
	if err := c.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return err
	}
	return nil
}

// receive copies from the connection to w until the peer has closed its side.
func (r *relay) receive(w io.Writer) error {
	b := make([]byte, 1<<16)
	for {
		n, err := r.conn.Read(b)
		if n > 0 {
			r.active()
			if _, err := w.Write(b[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
