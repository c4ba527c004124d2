package wire

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// unhex decodes a hexadecimal dump that may contain white space.
func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		panic("the test's bytes are not hexadecimal: " + err.Error())
	}
	return b
}

// requireShort checks that parse fails with r for every proper prefix of b, and does not for b itself.
func requireShort(t *testing.T, b []byte, r Reason, parse func(b []byte) Reason) {
	t.Helper()
	for n := range len(b) {
		require.Equal(t, r, parse(b[:n]), "%d bytes of %d", n, len(b))
	}
	require.Equal(t, OK, parse(b))
}

func TestReasonsHaveDistinctNames(t *testing.T) {
	seen := map[string]bool{}
	for r := range NumReasons {
		require.NotEmpty(t, r.String())
		require.False(t, seen[r.String()], "%q is the name of two reasons", r)
		seen[r.String()] = true
	}
	require.Equal(t, "ok", OK.String())
	require.Equal(t, "reason 200", Reason(200).String())
	require.EqualError(t, BadTCPChecksum, "bad TCP checksum")
}

func TestMACPrintsAsPackageNetDoes(t *testing.T) {
	rnd := testRand()
	for range 100 {
		m := MAC(randomBytes(rnd, 6))
		require.Equal(t, net.HardwareAddr(m[:]).String(), m.String())
	}
	require.Equal(t, "00:00:00:00:00:00", MAC{}.String())
}

func TestMACKnowsGroups(t *testing.T) {
	require.True(t, Broadcast().IsBroadcast())
	require.True(t, Broadcast().IsMulticast())
	require.True(t, MAC{0x01, 0, 0x5e, 0, 0, 1}.IsMulticast())
	require.False(t, MAC{0x01, 0, 0x5e, 0, 0, 1}.IsBroadcast())
	require.False(t, MAC{0x02, 0, 0x5e, 0, 0, 1}.IsMulticast())
	require.False(t, MAC{}.IsMulticast())
}

func TestMulticastMACOfGroups(t *testing.T) {
	for ip, mac := range map[string]string{
		"224.0.0.1":        "01:00:5e:00:00:01",
		"239.255.255.250":  "01:00:5e:7f:ff:fa",
		"224.128.1.2":      "01:00:5e:00:01:02", // the 24th bit is not mapped
		"ff02::1":          "33:33:00:00:00:01",
		"ff02::1:ff12:34":  "33:33:ff:12:00:34",
		"::ffff:224.1.2.3": "01:00:5e:01:02:03",
	} {
		require.Equal(t, mac, MulticastMAC(netip.MustParseAddr(ip)).String(), ip)
	}
}

// arpFrame is an ARP request in an Ethernet frame, in hexadecimal, padded to MinFrame.
const arpFrame = `ffffffffffff 020000000001 0806
	0001 0800 06 04 0001
	020000000001 c0000202
	000000000000 c0000201
	000000000000000000000000000000000000`

func TestEthernetHeaderIsReadAndWritten(t *testing.T) {
	b := unhex(arpFrame)
	require.Len(t, b, MinFrame)
	h, payload, r := ParseEthernet(b)
	require.Equal(t, OK, r)
	require.Equal(t, Ethernet{Dst: Broadcast(), Src: MAC{2, 0, 0, 0, 0, 1}, Type: EtherTypeARP}, h)
	require.Equal(t, b[EthernetLen:], payload)

	out := make([]byte, EthernetLen)
	h.Put(out)
	require.Equal(t, b[:EthernetLen], out)
}

func TestEthernetFrameTooShortIsRefused(t *testing.T) {
	requireShort(t, unhex(arpFrame)[:EthernetLen], ShortEthernet, func(b []byte) Reason {
		_, _, r := ParseEthernet(b)
		return r
	})
}

func TestARPIsReadAndWritten(t *testing.T) {
	b := unhex(arpFrame)[EthernetLen:]
	h, r := ParseARP(b)
	require.Equal(t, OK, r)
	require.Equal(t, ARP{
		Op:        ARPRequest,
		SenderMAC: MAC{2, 0, 0, 0, 0, 1},
		SenderIP:  netip.MustParseAddr("192.0.2.2"),
		TargetIP:  netip.MustParseAddr("192.0.2.1"),
	}, h)

	out := make([]byte, ARPLen)
	h.Put(out)
	require.Equal(t, b[:ARPLen], out)
}

