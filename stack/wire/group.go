package wire

import (
	"encoding/binary"
	"net/netip"
)

// GroupReportLen is the length of what is before the group records in a report of version 3 of IGMP
// and version 2 of MLD, the header of ICMPv6 included.
const GroupReportLen = 8

// Types of group records: RFC 3376 4.2.12 for IGMP, and RFC 9777 5.2.12 for MLD.
const (
	GroupIsInclude = 1 // answers: these sources are wanted
	GroupIsExclude = 2 // all but these sources are wanted
	GroupToInclude = 3 // the same of a change; without sources, the group was left
	GroupToExclude = 4 // without sources, the group was joined
	GroupAllow     = 5 // a change: these sources are wanted from now on
	GroupBlock     = 6 // these are not wanted any more
)

// GroupRecordLen is the length in bytes of a record of a group with n sources.
func GroupRecordLen(group netip.Addr, n int) int { return 4 + group.BitLen()/8*(1+n) }

// AppendGroupRecord appends a record to a report: of IGMP if the group is of IPv4, else of MLD. The
// sources are of the group's family.
func AppendGroupRecord(b []byte, kind uint8, group netip.Addr, sources []netip.Addr) []byte {
	b = append(b, kind, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(sources)))
	b = append(b, group.AsSlice()...)
	for _, a := range sources {
		b = append(b, a.AsSlice()...)
	}
	return b
}
