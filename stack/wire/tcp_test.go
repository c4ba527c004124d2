package wire

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// A SYN as Linux sends it, and its fields.
const linuxSYN = `d431 0050 1a2b3c4d 00000000 a002 faf0 0000 0000
	020405b4 0402080a 11223344 00000000 01030307`

func linuxSYNFields() TCP {
	return TCP{
		SrcPort: 54321, DstPort: 80, Seq: 0x1a2b3c4d, Flags: FlagSYN, Window: 64240,
		MSS: 1460, SACKPermitted: true, HasTS: true, TSVal: 0x11223344, HasWScale: true, WScale: 7,
	}
}

func tcpSegment(h TCP, payload []byte) []byte {
	b := make([]byte, h.Len()+len(payload))
	copy(b[h.Put(b):], payload)
	return b
}

// withOptions returns a segment with these bytes as options, padded.
func withOptions(options ...byte) []byte {
	for len(options)%4 != 0 {
		options = append(options, 0)
	}
	h := TCP{SrcPort: 1, DstPort: 2, Flags: FlagACK}
	b := append(tcpSegment(h, nil), options...)
	b[12] = uint8(len(b)/4) << 4
	return b
}

func TestTCPFlagsPrintTheirNames(t *testing.T) {
	require.Equal(t, "SYN,ACK", (FlagSYN | FlagACK).String())
	require.Equal(t, "FIN,SYN,RST,PSH,ACK,URG,ECE,CWR,AE", TCPFlags(flagMask).String())
	require.Equal(t, "none", TCPFlags(0).String())
	for f, name := range map[TCPFlags]string{1: "FIN", 2: "SYN", 4: "RST", 8: "PSH", 16: "ACK", 32: "URG", 64: "ECE", 128: "CWR", 256: "AE"} {
		require.Equal(t, name, f.String())
	}
}

func TestTCPSYNOfLinuxIsReadAndWrittenToTheByte(t *testing.T) {
	b := unhex(linuxSYN)
	h, payload, r := ParseTCP(b)
	require.Equal(t, OK, r)
	require.Equal(t, linuxSYNFields(), h)
	require.Empty(t, payload)
	require.Equal(t, b, tcpSegment(h, nil))
}

func TestTCPEveryFieldIsAtItsPlace(t *testing.T) {
	for _, c := range []struct {
		want string
		h    TCP
	}{
		{"1234 0000 00000000 00000000 5000 0000 0000 0000", TCP{SrcPort: 0x1234}},
		{"0000 1234 00000000 00000000 5000 0000 0000 0000", TCP{DstPort: 0x1234}},
		{"0000 0000 12345678 00000000 5000 0000 0000 0000", TCP{Seq: 0x12345678}},
		{"0000 0000 00000000 12345678 5000 0000 0000 0000", TCP{Ack: 0x12345678}},
		{"0000 0000 00000000 00000000 51ff 0000 0000 0000", TCP{Flags: flagMask}},
		{"0000 0000 00000000 00000000 5000 1234 0000 0000", TCP{Window: 0x1234}},
		{"0000 0000 00000000 00000000 5000 0000 0000 1234", TCP{Urgent: 0x1234}},
		{"0000 0000 00000000 00000000 6000 0000 0000 0000 02041234", TCP{MSS: 0x1234}},
		{"0000 0000 00000000 00000000 6000 0000 0000 0000 01030300", TCP{HasWScale: true}},
		{"0000 0000 00000000 00000000 6000 0000 0000 0000 01010402", TCP{SACKPermitted: true}},
		{"0000 0000 00000000 00000000 8000 0000 0000 0000 0101080a 12345678 9abcdef0",
			TCP{HasTS: true, TSVal: 0x12345678, TSEcr: 0x9abcdef0}},
		{"0000 0000 00000000 00000000 8000 0000 0000 0000 0101050a 12345678 9abcdef0",
			TCP{NSACK: 1, SACK: [4]SACKBlock{{Start: 0x12345678, End: 0x9abcdef0}}}},
	} {
		b := tcpSegment(c.h, nil)
		require.Equal(t, unhex(c.want), b)
		h, _, r := ParseTCP(b)
		require.Equal(t, OK, r)
		require.Equal(t, c.h, h)
	}
}

func TestTCPReservedBitsAreNeitherReadNorWritten(t *testing.T) {
	b := tcpSegment(TCP{Flags: FlagACK}, nil)
	b[12] |= 0x0e
	h, _, r := ParseTCP(b)
	require.Equal(t, OK, r)
	require.Equal(t, FlagACK, h.Flags)
	h.Flags |= 0xfe00
	require.Equal(t, byte(0x50), tcpSegment(h, nil)[12])
}

