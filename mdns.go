package usernet

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/usernet/usernet/mdns"
	"github.com/usernet/usernet/stack"
)

// MDNSConfig configures Multicast DNS (RFC 6762) on an interface.
type MDNSConfig struct {
	// HostName is the first label of the host's name on the link: with "laptop", other machines find the host as
	// laptop.local. If another machine has the name already, the host adds a number to its own name. If
	// HostName is empty, the host resolves names and browses, but publishes nothing by itself.
	HostName string
}

// A MDNSService is a service that the host publishes, for example a web server.
type MDNSService = mdns.Service

const (
	maxMDNSInbox  = 256
	maxMDNSOutbox = 512
	mdnsMaxSize   = 9000 // RFC 6762 section 17
	mdnsTTL       = 255  // RFC 6762 section 11
	// mdnsSendTime limits the time for which a message waits for room in the transmit queue. If there was no room in
	// that time, each message behind it waits only for mdnsStuckTime, until one of them is sent.
	mdnsSendTime  = 200 * time.Millisecond
	mdnsStuckTime = 10 * time.Millisecond
	// mdnsBurst is the maximum number of messages that a goroutine of the program sends in one call. Answers to
	// other machines may be among them.
	mdnsBurst = 64
	// mdnsEndTime limits the time for which mdnsLink.end waits for a goroutine that sends.
	mdnsEndTime = time.Second
	// mdnsTimeout is how long a lookup waits for a first answer. The query is sent at 0, 1 and 3 s.
	mdnsTimeout = 4 * time.Second
	// mdnsMoreTime is how long a lookup waits for further answers after the first one.
	mdnsMoreTime = 200 * time.Millisecond
	// An instance has an SRV and a TXT record. mdnsLostTime is how long a lookup of the instance waits for the second of
	// them after it has the first.
	mdnsLostTime = 1500 * time.Millisecond
)

// mdnsLinks is Multicast DNS on the interfaces of a host. The interfaces share one socket for each family. No
// goroutine waits for messages or deadlines.
type mdnsLinks struct {
	h         *Host
	drops     [numMDNSDrops]atomic.Uint64
	mu        sync.Mutex
	closed    bool
	conns     [2]*stack.UDP // IPv4 and IPv6; nil while there is no link, and without IPv6
	links     []*mdnsLink
	stopWatch func()
}

// An mdnsLink is Multicast DNS on one interface.
type mdnsLink struct {
	all   *mdnsLinks
	nic   string
	index int

	mu    sync.Mutex
	ended bool
	node  *mdns.Node
	inbox []mdnsPacket
	timer *time.Timer
	waits []*mdnsWait
	addrs []netip.Prefix // of the interface
	state uint32         // LinkChanges of the interface

	// outbox has the messages to send, in the order in which the node made them. One goroutine at a time
	// sends, without mu; see drain.
	outbox  []mdns.Message
	sending bool
	sent    sync.Cond // wakes end when sending has become false or mdnsEndTime is over; its L is mu
}

type mdnsPacket struct {
	data []byte
	from netip.AddrPort
}

// Reasons for which a message of Multicast DNS is dropped.
const (
	mdnsDropInterface = iota
	mdnsDropOffLink
	mdnsDropInbox
	mdnsDropMalformed
	mdnsDropCode
	mdnsDropPort
	mdnsDropOutbox
	numMDNSDrops
)

// mdnsDropText has the names of the reasons in Host.Stats.
var mdnsDropText = [numMDNSDrops]stack.DropReason{
	mdnsDropInterface: "mDNS message on an interface without mDNS",
	mdnsDropOffLink:   "mDNS message from off the link",
	mdnsDropInbox:     "mDNS receive queue full",
	mdnsDropMalformed: "malformed mDNS message",
	mdnsDropCode:      "mDNS message with an opcode or a response code",
	mdnsDropPort:      "mDNS response from another port",
	mdnsDropOutbox:    "mDNS send queue full",
}

// drop counts a dropped message, and returns the reason in words.
func (ls *mdnsLinks) drop(reason int) stack.DropReason {
	ls.drops[reason].Add(1)
	return mdnsDropText[reason]
}

