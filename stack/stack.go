// Package stack is the engine of a usernet host: ARP, IPv4, ICMP, UDP, raw
// sockets and TCP over any number of links. It has no global state: any number
// of stacks live in one process and share nothing.
//
// No goroutine belongs to a stack. What arrives is worked on by the goroutine
// of the device that received it, what is sent by the one that sends, and the
// rest runs on timers that are only armed while something is due.
//
// # Locks
//
// They are taken in this order, and released before a device, a callback or a
// wait is reached. A goroutine holds at most one lock of a level:
//
//  1. the configuration (Stack.mu)
//  2. what TCP ports are bound to (listenMu)
//  3. a listener
//  4. a socket
//  5. TIME-WAIT with the dials that wait for a port; multicast groups
//  6. a table or list: UDP, raw and TCP sockets, listeners, paths, orphans, the wheel, the reclaimer, cookie
//     keys, reassembly, path MTU, ICMP budget, looped datagrams, the host's life
//  7. the ports of TCP's sockets
//  8. the timer queue of connections
//  9. a neighbour table
//  10. of an interface: the transmit queue, the groups, the defence of an address; who waits for a change; the
//     coarse clock; redirects
//
// The level is part of a mutex's type, and the build tag lockorder has it checked: see lockorder.go.
//
// An alarm has no lock: it belongs to that of its owner.
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
	"github.com/usernet/usernet/stack/wire"
)

// Config says what a stack is made of. The zero value is a host that has only
// its loopback.
type Config struct {
	// NICs are the links. The loopback, "lo" with 127.0.0.1/8, is built in; it has ::1/128 too once
	// some other interface has had an address of IPv6.
	NICs []NIC
	// Routes stand beside those that the addresses and gateways of the NICs
	// bring, and before them where prefixes are equal.
	Routes []Route
	// Neighbors are static entries, which are never asked for nor forgotten.
	Neighbors []Neighbor
	// Logger is told when a link fails or an address is in use by another
	// machine; nothing is logged per packet. Nil is silent.
	Logger *slog.Logger
	// WaitForDAD has an IPv6 address be of no use before Duplicate Address Detection has found that
	// no other node on the link has it, which takes one to two seconds. Otherwise it is used at
	// once, and given up when a duplicate is found (RFC 4429, which recommends that for addresses
	// that are not typed by hand).
	WaitForDAD bool
	// NoRedirects has the host believe no redirects of IPv6 routers.
	NoRedirects bool
	// StableSecret is what the addresses in routers' prefixes are made with (RFC 7217): with the
	// same secret and interface names, a host has the same addresses each time it comes to a
	// network. It has at least 16 unpredictable bytes. Without one the addresses are the
	// same for the life of the host only.
	StableSecret []byte
	// Rand fills p with unpredictable bytes, from which all that is random in the stack is
	// derived. Nil means crypto/rand. It is called by New only.
	Rand func(p []byte)
	// TCP has the settings of TCP.
	TCP TCPConfig
	// UDPBuffer is the receive queue limit in bytes of a new UDP or raw
	// socket, with what the queue itself needs; 212992 if zero.
	UDPBuffer int
}

// A NIC is a link with the host's addresses on it.
type NIC struct {
	// Name is the interface's name; the device's own if empty.
	Name string
	// Device is the link. The stack closes it when it is closed itself, or
	// when the NIC is removed.
	Device nic.Device
	// Addrs are the host's addresses with the lengths of their networks. Those of IPv6 need an
	// MTU of at least 1280.
	Addrs []netip.Prefix
	// Gateway is the default router; an invalid address means none. It has to be on the
	// link: in the network of an address, or of a route without Via. Where all of Addrs
	// of its family are single addresses (/32), as some clouds give them, the gateway is taken to
	// be on the link, and all else is reached by it.
	Gateway netip.Addr
	// Gateway6 is the default router of IPv6, where Gateway is that of IPv4. It may be link-local.
	Gateway6 netip.Addr
	// Auto has the host listen to the IPv6 routers of the link: it has addresses with the prefixes
	// that they advertise, routes by them, and name servers. What is configured stands beside
	// that. The link has to be an Ethernet.
	Auto bool
	// Temporary adds addresses with a random identifier that changes each day, for what the host
	// itself begins (RFC 8981). It needs Auto.
	Temporary bool
	// DADTransmits is how many probes Duplicate Address Detection sends for an IPv6 address, at
	// most 10: DupAddrDetectTransmits of RFC 4862 5.1. 0 means 1; negative, that there is no
	// detection on the link.
	DADTransmits int
}