// randomTCP returns a header of which Put omits nothing.
func randomTCP(rnd *rand.Rand) TCP {
	h := TCP{
		SrcPort: uint16(rnd.Uint32()), DstPort: uint16(rnd.Uint32()), Seq: rnd.Uint32(), Ack: rnd.Uint32(),
		Flags: TCPFlags(rnd.Uint32()) & flagMask, Window: uint16(rnd.Uint32()), Urgent: uint16(rnd.Uint32()),
	}
	if rnd.IntN(2) == 0 {
		h.MSS = uint16(1 + rnd.IntN(65535))
	}
	if rnd.IntN(2) == 0 {
		h.HasWScale, h.WScale = true, uint8(rnd.IntN(15))
	}
	if rnd.IntN(2) == 0 {
		h.HasTS, h.TSVal, h.TSEcr = true, rnd.Uint32(), rnd.Uint32()
	}
	h.SACKPermitted = rnd.IntN(2) == 0
	h.NSACK = uint8(rnd.IntN(5))
	h.NSACK = uint8(max(0, h.sackFit(h.fixedLen())))
	for i := range h.NSACK {
		h.SACK[i] = SACKBlock{Start: rnd.Uint32(), End: rnd.Uint32()}
	}
	return h
}

func TestTCPWhateverIsWrittenIsReadTheSame(t *testing.T) {
	rnd := testRand()
	for range 5000 {
		want := randomTCP(rnd)
		data := randomBytes(rnd, rnd.IntN(20))
		b := tcpSegment(want, data)
		require.Zero(t, want.Len()%4)
		require.LessOrEqual(t, want.Len(), MaxTCPLen)
		h, payload, r := ParseTCP(b)
		require.Equal(t, OK, r)
		require.Equal(t, want, h)
		require.Equal(t, data, payload)
	}
}

// RFC 9293 3.1, MUST-69: "The content of the header beyond the End of Option List option MUST be header
// padding of zeros." Put pads with No-Operation, so there is nothing beyond an End of Option List.
func TestTCPNothingButZerosFollowsAnEndOfOptionList(t *testing.T) {
	rnd := testRand()
	for range 5000 {
		h := randomTCP(rnd)
		b := tcpSegment(h, nil)
		require.Len(t, b, int(b[12]>>4)*4)
		for o := b[TCPLen:]; len(o) > 0; {
			switch o[0] {
			case tcpOptEnd:
				require.Equal(t, make([]byte, len(o)), o)
				o = nil
			case tcpOptNop:
				o = o[1:]
			default:
				require.GreaterOrEqual(t, len(o), 2)
				require.GreaterOrEqual(t, int(o[1]), 2)
				require.GreaterOrEqual(t, len(o), int(o[1]), "the options fill the header exactly")
				o = o[o[1]:]
			}
		}
	}
}

func TestTCPSACKBlocksThatDoNotFitAreLeftOut(t *testing.T) {
	h := TCP{NSACK: 4, SACK: [4]SACKBlock{{1, 2}, {3, 4}, {5, 6}, {7, 8}}}
	for _, c := range []struct {
		name string
		set  func(h *TCP)
		fit  uint8
	}{
		{"nothing else", func(h *TCP) {}, 4},
		{"timestamps", func(h *TCP) { h.HasTS = true }, 3}, // RFC 2018 3: "a maximum of 3 SACK blocks"
		{"MSS", func(h *TCP) { h.MSS = 536 }, 4},
		{"MSS and timestamps", func(h *TCP) { h.MSS, h.HasTS = 536, true }, 2},
		{"all the options of a SYN", func(h *TCP) { h.MSS, h.HasTS, h.SACKPermitted, h.HasWScale = 536, true, true, true }, 2},
	} {
		h := h
		c.set(&h)
		require.LessOrEqual(t, h.Len(), MaxTCPLen, c.name)
		got, _, r := ParseTCP(tcpSegment(h, nil))
		require.Equal(t, OK, r)
		require.Equal(t, c.fit, got.NSACK, c.name)
		require.Equal(t, h.SACK[:c.fit], got.SACK[:c.fit], c.name)
	}
	h.NSACK = 255
	require.Equal(t, 56, h.Len(), "an NSACK above 4 is limited")
	require.NotPanics(t, func() { tcpSegment(h, nil) })
}

