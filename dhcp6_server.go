package usernet

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// DHCP6ServerConfig configures a DHCPv6 server of a host.
type DHCP6ServerConfig struct {
	// Server has the pools, reservations and options. If Server.DUID is nil, it is made from the MAC. If
	// Server.Prefix is invalid, it is the network of the first IPv6 address of the interface that is not
	// link-local. Without Pools and Reservations, the server is stateless.
	Server dhcp.ServerConfig6
	// OnEvent, if not nil, is called for each new, extended and ended lease, one after the other. It may
	// call the methods of the DHCP6Server except Close.
	OnEvent func(dhcp.ServerEvent6)
}

// A DHCP6Server is a DHCPv6 server on an interface of a host: see Host.ServeDHCP6. Its methods may be called by
// several goroutines at the same time.
type DHCP6Server struct {
	h     *Host
	all   *dhcp6
	conn  *stack.UDP
	nic   string
	index int
	event func(dhcp.ServerEvent6)
	timer *time.Timer // for the next step

	stopWatch func() // guarded by all.mu

	mu      sync.Mutex
	changed sync.Cond
	machine *dhcp.Server6
	inbox   []dhcp6Query
	turn    bool
	ended   bool
	dropped uint64
}

// A dhcp6Query is a message that a server has received.
type dhcp6Query struct {
	m    *dhcp.Message6
	from netip.AddrPort
}

// ServeDHCP6 starts a DHCPv6 server on an interface (RFC 8415). An empty nicName means the only link. The server
// assigns addresses, or without pools only gives the other settings, until the server, the host or the interface
// is closed. Clients ask it if a router advertises the flags M or O: see stack.RouterConfig. The server does not
// delegate prefixes and does not serve relay agents.
//
// The errors are ENODEV if there is no such interface, EINVAL if the interface is not an Ethernet or cfg cannot
// work, EAFNOSUPPORT without IPv6, EEXIST if the interface already has a server, EADDRINUSE if a socket of the
// host uses UDP port 547, and net.ErrClosed.
func (h *Host) ServeDHCP6(nicName string, cfg DHCP6ServerConfig) (*DHCP6Server, error) {
	d, err := h.serveDHCP6(nicName, cfg)
	if err != nil && err != net.ErrClosed {
		return nil, fmt.Errorf("usernet: DHCPv6 server: %w", err)
	}
	return d, err
}

func (h *Host) serveDHCP6(nicName string, cfg DHCP6ServerConfig) (*DHCP6Server, error) {
	info, err := h.linkNamed(nicName)
	if err != nil {
		return nil, err
	}
	if err := checkEthernet(&info); err != nil {
		return nil, err
	}
	if cfg.Server.DUID == nil {
		cfg.Server.DUID = dhcp.DUIDFromMAC(info.MAC)
	}
	if i := slices.IndexFunc(info.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() && !p.Addr().IsLinkLocalUnicast() }); i >= 0 && !cfg.Server.Prefix.IsValid() {
		cfg.Server.Prefix = info.Addrs[i].Masked()
	}
	machine, err := dhcp.NewServer6(cfg.Server, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, syscall.EINVAL)
	}
	h.dhcp6.CompareAndSwap(nil, new(dhcp6))
	d := &DHCP6Server{h: h, all: h.dhcp6.Load(), nic: info.Name, index: info.Index, event: cfg.OnEvent, machine: machine}
	d.changed.L = &d.mu
	d.timer = time.AfterFunc(time.Hour, d.step)
	d.timer.Stop() // until step or receive sets it
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	if d.all.closed {
		return nil, net.ErrClosed
	}
	d.mu.Lock() // messages wait until the server is complete
	d.conn, err = d.all.serverPort.open(h.stack, dhcp.ServerPort6, d.index, d.receive)
	d.mu.Unlock() // Join sends, and this goroutine may then receive
	if err != nil {
		return nil, err
	}
	if err := d.conn.Join(dhcp.AllServers6(), d.index); err != nil {
		d.all.serverPort.close(d.index)
		return nil, err
	}
	d.stopWatch = h.stack.OnChange(d.look)
	d.all.servers = append(d.all.servers, d)
	return d, nil
}

// look ends the server if its interface was removed.
func (d *DHCP6Server) look() {
	infos := d.h.stack.Interfaces()
	if !slices.ContainsFunc(infos, func(info stack.InterfaceInfo) bool { return info.Index == d.index }) {
		d.Close()
	}
}

