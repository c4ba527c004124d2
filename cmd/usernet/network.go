package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// defaultTAP returns the default name of the TAP device. On Linux, OpenTAP creates the device. On macOS, tap0 is
// the driver's first device. On Windows, OpenTAP uses the driver's first device if the name is empty.
func defaultTAP() string {
	switch runtime.GOOS {
	case "windows":
		return "" // the first device
	case "darwin":
		return "tap0"
	}
	return "usernet0"
}

// linkFlags are the flags that configure the host and its link.
type linkFlags struct {
	fs       *flag.FlagSet
	tap      string
	tun      string // name of the TUN to use instead of a TAP; empty: use the TAP
	socket   socketFlags
	wire     bool
	vlan     int // 0: none
	auto     bool
	noIPv6   bool
	noRA     bool
	ppp      pppFlags
	plain    bool
	addr     prefixes
	hostAddr prefixes
	pcap     string
	verbose  bool
	mac      [6]byte

	everything bool // a packet socket receives all frames that its interface sends and receives

	check func(p plans) error // checks the addresses for the command before the device is opened; may be nil
	dns   []netip.AddrPort    // name servers; nil for commands that resolve no names
}

func (l *linkFlags) define(fs *flag.FlagSet) {
	l.fs = fs
	fs.StringVar(&l.tap, "tap", defaultTAP(), "`name` of the TAP device; if it does not exist, it is created, and deleted at the end")
	fs.StringVar(&l.tun, "tun", "", "`name` of a TUN device to use instead of the TAP device: a link without Ethernet; if it does not exist, it is created, and deleted at the end")
	l.socket.define(fs)
	fs.IntVar(&l.vlan, "vlan", 0, "`ID` of our VLAN on the link, 1 to 4094; our frames then have VLAN tags")
	fs.BoolVar(&l.wire, "wire", false, "use a wire in memory to a second host in this program, instead of a TAP device")
	fs.BoolVar(&l.plain, "plain", false, "no offloads: every frame fits the MTU and has complete checksums")
	fs.Var(prefixFlag{&l.addr}, "addr", "our `address/bits`, once for each family; by default 192.0.2.2/24 and 2001:db8::2/64, or an address on the network of -host-addr")
	fs.Var(prefixFlag{&l.hostAddr}, "host-addr", "`address/bits` of the kernel's side, once for each family; by default 192.0.2.1/24 and 2001:db8::1/64, or an address on the network of -addr; the TAP keeps the addresses that it already has")
	fs.BoolVar(&l.noIPv6, "no-ipv6", false, "use IPv4 only")
	fs.BoolVar(&l.noRA, "no-ra", false, "take no addresses, routes or name servers from IPv6 routers on the link")
	fs.Var(macFlag{&l.mac}, "mac", "our `MAC` address; by default a random one")
	fs.StringVar(&l.pcap, "pcap", "", "write every frame to `file`, for Wireshark (pcapng)")
	fs.BoolVar(&l.verbose, "v", false, "show every frame, decoded")
}

// defineAuto defines more flags than define: those for links that give the host its addresses.
func (l *linkFlags) defineAuto(fs *flag.FlagSet) {
	fs.BoolVar(&l.auto, "auto", false, "get our addresses, routes and name servers from the network on the link, by DHCP and from its IPv6 routers")
	l.ppp.define(fs)
}

// assigned reports whether the link gives the host its addresses.
func (l *linkFlags) assigned() bool { return l.auto || l.ppp.used() }

// name returns the name of the TAP or the TUN.
func (l *linkFlags) name() string {
	if l.tun != "" {
		return l.tun
	}
	return l.tap
}

// linkName returns the name of the link for messages.
func (l *linkFlags) linkName(dev nic.Device) string {
	if l.socket.isSet() {
		return l.socket.place()
	}
	return dev.Link().Name
}

