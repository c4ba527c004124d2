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
	// Local is the destination of a received datagram: an address of the host, a multicast address,
	// or a broadcast address. For WritePacket it is the source address. WritePacket ignores a
	// multicast or broadcast address in Local, so a program can answer a datagram with the
	// datagram's own PacketInfo.
	Local netip.Addr
	// TTL is the time to live, or hop limit: 1 to 255. For a received datagram it is the value in
	// the IP header, so a program that answers with the same PacketInfo should first set TTL to 0.
	TTL uint8
	// TOS is the type of service: DSCP and ECN.
	TOS uint8
	// Interface is the index of the interface on which the datagram arrived, or over which it is
	// sent.
	Interface int
	// Size is the length of the whole payload, even if the buffer was too short for it. It is
	// ignored when sending.
	Size int
	// DontFragment makes WritePacket fail with EMSGSIZE if the datagram is larger than the path's
	// MTU, instead of fragmenting the datagram. It is not set for received datagrams.
	DontFragment bool
}

// options returns the send options that i asks for. If i.Local is a broadcast address of a network,
// the options have no source address.
func (c *datagramConn) options(i *PacketInfo) stack.SendOptions {
	o := stack.SendOptions{TTL: i.TTL, TOS: i.TOS, Src: i.source(), NIC: i.Interface, DontFragment: i.DontFragment}
	if o.Src.IsValid() && c.host.stack.IsBroadcast(o.Src) {
		o.Src = netip.Addr{}
	}
	return o
}

// source returns the address to send from. The result is invalid if the host is to choose the
// address: if i.Local is not set, is a multicast address, or is 255.255.255.255.
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

// Read reads a datagram into b: any datagram for the socket's address or, if the socket is
// connected, one from the other end. If the datagram is longer than b, the rest is discarded.
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

// Write sends b as a datagram to the other end of a connected socket.
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

// ReadFromUDPAddrPort reads a datagram into b and returns its source address. If the datagram is
// longer than b, the rest is discarded. ReadFromUDPAddrPort does not allocate.
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

// ReadFromUDP is like ReadFromUDPAddrPort but returns the address as a *net.UDPAddr.
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

// ReadFrom is like ReadFromUDP but returns the address as a net.Addr.
func (c *UDPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := c.ReadFromUDP(b)
	return n, opAddr(addr), err
}

// ReadMsgUDPAddrPort is like ReadFromUDPAddrPort, and also returns control messages in oob and the
// flags of Linux's recvmsg. SetControlMessage selects the control messages. The flag MSG_TRUNC
// (0x20) means that the datagram did not fit into b, and MSG_CTRUNC (8) that the control messages
// did not fit into oob. ReadMsgUDPAddrPort does not allocate.
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

// ReadMsgUDP is like ReadMsgUDPAddrPort but returns the address as a *net.UDPAddr.
func (c *UDPConn) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	n, oobn, flags, from, err := c.ReadMsgUDPAddrPort(b, oob)
	if from.IsValid() {
		addr = net.UDPAddrFromAddrPort(from)
	}
	return n, oobn, flags, addr, err
}

// ReadPacket reads a datagram into b and describes it in a PacketInfo. It does not allocate.
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

// sendTo sends a datagram on an unconnected socket.
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

// sendToAddrPort is like sendTo, for a netip.AddrPort and with options.
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

// send sends a datagram with the options in o and the control messages in oob.
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
		// The error has no system call: the argument is wrong.
		return 0, &net.OpError{Op: "write", Net: c.net, Source: c.ends().local, Addr: addr, Err: syscall.EINVAL}
	}
	return c.WriteToUDP(b, a)
}

// WriteMsgUDP sends a datagram to addr. On a connected socket addr must be nil, and the datagram
// goes to the other end. The control messages in oob may set the source, the interface, TTL and
// TOS. They have Linux's form; see PacketInfo.AppendControl. If a message in oob is malformed or
// unknown, the error is EINVAL.
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

// WriteMsgUDPAddrPort is like WriteMsgUDP but takes a netip.AddrPort. On a connected socket addr
// must be the zero AddrPort.
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

// WritePacket sends a datagram to info.Remote, with the options in the other fields of info. On a
// connected socket info.Remote must be the zero AddrPort.
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

// An IPConn is a socket for an IP protocol. It is a net.Conn and a net.PacketConn, and has the
// methods of net.IPConn except File and SyscallConn.
//
// A program writes the data that follows the IP header. Protocol 255 is the exception, as on Linux:
// the program writes the IPv4 header too. In this header the host sets the length and the checksum,
// and also the source and the identification if they are 0.
//
// As in net, Read and ReadMsgIP return an IPv4 datagram with its IP header. The other methods return
// only the data that follows the header.
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

// Read reads a datagram into b: any datagram for the socket's address or, if the socket is
// connected, one from the other end. If the datagram is longer than b, the rest is discarded. An
// IPv4 datagram begins with its IP header.
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

// Write sends b as a datagram to the other end of a connected socket.
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

// ReadFromIP reads a datagram into b and returns its source address. If the datagram is longer than
// b, the rest is discarded.
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

// ReadFrom is like ReadFromIP but returns the address as a net.Addr.
func (c *IPConn) ReadFrom(b []byte) (int, net.Addr, error) {
	n, addr, err := c.ReadFromIP(b)
	return n, opAddr(addr), err
}

// ReadMsgIP is like ReadFromIP, but an IPv4 datagram begins with its IP header. It also returns
// control messages in oob and flags, as ReadMsgUDP does.
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

// ReadPacket reads a datagram into b and describes it in a PacketInfo.
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

// SetChecksum makes an IPv6 socket compute the checksum of each datagram that it sends, and drop each
// datagram with a wrong checksum that it receives. offset is the position of the 16-bit checksum in
// the data in bytes. If on is false, there is no checksum. This is IPV6_CHECKSUM of RFC 3542 3.1, with
// the arguments of x/net/ipv6's PacketConn.SetChecksum.
//
// A write of data that end before the checksum fails with EINVAL. By default, sockets of ICMPv6 and of
// the Mobility Header have a checksum, and others have none.
//
// The error is EINVAL if offset is odd, and ENOPROTOOPT on an IPv4 socket.
func (c *IPConn) SetChecksum(on bool, offset int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.raw.SetChecksum(on, offset))
}

// sendTo sends a datagram on an unconnected socket.
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

// WriteMsgIP sends a datagram to addr, with the control messages in oob, as WriteMsgUDP does.
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

// WritePacket sends a datagram to info.Remote, whose port is ignored, with the options in the other
// fields of info. On a connected socket info.Remote must be the zero AddrPort.
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