// dropOut counts a message of the node that is not sent, and tells the Watchers of the host.
func (l *mdnsLink) dropOut(reason int, m *mdns.Message) {
	l.all.h.stack.ReportDrop(l.all.drop(reason), l.index, m.To)
}

// addDrops adds the counts of dropped messages to drops, the counts of the stack. ls may be nil.
func (ls *mdnsLinks) addDrops(drops map[stack.DropReason]uint64) {
	for i := 0; ls != nil && i < numMDNSDrops; i++ {
		if n := ls.drops[i].Load(); n > 0 {
			drops[mdnsDropText[i]] = n
		}
	}
}

// An mdnsWait wakes a goroutine that waits for events of the queries.
type mdnsWait struct {
	queries []*mdns.Query
	ready   chan struct{} // has room for one token, which wakes the goroutine
}

// StartMDNS turns Multicast DNS on for an interface: the host answers to its name, resolves names
// below "local.", and can publish and find services. An empty nicName means the only link. The
// errors are ENODEV if there is no such interface, EEXIST if Multicast DNS is on already, EINVAL if HostName is
// longer than 63 bytes, EADDRINUSE if a socket that does not share its port uses UDP port 5353, and
// net.ErrClosed.
func (h *Host) StartMDNS(nicName string, cfg MDNSConfig) error {
	if err := h.startMDNS(nicName, cfg); err != nil {
		if err == net.ErrClosed {
			return err
		}
		return fmt.Errorf("usernet: mDNS: %w", err)
	}
	return nil
}

func (h *Host) startMDNS(nicName string, cfg MDNSConfig) error {
	info, err := h.linkNamed(nicName)
	if err != nil {
		return err
	}
	if len(cfg.HostName) > 63 {
		return fmt.Errorf("the host name %q is longer than 63 bytes: %w", cfg.HostName, syscall.EINVAL)
	}
	h.mdns.CompareAndSwap(nil, &mdnsLinks{h: h})
	ls := h.mdns.Load()
	l := &mdnsLink{all: ls, nic: info.Name, index: info.Index, node: mdns.New(mdns.Config{Host: cfg.HostName, Rand: h.random})}
	l.sent.L = &l.mu
	l.timer = time.AfterFunc(time.Hour, func() { l.do(nil) })
	l.timer.Stop()
	if err := ls.add(l); err != nil {
		return err
	}
	l.look()
	return nil
}

// add adds a link. If the link is the first, add opens the sockets.
func (ls *mdnsLinks) add(l *mdnsLink) error {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return net.ErrClosed
	}
	if slices.ContainsFunc(ls.links, func(x *mdnsLink) bool { return x.index == l.index }) {
		return fmt.Errorf("it is on already on %s: %w", l.nic, syscall.EEXIST)
	}
	if len(ls.links) == 0 {
		for i, fam := range []stack.Family{stack.Family4, stack.Family6} {
			c, err := ls.h.stack.OpenSharedUDP(fam, netip.AddrPortFrom(netip.Addr{}, mdns.Port))
			if i == 1 && errors.Is(err, syscall.EAFNOSUPPORT) {
				break // the host has no IPv6
			}
			if err != nil {
				if i == 1 {
					ls.conns[0].Close()
					ls.conns[0] = nil
				}
				return err
			}
			c.SetDroppingHandler(ls.receive)
			c.SetMulticastLoopback(false)
			ls.conns[i] = c
		}
		ls.stopWatch = ls.h.stack.OnChange(ls.look)
	}
	// look joins the groups, when the interface has addresses of their families.
	ls.links = append(ls.links, l)
	return nil
}

// StopMDNS turns Multicast DNS off for an interface, and withdraws the host's name and services. An empty
// nicName means the only link. The errors are ENODEV, ESRCH if Multicast DNS is not on, and net.ErrClosed.
func (h *Host) StopMDNS(nicName string) error {
	info, err := h.linkNamed(nicName)
	if err == net.ErrClosed {
		return err
	}
	if err != nil {
		return fmt.Errorf("usernet: StopMDNS: %w", err)
	}
	ls := h.mdns.Load()
	for _, l := range ls.list() {
		if l.index == info.Index {
			l.end()
			ls.remove(l)
			return nil
		}
	}
	return fmt.Errorf("usernet: StopMDNS: it is not on on %s: %w", info.Name, syscall.ESRCH)
}