// kernelSide returns the name of the interface with the kernel's addresses: the TAP or the TUN or, with -vlan,
// the kernel's interface for the VLAN on the TAP. kernelSide assumes that the VLAN interface has the usual name,
// such as usernet0.7.
func (l *linkFlags) kernelSide() string {
	if l.vlan != 0 {
		return fmt.Sprintf("%s.%d", l.tap, l.vlan)
	}
	return l.name()
}

// checkFlags returns an error if flags conflict.
func (l *linkFlags) checkFlags() error {
	switch {
	case l.tun != "" && isSet(l.fs, "tap"):
		return usageError("-tun and -tap: there is only one link")
	case l.tun != "" && l.wire:
		return usageError("-tun and -wire: there is only one link")
	case l.tun != "" && isSet(l.fs, "mac"):
		return usageError("-tun and -mac: a TUN device has no MAC addresses")
	case l.noIPv6 && (l.addr.six.IsValid() || l.hostAddr.six.IsValid()):
		return usageError("-no-ipv6 with an IPv6 address in -addr or -host-addr")
	case l.auto && l.tun != "" && (l.noIPv6 || l.noRA):
		return usageError("-auto on a TUN device with -no-ipv6 or -no-ra: a TUN device has no DHCP, so nothing would give the addresses")
	case isSet(l.fs, "vlan") && (l.vlan < 1 || l.vlan > 4094):
		return usageError(fmt.Sprintf("-vlan %d is not from 1 to 4094", l.vlan))
	case l.tun != "" && l.vlan != 0:
		return usageError("-tun and -vlan: a TUN device has no Ethernet, and so no VLANs")
	case l.auto && l.wire:
		return usageError("-auto and -wire: there is no DHCP server on a wire in memory")
	case l.auto && (l.addr != prefixes{} || l.hostAddr != prefixes{}):
		return usageError("-auto with -addr or -host-addr: the network gives the addresses")
	}
	if err := l.ppp.check(l); err != nil {
		return err
	}
	return l.socket.check(l)
}

// A network is a host and its link. On a TAP or TUN, the other end of the link is the kernel. On a wire in memory,
// the other end is a second host.
type network struct {
	host *usernet.Host
	peer *usernet.Host // the second host on a wire in memory; nil on other links
	addr netip.Addr    // our IPv4 address, or our IPv6 address if the link assigned no IPv4 address
	six  netip.Addr    // our IPv6 address; may be invalid
	gate prefixes      // the addresses of the other end of the link
	link string        // the name of the link
	kind string        // what the link is, such as "TAP device"; empty on a wire
	down chan error    // receives the error when the link fails
	log  *slog.Logger
	file *output // the capture; nil: none
	capt *nic.Captured
}

// closeTime is the longest time that Close waits for the hosts to close, because the link may be stuck. closeTime
// and the time that site.Shutdown takes are less than one second in total, so the program ends within a second.
const closeTime = 500 * time.Millisecond

func newNetwork(p plans, link string, log *slog.Logger) *network {
	return &network{addr: p.four.addr.Addr(), six: p.six.addr.Addr(), gate: p.hosts(), link: link, log: log, down: make(chan error, 1)}
}

// newLog returns the logger of a command. The logger drops records below level or, with -v, below
// slog.LevelDebug. It writes times without a date.
func (l *linkFlags) newLog(t terminal, level slog.Level) *slog.Logger {
	if l.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(t.err, &slog.HandlerOptions{
		Level: level,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey && len(groups) == 0 {
				a.Value = slog.StringValue(a.Value.Time().Format("15:04:05.000"))
			}
			return a
		},
	}))
}

// open opens the link and makes a host on it. If open cannot get a TAP or TUN, the error says how to get one.
func (l *linkFlags) open(t terminal, log *slog.Logger) (*network, error) {
	n, err := l.openLink(t, log)
	return n, advised(err)
}

