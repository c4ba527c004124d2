package usernet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// DHCPConfig configures the DHCP client of an interface. The zero value suits most hosts.
type DHCPConfig struct {
	// HostName is the host name that the client sends to servers. A server may put the name into
	// the DNS. If HostName is empty, the client sends no name.
	HostName string
	// ClientID is the client identifier (RFC 2132 9.14). If it has fewer than two bytes, the client
	// makes one from the MAC (RFC 4361).
	ClientID []byte
	// VendorClass describes the kind of host to servers (RFC 2132 9.13). If it is empty, the client
	// does not send the option.
	VendorClass string
	// Addr is the address that the host had before, if any. The client requests this address first,
	// and uses it only if a server confirms it.
	Addr netip.Addr
	// Parameters are options to request in addition to those that the host uses itself.
	// Lease4.Options has their values.
	Parameters []dhcp.OptionCode4
	// IPv6Only reports whether the host can do without IPv4. A network that offers IPv6 with NAT64
	// may then give the host no IPv4 address (RFC 8925).
	IPv6Only bool
	// NoProbe makes the host use an address as soon as a server assigns it. Otherwise the host
	// first checks that no other machine on the link uses the address, which takes four to seven
	// seconds (RFC 5227).
	NoProbe bool
	// LinkLocal gives the interface a link-local address (RFC 3927) while no DHCP server answers: from about
	// twenty seconds after the start until the client has a lease. The address then stays for one more minute,
	// so that connections that use it can end. The host also sends packets to other link-local addresses
	// directly to the link.
	LinkLocal bool
	// OnEvent, if not nil, is called for each event of the client, after the host has applied the event.
	// The calls do not overlap. OnEvent must not call StopDHCP.
	OnEvent func(dhcp.Event4)
}

// DHCPInfo describes the DHCP client of an interface.
type DHCPInfo struct {
	NIC   string
	State dhcp.State4
	// Lease is the lease in use; nil if there is none. It must not be modified.
	Lease *dhcp.Lease4
	// Tries is how many messages the client has sent in this state without an answer.
	Tries int
	// Refusal is a text for people. It says why the client last rejected a server's message, or why
	// a server refused a request. It is empty if neither has happened since the client last got or
	// renewed a lease.
	Refusal string
}

// A dhcpClient runs the DHCP client of one interface, and its link-local address.
type dhcpClient struct {
	linkRunner
	all   *linkSet[*dhcpClient]
	cfg   DHCPConfig
	alone bool // only a link-local address, without DHCP

	// The following fields belong to the goroutine that has the turn.
	machine *dhcp.Client4
	mac     [6]byte
	up      bool
	links   uint32         // LinkChanges of the interface when compareLink last ran
	probing *dhcp.Lease4   // the lease whose address is being probed; nil if there is none
	seen    stack.AddrInfo // the result of leaseAddr when compare last ran; zero if the host did not have the address
	refused time.Time      // time of the last log record about a refusal

	linkLocal *dhcp.LinkLocal4 // nil unless cfg.LinkLocal is set
	chosen    netip.Prefix     // the link-local address that is in use or being probed; invalid: none

	// The following fields are guarded by mu.
	info    DHCPInfo     // state of machine after the last round or event
	applied dhcpSettings // what the client has added to the host
}

const (
	maxDHCPInbox = 16
	// dhcpRefusalTime is the minimum time between log records about refusals.
	dhcpRefusalTime = 10 * time.Second
)

// StartDHCP starts a DHCP client on an interface, as Config.DHCP does. An empty nicName means the
// only link. The client gets an IPv4 address, routes, the MTU, name servers and search domains, and
// renews the lease in time. When the lease ends, the client removes these settings. When the link
// goes down and comes up again, the client asks whether the address is still valid on the link. It
// declines an address that another machine uses.
//
// The client changes and removes only what it has added itself. If a lease has an address that the program
// has added to the interface, the client does not change the address, and does not remove it when the lease
// ends. If the program removes the address of a lease and adds it again, the client adds the routes of the
// lease again.
//
// The errors are ENODEV if there is no such interface, EINVAL if the interface is not an Ethernet,
// EEXIST if the interface already has a client, EADDRINUSE if a socket of the host uses UDP port 68,
// and net.ErrClosed.
func (h *Host) StartDHCP(nicName string, cfg DHCPConfig) error {
	err := h.startClient(nicName, cfg, false)
	if err != nil && err != net.ErrClosed {
		return fmt.Errorf("usernet: DHCP: %w", err)
	}
	return err
}

