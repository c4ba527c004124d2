package usernet

import (
	"encoding/binary"
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
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// DHCPServerConfig configures a DHCP server of a host. The zero value serves all free addresses of the
// interface's network for one hour each.
type DHCPServerConfig struct {
	// Server has the pools, reservations and options. If Server.ID is invalid, the ID is the first IPv4
	// address of the interface. If Server.Link.Prefix is invalid, the prefix is the network of Server.ID. If
	// Server.Link has neither Pools nor Reservations, the pool is the whole network.
	Server dhcp.ServerConfig4
	// OnEvent, if not nil, is called for each event of the server: a new, extended, returned or ended lease, or an
	// address that another machine uses. The calls do not overlap. OnEvent may call the methods of the DHCPServer
	// except Close. It must not call Host.Close either: both wait until OnEvent has returned.
	OnEvent func(dhcp.ServerEvent4)
}

// DHCPServerStats are the counters of a DHCP server.
type DHCPServerStats struct {
	dhcp.ServerStats4
	// Malformed counts datagrams that are no DHCP messages. Dropped counts messages that arrived while too
	// many others waited. Unsent counts replies that could not be sent.
	Malformed, Dropped, Unsent uint64
}

// A DHCPServer is a DHCP server on an interface of a host: see Host.ServeDHCP. Its methods may be called by
// several goroutines at the same time.
type DHCPServer struct {
	linkRunner
	all   *linkSet[*DHCPServer]
	raw   *stack.Raw // for probes; nil: the server does not probe
	id    netip.Addr
	echo  uint16 // identifier of the echo requests
	event func(dhcp.ServerEvent4)

	// The following fields are guarded by mu.
	machine *dhcp.Server4
	probes  []dhcpProbe
	stats   DHCPServerStats
}

// A dhcpProbe is an address that a server probes.
type dhcpProbe struct {
	addr     netip.Addr
	began    time.Time
	answered bool
}

const (
	maxDHCPQueries = 256
	// dhcpProbeTime is how long a server waits for an answer to a probe. It is a little shorter than the
	// half second after which dhcp.Server4 offers the address.
	dhcpProbeTime = 490 * time.Millisecond
)

// ServeDHCP starts a DHCP server on an interface (RFC 2131). An empty nicName means the only link. The
// server assigns addresses with the options of cfg until the server, the host or the interface is closed.
// The server uses UDP port 67. It answers clients on the link. It answers relay agents only for the networks in
// cfg.Server.Relayed. To continue after a restart with the same leases, save Bindings and pass them in
// cfg.Server.Bindings.
//
// The errors are ENODEV if there is no such interface, EINVAL if the interface is not an Ethernet or cfg
// cannot work, EADDRNOTAVAIL if the interface has no IPv4 address, EEXIST if the interface already has a
// server, EADDRINUSE if a socket of the host uses UDP port 67, and net.ErrClosed.
func (h *Host) ServeDHCP(nicName string, cfg DHCPServerConfig) (*DHCPServer, error) {
	d, err := h.serveDHCP(nicName, cfg)
	if err != nil {
		if err == net.ErrClosed {
			return nil, err
		}
		return nil, fmt.Errorf("usernet: DHCP server: %w", err)
	}
	return d, nil
}

func (h *Host) serveDHCP(nicName string, cfg DHCPServerConfig) (*DHCPServer, error) {
	info, err := h.linkNamed(nicName)
	if err != nil {
		return nil, err
	}
	if info.Medium != nic.Ethernet {
		return nil, fmt.Errorf("%s is not an Ethernet: %w", info.Name, syscall.EINVAL)
	}
	if err := completeServer(&cfg.Server, &info); err != nil {
		return nil, err
	}
	machine, err := dhcp.NewServer4(cfg.Server, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, syscall.EINVAL)
	}
	d := &DHCPServer{all: setOf(&h.dhcpServers), id: cfg.Server.ID, event: cfg.OnEvent, machine: machine, echo: uint16(h.random())}
	d.init(h, &info, maxDHCPQueries, d.round)
	if cfg.Server.Probe {
		if d.raw, err = h.stack.OpenRaw(stack.Family4, uint16(wire.ProtoICMP), netip.Addr{}); err != nil {
			return nil, err
		}
		d.raw.SetHandler(d.receiveEcho)
	}
	if err := d.all.add(d); err != nil {
		if d.raw != nil {
			d.raw.Close()
		}
		return nil, err
	}
	d.do(nil)
	return d, nil
}

