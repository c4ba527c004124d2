package pcap

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestCommentsAndKeyLogsAreReadBack(t *testing.T) {
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Interface{Name: "test0", Link: LinkEthernet})
	require.NoError(t, err)
	first := []byte("CLIENT_RANDOM 01 02\n")
	require.NoError(t, w.WriteKeyLog(first))
	require.NoError(t, w.Write(Packet{Data: make([]byte, 15), Link: LinkEthernet, Direction: Inbound, Comment: "dropped: bad UDP checksum"}))
	second := []byte(strings.Repeat("CLIENT_RANDOM 0304 0506\n", 10_000)) // more than one block holds
	require.NoError(t, w.WriteKeyLog(second))
	require.NoError(t, w.WriteKeyLog(nil))
	long := strings.Repeat("é", maxComment)
	require.NoError(t, w.Write(Packet{Data: make([]byte, 15), Link: LinkEthernet, Comment: long}))
	require.NoError(t, w.Write(Packet{Data: make([]byte, 15), Link: LinkEthernet}))
	require.ErrorContains(t, w.WriteKeyLog(bytes.Repeat([]byte("x"), maxSecrets+1)), "longer than")

	r, err := NewReader(&buf)
	require.NoError(t, err)
	p, err := r.Next()
	require.NoError(t, err)
	require.Equal(t, "dropped: bad UDP checksum", p.Comment)
	require.Equal(t, Inbound, p.Direction)
	require.Equal(t, first, r.KeyLog(), "the keys come before the packets that need them")
	p, err = r.Next()
	require.NoError(t, err)
	require.True(t, utf8.ValidString(p.Comment))
	require.True(t, strings.HasPrefix(long, p.Comment))
	require.Len(t, p.Comment, maxComment)
	p, err = r.Next()
	require.NoError(t, err)
	require.Empty(t, p.Comment)
	require.Equal(t, append(first, second...), r.KeyLog())
	_, err = r.Next()
	require.Equal(t, io.EOF, err)
}

func TestSecretsInBothByteOrders(t *testing.T) {
	for name, o := range orders {
		b := block(o, section(o, nil), blockInterface, uint16(1), uint16(0), uint32(0))
		b = block(o, b, blockSecrets, uint32(secretsTLS), uint32(5), []byte("key 1"))
		b = block(o, b, blockSecrets, uint32(0x57474b4c), uint32(3), []byte("wg "))                   // those of WireGuard
		b = block(o, b, blockSecrets, uint32(secretsTLS), uint32(maxKeyLog), make([]byte, maxKeyLog)) // too many: skipped
		b = block(o, b, blockPacket, uint32(0), uint64(0), uint32(4), uint32(4), []byte("data"),
			uint16(optComment), uint16(2), []byte("a\x00\x00\x00")[:4], uint16(optComment), uint16(1), []byte("b\x00\x00\x00"))
		r, err := NewReader(bytes.NewReader(b))
		require.NoError(t, err)
		p, err := r.Next()
		require.NoError(t, err, name)
		require.Equal(t, "a\x00\nb", p.Comment)
		require.Equal(t, "key 1", string(r.KeyLog()))
	}
	o := orders["little"]
	_, err := readAll(block(o, section(o, nil), blockSecrets, uint32(secretsTLS), uint32(50), []byte("key")))
	require.ErrorContains(t, err, "secrets of 50 bytes in a block of 24")
	_, err = readAll(block(o, section(o, nil), blockSecrets, uint32(secretsTLS)))
	require.ErrorContains(t, err, "shorter than its fields")
}

func TestWiresharkShowsComments(t *testing.T) {
	tshark := need(t, "tshark")
	var buf bytes.Buffer
	w, err := NewWriter(&buf, Interface{Name: "test0", Link: LinkEthernet})
	require.NoError(t, err)
	for _, c := range []string{"", "reason: RFC 1122 3.2.1.3 – \"A host MUST\"", ""} {
		require.NoError(t, w.Write(Packet{Data: make([]byte, 60), Link: LinkEthernet, Direction: Inbound, Comment: c}))
	}
	file := filepath.Join(t.TempDir(), "c.pcapng")
	require.NoError(t, os.WriteFile(file, buf.Bytes(), 0o644))
	out, err := exec.Command(tshark, "-r", file, "-T", "fields", "-e", "frame.number", "-e", "frame.comment").Output()
	require.NoError(t, err)
	require.Equal(t, "1\t\n2\treason: RFC 1122 3.2.1.3 – \"A host MUST\"\n3\t\n", string(out))
}

// A block of the largest size with one-byte comments. A comment that grew by copies of itself would copy gigabytes.
func TestManyCommentsAreReadInLinearTime(t *testing.T) {
	const n = 40_000
	o := orders["little"]
	b := block(o, section(o, nil), blockInterface, uint16(1), uint16(0), uint32(0))
	comment := []byte{optComment, 0, 1, 0, 'x', 0, 0, 0}
	b = block(o, b, blockPacket, uint32(0), uint64(0), uint32(4), uint32(4), []byte("data"), bytes.Repeat(comment, n))
	var all []Packet
	allocs := testing.AllocsPerRun(1, func() { all, _ = readAll(b) })
	require.Len(t, all, 1)
	require.Equal(t, strings.Repeat("x\n", n-1)+"x", all[0].Comment)
	require.Less(t, allocs, 200.0)
}
