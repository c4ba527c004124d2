package wire

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

func udpDatagram(h UDP, payload []byte) []byte {
	b := make([]byte, UDPLen+len(payload))
	h.Put(b, len(payload))
	copy(b[UDPLen:], payload)
	return b
}

func TestUDPDatagramIsReadAndWritten(t *testing.T) {
	b := udpDatagram(UDP{SrcPort: 53, DstPort: 40000}, []byte("answer"))
	require.Equal(t, unhex("0035 9c40 000e 0000 616e73776572"), b)
	SetUDPChecksum(host1, host2, b)
	h, payload, r := ParseUDP(append(bytes.Clone(b), "padding"...))
	require.Equal(t, OK, r)
	require.Equal(t, "answer", string(payload))
	require.Equal(t, 6, cap(payload), "nothing may be appended into the padding")
	require.Equal(t, UDP{SrcPort: 53, DstPort: 40000, Length: 14, Checksum: uint16(b[6])<<8 | uint16(b[7])}, h)
}

func TestUDPChecksumIsTheReferences(t *testing.T) {
	// RFC 768: a pseudo header of addresses, zero, protocol and UDP length.
	src, dst := netip.MustParseAddr("152.1.51.27"), netip.MustParseAddr("152.14.94.75")
	b := udpDatagram(UDP{SrcPort: 41103, DstPort: 9876}, []byte("bb"))
	pseudo := unhex("98 01 33 1b 98 0e 5e 4b 00 11 00 0a")
	want := ^slowSum(append(pseudo, b...), 0)
	SetUDPChecksum(src, dst, b)
	require.Equal(t, want, uint16(b[6])<<8|uint16(b[7]))
	require.True(t, UDPChecksumOK(src, dst, b))
}

func TestWrongUDPLengthsAreRefused(t *testing.T) {
	requireShort(t, udpDatagram(UDP{}, nil), ShortUDP, func(b []byte) Reason {
		_, _, r := ParseUDP(b)
		return r
	})
	for _, length := range []byte{0, 7, 13} {
		b := udpDatagram(UDP{SrcPort: 1, DstPort: 2}, []byte("data"))
		b[5] = length
		_, payload, r := ParseUDP(b)
		require.Equal(t, BadUDPLength, r, "length %d of 12 bytes", length)
		require.Nil(t, payload)
	}
}

func TestUDPChecksumNoticesEveryFlippedBit(t *testing.T) {
	for _, addrs := range [][2]netip.Addr{{host1, host2}, {netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")}} {
		good := udpDatagram(UDP{SrcPort: 1, DstPort: 2}, []byte("odd"))
		SetUDPChecksum(addrs[0], addrs[1], good)
		require.True(t, UDPChecksumOK(addrs[0], addrs[1], good))
		require.False(t, UDPChecksumOK(addrs[0], addrs[0], good), "the checksum covers the addresses")
		for bit := range len(good) * 8 {
			b := bytes.Clone(good)
			b[bit/8] ^= 1 << (bit % 8)
			if _, _, r := ParseUDP(b); r == OK {
				require.False(t, UDPChecksumOK(addrs[0], addrs[1], b), "bit %d", bit)
			}
		}
	}
}

// RFC 8200 MUST-38.
func TestUDPChecksumZeroMeansNoneInIPv4Only(t *testing.T) {
	b := udpDatagram(UDP{SrcPort: 1, DstPort: 2}, []byte("data"))
	require.True(t, UDPChecksumOK(host1, host2, b))
	v6 := netip.MustParseAddr("2001:db8::1")
	require.False(t, UDPChecksumOK(v6, v6, b))
}

// RFC 8200 MUST-37.
func TestUDPChecksumThatComesOutZeroIsSentAsOnes(t *testing.T) {
	b := udpDatagram(UDP{SrcPort: 1, DstPort: 2}, []byte{0, 0})
	sum := Fold(Sum(b, PseudoSum(host1, host2, uint8(ProtoUDP), len(b))))
	b[8], b[9] = uint8(^sum>>8), uint8(^sum)
	SetUDPChecksum(host1, host2, b)
	require.Equal(t, []byte{0xff, 0xff}, b[6:8])
	require.True(t, UDPChecksumOK(host1, host2, b))
}

func TestUDPChecksumEndsWithTheDatagram(t *testing.T) {
	b := udpDatagram(UDP{SrcPort: 1, DstPort: 2}, []byte("data"))
	SetUDPChecksum(host1, host2, b)
	require.True(t, UDPChecksumOK(host1, host2, append(b, "slack"...)))
	require.False(t, UDPChecksumOK(host1, host2, b[:7]))
}

func TestUDPPutRefusesImpossibleLengths(t *testing.T) {
	h := UDP{}
	b := make([]byte, UDPLen)
	require.NotPanics(t, func() { h.Put(b, 65527) })
	require.Panics(t, func() { h.Put(b, 65528) })
}

func TestUDPDoesNotAllocate(t *testing.T) {
	b := udpDatagram(UDP{SrcPort: 1, DstPort: 2}, []byte("data"))
	out := bytes.Clone(b)
	v6 := netip.MustParseAddr("2001:db8::1")
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h, payload, _ := ParseUDP(b)
		h.Put(out, len(payload))
		SetUDPChecksum(host1, host2, out)
		UDPChecksumOK(host1, host2, out)
		SetUDPChecksum(v6, v6, out)
		UDPChecksumOK(v6, v6, out)
	}))
}

func FuzzUDP(f *testing.F) {
	f.Add(udpDatagram(UDP{SrcPort: 53, DstPort: 40000}, []byte("answer")))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		UDPChecksumOK(host1, host2, b)
		h, payload, r := ParseUDP(b)
		if r != OK {
			return
		}
		require.Equal(t, int(h.Length), UDPLen+len(payload))
		out := udpDatagram(h, payload)
		SetUDPChecksum(host1, host2, out)
		require.True(t, UDPChecksumOK(host1, host2, out))
		again, againPayload, r := ParseUDP(out)
		require.Equal(t, OK, r)
		require.NotZero(t, again.Checksum)
		again.Checksum = h.Checksum
		require.Equal(t, h, again)
		require.True(t, bytes.Equal(payload, againPayload))
	})
}