func (d *DHCPServer) socket() (stack.Family, uint16, string, bool) {
	return stack.Family4, dhcp.ServerPort4, "server", true
}

// completeServer fills in the server identifier, the network and the pool from the interface, if cfg does not
// have them.
func completeServer(cfg *dhcp.ServerConfig4, info *stack.InterfaceInfo) error {
	i := slices.IndexFunc(info.Addrs, func(p netip.Prefix) bool { return p.Addr().Is4() && (!cfg.ID.IsValid() || p.Addr() == cfg.ID) })
	if i < 0 {
		return fmt.Errorf("%s does not have the IPv4 address that a server needs: %w", info.Name, syscall.EADDRNOTAVAIL)
	}
	cfg.ID = info.Addrs[i].Addr()
	n := &cfg.Link
	if !n.Prefix.IsValid() {
		n.Prefix = info.Addrs[i].Masked()
	}
	if len(n.Pools) == 0 && len(n.Reservations) == 0 && n.Prefix.Addr().Is4() {
		last := n.Prefix.Masked().Addr().As4()
		binary.BigEndian.PutUint32(last[:], binary.BigEndian.Uint32(last[:])|uint32(1<<(32-n.Prefix.Bits())-1))
		n.Pools = []dhcp.Range4{{First: n.Prefix.Masked().Addr(), Last: netip.AddrFrom4(last)}}
	}
	return nil
}

// look ends the server if its interface was removed.
func (d *DHCPServer) look() {
	if d.link() == nil {
		go d.Close() // Close waits for OnEvent
	}
}

// receive queues a message.
func (d *DHCPServer) receive(b []byte, _ netip.AddrPort, meta stack.Meta) {
	if !d.room() {
		return // do not parse a message that would be dropped
	}
	m, err := dhcp.ParseMessage4(b)
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.stats.Malformed++
		return
	}
	broadcast := !d.h.stack.IsLocal(meta.Dst)
	d.put(func(now time.Time) { d.machine.Receive(now, m, broadcast) })
}

