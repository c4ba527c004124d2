// Package usernet gives a program a network of its own: Internet hosts in the
// process, whose Dial, Listen and ListenPacket behave as those of package
// net, over a TCP/IP stack written in Go. A host uses a TAP device, a wire in
// memory, or any other nic.Device.
//
//	tap, err := nic.OpenTAP(nic.TAPConfig{Name: "tap0"})
//	...
//	host, err := usernet.New(usernet.Config{
//		NIC:     tap,
//		Addrs:   []netip.Prefix{netip.MustParsePrefix("192.0.2.2/24")},
//		Gateway: netip.MustParseAddr("192.0.2.1"),
//	})
//	...
//	defer host.Close()
//	ln, err := host.Listen("tcp", ":80")
//	...
//	http.Serve(ln, handler)
//
// Code that is written for net runs unchanged: it gets a net.Conn, net.Listener
// or net.PacketConn. Its addresses and errors are those of net, with the same texts. The types
// Dialer and ListenConfig have the fields of net's types, and a field Host. Sockets have no
// file descriptors: File and SyscallConn are absent, a Control function makes a call fail with
// ENOTSUP, and there are no Unix sockets.
//
// Hosts share no state with each other or with the kernel. A host whose devices are in memory
// works inside a testing/synctest bubble, in virtual time.
package usernet

import (
	"crypto/rand"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/resolve"
	"github.com/usernet/usernet/stack"
)