// startClient starts a client on an interface. If alone is set, the client has only a link-local address.
func (h *Host) startClient(nicName string, cfg DHCPConfig, alone bool) error {
	info, err := h.linkNamed(nicName)
	if err != nil {
		return err
	}
	if err := checkEthernet(&info); err != nil {
		return err
	}
	d := &dhcpClient{all: setOf(&h.dhcp), cfg: cfg, alone: alone, info: DHCPInfo{NIC: info.Name}}
	d.init(h, &info, maxDHCPInbox, d.round)
	d.last = d.giveBack
	if err := d.all.add(d); err != nil {
		return err
	}
	if !alone {
		d.conn.SetBroadcastWithoutSource()
	}
	d.do(nil)
	return nil
}

func (d *dhcpClient) socket() (stack.Family, uint16, string, bool) {
	return stack.Family4, dhcp.ClientPort4, "client", !d.alone
}

// StopDHCP ends the DHCP client of an interface. It removes the address and the other settings from
// the host, and returns the lease to the server. An empty nicName means the only link. StopDHCP waits for
// at most 200 ms. If OnEvent or the link blocks for longer, the client does not return the lease to the
// server, and calls OnEvent for the end of the lease after StopDHCP has returned.
//
// The errors are ENODEV if there is no such interface, ESRCH if the interface has no client, and
// net.ErrClosed.
func (h *Host) StopDHCP(nicName string) error {
	err := h.stopClient(nicName, false)
	if err != nil && err != net.ErrClosed {
		return fmt.Errorf("usernet: StopDHCP: %w", err)
	}
	return err
}

// stopClient ends the client of an interface, if startClient has started it with the same value of alone.
// Otherwise the error is ESRCH.
func (h *Host) stopClient(nicName string, alone bool) error {
	info, err := h.linkNamed(nicName)
	if err != nil {
		return err
	}
	d, ok := h.dhcp.Load().on(info.Index)
	if !ok || d.alone != alone {
		return fmt.Errorf("%s has no client: %w", info.Name, syscall.ESRCH)
	}
	d.stop(time.Now().Add(dhcpReleaseTime))
	return nil
}

// DHCP describes the DHCP clients of the host, in the order in which they were started.
func (h *Host) DHCP() []DHCPInfo {
	var infos []DHCPInfo
	for _, d := range h.dhcp.Load().list() {
		if d.alone {
			continue
		}
		d.mu.Lock()
		infos = append(infos, d.info)
		d.mu.Unlock()
	}
	return infos
}

// linkNamed returns the interface with a name, or the only link if the name is empty. The only link
// is infos[1], because infos[0] is the loopback.
func (h *Host) linkNamed(name string) (stack.InterfaceInfo, error) {
	infos := h.stack.Interfaces()
	if errors.Is(h.Err(), net.ErrClosed) {
		return stack.InterfaceInfo{}, net.ErrClosed
	}
	if name == "" {
		if len(infos) != 2 {
			return stack.InterfaceInfo{}, fmt.Errorf("no interface is named, and there are %d: %w", len(infos)-1, syscall.ENODEV)
		}
		return infos[1], nil
	}
	i := slices.IndexFunc(infos, func(info stack.InterfaceInfo) bool { return info.Name == name })
	if i < 0 {
		return stack.InterfaceInfo{}, fmt.Errorf("no interface %q: %w", name, syscall.ENODEV)
	}
	return infos[i], nil
}

// receive parses a message from a server and queues it.
func (d *dhcpClient) receive(b []byte, from netip.AddrPort, _ stack.Meta) {
	if from.Port() != dhcp.ServerPort4 || d.alone || !d.room() {
		return // do not parse a message that would be dropped
	}
	m, err := dhcp.ParseMessage4(b)
	if err != nil || m.Op != dhcp.BootReply {
		return
	}
	d.put(func(now time.Time) { d.machine.Receive(now, m) })
}

