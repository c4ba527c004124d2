package usernet

import (
	"net"
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// PacketInfo describes a datagram. When sending, the host chooses the value of each zero field.
type PacketInfo struct {
	// Remote is the other end's address. On an IP socket it has no port.
	Remote netip.AddrPort
	// Local is the destination of a received datagram: an address of the host, a group, or a
	// broadcast address. For WritePacket it is the source; a
	// group or a broadcast address counts as none, so that a datagram can be answered with
	// its own PacketInfo.
	Local netip.Addr
	// TTL is the time to live, or hop limit: 1 to 255. Set it to 0 to answer with the PacketInfo of a
	// received datagram, whose TTL is what remains of the sender's.
	TTL uint8
	// TOS is the type of service: DSCP and ECN.
	TOS uint8
	// Interface is the index of the interface on which the datagram arrived, or over which it is
	// sent.
	Interface int
	// Size is the length of the whole payload, which may be more than fitted into the
	// buffer. It is ignored when sending.
	Size int
	// DontFragment makes sending fail with EMSGSIZE if the datagram is larger than the path's MTU,
	// instead of fragmenting it. It is not set on received datagrams.
	DontFragment bool
}

func (c *datagramConn) options(i *PacketInfo) stack.SendOptions {
	o := stack.SendOptions{TTL: i.TTL, TOS: i.TOS, Src: i.source(), NIC: i.Interface, DontFragment: i.DontFragment}
	if o.Src.IsValid() && c.host.stack.IsBroadcast(o.Src) {
		o.Src = netip.Addr{}
	}
	return o
}

// source is the address from which a datagram is to be sent; invalid if the host chooses it.
func (i *PacketInfo) source() netip.Addr {
	if local := i.Local.Unmap().WithZone(""); !local.IsMulticast() && local != netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
		return local
	}
	return netip.Addr{}
}

// A UDPConn is a UDP socket, connected or not. It is a net.Conn and a net.PacketConn,
// and has the methods of net.UDPConn except File and SyscallConn.
type UDPConn struct {
	datagramConn
	udp *stack.UDP
}

var (
	_ net.Conn       = (*UDPConn)(nil)
	_ net.PacketConn = (*UDPConn)(nil)
)

func (h *Host) newUDPConn(u *stack.UDP, network string, f family) *UDPConn {
	c := &UDPConn{udp: u}
	c.sock, c.dg, c.host, c.family, c.net = u, u, h, f, network
	e := &ends{local: f.udpAddr(u.LocalAddr())}
	if remote := u.RemoteAddr(); remote.IsValid() {
		e.remote = f.udpAddr(remote)
	}
	c.made.Store(e)
	return c
}

// Read reads a datagram from anywhere, or from where the socket is connected to. What
// does not fit into b is lost.
func (c *UDPConn) Read(b []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.udp.Read(b)
	if err != nil {
		err = c.opError("read", "read", err)
	}
	return n, err
}

// Write sends a datagram to where the socket is connected to.
func (c *UDPConn) Write(b []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.udp.Write(b)
	if err != nil {
		err = c.opError("write", "write", err)
	}
	return n, err
}

// ReadFromUDPAddrPort reads a datagram and returns from where it came. What does not
// fit into b is lost. It does not allocate.
func (c *UDPConn) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	if !c.ok() {
		return 0, netip.AddrPort{}, syscall.EINVAL
	}
	n, _, from, _, err := c.udp.ReadFrom(b)
	if err != nil {
		return n, netip.AddrPort{}, c.opError("read", "recvfrom", err)
	}
	return n, c.family.shownPort(from), nil
}

// ReadFromUDP is ReadFromUDPAddrPort with the address in another form.
func (c *UDPConn) ReadFromUDP(b []byte) (int, *net.UDPAddr, error) {
	if !c.ok() {
		return 0, nil, syscall.EINVAL
	}
	n, _, from, _, err := c.udp.ReadFrom(b)
	if err != nil {
		return n, nil, c.opError("read", "recvfrom", err)
	}
	return n, c.family.udpAddr(from), nil
}

// ReadFrom is ReadFromUDPAddrPort with the address in another form, a *net.UDPAddr.
func (c *UDPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := c.ReadFromUDP(b)
	return n, opAddr(addr), err
}

