package wire

import (
	"encoding/binary"
	"net/netip"
)

// GroupReportLen is the length in bytes of a report without its group records, in IGMPv3 and in MLDv2.
// It includes the ICMPv6 header.
const GroupReportLen = 8

// Types of group records: RFC 3376 4.2.12 for IGMP, and RFC 9777 5.2.12 for MLD.
const (
	GroupIsInclude = 1 // current state: only these sources are wanted
	GroupIsExclude = 2 // current state: all sources except these are wanted
	GroupToInclude = 3 // state change to only these sources; without sources, the group was left
	GroupToExclude = 4 // state change to all sources except these; without sources, the group was joined
	GroupAllow     = 5 // change: these sources are wanted from now on
	GroupBlock     = 6 // change: these sources are no longer wanted
)

// GroupRecordLen returns the length in bytes of a record of a group with n sources.
func GroupRecordLen(group netip.Addr, n int) int { return 4 + group.BitLen()/8*(1+n) }

// AppendGroupRecord appends a group record to a report, of IGMP if the group is IPv4 and of MLD
// otherwise. The sources have the group's family.
func AppendGroupRecord(b []byte, kind uint8, group netip.Addr, sources []netip.Addr) []byte {
	b = append(b, kind, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(sources)))
	b = append(b, group.AsSlice()...)
	for _, a := range sources {
		b = append(b, a.AsSlice()...)
	}
	return b
}