// use opens the link, waits for our addresses, calls f, and closes the link. If the link fails, the context of
// f ends, and the error says so.
func (l *linkFlags) use(ctx context.Context, t terminal, f func(ctx context.Context, n *network) error) error {
	n, err := l.open(t, l.newLog(t, slog.LevelWarn))
	if err != nil {
		return err
	}
	if err := n.awaitAddrs(ctx, l); err != nil {
		n.Close()
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	down := make(chan error, 1)
	go func() {
		select {
		case err := <-n.down:
			down <- fmt.Errorf("the link has failed: %w", err)
			cancel()
		case <-ctx.Done():
		}
	}()
	err = f(ctx, n)
	if errors.Is(err, syscall.ENETDOWN) && len(down) == 0 {
		select { // f may see the failure of the link before it is reported
		case err = <-down:
		case <-time.After(closeTime):
		}
	}
	select {
	case err = <-down:
	default:
	}
	if cerr := n.Close(); err == nil {
		err = cerr
	}
	return err
}

// advised replaces a *tapError by an error that says why there is no TAP or TUN and how to get one. It returns
// other errors unchanged.
func advised(err error) error {
	var failed *tapError
	if !errors.As(err, &failed) {
		return err
	}
	at := thisEnvironment()
	return errors.New(strings.Join(at.noTAP(failed), "\n"))
}

func (l *linkFlags) openLink(t terminal, log *slog.Logger) (*network, error) {
	switch {
	case l.ppp.used():
		return l.openPPP(t, log)
	case l.auto:
		return l.openAuto(t, log)
	case l.wire:
		return l.openWire(t, log)
	}
	return l.openTAP(t, log)
}

// openTAP opens the link that openDevice selects and makes a host on it. The caller closes the network.
func (l *linkFlags) openTAP(t terminal, log *slog.Logger) (*network, error) {
	if err := l.socket.checkAddrs(l); err != nil {
		return nil, err
	}
	file, err := createOutput(l.pcap)
	if err != nil {
		return nil, err
	}
	tap, p, err := l.attachTAP(t, log)
	if err != nil {
		file.discard()
		return nil, err
	}
	n := newNetwork(p, l.linkName(tap), log)
	n.file, n.kind = file, l.kind()
	dev, err := n.wrap(l, t, tap)
	if err == nil {
		n.host, err = l.newHost(dev, p.ours(), p.hosts(), l.dns, true, log)
	}
	if err != nil {
		tap.Close()
		n.Close()
		return nil, err
	}
	n.follow()
	n.report()
	return n, nil
}

// openDevice opens the link that the flags select, by default the TAP. If openDevice creates a TAP or TUN, the
// kernel's side gets the addresses host.
func (l *linkFlags) openDevice(host prefixes) (dev nic.DownNotifier, err error) {
	if l.socket.isSet() {
		return l.socket.open(l.mac, l.everything)
	}
	if l.tun != "" {
		dev, err = nic.OpenTUN(nic.TUNConfig{Name: l.tun, Addr: host.four, Addr6: host.six, NoOffload: l.plain})
	} else {
		dev, err = nic.OpenTAP(nic.TAPConfig{Name: l.tap, Addr: host.four, Addr6: host.six, MAC: l.mac, NoOffload: l.plain})
	}
	if err != nil {
		return nil, &tapError{name: l.name(), err: err, tun: l.tun != ""}
	}
	return dev, nil
}

// kind returns what the link is, such as "TAP device".
func (l *linkFlags) kind() string {
	if l.socket.isSet() {
		return l.socket.kind()
	}
	if l.tun != "" {
		return "TUN device"
	}
	return "TAP device"
}

// attachTAP opens the link and chooses the addresses of both ends.
func (l *linkFlags) attachTAP(t terminal, log *slog.Logger) (nic.DownNotifier, plans, error) {
	if l.socket.isSet() {
		// The kernel is not at the other end, so its addresses do not matter.
		p, err := l.plan(nil, nil, true)
		if err != nil {
			return nil, plans{}, err
		}
		dev, err := l.openDevice(prefixes{})
		return dev, p, err
	}
	all, err := kernelAddrs()
	if err != nil {
		return nil, plans{}, err
	}
	var own, taken []ifaceAddr
	for _, a := range all {
		if a.iface == l.kernelSide() {
			own = append(own, a)
		} else {
			taken = append(taken, a)
		}
	}
	// The kernel's side of an existing device keeps the addresses that its owner gave it.
	// A new device gets IPv6 addresses if the kernel enables IPv6.
	_, missing := net.InterfaceByName(l.name())
	p, err := l.plan(own, taken, missing != nil && kernelHasIPv6())
	if err != nil {
		return nil, plans{}, err
	}
	hosts := p.hosts()
	if l.vlan != 0 {
		hosts = prefixes{} // the kernel's addresses are on its interface for the VLAN
	}
	tap, err := l.openDevice(hosts)
	if err != nil {
		return nil, plans{}, err
	}
	if eth, ok := tap.(*nic.TAP); ok && eth.HostMAC() == l.mac {
		tap.Close()
		return nil, plans{}, fmt.Errorf("-mac %v is the address of the kernel's side of %s", macFlag{&l.mac}, l.tap)
	}
	for _, note := range []string{p.four.note, p.six.note} {
		if note != "" {
			log.Info(note)
		}
	}
	switch at, name := thisEnvironment(), tap.Link().Name; {
	case l.vlan != 0 && len(own) == 0:
		fmt.Fprintln(t.err, at.noVLAN(name, l.vlan, p.four.host.String()))
	case l.vlan == 0 && !isReady(tap):
		if line := at.notReady(name, p.four.host.String(), len(own) > 0, !isDown(name)); line != "" {
			fmt.Fprintln(t.err, line)
		}
	}
	return tap, p, nil
}

// plan chooses the addresses of both ends and calls l.check. own are the kernel's addresses on the
// TAP, and taken are those on other interfaces. plan passes six to planBoth as the parameter wanted. If l.noIPv6
// is set, plan ignores six and the IPv6 addresses in own.
func (l *linkFlags) plan(own, taken []ifaceAddr, six bool) (plans, error) {
	if l.noIPv6 {
		six = false
		own = slices.DeleteFunc(slices.Clone(own), func(a ifaceAddr) bool { return a.prefix.Addr().Is6() })
	}
	p, err := planBoth(l.addr, l.hostAddr, own, taken, six)
	if err == nil && l.check != nil {
		err = l.check(p)
	}
	return p, err
}

// openWire makes two hosts on a wire in memory.
func (l *linkFlags) openWire(t terminal, log *slog.Logger) (*network, error) {
	p, err := l.plan(nil, nil, true)
	if err != nil {
		return nil, err
	}
	n := newNetwork(p, "wire", log)
	if n.file, err = createOutput(l.pcap); err != nil {
		return nil, err
	}
	a, b := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{l.mac}, NoTxChecksum: l.plain})
	dev, err := n.wrap(l, t, a)
	if err == nil {
		n.host, err = l.newHost(dev, p.ours(), p.hosts(), l.dns, false, log)
	}
	if err == nil {
		n.peer, err = l.newHost(b, p.hosts(), p.ours(), nil, false, log)
	}
	if err != nil {
		a.Close()
		b.Close()
		n.Close()
		return nil, err
	}
	n.report()
	return n, nil
}