// Family is an address family as a caller asks for it.
type Family uint8

const (
	FamilyAny Family = iota // whatever the host has; both where it has both
	Family4
	Family6
)

// holds reports whether an address can be used with sockets of the family.
func (f Family) holds(a netip.Addr) bool {
	switch f {
	case Family4:
		return a.Is4() || a.Is4In6()
	case Family6:
		return a.Is6() && !a.Is4In6()
	}
	return a.IsValid()
}

// refusal is the error of sending to an address that the family does not hold.
func (f Family) refusal(a netip.Addr) error {
	if f == Family6 && a.Is4() {
		return syscall.ENETUNREACH // as Linux has it for a mapped address
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
	bufs                    bufPool
	udpBuffer               int
	lo                      *iface
	waitForDAD, noRedirects bool
	secret                  []byte   // of stable addresses; under mu
	desync                  tcp.Time // RFC 8981's DESYNC_FACTOR; 0: not chosen yet

	ifaces atomic.Pointer[[]*iface]   // loopback first; replaced, never changed
	table  atomic.Pointer[routeTable] // replaced, never changed
	gen    atomic.Uint32              // of table; paths of older ones are void
	pmtu   pmtuCache                  // what ICMP told of TCP segments
	closed atomic.Bool                // set once, under mu
	life   life
	deaths atomic.Int64 // of links

	datagramMTU pmtuCache // what ICMP told of other datagrams

	mu        mutex[levelConfig] // one change of the configuration at a time
	lastIndex int                // the highest interface index given
	static    []Route            // of Config and AddRoute, in order
	lifetimes lifetimes
	redirects redirects
	changes   changes

	frags  reassembly // of IPv4
	frags6 reassembly
	icmp   icmpBudget
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

// New makes a stack and brings up its links. An error says which part of the
// configuration is wrong; then no device has been attached or closed.
func New(cfg Config) (*Stack, error) {
	s := &Stack{
		start:       startOfTime(),
		log:         cfg.Logger,
		fill:        cfg.Rand,
		udpBuffer:   cfg.UDPBuffer,
		waitForDAD:  cfg.WaitForDAD,
		noRedirects: cfg.NoRedirects,
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
	s.lifetimes.s = s
	s.pmtu.s, s.datagramMTU.s = s, s
	s.icmp.init(s.now())

	loDev := nic.NewLoopback(nic.LoopbackConfig{})
	s.lo = newIface(s, loDev, "lo", 1)
	s.lo.addrs.Store(&[]ifaceAddr{{prefix: netip.MustParsePrefix("127.0.0.1/8")}})
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
	for _, ifc := range ifaces {
		ifc.up()
	}
	s.drain()
	return s, nil
}

// Close ends the host: connections are reset, every blocked caller returns
// net.ErrClosed, and the devices are closed. Nothing of the stack runs any more
// when it has returned, but for what other goroutines had already begun. A
// second Close returns net.ErrClosed.
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
		ifc.tx.async.Store(true) // a stuck device does not keep us
	}
	s.closeTCP()
	s.udp.closeAll()
	s.raw.closeAll()
	s.groups.close()
	s.drain()
	s.sendLast(ifaces...)
	var first error
	for _, ifc := range ifaces {
		if err := ifc.close(); err != nil && first == nil {
			first = err
		}
	}
	s.frags.close()
	s.frags6.close()
	s.clock.stop()
	s.pmtu.close()
	s.datagramMTU.close()
	s.gen.Add(1)
	s.life.end(net.ErrClosed)
	s.changes.notify()
	return first
}

// now is the time since the stack began.
// It is not 0 then, because a zero tcp.Time is never.
func (s *Stack) now() tcp.Time { return tcp.Time(time.Since(s.start)) + timerSlots }

// wallTime is the way back from now.
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

// A randSource makes unpredictable numbers of one key: a sequence for each purpose, so that what one
// part of a stack draws does not change what the others get.
type randSource struct {
	key hashKey
	n   [randPurposes]atomic.Uint64 // numbers drawn
}

// A randPurpose is what a random number is for.
type randPurpose uint8

const (
	randPort   randPurpose = iota // a port that the application leaves open
	randGroup                     // the delay of a report of a group
	randCookie                    // a key of SYN cookies
	randND                        // nonces and delays of Neighbour Discovery
	randID                        // identifiers of addresses
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
	ifc.up()
	s.changes.notify() // the link may have changed meanwhile
	s.drain()
	return nil
}

// RemoveNIC takes a link out of a running stack and closes its device. Routes
// over it go with it, and so do those whose source is an address of it. Sockets stay: they
// find no route where there is none left, nor from an address that has gone.
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
	s.mu.Unlock()
	ifc.tx.async.Store(true) // a stuck device does not keep us
	s.groups.detach(ifc)
	s.sendLast(ifc)
	err := ifc.close()
	s.counts.ipSent.Add(ifc.stats.TxDirect.Frames()) // which nobody asks any more
	s.linkGone()
	s.drain()
	return err
}

