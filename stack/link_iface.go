package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/internal/tally"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

const (
	minMTU = 68 // RFC 791 3.2
	// maxIfaceIndex is the highest index of an interface. path and makeTuple store the interface index of
	// a link-local address in 16 bits.
	maxIfaceIndex = 65535
)

// An iface is an interface: a device, with the host's addresses on the link of the device.
type iface struct {
	s            *Stack
	dev          nic.Device
	port         *port // dev with all interfaces that use it
	name         string
	index        int    // from 1; never reused
	vlan         uint16 // 1 to maxVLAN; 0 for an interface without a VLAN
	loopback     bool
	oneQueue     bool // NIC.OneQueue, or the host is seeded
	sending      bool // the device is attached, and the queues may send; under tx.mu
	begun        bool // the device is attached, and addresses may be probed; under Stack.mu
	medium       nic.Medium
	dadTransmits int8 // DAD probes of an address; negative: no DAD
	txChecksum   bool
	link         atomic.Pointer[linkState]   // the linkState is immutable
	linkLen      int                         // length of the link header: 14 on Ethernet, 18 with a VLAN tag, 0 on IP
	addrs        atomic.Pointer[[]ifaceAddr] // stored under Stack.mu; the slice is immutable
	gateways     [2]nicGateway               // for IPv4 and IPv6; under Stack.mu

	tx          txQueue
	txBulk      atomic.Pointer[[bulkQueues]txQueue] // nil until first needed: see bulkQueue
	lastBulk    atomic.Uint32                       // counts the connections with a bulk queue
	bulk        bulkWriters
	neigh4      *neighborTable                // nil on a link without neighbours
	neigh6      atomic.Pointer[neighborTable] // nil until first needed: see nd
	solicited   []netip.Addr                  // solicited-node groups that are joined; under Stack.mu
	auto        *autoconf                     // nil unless NIC.Auto is set
	negotiated  *negotiated                   // nil unless the device is a nic.Configurer
	router      *routerAdv                    // the Router Advertisement to send, or nil; under Stack.mu
	isRouter    atomic.Bool                   // router is not nil
	mtu4        atomic.Int32                  // IPv4 MTU of SetIPv4MTU; 0: none
	linkChanges atomic.Uint32                 // see InterfaceInfo
	mtu6, hops6 atomic.Int32                  // IPv6 MTU and hop limit from a Router Advertisement; 0: none
	stats       ifaceStats
	dead        atomic.Bool                // the device has failed or was closed
	down        atomic.Bool                // dead, or the device says that its link is down
	cause       atomic.Pointer[deathCause] // why the device failed; nil if it did not
	group       groupTable                 // multicast groups joined
	igmp, mld   groupLink                  // under the lock of Stack.groups

	// reader is the last reader that began to wait with a large buffer. It is nil if that reader has returned.
	reader atomic.Pointer[zeroCopyReceive]
}

// A nicGateway is the gateway in the configuration of a NIC.
type nicGateway struct {
	addr   netip.Addr // invalid if there is none
	onLink bool       // the gateway counts as on-link although no network of an address contains it
}

// gatewayFor returns the gateway of the family of a.
func (ifc *iface) gatewayFor(a netip.Addr) *nicGateway {
	if a.Is4() {
		return &ifc.gateways[0]
	}
	return &ifc.gateways[1]
}

// A linkState has the properties of a link that may change while it is in use.
type linkState struct {
	mac wire.MAC
	mtu int // of the network layer
	gso int // largest IP packet of a super-frame in bytes; 0: no super-frames
}

func (ifc *iface) mac() wire.MAC { return ifc.link.Load().mac }
func (ifc *iface) mtu() int      { return ifc.link.Load().mtu }

// ipMTU returns the interface's MTU for IPv6 if v6 is set, else for IPv4.
func (ifc *iface) ipMTU(v6 bool) int {
	mtu, told := ifc.mtu(), &ifc.mtu4
	if v6 {
		told = &ifc.mtu6
	}
	if n := int(told.Load()); n != 0 {
		return min(mtu, n)
	}
	return mtu
}