// wrap wraps a device with the capture and the trace, if the user asked for them.
func (n *network) wrap(l *linkFlags, t terminal, dev nic.Device) (nic.Device, error) {
	if n.file != nil {
		if err := n.file.begin(); err != nil {
			return nil, err
		}
		n.capt = nic.Capture(dev, n.file, nic.CaptureConfig{})
		dev = n.capt
	}
	if l.verbose {
		dev = trace(dev, &tracer{w: t.err})
	}
	return dev, nil
}

// follow sends the error of the device to n.down when the device fails.
func (n *network) follow() {
	done := n.host.Done()
	go func() {
		<-done
		n.down <- n.host.Err()
	}()
}

// newHost makes a host. ours are the host's addresses, and other are its default routers. If auto is set and
// l.routers reports true, the host also configures itself from the link's IPv6 routers.
func (l *linkFlags) newHost(dev nic.Device, ours, other prefixes, dns []netip.AddrPort, auto bool, log *slog.Logger) (*usernet.Host, error) {
	cfg := usernet.Config{
		NIC:     dev,
		VLAN:    l.vlan,
		Addrs:   []netip.Prefix{ours.four},
		Gateway: other.four.Addr(),
		Auto:    auto && l.routers(dev),
		NoIPv6:  l.noIPv6,
		DNS:     dns,
		Logger:  log,
	}
	if ours.six.IsValid() {
		cfg.Addrs = append(cfg.Addrs, ours.six)
		cfg.Gateway6 = other.six.Addr()
	}
	return usernet.New(cfg)
}