func TestTCPTimestampsAreReadInAnyLayout(t *testing.T) {
	want := TCP{SrcPort: 1, DstPort: 2, Flags: FlagACK, HasTS: true, TSVal: 0x01020304, TSEcr: 0x05060708}
	ts := []byte{8, 10, 1, 2, 3, 4, 5, 6, 7, 8}
	for name, b := range map[string][]byte{
		"as recommended":       withOptions(append([]byte{1, 1}, ts...)...),
		"padded behind":        withOptions(append(bytes.Clone(ts), 1, 1)...),
		"ended behind":         withOptions(ts...),
		"after unknown option": withOptions(append([]byte{254, 6, 0xca, 0xfe, 0, 0}, ts...)...),
		"with NOPs to follow":  withOptions(append(append([]byte{1, 1}, ts...), 1, 1, 1, 1)...),
	} {
		h, _, r := ParseTCP(b)
		require.Equal(t, OK, r, name)
		require.Equal(t, want, h, name)
	}
}

func TestTCPMalformedOptionsDoNoHarm(t *testing.T) {
	plain := TCP{SrcPort: 1, DstPort: 2, Flags: FlagACK}
	mss := plain
	mss.MSS = 1460
	for _, c := range []struct {
		name    string
		options []byte
		want    TCP
	}{
		// RFC 9293 3.1, MUST-7: "handle an illegal option length (e.g., zero)".
		{"length 0", []byte{3, 0, 2, 4, 5, 180}, plain},
		{"length 1", []byte{3, 1, 2, 4, 5, 180}, plain},
		{"length beyond the header", []byte{2, 5, 5, 180}, plain},
		{"timestamps beyond the header", []byte{1, 1, 8, 10, 1, 2, 3, 4}, plain},
		{"kind without a length", []byte{1, 1, 1, 2}, plain},
		{"options before a malformed one are kept", []byte{2, 4, 5, 180, 3, 0, 0, 0}, mss},
		// RFC 9293 3.1, MUST-6: unknown options are ignored by their length.
		{"unknown option", []byte{253, 4, 9, 9, 2, 4, 5, 180}, mss},
		{"MSS of a wrong length", []byte{2, 3, 9, 1, 2, 4, 5, 180}, mss},
		{"window scale of a wrong length", []byte{3, 4, 9, 9, 2, 4, 5, 180}, mss},
		{"SACK permitted of a wrong length", []byte{4, 4, 0, 0, 2, 4, 5, 180}, mss},
		{"timestamps of a wrong length", []byte{8, 4, 0, 0, 2, 4, 5, 180}, mss},
		{"SACK without a block", []byte{5, 2, 1, 1, 2, 4, 5, 180}, mss},
		{"SACK with half a block", []byte{5, 6, 0, 0, 0, 1, 1, 1, 2, 4, 5, 180}, mss},
		{"behind the end of the list", []byte{0, 3, 3, 7, 2, 4, 5, 180}, plain},
		{"the last of two MSS options is used", []byte{2, 4, 1, 1, 2, 4, 5, 180}, mss},
	} {
		h, payload, r := ParseTCP(withOptions(c.options...))
		require.Equal(t, OK, r, c.name)
		require.Equal(t, c.want, h, c.name)
		require.Empty(t, payload, c.name)
	}
}

func TestTCPWindowScaleIsAtMost14(t *testing.T) {
	// RFC 7323 2.3: "MUST use 14 instead of the specified value".
	h, _, r := ParseTCP(withOptions(1, 3, 3, 15))
	require.Equal(t, OK, r)
	require.True(t, h.HasWScale)
	require.Equal(t, uint8(14), h.WScale)

	b := tcpSegment(TCP{HasWScale: true, WScale: 15}, nil)
	require.Equal(t, []byte{1, 3, 3, 14}, b[TCPLen:], "Put limits the shift too")
}

func TestTCPASecondSACKOptionReplacesTheFirst(t *testing.T) {
	one := func(n byte) []byte { return []byte{5, 10, 0, 0, 0, n, 0, 0, 0, n + 1} }
	two := append([]byte{5, 18}, append(one(1)[2:], one(3)[2:]...)...)
	h, _, r := ParseTCP(withOptions(append(two, one(9)...)...))
	require.Equal(t, OK, r)
	require.Equal(t, uint8(1), h.NSACK)
	require.Equal(t, [4]SACKBlock{{9, 10}}, h.SACK)
}

