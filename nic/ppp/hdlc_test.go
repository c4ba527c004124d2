package ppp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// collect feeds octets in pieces of a size, and returns the frames.
func collect(d *decoder, b []byte, size int) (frames []string) {
	for len(b) > 0 {
		n := min(size, len(b))
		d.feed(b[:n], func(proto uint16, info []byte) {
			frames = append(frames, fmt.Sprintf("%04x %x", proto, info))
		})
		b = b[n:]
	}
	return frames
}

// A Configure-Request with the options and escapes with which pppd begins: ACCM, magic number, PFC, ACFC.
func TestConfigureRequestOnTheLine(t *testing.T) {
	line, err := hex.DecodeString("7eff7d23c0217d217d217d207d347d227d267d207d207d207d207d257d267d28b2d3a57d277d227d287d22")
	require.NoError(t, err)
	// The FCS is appended by the slow reference below.
	inner := []byte{0xff, 0x03, 0xc0, 0x21, 1, 1, 0, 0x14, 2, 6, 0, 0, 0, 0, 5, 6, 0x08, 0xb2, 0xd3, 0xa5, 7, 2, 8, 2}
	fcs := slowFCS(inner)
	line = defaultFraming.appendEscaped(line, []byte{byte(fcs), byte(fcs >> 8)})
	line = append(line, flag)
	d := &decoder{accm: allEscaped, max: 1508}
	require.Equal(t, []string{fmt.Sprintf("c021 %x", inner[4:])}, collect(d, line, len(line)))
	require.Equal(t, line, defaultFraming.appendFrame(nil, protoLCP, inner[4:], nil))
}

// slowFCS computes the FCS bit by bit, as RFC 1662 C.1 describes: x^16 + x^12 + x^5 + 1, least significant
// bit first, all ones at the beginning, complemented at the end.
func slowFCS(b []byte) uint16 {
	fcs := uint16(0xffff)
	for _, c := range b {
		for bit := range 8 {
			in := uint16(c>>bit) & 1
			out := fcs & 1
			fcs >>= 1
			if in^out != 0 {
				fcs ^= 0x8408
			}
		}
	}
	return ^fcs
}

// Frames arrive whole however the line cuts the octets, with every framing and every octet.
func TestFramesSurviveTheLine(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, fr := range []framing{defaultFraming, {}, {accm: 0x000a0000}, {noProto: true, noAddr: true}, {accm: allEscaped, noProto: true}} {
		var line []byte
		var want []string
		for i := range 50 {
			info := make([]byte, random.IntN(600))
			for j := range info {
				info[j] = byte(random.Uint32())
			}
			if i == 0 {
				info = info[:0]
				for c := range 256 {
					info = append(info, byte(c))
				}
			}
			proto := []uint16{protoIPv4, protoIPv6, protoIPCP, protoLCP}[random.IntN(4)]
			cut := random.IntN(len(info) + 1)
			line = fr.appendFrame(line, proto, info[:cut], info[cut:])
			want = append(want, fmt.Sprintf("%04x %x", proto, info))
		}
		for _, size := range []int{1, 7, 1000, len(line)} {
			d := &decoder{accm: fr.accm, max: 1508}
			require.Equal(t, want, collect(d, line, size))
			require.Zero(t, d.bad)
		}
	}
}

// Damaged frames are dropped and counted, and do not harm the next frame.
func TestDamagedFramesAreDropped(t *testing.T) {
	good := defaultFraming.appendFrame(nil, protoIPv4, []byte("good"), nil)
	for name, bad := range map[string][]byte{
		"wrong FCS":   append(bytes.Replace(good, []byte("good"), []byte("evil"), 1)[:len(good)-1:len(good)-1], flag),
		"too short":   {flag, 0xff, 0x03, 0x21, flag},
		"aborted":     {flag, 0xff, 0x7d, 0x23, 0, 0x21, 'x', escape, flag},
		"too long":    append(bytes.Repeat([]byte{'x'}, 5000), flag),
		"no protocol": framing{}.appendEscaped([]byte{flag}, append([]byte{2, 4, 6}, byte(slowFCS([]byte{2, 4, 6})), byte(slowFCS([]byte{2, 4, 6})>>8), flag)),
	} {
		d := &decoder{max: 1508}
		require.Equal(t, []string{"0021 676f6f64"}, collect(d, append(bytes.Clone(bad), good...), 1), name)
		require.NotZero(t, d.bad, name)
		require.LessOrEqual(t, cap(d.arena), 1<<15, name)
	}
}

// RFC 1662 4.2: octets that the peer escapes, and that arrive without an escape, were inserted by the line.
func TestOctetsOfTheLineAreRemoved(t *testing.T) {
	good := defaultFraming.appendFrame(nil, protoIPv4, []byte("good"), nil)
	var line []byte
	for _, c := range good {
		line = append(line, c)
		if c != escape {
			line = append(line, 0x11, 0x13) // XON, XOFF
		}
	}
	d := &decoder{accm: allEscaped, max: 1508}
	require.Equal(t, []string{"0021 676f6f64"}, collect(d, line, 3))
}

func FuzzDecoder(f *testing.F) {
	f.Add(defaultFraming.appendFrame(nil, protoIPv4, []byte("\x45\x00"), nil), 3)
	f.Add([]byte{flag, escape, flag, escape, escape, 1, 2, 3, flag}, 1)
	f.Fuzz(func(t *testing.T, b []byte, size int) {
		d := &decoder{accm: allEscaped, max: 256}
		whole := &decoder{accm: allEscaped, max: 256}
		size = max(1, size%100)
		require.Equal(t, collect(whole, b, max(len(b), 1)), collect(d, b, size), "the size of the pieces does not matter")
		require.Equal(t, whole.bad, d.bad)
		for _, fr := range []framing{defaultFraming, {noAddr: true, noProto: true}} {
			if len(b) <= 200 && len(b) > 0 {
				d := &decoder{accm: fr.accm, max: 256}
				require.Equal(t, []string{fmt.Sprintf("0021 %x", b)}, collect(d, fr.appendFrame(nil, protoIPv4, b, nil), size))
			}
		}
	})
}
