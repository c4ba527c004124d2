package usernet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// This file manages the link-local IPv4 address of an interface (RFC 3927). A dhcpClient has the address. If alone is
// set, the client has only this address. Otherwise it has the address only while no DHCP server answers.

const (
	// linkLocalTries is the number of unanswered messages of DHCP after which a client chooses a
	// link-local address. That takes about 12 seconds.
	linkLocalTries = 3
	// linkLocalGrace is how long a link-local address stays usable for the communication in progress after
	// the host has got a lease.
	linkLocalGrace = time.Minute
)

// StartLinkLocal gives an interface a link-local IPv4 address, 169.254.x.y/16, as Config.LinkLocal without
// DHCP does (RFC 3927). An empty nicName means the only link. The host chooses the address from the MAC. It probes
// for five to seven seconds whether another machine uses the address. If none does, the host uses it. If another
// machine uses the address later, the host defends it. At a second conflict within ten seconds the host chooses another
// address.
//
// For an address that is only used while no DHCP server answers, see DHCPConfig.LinkLocal.
//
// The errors are ENODEV if there is no such interface, EINVAL if the interface is not an Ethernet, EEXIST if
// the interface already has a link-local address of this kind or a DHCP client, and net.ErrClosed.
func (h *Host) StartLinkLocal(nicName string) error {
	err := h.startClient(nicName, DHCPConfig{LinkLocal: true}, true)
	if err != nil && err != net.ErrClosed {
		return fmt.Errorf("usernet: StartLinkLocal: %w", err)
	}
	return err
}

// StopLinkLocal removes the address of StartLinkLocal. An empty nicName means the only link. The errors are
// ENODEV if there is no such interface, ESRCH if StartLinkLocal was not called, and net.ErrClosed.
func (h *Host) StopLinkLocal(nicName string) error {
	err := h.stopClient(nicName, true)
	if err != nil && err != net.ErrClosed {
		return fmt.Errorf("usernet: StopLinkLocal: %w", err)
	}
	return err
}

// tendLinkLocal starts or stops the link-local address, and does what is due for it. The goroutine that has the turn
// calls it.
//
// RFC 3927 2.11 lets the host decide when it stops waiting for a DHCP server. The client continues to search for
// servers.
func (d *dhcpClient) tendLinkLocal(now time.Time) {
	l := d.linkLocal
	if l == nil {
		return
	}
	switch {
	case !d.up, d.machine.Lease() != nil, d.machine.State() == dhcp.IPv6Only:
		// RFC 8925 3.2: a host in IPv6-only mode does not configure a link-local IPv4 address.
		l.Stop()
	case d.alone, d.machine.State() == dhcp.Selecting && d.machine.Tries() >= linkLocalTries:
		l.Start()
	}
	l.Tick(now)
	d.flushLinkLocal()
}

// flushLinkLocal applies the events of the link-local address.
func (d *dhcpClient) flushLinkLocal() {
	l := d.linkLocal
	for e, ok := l.NextEvent(); ok; e, ok = l.NextEvent() {
		switch e.Kind {
		case dhcp.Probe:
			d.probeLinkLocal(e.Addr)
		case dhcp.Acquired:
			d.log(slog.LevelInfo, "link-local address acquired", "addr", e.Addr)
		case dhcp.Lost:
			d.log(slog.LevelInfo, "link-local address ended", "addr", e.Addr)
			d.endLinkLocal(d.up && d.machine.Lease() != nil)
		}
	}
	if !l.Started() && d.chosen.IsValid() {
		d.endLinkLocal(false) // the address was still being probed
	}
}

// stopLinkLocal ends the use of the link-local address. If the client has no lease, stopLinkLocal removes the address at
// once.
func (d *dhcpClient) stopLinkLocal() {
	if d.linkLocal == nil {
		return
	}
	d.linkLocal.Stop()
	d.flushLinkLocal()
}

// probeLinkLocal starts to check whether a link-local address is free.
func (d *dhcpClient) probeLinkLocal(p netip.Prefix) {
	info := d.link()
	if info == nil {
		return // look will end the client
	}
	if _, ok := d.foreign(info, p.Addr()); ok { // the program has added it
		d.linkLocal.Probed(time.Now(), false)
		return
	}
	err := d.addAddr(p, stack.AddrOptions{Origin: stack.AddrLinkLocal, Probe: true})
	if err != nil {
		if !errors.Is(err, net.ErrClosed) {
			d.log(slog.LevelWarn, "link-local address cannot be used", "addr", p, "err", err)
		}
		d.linkLocal.Probed(time.Now(), false)
		return
	}
	d.chosen = p
	if info := d.link(); info != nil {
		d.lookAtLinkLocal(info, time.Now())
	}
}

// endLinkLocal ends the use of the link-local address. If fade is set, the address stays usable for linkLocalGrace.
//
// RFC 3927 1.9: a host that has an operable routable address "MUST use the routable address when initiating
// new communications"; it "SHOULD continue to use the IPv4 Link-Local address for communications already
// underway".
func (d *dhcpClient) endLinkLocal(fade bool) {
	p := d.chosen
	d.chosen = netip.Prefix{}
	if !p.IsValid() {
		return // lookAtLinkLocal has removed the address, because another machine uses it
	}
	if fade {
		o := stack.AddrOptions{Origin: stack.AddrLinkLocal, Preferred: -1, Valid: linkLocalGrace}
		if d.addAddr(p, o) == nil {
			return
		}
	}
	d.removeAddr(p.Addr())
}

// lookAtLinkLocal tells d.linkLocal whether the chosen address is free or in use by another machine.
func (d *dhcpClient) lookAtLinkLocal(info *stack.InterfaceInfo, now time.Time) {
	l := d.linkLocal
	if l == nil || !d.chosen.IsValid() {
		return
	}
	i := slices.IndexFunc(info.AddrInfo, func(a stack.AddrInfo) bool { return a.Prefix == d.chosen })
	switch {
	case i < 0: // the program has removed the address
	case info.AddrInfo[i].State == stack.AddrTentative: // still probing
	case info.AddrInfo[i].State != stack.AddrDuplicate:
		l.Probed(now, true)
	default:
		d.removeAddr(d.chosen.Addr())
		d.chosen = netip.Prefix{}
		l.Probed(now, false)
		l.Conflict(now)
	}
}

// checkEthernet returns an error if an interface is not an Ethernet.
func checkEthernet(info *stack.InterfaceInfo) error {
	if info.Medium != nic.Ethernet {
		return fmt.Errorf("%s is not an Ethernet, so that it has no MAC to ask with: %w", info.Name, syscall.EINVAL)
	}
	return nil
}
