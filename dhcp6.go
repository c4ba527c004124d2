package usernet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/stack"
)

// DHCP6Config configures the DHCPv6 client of an interface (RFC 8415).
type DHCP6Config struct {
	// FollowRouters makes the client ask for what the routers of the link advertise: addresses if the
	// flag M is set, only other settings if the flag O is set, and nothing otherwise. It needs NIC.Auto.
	// Otherwise the client asks for an address, unless NoAddr is set.
	FollowRouters, NoAddr bool
	// Prefix asks for a delegated prefix of about PrefixBits bits; 0 means any. Lease6.Prefixes then has
	// prefixes for other links of the program. The host itself does not use them.
	Prefix     bool
	PrefixBits int
	// RapidCommit accepts an address in the first answer of a server.
	RapidCommit bool
	// DUID identifies the host, 3 to 130 bytes; if nil, it is made from the MAC (RFC 8415 11.4). IAID identifies
	// the interface among those with the same DUID; if 0, it is made from the MAC.
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
	// Refusal is a text for people. It says why the client last rejected a server's message. It is empty
	// if this has not happened since the client last got or renewed a lease.
	Refusal string
}

// dhcp6 has the DHCPv6 clients and servers of a host.
type dhcp6 struct {
	clientPort, serverPort sharedPort

	mu      sync.Mutex
	closed  bool
	clients []*dhcp6Client
	servers []*DHCP6Server
}

// A sharedPort is a UDP port of IPv6 that interfaces of a host share. A datagram goes to the user of the
// interface on which it arrived.
type sharedPort struct {
	life  sync.Mutex // held by open and close; the handler does not take it
	mu    sync.Mutex
	conn  *stack.UDP // nil while there is no user
	users map[int]dhcp6Handler
}

// A dhcp6Handler handles a datagram that was sent to dst.
type dhcp6Handler func(b []byte, from netip.AddrPort, dst netip.Addr)

// open adds the user of the interface with an index. With the first user it opens the socket.
func (p *sharedPort) open(s *stack.Stack, port uint16, index int, f dhcp6Handler) (*stack.UDP, error) {
	p.life.Lock()
	defer p.life.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users[index] != nil {
		return nil, syscall.EEXIST
	}
	if p.conn == nil {
		conn, err := s.OpenUDP(stack.Family6, netip.AddrPortFrom(netip.IPv6Unspecified(), port))
		if err != nil {
			return nil, fmt.Errorf("UDP port %d: %w", port, err)
		}
		conn.SetHandler(func(b []byte, from netip.AddrPort, meta stack.Meta) {
			p.mu.Lock()
			f := p.users[meta.NIC]
			p.mu.Unlock()
			if f != nil {
				f(b, from, meta.Dst)
			}
		})
		p.conn, p.users = conn, make(map[int]dhcp6Handler)
	}
	p.users[index] = f
	return p.conn, nil
}

// close removes a user. With the last user it closes the socket.
func (p *sharedPort) close(index int) {
	p.life.Lock()
	defer p.life.Unlock()
	p.mu.Lock()
	delete(p.users, index)
	var conn *stack.UDP
	if len(p.users) == 0 {
		conn, p.conn = p.conn, nil
	}
	p.mu.Unlock() // Close sends, and this goroutine may then receive
	if conn != nil {
		conn.Close()
	}
}

// A dhcp6Client runs the DHCPv6 client of one interface. The goroutine that has set turn runs it; others only
// queue messages and set the timer.
type dhcp6Client struct {
	h         *Host
	all       *dhcp6
	conn      *stack.UDP
	nic       string
	index     int
	cfg       DHCP6Config
	stopWatch func()
	timer     *time.Timer // for the next step

	mu      sync.Mutex
	changed sync.Cond
	machine *dhcp.Client6
	mac     [6]byte
	up      bool
	links   uint32 // LinkChanges of the interface in the last look
	inbox   []*dhcp.Message6
	applied []netip.Addr // addresses that the client has added
	info    DHCP6Info
	turn    bool
	again   bool // another step was asked for during this one
	ended   bool
}

// StartDHCP6 starts a DHCPv6 client on an interface, as Config.Auto together with Config.DHCP does. An empty
// nicName means the only link. The client gets an address and the addresses of name servers, or with
// DHCP6Config.NoAddr only the latter, renews them in time, and removes them when they end. It declines an
// address that another node uses, and releases its address at Close. It ignores Reconfigure messages.
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
	h.dhcp6.CompareAndSwap(nil, new(dhcp6))
	all := h.dhcp6.Load()
	d := &dhcp6Client{h: h, all: all, nic: info.Name, index: info.Index, cfg: cfg, info: DHCP6Info{NIC: info.Name}}
	d.changed.L = &d.mu
	d.timer = time.AfterFunc(time.Hour, d.step)
	d.timer.Stop() // until step or receive sets it
	if err := d.open(); err != nil {
		return err
	}
	d.step()
	return nil
}

