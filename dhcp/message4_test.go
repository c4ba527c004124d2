package dhcp

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func mustParse(t *testing.T, b []byte) *Message4 {
	t.Helper()
	m, err := ParseMessage4(b)
	require.NoError(t, err)
	return m
}

func mustAppend(t *testing.T, m *Message4, size int) []byte {
	t.Helper()
	b, err := m.Append(nil, size)
	require.NoError(t, err)
	if size > 0 {
		require.LessOrEqual(t, len(b), size)
	}
	return b
}

// RFC 2131 2, figure 1 and table 1.
func TestAMessageHasTheFormOfTheRFC(t *testing.T) {
	m := &Message4{
		Op: BootReply, HType: 1, Hops: 2, XID: 0x01020304, Secs: 5, Flags: FlagBroadcast,
		CIAddr: addr("192.0.2.1"), YIAddr: addr("192.0.2.2"), SIAddr: addr("192.0.2.3"), GIAddr: addr("192.0.2.4"),
		CHAddr: []byte{2, 0, 0, 0, 0, 7}, SName: "server", File: "file",
		Options: Options4{{OptMessageType, []byte{byte(ACK)}}, {OptServerID, []byte{192, 0, 2, 3}}},
	}
	b := mustAppend(t, m, 0)
	want := "02010602" + "01020304" + "00058000" + "c0000201" + "c0000202" + "c0000203" + "c0000204" +
		"02000000000700000000000000000000" + hex.EncodeToString([]byte("server")) + strings.Repeat("00", 58) +
		hex.EncodeToString([]byte("file")) + strings.Repeat("00", 124) + "63825363" + "350105" + "3604c0000203" + "ff"
	require.Equal(t, want, hex.EncodeToString(b[:len(want)/2]))
	require.Len(t, b, 300, "RFC 1542 2.1")
	require.Equal(t, make([]byte, 300-len(want)/2), b[len(want)/2:])
	require.Equal(t, m, mustParse(t, b))
	require.Equal(t, ACK, m.Type())
}

// RFC 3396: an option of more than 255 bytes is split, and its parts are concatenated.
func TestALongOptionIsSplitAndJoined(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), 60)
	m := &Message4{Op: BootReply, CHAddr: []byte{}, Options: Options4{{OptMessageType, []byte{2}}, {OptVendorInfo, long}, {OptMTU, []byte{5, 220}}}}
	b := mustAppend(t, m, 0)
	require.Equal(t, []byte{byte(OptVendorInfo), 255}, b[243:245])
	require.Equal(t, m, mustParse(t, b))
}

// RFC 2131 4.1: "If the options in a DHCP message extend into the 'sname' and 'file' fields, the 'option overload' option
// MUST appear in the 'options' field".
func TestOptionsGoOnInFileAndSName(t *testing.T) {
	m := &Message4{Op: BootReply, CHAddr: []byte{}, Options: Options4{
		{OptMessageType, []byte{2}}, {OptVendorInfo, bytes.Repeat([]byte{7}, 400)}, {OptDomainName, []byte("example.test")},
	}}
	b := mustAppend(t, m, MinMessageSize4)
	require.Equal(t, []byte{byte(optOverload), 1, overloadFile}, b[240:243])
	require.Equal(t, m, mustParse(t, b))

	m.Options.Set(OptHostName, bytes.Repeat([]byte{'h'}, 60))
	b = mustAppend(t, m, MinMessageSize4)
	require.Equal(t, []byte{byte(optOverload), 1, overloadFile | overloadSName}, b[240:243])
	require.Equal(t, m, mustParse(t, b))

	m.SName = "in use"
	_, err := m.Append(nil, MinMessageSize4)
	require.EqualError(t, err, "dhcp: option 12 of 60 bytes does not fit in a message of 548 bytes")
	m.SName, m.Options = "", Options4{{OptVendorInfo, make([]byte, 600)}}
	_, err = m.Append(nil, MinMessageSize4)
	require.Error(t, err)
}

// b has no spare capacity, so that append moves it.
func TestAMessageFollowsOtherBytes(t *testing.T) {
	m := &Message4{Op: BootReply, CHAddr: []byte{}, File: "kernel", Options: Options4{
		{OptMessageType, []byte{2}}, {OptVendorInfo, bytes.Repeat([]byte{7}, 250)}, {OptHostName, bytes.Repeat([]byte{'h'}, 60)},
	}}
	for n := range 8 {
		prefix := bytes.Repeat([]byte{9}, n)
		b, err := m.Append(slices.Clip(prefix), 520)
		require.NoError(t, err)
		require.Equal(t, prefix, b[:n])
		require.Equal(t, m, mustParse(t, b[n:]))
	}
}

