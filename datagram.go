package usernet

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// A datagramSocket has the methods that the stack's UDP and raw sockets share.
type datagramSocket interface {
	socket
	Join(group netip.Addr, index int) error
	Leave(group netip.Addr, index int) error
	JoinSource(group, source netip.Addr, index int) error
	LeaveSource(group, source netip.Addr, index int) error
	BlockSource(group, source netip.Addr, index int) error
	UnblockSource(group, source netip.Addr, index int) error
	SetMulticastInterface(index int) error
	SetMulticastTTL(ttl int) error
	SetMulticastLoopback(on bool) error
	SetTTL(ttl int) error
	SetTOS(tos int) error
	Settings() (stack.DatagramSettings, error)
}

// A datagramConn is the part that UDPConn and IPConn share: multicast groups and socket options.
// x/net/ipv4 cannot set these, because it needs a file descriptor and a Host's sockets have none.
type datagramConn struct {
	conn
	dg      datagramSocket
	host    *Host
	family  family
	control atomic.Uint32 // ControlFlags
}

// connected reports whether the socket is connected. Datagrams of a connected socket must not name
// a destination.
func (c *datagramConn) connected() bool { return c.ends().remote != nil }

// sendError returns the error of a failed send. Its Addr is to.
func (c *datagramConn) sendError(call string, to net.Addr, err error) error {
	return &net.OpError{Op: "write", Net: c.net, Source: c.ends().local, Addr: opAddr(to), Err: syscallError(call, err)}
}

// destination returns the Addr for a send error. addr and to are the same destination in two forms. If
// addr is valid, the result is to. Otherwise the caller named no destination, and the result is the
// remote address of the socket, or nil if the socket is not connected.
func (c *datagramConn) destination(to net.Addr, addr netip.Addr) net.Addr {
	if addr.IsValid() {
		return to
	}
	return c.ends().remote
}

// SetControlMessage turns the control messages in cf on or off. ReadMsgUDP, ReadMsgIP and ReadBatch
// return them as out-of-band data. On every operating system they have Linux's form: struct cmsghdr
// with IP_PKTINFO, IP_TTL or IP_TOS. PacketInfo.ParseControl parses them; on Linux, so does the
// ControlMessage of x/net/ipv4.
func (c *datagramConn) SetControlMessage(cf ControlFlags, on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	if _, err := c.dg.Settings(); err != nil {
		return c.setError(err)
	}
	if on {
		c.control.Or(uint32(cf))
	} else {
		c.control.And(^uint32(cf))
	}
	return nil
}

// JoinGroup joins a multicast group on an interface of the host and reports the membership to the
// routers. ifi selects the interface by its Index, or by its Name if Index is 0; if ifi is nil, the
// routes select it. A UDP socket receives the datagrams that are sent to the group and to the
// socket's port, if the socket is bound to the group's address or to no address. An IP socket
// receives the datagrams of its protocol. Other sockets of the host that meet these conditions
// receive the datagrams too.
//
// The error is a *net.OpError. It is EINVAL if group is not a multicast address, or is an IPv6
// address and the socket is an IPv4 one; ENODEV if the interface or a route does not exist; and
// EADDRINUSE if the socket has already joined the group on the interface.
func (c *datagramConn) JoinGroup(ifi *net.Interface, group netip.Addr) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.changeGroup(ifi, group, c.dg.Join)
}

// LeaveGroup undoes a JoinGroup. If ifi is nil, the socket leaves the group on the first interface
// on which it joined. The error is EADDRNOTAVAIL if it has not joined the group. Close leaves all
// groups.
func (c *datagramConn) LeaveGroup(ifi *net.Interface, group netip.Addr) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.changeGroup(ifi, group, c.dg.Leave)
}

// JoinSourceGroup joins a group for the datagrams of one source, as Linux's
// IP_ADD_SOURCE_MEMBERSHIP and the JoinSourceSpecificGroup of x/net/ipv4 do. The host asks the
// routers for that source only (RFC 3376), and the socket receives nothing that other sources send
// to the group. A socket may join several sources of a group. If the socket has joined the group
// with JoinGroup, the first JoinSourceGroup limits it to that source. The errors are those of
// JoinGroup, with two differences: EADDRNOTAVAIL if the source is already joined or is not of the
// group's family, and EINVAL also if the socket has blocked sources of the group with BlockSource.
func (c *datagramConn) JoinSourceGroup(ifi *net.Interface, group, source netip.Addr) error {
	return c.changeSource(ifi, group, source, datagramSocket.JoinSource)
}

// LeaveSourceGroup undoes a JoinSourceGroup. After the last source, the socket leaves the group. If
// ifi is nil, the interface is the first one on which the socket joined the group. The error is
// EADDRNOTAVAIL if the source is not joined, and EINVAL if the group is not joined or sources of it
// are blocked. LeaveGroup leaves a group with all its sources.
func (c *datagramConn) LeaveSourceGroup(ifi *net.Interface, group, source netip.Addr) error {
	return c.changeSource(ifi, group, source, datagramSocket.LeaveSource)
}