// Config configures a Host. The common case needs NIC, Addrs and Gateway. The
// zero value is a host with only its loopback.
type Config struct {
	// NIC is the link, and Addrs are the host's addresses on it with their prefix lengths.
	// Host.AddAddr adds addresses later. Gateway is the default router, if any. It must be in the
	// network of one of the addresses, unless all addresses are /32, as in some clouds. Host.Close
	// closes the device.
	NIC     nic.Device
	Addrs   []netip.Prefix
	Gateway netip.Addr
	// Gateway6 is the default router for IPv6. It may be link-local.
	Gateway6 netip.Addr
	// VLAN is the ID of the VLAN that the host uses on NIC, 1 to 4094 (IEEE 802.1Q). 0 means no VLAN. For
	// several VLANs on one device, see NICs.
	VLAN int
	// NoIPv6 turns IPv6 off: the host has no ::1, no link-local addresses and no IPv6 sockets, and
	// drops received IPv6 packets. Listen("tcp", ":80") then listens on 0.0.0.0:80 instead of
	// [::]:80, as net does on a machine without IPv6.
	NoIPv6 bool
	// Auto configures the host from the advertisements of the link's IPv6 routers: addresses,
	// routes and name servers. The host uses them in addition to those in Config, and queries
	// the name servers in DNS first. Auto works on links with and without MAC addresses.
	Auto bool
	// Temporary adds IPv6 addresses with a random interface identifier that changes each day
	// (RFC 8981). The host prefers them as the source of connections and datagrams that it
	// initiates. Temporary needs Auto.
	Temporary bool
	// StableSecret is the secret key from which Auto makes interface identifiers (RFC 7217). A host
	// with the same secret and interface names has the same addresses each time it joins a network.
	// The secret must have at least 16 unpredictable bytes. If it is nil, the host uses a random
	// secret, so its addresses differ in each run.
	StableSecret []byte

	// DHCP configures NIC by DHCP: an IPv4 address, routes, the MTU, name servers and search
	// domains, as long as the lease lasts (RFC 2131). The resolver queries the lease's name servers
	// after those in DNS and before those of Auto. With both DHCP and Auto, the host configures
	// both IPv4 and IPv6 from the network, by DHCPv6 too if the routers say so (RFC 8415, the flags M
	// and O of RFC 4861). New does not wait for a server: see Host.WaitOnline. For
	// other links and for options, see Host.StartDHCP.
	DHCP bool

	// LinkLocal gives NIC a link-local IPv4 address, 169.254.x.y (RFC 3927): with DHCP only while no
	// server answers, otherwise always. Machines on the link can then talk without any configuration. See
	// DHCPConfig.LinkLocal and Host.StartLinkLocal.
	LinkLocal bool
	// MDNS turns Multicast DNS on for NIC: other machines on the link find the host as MDNS.HostName
	// with the suffix .local, and the host resolves such names. For other links, see Host.StartMDNS.
	MDNS *MDNSConfig

	// NICs are further links. The loopback, "lo" with 127.0.0.1/8 and ::1/128, is built in. Several NICs
	// with different VLANs may share a device.
	NICs []NIC
	// Routes are added to those of the addresses and gateways.
	Routes []Route
	// Neighbors are permanent neighbour entries, for which the host sends no requests.
	Neighbors []Neighbor
	// WaitForDAD delays the use of an IPv6 address until Duplicate Address Detection has found that
	// no other node on the link has the address. This takes one to two seconds. If WaitForDAD is
	// false, the host uses the address at once and removes it if a duplicate is found (RFC 4429).
	// During the detection a solicitation must not contain the host's link address (RFC 4429 3.2),
	// and Linux does not answer such a solicitation. So a dial to a Linux neighbour that the host does
	// not know yet takes a second, the time of the detection. NIC.DADTransmits can turn the detection
	// off.
	WaitForDAD bool
	// NoRedirects makes the host ignore the redirects of IPv6 routers.
	NoRedirects bool

	// DNS are the name servers, in the order in which the host queries them. Without a name server
	// here or from the network, the host resolves only localhost and the names in Hosts.
	DNS []netip.AddrPort
	// Search are the domains that the resolver appends to names without a final dot.
	Search []string
	// Hosts maps names to addresses, which the resolver returns without a query. To use a hosts
	// file, see resolve.ParseHosts and the field Hosts of Resolver.
	Hosts map[string][]netip.Addr
	// Resolver has the other settings of the resolver; resolve.ParseResolvConf reads them from a
	// file. Resolver.Servers applies only if DNS above is empty. In the same way, Resolver.Search and
	// Resolver.Hosts apply only if Search and Hosts above are empty. If Dial, Learned, Prefixes64, Multicast,
	// MulticastRecords, Source or Rand of Resolver is nil, New sets it to the host's own function. If
	// Source and Deprecated are both nil, New also sets Deprecated.
	Resolver resolve.Config

	// TCP has the settings of TCP.
	TCP stack.TCPConfig
	// UDPBuffer is the receive queue limit of UDP and IP sockets in bytes; 212992 if zero.
	UDPBuffer int

	// Logger gets a record when a link fails, comes up, goes down or changes, when another machine uses an
	// address of the host, and when links, addresses, routes, name servers or leases change. At
	// slog.LevelDebug it also gets the protocols, links, addresses and routes that the host has at its
	// start, and each TCP connection when it opens, fails or closes, if New finds that level enabled. If
	// Logger is nil, nothing is logged. The handler must not call Host.Close, which waits for it. See also
	// Host.Done, Host.Events and Host.Watch.
	Logger *slog.Logger
	// Rand fills p with unpredictable bytes. It is the host's only source of randomness: for
	// sequence numbers, ports, identifications, delays, and the IDs and letter case of DNS queries.
	// Nil means crypto/rand. Several goroutines may call it at once. If Rand is set, each NIC has
	// OneQueue: what a seeded host sends must not depend on the scheduler of goroutines.
	Rand func(p []byte)
}

// A Host is an Internet host in the sense of RFC 1122, with addresses, routes and
// names of its own. Its methods may be called by several goroutines at the same time.
type Host struct {
	stack    *stack.Stack
	resolver *resolve.Resolver
	lookup   lookupFunc                // lookupDial, with the hooks of httptrace
	https    bool                      // Config.Resolver.HTTPS
	nat64    bool                      // Config.Resolver.NAT64
	fill     func(p []byte)            // fills p with unpredictable bytes
	batches  sync.Pool                 // of *[]stack.Datagram
	logger   *slog.Logger              // nil: no log
	conns    *connLog                  // nil: connections are not logged
	changes  *changeLog                // nil if logger is
	mdns     atomic.Pointer[mdnsLinks] // nil until first needed

	// The following are nil until first needed.
	dhcp         atomic.Pointer[linkSet[*dhcpClient]]
	dhcpServers  atomic.Pointer[linkSet[*DHCPServer]]
	dhcp6        atomic.Pointer[linkSet[*dhcp6Client]]
	dhcp6Servers atomic.Pointer[linkSet[*DHCP6Server]]
}

