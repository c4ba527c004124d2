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
	"sync"
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
	// Server has the pools, reservations and options. If Server.ID is invalid, it is the first IPv4
	// address of the interface. If Server.Link.Prefix is invalid, it is the network of Server.ID. If
	// Server.Link has neither Pools nor Reservations, the pool is the whole network.
	Server dhcp.ServerConfig4
	// OnEvent, if not nil, is called for each new, extended and ended lease, one after the other. It may
	// call the methods of the DHCPServer except Close.
	OnEvent func(dhcp.ServerEvent4)
}

// DHCPServerStats are the counters of a DHCP server.
type DHCPServerStats struct {
	dhcp.ServerStats4
	// Malformed counts messages that are no DHCP messages, Dropped those that arrived while too many
	// others waited, and Unsent the replies that could not be sent.
	Malformed, Dropped, Unsent uint64
}

// A DHCPServer is a DHCP server on an interface of a host: see Host.ServeDHCP. Its methods may be called by
// several goroutines at the same time.
type DHCPServer struct {
	h     *Host
	all   *dhcpServers
	conn  *stack.UDP
	raw   *stack.Raw // for probes; nil: none
	nic   string
	index int
	id    netip.Addr
	echo  uint16 // identifier of the echo requests
	event func(dhcp.ServerEvent4)
	timer *time.Timer // for the next step

	mu      sync.Mutex
	changed sync.Cond
	machine *dhcp.Server4
	inbox   []dhcpQuery
	probes  []dhcpProbe
	turn    bool // a goroutine runs steps
	ended   bool
	stats   DHCPServerStats
}

// A dhcpQuery is a message that a server has received.
type dhcpQuery struct {
	m         *dhcp.Message4
	broadcast bool
}

// A dhcpProbe is an address that a server probes.
type dhcpProbe struct {
	addr     netip.Addr
	began    time.Time
	answered bool
}

// dhcpServers are the DHCP servers of a host. They share one socket.
type dhcpServers struct {
	mu        sync.Mutex
	closed    bool
	conn      *stack.UDP // nil while there is no server
	servers   []*DHCPServer
	stopWatch func()
}

const (
	maxDHCPQueries = 256
	// dhcpProbeTime is how long a server waits for an answer to a probe. It is a little shorter than the
	// time after which the machine offers the address.
	dhcpProbeTime = 490 * time.Millisecond
)

// ServeDHCP starts a DHCP server on an interface (RFC 2131). An empty nicName means the only link. The
// server assigns addresses with the options of cfg until the server, the host or the interface is closed.
// Its port is UDP port 67. It answers clients on the link, and relay agents only for the networks in
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
	d := &DHCPServer{
		h: h, nic: info.Name, index: info.Index, id: cfg.Server.ID, event: cfg.OnEvent, machine: machine,
		echo: uint16(h.random()),
	}
	d.changed.L = &d.mu
	d.timer = time.AfterFunc(time.Hour, d.step)
	d.timer.Stop() // until step or receive arms it
	h.dhcpServers.CompareAndSwap(nil, new(dhcpServers))
	d.all = h.dhcpServers.Load()
	if err := d.all.add(d, cfg.Server.Probe); err != nil {
		return nil, err
	}
	d.step()
	return d, nil
}

// completeServer fills in what follows from the interface.
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

// add adds a server. With the first server it also opens the socket.
func (ds *dhcpServers) add(d *DHCPServer, probe bool) error {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	if ds.closed {
		return net.ErrClosed
	}
	if slices.ContainsFunc(ds.servers, func(x *DHCPServer) bool { return x.index == d.index }) {
		return fmt.Errorf("%s has a server already: %w", d.nic, syscall.EEXIST)
	}
	if probe {
		raw, err := d.h.stack.OpenRaw(stack.Family4, uint16(wire.ProtoICMP), netip.Addr{})
		if err != nil {
			return err
		}
		d.raw = raw
	}
	if ds.conn == nil {
		conn, err := d.h.stack.OpenUDP(stack.Family4, netip.AddrPortFrom(netip.IPv4Unspecified(), dhcp.ServerPort4))
		if err != nil {
			if d.raw != nil {
				d.raw.Close()
			}
			if errors.Is(err, syscall.EADDRINUSE) {
				err = fmt.Errorf("a socket of the host has UDP port %d, which the server needs: %w", dhcp.ServerPort4, err)
			}
			return err
		}
		ds.conn = conn
		h := d.h
		conn.SetHandler(func(b []byte, from netip.AddrPort, meta stack.Meta) { ds.receive(b, meta, !h.stack.IsLocal(meta.Dst)) })
		ds.stopWatch = h.stack.OnChange(ds.look)
	}
	d.conn = ds.conn
	if d.raw != nil {
		d.raw.SetHandler(d.receiveEcho)
	}
	ds.servers = append(ds.servers, d)
	return nil
}

// remove removes a server that has ended. With the last server it closes the socket.
func (ds *dhcpServers) remove(d *DHCPServer) {
	ds.mu.Lock()
	defer ds.mu.Unlock()
	ds.servers = slices.DeleteFunc(ds.servers, func(x *DHCPServer) bool { return x == d })
	if len(ds.servers) == 0 && ds.conn != nil {
		ds.stopWatch()
		ds.conn.Close()
		ds.conn = nil
	}
}

