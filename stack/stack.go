// Package stack implements an Internet host: ARP, IPv4, IPv6, ICMP, IGMP, MLD, UDP, raw sockets and TCP
// over any number of links. It has no global state: a process can have any number of stacks, which
// share nothing.
//
// A stack owns no goroutine. The goroutine of a device processes the packets that the device receives.
// The goroutine that calls a method sends the packets that the call produces. All else runs on timers,
// which are set only while something is scheduled.
//
// # Locks
//
// A goroutine locks mutexes in the order of the levels below, and holds at most one mutex of each level.
// It holds none when it calls a device or a callback, or waits.
//
//  1. the configuration (Stack.mu)
//  2. the bindings of TCP ports (listenMu)
//  3. a listener
//  4. a socket
//  5. TIME-WAIT and the dials that wait for a port; multicast groups
//  6. a table or a list: UDP, raw and TCP sockets, listeners, paths, orphans, the timer wheel, the
//     reclaimer, cookie keys, the list of Watchers, reassembly, path MTU, ICMP budget and echo replies,
//     looped datagrams, the host's life
//  7. the ports of TCP sockets
//  8. the timer queue of connections
//  9. a neighbour table
//  10. an interface's transmit queue, multicast groups and defence of an address; the callers of
//     Changed; the coarse clock; redirects
//  11. the queue of a Watcher
//
// The level is part of a mutex's type. With the build tag lockorder the order is checked: see
// lockorder.go.
//
// An alarm has no lock of its own: the lock of its owner protects it.
package stack

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// Config is the configuration of a new stack. The zero value is for a host that has only the loopback
// interface.
type Config struct {
	// NICs are the links. The loopback interface "lo" with 127.0.0.1/8 and ::1/128 is built in.
	NICs []NIC
	// NoIPv6 disables IPv6: the host has no ::1, no link-local addresses and no IPv6 sockets, and drops
	// received IPv6 packets, like Linux with the kernel parameter ipv6.disable=1.
	NoIPv6 bool
	// Routes are static routes, in addition to the routes that follow from the addresses and gateways of
	// NICs. They come first among routes of the same prefix.
	Routes []Route
	// Neighbors are permanent neighbour entries.
	Neighbors []Neighbor
	// Logger logs events such as the failure of a link or an address that another machine uses. Nothing
	// is logged per packet. If Logger is nil, nothing is logged.
	Logger *slog.Logger
	// WaitForDAD delays the use of an IPv6 address until Duplicate Address Detection has ended, after
	// one to two seconds. If WaitForDAD is not set, the host uses the address at once, as an optimistic
	// address, and gives it up if another node has it. RFC 4429 recommends this for addresses that are
	// not configured manually. Until the detection has ended, RFC 4429 3.2 forbids the link address in
	// solicitations from the address, and a Linux neighbour does not answer such solicitations.
	WaitForDAD bool
	// NoRedirects makes the host ignore redirects of IPv6 routers.
	NoRedirects bool
	// StableSecret is the secret key for generating stable IPv6 addresses in prefixes that routers
	// advertise (RFC 7217). A host with the same secret and the same interface names has the same
	// addresses each time it joins a network. The secret has at least 16 unpredictable bytes. If
	// StableSecret is empty, the stack chooses a random secret, so each new stack has other addresses.
	StableSecret []byte
	// Rand fills p with unpredictable bytes. The stack derives from these bytes all random values that
	// other hosts can observe. Only New calls Rand. If Rand is nil, New uses crypto/rand. Otherwise each
	// interface has one transmit queue: see NIC.OneQueue.
	Rand func(p []byte)
	// TCP are the settings of TCP.
	TCP TCPConfig
	// UDPBuffer is the limit of the receive queue of a new UDP or raw socket in bytes, including the
	// overhead of the queue. 0 means 212992.
	UDPBuffer int
}

