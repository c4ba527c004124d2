package nic

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"github.com/usernet/usernet/stack/wire"
	"golang.org/x/sys/unix"
)

// This file has what Linux needs for super-frames of more than 65535 bytes, which it calls BIG TCP.
//
// IPv4: the total length is 0 (include/linux/ip.h, iph_totlen), as in all of this package.
//
// IPv6: before 7.0 the packet has a hop-by-hop header with a Jumbo Payload option (RFC 2675). The
// kernel removes it when it segments the packet. Since 7.0 the payload length is 0 without an option.

const (
	// defaultBigGSO is the limit for a device whose configuration sets none. Measured with
	// TCP over a TAP: 192 and 256 KiB are equal, and take a quarter less CPU time than 64 KiB. 500 KiB
	// is worse than 64 KiB.
	defaultBigGSO = 192 << 10

	maxPayload6 = 65535 // the largest payload of an IPv6 packet that its length field can express
)

// tapGSO returns the largest super-frame that may be sent to the kernel's interface ifc. configured is
// TAPConfig.GSO. jumbo says that a large IPv6 super-frame needs a Jumbo Payload option. tapGSO sends
// nothing to find out.
func tapGSO(configured int, ifc *net.Interface) (gso int, jumbo bool) {
	able, jumbo := bigTCP(kernelRelease())
	switch {
	case !able:
		return min(gsoSize(configured), maxPacket), false
	case configured == 0 && isEndpoint(ifc):
		return defaultBigGSO, jumbo
	}
	return gsoSize(configured), jumbo
}

// bigTCP reports whether a kernel takes large super-frames from a TAP, and whether it needs a Jumbo
// Payload option in those of IPv6. It is true for Linux 6.8 and later.
//
// Linux 6.3 takes them first. Linux 6.6 allocates the memory of a packet from a TAP in large pieces, of
// which the largest super-frame needs few enough. Since Linux 6.8, a super-frame that is forwarded to an
// interface whose gso_max_size is smaller is segmented; earlier kernels pass it on as it is.
func bigTCP(release string) (able, jumbo bool) {
	major, rest, _ := strings.Cut(release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	if end := strings.IndexFunc(minor, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		minor = minor[:end]
	}
	x, err := strconv.Atoi(major)
	if err != nil {
		return false, false
	}
	y, err := strconv.Atoi(minor)
	if err != nil || x < 6 || x == 6 && y < 8 {
		return false, false
	}
	return true, x < 7
}

// kernelRelease returns the release of the kernel, such as "6.12.5-amd64", or "".
func kernelRelease() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

// isEndpoint reports whether the kernel probably keeps what it receives on an interface: the interface
// has an address, which a port of a bridge has not, and does not forward.
func isEndpoint(ifc *net.Interface) bool {
	if forwards("ipv4", ifc.Name) || forwards("ipv6", ifc.Name) {
		return false
	}
	addrs, err := ifc.Addrs()
	if err != nil {
		return false
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && !p.Addr().IsLinkLocalUnicast() {
			return true
		}
	}
	return false
}

// forwards reports whether the kernel forwards packets of a family that it receives on an interface. It
// returns true if that cannot be found out.
func forwards(family, name string) bool {
	b, err := os.ReadFile("/proc/sys/net/" + family + "/conf/" + name + "/forwarding")
	if family == "ipv6" && os.IsNotExist(err) {
		return false // the kernel has no IPv6
	}
	return err != nil || !bytes.Equal(bytes.TrimSpace(b), []byte("0"))
}

// jumboLen is the length in bytes of a hop-by-hop header with a Jumbo Payload option.
const jumboLen = 8

// putJumbo writes to b the IPv6 header ip with a Jumbo Payload option behind it. n is the number of bytes
// that follow the header without the option.
//
// RFC 2675 2: the option has the type 0xc2, the length 4, and the length of the packet without the IPv6
// header. "The Payload Length field in the IPv6 header must be set to zero in every packet that carries
// the Jumbo Payload option."
func putJumbo(b, ip []byte, n int) {
	hop := b[copy(b, ip[:wire.IPv6Len]):][:jumboLen]
	binary.BigEndian.PutUint16(b[wire.IPv6PayloadLenOffset:], 0)
	b[wire.IPv6NextOffset] = byte(wire.ProtoHopByHop)
	hop[0], hop[1] = ip[wire.IPv6NextOffset], 0
	hop[2], hop[3] = 0xc2, 4
	binary.BigEndian.PutUint32(hop[4:], uint32(jumboLen+n))
}

// jumbo writes an IPv6 super-frame with a Jumbo Payload option.
func (op *tapWrite) jumbo(fd uintptr, f *Frame) unix.Errno {
	network, _, _ := op.medium.network(f.Head)
	end := network + wire.IPv6Len
	if int(f.ChecksumStart) != end || int(f.HeaderLen) > len(f.Head) {
		return unix.EINVAL // there are extension headers already, or there is no IPv6 header
	}
	with := Frame{
		NeedsChecksum: true, ChecksumStart: f.ChecksumStart + jumboLen, ChecksumOffset: f.ChecksumOffset,
		GSO: f.GSO, GSOSize: f.GSOSize, HeaderLen: f.HeaderLen + jumboLen,
	}
	b := op.one[:vnetHeaderLen+end+jumboLen]
	putVnet(b, &with)
	copy(b[vnetHeaderLen:], f.Head[:network])
	putJumbo(b[vnetHeaderLen+network:], f.Head[network:], f.Len()-end)
	count := 0
	for _, part := range [...][]byte{b, f.Head[end:], f.Body} {
		if len(part) > 0 {
			op.iov[count].Base = unsafe.SliceData(part)
			op.iov[count].SetLen(len(part))
			count++
		}
	}
	_, _, errno := unix.RawSyscall(unix.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&op.iov[0])), uintptr(count))
	return errno
}

// tooLarge reports whether the kernel may have refused a large super-frame because of its length. If its
// memory is fragmented, the kernel cannot make such a packet, but it can make smaller ones.
func tooLarge(errno unix.Errno) bool {
	return errno == unix.ENOBUFS || errno == unix.ENOMEM || errno == unix.EMSGSIZE
}
