package wire

import (
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIGMPMessagesHaveTheseBytes(t *testing.T) {
	group := netip.MustParseAddr("224.0.0.251")
	b := make([]byte, IGMPLen)
	// Checksums computed by hand: 1600 + e000 + 00fb = f6fb, whose complement is 0904, and so on.
	for typ, want := range map[IGMPType]string{
		IGMPv1Report: "12000d04e00000fb", IGMPv2Report: "16000904e00000fb", IGMPv2Leave: "17000804e00000fb",
	} {
		PutIGMP(b, typ, group)
		require.Equal(t, unhex(want), b)
		h, r := ParseIGMP(b)
		require.Equal(t, OK, r)
		require.Equal(t, IGMP{Type: typ, Group: group}, h)
	}
	report := make([]byte, IGMPLen)
	report = AppendGroupRecord(report, GroupToExclude, group, nil)
	report = AppendGroupRecord(report, GroupIsInclude, group, []netip.Addr{netip.MustParseAddr("198.51.100.1")})
	PutIGMPv3Report(report, 2)
	require.Equal(t, unhex("2200eccf00000002"+"04000000e00000fb"+"01000001e00000fbc6336401"), report)
}

func TestIGMPQueriesAreReadByTheirLength(t *testing.T) {
	unspecified, group := netip.IPv4Unspecified(), netip.MustParseAddr("224.0.0.251")
	for _, c := range []struct {
		bytes string
		want  IGMP
		r     Reason
	}{
		{"1100 0000 00000000", IGMP{Group: unspecified, Version: 1, Tenths: 100}, OK},
		{"1164 0000 00000000", IGMP{Group: unspecified, Version: 2, Tenths: 100}, OK},
		{"11ff 0000 00000000", IGMP{Group: unspecified, Version: 2, Tenths: 255}, OK},
		{"1164 0000 e00000fb 0a 7d 0000", IGMP{Group: group, Version: 3, Tenths: 100, Robustness: 2, Interval: 125, Sources: []byte{}}, OK},
		{"117f 0000 e00000fb f7 7f 0000", IGMP{Group: group, Version: 3, Tenths: 127, Robustness: 7, Interval: 127, Sources: []byte{}}, OK},
		// RFC 3376 4.1.1: (mant | 0x10) << (exp + 3).
		{"1180 0000 e00000fb 00 81 0000", IGMP{Group: group, Version: 3, Tenths: 128, Interval: 136, Sources: []byte{}}, OK},
		{"11ff 0000 e00000fb 00 ff 0000", IGMP{Group: group, Version: 3, Tenths: 31744, Interval: 31744, Sources: []byte{}}, OK},
		{"1100 0000 e00000fb 00 00 0001 c6336401 ffff", IGMP{Group: group, Version: 3, Sources: []byte{198, 51, 100, 1}}, OK},
		{"1100 0000 e00000fb 00 00 0002 c6336401", IGMP{}, BadIGMPLength},
		{"1164 0000 e00000fb 00", IGMP{}, BadIGMPLength},
		{"1164 0000 e00000fb 000000", IGMP{}, BadIGMPLength},
		{"1164 0000 e00000", IGMP{}, ShortIGMP},
		{"", IGMP{}, ShortIGMP},
	} {
		b := unhex(c.bytes)
		if len(b) >= 4 {
			sum := Checksum(b)
			b[2], b[3] = byte(sum>>8), byte(sum)
		}
		h, r := ParseIGMP(b)
		require.Equal(t, c.r, r, c.bytes)
		if r == OK {
			c.want.Type = IGMPQuery
			require.Equal(t, c.want, h, c.bytes)
			b[4] ^= 1
			_, r = ParseIGMP(b)
			require.Equal(t, BadIGMPChecksum, r)
		}
	}
}

func TestARouterAlertIsFoundAmongOptions(t *testing.T) {
	for options, want := range map[string]bool{
		"":                       false,
		"94040000":               true,
		"0194040000":             true,
		"0704000094040000":       true,
		"07040000":               false,
		"0094040000":             false, // after End of Option List
		"94":                     false,
		"0700940400":             true, // an impossible length is skipped
		"010101":                 false,
		"07ff000094040000000000": false,
	} {
		require.Equal(t, want, RouterAlert(unhex(options)), options)
	}
	require.True(t, RouterAlert(RouterAlertOption()))
}

func FuzzParseIGMP(f *testing.F) {
	f.Add([]byte{0x11, 1, 0, 0, 224, 1, 2, 3, 2, 125, 0, 1, 198, 51, 100, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= IGMPLen {
			b[2], b[3] = 0, 0
			sum := Checksum(b)
			b[2], b[3] = byte(sum>>8), byte(sum)
		}
		h, r := ParseIGMP(b)
		if r != OK {
			return
		}
		require.LessOrEqual(t, len(h.Sources), len(b))
		require.Zero(t, len(h.Sources)%4)
		if h.Version == 0 {
			c := make([]byte, IGMPLen)
			PutIGMP(c, h.Type, h.Group)
			again, r := ParseIGMP(c)
			if h.Type != IGMPQuery {
				require.Equal(t, OK, r)
				require.Equal(t, h, again)
			}
		}
		RouterAlert(b)
	})
}
