package nic

import (
	"encoding/binary"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// addr6Patience is how long setAddr6 waits until the kernel uses the address.
const addr6Patience = time.Second

// setAddr6 adds an IPv6 address to an interface, and returns when the kernel uses it. There is no
// Duplicate Address Detection, which would take about a second. In that time, a connection to the other
// side of the link would have the source ::1, and hang. The stack at the other side detects a duplicate.
//
// The kernel adds the address at once, but joins its solicited-node group and makes its local route some
// time later, in a work queue. In between it does not answer solicitations. The stack at the other side
// would repeat the first one only after a second (RFC 4861 10, RETRANS_TIMER).
func setAddr6(index int, addr netip.Prefix) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	// struct ifaddrmsg, then attributes: rtnetlink(7).
	b := []byte{unix.AF_INET6, uint8(addr.Bits()), 0, unix.RT_SCOPE_UNIVERSE}
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	b = appendAttr(b, unix.IFA_ADDRESS, addr.Addr().AsSlice())
	b = appendAttr(b, unix.IFA_LOCAL, addr.Addr().AsSlice())
	b = appendAttr(b, unix.IFA_FLAGS, binary.NativeEndian.AppendUint32(nil, unix.IFA_F_NODAD))
	if _, _, err := askKernel(fd, unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, b); err != nil {
		return err
	}
	for end := time.Now().Add(addr6Patience); time.Now().Before(end) && !routedLocally(fd, index, addr.Addr()); {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// routedLocally reports whether the kernel has the local route of its address on an interface. The kernel
// makes this route after it has joined the address's solicited-node group.
func routedLocally(fd, index int, addr netip.Addr) bool {
	const kind = 7                                       // offset of rtm_type in struct rtmsg
	b := append(make([]byte, 0, 64), unix.AF_INET6, 128) // rtm_family and rtm_dst_len
	b = appendAttr(b[:unix.SizeofRtMsg], unix.RTA_DST, addr.AsSlice())
	if addr.IsLinkLocalUnicast() {
		b = appendAttr(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
	}
	answer, route, err := askKernel(fd, unix.RTM_GETROUTE, 0, b)
	return err == nil && answer == unix.RTM_NEWROUTE && len(route) > kind && route[kind] == unix.RTN_LOCAL
}

// appendAttr appends an attribute of a netlink message. The length of value must be a multiple of four bytes.
func appendAttr(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	return append(binary.NativeEndian.AppendUint16(b, kind), value...)
}

// askKernel sends a request over a netlink socket, and returns the type and the body of the answer. The
// error is that of the kernel: its negative answer, or EPROTO if the answer has no known form.
func askKernel(fd int, kind, flags uint16, request []byte) (answer uint16, body []byte, err error) {
	le := binary.NativeEndian
	// struct nlmsghdr: length, type, flags, sequence number and port.
	b := le.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(request)))
	b = le.AppendUint16(b, kind)
	b = le.AppendUint16(b, flags|unix.NLM_F_REQUEST)
	b = append(append(b, make([]byte, 8)...), request...)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, nil, err
	}
	b = make([]byte, 8<<10)
	n, _, err := unix.Recvfrom(fd, b, 0)
	if err != nil {
		return 0, nil, err
	}
	if n < unix.SizeofNlMsghdr+4 {
		return 0, nil, unix.EPROTO
	}
	answer, body = le.Uint16(b[4:]), b[unix.SizeofNlMsghdr:n]
	if answer != unix.NLMSG_ERROR {
		return answer, body, nil
	}
	// struct nlmsgerr: a negative errno, or 0.
	if errno := -int32(le.Uint32(body)); errno != 0 {
		return answer, nil, unix.Errno(errno)
	}
	return answer, nil, nil
}