// checkNIC makes an interface of a NIC, after those that are there already.
func (s *Stack) checkNIC(ifaces []*iface, n NIC) (*iface, error) {
	if err := nic.CheckFree(n.Device); err != nil {
		return nil, err
	}
	for _, other := range ifaces {
		if nic.CheckFree(n.Device, other.dev) != nil {
			return nil, fmt.Errorf("the device is that of %s already", other.name)
		}
	}
	link := n.Device.Link()
	name, err := nicName(ifaces, n.Name, link.Name)
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
	ifc := newIface(s, n.Device, name, s.lastIndex+1)
	ifc.dadTransmits = cmp.Or(n.DADTransmits, dadTransmits)
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
		if ifc.neigh6 == nil || !ifc.carries6() {
			return nil, fmt.Errorf("%s: Auto needs an Ethernet with an MTU of at least %d", name, wire.MinIPv6MTU)
		}
		ifc.auto = &autoconf{temporary: n.Temporary}
		list := s.withLinkLocal(ifc, ifc.list())
		ifc.addrs.Store(&list)
	}
	s.lastIndex++
	for _, gw := range []netip.Addr{n.Gateway, n.Gateway6} {
		gw = gw.WithZone("") // it can be on no other link
		if !gw.IsValid() {
			continue
		}
		g := ifc.gatewayFor(gw)
		if g.addr.IsValid() || gw == n.Gateway6 && !gw.Is6() {
			return nil, fmt.Errorf("%s: Gateway6 %v: it has to be of IPv6, and Gateway of IPv4", name, n.Gateway6)
		}
		*g = nicGateway{gw, onlySingle(n.Addrs, gw)}
	}
	return ifc, nil
}

// onlySingle reports whether there are addresses of a gateway's family, and none has a network.
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

// nicName chooses the name of a new interface.
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
	if device == "" {
		device = "nic"
	}
	name := device
	for i := 1; taken(name); i++ {
		name = fmt.Sprintf("%s.%d", device, i)
	}
	return name, nil
}

// checkGateways tells whether the routers of a NIC can be.
func (s *Stack) checkGateways(ifc *iface, n *NIC) error {
	if err := s.checkGateway(ifc, n.Gateway); err != nil {
		return err
	}
	return s.checkGateway(ifc, n.Gateway6.WithZone(""))
}

// checkGateway tells whether an address can be the router of an interface.
func (s *Stack) checkGateway(ifc *iface, gw netip.Addr) error {
	if !gw.IsValid() {
		return nil
	}
	if ifc.owns(gw) {
		return fmt.Errorf("%s: gateway %v is the host's own address", ifc.name, gw)
	}
	if !isUnicast(gw) || gw.IsLoopback() {
		return fmt.Errorf("%s: gateway %v is not a unicast address", ifc.name, gw)
	}
	if !s.onLink(ifc, gw) {
		return fmt.Errorf("%s: gateway %v is not on the link: no address has a network that contains it", ifc.name, gw)
	}
	return nil
}