// SetIPv4MTU limits the MTU of IPv4 on the interface with the name nic, as the Interface MTU option of
// DHCP requires (RFC 2132 5.1). If mtu is 0, it removes the limit. A limit above the MTU of the device has
// no effect. If nic is empty, the stack must have exactly one interface besides the loopback. The errors
// are EINVAL for a limit that is neither 0 nor from 68 to 65535, ENODEV if there is no such interface, and
// net.ErrClosed.
func (s *Stack) SetIPv4MTU(nic string, mtu int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed.Load() {
		return net.ErrClosed
	}
	ifc, err := s.linkNamed(nic)
	if err == nil && mtu != 0 && (mtu < minMTU || mtu > maxIPv4) {
		err = fmt.Errorf("an MTU of %d: %w", mtu, syscall.EINVAL)
	}
	if err != nil {
		return fmt.Errorf("stack: SetIPv4MTU: %w", err)
	}
	if int(ifc.mtu4.Swap(int32(mtu))) != mtu {
		s.gen.Add(1) // paths have a copy of the MTU
		s.changes.notify()
	}
	return nil
}

func (ifc *iface) gso() int { return ifc.link.Load().gso }

// setLink stores the properties of the device's link.
func (ifc *iface) setLink(link *nic.Link) {
	st := &linkState{mac: link.MAC, mtu: min(link.MTU, maxIPv4)}
	// Super-frames are useful only if they can be larger than a plain frame.
	if link.TxChecksum && link.GSO > link.MTU {
		st.gso = min(link.GSO, nic.MaxGSO)
	}
	ifc.link.Store(st)
}

// ifaceStats are the counters of an interface. The counters of each direction have their own cache
// lines, because receivers and senders often run at the same time.
type ifaceStats struct {
	_         cacheLine
	Rx        tally.Tally
	RxDropped atomic.Uint64
	_         cacheLine
	Tx        tally.Tally // through the queue
	TxDirect  tally.Tally // by direct transmit; each is one IP packet
	TxDropped atomic.Uint64
	_         cacheLine
}

// sent returns the number of frames that the device has accepted.
func (st *ifaceStats) sent() uint64 { return st.Tx.Frames() + st.TxDirect.Frames() }

// A cacheLine is padding that keeps fields on different cache lines.
type cacheLine [64]byte

// newIface makes an interface that does not receive or send before up.
func newIface(s *Stack, dev nic.Device, p *port, vlan uint16, name string, index int) *iface {
	link := dev.Link()
	ifc := &iface{
		s:          s,
		dev:        dev,
		port:       p,
		vlan:       vlan,
		name:       name,
		index:      index,
		medium:     link.Medium,
		txChecksum: link.TxChecksum,
	}
	ifc.addrs.Store(new([]ifaceAddr))
	ifc.setLink(&link)
	if link.Medium == nic.Ethernet {
		ifc.linkLen = wire.EthernetLen
		if vlan != 0 {
			ifc.linkLen = maxLinkLen
		}
		ifc.neigh4 = newNeighborTable(ifc, false)
	}
	ifc.igmp.init(ifc, false)
	ifc.mld.init(ifc, true)
	if nic.ConfigurerOf(dev) != nil {
		ifc.negotiated = new(negotiated)
	}
	ifc.tx.ifc = ifc
	ifc.tx.async.Store(!nic.IsNonblocking(dev))
	ifc.tx.draining.Store(true) // nothing is sent before beginSending
	return ifc
}

// up attaches the devices of new interfaces, unless they are attached already, and announces the interfaces'
// addresses on the links. The caller must then drain, because packets may have been queued before up.
func (s *Stack) up(ifaces ...*iface) {
	for _, ifc := range ifaces {
		ifc.port.join(ifc)
		ifc.beginSending()
	}
	s.mu.Lock()
	now := s.now()
	for _, ifc := range ifaces {
		ifc.begun = true
		for _, a := range ifc.list() {
			if a.dad != nil {
				a.dad.at = s.dadBegins(now)
			}
		}
		ifc.joinSolicited()
		s.beginSoliciting(ifc, now)
	}
	s.ageAddrs() // also begins Duplicate Address Detection
	s.mu.Unlock()
	for _, ifc := range ifaces {
		ifc.announceAll()
	}
}