// ReadMsgUDPAddrPort is ReadFromUDPAddrPort with the flags of the kernel's recvmsg, and
// with the control messages for which SetControlMessage has asked. The flags are 0x20,
// MSG_TRUNC, which says that the datagram did not fit into b, and 8, MSG_CTRUNC, which says
// the same of the control messages and oob. It does not allocate.
func (c *UDPConn) ReadMsgUDPAddrPort(b, oob []byte) (n, oobn, flags int, addr netip.AddrPort, err error) {
	if !c.ok() {
		return 0, 0, 0, netip.AddrPort{}, syscall.EINVAL
	}
	n, full, from, meta, err := c.udp.ReadFrom(b)
	if err != nil {
		return n, 0, 0, netip.AddrPort{}, c.opError("read", "recvmsg", err)
	}
	oobn, flags = c.receivedControl(oob, n, full, from.Addr(), &meta)
	return n, oobn, flags, c.family.shownPort(from), nil
}

// ReadMsgUDP is ReadMsgUDPAddrPort with the address in another form.
func (c *UDPConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, oobn, flags, from, err := c.ReadMsgUDPAddrPort(b, oob)
	if from.IsValid() {
		addr = net.UDPAddrFromAddrPort(from)
	}
	return n, oobn, flags, addr, err
}

// ReadPacket reads a datagram with all that is known of it. It does not allocate.
func (c *UDPConn) ReadPacket(b []byte) (int, PacketInfo, error) {
	if !c.ok() {
		return 0, PacketInfo{}, syscall.EINVAL
	}
	n, full, from, meta, err := c.udp.ReadFrom(b)
	if err != nil {
		return n, PacketInfo{}, c.opError("read", "recvmsg", err)
	}
	return n, PacketInfo{
		Remote:    c.family.shownPort(from),
		Local:     c.family.shown(meta.Dst),
		TTL:       meta.TTL,
		TOS:       meta.TOS,
		Interface: meta.NIC,
		Size:      full,
	}, nil
}

// sendTo sends a datagram on a socket that is not connected.
func (c *UDPConn) sendTo(b, oob []byte, addr *net.UDPAddr) (int, error) {
	if c.connected() {
		return 0, net.ErrWriteToConnected
	}
	if addr == nil {
		return 0, errMissingAddress
	}
	to, err := c.family.addrPort(addr)
	if err != nil {
		return 0, err
	}
	return c.send(b, oob, to, stack.SendOptions{})
}

// sendToAddrPort is sendTo with the address in another form.
func (c *UDPConn) sendToAddrPort(b, oob []byte, addr netip.AddrPort, o stack.SendOptions) (int, error) {
	if c.connected() {
		return 0, net.ErrWriteToConnected
	}
	if !addr.IsValid() {
		return 0, errMissingAddress
	}
	ip, err := c.family.netip(addr.Addr())
	if err != nil {
		return 0, err
	}
	return c.send(b, oob, netip.AddrPortFrom(ip, addr.Port()), o)
}

// send sends a datagram as its control messages say.
func (c *UDPConn) send(b, oob []byte, to netip.AddrPort, o stack.SendOptions) (int, error) {
	if len(oob) == 0 {
		return c.udp.WriteTo(b, to, o)
	}
	kind := c.controlKind(to.Addr())
	if err := sendControl(oob, kind, &o); err != nil {
		return 0, err
	}
	n, err := c.udp.WriteTo(b, to, o)
	return n, controlError(oob, kind, err)
}

// WriteToUDPAddrPort sends a datagram to addr. It does not allocate.
func (c *UDPConn) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.sendToAddrPort(b, nil, addr, stack.SendOptions{})
	if err != nil {
		err = c.sendError("sendto", udpAddrPort{addr}, err)
	}
	return n, err
}

// WriteToUDP sends a datagram to addr.
func (c *UDPConn) WriteToUDP(b []byte, addr *net.UDPAddr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.sendTo(b, nil, addr)
	if err != nil {
		err = c.sendError("sendto", addr, err)
	}
	return n, err
}

// WriteTo sends a datagram to addr, which must be a *net.UDPAddr.
func (c *UDPConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	a, ok := addr.(*net.UDPAddr)
	if !ok {
		// The error is one of the argument, without a system call.
		return 0, &net.OpError{Op: "write", Net: c.net, Source: c.ends().local, Addr: addr, Err: syscall.EINVAL}
	}
	return c.WriteToUDP(b, a)
}