// MDNSName returns the host's name on an interface, such as "laptop.local.", or an empty string if the host has
// none. established reports whether the host has verified that no other machine on the link has the name, and has begun
// to announce it. An empty nicName means the interface for which Multicast DNS was turned on first.
func (h *Host) MDNSName(nicName string) (name string, established bool) {
	for _, l := range h.mdns.Load().list() {
		if nicName == "" || l.nic == nicName {
			l.mu.Lock()
			defer l.mu.Unlock()
			return l.node.HostName(), l.node.Established()
		}
	}
	return "", false
}

// list returns the links. ls may be nil.
func (ls *mdnsLinks) list() []*mdnsLink {
	if ls == nil {
		return nil
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return slices.Clone(ls.links)
}

// remove removes a link that has ended. If the link is the last, remove closes the sockets.
func (ls *mdnsLinks) remove(l *mdnsLink) {
	ls.mu.Lock()
	ls.links = slices.DeleteFunc(ls.links, func(x *mdnsLink) bool { return x == l })
	if len(ls.links) > 0 {
		ls.mu.Unlock()
		return
	}
	conns, stop := ls.conns, ls.stopWatch
	ls.conns, ls.stopWatch = [2]*stack.UDP{}, nil
	ls.mu.Unlock() // c.Close sends, and this goroutine may then call receive
	if stop != nil {
		stop()
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}

// close ends all links, and makes add fail from now on. The caller closes the stack afterwards. ls may be nil.
func (ls *mdnsLinks) close() {
	if ls == nil {
		return
	}
	ls.mu.Lock()
	ls.closed = true
	ls.mu.Unlock()
	for _, l := range ls.list() {
		l.end()
		ls.remove(l)
	}
}

// look calls look of all links.
func (ls *mdnsLinks) look() {
	for _, l := range ls.list() {
		l.look()
	}
}

// receive queues a message for the link on which it has arrived, or drops it and returns why. It is the handler of the
// sockets, so it neither blocks nor sends.
func (ls *mdnsLinks) receive(b []byte, from netip.AddrPort, meta stack.Meta) stack.DropReason {
	links := ls.list()
	i := slices.IndexFunc(links, func(l *mdnsLink) bool { return l.index == meta.NIC })
	switch {
	case i < 0:
		return ls.drop(mdnsDropInterface)
	case len(b) > mdnsMaxSize:
		return ls.drop(mdnsDropMalformed)
	}
	return links[i].receive(b, from, meta)
}

// receive queues a message for the node, or drops it and returns why. It checks the message, which do hands to the node,
// because only here the Watchers of the host can have its packet.
func (l *mdnsLink) receive(b []byte, from netip.AddrPort, meta stack.Meta) stack.DropReason {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
		return ""
	case !meta.Dst.IsMulticast() && !l.onLink(from.Addr()):
		// RFC 6762 11: a message that was not sent to the group must come from the link.
		return l.all.drop(mdnsDropOffLink)
	case len(l.inbox) >= maxMDNSInbox:
		return l.all.drop(mdnsDropInbox)
	}
	switch mdns.Check(b, from) {
	case mdns.ErrMalformed:
		return l.all.drop(mdnsDropMalformed)
	case mdns.ErrCode:
		return l.all.drop(mdnsDropCode)
	case mdns.ErrPort:
		return l.all.drop(mdnsDropPort)
	}
	l.inbox = append(l.inbox, mdnsPacket{slices.Clone(b), from})
	l.timer.Reset(0)
	return ""
}

// do handles the received messages, calls f if it is not nil, does what is due, and sends the messages of the node.
// If the link has ended, do does nothing.
func (l *mdnsLink) do(f func(now time.Time)) {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	now := time.Now()
	inbox := l.inbox
	l.inbox = nil
	for _, p := range inbox {
		l.node.Receive(now, p.data, p.from) // without error: receive has checked the message
	}
	if f != nil {
		f(now)
	}
	l.node.Tick(now)
	l.queue()
	if at := l.node.Deadline(); at.IsZero() {
		l.timer.Stop()
	} else {
		l.timer.Reset(max(0, at.Sub(now)))
	}
	for _, w := range l.waits {
		if slices.ContainsFunc(w.queries, func(q *mdns.Query) bool { return q.Pending() || q.Denied() }) {
			select {
			case w.ready <- struct{}{}:
			default:
			}
		}
	}
	l.mu.Unlock()
	if f == nil {
		l.drain(math.MaxInt)
	} else {
		l.drain(mdnsBurst)
	}
}

// queue moves the messages of the node to the outbox. If the outbox is full, queue drops them. It never drops the
// goodbyes of a link that has ended. l.mu is held.
func (l *mdnsLink) queue() {
	for m, ok := l.node.Next(); ok; m, ok = l.node.Next() {
		// RFC 6762 5.5: a unicast response must not leave the link. Otherwise a forged query could make the host send
		// to any address.
		switch {
		case m.To.IsValid() && !l.onLink(m.To.Addr()):
			l.dropOut(mdnsDropOffLink, &m)
		case len(l.outbox) >= maxMDNSOutbox && !l.ended:
			l.dropOut(mdnsDropOutbox, &m)
		default:
			l.outbox = append(l.outbox, m)
		}
	}
}

// drain sends the messages of the outbox in their order. If another goroutine is sending, drain returns at
// once, and the other goroutine sends them. drain sends up to most messages, and leaves the others to the
// goroutine of the timer. If the link has ended, drain sends all messages.
func (l *mdnsLink) drain(most int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sending {
		return
	}
	l.sending = true
	wait := mdnsSendTime
	for n := 0; len(l.outbox) > 0; n++ {
		if n >= most && !l.ended {
			l.timer.Reset(0) // the goroutine of the timer sends the other messages
			break
		}
		m := l.outbox[0]
		l.outbox = l.outbox[1:]
		l.mu.Unlock()
		if l.send(m, time.Now().Add(wait)) {
			wait = mdnsSendTime
		} else {
			wait = mdnsStuckTime
			l.dropOut(mdnsDropOutbox, &m)
		}
		l.mu.Lock()
	}
	if l.sending = false; len(l.outbox) == 0 {
		l.outbox = nil
	}
	l.sent.Broadcast()
}

// onLink reports whether an address is in a network of the interface. l.mu is held.
func (l *mdnsLink) onLink(a netip.Addr) bool {
	return slices.ContainsFunc(l.addrs, func(p netip.Prefix) bool { return p.Contains(a.WithZone("")) })
}

// send sends a message. It reports false if the transmit queue had no room until time end. It ignores other errors: the
// node sends an important message again, and an interface without an address of a family cannot send in that family.
func (l *mdnsLink) send(m mdns.Message, end time.Time) (ok bool) {
	ok = true
	l.all.mu.Lock()
	conns := l.all.conns
	l.all.mu.Unlock()
	o := stack.SendOptions{TTL: mdnsTTL, NIC: l.index}
	for i, c := range conns {
		to := m.To
		if !to.IsValid() {
			to = netip.AddrPortFrom([]netip.Addr{mdns.Group4, mdns.Group6}[i], mdns.Port)
		}
		if c != nil && to.Addr().Is4() == (i == 0) {
			_, err := c.WriteToBefore(end, m.Data, to, o)
			ok = ok && !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
	return ok
}

// look joins the groups on the interface, and passes the addresses of the interface to the node. If the interface was
// removed, look ends the link.
func (l *mdnsLink) look() {
	infos := l.all.h.stack.Interfaces()
	i := slices.IndexFunc(infos, func(info stack.InterfaceInfo) bool { return info.Index == l.index })
	if i < 0 { // the interface was removed
		l.end()
		l.all.remove(l)
		return
	}
	l.all.mu.Lock()
	conns := l.all.conns
	l.all.mu.Unlock()
	if i >= 0 && conns[0] != nil {
		// Errors are ignored. Join fails if the socket has already joined the group, or if the interface has no address
		// of the family yet.
		conns[0].Join(mdns.Group4, l.index)
		if conns[1] != nil {
			conns[1].Join(mdns.Group6, l.index)
		}
	}
	l.do(func(now time.Time) {
		var addrs []netip.Addr
		var state uint32
		l.addrs = nil
		if i >= 0 && infos[i].Up {
			state = infos[i].LinkChanges
			for _, p := range infos[i].Addrs {
				addrs = append(addrs, p.Addr().WithZone(""))
				l.addrs = append(l.addrs, netip.PrefixFrom(p.Addr().WithZone(""), p.Bits()))
			}
		}
		if state != l.state {
			// RFC 6762 8: a host probes and announces whenever its link comes up.
			l.node.SetAddrs(now, nil)
			l.state = state
		}
		l.node.SetAddrs(now, addrs)
	})
}

// end ends the link and withdraws its names. It returns when the goodbyes are sent. But if another goroutine is
// sending and its device blocks, end returns after mdnsEndTime.
func (l *mdnsLink) end() {
	l.mu.Lock()
	if !l.ended {
		l.ended = true
		l.timer.Stop()
		l.node.Close(time.Now())
		l.queue()
		for _, w := range l.waits {
			select {
			case w.ready <- struct{}{}:
			default:
			}
		}
	}
	l.mu.Unlock()
	l.drain(math.MaxInt)
	l.mu.Lock()
	defer l.mu.Unlock()
	late := false
	timer := time.AfterFunc(mdnsEndTime, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.sent.Broadcast()
	})
	defer timer.Stop()
	for l.sending && !late {
		l.sent.Wait()
	}
}

// A Publication is a service that the host publishes on all interfaces that had Multicast DNS when
// Publish was called.
type Publication struct {
	parts []publishedPart
}

type publishedPart struct {
	l *mdnsLink
	p *mdns.Published
}

// Publish publishes a service (RFC 6763) until the Publication or the host is closed. Other machines then find it by
// browsing, for example with avahi-browse. Publish does not wait until the service is announced, which takes
// about a second. The errors are mdns.ErrBadService, mdns.ErrExists, ENODEV if no interface has Multicast DNS, and
// net.ErrClosed. They may be wrapped.
func (h *Host) Publish(s MDNSService) (*Publication, error) {
	links := h.mdns.Load().list()
	if errors.Is(h.Err(), net.ErrClosed) {
		return nil, net.ErrClosed
	}
	if len(links) == 0 {
		return nil, fmt.Errorf("usernet: Publish: mDNS is off: %w", syscall.ENODEV)
	}
	p := new(Publication)
	for _, l := range links {
		var part *mdns.Published
		err := error(net.ErrClosed)
		l.do(func(now time.Time) { part, err = l.node.Publish(now, s) })
		if err != nil {
			p.Close()
			return nil, fmt.Errorf("usernet: Publish: %w", err)
		}
		p.parts = append(p.parts, publishedPart{l, part})
	}
	return p, nil
}

// Instance returns the name of the instance. If another machine has an instance of the same name, this name differs
// from the name in the Service. With several interfaces, Instance returns the name on the first interface.
func (p *Publication) Instance() string {
	part := p.parts[0]
	part.l.mu.Lock()
	defer part.l.mu.Unlock()
	return part.p.Instance()
}

// Established reports whether the service is announced on all interfaces.
func (p *Publication) Established() bool {
	for _, part := range p.parts {
		part.l.mu.Lock()
		ok := part.p.Established()
		part.l.mu.Unlock()
		if !ok {
			return false
		}
	}
	return true
}

// Close withdraws the service. It returns nil.
func (p *Publication) Close() error {
	for _, part := range p.parts {
		part.l.do(func(now time.Time) { part.l.node.Unpublish(now, part.p) })
	}
	return nil
}

// isLocalName reports whether a name is below "local." (RFC 6762 section 3).
func isLocalName(name string) bool {
	const suffix = ".local"
	name = strings.TrimSuffix(name, ".")
	return len(name) > len(suffix) && strings.EqualFold(name[len(name)-len(suffix):], suffix)
}