// A NIC is a link and the host's configuration on it.
type NIC struct {
	// Name is the interface's name. If it is empty, the name is that of the device.
	Name string
	// Device is the link. The stack closes it in Close, or when RemoveNIC removes its last interface. If
	// several NICs have the same Device, they share it: at most one without a VLAN, and at most one for
	// each VLAN.
	Device nic.Device
	// VLAN is the ID of the VLAN of the interface on the Ethernet of Device, 1 to 4094. The frames of the
	// interface have a tag with this ID (IEEE 802.1Q). The tag does not count towards the MTU. 0 means
	// that the interface sends frames without tags, and receives frames without tags and those whose tag
	// has only a priority. If Name is empty too, the name of an interface with VLAN 100 on eth0 is
	// "eth0.100".
	VLAN int
	// Addrs are the host's addresses with the lengths of their networks. IPv6 addresses need an MTU of
	// at least 1280. Unless Addrs has an IPv6 link-local address, an Ethernet interface with such an MTU
	// gets one that is made from its MAC address (RFC 2464).
	Addrs []netip.Prefix
	// Gateway is the default IPv4 router; an invalid address means none. The gateway must be on the
	// link: in the network of one of Addrs, or in the destination of a route without Via. If all IPv4
	// addresses in Addrs are single addresses (/32), as on some clouds, the gateway counts as on-link,
	// and the host reaches all other addresses through it.
	Gateway netip.Addr
	// Gateway6 is the default IPv6 router, by the same rules. It may be link-local.
	Gateway6 netip.Addr
	// Auto configures IPv6 from the Router Advertisements on the link: addresses in the advertised
	// prefixes, routes and name servers. Addrs and Gateway6 remain in use. The link must have an MTU of
	// at least 1280. On a link without MAC addresses, the host makes its link-local address by RFC 7217.
	Auto bool
	// Temporary adds temporary addresses (RFC 8981), with a random identifier that changes each day.
	// They are the source addresses of the communication that the host starts. Temporary needs Auto.
	Temporary bool
	// DADTransmits is the number of probes that Duplicate Address Detection sends for an IPv6 address,
	// at most 10 (DupAddrDetectTransmits of RFC 4862 5.1). 0 means 1. A negative number disables the
	// detection on the link.
	DADTransmits int
	// OneQueue makes all frames of the interface leave through one queue, in the order in which they were
	// queued. By default, a connection that sends in bulk uses one of several queues, so that several
	// processors send at the same time; only the frames of each connection then keep their order. If
	// Config.Rand is set, OneQueue is too: what a seeded host sends must not depend on the scheduler.
	OneQueue bool
}

// A Family is an address family that a caller requests.
type Family uint8

const (
	FamilyAny Family = iota // every family that the host has
	Family4
	Family6
)

// holds reports whether sockets of the family can use an address.
func (f Family) holds(a netip.Addr) bool {
	switch f {
	case Family4:
		return a.Is4() || a.Is4In6()
	case Family6:
		return a.Is6() && !a.Is4In6()
	}
	return a.IsValid()
}

// refusal returns the error for a destination that the family does not hold.
func (f Family) refusal(a netip.Addr) error {
	if f == Family6 && a.Is4() {
		return syscall.ENETUNREACH // as on Linux for an IPv4-mapped address
	}
	return syscall.EAFNOSUPPORT
}

const defaultUDPBuffer = 212992 // Linux's net.core.rmem_default

// A Stack is an Internet host in the sense of RFC 1122.
// All methods may be called from several goroutines.
type Stack struct {
	start                   time.Time
	log                     *slog.Logger
	fill                    func(p []byte)
	seeded                  bool // Config.Rand is set
	bufs                    bufPool
	udpBuffer               int
	lo                      *iface
	waitForDAD, noRedirects bool
	v6                      bool     // the host supports IPv6
	secret                  []byte   // Config.StableSecret, or a random secret chosen on first use; under mu
	desync                  tcp.Time // RFC 8981's DESYNC_FACTOR; 0: not chosen yet

	ifaces atomic.Pointer[[]*iface]   // loopback first; replaced, never modified
	table  atomic.Pointer[routeTable] // replaced, never modified
	gen    atomic.Uint32              // of table; paths of older generations are invalid
	watch  watchState
	pmtu   pmtuCache   // path MTUs from ICMP errors about TCP segments
	closed atomic.Bool // set once, under mu
	life   life
	deaths atomic.Int64 // links that have failed

	datagramMTU pmtuCache // path MTUs from ICMP errors about other datagrams

	mu        mutex[levelConfig] // serializes changes of the configuration
	lastIndex int                // highest interface index in use so far
	static    []Route            // of Config and AddRoute, in order
	lifetimes lifetimes
	redirects redirects
	changes   changes

	frags  reassembly // of IPv4
	frags6 reassembly
	icmp   icmpBudget
	echoed echoLog
	_      cacheLine
	ids    idSource
	_      cacheLine
	random randSource
	ports  portSource
	key    hashKey
	clock  coarseClock
	udp    udpTable
	raw    rawTable
	tcp    tcpState
	loop   loopQueue
	groups groupEngine
	counts counters
}