// WriteMsgUDP sends a datagram to addr, or on a connected socket, for which addr must
// be nil, to the other end. The control messages of oob may choose source, interface, TTL
// and TOS, in the form of Linux: see PacketInfo.AppendControl. Those that are malformed or
// not known are EINVAL.
func (c *UDPConn) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	if !c.ok() {
		return 0, 0, syscall.EINVAL
	}
	if c.connected() && addr == nil {
		n, err = c.send(b, oob, c.udp.RemoteAddr(), stack.SendOptions{})
	} else {
		n, err = c.sendTo(b, oob, addr)
	}
	if err != nil {
		return n, 0, c.sendError("sendmsg", addr, err)
	}
	return n, len(oob), nil
}

// WriteMsgUDPAddrPort is WriteMsgUDP with the address in another form. For a connected
// socket it must be the zero one.
func (c *UDPConn) WriteMsgUDPAddrPort(b, oob []byte, addr netip.AddrPort) (n, oobn int, err error) {
	if !c.ok() {
		return 0, 0, syscall.EINVAL
	}
	if c.connected() && !addr.IsValid() {
		n, err = c.send(b, oob, c.udp.RemoteAddr(), stack.SendOptions{})
	} else {
		n, err = c.sendToAddrPort(b, oob, addr, stack.SendOptions{})
	}
	if err != nil {
		return n, 0, c.sendError("sendmsg", udpAddrPort{addr}, err)
	}
	return n, len(oob), nil
}

// WritePacket sends a datagram to info.Remote with what info says of it. On a
// connected socket Remote must be the zero AddrPort.
func (c *UDPConn) WritePacket(b []byte, info PacketInfo) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	var n int
	var err error
	if c.connected() && !info.Remote.IsValid() {
		n, err = c.udp.WriteTo(b, c.udp.RemoteAddr(), c.options(&info))
	} else {
		n, err = c.sendToAddrPort(b, nil, info.Remote, c.options(&info))
	}
	if err != nil {
		err = c.sendError("sendmsg", c.destination(udpAddrPort{info.Remote}, info.Remote.Addr()), err)
	}
	return n, err
}

// An IPConn is a socket for an IP protocol. It is a net.Conn and a net.PacketConn, and
// has the methods of net.IPConn except File and SyscallConn. What is written begins after
// the IP header, but for protocol 255: there, as on Linux, it begins with an IPv4 header, of
// which the host fills in length and checksum, and source and identification where they are 0.
// As with net, what Read and ReadMsgIP return of IPv4 begins with the IP header, and what
// the other methods return begins after it.
type IPConn struct {
	datagramConn
	raw *stack.Raw
}

var (
	_ net.Conn       = (*IPConn)(nil)
	_ net.PacketConn = (*IPConn)(nil)
)

func (h *Host) newIPConn(r *stack.Raw, network string, f family) *IPConn {
	c := &IPConn{raw: r}
	c.sock, c.dg, c.host, c.family, c.net = r, r, h, f, network
	e := &ends{local: f.ipAddr(r.LocalAddr())}
	if remote := r.RemoteAddr(); remote.IsValid() {
		e.remote = f.ipAddr(remote.Addr())
	}
	c.made.Store(e)
	return c
}

// Read reads a datagram from anywhere, or from where the socket is connected to. What
// does not fit into b is lost. It begins with the IPv4 header.
func (c *IPConn) Read(b []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.raw.Read(b)
	if err != nil {
		err = c.opError("read", "read", err)
	}
	return n, err
}

// Write sends a datagram to where the socket is connected to.
func (c *IPConn) Write(b []byte) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.raw.Write(b)
	if err != nil {
		err = c.opError("write", "write", err)
	}
	return n, err
}

// ReadFromIP reads a datagram and returns from where it came. What does not fit into b
// is lost.
func (c *IPConn) ReadFromIP(b []byte) (int, *net.IPAddr, error) {
	if !c.ok() {
		return 0, nil, syscall.EINVAL
	}
	n, _, from, _, err := c.raw.ReadFrom(b)
	if err != nil {
		return n, nil, c.opError("read", "recvfrom", err)
	}
	return n, c.family.ipAddr(from), nil
}

// ReadFrom is ReadFromIP with the address in another form.
func (c *IPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := c.ReadFromIP(b)
	return n, opAddr(addr), err
}

