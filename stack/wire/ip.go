package wire

import "net/netip"

// Version returns the version field of an IP header, or 0 if b is empty. It is 4 or 6 if b is a valid
// packet.
func Version(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return int(b[0] >> 4)
}

// Ends returns the source and the destination of an IP header. They are invalid if b does not begin
// with a whole header.
func Ends(b []byte) (src, dst netip.Addr) {
	switch {
	case Version(b) == 4 && len(b) >= IPv4Len:
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case Version(b) == 6 && len(b) >= IPv6Len:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	}
	return src, dst
}
