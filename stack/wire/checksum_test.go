package wire

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"
)

// slowSum is a reference: RFC 1071 word by word, with an end-around carry after each addition.
func slowSum(b []byte, acc uint16) uint16 {
	sum := uint32(acc)
	for i := 0; i < len(b); i += 2 {
		word := uint32(b[i]) << 8
		if i+1 < len(b) {
			word |= uint32(b[i+1])
		}
		sum += word
		if sum > 0xffff {
			sum -= 0xffff
		}
	}
	return uint16(sum)
}

// sameSum reports whether two folded sums are the same number. In ones' complement, 0 and 0xffff are
// both zero.
func sameSum(a, b uint16) bool { return a%0xffff == b%0xffff }

func testRand() *rand.Rand { return rand.New(rand.NewPCG(1071, 1624)) }

func randomBytes(rnd *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	return b
}

func TestSumEqualsAReferenceAtEveryAlignment(t *testing.T) {
	rnd := testRand()
	for n := range 300 {
		buf := randomBytes(rnd, n+8)
		for off := range 8 {
			b := buf[off : off+n]
			start := uint16(rnd.Uint32())
			require.Equal(t, slowSum(b, start), Fold(Sum(b, uint64(start))), "length %d, offset %d", n, off)
		}
	}
	for _, n := range []int{1460, 1500, 9000, 65535, 65536, 131071} {
		b := randomBytes(rnd, n)
		require.Equal(t, slowSum(b, 0), Fold(Sum(b, 0)), "length %d", n)
	}
}

func TestSumBearsEveryCarry(t *testing.T) {
	for n := range 200 {
		b := make([]byte, n)
		require.Zero(t, Fold(Sum(b, 0)), "zeros of length %d", n)
		for i := range b {
			b[i] = 0xff
		}
		require.Equal(t, slowSum(b, 0), Fold(Sum(b, 0)), "ones of length %d", n)
		for _, acc := range []uint64{1, 0xffff, math.MaxUint32, math.MaxUint64 - 1, math.MaxUint64} {
			require.True(t, sameSum(slowSum(b, Fold(acc)), Fold(Sum(b, acc))), "ones of length %d after %#x", n, acc)
			require.True(t, sameSum(slowSum(append([]byte{0}, b...), Fold(acc)), Fold(SumOdd(b, acc))),
				"ones of length %d at an odd offset after %#x", n, acc)
		}
	}
}

func TestSumOfTwoPiecesIsTheSumOfTheWhole(t *testing.T) {
	b := randomBytes(testRand(), 150)
	whole := Fold(Sum(b, 0))
	for cut := range len(b) + 1 {
		acc := Sum(b[:cut], 0)
		if cut%2 == 0 {
			acc = Sum(b[cut:], acc)
		} else {
			acc = SumOdd(b[cut:], acc)
		}
		require.Equal(t, whole, Fold(acc), "cut at %d", cut)
	}
}

func TestSumOfTheExampleInRFC1071(t *testing.T) {
	// RFC 1071 3: the sum of these words is 2ddf0, and folded ddf2.
	b := []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7}
	require.Equal(t, uint16(0xddf2), Fold(Sum(b, 0)))
	require.Equal(t, ^uint16(0xddf2), Checksum(b))
	require.Equal(t, uint16(0xffff), Fold(Sum(append(b, 0x22, 0x0d), 0)), "a correct checksum makes the sum all ones")
}

func TestUpdateChecksumOfTheExampleInRFC1624(t *testing.T) {
	// RFC 1624 4: HC = 0xDD2F, m = 0x5555 and m' = 0x3285 give 0x0000.
	require.Equal(t, uint16(0x0000), UpdateChecksum(0xdd2f, 0x5555, 0x3285))
}

func TestUpdateChecksumEqualsComputingAnew(t *testing.T) {
	rnd := testRand()
	for range 2000 {
		b := randomBytes(rnd, 20)
		b[0] |= 1 // no packet has a sum of zero
		old := Checksum(b)
		i := 2 + 2*rnd.IntN(9)
		from, to := binary.BigEndian.Uint16(b[i:]), uint16(rnd.Uint32())
		binary.BigEndian.PutUint16(b[i:], to)
		require.Equal(t, Checksum(b), UpdateChecksum(old, from, to))
	}
}

// RFC 8200 MUST-35.
func TestPseudoSumIsTheSumOfThePseudoHeaderWrittenOut(t *testing.T) {
	src4, dst4 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("255.255.255.254")
	// RFC 9293 3.1, figure 2: addresses, zero, PTCL, TCP length.
	p4 := append(src4.AsSlice(), dst4.AsSlice()...)
	p4 = append(p4, 0, 6, 0xab, 0xcd)
	require.Equal(t, slowSum(p4, 0), Fold(PseudoSum(src4, dst4, 6, 0xabcd)))
	mapped := netip.AddrFrom16(src4.As16())
	require.Equal(t, slowSum(p4, 0), Fold(PseudoSum(mapped, netip.AddrFrom16(dst4.As16()), 6, 0xabcd)), "mapped addresses count as IPv4")

	src6, dst6 := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::ffff:ffff:ffff:fffe")
	// RFC 8200 8.1: addresses, 32-bit length, three zero bytes, next header.
	p6 := append(src6.AsSlice(), dst6.AsSlice()...)
	p6 = append(p6, 0, 1, 0xab, 0xcd, 0, 0, 0, 17)
	require.Equal(t, slowSum(p6, 0), Fold(PseudoSum(src6, dst6, 17, 0x1abcd)))
}

func FuzzSum(f *testing.F) {
	f.Add([]byte{}, uint64(0), 0)
	f.Add([]byte{0xff, 0xff, 0xff}, uint64(math.MaxUint64), 1)
	f.Fuzz(func(t *testing.T, b []byte, acc uint64, cut int) {
		want := slowSum(b, Fold(acc))
		require.True(t, sameSum(want, Fold(Sum(b, acc))))
		if cut < 0 || cut > len(b) {
			return
		}
		rest := Sum
		if cut%2 == 1 {
			rest = SumOdd
		}
		require.True(t, sameSum(want, Fold(rest(b[cut:], Sum(b[:cut], acc)))))
	})
}

func BenchmarkSum(b *testing.B) {
	for name, n := range map[string]int{"20": 20, "52": 52, "1460": 1460, "65536": 65536} {
		buf := randomBytes(testRand(), n)
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(n))
			var acc uint64
			for b.Loop() {
				acc = Sum(buf, acc)
			}
			if Fold(acc) == 0 {
				b.Fatal("random bytes summed to zero")
			}
		})
	}
}