// New makes a host, attaches its devices, and starts what cfg asks for: the detection of duplicate
// addresses, the configuration from IPv6 routers (Auto), DHCP clients (DHCP), the link-local address (LinkLocal), and
// Multicast DNS (MDNS). New waits for none of these: see WaitOnline. An error says which part of the configuration is
// wrong. After an error, no device is attached or closed.
func New(cfg Config) (*Host, error) {
	if (cfg.DHCP || cfg.LinkLocal) && cfg.NIC != nil && cfg.NIC.Link().Medium != nic.Ethernet {
		what := "DHCP"
		if !cfg.DHCP {
			what = "LinkLocal"
		}
		return nil, fmt.Errorf("usernet: %s needs an Ethernet, and NIC is none: %w", what, syscall.EINVAL)
	}
	if cfg.MDNS != nil && len(cfg.MDNS.HostName) > 63 {
		return nil, fmt.Errorf("usernet: mDNS: the host name %q is longer than 63 bytes: %w", cfg.MDNS.HostName, syscall.EINVAL)
	}
	nics := cfg.NICs
	if cfg.NIC != nil || len(cfg.Addrs) > 0 || cfg.Gateway.IsValid() || cfg.Gateway6.IsValid() || cfg.Auto || cfg.DHCP || cfg.LinkLocal || cfg.MDNS != nil || cfg.VLAN != 0 {
		first := NIC{
			Device: cfg.NIC, Addrs: cfg.Addrs, Gateway: cfg.Gateway, Gateway6: cfg.Gateway6,
			VLAN: cfg.VLAN, Auto: cfg.Auto, Temporary: cfg.Temporary,
		}
		nics = append([]NIC{first}, nics...)
	}
	s, err := stack.New(stack.Config{
		NICs:      nics,
		NoIPv6:    cfg.NoIPv6,
		Routes:    cfg.Routes,
		Neighbors: cfg.Neighbors,
		Logger:    cfg.Logger,
		Rand:      cfg.Rand,
		TCP:       cfg.TCP,
		UDPBuffer: cfg.UDPBuffer,

		StableSecret: cfg.StableSecret,

		WaitForDAD:  cfg.WaitForDAD,
		NoRedirects: cfg.NoRedirects,
	})
	if err != nil {
		return nil, err
	}
	h := &Host{stack: s, fill: cfg.Rand, logger: cfg.Logger, https: cfg.Resolver.HTTPS, nat64: cfg.Resolver.NAT64}
	if h.fill == nil {
		h.fill = func(p []byte) { rand.Read(p) } // rand.Read never fails
	}
	h.resolver = h.newResolver(&cfg)
	h.lookup = traced(h.lookupDial, false)
	if h.logger != nil {
		h.startLog(&cfg)
	}
	if cfg.DHCP || cfg.LinkLocal {
		err := h.startClient(s.Interfaces()[1].Name, DHCPConfig{LinkLocal: cfg.LinkLocal}, !cfg.DHCP)
		if err != nil {
			h.Close()
			return nil, fmt.Errorf("usernet: DHCP: %w", err)
		}
	}
	if info := s.Interfaces(); cfg.DHCP && len(info) > 1 && info[1].Auto != nil {
		if err := h.StartDHCP6(info[1].Name, DHCP6Config{FollowRouters: true}); err != nil {
			h.Close()
			return nil, err
		}
	}
	if cfg.MDNS != nil {
		if err := h.StartMDNS(s.Interfaces()[1].Name, *cfg.MDNS); err != nil {
			h.Close()
			return nil, err
		}
	}
	return h, nil
}

// learnedDNS returns the name servers and search domains that the network advertises. As RFC 8106 5.3.1 prefers, those
// from DHCP come before those from the routers.
func (h *Host) learnedDNS() (servers []netip.AddrPort, search []string) {
	servers, search = h.leasedDNS()
	more, domains := h.stack.LearnedDNS()
	return append(servers, more...), append(search, domains...)
}

