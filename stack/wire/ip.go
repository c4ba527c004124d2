package wire

import "net/netip"

// Version returns the version that an IP header begins with, 4 or 6 where it is one; 0 where b is empty.
func Version(b []byte) int {
	if len(b) == 0 {
		return 0
	}
	return int(b[0] >> 4)
}

// Ends returns the source and the destination that an IP header has; invalid ones where b is
// no whole header.
func Ends(b []byte) (src, dst netip.Addr) {
	switch {
	case Version(b) == 4 && len(b) >= IPv4Len:
		return netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20]))
	case Version(b) == 6 && len(b) >= IPv6Len:
		return netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40]))
	}
	return src, dst
}