// routers reports whether a host on dev configures itself from IPv6 routers: the link can carry IPv6, and
// neither -no-ipv6 nor -no-ra is given.
func (l *linkFlags) routers(dev nic.Device) bool { return !l.noIPv6 && !l.noRA && carriesIPv6(dev) }

// carriesIPv6 reports whether the MTU of a device is large enough for IPv6.
//
// RFC 8200 5: "IPv6 requires that every link in the Internet have an MTU of 1280 octets or greater."
func carriesIPv6(dev nic.Device) bool { return dev.Link().MTU >= wire.MinIPv6MTU }

// kernelHasIPv6 reports whether the kernel enables IPv6 on new interfaces.
func kernelHasIPv6() bool {
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/default/disable_ipv6")
	return err == nil && len(off) > 0 && off[0] == '0'
}

// addrs formats our addresses for a message.
func (n *network) addrs() string {
	if n.six.IsValid() {
		return n.addr.String() + " and " + n.six.String()
	}
	return n.addr.String()
}

// report logs the host's devices, addresses, routes and protocols.
func (n *network) report() {
	for _, ifc := range n.host.Interfaces() {
		if ifc.Medium == nic.Ethernet {
			n.log.Info("device", "name", ifc.Name, "mac", ifc.MAC, "mtu", ifc.MTU, "up", ifc.Up)
		} else {
			n.log.Info("device", "name", ifc.Name, "mtu", ifc.MTU, "up", ifc.Up)
		}
		for _, a := range ifc.Addrs {
			n.log.Info("address", "addr", a, "dev", ifc.Name)
		}
	}
	for _, r := range n.host.Routes() {
		if r.Via.IsValid() {
			n.log.Info("route", "to", r.Dst, "via", r.Via, "dev", r.NIC)
		} else {
			n.log.Info("route", "to", r.Dst, "dev", r.NIC)
		}
	}
	link := "Ethernet,ARP"
	if n.kind == "TUN device" {
		link = "none"
	}
	network := "IPv4,ICMP,IGMP"
	if n.host.Stack().HasIPv6() {
		network += ",IPv6,ICMPv6,ND,MLD"
	}
	n.log.Info("protocols", "link", link, "network", network, "transport", "TCP,UDP")
}

// Close closes the hosts and the capture. It waits at most closeTime for the hosts to close. It returns an
// error if the capture is incomplete.
func (n *network) Close() error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		if n.host != nil {
			n.host.Close()
		}
		if n.peer != nil {
			n.peer.Close()
		}
	}()
	timer := time.NewTimer(closeTime)
	defer timer.Stop()
	select {
	case <-closed:
	case <-timer.C:
		n.log.Warn("the link is stuck")
	}
	if n.capt == nil {
		n.file.discard()
		return nil
	}
	err := n.capt.Err()
	if cerr := n.file.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("the capture is not complete: %w", err)
	}
	return nil
}

// openOrWire is like open, but if this user or system cannot have a TAP, openOrWire prints the advice
// and uses a wire in memory.
func (l *linkFlags) openOrWire(t terminal, log *slog.Logger) (*network, error) {
	n, err := l.openLink(t, log)
	var failed *tapError
	if !errors.As(err, &failed) || !cannotTAP(err) {
		return n, advised(err)
	}
	at := thisEnvironment()
	for _, line := range at.noTAP(failed) {
		fmt.Fprintln(t.err, line)
	}
	return l.openWire(t, log)
}