// prefixes64 returns the NAT64 prefixes that routers advertise.
func (h *Host) prefixes64() []netip.Prefix {
	var all []netip.Prefix
	for _, info := range h.stack.Interfaces() {
		if info.Auto != nil && info.Up {
			all = append(all, info.Auto.NAT64...)
		}
	}
	return all
}

// newResolver returns the resolver of the host. The resolver sends its queries from the host.
func (h *Host) newResolver(cfg *Config) *resolve.Resolver {
	rc := cfg.Resolver
	if len(cfg.DNS) > 0 {
		rc.Servers = cfg.DNS
	}
	if len(cfg.Search) > 0 {
		rc.Search = cfg.Search
	}
	if len(cfg.Hosts) > 0 {
		rc.Hosts = resolve.Hosts{}
		for _, name := range slices.Sorted(maps.Keys(cfg.Hosts)) {
			for _, addr := range cfg.Hosts[name] {
				rc.Hosts.Add(addr, name)
			}
		}
	}
	if rc.Dial == nil {
		rc.Dial = h.DialContext
	}
	if rc.Learned == nil {
		rc.Learned = h.learnedDNS
	}
	if rc.Prefixes64 == nil {
		rc.Prefixes64 = h.prefixes64
	}
	if rc.Multicast == nil {
		rc.Multicast = h.mdnsLookup
	}
	if rc.MulticastRecords == nil {
		rc.MulticastRecords = h.mdnsRecords
	}
	if rc.Source == nil {
		rc.Source = h.stack.SourceFor
		if rc.Deprecated == nil {
			rc.Deprecated = h.stack.IsDeprecated
		}
	}
	if rc.Rand == nil {
		rc.Rand = h.random
	}
	return resolve.New(rc)
}

// Close ends the host. It resets the connections, makes every blocked call return net.ErrClosed,
// and closes the devices. A second Close returns net.ErrClosed. Close waits for a call of the handler of Config.Logger
// about a change or a connection, so the handler must not call Close.
func (h *Host) Close() error {
	h.mdns.CompareAndSwap(nil, &mdnsLinks{h: h})
	h.mdns.Load().close() // first: the goodbyes of mDNS need the addresses of the leases
	// setOf makes a set that does not exist yet. So a start at the same time finds the set closed, and fails.
	setOf(&h.dhcp).close()
	setOf(&h.dhcpServers).close()
	setOf(&h.dhcp6).close()
	setOf(&h.dhcp6Servers).close()
	err := h.stack.Close()
	if h.conns != nil {
		h.conns.turns.finish() // logs the connections that Close has reset
	}
	if h.changes != nil {
		h.changes.turns.finish() // logs nothing, because the host is closed
	}
	return err
}

// Done returns a channel that is closed when the host is closed or its last link fails, for example
// because a TAP device was deleted. Err then returns the reason. After a failure, Accept returns
// ENETDOWN ("network is down") on every listener except those bound to a loopback address, and the
// next call on each UDP and IP socket returns ENETDOWN once. If Stack().AddNIC then adds a link,
// Done returns a new channel.
func (h *Host) Done() <-chan struct{} { return h.stack.Done() }

// Err returns nil while the channel of Done is open. Afterwards it returns net.ErrClosed if the
// host was closed, and otherwise the error of the link that failed last. Interfaces returns the
// error of each link.
func (h *Host) Err() error { return h.stack.Err() }

// Stack returns the host's TCP/IP stack. Its methods have no counterpart in package net: for
// example, they add and remove interfaces and neighbours.
func (h *Host) Stack() *stack.Stack { return h.stack }

// Stats returns a snapshot of the host's counters. Drops in the result also counts the messages of Multicast DNS that
// the host has dropped.
func (h *Host) Stats() stack.Stats {
	st := h.stack.Stats()
	h.mdns.Load().addDrops(st.Drops)
	return st
}

// Interfaces describes the host's interfaces, the loopback first.
func (h *Host) Interfaces() []stack.InterfaceInfo { return h.stack.Interfaces() }

