package wire

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

func icmpMessage(h ICMP, body []byte) []byte {
	b := make([]byte, ICMPLen+len(body))
	h.Put(b, body)
	return b
}

// fixICMP corrects the checksum of b if b has a header.
func fixICMP(b []byte) {
	if len(b) >= ICMPLen {
		b[2], b[3] = 0, 0
		binary.BigEndian.PutUint16(b[2:4], Checksum(b))
	}
}

func TestICMPEchoIsWhatPackageICMPMakesOfIt(t *testing.T) {
	rnd := testRand()
	for n := range 60 {
		data := randomBytes(rnd, n)
		typ, oracle := ICMPEcho, ipv4.ICMPTypeEcho
		if n%2 == 1 {
			typ, oracle = ICMPEchoReply, ipv4.ICMPTypeEchoReply
		}
		m := icmp.Message{Type: oracle, Body: &icmp.Echo{ID: rnd.IntN(65536), Seq: rnd.IntN(65536), Data: data}}
		b, err := m.Marshal(nil)
		require.NoError(t, err)

		h, body, r := ParseICMP(b)
		require.Equal(t, OK, r)
		require.Equal(t, typ, h.Type)
		require.Equal(t, m.Body.(*icmp.Echo).ID, int(h.ID()))
		require.Equal(t, m.Body.(*icmp.Echo).Seq, int(h.Seq()))
		require.True(t, bytes.Equal(data, body))
		require.False(t, h.IsError())

		h = ICMP{Type: typ, Rest: EchoRest(h.ID(), h.Seq())}
		require.Equal(t, b, icmpMessage(h, data))
	}
}

func TestICMPErrorsAreReadByPackageICMP(t *testing.T) {
	quote := ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("12345678"))
	for typ, oracle := range map[ICMPType]ipv4.ICMPType{
		ICMPUnreachable:  ipv4.ICMPTypeDestinationUnreachable,
		ICMPTimeExceeded: ipv4.ICMPTypeTimeExceeded,
		ICMPParamProblem: ipv4.ICMPTypeParameterProblem,
	} {
		h := ICMP{Type: typ, Code: 1, Rest: 20 << 24}
		require.True(t, h.IsError())
		require.Equal(t, uint8(20), h.Pointer())
		m, err := icmp.ParseMessage(int(ProtoICMP), icmpMessage(h, quote))
		require.NoError(t, err)
		require.Equal(t, oracle, m.Type)
		require.Equal(t, 1, m.Code)
		switch body := m.Body.(type) {
		case *icmp.DstUnreach:
			require.Equal(t, quote, body.Data)
		case *icmp.TimeExceeded:
			require.Equal(t, quote, body.Data)
		case *icmp.ParamProb:
			require.Equal(t, quote, body.Data)
			require.Equal(t, uintptr(20), body.Pointer)
		default:
			t.Fatalf("package icmp made a %T of it", m.Body)
		}
	}
}

func TestICMPErrorTypesAreDistinguished(t *testing.T) {
	var errors []ICMPType
	for typ := range 256 {
		if h := (ICMP{Type: ICMPType(typ)}); h.IsError() {
			errors = append(errors, h.Type)
		}
	}
	// RFC 1122 3.2.2: Destination Unreachable, Redirect, Source Quench, Time
	// Exceeded and Parameter Problem are the error messages.
	require.Equal(t, []ICMPType{3, 4, 5, 11, 12}, errors)
}

func TestICMPNextHopMTUIsTheLowHalf(t *testing.T) {
	// RFC 1191 4: the low-order 16 bits of the field labelled unused.
	b := unhex("0304 0000 0000 05dc")
	fixICMP(b)
	h, body, r := ParseICMP(b)
	require.Equal(t, OK, r)
	require.Equal(t, uint16(1500), h.NextHopMTU())
	require.Empty(t, body)
}

func TestICMPPutTakesABodyThatIsInPlace(t *testing.T) {
	h := ICMP{Type: ICMPEcho, Rest: EchoRest(1, 2)}
	want := icmpMessage(h, []byte("payload"))
	b := append(make([]byte, ICMPLen), "payload and more"...)
	h.Put(b, b[ICMPLen:ICMPLen+7])
	require.Equal(t, want, b[:len(want)])
	require.Equal(t, " and more", string(b[len(want):]), "bytes after the body are not touched")
}

