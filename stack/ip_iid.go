package stack

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// This file makes interface identifiers: the last 64 bits of addresses in advertised prefixes, and of
// link-local addresses on links without MAC addresses.

// maxIDTries is the number of other identifiers that the host tries after a duplicate.
// RFC 7217 7: IDGEN_RETRIES; RFC 8981 3.8: TEMP_IDGEN_RETRIES.
const maxIDTries = 3

// stableAddr returns an address in a prefix of 64 bits. Its identifier depends on the interface, the
// prefix and counter only, and is unrelated to the identifiers in other prefixes. counter is the number
// of duplicates that were found before. s.mu is held.
//
// RFC 7217 5: "RID = F(Prefix, Net_Iface, Network_ID, DAD_Counter, secret_key)", where F is "a
// pseudorandom function (PRF) that MUST NOT be computable from the outside (without knowledge of the
// secret key)". Net_Iface is the interface's name. Network_ID is optional, and is not used.
func (s *Stack) stableAddr(ifc *iface, prefix netip.Prefix, counter uint8) netip.Addr {
	p := prefix.Addr().As16()
	for ; ; counter++ {
		h := sha256.New()
		h.Write(p[:8])
		h.Write([]byte{byte(len(ifc.name))})
		h.Write([]byte(ifc.name))
		h.Write([]byte{counter})
		h.Write(s.stableKey())
		id := binary.BigEndian.Uint64(h.Sum(nil))
		if a := withID(prefix, id); !isReservedID(id) {
			return a
		}
	}
}

// stableKey returns the secret_key of RFC 7217: Config.StableSecret, or a random key that the stack makes
// once and uses until it is closed. s.mu is held.
func (s *Stack) stableKey() []byte {
	if len(s.secret) == 0 {
		for range 2 {
			s.secret = binary.BigEndian.AppendUint64(s.secret, s.random.next(randID))
		}
	}
	return s.secret
}

// temporaryAddr returns an address in a prefix with a random identifier (RFC 8981 3.3.1).
func (s *Stack) temporaryAddr(prefix netip.Prefix) netip.Addr {
	for {
		if id := s.random.next(randID); !isReservedID(id) {
			return withID(prefix, id)
		}
	}
}

// withID returns the address in a prefix of 64 bits with the given interface identifier.
func withID(prefix netip.Prefix, id uint64) netip.Addr {
	a := prefix.Addr().As16()
	binary.BigEndian.PutUint64(a[8:], id)
	return netip.AddrFrom16(a)
}

// isReservedID reports whether an identifier is reserved. The values are those of RFC 5453: 0 for the
// Subnet-Router anycast address (RFC 4291 2.6.1), a range for other anycast addresses (RFC 2526), and a
// range for IANA's Ethernet block.
func isReservedID(id uint64) bool {
	return id == 0 || id >= 0xfdffffffffffff80 && id <= 0xfdffffffffffffff || id>>24 == 0x02005efffe
}