// leasedDNS returns the name servers and search domains of the leases.
func (h *Host) leasedDNS() (servers []netip.AddrPort, search []string) {
	add := func(dns []netip.Addr, domains ...string) {
		for _, a := range dns {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
		search = append(search, domains...)
	}
	for _, d := range h.dhcp.Load().list() {
		d.mu.Lock()
		l, up := d.info.Lease, d.info.State != dhcp.Stopped // a stopped client keeps its lease while the link is down
		d.mu.Unlock()
		if l == nil || !up {
			continue
		}
		add(l.DNS, l.Search...)
		if len(l.Search) == 0 && l.Domain != "" {
			add(nil, l.Domain)
		}
	}
	for _, d := range h.dhcp6.Load().list() {
		d.mu.Lock()
		l, up := d.info.Lease, d.info.State != dhcp.Stopped6
		d.mu.Unlock()
		if l != nil && up {
			add(l.DNS, l.Search...)
		}
	}
	return servers, search
}

// unready returns the addresses that clients have added and whose leases are not in use yet: the addresses
// that are being probed, and those whose other settings are not applied yet. It also returns the link-local
// addresses that the clients have added.
func (h *Host) unready() (addrs []netip.Addr) {
	for _, d := range h.dhcp.Load().list() {
		d.mu.Lock()
		for _, a := range d.addrs {
			if l := d.info.Lease; l == nil || l.Addr.Addr() != a {
				addrs = append(addrs, a)
			}
		}
		d.mu.Unlock()
	}
	for _, d := range h.dhcp6.Load().list() {
		d.mu.Lock()
		if d.info.Lease == nil {
			addrs = append(addrs, d.addrs...)
		}
		d.mu.Unlock()
	}
	return addrs
}

// round compares the interface with the state of the client, runs the functions in queue, and does what is due.
// It returns the time of the next round, or the zero time if there is none.
func (d *dhcpClient) round(queue []func(time.Time)) (next time.Time) {
	d.compareLink(time.Now())
	d.flush()
	for _, f := range queue {
		if d.hasEnded() {
			return next
		}
		f(time.Now())
		d.flush()
	}
	if !d.hasEnded() {
		d.machine.Tick(time.Now())
		d.flush()
		d.tendLinkLocal(time.Now())
		next = d.deadline()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note()
	return next
}

// deadline returns the earlier Deadline of machine and linkLocal, or the zero time if neither has one.
func (d *dhcpClient) deadline() time.Time {
	at := d.machine.Deadline()
	if d.linkLocal != nil {
		if next := d.linkLocal.Deadline(); at.IsZero() || !next.IsZero() && next.Before(at) {
			at = next
		}
	}
	return at
}

// note updates d.info. The goroutine that has the turn calls it with d.mu held.
func (d *dhcpClient) note() {
	if d.machine != nil {
		d.info.State, d.info.Tries, d.info.Lease = d.machine.State(), d.machine.Tries(), d.machine.Lease()
	}
}

// compareLink compares the interface with the state of the client and passes changes to the machine. If the
// interface was removed, it ends the client.
func (d *dhcpClient) compareLink(now time.Time) {
	info := d.link()
	if info == nil {
		// RemoveNIC has already removed the addresses and routes. A new interface may have the same name, so the
		// client must not remove them by name.
		d.mu.Lock()
		d.ended, d.addrs, d.applied = true, nil, dhcpSettings{}
		d.mu.Unlock()
		d.abandon("its interface was removed")
		d.all.remove(d)
		return
	}
	if d.machine == nil || d.mac != info.MAC {
		d.begin(info)
	}
	// moved is true if, since compareLink last ran, the link went down or came up, or the interface may have
	// been connected to another network.
	if moved := info.LinkChanges != d.links; moved || info.Up != d.up {
		d.stopProbing()
		if d.up && (moved || !info.Up) {
			d.machine.Down()
		}
		d.stopLinkLocal() // the host may be on another link, where the address must be probed again
		if info.Up && !d.alone {
			d.machine.Up(now)
		}
		d.up, d.links = info.Up, info.LinkChanges
	}
	d.lookAtAddr(info, now)
	d.lookAtLinkLocal(info, now)
}

// begin makes a new machine, because the client is new or the interface has a new MAC.
func (d *dhcpClient) begin(info *stack.InterfaceInfo) {
	if d.machine != nil {
		d.stopProbing()
		d.stopLinkLocal() // before abandon, because stopLinkLocal looks at the lease
		d.abandon("the interface has a new MAC")
	}
	if d.cfg.LinkLocal {
		d.linkLocal = dhcp.NewLinkLocal4(info.MAC)
	}
	d.mac, d.up, d.links = info.MAC, false, info.LinkChanges
	d.machine = dhcp.NewClient4(dhcp.ClientConfig4{
		MAC: d.mac, ID: d.cfg.ClientID, HostName: d.cfg.HostName, VendorClass: d.cfg.VendorClass, Parameters: d.cfg.Parameters,
		Lease: d.cfg.Addr, IPv6Only: d.cfg.IPv6Only, MTU: info.MTU, Rand: d.h.random,
	})
}

// flush sends the machine's messages and applies its events. A unicast message is sent before the
// events, because it needs the address of the lease, which an event may remove. Broadcasts are sent
// after the events.
func (d *dhcpClient) flush() {
	if d.machine == nil {
		return
	}
	for again := true; again; {
		again = false
		var broadcasts []dhcp.Send4
		for s, ok := d.machine.NextSend(); ok; s, ok = d.machine.NextSend() {
			if s.To.IsValid() {
				d.send(s)
				if s.Message.Type() == dhcp.Release {
					d.awaitNeighbor(s.To)
				}
			} else {
				broadcasts = append(broadcasts, s)
			}
		}
		for e, ok := d.machine.NextEvent(); ok; e, ok = d.machine.NextEvent() {
			d.handle(e)
			again = true // applying an event may make the machine send a message
		}
		for _, s := range broadcasts {
			d.send(s)
		}
	}
}

// handle applies an event to the host and reports it.
func (d *dhcpClient) handle(e dhcp.Event4) {
	d.apply(e)
	d.mu.Lock()
	// The machine's lease may already be that of a later event. WaitOnline needs the lease whose settings
	// the host has applied.
	lease := d.info.Lease
	switch e.Kind {
	case dhcp.Acquired, dhcp.Renewed:
		lease = e.Lease
	case dhcp.Lost:
		lease = nil
	}
	d.note()
	d.info.Lease = lease
	d.mu.Unlock()
	if e.Kind != dhcp.Probe {
		d.h.stack.NotifyChange()
	}
	if d.cfg.OnEvent != nil {
		d.cfg.OnEvent(e)
	}
}

// abandon drops the machine. If the machine has a lease, abandon handles a Lost event for the lease.
func (d *dhcpClient) abandon(reason string) {
	if d.machine == nil {
		return
	}
	l := d.machine.Lease()
	d.machine = nil
	if l != nil {
		d.handle(dhcp.Event4{Kind: dhcp.Lost, Lease: l, Reason: reason})
	}
}

// send sends a message, unless the client has ended. If the message cannot be sent, send only logs the error:
// the machine treats the message as lost. If the transmit queue of the link is full, send waits for room until
// the time that d.sendEnd returns.
func (d *dhcpClient) send(s dhcp.Send4) {
	if d.hasEnded() {
		return
	}
	b, err := s.Message.Append(nil, dhcp.MinMessageSize4)
	to := netip.AddrFrom4([4]byte{255, 255, 255, 255})
	if s.To.IsValid() {
		to = s.To
	}
	src := s.Message.CIAddr
	if s.Message.Type() == dhcp.Release && !s.To.IsValid() {
		src = netip.Addr{} // the lease was still being probed: its address is not a source address of the host
	}
	if err == nil {
		_, err = d.conn.WriteToBefore(d.sendEnd(), b, netip.AddrPortFrom(to, dhcp.ServerPort4), stack.SendOptions{NIC: d.index, Src: src})
	}
	if err != nil && !errors.Is(err, net.ErrClosed) {
		d.log(slog.LevelWarn, "DHCP message not sent", "type", s.Message.Type(), "to", to, "err", err)
	}
}

// stop returns the lease to the server, removes the client's settings from the host, and ends the client.
func (d *dhcpClient) stop(end time.Time) {
	d.finish(end)
	d.withdrawAll()
	d.all.remove(d)
}

// giveBack returns the lease to the server. If finish has stopped waiting and has ended the client, giveBack
// sends nothing and only reports the end of the lease.
func (d *dhcpClient) giveBack() {
	if d.machine != nil {
		d.stopProbing()
		d.machine.Release()
		d.flush()
		d.stopLinkLocal()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note()
}

// awaitNeighbor waits until the link address of the next hop to a server is known, or until
// d.until. Without the wait, the Release message would be lost when the host is closed.
func (d *dhcpClient) awaitNeighbor(server netip.Addr) {
	hop := server
	if l := d.machine.Lease(); l != nil && !l.Addr.Contains(server) {
		for _, r := range l.Routes {
			if r.Via.IsValid() && r.Dst.Contains(server) {
				hop = r.Via
				break
			}
		}
	}
	for time.Now().Before(d.until) {
		ns := d.h.stack.Neighbors()
		i := slices.IndexFunc(ns, func(n stack.Neighbor) bool { return n.NIC == d.nic && n.Addr == hop })
		if i < 0 || ns[i].State != stack.NeighborIncomplete {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// random returns random bits from the host's source.
func (h *Host) random() uint64 {
	var b [8]byte
	h.fill(b[:])
	return binary.LittleEndian.Uint64(b[:])
}