func TestICMPRefusesShortAndDamagedMessages(t *testing.T) {
	requireShort(t, icmpMessage(ICMP{Type: ICMPEcho}, nil), ShortICMP, func(b []byte) Reason {
		_, _, r := ParseICMP(b)
		return r
	})
	good := icmpMessage(ICMP{Type: ICMPEcho, Rest: 7}, []byte("odd"))
	for bit := range len(good) * 8 {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		_, _, r := ParseICMP(b)
		require.Equal(t, BadICMPChecksum, r, "bit %d", bit)
	}
	_, _, r := ParseICMP(make([]byte, 64))
	require.Equal(t, BadICMPChecksum, r, "zeros are not a message")
}

func TestQuotedDatagramsAreReadThoughCutShort(t *testing.T) {
	whole := ipv4Packet(IPv4{TTL: 64, Proto: ProtoTCP}, bytes.Repeat([]byte{7}, 1000))
	for _, n := range []int{28, 29, 548, 1020} {
		h, transport, r := ParseQuoted(whole[:n])
		require.Equal(t, OK, r, "%d bytes", n)
		require.Equal(t, host1, h.Src)
		require.Equal(t, host2, h.Dst)
		require.Equal(t, uint16(1020), h.TotalLen)
		require.Len(t, transport, n-20)
	}
}

func TestQuotedDatagramsMayHaveBeenChangedByRouters(t *testing.T) {
	b := ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("12345678"))
	b[8]-- // change the TTL without correcting the checksum
	_, transport, r := ParseQuoted(b)
	require.Equal(t, OK, r)
	require.Equal(t, "12345678", string(transport))

	b[3] -= 20 // the total length without the header, as from old systems
	_, transport, r = ParseQuoted(b)
	require.Equal(t, OK, r)
	require.Equal(t, "12345678", string(transport))
}

func TestExtensionsAfterAQuotedDatagramAreIgnored(t *testing.T) {
	b := ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("12345678"))
	_, transport, r := ParseQuoted(append(b, "RFC 4884 object"...))
	require.Equal(t, OK, r)
	require.Equal(t, "12345678", string(transport))
}

func TestShortAndMalformedQuotesAreRefused(t *testing.T) {
	good := ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP, Options: []byte{1, 1, 1, 1}}, []byte("12345678"))
	requireShort(t, good, ShortQuoted, func(b []byte) Reason {
		_, _, r := ParseQuoted(b)
		return r
	})
	for first, want := range map[byte]Reason{0x65: BadQuoted, 0x44: BadQuoted, 0x4f: ShortQuoted} {
		b := bytes.Clone(good)
		b[0] = first
		_, _, r := ParseQuoted(b)
		require.Equal(t, want, r, "first byte %#x", first)
	}
}

func TestICMPDoesNotAllocate(t *testing.T) {
	b := icmpMessage(ICMP{Type: ICMPUnreachable}, ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("12345678")))
	out := make([]byte, len(b))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		h, body, _ := ParseICMP(b)
		ParseQuoted(body)
		h.Put(out, body)
	}))
	require.Equal(t, b, out)
}

func FuzzICMP(f *testing.F) {
	f.Add(icmpMessage(ICMP{Type: ICMPEcho, Rest: EchoRest(1, 2)}, []byte("data")))
	f.Add(icmpMessage(ICMP{Type: ICMPUnreachable, Code: UnreachPort}, ipv4Packet(IPv4{TTL: 64, Proto: ProtoUDP}, []byte("12345678"))))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		ParseICMP(b)
		fixICMP(b)
		h, body, r := ParseICMP(b)
		if len(b) < ICMPLen {
			require.Equal(t, ShortICMP, r)
			return
		}
		require.Equal(t, OK, r, "the checksum was corrected")
		require.Equal(t, b, icmpMessage(h, body))

		q, transport, r := ParseQuoted(body)
		if r == OK {
			require.GreaterOrEqual(t, len(transport), 8)
			require.LessOrEqual(t, q.HeaderLen()+len(transport), len(body))
			require.True(t, bytes.HasPrefix(body[q.HeaderLen():], transport))
		}
	})
}