// round processes the received messages and does what is due.
func (d *DHCPServer) round(queue []func(time.Time)) (next time.Time) {
	var neighbors []stack.Neighbor
	d.mu.Lock()
	if len(d.probes) > 0 {
		d.mu.Unlock()
		neighbors = d.h.stack.Neighbors()
		d.mu.Lock()
	}
	now := time.Now()
	for _, f := range queue {
		f(now)
	}
	d.endProbes(now, neighbors)
	d.machine.Tick(now)
	replies, events, probes := d.outputs(now)
	next = d.machine.Deadline()
	for _, p := range d.probes {
		if end := p.began.Add(dhcpProbeTime); next.IsZero() || end.Before(next) {
			next = end
		}
	}
	d.mu.Unlock()
	unsent := d.sendAll(replies, probes)
	for _, e := range events {
		d.report(e)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stats.Unsent += uint64(unsent)
	return next
}

// outputs takes the replies, events and probes of the machine, and adds the probes to d.probes. d.mu is held.
func (d *DHCPServer) outputs(now time.Time) (replies []dhcp.Reply4, events []dhcp.ServerEvent4, probes []netip.Addr) {
	for r, ok := d.machine.NextReply(); ok; r, ok = d.machine.NextReply() {
		replies = append(replies, r)
	}
	for e, ok := d.machine.NextEvent(); ok; e, ok = d.machine.NextEvent() {
		events = append(events, e)
	}
	for a, ok := d.machine.NextProbe(); ok; a, ok = d.machine.NextProbe() {
		probes = append(probes, a)
		d.probes = append(d.probes, dhcpProbe{addr: a, began: now})
	}
	return replies, events, probes
}

// sendAll sends replies and probes, and returns how many of the replies it could not send. While the transmit
// queue of the link is full, sendAll waits, but at most dhcpSendTime in total.
func (d *DHCPServer) sendAll(replies []dhcp.Reply4, probes []netip.Addr) (unsent int) {
	end := d.sendEnd()
	for i := range replies {
		r := &replies[i]
		o := stack.SendOptions{NIC: d.index, Src: d.id}
		var err error
		if len(r.MAC) == 6 {
			_, err = d.conn.WriteToMAC(end, r.Payload, r.To, wire.MAC(r.MAC), o)
		} else {
			_, err = d.conn.WriteToBefore(end, r.Payload, r.To, o)
		}
		if err != nil && !errors.Is(err, net.ErrClosed) {
			unsent++
			d.log(slog.LevelDebug, "DHCP reply not sent", "type", r.Message.Type(), "to", r.To, "err", err)
		}
	}
	for i, a := range probes {
		// The message: type, code, checksum (at 2), identifier (at 4), sequence number (at 6).
		b := make([]byte, echoLen)
		b[0] = byte(wire.ICMPEcho)
		binary.BigEndian.PutUint16(b[4:], d.echo)
		binary.BigEndian.PutUint16(b[6:], uint16(i))
		binary.BigEndian.PutUint16(b[2:], wire.Checksum(b))
		d.raw.SetWriteDeadline(end)
		d.raw.WriteTo(b, a, stack.SendOptions{NIC: d.index, Src: d.id}) // on an error, a is offered without a probe
	}
	return unsent
}

// receiveEcho notes the answer to a probe. It is the handler of the raw socket.
func (d *DHCPServer) receiveEcho(b []byte, from netip.AddrPort, _ stack.Meta) {
	if len(b) < echoLen || b[0] != byte(wire.ICMPEchoReply) || binary.BigEndian.Uint16(b[4:]) != d.echo {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range d.probes {
		if d.probes[i].addr == from.Addr() && !d.ended {
			d.probes[i].answered = true
			d.wake()
		}
	}
}

// endProbes tells d.machine which probed addresses are in use, and removes the probes that have ended. An echo reply
// ends a probe at once. After dhcpProbeTime, an ARP reply alone also shows that the address is in use. d.mu is held.
func (d *DHCPServer) endProbes(now time.Time, neighbors []stack.Neighbor) {
	d.probes = slices.DeleteFunc(d.probes, func(p dhcpProbe) bool {
		if !p.answered && now.Sub(p.began) < dhcpProbeTime {
			return false
		}
		var mac []byte
		for i := range neighbors {
			n := &neighbors[i]
			if n.NIC == d.nic && n.Addr == p.addr && n.MAC != (wire.MAC{}) && (p.answered || n.Age <= now.Sub(p.began)) {
				mac = n.MAC[:]
			}
		}
		if p.answered || mac != nil {
			d.machine.Answered(now, p.addr, mac)
		}
		return true
	})
}

// report logs an event and calls OnEvent.
func (d *DHCPServer) report(e dhcp.ServerEvent4) {
	b := &e.Binding
	args := []any{"addr", b.Addr, "mac", net.HardwareAddr(b.MAC).String(), "name", b.HostName}
	switch e.Kind {
	case dhcp.Assigned:
		d.log(slog.LevelInfo, "DHCP address assigned", append(args, "until", b.Until)...)
	case dhcp.Returned, dhcp.Ended:
		d.log(slog.LevelInfo, "DHCP lease of a client ended", append(args, "reason", e.Kind)...)
	case dhcp.InUse:
		// RFC 2131 4.3.3: "SHOULD notify the local system administrator".
		d.log(slog.LevelWarn, "DHCP address is in use by another machine", args...)
	}
	if d.event != nil {
		d.event(e)
	}
}

// Bindings returns the addresses that are assigned or offered, those that other machines use, and those of which
// the server knows the last client, in the order of the addresses.
func (d *DHCPServer) Bindings() iter.Seq[dhcp.Binding4] {
	return collected(&d.mu, d.machine.Bindings)
}

// Stats returns the counters of the server.
func (d *DHCPServer) Stats() DHCPServerStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	stats := d.stats
	stats.ServerStats4, stats.Dropped = d.machine.Stats(), d.dropped
	return stats
}

// Close ends the server. It waits until a running call of OnEvent has returned. Clients keep their leases. A
// second Close returns net.ErrClosed.
func (d *DHCPServer) Close() error {
	if !d.end() {
		return net.ErrClosed
	}
	if d.raw != nil {
		d.raw.Close()
	}
	d.all.remove(d) // closes the socket of the last server, so that a waiting send returns
	d.wait()
	return nil
}

func (d *DHCPServer) stop(time.Time) { d.Close() }