func TestARPOfAnotherKindIsRefused(t *testing.T) {
	good := unhex(arpFrame)[EthernetLen:][:ARPLen]
	requireShort(t, good, ShortARP, func(b []byte) Reason {
		_, r := ParseARP(b)
		return r
	})
	for name, change := range map[string]func(b []byte){
		"hardware type":    func(b []byte) { b[1] = 6 },
		"protocol":         func(b []byte) { b[2] = 0x86 },
		"hardware length":  func(b []byte) { b[4] = 8 },
		"protocol length":  func(b []byte) { b[5] = 16 },
		"operation 0":      func(b []byte) { b[7] = 0 },
		"reverse request":  func(b []byte) { b[7] = 3 },
		"a huge operation": func(b []byte) { b[6] = 1 },
	} {
		b := bytes.Clone(good)
		change(b)
		_, r := ParseARP(b)
		require.Equal(t, BadARP, r, name)
	}
}

func TestLinkHeadersDoNotAllocate(t *testing.T) {
	frame := unhex(arpFrame)
	out := make([]byte, MinFrame)
	require.Zero(t, testing.AllocsPerRun(100, func() {
		e, payload, _ := ParseEthernet(frame)
		a, _ := ParseARP(payload)
		e.Put(out)
		a.Put(out[EthernetLen:])
	}))
	require.Equal(t, frame, out)
}

func FuzzParseEthernet(f *testing.F) {
	f.Add(unhex(arpFrame))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, payload, r := ParseEthernet(b)
		if r != OK {
			require.Less(t, len(b), EthernetLen)
			return
		}
		out := make([]byte, EthernetLen)
		h.Put(out)
		require.Equal(t, b, append(out, payload...))
	})
}

func FuzzARP(f *testing.F) {
	f.Add(unhex(arpFrame)[EthernetLen:])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, r := ParseARP(b)
		if r != OK {
			return
		}
		out := make([]byte, ARPLen)
		h.Put(out)
		require.Equal(t, b[:ARPLen], out)
		again, r := ParseARP(out)
		require.Equal(t, OK, r)
		require.Equal(t, h, again)
	})
}

func TestVLANTagIsReadAndWritten(t *testing.T) {
	rest := unhex("b064 0800 45")
	requireShort(t, rest[:VLANTagLen], ShortVLANTag, func(b []byte) Reason {
		_, _, r := ParseVLANTag(b)
		return r
	})
	tag, payload, r := ParseVLANTag(rest)
	require.Equal(t, OK, r)
	require.Equal(t, VLANTag{Priority: 5, DropEligible: true, ID: 100, Type: EtherTypeIPv4}, tag)
	require.Equal(t, []byte{0x45}, payload)
	for _, tag := range []VLANTag{tag, {ID: 4095, Type: 1}, {Priority: 7, Type: 0xffff}, {DropEligible: true}} {
		b := make([]byte, VLANTagLen)
		tag.Put(b)
		again, _, r := ParseVLANTag(b)
		require.Equal(t, OK, r)
		require.Equal(t, tag, again)
	}
}

func TestDescribeShowsVLANTags(t *testing.T) {
	b := unhex(arpFrame)
	tagged := func(tags string) string {
		return Describe(append(append(append([]byte(nil), b[:12]...), unhex(tags)...), b[12:]...))
	}
	const from, arp = "02:00:00:00:00:01 > ff:ff:ff:ff:ff:ff ", "ARP who-has 192.0.2.1 tell 192.0.2.2"
	require.Equal(t, from+"vlan 100 "+arp, tagged("8100 0064"))
	require.Equal(t, from+"vlan 0 prio=7 dei "+arp, tagged("8100 f000"))
	require.Equal(t, from+"vlan 7 vlan 8 "+arp, tagged("8100 0007 8100 0008"))
	require.Equal(t, from+"[short VLAN tag, 3 bytes]", Describe(append(append([]byte(nil), b[:12]...), unhex("8100 0007 81")...)))
}