// announceAll announces all usable addresses of the interface on the link.
func (ifc *iface) announceAll() {
	if ifc.linkLen == 0 {
		return
	}
	for _, p := range ifc.prefixes() {
		ifc.announce(p.Addr())
	}
}

// readLink stores the current properties of the device's link, and marks the interface as up or down. It
// reports whether the interface was down before.
func (ifc *iface) readLink() (wasDown bool) {
	s := ifc.s
	s.mu.Lock()
	defer s.mu.Unlock()
	link := ifc.dev.Link()
	ifc.setLink(&link)
	// RFC 791 3.2: "Every internet module must be able to forward a datagram of 68 octets".
	down := !link.Up || link.MTU < minMTU
	wasDown = ifc.down.Swap(down)
	if ifc.dead.Load() {
		ifc.down.Store(true)
	}
	// Paths have a copy of the MTU.
	s.gen.Add(1)
	return wasDown
}

// linkChanged handles a change of the link's MTU, MAC or state, or of the network behind the link. The
// caller must not hold a lock.
func (ifc *iface) linkChanged() {
	if ifc.dead.Load() || ifc.s.closed.Load() {
		return
	}
	before := *ifc.link.Load()
	wasDown := ifc.readLink()
	now, down := *ifc.link.Load(), ifc.down.Load()
	if ifc.dead.Load() {
		return
	}
	onlyMTU := !wasDown && before.mac == now.mac && before.mtu != now.mtu && !down
	if !onlyMTU {
		ifc.linkChanges.Add(1)
	}
	ifc.s.changes.notify()
	if wasDown != down || before != now {
		ifc.s.log.Info("link changed", "nic", ifc.name, "up", !down, "mtu", now.mtu, "mac", now.mac)
	}
	if before.mtu < wire.MinIPv6MTU && ifc.carries6() {
		ifc.s.beginIPv6(ifc)
		ifc.s.groups.comeUp(ifc)
	}
	if onlyMTU {
		return // the neighbour entries are still valid
	}
	ifc.flushNeighbors(down)
	if !down && (wasDown || before.mac != now.mac) {
		if wasDown {
			ifc.s.reattach(ifc)
		}
		ifc.announceAll()
		ifc.s.groups.comeUp(ifc)
	}
	ifc.s.drain()
}

// failed takes the interface down because its device has failed with err; see port.failed.
func (ifc *iface) failed(err error) {
	if ifc.dead.Swap(true) {
		return
	}
	ifc.down.Store(true)
	ifc.cause.Store(&deathCause{deathError(err), ifc.s.deaths.Add(1)})
	if !errors.Is(err, net.ErrClosed) {
		ifc.s.log.Error("link failed", "nic", ifc.name, "err", err)
	}
	ifc.flushNeighbors(true)
	ifc.s.gen.Add(1)
	ifc.s.linkGone()
	ifc.s.changes.notify()
}

// close closes the neighbour tables and, unless shared is set, the device, and drops the frames that are
// still queued. shared means that other interfaces go on using the device. The caller must have called
// sendLast.
func (ifc *iface) close(shared bool) (err error) {
	ifc.dead.Store(true)
	ifc.down.Store(true)
	if !shared {
		err = ifc.closeDevice()
	}
	ifc.port.leave(ifc)
	if ifc.linkLen > 0 {
		// Store a closed table if there is no table, so that nd cannot make an open table later.
		ifc.neigh6.CompareAndSwap(nil, &neighborTable{closed: true, ifc: ifc, v6: true})
	}
	for _, t := range ifc.neighborTables() {
		t.close()
	}
	ifc.s.redirects.forget(ifc, netip.Addr{})
	for q := range ifc.txQueues {
		q.close()
	}
	if errors.Is(err, net.ErrClosed) {
		return nil // the device had failed before, or another of its interfaces has closed it
	}
	return err
}

