package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/accept"
)

// The ports of the two services, RFC 862 and RFC 863.
const (
	echoPort    = 7
	discardPort = 9
)

// ports is the value of a flag that may be given several times.
type ports []uint16

func (p *ports) String() string { return "" }

func (p *ports) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return fmt.Errorf("not a port from 1 to 65535")
	}
	*p = append(*p, uint16(n))
	return nil
}

func echoCommand() command {
	return command{
		name: "echo",
		what: "answers on TCP echo (7), TCP discard (9) and UDP echo (7)",
		define: func(fs *flag.FlagSet) func(context.Context, terminal, []string) error {
			var l linkFlags
			var tcp, udp ports
			var drops dropFlags
			l.define(fs)
			drops.define(fs)
			l.defineAuto(fs)
			fs.Var(&tcp, "tcp-echo", "a further TCP echo `port`; may be given several times")
			fs.Var(&udp, "udp-echo", "a further UDP echo `port`; may be given several times")
			return func(ctx context.Context, t terminal, args []string) error {
				if len(args) > 0 {
					return usageError(fmt.Sprintf("unexpected argument %q", args[0]))
				}
				if err := checkPorts(tcp, udp); err != nil {
					return err
				}
				if err := l.checkFlags(); err != nil {
					return err
				}
				return runEcho(ctx, t, &l, &drops, tcp, udp)
			}
		},
		more: `Examples:
  usernet echo                                  then: nc 192.0.2.2 7
  usernet echo -tcp-echo 7777 -udp-echo 6969    then: nc -u 192.0.2.2 6969
  usernet echo -addr 192.168.69.1/24 -host-addr 192.168.69.100/24 -udp-echo 6969
`,
	}
}

// checkPorts returns an error if two services have the same port.
func checkPorts(tcp, udp ports) error {
	for _, c := range []struct {
		flag        string
		taken, more ports
	}{{"-tcp-echo", ports{echoPort, discardPort}, tcp}, {"-udp-echo", ports{echoPort}, udp}} {
		for _, port := range c.more {
			if slices.Contains(c.taken, port) {
				return usageError(fmt.Sprintf("%s %d: the port already has a service", c.flag, port))
			}
			c.taken = append(c.taken, port)
		}
	}
	return nil
}

// services are the servers of the echo command. The method close closes their listeners and sockets.
type services struct {
	log     *slog.Logger
	closers []io.Closer
}

func runEcho(ctx context.Context, t terminal, l *linkFlags, drops *dropFlags, tcp, udp ports) error {
	log := l.newLog(t, slog.LevelInfo)
	n, err := l.open(t, log)
	if err != nil {
		return err
	}
	s := services{log: log}
	endDrops, err := drops.print(n.host, t.err)
	if err != nil {
		n.Close()
		return err
	}
	defer endDrops()
	err = n.awaitAddrs(ctx, l)
	if err == nil {
		err = s.start(n.host, tcp, udp)
	}
	if err != nil {
		s.close()
		n.Close()
		return err
	}
	fmt.Fprintf(t.out, "echo on %s (Ctrl-C ends)\n", n.addrs())
	select {
	case <-ctx.Done():
	case err = <-n.down:
		err = fmt.Errorf("the link has failed: %w", err)
	}
	s.close()
	if cerr := n.Close(); err == nil {
		err = cerr
	}
	return err
}

// start starts all services. An error names the port on which start could not listen.
func (s *services) start(h *usernet.Host, tcp, udp ports) error {
	for _, port := range append(ports{echoPort}, tcp...) {
		if err := s.startTCP(h, port, "echo", echo); err != nil {
			return err
		}
	}
	if err := s.startTCP(h, discardPort, "discard", discard); err != nil {
		return err
	}
	for _, port := range append(ports{echoPort}, udp...) {
		c, err := h.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		s.closers = append(s.closers, c)
		s.log.Info("service", "name", "echo", "proto", "udp", "addr", c.LocalAddr())
		go echoPackets(c, s.log)
	}
	return nil
}

func (s *services) startTCP(h *usernet.Host, port uint16, name string, serve func(net.Conn) error) error {
	ln, err := h.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	s.closers = append(s.closers, ln)
	s.log.Info("service", "name", name, "proto", "tcp", "addr", ln.Addr())
	go acceptLoop(ln, s.log, serve)
	return nil
}

func (s *services) close() {
	for _, c := range s.closers {
		c.Close()
	}
}

// acceptLoop accepts and serves connections until the listener is closed.
func acceptLoop(ln net.Listener, log *slog.Logger, serve func(net.Conn) error) {
	acceptAll(context.Background(), ln, log, func(c net.Conn) {
		go func() {
			defer c.Close()
			log.Debug("accepted", "local", c.LocalAddr(), "remote", c.RemoteAddr())
			if err := serve(c); err != nil && !errors.Is(err, net.ErrClosed) {
				log.Debug("ended", "remote", c.RemoteAddr(), "err", err)
			}
		}()
	})
}

// acceptAll accepts connections and calls serve for each, until the listener is closed or ctx ends. It logs
// the errors of Accept, waits after temporary ones, and returns after any other.
func acceptAll(ctx context.Context, ln net.Listener, log *slog.Logger, serve func(net.Conn)) {
	err := accept.Serve(ctx, ln, func(err error, wait time.Duration) {
		log.Warn("accept", "err", err, "wait", wait)
	}, serve)
	if err != nil {
		log.Error("accept", "err", err)
	}
}

// echo sends back the received data until the peer ends the stream.
func echo(c net.Conn) error {
	_, err := io.Copy(c, c)
	return err
}

// discard reads and drops data until the peer ends the stream.
func discard(c net.Conn) error {
	_, err := io.Copy(io.Discard, c)
	return err
}

// echoPackets sends each datagram for which mayEcho reports true back to its sender, until the connection is closed.
func echoPackets(c net.PacketConn, log *slog.Logger) {
	buf := make([]byte, 1<<16)
	for {
		n, from, err := c.ReadFrom(buf)
		if err == nil && mayEcho(from) {
			_, err = c.WriteTo(buf[:n], from)
		}
		switch {
		case err == nil:
		case errors.Is(err, net.ErrClosed):
			return
		default:
			log.Debug("udp echo", "from", from, "err", err)
		}
	}
}

// mayEcho reports whether a datagram may be sent back to an address. The services echo, daytime, quotd, chargen and time
// answer each datagram (RFC 862, 867, 865, 864, 868), so mayEcho reports false for their ports. Otherwise the two servers
// would send datagrams to each other without end.
func mayEcho(from net.Addr) bool {
	u, ok := from.(*net.UDPAddr)
	return ok && !slices.Contains([]int{echoPort, 13, 17, 19, 37}, u.Port)
}