// ReadMsgIP is ReadFromIP with the IPv4 header before the payload, with the flags of the
// kernel's recvmsg, and with the control messages for which SetControlMessage has asked,
// as ReadMsgUDP has them.
func (c *IPConn) ReadMsgIP(b, oob []byte) (n, oobn, flags int, addr *net.IPAddr, err error) {
	if !c.ok() {
		return 0, 0, 0, nil, syscall.EINVAL
	}
	n, full, from, meta, err := c.raw.ReadHeader(b)
	if err != nil {
		return n, 0, 0, nil, c.opError("read", "recvmsg", err)
	}
	oobn, flags = c.receivedControl(oob, n, full, from, &meta)
	return n, oobn, flags, c.family.ipAddr(from), nil
}

// ReadPacket reads a datagram with all that is known of it.
func (c *IPConn) ReadPacket(b []byte) (int, PacketInfo, error) {
	if !c.ok() {
		return 0, PacketInfo{}, syscall.EINVAL
	}
	n, full, from, meta, err := c.raw.ReadFrom(b)
	if err != nil {
		return n, PacketInfo{}, c.opError("read", "recvmsg", err)
	}
	return n, PacketInfo{
		Remote:    netip.AddrPortFrom(c.family.shown(from), 0),
		Local:     c.family.shown(meta.Dst),
		TTL:       meta.TTL,
		TOS:       meta.TOS,
		Interface: meta.NIC,
		Size:      full,
	}, nil
}

// sendTo sends a datagram on a socket that is not connected.
func (c *IPConn) sendTo(b, oob []byte, addr *net.IPAddr, o stack.SendOptions) (int, error) {
	if c.connected() {
		return 0, net.ErrWriteToConnected
	}
	if addr == nil {
		return 0, errMissingAddress
	}
	ip, err := c.family.addr(addr.IP, addr.Zone)
	if err != nil {
		return 0, err
	}
	kind := c.controlKind(ip)
	if err := sendControl(oob, kind, &o); err != nil {
		return 0, err
	}
	n, err := c.raw.WriteTo(b, ip, o)
	return n, controlError(oob, kind, err)
}

// WriteToIP sends a datagram to addr.
func (c *IPConn) WriteToIP(b []byte, addr *net.IPAddr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	n, err := c.sendTo(b, nil, addr, stack.SendOptions{})
	if err != nil {
		err = c.sendError("sendto", addr, err)
	}
	return n, err
}

// WriteTo sends a datagram to addr, which must be a *net.IPAddr.
func (c *IPConn) WriteTo(b []byte, addr net.Addr) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	a, ok := addr.(*net.IPAddr)
	if !ok {
		return 0, &net.OpError{Op: "write", Net: c.net, Source: c.ends().local, Addr: addr, Err: syscall.EINVAL}
	}
	return c.WriteToIP(b, a)
}

// WriteMsgIP sends a datagram to addr. The control messages of oob are those of
// WriteMsgUDP.
func (c *IPConn) WriteMsgIP(b, oob []byte, addr *net.IPAddr) (n, oobn int, err error) {
	if !c.ok() {
		return 0, 0, syscall.EINVAL
	}
	n, err = c.sendTo(b, oob, addr, stack.SendOptions{})
	if err != nil {
		return n, 0, c.sendError("sendmsg", addr, err)
	}
	return n, len(oob), nil
}

// WritePacket sends a datagram to info.Remote, whose port does not matter, with what
// info says of it. On a connected socket Remote must be the zero AddrPort.
func (c *IPConn) WritePacket(b []byte, info PacketInfo) (int, error) {
	if !c.ok() {
		return 0, syscall.EINVAL
	}
	var n int
	var err error
	to := &net.IPAddr{IP: info.Remote.Addr().AsSlice(), Zone: info.Remote.Addr().Zone()}
	switch {
	case !info.Remote.Addr().IsValid() && c.connected():
		n, err = c.raw.WriteTo(b, c.raw.RemoteAddr().Addr(), c.options(&info))
	case !info.Remote.Addr().IsValid():
		err = errMissingAddress
	default:
		n, err = c.sendTo(b, nil, to, c.options(&info))
	}
	if err != nil {
		err = c.sendError("sendmsg", c.destination(to, info.Remote.Addr()), err)
	}
	return n, err
}