// closeDevice closes the device. If the device's Close takes longer than closeStall, closeDevice returns an
// error, and Close goes on in the background. For example, the Close of a wrapped tunnel may take so long,
// because it waits until a Write to the tunnel returns.
func (ifc *iface) closeDevice() error {
	done := make(chan error, 1)
	go func() { done <- ifc.dev.Close() }()
	timer := time.NewTimer(closeStall)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("stack: %s: the device has not closed within %v", ifc.name, closeStall)
	}
}

// InterfaceInfo describes an interface.
type InterfaceInfo struct {
	Name  string
	Index int // from 1; the index of a removed interface is not reused
	VLAN  int // 1 to 4094; 0 if the interface has no VLAN
	MAC   wire.MAC
	MTU   int // bytes of the network layer
	// IPv4MTU is the MTU of IPv4: the limit of SetIPv4MTU if that is lower than MTU, else MTU.
	IPv4MTU int
	Medium  nic.Medium
	// Addrs are the usable addresses. AddrInfo describes all addresses, including those that the host
	// has given up.
	Addrs    []netip.Prefix
	AddrInfo []AddrInfo
	// Gateway is the router of the first IPv4 default route over the interface, and Gateway6 is that of
	// the first IPv6 default route. If there is no such route, the address is invalid.
	Gateway, Gateway6 netip.Addr
	// Auto is the information from Router Advertisements; nil unless NIC.Auto is set.
	Auto *AutoInfo
	// Groups are the multicast groups that the host receives on the interface, in ascending order:
	// 224.0.0.1, with IPv6 also ff02::1, and the groups that sockets have joined.
	Groups   []netip.Addr
	Loopback bool
	Up       bool // the device is open, has not failed, and says that its link is up
	// LinkChanges counts how often the link has gone down, has come up, has got another MAC, or may have
	// been connected to another network.
	LinkChanges uint32
	// Err is the error with which the device failed; nil if it has not failed.
	Err error
}

// Interfaces describes the host's interfaces, the loopback first.
func (s *Stack) Interfaces() []InterfaceInfo {
	var infos []InterfaceInfo
	for _, ifc := range *s.ifaces.Load() {
		var err error
		if cause := ifc.cause.Load(); cause != nil {
			err = cause.err
		}
		infos = append(infos, InterfaceInfo{
			Name:     ifc.name,
			Index:    ifc.index,
			VLAN:     int(ifc.vlan),
			MAC:      ifc.mac(),
			MTU:      ifc.mtu(),
			IPv4MTU:  ifc.ipMTU(false),
			Medium:   ifc.medium,
			Addrs:    ifc.prefixes(),
			AddrInfo: ifc.describeAddrs(),
			Auto:     s.describeAuto(ifc),
			Gateway:  s.table.Load().gatewayOf(ifc, false),
			Gateway6: s.table.Load().gatewayOf(ifc, true),
			Groups:   ifc.group.list(ifc.takes6()),
			Loopback: ifc.loopback,
			Up:       !ifc.down.Load() && ifc.dev.Link().Up,
			Err:      err,

			LinkChanges: ifc.linkChanges.Load(),
		})
	}
	return infos
}

// ifaceNamed returns the interface with the given name, or nil.
func (s *Stack) ifaceNamed(name string) *iface {
	for _, ifc := range *s.ifaces.Load() {
		if ifc.name == name {
			return ifc
		}
	}
	return nil
}

// ifaceWith returns the interface that has the address a, or nil.
func (s *Stack) ifaceWith(a netip.Addr) *iface {
	for _, ifc := range *s.ifaces.Load() {
		if ifc.owns(a) {
			return ifc
		}
	}
	return nil
}

// ifaceAt returns the interface with the given index, or nil.
func (s *Stack) ifaceAt(index int) *iface {
	for _, ifc := range *s.ifaces.Load() {
		if ifc.index == index {
			return ifc
		}
	}
	return nil
}
