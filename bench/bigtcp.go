package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// bigGSO is the largest super-frame of the veth pair with BIG TCP, in bytes: Linux's GSO_MAX_SIZE, the limit of veth.
const bigGSO = 8 * 65535

// raiseGSO sets the length in bytes of the super-frames that an interface of the current namespace sends and receives,
// with IPv4 and with IPv6. It is what ip link set does with gso_max_size, gro_max_size, gso_ipv4_max_size and
// gro_ipv4_max_size. iproute2 has the two of IPv4 only since version 6.3, as Linux does.
func raiseGSO(ifc string, size uint32) error {
	dev, err := net.InterfaceByName(ifc)
	if err != nil {
		return err
	}
	msg := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint16(msg[4:], unix.RTM_NEWLINK)
	binary.NativeEndian.PutUint16(msg[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	binary.NativeEndian.PutUint32(msg[unix.SizeofNlMsghdr+4:], uint32(dev.Index))
	for _, attr := range []uint16{
		unix.IFLA_GSO_MAX_SIZE, unix.IFLA_GRO_MAX_SIZE, unix.IFLA_GSO_IPV4_MAX_SIZE, unix.IFLA_GRO_IPV4_MAX_SIZE,
	} {
		msg = binary.NativeEndian.AppendUint16(msg, unix.SizeofRtAttr+4)
		msg = binary.NativeEndian.AppendUint16(msg, attr)
		msg = binary.NativeEndian.AppendUint32(msg, size)
	}
	binary.NativeEndian.PutUint32(msg, uint32(len(msg)))

	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("sendto", err)
	}
	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return os.NewSyscallError("recvfrom", err)
	}
	if n < unix.SizeofNlMsghdr+4 || binary.NativeEndian.Uint16(answer[4:]) != unix.NLMSG_ERROR {
		return fmt.Errorf("netlink: an answer of %d bytes that is no acknowledgement", n)
	}
	if e := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:])); e != 0 {
		return fmt.Errorf("BIG TCP on %s: %w", ifc, unix.Errno(-e))
	}
	return nil
}