// New makes a stack and brings up its links. The error names the invalid part of the configuration. If
// New fails, it has not attached or closed any device.
func New(cfg Config) (*Stack, error) {
	s := &Stack{
		start:       startOfTime(),
		log:         cfg.Logger,
		fill:        cfg.Rand,
		seeded:      cfg.Rand != nil,
		udpBuffer:   cfg.UDPBuffer,
		waitForDAD:  cfg.WaitForDAD,
		noRedirects: cfg.NoRedirects,
		v6:          !cfg.NoIPv6,
		secret:      slices.Clone(cfg.StableSecret),
	}
	if n := len(cfg.StableSecret); n > 0 && n < 16 {
		return nil, fmt.Errorf("stack: StableSecret has %d bytes, and needs at least 16", n)
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.fill == nil {
		s.fill = func(p []byte) { rand.Read(p) }
	}
	if s.udpBuffer <= 0 {
		s.udpBuffer = defaultUDPBuffer
	}
	s.life.done = make(chan struct{})
	s.key, s.random.key = s.newKey(), s.newKey()
	s.ports.init(s.newKey()[0])
	s.frags.s, s.frags.timeout, s.frags.late = s, reassemblyTimeout, s.fragmentsLate4
	s.frags6.s, s.frags6.timeout, s.frags6.late = s, reassemblyTimeout6, s.fragmentsLate6
	s.groups.s = s
	s.lifetimes.s, s.changes.s = s, s
	s.pmtu.s, s.datagramMTU.s = s, s
	s.icmp.init(s.now())

	loDev := nic.NewLoopback(nic.LoopbackConfig{})
	s.lo = newIface(s, loDev, newPort(loDev), 0, "lo", 1)
	own := []ifaceAddr{{prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 8)}}
	if s.v6 {
		own = append(own, ifaceAddr{prefix: netip.PrefixFrom(netip.IPv6Loopback(), 128)})
	}
	s.lo.addrs.Store(&own)
	s.lo.loopback = true
	s.lastIndex = 1
	ifaces := []*iface{s.lo}
	for i, n := range cfg.NICs {
		ifc, err := s.checkNIC(ifaces, n)
		if err != nil {
			return nil, fmt.Errorf("stack: NIC %d: %w", i, err)
		}
		ifaces = append(ifaces, ifc)
	}
	s.ifaces.Store(&ifaces)
	for _, r := range cfg.Routes {
		r, err := s.checkRoute(r)
		if err != nil {
			return nil, fmt.Errorf("stack: route to %v: %w", r.Dst, err)
		}
		s.static = append(s.static, r)
	}
	for i, n := range cfg.NICs {
		if err := s.checkGateways(ifaces[i+1], &n); err != nil {
			return nil, fmt.Errorf("stack: NIC %d: %w", i, err)
		}
	}
	for _, n := range cfg.Neighbors {
		if err := s.setNeighbor(n); err != nil {
			return nil, fmt.Errorf("stack: neighbor %v: %w", n.Addr, err)
		}
	}
	s.rebuildRoutes()
	s.initTCP(cfg.TCP)
	s.up(ifaces...)
	s.drain()
	return s, nil
}