// receive queues a message. It does not block, because it runs on the goroutine that received the packet.
func (d *DHCP6Server) receive(b []byte, from netip.AddrPort, dst netip.Addr) {
	if !dst.IsMulticast() {
		// RFC 8415 16: "A server MUST discard any Solicit, Confirm, Rebind, or Information-request messages
		// it receives with a Layer 3 unicast destination address." The server offers no unicast option.
		return
	}
	m, err := dhcp.ParseMessage6(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.ended || err != nil:
	case len(d.inbox) == maxDHCPQueries:
		d.dropped++
	default:
		d.inbox = append(d.inbox, dhcp6Query{m, from})
		d.timer.Reset(0)
	}
}

// step processes the received messages and does what is due, unless another goroutine is doing so: that one
// looks again after it has sent the replies.
func (d *DHCP6Server) step() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turn {
		return
	}
	d.turn = true
	for !d.ended {
		now := time.Now()
		inbox := d.inbox
		d.inbox = nil
		var replies []dhcp6Query
		for _, q := range inbox {
			if r := d.machine.Receive(now, q.m); r != nil {
				replies = append(replies, dhcp6Query{r, q.from})
			}
		}
		d.machine.Tick(now)
		var events []dhcp.ServerEvent6
		for e, ok := d.machine.NextEvent(); ok; e, ok = d.machine.NextEvent() {
			events = append(events, e)
		}
		if len(inbox)+len(events) == 0 {
			break
		}
		d.mu.Unlock()
		end := now.Add(dhcpSendTime)
		for _, r := range replies {
			_, err := d.conn.WriteToBefore(end, r.m.Append(nil), r.from, stack.SendOptions{NIC: d.index})
			if err != nil && !errors.Is(err, net.ErrClosed) {
				d.log(slog.LevelDebug, "DHCPv6 reply not sent", "type", r.m.Type, "to", r.from, "err", err)
			}
		}
		for _, e := range events {
			d.report(e)
		}
		d.mu.Lock()
	}
	d.turn = false
	d.changed.Broadcast()
	if at := d.machine.Deadline(); d.ended || at.IsZero() {
		d.timer.Stop()
	} else {
		d.timer.Reset(max(0, time.Until(at)) + time.Duration(-at.UnixNano()&63)) // see dhcp6Client.arm
	}
}

// report logs an event and calls OnEvent.
func (d *DHCP6Server) report(e dhcp.ServerEvent6) {
	if e.Kind != dhcp.Extended {
		d.log(slog.LevelInfo, "DHCPv6 address "+e.Kind.String(), "addr", e.Binding.Addr, "duid", fmt.Sprintf("%x", e.Binding.DUID), "until", e.Binding.Until)
	}
	if d.event != nil {
		d.event(e)
	}
}

func (d *DHCP6Server) log(level slog.Level, text string, args ...any) {
	d.h.logOn(d.nic, level, text, args...)
}

// Bindings returns the addresses that are assigned or in use by other nodes, in their order.
func (d *DHCP6Server) Bindings() iter.Seq[dhcp.Binding6] {
	return func(yield func(dhcp.Binding6) bool) {
		d.mu.Lock()
		all := slices.Collect(d.machine.Bindings())
		d.mu.Unlock()
		for _, b := range all {
			if !yield(b) {
				return
			}
		}
	}
}

// Stats returns the counters of the server, and how many messages it has dropped because too many others
// waited.
func (d *DHCP6Server) Stats() (stats dhcp.ServerStats6, dropped uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.machine.Stats(), d.dropped
}

// Close ends the server. It waits until a running call of OnEvent has returned. Clients keep their leases. A
// second Close returns net.ErrClosed.
func (d *DHCP6Server) Close() error {
	d.mu.Lock()
	if d.ended {
		d.mu.Unlock()
		return net.ErrClosed
	}
	d.ended = true
	d.timer.Stop()
	d.mu.Unlock()
	d.all.mu.Lock()
	d.stopWatch()
	d.all.servers = slices.DeleteFunc(d.all.servers, func(x *DHCP6Server) bool { return x == d })
	d.conn.Leave(dhcp.AllServers6(), d.index)
	d.all.serverPort.close(d.index)
	d.all.mu.Unlock()
	d.mu.Lock()
	for d.turn {
		d.changed.Wait()
	}
	d.mu.Unlock()
	return nil
}
