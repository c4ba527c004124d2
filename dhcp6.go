package usernet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// DHCP6Config configures the DHCPv6 client of an interface (RFC 8415).
type DHCP6Config struct {
	// FollowRouters makes the client ask for what the routers of the link advertise: addresses if the
	// flag M is set, only other settings if only the flag O is set, and nothing if neither flag is set. If
	// the routers clear both flags, the client still keeps and renews its lease. FollowRouters needs
	// NIC.Auto. Without FollowRouters, the client asks for an address. With NoAddr, the client never asks
	// for an address.
	FollowRouters, NoAddr bool
	// Prefix asks for a delegated prefix of about PrefixBits bits; 0 means any. Lease6.Prefixes then has
	// prefixes for other links of the program. The host itself does not use them.
	Prefix     bool
	PrefixBits int
	// RapidCommit accepts an address in the first answer of a server.
	RapidCommit bool
	// DUID identifies the host, 3 to 130 bytes; if nil or of another length, it is made from the MAC (RFC 8415
	// 11.4). IAID identifies the interface among those with the same DUID; if 0, it is made from the MAC.
	DUID []byte
	IAID uint32
	// Parameters are options to request in addition to those that the host uses itself.
	Parameters []dhcp.OptionCode6
	// OnEvent, if not nil, is called for each event of the client, one after the other, after the host has
	// applied the event. It must not call StopDHCP6.
	OnEvent func(dhcp.Event6)
}

// DHCP6Info describes the DHCPv6 client of an interface.
type DHCP6Info struct {
	NIC   string
	State dhcp.State6
	// Lease is the lease in use; nil if there is none. It must not be modified.
	Lease *dhcp.Lease6
	// Tries is how many messages the client has sent in this state without an answer.
	Tries int
	// Refusal is a text for people: the Reason of the last event dhcp.Refused. When the client gets or renews a
	// lease, Refusal becomes empty.
	Refusal string
}

// A dhcp6Client runs the DHCPv6 client of one interface.
type dhcp6Client struct {
	linkRunner
	all *linkSet[*dhcp6Client]
	cfg DHCP6Config

	// The following fields belong to the goroutine that has the turn.
	machine *dhcp.Client6
	mac     [6]byte
	up      bool
	links   uint32 // InterfaceInfo.LinkChanges when compareLink was last called

	info DHCP6Info // guarded by mu
}

// StartDHCP6 starts a DHCPv6 client on an interface, as Config.Auto together with Config.DHCP does. An empty
// nicName means the only link. The client gets an address and the addresses of name servers. With
// DHCP6Config.NoAddr, it gets no address for the host. The client renews what it got in time, and removes it
// when it ends. The client declines an address that another node uses, and releases its address at Close. It
// ignores Reconfigure messages.
//
// The errors are ENODEV if there is no such interface, EINVAL if the interface is not an Ethernet or
// FollowRouters is set without NIC.Auto, EAFNOSUPPORT without IPv6, EEXIST if the interface already has a
// client, EADDRINUSE if a socket of the host uses UDP port 546, and net.ErrClosed.
func (h *Host) StartDHCP6(nicName string, cfg DHCP6Config) error {
	err := h.startDHCP6(nicName, cfg)
	if err != nil && err != net.ErrClosed {
		return fmt.Errorf("usernet: DHCPv6: %w", err)
	}
	return err
}

func (h *Host) startDHCP6(nicName string, cfg DHCP6Config) error {
	info, err := h.linkNamed(nicName)
	if err != nil {
		return err
	}
	if err := checkEthernet(&info); err != nil {
		return err
	}
	if cfg.FollowRouters && info.Auto == nil {
		return fmt.Errorf("FollowRouters needs Auto on %s: %w", info.Name, syscall.EINVAL)
	}
	d := &dhcp6Client{all: setOf(&h.dhcp6), cfg: cfg, info: DHCP6Info{NIC: info.Name}}
	d.init(h, &info, maxDHCPInbox, d.round)
	d.last = d.giveBack
	if err := d.all.add(d); err != nil {
		return err
	}
	d.do(nil)
	return nil
}

func (d *dhcp6Client) socket() (stack.Family, uint16, string, bool) {
	return stack.Family6, dhcp.ClientPort6, "client", true
}