// open opens the socket of a client and adds the client to its host. Messages and changes wait for d.mu until then.
func (d *dhcp6Client) open() (err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	if d.all.closed {
		return net.ErrClosed
	}
	d.conn, err = d.all.clientPort.open(d.h.stack, dhcp.ClientPort6, d.index, d.receive)
	if err != nil {
		return err
	}
	d.stopWatch = d.h.stack.OnChange(d.step)
	d.all.clients = append(d.all.clients, d)
	return nil
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
		clients, _ := h.dhcp6.Load().list()
		if i := slices.IndexFunc(clients, func(d *dhcp6Client) bool { return d.index == info.Index }); i >= 0 {
			clients[i].release()
			return nil
		}
		err = fmt.Errorf("%s has no client: %w", info.Name, syscall.ESRCH)
	}
	return fmt.Errorf("usernet: StopDHCP6: %w", err)
}

// DHCP6 describes the DHCPv6 clients of the host, in the order in which they were started.
func (h *Host) DHCP6() (infos []DHCP6Info) {
	clients, _ := h.dhcp6.Load().list()
	for _, d := range clients {
		d.mu.Lock()
		infos = append(infos, d.info)
		d.mu.Unlock()
	}
	return infos
}

// list returns the clients and the servers. all is nil if the host has never had any.
func (all *dhcp6) list() ([]*dhcp6Client, []*DHCP6Server) {
	if all == nil {
		return nil, nil
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	return slices.Clone(all.clients), slices.Clone(all.servers)
}

// close ends all clients and servers. The caller closes the stack afterwards. all may be nil.
func (all *dhcp6) close() {
	if all == nil {
		return
	}
	all.mu.Lock()
	all.closed = true
	all.mu.Unlock()
	clients, servers := all.list()
	for _, d := range clients {
		d.release()
	}
	for _, d := range servers {
		d.Close()
	}
}

// settings returns the name servers and search domains of the leases.
func (all *dhcp6) settings() (servers []netip.AddrPort, search []string) {
	clients, _ := all.list()
	for _, d := range clients {
		d.mu.Lock()
		l := d.info.Lease
		if d.info.State == dhcp.Stopped6 {
			l = nil // the link is down
		}
		d.mu.Unlock()
		if l == nil {
			continue
		}
		for _, a := range l.DNS {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
		search = append(search, l.Search...)
	}
	return servers, search
}

// receive queues a message. It does not block, because it runs on the goroutine that received the packet.
func (d *dhcp6Client) receive(b []byte, _ netip.AddrPort, _ netip.Addr) {
	m, err := dhcp.ParseMessage6(b)
	if err != nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.ended && len(d.inbox) < maxDHCPInbox {
		d.inbox = append(d.inbox, m)
		d.timer.Reset(0)
	}
}

// step does everything that is due, unless another goroutine is doing so: that one then looks again.
func (d *dhcp6Client) step() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.turn {
		d.again = true
		return
	}
	d.turn = true
	for more := true; more && !d.ended; {
		d.again = false
		d.mu.Unlock()
		info := d.link()
		d.mu.Lock()
		if info == nil { // the interface was removed, with its addresses
			d.ended, d.applied = true, nil
			break
		}
		now := time.Now()
		d.look(now, info)
		for _, m := range d.inbox {
			d.machine.Receive(now, m)
		}
		d.inbox = nil
		d.machine.Tick(now)
		more = d.flush() || d.again || len(d.inbox) > 0
	}
	d.turn = false
	d.changed.Broadcast()
	if d.ended {
		d.timer.Stop()
		go d.remove()
		return
	}
	d.arm(d.machine.Deadline())
}

// arm sets the timer; the zero time means never. d.mu is held.
func (d *dhcp6Client) arm(at time.Time) {
	if at.IsZero() {
		d.timer.Stop()
		return
	}
	// Round the time up to a multiple of 64 ns, as the timers of the stack do (see timerSlots in package
	// stack).
	d.timer.Reset(max(0, time.Until(at)) + time.Duration(-at.UnixNano()&63))
}

// link returns the interface, or nil if it was removed.
func (d *dhcp6Client) link() *stack.InterfaceInfo {
	infos := d.h.stack.Interfaces()
	i := slices.IndexFunc(infos, func(info stack.InterfaceInfo) bool { return info.Index == d.index })
	if i < 0 {
		return nil
	}
	return &infos[i]
}

// look passes changes of the interface to the machine. d.mu is held.
func (d *dhcp6Client) look(now time.Time, info *stack.InterfaceInfo) {
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
	if l := d.machine.Lease(); l != nil {
		for _, a := range info.AddrInfo {
			if a.State == stack.AddrDuplicate && slices.Contains(d.applied, a.Prefix.Addr()) {
				d.machine.Conflict(now, a.Prefix.Addr())
			}
		}
	}
}

// flush applies the events of the machine and sends its messages, and reports whether there were any. d.mu is held;
// flush releases it meanwhile.
func (d *dhcp6Client) flush() (any bool) {
	var sends []*dhcp.Message6
	var events []dhcp.Event6
	for m, ok := d.machine.NextSend(); ok; m, ok = d.machine.NextSend() {
		sends = append(sends, m)
	}
	for e, ok := d.machine.NextEvent(); ok; e, ok = d.machine.NextEvent() {
		events = append(events, e)
	}
	if len(sends)+len(events) == 0 {
		d.info.State, d.info.Tries = d.machine.State(), d.machine.Tries()
		return false
	}
	d.mu.Unlock()
	// A Release is sent while the host still has its address, and everything else after the events.
	for _, m := range sends {
		d.send(m)
	}
	for _, e := range events {
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
	d.mu.Lock()
	d.info.State, d.info.Tries = d.machine.State(), d.machine.Tries()
	return true
}

// send sends a message. If that fails, for example because the link-local address is not usable yet, the machine
// retransmits it.
func (d *dhcp6Client) send(m *dhcp.Message6) {
	to := netip.AddrPortFrom(dhcp.AllServers6(), dhcp.ServerPort6)
	_, err := d.conn.WriteToBefore(time.Now().Add(dhcpSendTime), m.Append(nil), to, stack.SendOptions{NIC: d.index})
	if err != nil && !errors.Is(err, net.ErrClosed) {
		d.log(slog.LevelDebug, "DHCPv6 message not sent", "type", m.Type, "err", err)
	}
}

func (d *dhcp6Client) log(level slog.Level, text string, args ...any) {
	d.h.logOn(d.nic, level, text, args...)
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

// use makes the addresses of the host those of a lease. The length of their prefixes is 128.
//
// RFC 8415 18.2.10.1: "the client MUST NOT use the assigned address to form an address with a prefix length other
// than 128".
func (d *dhcp6Client) use(items []dhcp.LeaseItem6) {
	d.mu.Lock()
	old, ended := d.applied, d.ended
	d.mu.Unlock()
	if ended {
		items = nil
	}
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
		if err := d.h.stack.AddAddr(d.nic, item.Prefix, o); err != nil {
			d.log(slog.LevelWarn, "DHCPv6 address cannot be used", "addr", item.Prefix, "err", err)
			continue
		}
		applied = append(applied, item.Prefix.Addr())
	}
	for _, a := range old {
		if !slices.Contains(applied, a) {
			d.h.stack.RemoveAddr(d.nic, a) // fails if the address has expired
		}
	}
	d.mu.Lock()
	d.applied = applied
	d.mu.Unlock()
}

// release releases the lease and ends the client. It waits for a running step, but not longer than
// dhcpReleaseTime.
func (d *dhcp6Client) release() {
	end := time.Now().Add(dhcpReleaseTime)
	late := time.AfterFunc(dhcpReleaseTime, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.changed.Broadcast()
	})
	defer late.Stop()
	d.mu.Lock()
	for d.turn && time.Now().Before(end) {
		d.changed.Wait()
	}
	if d.ended {
		d.mu.Unlock()
		return
	}
	if !d.turn && d.machine != nil {
		d.turn = true
		d.machine.Release(time.Now())
		d.flush()
		d.turn = false
	}
	d.ended = true
	left := d.applied
	d.applied = nil
	d.timer.Stop()
	d.mu.Unlock()
	for _, a := range left { // a step is still running
		d.h.stack.RemoveAddr(d.nic, a)
	}
	d.remove()
}

// remove removes a client that has ended from its host.
func (d *dhcp6Client) remove() {
	d.stopWatch()
	d.all.mu.Lock()
	defer d.all.mu.Unlock()
	n := len(d.all.clients)
	d.all.clients = slices.DeleteFunc(d.all.clients, func(x *dhcp6Client) bool { return x == d })
	if len(d.all.clients) < n {
		d.all.clientPort.close(d.index)
	}
}
