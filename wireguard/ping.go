package wireguard

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"github.com/usernet/usernet"
)

// A PingAddr is the address of a PingConn.
type PingAddr struct{ addr netip.Addr }

// PingAddrFromAddr returns the PingAddr of an address.
func PingAddrFromAddr(addr netip.Addr) *PingAddr { return &PingAddr{addr} }

// String returns the address.
func (a PingAddr) String() string { return a.addr.String() }

// Addr returns the address.
func (a PingAddr) Addr() netip.Addr { return a.addr }

// Network returns "ping4", "ping6", or "ping" if the address is not valid.
func (a PingAddr) Network() string {
	switch {
	case a.addr.Is4():
		return "ping4"
	case a.addr.Is6():
		return "ping6"
	}
	return "ping"
}

// A PingConn sends ICMP echo requests and receives the replies. Messages begin with the ICMP header. The PingConn
// sets the identifier and the checksum of the requests, and returns only replies with its own identifier.
type PingConn struct {
	c      *usernet.IPConn
	id     uint16
	v6     bool
	remote netip.Addr // invalid if not connected
}

// DialPingAddr opens a PingConn from laddr to raddr. If laddr is the zero value, the host chooses the source. If raddr
// is the zero value, the PingConn is not connected.
func (n *Net) DialPingAddr(laddr, raddr netip.Addr) (*PingConn, error) {
	laddr, raddr = laddr.Unmap(), raddr.Unmap()
	if !laddr.IsValid() && !raddr.IsValid() {
		return nil, &net.OpError{Op: "dial", Net: "ping", Err: &net.AddrError{Err: "missing address"}}
	}
	p := &PingConn{v6: raddr.Is6() || !raddr.IsValid() && laddr.Is6(), remote: raddr, id: uint16(rand.Uint32())}
	network, local := "ip4:icmp", (*net.IPAddr)(nil)
	if p.v6 {
		network = "ip6:ipv6-icmp"
	}
	if laddr.IsValid() {
		local = &net.IPAddr{IP: laddr.AsSlice(), Zone: laddr.Zone()}
	}
	var err error
	if raddr.IsValid() {
		p.c, err = n.host.DialIP(network, local, &net.IPAddr{IP: raddr.AsSlice(), Zone: raddr.Zone()})
	} else {
		p.c, err = n.host.ListenIP(network, local)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// ListenPingAddr opens a PingConn that is not connected.
func (n *Net) ListenPingAddr(laddr netip.Addr) (*PingConn, error) {
	return n.DialPingAddr(laddr, netip.Addr{})
}

// DialPing is like DialPingAddr. A nil address stands for the zero netip.Addr.
func (n *Net) DialPing(laddr, raddr *PingAddr) (*PingConn, error) {
	var l, r netip.Addr
	if laddr != nil {
		l = laddr.addr
	}
	if raddr != nil {
		r = raddr.addr
	}
	return n.DialPingAddr(l, r)
}

// ListenPing is like ListenPingAddr. A nil address stands for the zero netip.Addr.
func (n *Net) ListenPing(laddr *PingAddr) (*PingConn, error) { return n.DialPing(laddr, nil) }

// dialPing implements DialContext for the networks of ping.
func (n *Net) dialPing(ctx context.Context, network, address string) (net.Conn, error) {
	addrs, err := n.host.Resolver().LookupNetIP(ctx, "ip"+network[len("ping"):], address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	c, err := n.DialPingAddr(netip.Addr{}, addrs[0])
	if err != nil {
		return nil, err // c is a nil *PingConn, which would make the net.Conn non-nil
	}
	return c, nil
}

// LocalAddr returns the *PingAddr of the socket.
func (p *PingConn) LocalAddr() net.Addr { return fromIPAddr(p.c.LocalAddr()) }

// RemoteAddr returns the *PingAddr to which the socket is connected. If the socket is not connected, the address in
// the *PingAddr is invalid.
func (p *PingConn) RemoteAddr() net.Addr { return PingAddrFromAddr(p.remote) }

// fromIPAddr returns the PingAddr of a *net.IPAddr.
func fromIPAddr(a net.Addr) *PingAddr {
	ip, _ := a.(*net.IPAddr)
	if ip == nil {
		return new(PingAddr)
	}
	addr, _ := netip.AddrFromSlice(ip.IP)
	return PingAddrFromAddr(addr.Unmap().WithZone(ip.Zone))
}

// echoLen is the length in bytes of the header of an echo message. The identifier is at offset 4.
const echoLen = 8

// request returns a copy of msg with the identifier of the socket and, for IPv4, the checksum of the message.
func (p *PingConn) request(msg []byte) ([]byte, error) {
	echo := byte(8)
	if p.v6 {
		echo = 128
	}
	if len(msg) < echoLen || msg[0] != echo || msg[1] != 0 {
		return nil, syscall.EINVAL
	}
	b := append([]byte(nil), msg...)
	binary.BigEndian.PutUint16(b[4:], p.id)
	binary.BigEndian.PutUint16(b[2:], 0)
	if !p.v6 { // an IPv6 socket sets the checksum of ICMPv6 itself
		binary.BigEndian.PutUint16(b[2:], checksum(b))
	}
	return b, nil
}

// checksum returns the Internet checksum (RFC 1071).
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Write sends an echo request to the connected address.
func (p *PingConn) Write(msg []byte) (int, error) {
	b, err := p.request(msg)
	if err != nil {
		return 0, p.fail("write", err)
	}
	return p.c.Write(b)
}

// WriteTo sends an echo request to addr, which must be a *PingAddr or a *net.IPAddr.
func (p *PingConn) WriteTo(msg []byte, addr net.Addr) (int, error) {
	b, err := p.request(msg)
	if err != nil {
		return 0, p.fail("write", err)
	}
	switch a := addr.(type) {
	case nil:
		return 0, p.fail("write", syscall.EINVAL)
	case *PingAddr:
		if a == nil {
			return 0, p.fail("write", syscall.EINVAL)
		}
		return p.c.WriteToIP(b, &net.IPAddr{IP: a.addr.AsSlice(), Zone: a.addr.Zone()})
	case *net.IPAddr:
		return p.c.WriteToIP(b, a)
	}
	return 0, p.fail("write", &net.AddrError{Err: "not a *PingAddr", Addr: addr.String()})
}

func (p *PingConn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: fromIPAddr(p.c.LocalAddr()).Network(), Source: p.LocalAddr(), Err: err}
}

// Read receives an echo reply.
func (p *PingConn) Read(b []byte) (int, error) {
	n, _, err := p.ReadFrom(b)
	return n, err
}

// ReadFrom receives an echo reply, and returns the sender as a *PingAddr. If the message is longer than b, the rest
// is lost.
func (p *PingConn) ReadFrom(b []byte) (int, net.Addr, error) {
	reply := byte(0)
	if p.v6 {
		reply = 129
	}
	buf := b
	if len(buf) < echoLen {
		buf = make([]byte, echoLen)
	}
	for {
		n, from, err := p.c.ReadFromIP(buf)
		if err != nil {
			return 0, nil, err
		}
		if n >= echoLen && buf[0] == reply && binary.BigEndian.Uint16(buf[4:]) == p.id {
			return min(n, copy(b, buf[:n])), fromIPAddr(from), nil
		}
	}
}

// Close closes the socket.
func (p *PingConn) Close() error { return p.c.Close() }

// SetDeadline sets both deadlines.
func (p *PingConn) SetDeadline(t time.Time) error { return p.c.SetDeadline(t) }

// SetReadDeadline sets the deadline of Read and ReadFrom.
func (p *PingConn) SetReadDeadline(t time.Time) error { return p.c.SetReadDeadline(t) }

// SetWriteDeadline sets the deadline of Write and WriteTo.
func (p *PingConn) SetWriteDeadline(t time.Time) error { return p.c.SetWriteDeadline(t) }
