package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/usernet/usernet"
)

const (
	// offlineTime is the time between two log records while the host has no address.
	offlineTime = 10 * time.Second
	// settingsTime is the longest time that awaitAddrs waits, after the host has an address, for an IPv4 address
	// and for the other settings of a lease.
	settingsTime = 10 * time.Second
)

// openAuto makes a host on the link. The host gets its addresses from the network on the device. The
// kernel's side of the device gets no address. On a TUN there is no DHCP.
func (l *linkFlags) openAuto(t terminal, log *slog.Logger) (*network, error) {
	file, err := createOutput(l.pcap)
	if err != nil {
		return nil, err
	}
	tap, err := l.openDevice(prefixes{})
	if err != nil {
		file.discard()
		return nil, err
	}
	if name := tap.Link().Name; !l.socket.isSet() && !isReady(tap) && isDown(name) {
		at := thisEnvironment()
		fmt.Fprintln(t.err, at.notReady(name, "", true, false))
	}
	n := newNetwork(plans{}, l.linkName(tap), log)
	n.file, n.kind = file, l.kind()
	dev, err := n.wrap(l, t, tap)
	if err == nil {
		cfg := usernet.Config{NIC: dev, VLAN: l.vlan, Auto: l.routers(dev), NoIPv6: l.noIPv6, DHCP: l.tun == "", DNS: l.dns, Logger: log}
		if l.tun == "" {
			cfg.MDNS = &usernet.MDNSConfig{HostName: "usernet"}
		}
		n.host, err = usernet.New(cfg)
	}
	if err != nil {
		tap.Close()
		n.Close()
		return nil, err
	}
	n.follow()
	return n, nil
}

// awaitAddrs waits until the link has given the host an address. Then awaitAddrs waits at most settingsTime for
// an IPv4 address and its other settings (see isConfigured), and logs the host's configuration. If the link
// gives no addresses (see assigned), awaitAddrs does nothing.
func (n *network) awaitAddrs(ctx context.Context, l *linkFlags) error {
	if !l.assigned() {
		return nil
	}
	if err := n.awaitOnline(ctx); err != nil {
		return err
	}
	// The host may have a usable IPv6 address while DHCP still probes an IPv4 address or PPP still negotiates one.
	wait, cancel := context.WithTimeout(ctx, settingsTime)
	defer cancel()
	for {
		changed := n.host.Changed()
		if n.chooseAddrs(); n.isConfigured() && (n.addr.Is4() || !l.ppp.used() && len(n.host.DHCP()) == 0) {
			break
		}
		select {
		case <-changed:
			continue
		case err := <-n.down:
			return fmt.Errorf("the link has failed: %w", err)
		case <-wait.Done():
		}
		break
	}
	n.report()
	return ctx.Err()
}

// isConfigured reports whether a DHCP client of the host reports a lease of n.addr. A client reports a new
// lease only after it has added the address and the routes of the lease. If the host has no DHCP client,
// isConfigured reports true.
func (n *network) isConfigured() bool {
	clients := n.host.DHCP()
	return len(clients) == 0 || slices.ContainsFunc(clients, func(d usernet.DHCPInfo) bool {
		return d.Lease != nil && d.Lease.Addr.Addr() == n.addr
	})
}

// chooseAddrs sets n.addr and n.six, the addresses that are shown to the user. If the host has no IPv4
// address, n.addr is the IPv6 address.
func (n *network) chooseAddrs() {
	n.addr, n.six = netip.Addr{}, netip.Addr{}
	for _, p := range n.host.Addrs() {
		switch a := p.Addr(); {
		case a.IsLinkLocalUnicast():
			// Not shown.
		case a.Is4() && !n.addr.IsValid():
			n.addr = a
		case a.Is6() && !n.six.IsValid():
			n.six = a
		}
	}
	if !n.addr.IsValid() {
		n.addr, n.six = n.six, netip.Addr{}
	}
}

// awaitOnline waits until the host is online. Every offlineTime it logs what is missing.
func (n *network) awaitOnline(ctx context.Context) error {
	for {
		wait, cancel := context.WithTimeout(ctx, offlineTime)
		online := make(chan error, 1)
		go func() { online <- n.host.WaitOnline(wait) }()
		var err error
		select {
		case err = <-online:
			cancel()
		case err = <-n.down:
			cancel()
			<-online
			return fmt.Errorf("the link has failed: %w", err)
		}
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case !errors.Is(err, context.DeadlineExceeded):
			return err
		}
		n.log.Warn("no address yet", "reason", err)
	}
}