// Close closes the stack. It resets all connections, makes blocked callers return net.ErrClosed, and
// closes the devices. When Close returns, no code of the stack runs any more, except in calls that other
// goroutines started before. A second Close returns net.ErrClosed.
func (s *Stack) Close() error {
	s.mu.Lock()
	if s.closed.Swap(true) {
		s.mu.Unlock()
		return net.ErrClosed
	}
	s.lifetimes.alarm.close()
	for _, ifc := range *s.ifaces.Load() {
		s.endRouter(ifc)
	}
	s.mu.Unlock()
	ifaces := *s.ifaces.Load()
	for _, ifc := range ifaces {
		ifc.drainAsync() // Close must not block on a stuck device
	}
	s.closeTCP()
	s.udp.closeAll()
	s.raw.closeAll()
	s.groups.close()
	s.drain()
	s.sendLast(true, ifaces...)
	var first error
	closed := make(map[*port]bool)
	for _, ifc := range ifaces {
		if err := ifc.close(closed[ifc.port]); err != nil && first == nil {
			first = err
		}
		closed[ifc.port] = true
	}
	s.frags.close()
	s.frags6.close()
	s.clock.stop()
	s.pmtu.close()
	s.datagramMTU.close()
	s.gen.Add(1)
	s.life.end(net.ErrClosed)
	s.watch.close()
	s.changes.notify()
	return first
}

// now returns the time since the start of the stack. It is never 0, because a zero tcp.Time means
// never.
func (s *Stack) now() tcp.Time { return tcp.Time(time.Since(s.start)) + timerSlots }

// Uptime returns the time since New made the stack.
func (s *Stack) Uptime() time.Duration { return time.Since(s.start) }

// wallTime converts a result of now to a time.Time.
func (s *Stack) wallTime(t tcp.Time) time.Time { return s.start.Add(time.Duration(t - timerSlots)) }

// startOfTime returns the present, rounded down to a multiple of timerSlots.
func startOfTime() time.Time {
	now := time.Now()
	return now.Add(-time.Duration(now.UnixNano() % timerSlots))
}

// newKey returns an unpredictable key.
func (s *Stack) newKey() hashKey {
	var b [16]byte
	s.fill(b[:])
	return hashKey{binary.LittleEndian.Uint64(b[:]), binary.LittleEndian.Uint64(b[8:])}
}

// A randSource derives unpredictable numbers from one key. Each purpose has its own sequence, so that
// the number of draws for one purpose does not change the sequence of another.
type randSource struct {
	key hashKey
	n   [randPurposes]atomic.Uint64 // numbers drawn so far
}

// A randPurpose is the purpose of a random number.
type randPurpose uint8

const (
	randPort   randPurpose = iota // a port that the application has not chosen
	randGroup                     // the delay of a group's report
	randCookie                    // a key of SYN cookies
	randND                        // nonces and delays of Neighbor Discovery
	randID                        // interface identifiers
	randACD                       // delays of address conflict detection
	randPurposes
)

// next returns the next number of a sequence.
func (r *randSource) next(of randPurpose) uint64 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], r.n[of].Add(1))
	b[8] = byte(of)
	return r.key.sum(b[:])
}

// AddNIC adds a link to a running stack.
func (s *Stack) AddNIC(n NIC) error {
	s.mu.Lock()
	if s.closed.Load() {
		s.mu.Unlock()
		return net.ErrClosed
	}
	old := *s.ifaces.Load()
	ifc, err := s.checkNIC(old, n)
	if err == nil {
		err = s.checkGateways(ifc, &n)
	}
	if err != nil {
		s.mu.Unlock()
		return fmt.Errorf("stack: AddNIC: %w", err)
	}
	ifaces := append(slices.Clip(old), ifc)
	s.ifaces.Store(&ifaces)
	s.rebuildRoutes()
	s.life.revive()
	s.mu.Unlock()
	s.up(ifc)
	s.changes.notify() // the link may have changed in between
	s.drain()
	return nil
}

