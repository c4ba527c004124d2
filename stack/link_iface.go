package stack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/internal/tally"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

const (
	minMTU = 68 // RFC 791 3.2
)

// An iface is a link of the host with the addresses that it has there.
type iface struct {
	s          *Stack
	dev        nic.Device
	name       string
	index      int // from 1, never used twice
	loopback   bool
	medium     nic.Medium
	link       atomic.Pointer[linkState] // replaced, never changed
	txChecksum bool
	linkLen    int                         // of the link header: 14 on Ethernet, 0 on IP
	addrs      atomic.Pointer[[]ifaceAddr] // replaced under Stack.mu, never changed
	gateways   [2]nicGateway               // of IPv4 and IPv6; under Stack.mu

	tx             txQueue
	bulk           bulkWriters
	neigh4, neigh6 *neighborTable // nil where the link has no neighbours
	solicited      []netip.Addr   // groups joined for the addresses of IPv6; under Stack.mu
	auto           *autoconf      // nil where routers are not listened to
	router         *routerAdv     // what is advertised; nil: nothing; under Stack.mu
	isRouter       atomic.Bool    // it is not nil
	mtu6, hops6    atomic.Int32   // of IPv6, as a router has told them; 0: those of the link, and defaultTTL
	stats          ifaceStats
	dead           atomic.Bool                // the device died or was closed
	down           atomic.Bool                // that, or the device says that its link is
	cause          atomic.Pointer[deathCause] // why the device died by itself; else nil
	group          groupTable                 // multicast groups joined
	igmp, mld      groupLink                  // under the lock of Stack.groups

	zeroCopy bool                            // the device asks for receive buffers
	follows  bool                            // the device tells when its link changes
	reader   atomic.Pointer[zeroCopyReceive] // who last began to wait with a large buffer; nil when it has left
}

// A nicGateway is the router of the default route that a NIC's configuration has.
type nicGateway struct {
	addr   netip.Addr // invalid: there is none
	onLink bool       // without being in the network of an address
}

// gatewayFor returns the one of the address's family.
func (ifc *iface) gatewayFor(a netip.Addr) *nicGateway {
	if a.Is4() {
		return &ifc.gateways[0]
	}
	return &ifc.gateways[1]
}

// A linkState is what may change of a link while it is in use.
type linkState struct {
	mac wire.MAC
	mtu int // of the network layer
	gso int // largest super-frame's IP packet; 0: none
}

func (ifc *iface) mac() wire.MAC { return ifc.link.Load().mac }
func (ifc *iface) mtu() int      { return ifc.link.Load().mtu }

// ipMTU is the MTU of a family.
func (ifc *iface) ipMTU(v6 bool) int {
	mtu := ifc.mtu()
	if told := int(ifc.mtu6.Load()); v6 && told != 0 {
		return min(mtu, told)
	}
	return mtu
}

func (ifc *iface) gso() int { return ifc.link.Load().gso }

// setLink takes what the device says of its link.
func (ifc *iface) setLink(link *nic.Link) {
	st := &linkState{mac: link.MAC, mtu: min(link.MTU, maxIPv4)}
	// A super-frame has no use below what one frame carries, and IPv4's total
	// length bounds it.
	if link.TxChecksum && link.GSO > link.MTU {
		st.gso = min(link.GSO, maxIPv4)
	}
	ifc.link.Store(st)
}

// What is received and what is sent are counted by different goroutines, often at the
// same time: each has cache lines of its own.
type ifaceStats struct {
	_         cacheLine
	Rx        tally.Tally
	RxDropped atomic.Uint64
	_         cacheLine
	Tx        tally.Tally // through the queue
	TxDirect  tally.Tally // directly; each is an IP packet
	TxDropped atomic.Uint64
	_         cacheLine
}

// sent is the number of frames that the device has taken.
func (st *ifaceStats) sent() uint64 { return st.Tx.Frames() + st.TxDirect.Frames() }

// A cacheLine keeps apart what different cores change.
type cacheLine [64]byte

func newIface(s *Stack, dev nic.Device, name string, index int) *iface {
	link := dev.Link()
	ifc := &iface{
		s:          s,
		dev:        dev,
		name:       name,
		index:      index,
		medium:     link.Medium,
		txChecksum: link.TxChecksum,
	}
	ifc.addrs.Store(new([]ifaceAddr))
	ifc.setLink(&link)
	if link.Medium == nic.Ethernet {
		ifc.linkLen = wire.EthernetLen
		ifc.neigh4, ifc.neigh6 = newNeighborTable(ifc, false), newNeighborTable(ifc, true)
	}
	ifc.igmp.init(ifc, false)
	ifc.mld.init(ifc, true)
	ifc.tx.async.Store(!nic.IsNonblocking(dev))
	ifc.tx.busy.Store(true) // up ends the turn: a device is not sent to before it is attached
	return ifc
}