// StopDHCP6 ends the DHCPv6 client of an interface, removes its addresses, and releases them. An empty nicName
// means the only link. The errors are ENODEV if there is no such interface, ESRCH if it has no client, and
// net.ErrClosed.
func (h *Host) StopDHCP6(nicName string) error {
	info, err := h.linkNamed(nicName)
	if err == net.ErrClosed {
		return err
	}
	if err == nil {
		if d, ok := h.dhcp6.Load().on(info.Index); ok {
			d.stop(time.Now().Add(dhcpReleaseTime))
			return nil
		}
		err = fmt.Errorf("%s has no client: %w", info.Name, syscall.ESRCH)
	}
	return fmt.Errorf("usernet: StopDHCP6: %w", err)
}

// DHCP6 describes the DHCPv6 clients of the host, in the order in which they were started.
func (h *Host) DHCP6() (infos []DHCP6Info) {
	for _, d := range h.dhcp6.Load().list() {
		d.mu.Lock()
		infos = append(infos, d.info)
		d.mu.Unlock()
	}
	return infos
}

// receive queues a message.
func (d *dhcp6Client) receive(b []byte, _ netip.AddrPort, _ stack.Meta) {
	if !d.room() {
		return // do not parse a message that would be dropped
	}
	if m, err := dhcp.ParseMessage6(b); err == nil {
		d.put(func(now time.Time) { d.machine.Receive(now, m) })
	}
}

// round compares the interface with the state of the client, runs the functions in queue, and does what is
// due. It returns the time of its next call; see linkRunner.work.
func (d *dhcp6Client) round(queue []func(time.Time)) (next time.Time) {
	info := d.link()
	if info == nil { // the interface was removed, with its addresses
		d.mu.Lock()
		d.ended, d.addrs = true, nil
		d.mu.Unlock()
		if d.machine != nil && d.machine.Lease() != nil {
			d.handle(dhcp.Event6{Kind: dhcp.Lost, Lease: d.machine.Lease(), Reason: "its interface was removed"})
		}
		d.machine = nil // so that giveBack, which may still be called, does not report the end of the lease again
		d.all.remove(d)
		return next
	}
	now := time.Now()
	d.compareLink(now, info)
	for _, f := range queue {
		f(now)
		d.flush()
	}
	d.machine.Tick(now)
	d.flush()
	return d.machine.Deadline()
}

// compareLink passes changes of the interface to the machine.
func (d *dhcp6Client) compareLink(now time.Time, info *stack.InterfaceInfo) {
	if d.machine == nil || d.mac != info.MAC {
		if d.machine != nil {
			d.machine.Release(now)
			d.flush()
		}
		d.mac, d.up, d.links = info.MAC, false, info.LinkChanges
		d.machine = dhcp.NewClient6(dhcp.ClientConfig6{
			MAC: info.MAC, DUID: d.cfg.DUID, IAID: d.cfg.IAID, Addrs: !d.cfg.NoAddr, Prefixes: d.cfg.Prefix, PrefixBits: d.cfg.PrefixBits,
			RapidCommit: d.cfg.RapidCommit, Parameters: d.cfg.Parameters, Rand: d.h.random,
		})
	}
	up := info.Up
	if d.cfg.FollowRouters {
		// RFC 4861 4.2: M says that addresses are available by DHCPv6; then O is redundant.
		managed, other := info.Auto.Managed, info.Auto.Other
		up = up && (managed || other || d.machine.Lease() != nil)
		if managed || other {
			d.machine.SetMode(now, managed && !d.cfg.NoAddr, d.cfg.Prefix && managed)
		}
	}
	if moved := info.LinkChanges != d.links; moved || up != d.up {
		if d.up {
			d.machine.Down()
		}
		if up {
			d.machine.Up(now)
		}
		d.up, d.links = up, info.LinkChanges
	}
	for _, a := range info.AddrInfo {
		if a.State == stack.AddrDuplicate && d.hasAdded(a.Prefix.Addr()) {
			d.machine.Conflict(now, a.Prefix.Addr())
		}
	}
	d.flush()
}