func TestTCPRefusesWrongDataOffsets(t *testing.T) {
	requireShort(t, tcpSegment(TCP{}, nil), ShortTCP, func(b []byte) Reason {
		_, _, r := ParseTCP(b)
		return r
	})
	for offset := range 16 {
		b := tcpSegment(TCP{}, []byte("12345678"))
		b[12] = uint8(offset) << 4
		_, payload, r := ParseTCP(b)
		if offset < 5 || offset > 7 {
			require.Equal(t, BadTCPOffset, r, "offset %d of 28 bytes", offset)
			require.Nil(t, payload)
		} else {
			require.Equal(t, OK, r)
			require.Len(t, payload, 28-4*offset)
		}
	}
}

func TestTCPChecksumNoticesEveryFlippedBit(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::1")
	for _, addrs := range [][2]netip.Addr{{host1, host2}, {v6, v6.Next()}} {
		good := tcpSegment(linuxSYNFields(), []byte("odd"))
		SetTCPChecksum(addrs[0], addrs[1], good)
		require.True(t, TCPChecksumOK(addrs[0], addrs[1], good))
		require.False(t, TCPChecksumOK(addrs[0], addrs[0], good), "the checksum covers the addresses")
		for bit := range len(good) * 8 {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			require.False(t, TCPChecksumOK(addrs[0], addrs[1], b), "bit %d", bit)
		}
	}
}

func TestTCPChecksumIsTheReferences(t *testing.T) {
	b := unhex(linuxSYN)
	pseudo := append(host1.AsSlice(), host2.AsSlice()...)
	pseudo = append(pseudo, 0, 6, 0, byte(len(b)))
	want := ^slowSum(append(pseudo, b...), 0)
	b[16], b[17] = 0xde, 0xad // the old checksum does not matter
	SetTCPChecksum(host1, host2, b)
	require.Equal(t, want, binary.BigEndian.Uint16(b[16:18]))
}

func TestTCPDoesNotAllocate(t *testing.T) {
	syn := unhex(linuxSYN)
	h := TCP{Flags: FlagACK, HasTS: true, NSACK: 3}
	ack := tcpSegment(h, []byte("data"))
	out := make([]byte, 100)
	v6 := netip.MustParseAddr("2001:db8::1")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		for _, b := range [...][]byte{syn, ack} {
			h, _, _ := ParseTCP(b)
			n := h.Put(out)
			SetTCPChecksum(host1, host2, out[:n])
			TCPChecksumOK(host1, host2, out[:n])
			SetTCPChecksum(v6, v6, out[:n])
			TCPChecksumOK(v6, v6, out[:n])
		}
	}))
}

func FuzzTCP(f *testing.F) {
	f.Add(unhex(linuxSYN))
	f.Add(tcpSegment(TCP{Flags: FlagACK, HasTS: true, NSACK: 3}, []byte("data")))
	f.Add(withOptions(3, 0, 2, 4, 5, 180))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		TCPChecksumOK(host1, host2, b)
		h, payload, r := ParseTCP(b)
		if r != OK {
			require.True(t, len(b) < TCPLen || b[12]>>4 < 5 || int(b[12]>>4)*4 > len(b))
			return
		}
		require.LessOrEqual(t, h.NSACK, uint8(4))
		out := tcpSegment(h, payload)
		again, againPayload, r := ParseTCP(out)
		require.Equal(t, OK, r)
		require.True(t, bytes.Equal(payload, againPayload))
		// Blocks may be lost if the sender packed its options more tightly.
		require.LessOrEqual(t, again.NSACK, h.NSACK)
		h.NSACK = again.NSACK
		clear(h.SACK[h.NSACK:])
		require.Equal(t, h, again)
		require.Equal(t, out, tcpSegment(again, againPayload))
		SetTCPChecksum(host1, host2, out)
		require.True(t, TCPChecksumOK(host1, host2, out))
	})
}

func BenchmarkParseTCP(b *testing.B) {
	for name, seg := range map[string][]byte{
		"ack":  tcpSegment(TCP{Flags: FlagACK, HasTS: true}, make([]byte, 1448)),
		"sack": tcpSegment(TCP{Flags: FlagACK, HasTS: true, NSACK: 3}, nil),
		"syn":  unhex(linuxSYN),
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, _, r := ParseTCP(seg); r != OK {
					b.Fatal(r)
				}
			}
		})
	}
}

func BenchmarkPutTCP(b *testing.B) {
	h := TCP{Flags: FlagACK, HasTS: true}
	p := make([]byte, MaxTCPLen)
	for b.Loop() {
		h.Put(p)
	}
}
