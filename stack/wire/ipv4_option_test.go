package wire

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// In each case, bad is the offset that Linux 6.18 reports in its Parameter Problem message. The option types are 7 Record
// Route, 68 Timestamp, 131 Loose Source Route, 137 Strict Source Route, and 148 Router Alert.
func TestOptionsAreCheckedAsLinuxDoes(t *testing.T) {
	for _, c := range []struct {
		name    string
		options []byte
		bad     int // offset of the faulty octet in the header; 0: no fault
	}{
		{"none", nil, 0},
		{"padding only", []byte{1, 1, 1, 0}, 0},
		{"source route after End of Option List", []byte{0, 131, 2, 4}, 0},
		{"unknown", []byte{200, 4, 0, 0}, 0},
		{"length 0", []byte{200, 0, 0, 0}, 20},
		{"length 1", []byte{7, 1, 4, 0}, 20},
		{"length beyond the header", []byte{1, 200, 9, 0}, 21},
		{"no room for the length", []byte{1, 1, 1, 148}, 23},
		{"router alert", []byte{148, 4, 0, 0}, 0},
		{"router alert without a value", []byte{148, 3, 0, 0}, 21},

		{"loose source route", []byte{131, 7, 4, 192, 0, 2, 9, 0}, 0},
		{"strict after NOP", []byte{1, 137, 7, 8, 192, 0, 2, 9}, 0},
		{"two source routes", []byte{131, 7, 4, 1, 2, 3, 4, 137, 7, 4, 1, 2, 3, 4}, 27},
		{"source route, pointer below 4", []byte{131, 7, 3, 1, 2, 3, 4, 0}, 22},
		{"source route without pointer", []byte{131, 2, 0, 0}, 21},
		{"record route without length after a source route", []byte{131, 3, 4, 7}, 23},

		{"record route", []byte{7, 7, 4, 0, 0, 0, 0, 0}, 0},
		{"record route, full", []byte{7, 7, 8, 1, 2, 3, 4, 0}, 0},
		{"record route without room", []byte{7, 3, 4, 0}, 0},
		{"record route, room for half an address", []byte{7, 11, 10, 1, 1, 1, 1, 2, 2, 2, 2}, 22},
		{"record route, pointer below 4", []byte{7, 7, 3, 0, 0, 0, 0}, 22},
		{"record route without pointer", []byte{7, 2, 0, 0}, 21},
		{"two record routes", []byte{7, 7, 4, 0, 0, 0, 0, 7, 7, 4, 0, 0, 0, 0}, 27},

		{"timestamps", []byte{68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 0},
		{"timestamps, full, overflow 14", []byte{68, 12, 13, 0xe0, 0, 0, 0, 1, 0, 0, 0, 2}, 0},
		{"timestamps, full, overflow 15", []byte{68, 12, 13, 0xf0, 0, 0, 0, 1, 0, 0, 0, 2}, 23},
		{"timestamps, room for half", []byte{68, 12, 11, 0, 0, 0, 0, 1, 0, 0, 0, 2}, 22},
		{"timestamps with addresses", []byte{68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 0},
		{"timestamps with addresses, room for half", []byte{68, 12, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0}, 22},
		{"timestamps, prespecified addresses", []byte{68, 12, 5, 3, 192, 0, 2, 9, 0, 0, 0, 0}, 0},
		{"timestamps, prespecified addresses, full, overflow 15", []byte{68, 12, 13, 0xf3, 192, 0, 2, 9, 0, 0, 0, 0}, 0},
		{"timestamps, unknown flag", []byte{68, 12, 5, 2, 0, 0, 0, 0, 0, 0, 0, 0}, 0},
		{"timestamps without flags", []byte{68, 3, 5, 0}, 21},
		{"timestamps without room", []byte{68, 4, 5, 0}, 0},
		{"timestamps, pointer below 5", []byte{68, 12, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 22},
		{"two timestamp options", []byte{68, 8, 5, 0, 0, 0, 0, 0, 68, 8, 5, 0, 0, 0, 0, 0}, 28},
	} {
		_, bad, r := ParseIPv4Options(c.options)
		require.Equal(t, c.bad, bad, c.name)
		require.Equal(t, c.bad == 0, r == OK, c.name)
	}
	// A NOP, then one option of each kind.
	o, _, _ := ParseIPv4Options([]byte{1, 137, 7, 8, 192, 0, 2, 9, 7, 3, 4, 68, 4, 5, 0x30})
	require.Equal(t, IPv4Options{SourceRoute: []byte{137, 7, 8, 192, 0, 2, 9}, RecordRoute: []byte{7, 3, 4}, Timestamp: []byte{68, 4, 5, 0x30}}, o)
	// A source route after End of Option List is ignored.
	o, _, _ = ParseIPv4Options([]byte{0, 131, 3, 4})
	require.Zero(t, o)
}

// RFC 791 3.1, "Record Route" and "Internet Timestamp".
func TestAHostRecordsItsAddressAndTheTime(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after []byte
	}{
		{"record route, empty", []byte{7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{7, 11, 8, 192, 0, 2, 1, 0, 0, 0, 0}},
		{"record route, one entry left", []byte{7, 11, 8, 1, 2, 3, 4, 0, 0, 0, 0}, []byte{7, 11, 12, 1, 2, 3, 4, 192, 0, 2, 1}},
		{"record route, full", []byte{7, 7, 8, 1, 2, 3, 4}, []byte{7, 7, 8, 1, 2, 3, 4}},
		{"record route without room", []byte{7, 3, 255}, []byte{7, 3, 255}},
		{"timestamps, empty", []byte{68, 12, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{68, 12, 9, 0, 1, 2, 3, 4, 0, 0, 0, 0}},
		{"timestamps, full", []byte{68, 8, 9, 0x20, 0, 0, 0, 9}, []byte{68, 8, 9, 0x30, 0, 0, 0, 9}},
		{"timestamps with addresses, empty", []byte{68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{68, 12, 13, 1, 192, 0, 2, 1, 1, 2, 3, 4}},
		{"timestamps with addresses, full", []byte{68, 12, 13, 1, 9, 9, 9, 9, 0, 0, 0, 0}, []byte{68, 12, 13, 0x11, 9, 9, 9, 9, 0, 0, 0, 0}},
		{"prespecified, this host", []byte{68, 12, 5, 3, 192, 0, 2, 1, 0, 0, 0, 0}, []byte{68, 12, 13, 3, 192, 0, 2, 1, 1, 2, 3, 4}},
		{"prespecified, another host", []byte{68, 12, 5, 3, 192, 0, 2, 9, 0, 0, 0, 0}, []byte{68, 12, 5, 3, 192, 0, 2, 9, 0, 0, 0, 0}},
		{"prespecified, full", []byte{68, 12, 13, 0xf3, 192, 0, 2, 9, 0, 0, 0, 0}, []byte{68, 12, 13, 0xf3, 192, 0, 2, 9, 0, 0, 0, 0}},
		{"unknown flag", []byte{68, 12, 5, 2, 0, 0, 0, 0, 0, 0, 0, 0}, []byte{68, 12, 5, 2, 0, 0, 0, 0, 0, 0, 0, 0}},
	} {
		o, _, r := ParseIPv4Options(c.before)
		require.Equal(t, OK, r, c.name)
		o.Record(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 0x01020304)
		require.Equal(t, c.after, c.before, c.name)
	}
}

func FuzzIPv4Options(f *testing.F) {
	f.Add([]byte{7, 7, 4, 0, 0, 0, 0, 68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		b = bytes.Clone(b) // Record writes to b, and the fuzzer's input must not change
		o, bad, r := ParseIPv4Options(b)
		if r != OK {
			require.GreaterOrEqual(t, bad, IPv4Len)
			require.Less(t, bad, IPv4Len+len(b))
			return
		}
		o.Record(netip.AddrFrom4([4]byte{192, 0, 2, 1}), 1)
		_, _, r = ParseIPv4Options(b)
		// Record can increase the overflow counter to its maximum, which ParseIPv4Options rejects.
		full := len(o.Timestamp) > 0 && o.Timestamp[3]>>4 == ipv4TimeMaxOverflow
		// The pointer or the length that the sender chose need not be at the boundary of an entry. Then
		// the data area ends with part of an entry, and the option is malformed for the next node.
		partial := func(opt []byte, size int) bool {
			return len(opt) > 0 && int(opt[2]) <= len(opt) && int(opt[2])-1+size > len(opt)
		}
		size := 8
		if len(o.Timestamp) > 0 && o.Timestamp[3]&15 == ipv4TimeOnly {
			size = 4
		}
		require.True(t, r == OK || full || partial(o.RecordRoute, 4) || partial(o.Timestamp, size), "recorded options are well formed")
	})
}