// flush sends the messages of the machine, and then applies its events: a Release is sent while the host still
// has its address.
func (d *dhcp6Client) flush() {
	for m, ok := d.machine.NextSend(); ok; m, ok = d.machine.NextSend() {
		d.send(m)
	}
	for e, ok := d.machine.NextEvent(); ok; e, ok = d.machine.NextEvent() {
		d.handle(e)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.info.State, d.info.Tries = d.machine.State(), d.machine.Tries()
}

// handle applies an event to the host and reports it.
func (d *dhcp6Client) handle(e dhcp.Event6) {
	d.apply(e)
	d.mu.Lock()
	d.info.State, d.info.Tries = d.machine.State(), d.machine.Tries()
	switch e.Kind {
	case dhcp.Refused:
		d.info.Refusal = e.Reason
	case dhcp.Lost:
		d.info.Lease = nil
	default:
		d.info.Lease, d.info.Refusal = e.Lease, ""
	}
	d.mu.Unlock()
	d.h.stack.NotifyChange()
	if d.cfg.OnEvent != nil {
		d.cfg.OnEvent(e)
	}
}

// send sends a message, unless the client has ended. If that fails, for example because the link-local address is
// not usable yet, the machine retransmits it.
func (d *dhcp6Client) send(m *dhcp.Message6) {
	if d.hasEnded() {
		return
	}
	to := netip.AddrPortFrom(dhcp.AllServers6(), dhcp.ServerPort6)
	_, err := d.conn.WriteToBefore(d.sendEnd(), m.Append(nil), to, stack.SendOptions{NIC: d.index})
	if err != nil && !errors.Is(err, net.ErrClosed) {
		d.log(slog.LevelDebug, "DHCPv6 message not sent", "type", m.Type, "err", err)
	}
}

// apply applies an event to the host.
func (d *dhcp6Client) apply(e dhcp.Event6) {
	switch e.Kind {
	case dhcp.Acquired, dhcp.Renewed:
		level := slog.LevelInfo
		if e.Kind == dhcp.Renewed {
			level = slog.LevelDebug
		}
		d.log(level, "DHCPv6 lease "+e.Kind.String(), "addrs", len(e.Lease.Addrs), "prefixes", len(e.Lease.Prefixes), "dns", e.Lease.DNS, "expires", e.Lease.Expires)
		d.use(e.Lease.Addrs)
	case dhcp.Lost:
		d.log(slog.LevelInfo, "DHCPv6 lease ended", "reason", e.Reason)
		d.use(nil)
	case dhcp.Refused:
		d.log(slog.LevelDebug, "DHCPv6", "reason", e.Reason)
	}
}

// use adds the addresses of a lease to the interface, with a prefix length of 128. It removes the other
// addresses that the client has added.
//
// RFC 8415 18.2.10.1: "the client MUST NOT use the assigned address to form an address with a prefix length other
// than 128".
func (d *dhcp6Client) use(items []dhcp.LeaseItem6) {
	var applied []netip.Addr
	for _, item := range items {
		o := stack.AddrOptions{Origin: stack.AddrDHCP, Preferred: -1}
		if item.PreferredUntil.IsZero() {
			o.Preferred = 0
		} else if left := time.Until(item.PreferredUntil); left > 0 {
			o.Preferred = left
		}
		if !item.ValidUntil.IsZero() {
			o.Valid = max(time.Until(item.ValidUntil), 1)
			o.Preferred = min(o.Preferred, o.Valid)
		}
		if err := d.addAddr(item.Prefix, o); err != nil {
			// For example, the program itself has added the address. The client does not change that address.
			if !errors.Is(err, net.ErrClosed) {
				d.log(slog.LevelWarn, "DHCPv6 address cannot be used", "addr", item.Prefix, "err", err)
			}
			continue
		}
		applied = append(applied, item.Prefix.Addr())
	}
	d.removeAddrs(applied)
}

// stop releases the lease, removes its addresses from the host, and ends the client.
func (d *dhcp6Client) stop(end time.Time) {
	d.finish(end)
	d.removeAddrs(nil)
	d.all.remove(d)
}

// giveBack releases the lease.
func (d *dhcp6Client) giveBack() {
	if d.machine != nil {
		d.machine.Release(time.Now())
		d.flush()
	}
}