// RemoveNIC removes an interface from a running stack. If no other interface uses the device, RemoveNIC
// closes the device. RemoveNIC also deletes the routes over the link, and the routes whose source is an
// address of the link. Sockets stay open. Sockets that have no other route, or are bound to an address of the
// link, fail to send.
func (s *Stack) RemoveNIC(name string) error {
	s.mu.Lock()
	old := *s.ifaces.Load()
	i := slices.IndexFunc(old, func(ifc *iface) bool { return ifc.name == name })
	if s.closed.Load() || i <= 0 {
		defer s.mu.Unlock()
		switch {
		case s.closed.Load():
			return net.ErrClosed
		case i == 0:
			return fmt.Errorf("stack: RemoveNIC: the loopback stays")
		}
		return fmt.Errorf("stack: RemoveNIC: no interface %q", name)
	}
	ifc := old[i]
	s.endRouter(ifc)
	ifaces := slices.Delete(slices.Clone(old), i, i+1)
	s.ifaces.Store(&ifaces)
	s.rebuildRoutes()
	_, other := portOf(ifaces, ifc.dev)
	s.mu.Unlock()
	ifc.drainAsync() // RemoveNIC must not block on a stuck device
	s.groups.detach(ifc)
	s.sendLast(other == nil, ifc)
	err := ifc.close(other != nil)
	s.counts.ipSent.Add(ifc.stats.TxDirect.Frames()) // Stack.ipSent no longer reads this interface's stats
	s.linkGone()
	s.drain()
	return err
}

// checkNIC makes an interface from n, or returns an error if n is invalid. ifaces are the interfaces that
// exist already.
func (s *Stack) checkNIC(ifaces []*iface, n NIC) (*iface, error) {
	p, err := s.checkPort(ifaces, &n)
	if err != nil {
		return nil, err
	}
	link := n.Device.Link()
	device := cmp.Or(link.Name, "nic")
	if n.VLAN != 0 {
		device = fmt.Sprintf("%s.%d", device, n.VLAN)
	}
	name, err := nicName(ifaces, n.Name, device)
	if err != nil {
		return nil, err
	}
	// RFC 791 3.2: "Every internet module must be able to forward a datagram of
	// 68 octets without further fragmentation."
	if link.MTU < minMTU {
		return nil, fmt.Errorf("%s: the MTU of %d is below %d", name, link.MTU, minMTU)
	}
	if link.Medium == nic.Ethernet && link.MAC[0]&1 != 0 {
		return nil, fmt.Errorf("%s: the device's address is a group address", name)
	}
	if n.DADTransmits > maxDADTransmits {
		return nil, fmt.Errorf("%s: DADTransmits is %d, above %d", name, n.DADTransmits, maxDADTransmits)
	}
	if s.lastIndex >= maxIfaceIndex {
		return nil, fmt.Errorf("%s: all %d interface indices have been used", name, maxIfaceIndex)
	}
	ifc := newIface(s, n.Device, p, uint16(n.VLAN), name, s.lastIndex+1)
	ifc.oneQueue = n.OneQueue || s.seeded
	ifc.dadTransmits = int8(cmp.Or(max(n.DADTransmits, -1), dadTransmits))
	for _, p := range n.Addrs {
		if ifc.find(p.Addr()) >= 0 {
			return nil, fmt.Errorf("%s: address %v is there twice", name, p.Addr())
		}
		list, err := s.withAddr(ifaces, ifc, p, AddrOptions{})
		if err != nil {
			return nil, fmt.Errorf("%s: address %v: %w", name, p, err)
		}
		ifc.addrs.Store(&list)
	}
	switch {
	case n.Temporary && !n.Auto:
		return nil, fmt.Errorf("%s: Temporary needs Auto", name)
	case n.Auto:
		if err := ifc.check6(); err != nil {
			return nil, fmt.Errorf("%s: Auto: %w", name, err)
		}
		ifc.auto = &autoconf{temporary: n.Temporary}
	}
	if ifc.needsLinkLocal() {
		list := s.withLinkLocal(ifc, ifc.list())
		ifc.addrs.Store(&list)
	}
	if n.Gateway.Is6() {
		return nil, fmt.Errorf("%s: Gateway %v is not an IPv4 address: use Gateway6 for IPv6", name, n.Gateway)
	}
	if n.Gateway6.Is4() {
		return nil, fmt.Errorf("%s: Gateway6 %v is not an IPv6 address: use Gateway for IPv4", name, n.Gateway6)
	}
	if n.Gateway6, err = ifc.inZone(n.Gateway6); err != nil {
		return nil, fmt.Errorf("%s: Gateway6: %w", name, err)
	}
	s.lastIndex++
	for _, gw := range []netip.Addr{n.Gateway, n.Gateway6} {
		if gw.IsValid() {
			*ifc.gatewayFor(gw) = nicGateway{gw, onlySingle(n.Addrs, gw)}
		}
	}
	return ifc, nil
}