// up attaches the device and tells the link which addresses are now here. The caller
// drains: others may have put something since the routes were known.
func (ifc *iface) up() {
	// A device that can die by itself says so here.
	if d, ok := ifc.dev.(nic.DownNotifier); ok {
		d.NotifyDown(ifc.failed)
	}
	// One whose link can change, too; and that may have happened already.
	if d, ok := ifc.dev.(nic.LinkNotifier); ok {
		if ifc.follows = d.NotifyLink(ifc.linkChanged); ifc.follows {
			ifc.readLink()
		}
	}
	// One that can join what it receives is asked to.
	if d, ok := ifc.dev.(nic.ReceiveMerger); ok {
		d.MergeReceived()
	}
	// One that can put payload where it belongs asks where that is.
	if d, ok := ifc.dev.(nic.ZeroCopyReceiver); ok {
		ifc.zeroCopy = d.ReceiveInto(ifc.receiveBuffer)
	}
	ifc.dev.Attach(ifc.recv)
	ifc.tx.busy.Store(false)
	ifc.s.mu.Lock()
	ifc.joinSolicited()
	ifc.s.beginSoliciting(ifc, ifc.s.now())
	ifc.s.ageAddrs() // and begin to look for duplicates
	ifc.s.mu.Unlock()
	ifc.announceAll()
}

// announceAll tells everybody on the link which addresses are here.
func (ifc *iface) announceAll() {
	if ifc.linkLen == 0 {
		return
	}
	for _, p := range ifc.prefixes() {
		ifc.announce(p.Addr())
	}
}

// readLink takes what the device says of its link now. It reports whether it was down.
func (ifc *iface) readLink() (wasDown bool) {
	s := ifc.s
	s.mu.Lock()
	defer s.mu.Unlock()
	link := ifc.dev.Link()
	ifc.setLink(&link)
	// RFC 791 3.2: below that no internet module can work.
	down := !link.Up || link.MTU < minMTU
	wasDown = ifc.down.Swap(down)
	if ifc.dead.Load() {
		ifc.down.Store(true)
	}
	// Paths have the MTU in them.
	s.gen.Add(1)
	return wasDown
}

// linkChanged is called when the device's link has another MTU, MAC or state, or other
// stations. No lock is held.
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
	if wasDown != down || before != now {
		ifc.s.changes.tell()
		ifc.s.log.Info("link changed", "nic", ifc.name, "up", !down, "mtu", now.mtu, "mac", now.mac)
	}
	if !wasDown && before.mac == now.mac && before.mtu != now.mtu && !down {
		return // the stations are where they were
	}
	ifc.flushNeighbors(down)
	if !down && (wasDown || before.mac != now.mac) {
		if wasDown {
			ifc.s.detectAgain(ifc)
		}
		ifc.announceAll()
		ifc.s.groups.comeUp(ifc)
	}
	ifc.s.drain()
}

// failed is told that the device is of no more use. It may be called from
// within drain and from the device's own goroutine, with no lock held.
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
	ifc.s.changes.tell()
}

// close closes the device and drops what the interface still holds. sendLast was called.
func (ifc *iface) close() error {
	ifc.dead.Store(true)
	ifc.down.Store(true)
	err := ifc.closeDevice()
	for _, t := range ifc.neighborTables() {
		t.close()
	}
	ifc.s.redirects.forget(ifc, netip.Addr{})
	ifc.closeQueue()
	if errors.Is(err, net.ErrClosed) {
		return nil // it died before
	}
	return err
}

// closeDevice closes the device. One that takes long, such as a wrapped tunnel that waits for
// its own Write, goes on closing in the background.
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
	Name   string
	Index  int // from 1; that of a removed interface is not used again
	MAC    wire.MAC
	MTU    int // bytes of the network layer
	Medium nic.Medium
	// Addrs are the addresses that are in use. AddrInfo says more of them, and has those that
	// were given up.
	Addrs    []netip.Prefix
	AddrInfo []AddrInfo
	// Gateway is the router of the first default route of IPv4 over the interface, and
	// Gateway6 that of IPv6; invalid if there is none.
	Gateway, Gateway6 netip.Addr
	// Auto is what routers have said; nil unless NIC.Auto is set.
	Auto *AutoInfo
	// Groups are the multicast groups that are received on the interface, in order:
	// 224.0.0.1, with IPv6 ff02::1, and those that sockets have joined.
	Groups   []netip.Addr
	Loopback bool
	Up       bool // the device is open and usable
	// Err is why the device has come to an end by itself; nil if it has not.
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
			MAC:      ifc.mac(),
			MTU:      ifc.mtu(),
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
		})
	}
	return infos
}

// ifaceNamed returns the interface of that name, or nil.
func (s *Stack) ifaceNamed(name string) *iface {
	for _, ifc := range *s.ifaces.Load() {
		if ifc.name == name {
			return ifc
		}
	}
	return nil
}

// ifaceWith returns the interface that has an address, or nil.
func (s *Stack) ifaceWith(a netip.Addr) *iface {
	for _, ifc := range *s.ifaces.Load() {
		if ifc.owns(a) {
			return ifc
		}
	}
	return nil
}

// ifaceAt returns the interface with that index, or nil.
func (s *Stack) ifaceAt(index int) *iface {
	for _, ifc := range *s.ifaces.Load() {
		if ifc.index == index {
			return ifc
		}
	}
	return nil
}
