package nic

import (
	"encoding/binary"

	"github.com/usernet/usernet/stack/wire"
	"golang.org/x/sys/unix"
)

// vnetHeaderLen is the length of struct virtio_net_hdr of linux/virtio_net.h. It precedes each
// frame of a TAP or a TUN with offloads, and of a packet socket. Its numbers are in the machine's byte order.
//
// Virtual I/O Device (VIRTIO) 1.2 section 5.1.6 describes the fields.
const vnetHeaderLen = 10

// Offsets in the header.
const (
	vnetFlags      = 0
	vnetGSOType    = 1
	vnetHdrLen     = 2 // length of all headers, which is only a hint
	vnetGSOSize    = 4
	vnetCsumStart  = 6
	vnetCsumOffset = 8
)

// putVnet writes to b the virtio header that describes the offloads of f.
func putVnet(b []byte, f *Frame) {
	ne := binary.NativeEndian
	clear(b[:vnetHeaderLen])
	if !f.NeedsChecksum {
		return
	}
	b[vnetFlags] = unix.VIRTIO_NET_HDR_F_NEEDS_CSUM
	ne.PutUint16(b[vnetCsumStart:], f.ChecksumStart)
	ne.PutUint16(b[vnetCsumOffset:], f.ChecksumOffset)
	switch f.GSO {
	case GSOTCP4:
		b[vnetGSOType] = unix.VIRTIO_NET_HDR_GSO_TCPV4
	case GSOTCP6:
		b[vnetGSOType] = unix.VIRTIO_NET_HDR_GSO_TCPV6
	case GSOUDP:
		b[vnetGSOType] = unix.VIRTIO_NET_HDR_GSO_UDP_L4
	default:
		return
	}
	ne.PutUint16(b[vnetHdrLen:], f.HeaderLen)
	ne.PutUint16(b[vnetGSOSize:], f.GSOSize)
}

// parseVnet returns the Frame of the bytes head and body and the virtio header hdr. body may be empty.
// parseVnet may change the frame's checksum field. It returns false if the bytes and the header contradict
// each other, so that each accepted frame can be segmented and its checksum completed. It ignores the
// header's hdr_len, which is only a hint (VIRTIO 1.2 section 5.1.6).
func (m Medium) parseVnet(hdr, head, body []byte) (f Frame, ok bool) {
	ne := binary.NativeEndian
	f.Head, f.Body = head, body
	if len(head) < m.minFrame() {
		return f, false
	}
	switch flags := hdr[vnetFlags]; {
	case flags&unix.VIRTIO_NET_HDR_F_NEEDS_CSUM != 0:
		f.NeedsChecksum, f.Local = true, true
		f.ChecksumStart = ne.Uint16(hdr[vnetCsumStart:])
		f.ChecksumOffset = ne.Uint16(hdr[vnetCsumOffset:])
		if int(f.ChecksumStart) < m.headerLen() ||
			int(f.ChecksumStart)+int(f.ChecksumOffset)+2 > len(head) {
			return f, false
		}
	case flags&unix.VIRTIO_NET_HDR_F_DATA_VALID != 0:
		f.ChecksumValid = true
	}
	// The ECN bit means that only the first segment has CWR. That is true of all super-frames in
	// this package.
	kind := hdr[vnetGSOType] &^ unix.VIRTIO_NET_HDR_GSO_ECN
	if kind == unix.VIRTIO_NET_HDR_GSO_NONE {
		return f, true
	}
	if f.ChecksumValid && !m.reopenChecksum(&f) {
		return f, false
	}
	return f, m.parseVnetGSO(&f, kind, ne.Uint16(hdr[vnetGSOSize:]))
}

// parseVnetGSO makes f a super-frame. The checksum of f is incomplete.
func (m Medium) parseVnetGSO(f *Frame, kind byte, size uint16) bool {
	b, start := f.Head, int(f.ChecksumStart)
	var header, sumOffset int
	switch kind {
	case unix.VIRTIO_NET_HDR_GSO_TCPV4, unix.VIRTIO_NET_HDR_GSO_TCPV6:
		f.GSO, sumOffset = GSOTCP4, wire.TCPChecksumOffset
		if kind == unix.VIRTIO_NET_HDR_GSO_TCPV6 {
			f.GSO = GSOTCP6
		}
		if start+wire.TCPLen > len(b) {
			return false
		}
		header = int(b[start+12]>>4) * 4
		if header < wire.TCPLen {
			return false
		}
	case unix.VIRTIO_NET_HDR_GSO_UDP_L4:
		f.GSO, sumOffset, header = GSOUDP, wire.UDPChecksumOffset, wire.UDPLen
	default:
		return false
	}
	if int(f.ChecksumOffset) != sumOffset || start+header > len(b) {
		return false
	}
	f.GSOSize, f.HeaderLen = size, uint16(start+header)
	_, ok := m.parse(f)
	return ok
}

// reopenChecksum replaces the checksum of a super-frame by the sum of the pseudo-header, because
// all super-frames in this package have incomplete checksums. The device has verified the checksums
// of the segments. A network card that merges received segments may leave any value in the field.
func (m Medium) reopenChecksum(f *Frame) bool {
	b := f.Head
	network, _, _ := m.network(b)
	if len(b) < network+wire.IPv6Len {
		return false // too short for a transport header after either IP header
	}
	var transport int
	var proto byte
	var addrs []byte
	switch ip := b[network:]; ip[0] >> 4 {
	case 4:
		transport, proto, addrs = network+int(ip[0]&15)*4, ip[9], ip[12:20]
	case 6:
		transport, proto, addrs = network+wire.IPv6Len, ip[6], ip[8:40]
	}
	offset := wire.TCPChecksumOffset
	if proto == unix.IPPROTO_UDP {
		offset = wire.UDPChecksumOffset
	} else if proto != unix.IPPROTO_TCP {
		return false
	}
	if transport+offset+2 > len(b) {
		return false
	}
	binary.BigEndian.PutUint16(b[transport+offset:], pseudoSum(addrs, proto, f.Len()-transport))
	f.NeedsChecksum, f.ChecksumValid = true, false
	f.ChecksumStart, f.ChecksumOffset = uint16(transport), uint16(offset)
	return true
}