// BlockSource makes the socket ignore what a source sends to a group that was joined with
// JoinGroup, as Linux's IP_BLOCK_SOURCE and the ExcludeSourceSpecificGroup of x/net/ipv4 do. When
// no socket of the host wants the source, the host reports that to the routers. If ifi is nil, the
// interface is the first one on which the socket joined the group. The error is EADDRNOTAVAIL if
// the source is already blocked or is not of the group's family, and EINVAL if the group is not
// joined or was joined with JoinSourceGroup.
func (c *datagramConn) BlockSource(ifi *net.Interface, group, source netip.Addr) error {
	return c.changeSource(ifi, group, source, datagramSocket.BlockSource)
}

// UnblockSource undoes a BlockSource. The error is EADDRNOTAVAIL if the source is not blocked, and
// EINVAL if the group is not joined or was joined with JoinSourceGroup.
func (c *datagramConn) UnblockSource(ifi *net.Interface, group, source netip.Addr) error {
	return c.changeSource(ifi, group, source, datagramSocket.UnblockSource)
}

// changeSource calls do, which is a method of the socket that joins, leaves, blocks or unblocks a
// source of a group. It passes the index of ifi to do, or 0 if ifi is nil.
func (c *datagramConn) changeSource(ifi *net.Interface, group, source netip.Addr, do func(s datagramSocket, group, source netip.Addr, index int) error) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.changeGroup(ifi, group, func(group netip.Addr, index int) error { return do(c.dg, group, source, index) })
}

// changeGroup calls do with the group and the index of ifi, or with index 0 if ifi is nil.
func (c *datagramConn) changeGroup(ifi *net.Interface, group netip.Addr, do func(netip.Addr, int) error) error {
	index, err := c.host.interfaceIndex(ifi)
	if err == nil {
		err = do(group, index)
	}
	return c.setError(err)
}

// SetMulticastInterface sets the interface over which the socket sends to multicast addresses. If ifi
// is nil, the routes select the interface. The error is EADDRNOTAVAIL if the interface does not exist.
func (c *datagramConn) SetMulticastInterface(ifi *net.Interface) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	index, err := c.host.interfaceIndex(ifi)
	if err == nil {
		err = c.dg.SetMulticastInterface(index)
	}
	return c.setError(err)
}

// MulticastInterface returns the interface set by SetMulticastInterface, with its Index, Name and
// MTU, or nil if the routes select it.
func (c *datagramConn) MulticastInterface() (*net.Interface, error) {
	s, err := c.settings()
	if err != nil || s.MulticastNIC == 0 {
		return nil, err
	}
	for _, info := range c.host.stack.Interfaces() {
		if info.Index == s.MulticastNIC {
			return &net.Interface{Index: info.Index, Name: info.Name, MTU: info.MTU}, nil
		}
	}
	return nil, c.setError(syscall.ENODEV)
}

// SetMulticastTTL sets the time to live of datagrams to multicast addresses. ttl is 0 to 255, or -1
// for the default, which is 1. For any other ttl the error is EINVAL. A datagram whose time to live
// is 0 does not leave the host.
func (c *datagramConn) SetMulticastTTL(ttl int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.dg.SetMulticastTTL(ttl))
}

// MulticastTTL returns the time to live of datagrams to multicast addresses.
func (c *datagramConn) MulticastTTL() (int, error) {
	s, err := c.settings()
	return int(s.MulticastTTL), err
}

// SetMulticastLoopback sets whether the host's members of a group receive the datagrams that this
// socket sends to the group. The default is true, except for a socket from ListenMulticastUDP.
func (c *datagramConn) SetMulticastLoopback(on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.dg.SetMulticastLoopback(on))
}

// MulticastLoopback returns the value set by SetMulticastLoopback, or the default.
func (c *datagramConn) MulticastLoopback() (bool, error) {
	s, err := c.settings()
	return s.MulticastLoopback, err
}

// SetTTL sets the time to live of datagrams to unicast and broadcast addresses. ttl is 1 to 255, or
// -1 for the default. The default is 64 or, over IPv6, the hop limit that the routers advertise. For
// any other ttl the error is EINVAL.
func (c *datagramConn) SetTTL(ttl int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.dg.SetTTL(ttl))
}

// TTL returns the time to live of datagrams to unicast and broadcast addresses.
func (c *datagramConn) TTL() (int, error) {
	s, err := c.settings()
	return int(s.TTL), err
}

// SetTOS sets the type of service of datagrams. Only the lowest eight bits of tos are used: the
// Differentiated Services field in the upper six (RFC 2474 3), and ECN in the lower two (RFC 3168
// 5).
func (c *datagramConn) SetTOS(tos int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.dg.SetTOS(tos))
}

// TOS returns the type of service of datagrams.
func (c *datagramConn) TOS() (int, error) {
	s, err := c.settings()
	return int(s.TOS), err
}

func (c *datagramConn) settings() (stack.DatagramSettings, error) {
	if !c.ok() {
		return stack.DatagramSettings{}, syscall.EINVAL
	}
	s, err := c.dg.Settings()
	return s, c.setError(err)
}