func TestAppendRefusesASizeBelowTheFixedPart(t *testing.T) {
	b, err := (&Message4{Op: BootReply}).Append([]byte{9}, 240)
	require.EqualError(t, err, "dhcp: the message needs 241 bytes, more than 240")
	require.Equal(t, []byte{9}, b)
}

func TestAMalformedMessageIsRefused(t *testing.T) {
	good := mustAppend(t, &Message4{Op: BootReply, Options: Options4{{OptMessageType, []byte{2}}}}, 0)
	change := func(f func(b []byte) []byte) []byte { return f(bytes.Clone(good)) }
	for name, b := range map[string][]byte{
		"empty":                 {},
		"short":                 good[:239],
		"BOOTP":                 change(func(b []byte) []byte { b[236] = 0; return b }),
		"long link address":     change(func(b []byte) []byte { b[2] = 17; return b }),
		"cut option":            good[:242],
		"option without length": good[:241],
	} {
		_, err := ParseMessage4(b)
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	_, err := ParseMessage4(good[:243])
	require.NoError(t, err, "an end is not needed")
	for _, bad := range []*Message4{
		{SName: strings.Repeat("x", 64)}, {File: strings.Repeat("x", 128)}, {CHAddr: make([]byte, 17)},
		{Options: Options4{{Code: optEnd}}}, {Options: Options4{{Code: optOverload, Data: []byte{1}}}},
	} {
		b, err := bad.Append([]byte("x"), 0)
		require.Error(t, err)
		require.Equal(t, "x", string(b))
	}
}

// RFC 3442's examples of destination descriptors.
func TestClasslessRoutes(t *testing.T) {
	routes := []Route4{
		{netip.MustParsePrefix("0.0.0.0/0"), addr("192.0.2.1")},
		{netip.MustParsePrefix("10.0.0.0/8"), addr("192.0.2.2")},
		{netip.MustParsePrefix("10.17.0.0/16"), addr("192.0.2.2")},
		{netip.MustParsePrefix("10.27.129.0/24"), addr("192.0.2.3")},
		{netip.MustParsePrefix("10.229.0.128/25"), netip.Addr{}},
		{netip.MustParsePrefix("10.198.122.47/32"), addr("192.0.2.4")},
	}
	b := AppendRoutes(nil, routes)
	require.Equal(t, "00c0000201"+"080ac0000202"+"100a11c0000202"+"180a1b81c0000203"+"190ae5008000000000"+"200ac67a2fc0000204", hex.EncodeToString(b))
	got, ok := parseRoutes(b, 100)
	require.True(t, ok)
	require.Equal(t, routes, got)
	got, ok = parseRoutes(b, 2)
	require.True(t, ok)
	require.Equal(t, routes[:2], got)
	// "the DHCP client MUST zero any bits in the subnet number where the corresponding bit in the mask is zero."
	got, _ = parseRoutes([]byte{20, 10, 17, 255, 192, 0, 2, 1}, 2)
	require.Equal(t, []Route4{{netip.MustParsePrefix("10.17.240.0/20"), addr("192.0.2.1")}}, got)
	for _, bad := range [][]byte{{33, 1, 2, 3, 4, 5, 192, 0, 2, 1}, {24, 10, 0, 0, 192, 0, 2}, {0}} {
		_, ok := parseRoutes(bad, 9)
		require.False(t, ok)
	}
	got, ok = parseRoutes([]byte{1, 0, 192, 0, 2, 1, 1, 128, 192, 0, 2, 1}, 9)
	require.True(t, ok)
	require.Len(t, got, 2, "a default route in two halves")
	got, ok = parseRoutes([]byte{0, 224, 0, 0, 1, 8, 127, 192, 0, 2, 1, 4, 240, 192, 0, 2, 1}, 9)
	require.True(t, ok)
	require.Empty(t, got, "neither a multicast router, nor routes to loopback or class E addresses")
}

// RFC 3397 4's example.
func TestASearchListWithPointers(t *testing.T) {
	example := []byte("\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04")
	names, ok := parseSearch(example, 9)
	require.True(t, ok)
	require.Equal(t, []string{"eng.apple.com", "marketing.apple.com"}, names)
	b, err := AppendSearch(nil, []string{"eng.apple.com.", "Marketing.Apple.com", "com"})
	require.NoError(t, err)
	require.Equal(t, string(example)+"\xc0\x0a", string(b))
	names, ok = parseSearch(b, 2)
	require.True(t, ok)
	require.Len(t, names, 2)
	for _, bad := range []string{"\xc0\x00", "\x01a\xc0\x00", "\x01a\xc0", "\x01a\x00\xc0\x03", "\x03ab", "\x40a\x00", "\x01a"} {
		_, ok := parseSearch([]byte(bad), 9)
		require.False(t, ok, "%q", bad)
	}
	// Names that a host cannot have are omitted, because they would reach logs and terminals.
	names, ok = parseSearch([]byte("\x03a\x1b[\x00\x03a.b\x00\x00\x01a\x00"), 9)
	require.True(t, ok)
	require.Equal(t, []string{"a"}, names)
	long := strings.Repeat("\x3f"+strings.Repeat("a", 63), 5) + "\x00"
	_, ok = parseSearch([]byte(long), 9)
	require.False(t, ok)
	_, err = AppendSearch(nil, []string{"a..b"})
	require.Error(t, err)
}

// A list of names that each point to the previous one could take quadratic time.
func TestASearchListOfPointersIsBounded(t *testing.T) {
	b := []byte("\x01a\x00")
	last := 0
	for len(b) < 16000 {
		at := len(b)
		b = append(b, 0xc0|byte(last>>8), byte(last))
		last = at
	}
	names, ok := parseSearch(b, maxSearch)
	require.False(t, ok)
	require.Equal(t, []string{"a"}, names)
	allocs := testing.AllocsPerRun(1, func() { parseSearch(b, maxSearch) })
	require.Less(t, allocs, 1000.0)

	var many []string
	for i := range 100 {
		many = append(many, strings.Repeat("x", i%60+1)+".test", strings.Repeat("y", i%60+1)+".test")
	}
	b, err := AppendSearch(nil, many)
	require.NoError(t, err)
	names, ok = parseSearch(b, maxSearch)
	require.True(t, ok)
	require.Equal(t, many[:maxSearch], names)
}

func TestValuesOfOptions(t *testing.T) {
	o := Options4{
		{OptDNS, []byte{192, 0, 2, 1, 0, 0, 0, 0, 127, 0, 0, 1, 224, 0, 0, 1, 192, 0, 2, 1, 192, 0, 2, 2, 9}},
		{OptHostName, []byte("host-1.\x00\x00")}, {OptDomainName, []byte("a b")}, {OptMessage, []byte("no\x1b[2Jway\x00")},
		{OptMTU, []byte{1}}, {OptLeaseTime, []byte{0, 0, 1, 0}},
	}
	require.Equal(t, []netip.Addr{addr("192.0.2.1"), addr("192.0.2.2")}, o.Addrs(OptDNS, 9))
	require.Len(t, o.Addrs(OptDNS, 1), 1)
	require.False(t, o.Addr(OptDNS).IsValid())
	require.Equal(t, "host-1", o.Name(OptHostName))
	require.Empty(t, o.Name(OptDomainName))
	require.Equal(t, "no?[2Jway", o.Text(OptMessage))
	_, ok := o.Uint16(OptMTU)
	require.False(t, ok)
	v, ok := o.Uint32(OptLeaseTime)
	require.True(t, ok)
	require.EqualValues(t, 256, v)
	for mask, bits := range map[uint32]int{0: 0, 0xffffff00: 24, 0xffffffff: 32, 0x80000000: 1} {
		got, ok := maskBits(mask)
		require.True(t, ok)
		require.Equal(t, bits, got)
	}
	_, ok = maskBits(0xff00ff00)
	require.False(t, ok)
	require.Equal(t, "ff00000007"+"00030001"+"020000000007", hex.EncodeToString(ClientID([6]byte{2, 0, 0, 0, 0, 7})))
	require.Equal(t, "DHCPNAK", NAK.String())
	require.Equal(t, "message type 0", MessageType4(0).String())
}

// limits4 returns messages at the limits of each length field.
func limits4() (all [][]byte) {
	add := func(change func(b []byte), options ...byte) {
		b := append(make([]byte, fixedLen4), cookie[:]...)
		b[0], b[1], b[2] = BootReply, 1, 6
		copy(b[16:], []byte{192, 0, 2, 7})
		b = append(append(b, 53, 1, 5, 54, 4, 192, 0, 2, 1), options...)
		if change != nil {
			change(b)
		}
		all = append(all, b)
	}
	for _, n := range []byte{0, 1, 15, 16, 17, 255} { // the length of the link address
		add(func(b []byte) { b[2] = n })
	}
	for _, n := range []int{0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 254, 255} { // the length of each known option, one byte more, and one less
		for _, code := range []OptionCode4{OptSubnetMask, OptRouter, OptDNS, OptHostName, OptMTU, OptLeaseTime, OptMessageType, OptServerID, OptClientID,
			OptRelayAgent, OptIPv6Only, OptDomainSearch, OptClasslessRoutes, optOverload, OptUnknown} {
			option := append([]byte{byte(code), byte(n)}, bytes.Repeat([]byte{1}, n)...)
			add(nil, option...)
			add(nil, append(option, option...)...) // joined, to 510 bytes
			add(nil, append(option, byte(code))...)
			add(nil, option[:len(option)-1]...)
		}
	}
	for _, n := range []int{62, 63, 64, 126, 127, 128} { // texts with and without a zero byte, and options in the fields
		text := bytes.Repeat([]byte{'x'}, n)
		field := append([]byte{byte(OptHostName), byte(n - 2)}, text[:n-2]...)
		for _, at := range []int{snameAt, fileAt} {
			end := map[int]int{snameAt: fileAt, fileAt: fixedLen4}[at]
			add(func(b []byte) { copy(b[at:end], text) })
			for o := byte(0); o <= 4; o++ {
				add(func(b []byte) { copy(b[at:end], field) }, byte(optOverload), 1, o)
			}
		}
	}
	for bits := range byte(35) { // widths of destinations
		add(nil, append([]byte{byte(OptClasslessRoutes), 9, bits}, 10, 1, 2, 3, 192, 0, 2, 1)...)
	}
	for _, n := range []byte{62, 63, 64, 0xbf, 0xc0, 0xff} { // lengths of labels, and pointers
		name := append(append([]byte{n}, bytes.Repeat([]byte{'a'}, int(n&63))...), 0)
		add(nil, append([]byte{byte(OptDomainSearch), byte(len(name))}, name...)...)
	}
	return all
}

func FuzzMessage4(f *testing.F) {
	for _, b := range limits4() {
		f.Add(b)
	}
	f.Add(mustSeed(&Message4{Op: 2, CHAddr: []byte{2, 0, 0, 0, 0, 1}, Options: Options4{{OptMessageType, []byte{5}}, {OptVendorInfo, make([]byte, 700)}}}, 0))
	f.Add(mustSeed(&Message4{Op: 2, Options: Options4{{OptVendorInfo, make([]byte, 250)}, {OptDomainSearch, []byte("\x01a\x00\xc0\x00")}, {OptUnknown, make([]byte, 100)}}}, MinMessageSize4))
	f.Add(mustSeed(&Message4{Op: 2, XID: 1, YIAddr: addr("192.0.2.7"), CHAddr: mac[:], Options: Options4{
		{OptMessageType, []byte{5}}, {OptServerID, []byte{192, 0, 2, 1}}, {OptLeaseTime, []byte{0, 0, 1, 0}}, {OptSubnetMask, []byte{255, 255, 255, 0}},
		{OptRouter, []byte{192, 0, 2, 1}}, {OptDNS, []byte{192, 0, 2, 1, 192, 0, 2, 2}}, {OptRenewalTime, []byte{0, 0, 0, 9}}, {OptRebindingTime, []byte{0, 0, 0, 10}},
		{OptDomainSearch, []byte("\x03eng\x01a\x00\x01b\xc0\x04")}, {OptClasslessRoutes, []byte{0, 192, 0, 2, 1, 8, 10, 192, 0, 2, 2}},
		{OptHostName, []byte("host")}, {OptDomainName, []byte("a.test")}, {OptMTU, []byte{5, 220}}, {OptIPv6Only, []byte{0, 0, 1, 44}},
	}}, 0))
	f.Add([]byte("short"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage4(b)
		if err != nil {
			require.ErrorIs(t, err, ErrMalformed)
			return
		}
		size := 0
		for _, o := range m.Options {
			size += len(o.Data)
		}
		require.LessOrEqual(t, size, len(b))
		require.LessOrEqual(t, len(m.Options), 254)
		// An encoded message parses to the same message.
		again := mustParse(t, mustAppend(t, m, 0))
		require.Equal(t, m, again)
		if b, err := m.Append(nil, MinMessageSize4); err == nil {
			require.LessOrEqual(t, len(b), MinMessageSize4)
			require.ElementsMatch(t, m.Options, mustParse(t, b).Options)
		}
		l, err := leaseOf(m, start)
		if err != nil {
			return
		}
		require.True(t, isHost(l.Addr.Addr()) && isHost(l.Server))
		require.LessOrEqual(t, len(l.Routes), maxRoutes)
		require.LessOrEqual(t, len(l.Search), maxSearch)
		require.LessOrEqual(t, len(l.DNS)+len(l.NTP), 2*maxServers)
		if !l.Expires.IsZero() {
			require.True(t, l.Obtained.Before(l.Renew) && l.Renew.Before(l.Rebind) && l.Rebind.Before(l.Expires))
		}
		for _, name := range append(l.Search, l.Domain, l.HostName) {
			require.True(t, name == "" || isName(name))
		}
		search, err := AppendSearch(nil, l.Search)
		require.NoError(t, err)
		names, ok := parseSearch(search, maxSearch)
		require.True(t, ok)
		for i := range names {
			require.True(t, strings.EqualFold(names[i], l.Search[i]))
		}
	})
}

// OptUnknown is an option that the package does not know.
const OptUnknown OptionCode4 = 224

func mustSeed(m *Message4, size int) []byte {
	b, err := m.Append(nil, size)
	if err != nil {
		panic(err)
	}
	return b
}