// list returns the servers. ds is nil if the host has never had one.
func (ds *dhcpServers) list() []*DHCPServer {
	if ds == nil {
		return nil
	}
	ds.mu.Lock()
	defer ds.mu.Unlock()
	return slices.Clone(ds.servers)
}

// close ends all servers. ds may be nil.
func (ds *dhcpServers) close() {
	if ds == nil {
		return
	}
	ds.mu.Lock()
	ds.closed = true
	ds.mu.Unlock()
	for _, d := range ds.list() {
		d.Close()
	}
}

// look ends the servers whose interfaces were removed.
func (ds *dhcpServers) look() {
	for _, d := range ds.list() {
		infos := d.h.stack.Interfaces()
		if !slices.ContainsFunc(infos, func(info stack.InterfaceInfo) bool { return info.Index == d.index }) {
			d.Close()
		}
	}
}

// receive queues a message for the server of the interface on which the message arrived. It is the handler
// of the socket. It does not block, because it runs on the goroutine that received the packet.
func (ds *dhcpServers) receive(b []byte, meta stack.Meta, broadcast bool) {
	for _, d := range ds.list() {
		if d.index != meta.NIC {
			continue
		}
		d.mu.Lock()
		room := len(d.inbox) < maxDHCPQueries
		if !room {
			d.stats.Dropped++
		}
		d.mu.Unlock()
		if !room {
			return // do not parse a message that would be dropped
		}
		m, err := dhcp.ParseMessage4(b)
		d.mu.Lock()
		switch {
		case d.ended:
		case err != nil:
			d.stats.Malformed++
		default:
			d.inbox = append(d.inbox, dhcpQuery{m, broadcast})
			d.timer.Reset(0)
		}
		d.mu.Unlock()
	}
}

// step processes the received messages and does what is due, unless another goroutine is doing so: that one
// looks again after it has sent the replies.
func (d *DHCPServer) step() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turn {
		return
	}
	d.turn = true
	for !d.ended {
		var neighbors []stack.Neighbor
		if len(d.probes) > 0 {
			d.mu.Unlock()
			neighbors = d.h.stack.Neighbors()
			d.mu.Lock()
		}
		now := time.Now()
		for _, q := range d.inbox {
			d.machine.Receive(now, q.m, q.broadcast)
		}
		d.inbox = nil
		d.endProbes(now, neighbors)
		d.machine.Tick(now)
		replies, events, probes := d.outputs(now)
		if len(replies)+len(events)+len(probes) == 0 && len(d.inbox) == 0 {
			break
		}
		d.mu.Unlock()
		unsent := d.sendAll(replies, probes)
		for _, e := range events {
			d.report(e)
		}
		d.mu.Lock()
		d.stats.Unsent += uint64(unsent)
	}
	d.turn = false
	d.changed.Broadcast()
	at := d.machine.Deadline()
	for _, p := range d.probes {
		if end := p.began.Add(dhcpProbeTime); at.IsZero() || end.Before(at) {
			at = end
		}
	}
	if d.ended || at.IsZero() {
		d.timer.Stop()
		return
	}
	// Round the time up to a multiple of 64 ns, as the timers of the stack do (see timerSlots in package
	// stack).
	now := time.Now()
	if at.Before(now) {
		at = now
	}
	d.timer.Reset(at.Sub(now) + time.Duration(-at.UnixNano()&63))
}

// outputs takes the outputs of the machine. d.mu is held.
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

// sendAll sends replies and probes, and returns how many of the replies it could not send. If the transmit
// queue of the link is full, sendAll waits for dhcpSendTime in all.
func (d *DHCPServer) sendAll(replies []dhcp.Reply4, probes []netip.Addr) (unsent int) {
	end := time.Now().Add(dhcpSendTime)
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
		d.raw.WriteTo(b, a, stack.SendOptions{NIC: d.index, Src: d.id}) // without a probe, the address is offered
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
			d.timer.Reset(0)
		}
	}
}

// endProbes tells the machine which probed addresses are in use: those that have answered an echo request, and
// after dhcpProbeTime also those whose machines have only answered the ARP request. d.mu is held.
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

func (d *DHCPServer) log(level slog.Level, text string, args ...any) {
	d.h.logOn(d.nic, level, text, args...)
}

// Bindings returns the addresses that are assigned, offered or in use by other machines, and those of which
// the server knows the last client, in the order of the addresses.
func (d *DHCPServer) Bindings() iter.Seq[dhcp.Binding4] {
	return func(yield func(dhcp.Binding4) bool) {
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

// Stats returns the counters of the server.
func (d *DHCPServer) Stats() DHCPServerStats {
	d.mu.Lock()
	defer d.mu.Unlock()
	stats := d.stats
	stats.ServerStats4 = d.machine.Stats()
	return stats
}

// Close ends the server. It waits until a running call of OnEvent has returned. Clients keep their leases. A
// second Close returns net.ErrClosed.
func (d *DHCPServer) Close() error {
	d.mu.Lock()
	if d.ended {
		d.mu.Unlock()
		return net.ErrClosed
	}
	d.ended = true
	d.timer.Stop()
	d.mu.Unlock()
	if d.raw != nil {
		d.raw.Close()
	}
	d.all.remove(d) // closes the socket, so that a waiting send returns
	d.mu.Lock()
	for d.turn {
		d.changed.Wait()
	}
	d.mu.Unlock()
	return nil
}
