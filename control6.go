package usernet

import (
	"encoding/binary"
	"net/netip"
	"syscall"

	"github.com/usernet/usernet/stack"
)

// Linux's numbers of IPv6's control messages (RFC 3542 6).
const (
	levelIPv6 = 41

	optPacketInfo6  = 50
	optHopLimit     = 52
	optTrafficClass = 67

	packetInfo6Len = 20 // struct in6_addr ipi6_addr; unsigned ipi6_ifindex
)

// A controlKind is the combination of a socket's family and the family of a datagram's destination.
type controlKind uint8

const (
	control4      controlKind = iota // an IPv4 socket
	control6                         // an IPv6 socket, to an IPv6 address
	controlMapped                    // an IPv6 socket, to an IPv4-mapped address
)

// controlKind returns the kind of a datagram. to is the datagram's destination. If to is invalid, the
// destination is the other end of the connected socket.
func (c *datagramConn) controlKind(to netip.Addr) controlKind {
	if !c.family.six {
		return control4
	}
	if !to.IsValid() {
		ip, _, _ := addrIP(c.ends().remote)
		to, _ = netip.AddrFromSlice(ip)
	}
	if to = to.Unmap(); to.Is4() {
		return controlMapped
	}
	return control6
}

// putInfo6 writes an IPV6_PKTINFO.
func (w *controlWriter) putInfo6(index int, a netip.Addr) {
	var b [packetInfo6Len]byte
	if a.IsValid() {
		*(*[16]byte)(b[:]) = a.As16()
	}
	binary.NativeEndian.PutUint32(b[16:], uint32(index))
	w.put(levelIPv6, optPacketInfo6, b[:])
}

// sendOption6 is like sendOption, for a message of level IPPROTO_IPV6.
func sendOption6(kind controlKind, typ int, data []byte, o *stack.SendOptions) error {
	if typ == optPacketInfo6 {
		return sendInfo6(kind, data, o)
	}
	if kind == controlMapped {
		return nil // IPv6's other messages do not apply to an IPv4 datagram
	}
	value := -2 // valid for no option
	if len(data) == 4 {
		value = int(int32(binary.NativeEndian.Uint32(data)))
	}
	// RFC 3542 6.3 and 6.5: "-1: use kernel default".
	switch {
	case value < -1 || value > 255:
		return syscall.EINVAL
	case typ == optHopLimit:
		o.TTL = uint8(max(value, 0))
	case typ == optTrafficClass && value >= 0:
		o.TOS, o.SetTOS = uint8(value), true
	case typ != optTrafficClass:
		return syscall.EINVAL
	}
	return nil
}

// sendInfo6 is like sendOption, for IPV6_PKTINFO.
func sendInfo6(kind controlKind, data []byte, o *stack.SendOptions) error {
	if len(data) < packetInfo6Len {
		return syscall.EINVAL
	}
	src := netip.AddrFrom16([16]byte(data))
	if kind == controlMapped != src.Is4In6() || src.IsMulticast() {
		return syscall.EINVAL
	}
	if index := int(int32(binary.NativeEndian.Uint32(data[16:]))); index != 0 {
		o.NIC = index
	}
	if kind == controlMapped || !src.IsUnspecified() {
		o.Src = src.Unmap()
	}
	return nil
}

// receivedControl6 writes the control messages of a datagram that an IPv6 socket has received. For an
// IPv4 datagram, the address in IPV6_PKTINFO is IPv4-mapped, and TTL and TOS have IPv4's messages.
func (c *datagramConn) receivedControl6(w *controlWriter, cf ControlFlags, meta *stack.Meta) {
	if cf&packetInfoFlags != 0 {
		w.putInfo6(meta.NIC, meta.Dst)
	}
	v4 := meta.Dst.Is4()
	if cf&FlagTTL != 0 {
		if v4 {
			w.putInt(levelIP, optTTL, meta.TTL)
		} else {
			w.putInt(levelIPv6, optHopLimit, meta.TTL)
		}
	}
	if cf&FlagTOS != 0 {
		if v4 {
			w.put(levelIP, optTOS, []byte{meta.TOS})
		} else {
			w.putInt(levelIPv6, optTrafficClass, meta.TOS)
		}
	}
}

// isSix reports whether AppendControl writes the messages of IPv6: the source or, without a source,
// Remote is an IPv6 address.
func (i *PacketInfo) isSix() bool {
	if src := i.source(); src.IsValid() {
		return src.Is6()
	}
	remote := i.Remote.Addr().Unmap()
	return remote.Is6()
}

// append6 writes the control messages that represent i, in IPv6's form.
func (i *PacketInfo) append6(w *controlWriter) {
	if src := i.source(); src.IsValid() || i.Interface != 0 {
		w.putInfo6(i.Interface, src)
	}
	if i.TTL != 0 {
		w.putInt(levelIPv6, optHopLimit, i.TTL)
	}
	if i.TOS != 0 {
		w.putInt(levelIPv6, optTrafficClass, i.TOS)
	}
}

// parse6 sets fields of i from one message of level IPPROTO_IPV6. It ignores unknown messages.
func (i *PacketInfo) parse6(typ int, data []byte) {
	switch {
	case typ == optPacketInfo6 && len(data) >= packetInfo6Len:
		i.Local = netip.AddrFrom16([16]byte(data))
		i.Interface = int(int32(binary.NativeEndian.Uint32(data[16:])))
	case typ == optHopLimit && len(data) >= 4:
		i.TTL = uint8(binary.NativeEndian.Uint32(data))
	case typ == optTrafficClass && len(data) >= 4:
		i.TOS = uint8(binary.NativeEndian.Uint32(data))
	}
}
