package usernet

import (
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// A datagramSocket is what UDP and raw sockets of the stack have in common.
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

// A datagramConn is what UDPConn and IPConn have in common: groups, and the options that x/net/ipv4
// sets by a descriptor, which usernet has not.
type datagramConn struct {
	conn
	dg      datagramSocket
	host    *Host
	family  family
	control atomic.Uint32 // ControlFlags
}

// connected reports whether the socket is connected, so that datagrams must not name
// a destination.
func (c *datagramConn) connected() bool { return c.ends().remote != nil }

// sendError is opError for a datagram that names its destination.
func (c *datagramConn) sendError(call string, to net.Addr, err error) error {
	return &net.OpError{Op: "write", Net: c.net, Source: c.ends().local, Addr: opAddr(to), Err: syscallError(call, err)}
}

// destination returns the address for the error of a datagram: its own, or that of the other end of
// a connected socket, or nil.
func (c *datagramConn) destination(to net.Addr, addr netip.Addr) net.Addr {
	if addr.IsValid() {
		return to
	}
	return c.ends().remote
}

// SetControlMessage turns the control messages of cf on or off: the out-of-band data of ReadMsgUDP,
// ReadMsgIP and ReadBatch. On every system their form is that of Linux, struct cmsghdr of IP_PKTINFO,
// IP_TTL and IP_TOS. PacketInfo.ParseControl parses them, and on Linux also the ControlMessage of
// x/net/ipv4.
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

// JoinGroup has an interface of the host receive what is sent to a multicast group, and
// tells the routers so. The interface is that of Index, or else Name, and is chosen by the
// routes if ifi is nil. A UDP socket receives it if it is bound to the port and to no
// address, or to that of the group, as all others that are do; an IP socket if its
// protocol is that of the datagram. The error is a *net.OpError: EINVAL for what is no group, or
// one of IPv6 on a socket of IPv4, ENODEV without such an interface or a route, and EADDRINUSE for a group
// that the socket has joined there already.
func (c *datagramConn) JoinGroup(ifi *net.Interface, group netip.Addr) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.member(ifi, group, c.dg.Join)
}

// LeaveGroup undoes a JoinGroup. If ifi is nil, it leaves the group on the first interface on which it was
// joined. The error is EADDRNOTAVAIL if the group was not joined. Close leaves all groups.
func (c *datagramConn) LeaveGroup(ifi *net.Interface, group netip.Addr) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.member(ifi, group, c.dg.Leave)
}

// JoinSourceGroup is JoinGroup for what one source sends to a group, as IP_ADD_SOURCE_MEMBERSHIP of Linux and
// JoinSourceSpecificGroup of x/net/ipv4 have it: the routers are asked for that source only
// (RFC 3376), and the socket receives nothing that others send to the group. It may be called for many
// sources of a group. After a JoinGroup it has the socket receive that source only. The errors are
// those of JoinGroup, but EADDRNOTAVAIL for a source that is joined already or is not of the
// group's family, and EINVAL too where BlockSource was called.
func (c *datagramConn) JoinSourceGroup(ifi *net.Interface, group, source netip.Addr) error {
	return c.memberOf(ifi, group, source, datagramSocket.JoinSource)
}

// LeaveSourceGroup undoes a JoinSourceGroup; the group is left with its last source. If ifi is nil, it is the
// first interface on which the group was joined. EADDRNOTAVAIL says that the source was not joined, and EINVAL that
// the group was not, or that sources of it are blocked. LeaveGroup leaves a group with all its sources.
func (c *datagramConn) LeaveSourceGroup(ifi *net.Interface, group, source netip.Addr) error {
	return c.memberOf(ifi, group, source, datagramSocket.LeaveSource)
}

// BlockSource has the socket not receive what a source sends to a group that was joined with JoinGroup,
// as IP_BLOCK_SOURCE of Linux and ExcludeSourceSpecificGroup of x/net/ipv4 have it. Where no socket of the host
// wants the source, the routers are told so. If ifi is nil, it is the first interface on which
// the group was joined. EADDRNOTAVAIL says that the source is blocked already or is not of the group's family, and
// EINVAL that the group was not joined, or by its sources.
func (c *datagramConn) BlockSource(ifi *net.Interface, group, source netip.Addr) error {
	return c.memberOf(ifi, group, source, datagramSocket.BlockSource)
}

// UnblockSource undoes a BlockSource. EADDRNOTAVAIL says that the source was not blocked, and EINVAL that the group
// was not joined, or by its sources.
func (c *datagramConn) UnblockSource(ifi *net.Interface, group, source netip.Addr) error {
	return c.memberOf(ifi, group, source, datagramSocket.UnblockSource)
}

func (c *datagramConn) memberOf(ifi *net.Interface, group, source netip.Addr, do func(s datagramSocket, group, source netip.Addr, index int) error) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.member(ifi, group, func(group netip.Addr, index int) error { return do(c.dg, group, source, index) })
}

func (c *datagramConn) member(ifi *net.Interface, group netip.Addr, do func(netip.Addr, int) error) error {
	index, err := c.host.interfaceIndex(ifi)
	if err == nil {
		err = do(group, index)
	}
	return c.setError(err)
}

// SetMulticastInterface sets the interface over which the socket sends to groups. If
// ifi is nil, the routes choose it. The error is EADDRNOTAVAIL if there is no such interface.
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
// MTU; nil if the routes choose.
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

// SetMulticastTTL sets the time to live of datagrams to groups, from 0 to 255; -1 stands for the default,
// which is 1. With 0 they do not leave the host. Other values are EINVAL.
func (c *datagramConn) SetMulticastTTL(ttl int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.dg.SetMulticastTTL(ttl))
}

// MulticastTTL returns the time to live of datagrams to groups.
func (c *datagramConn) MulticastTTL() (int, error) {
	s, err := c.settings()
	return int(s.MulticastTTL), err
}

// SetMulticastLoopback sets whether sockets of the host that are members of a group
// receive the datagrams that the socket sends to it. By default they do, except those of a socket from
// ListenMulticastUDP.
func (c *datagramConn) SetMulticastLoopback(on bool) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.dg.SetMulticastLoopback(on))
}

// MulticastLoopback returns the value of SetMulticastLoopback.
func (c *datagramConn) MulticastLoopback() (bool, error) {
	s, err := c.settings()
	return s.MulticastLoopback, err
}

// SetTTL sets the time to live of datagrams to hosts, from 1 to 255; -1 stands for the default, which is
// 64. Other values are EINVAL.
func (c *datagramConn) SetTTL(ttl int) error {
	if !c.ok() {
		return syscall.EINVAL
	}
	return c.setError(c.dg.SetTTL(ttl))
}

// TTL returns the time to live of datagrams to hosts.
func (c *datagramConn) TTL() (int, error) {
	s, err := c.settings()
	return int(s.TTL), err
}

// SetTOS sets the type of service of datagrams, of which only the lowest eight bits
// are used: the Differentiated Services field in the upper six (RFC 2474 3), ECN in the lower two
// (RFC 3168 5).
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