// Routes returns the routes, the longest prefixes first. The routes of one prefix are in the order of
// preference.
func (h *Host) Routes() []Route { return h.stack.Routes() }

// Neighbors returns the neighbour entries, both resolved and pending.
func (h *Host) Neighbors() []Neighbor { return h.stack.Neighbors() }

// Conns returns an iterator over the host's TCP connections, in no particular order. See stack.Stack.Conns.
func (h *Host) Conns() iter.Seq[stack.ConnInfo] { return h.stack.Conns() }

// Conn returns the TCP connection with the given addresses. It reports false if there is none. A link-local address
// needs its zone.
func (h *Host) Conn(local, remote netip.AddrPort) (stack.ConnInfo, bool) {
	return h.stack.Conn(local, remote)
}

// Listeners returns an iterator over the TCP listeners, ordered by address and port.
func (h *Host) Listeners() iter.Seq[stack.ListenerInfo] { return h.stack.Listeners() }

// Sockets returns an iterator over the UDP and the IP sockets, in no particular order.
func (h *Host) Sockets() iter.Seq[stack.SocketInfo] { return h.stack.Sockets() }

// AddAddr adds an address to an interface, and the route to its network. An empty nic means the
// only link. If the interface already has the address from the same origin, AddAddr replaces its
// options, as when a lease is renewed. A static address also replaces an address that DHCP or a router
// has configured. To add a default route, call AddRoute. For details and errors see
// stack.Stack.AddAddr.
func (h *Host) AddAddr(nic string, p netip.Prefix, o AddrOptions) error {
	return h.stack.AddAddr(nic, p, o)
}

// RemoveAddr removes an address from an interface. An empty nic means the only link. As on Linux,
// connections that use the address stop sending and time out, with ENETUNREACH ("network is
// unreachable") if data was in flight; UDP and IP sockets fail with ENETUNREACH; and listeners stay
// open. Removing an interface's last address also removes all routes over the interface. For
// details and errors see stack.Stack.RemoveAddr.
func (h *Host) RemoveAddr(nic string, a netip.Addr) error { return h.stack.RemoveAddr(nic, a) }

// AddRoute adds a route. The default route has the prefix 0.0.0.0/0 or ::/0. The errors are those of
// stack.Stack.AddRoute.
func (h *Host) AddRoute(r Route) error { return h.stack.AddRoute(r) }

// DelRoute removes a route. It removes the first route from Config.Routes or AddRoute that has the
// prefix of r and, if they are set, the Via and NIC of r. If there is none, it removes the matching
// default route that New added for a Gateway. The errors are those of stack.Stack.DelRoute.
func (h *Host) DelRoute(r Route) error { return h.stack.DelRoute(r) }

// Changed returns a channel that is closed at the next change of an address, a link or a route, and
// by Close. Call Changed before reading the state with Interfaces or Routes, and again after each
// change, so that no change is missed:
//
//	for {
//		changed := host.Changed()
//		look(host.Interfaces(), host.Routes())
//		select {
//		case <-changed:
//		case <-ctx.Done():
//			return
//		}
//	}
//
// A channel that is no longer used costs nothing.
func (h *Host) Changed() <-chan struct{} { return h.stack.Changed() }

// Addrs returns the host's addresses with their prefix lengths, without those of the loopback.
func (h *Host) Addrs() []netip.Prefix {
	var addrs []netip.Prefix
	for _, info := range h.stack.Interfaces() {
		if !info.Loopback {
			addrs = append(addrs, info.Addrs...)
		}
	}
	return addrs
}

// InterfaceAddrs returns the host's addresses as net.InterfaceAddrs does: each is a *net.IPNet.
func (h *Host) InterfaceAddrs() []net.Addr {
	var addrs []net.Addr
	for _, info := range h.stack.Interfaces() {
		for _, p := range info.Addrs {
			a := p.Addr()
			ip := a.As16() // net.InterfaceAddrs uses 16 bytes for IPv4 too
			addrs = append(addrs, &net.IPNet{IP: ip[:], Mask: net.CIDRMask(p.Bits(), a.BitLen())})
		}
	}
	return addrs
}