// checkPort returns the port for the device of n, or an error if n cannot use the device. ifaces are the
// interfaces that exist already.
func (s *Stack) checkPort(ifaces []*iface, n *NIC) (*port, error) {
	p, user := portOf(ifaces, n.Device)
	if p == nil {
		if err := nic.CheckFree(n.Device); err != nil {
			return nil, err
		}
		for _, other := range ifaces {
			if nic.CheckFree(n.Device, other.dev) != nil {
				return nil, fmt.Errorf("the device is that of %s already", other.name)
			}
		}
		p = newPort(n.Device)
	}
	switch {
	case n.VLAN < 0 || n.VLAN > maxVLAN:
		return nil, fmt.Errorf("VLAN %d is not from 1 to %d", n.VLAN, maxVLAN)
	case n.VLAN != 0 && n.Device.Link().Medium != nic.Ethernet:
		return nil, fmt.Errorf("VLAN %d: the device has no Ethernet", n.VLAN)
	case user != nil && user.dead.Load():
		return nil, fmt.Errorf("the device of %s has failed", user.name)
	}
	for _, other := range ifaces {
		switch {
		case other.port != p || int(other.vlan) != n.VLAN:
		case n.VLAN == 0:
			return nil, fmt.Errorf("the device is that of %s already", other.name)
		default:
			return nil, fmt.Errorf("VLAN %d of the device is that of %s already", n.VLAN, other.name)
		}
	}
	return p, nil
}

// onlySingle reports whether addrs has addresses of gw's family and all of these are single addresses
// (/32 or /128).
func onlySingle(addrs []netip.Prefix, gw netip.Addr) bool {
	some := false
	for _, p := range addrs {
		if p.Addr().Is4() == gw.Is4() {
			some = true
			if !p.IsSingleIP() {
				return false
			}
		}
	}
	return some
}

// nicName chooses the name of a new interface. asked is NIC.Name, which may be empty. device is the name of
// the device, with the VLAN if there is one.
func nicName(ifaces []*iface, asked, device string) (string, error) {
	taken := func(name string) bool {
		return slices.ContainsFunc(ifaces, func(ifc *iface) bool { return ifc.name == name })
	}
	if asked != "" {
		if taken(asked) {
			return "", fmt.Errorf("the name %q is taken", asked)
		}
		return asked, nil
	}
	name := device
	for i := 1; taken(name); i++ {
		name = fmt.Sprintf("%s.%d", device, i)
	}
	return name, nil
}

// checkGateways returns an error if a gateway of n is invalid.
func (s *Stack) checkGateways(ifc *iface, n *NIC) error {
	if err := s.checkGateway(ifc, n.Gateway); err != nil {
		return err
	}
	return s.checkGateway(ifc, n.Gateway6.WithZone(""))
}

// checkGateway returns an error if gw cannot be a router of the interface.
func (s *Stack) checkGateway(ifc *iface, gw netip.Addr) error {
	if !gw.IsValid() {
		return nil
	}
	if s.hasOn(ifc, gw) {
		return fmt.Errorf("%s: gateway %v is the host's own address", ifc.name, gw)
	}
	if !isNeighborAddr(gw) || ifc.isBroadcast(gw) {
		return fmt.Errorf("%s: gateway %v is not a unicast address", ifc.name, gw)
	}
	if !s.onLink(ifc, gw) {
		return fmt.Errorf("%s: gateway %v is not on the link: no address has a network that contains it", ifc.name, gw)
	}
	return nil
}
