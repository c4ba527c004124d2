package usernet

import (
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// DHCP6ServerConfig configures a DHCPv6 server of a host.
type DHCP6ServerConfig struct {
	// Server has the pools, reservations and options. If Server.DUID is nil, ServeDHCP6 makes the DUID from the
	// MAC. If Server.Prefix is invalid, the prefix is the network of the first IPv6 address of the interface that is not
	// link-local. Without Pools, Reservations, Delegated and Relayed, the server is stateless.
	Server dhcp.ServerConfig6
	// OnEvent, if not nil, is called for each event of the server: a new, extended, returned or ended lease, or an
	// address that another node uses. The calls do not overlap. OnEvent may call the methods of the DHCP6Server
	// except Close. It must not call Host.Close either: both wait until OnEvent has returned.
	OnEvent func(dhcp.ServerEvent6)
}

// A DHCP6Server is a DHCPv6 server on an interface of a host: see Host.ServeDHCP6. Its methods may be called by
// several goroutines at the same time.
type DHCP6Server struct {
	linkRunner
	all   *linkSet[*DHCP6Server]
	event func(dhcp.ServerEvent6)
	// relayed is set if the server serves relay agents.
	relayed bool

	// The following fields are guarded by mu.
	machine *dhcp.Server6
	replies []dhcp6Reply
}

// A dhcp6Reply is an encoded message that a server sends.
type dhcp6Reply struct {
	b  []byte
	to netip.AddrPort
}

// ServeDHCP6 starts a DHCPv6 server on an interface (RFC 8415). An empty nicName means the only link. The server
// assigns addresses until the server, the host or the interface is closed. A stateless server (see
// DHCP6ServerConfig.Server) only gives the other settings. Clients ask a server only if a router advertises the flag M
// or the flag O: see stack.RouterConfig. The server delegates prefixes from the pools in cfg.Server.Delegated, and
// answers relay agents only for the links in cfg.Server.Relayed.
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
	d := &DHCP6Server{all: setOf(&h.dhcp6Servers), event: cfg.OnEvent, relayed: len(cfg.Server.Relayed) > 0, machine: machine}
	d.init(h, &info, maxDHCPQueries, d.round)
	if err := d.all.add(d); err != nil {
		return nil, err
	}
	for _, g := range d.groups() {
		if err := d.conn.Join(g, d.index); err != nil {
			d.Close()
			return nil, err
		}
	}
	d.do(nil) // work schedules the ends of the leases in cfg.Server.Bindings
	return d, nil
}

// groups returns the multicast groups to which clients and relay agents send.
func (d *DHCP6Server) groups() []netip.Addr {
	if d.relayed {
		return []netip.Addr{dhcp.AllServers6(), dhcp.RelayedServers6()}
	}
	return []netip.Addr{dhcp.AllServers6()}
}

func (d *DHCP6Server) socket() (stack.Family, uint16, string, bool) {
	return stack.Family6, dhcp.ServerPort6, "server", true
}

// look ends the server if its interface was removed.
func (d *DHCP6Server) look() {
	if d.link() == nil {
		go d.Close() // Close waits for OnEvent
	}
}

// receive queues a message.
func (d *DHCP6Server) receive(b []byte, from netip.AddrPort, meta stack.Meta) {
	if dhcp.IsRelayed6(b) {
		d.receiveRelayed(b, from)
		return
	}
	if !meta.Dst.IsMulticast() || !d.room() {
		// RFC 8415 16: "A server MUST discard any Solicit, Confirm, Rebind, or Information-request messages
		// it receives with a Layer 3 unicast destination address." The server offers no unicast option.
		return
	}
	m, err := dhcp.ParseMessage6(b)
	if err != nil {
		return
	}
	d.put(func(now time.Time) {
		if r := d.machine.Receive(now, m); r != nil {
			d.replies = append(d.replies, dhcp6Reply{r.Append(nil), from})
		}
	})
}

// receiveRelayed queues a message of a relay agent. The relay agent may have sent the message by unicast.
//
// RFC 8415 19.3: the server sends the Relay-reply to the address from which the Relay-forward came. Relay agents use
// port 547 (7.2).
func (d *DHCP6Server) receiveRelayed(b []byte, from netip.AddrPort) {
	if !d.relayed || !d.room() {
		return
	}
	m, err := dhcp.ParseRelay6(b)
	if err != nil {
		return
	}
	d.put(func(now time.Time) {
		if r := d.machine.ReceiveRelayed(now, m); r != nil {
			d.replies = append(d.replies, dhcp6Reply{r.Append(nil), netip.AddrPortFrom(from.Addr(), dhcp.ServerPort6)})
		}
	})
}

// round processes the received messages and does what is due.
func (d *DHCP6Server) round(queue []func(time.Time)) (next time.Time) {
	d.mu.Lock()
	now := time.Now()
	for _, f := range queue {
		f(now)
	}
	d.machine.Tick(now)
	replies := d.replies
	d.replies = nil
	var events []dhcp.ServerEvent6
	for e, ok := d.machine.NextEvent(); ok; e, ok = d.machine.NextEvent() {
		events = append(events, e)
	}
	next = d.machine.Deadline()
	d.mu.Unlock()
	end := d.sendEnd()
	for _, r := range replies {
		_, err := d.conn.WriteToBefore(end, r.b, r.to, stack.SendOptions{NIC: d.index})
		if err != nil && !errors.Is(err, net.ErrClosed) {
			d.log(slog.LevelDebug, "DHCPv6 reply not sent", "to", r.to, "err", err)
		}
	}
	for _, e := range events {
		d.report(e)
	}
	return next
}

// report logs an event and calls OnEvent.
func (d *DHCP6Server) report(e dhcp.ServerEvent6) {
	if e.Kind != dhcp.Extended {
		what, addr := "address", e.Binding.Addr.String()
		if e.Binding.Bits > 0 {
			what, addr = "prefix", netip.PrefixFrom(e.Binding.Addr, e.Binding.Bits).String()
		}
		d.log(slog.LevelInfo, "DHCPv6 "+what+" "+e.Kind.String(), "addr", addr, "duid", fmt.Sprintf("%x", e.Binding.DUID), "until", e.Binding.Until)
	}
	if d.event != nil {
		d.event(e)
	}
}

// Bindings returns the assigned addresses, the addresses that other nodes use, and the assigned prefixes, in
// ascending order.
func (d *DHCP6Server) Bindings() iter.Seq[dhcp.Binding6] {
	return collected(&d.mu, d.machine.Bindings)
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
	if !d.end() {
		return net.ErrClosed
	}
	for _, g := range d.groups() {
		d.conn.Leave(g, d.index)
	}
	d.all.remove(d) // closes the socket of the last server, so that a waiting send returns
	d.wait()
	return nil
}

func (d *DHCP6Server) stop(time.Time) { d.Close() }
