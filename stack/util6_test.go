package stack

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// both has the addresses of both families at each end of a link.
var both = [2][]netip.Prefix{
	{prefix("192.0.2.1/24"), prefix("2001:db8::1/64"), prefix("fe80::1/64")},
	{prefix("192.0.2.2/24"), prefix("2001:db8::2/64"), prefix("fe80::2/64")},
}

// with returns a change of a Config that sets the addresses of the first link.
func with(addrs []netip.Prefix) func(*Config) {
	return func(cfg *Config) { cfg.NICs[0].Addrs = addrs }
}

// twoHosts6 makes two hosts with both families on a pipe that carries IP.
func twoHosts6(t testing.TB, cfg nic.PipeConfig) (a, b *Stack) {
	t.Helper()
	cfg.Medium = nic.IP
	da, db := nic.Pipe(cfg)
	return newHost(t, da, "192.0.2.1/24", with(both[0])), newHost(t, db, "192.0.2.2/24", with(both[1]))
}

// hostAndPeer6 makes a host with 2001:db8::1, fe80::1 and 192.0.2.1 on a plain link that carries IP,
// with a peer at the other end.
func hostAndPeer6(t testing.TB, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	change = append([]func(*Config){with(both[0])}, change...)
	return hostAndPeerOn(t, nic.PipeConfig{Medium: nic.IP, NoTxChecksum: true}, change...)
}

// ip6Packet returns a packet, by default from 2001:db8::2 to 2001:db8::1.
func ip6Packet(h wire.IPv6, payload []byte) []byte {
	if h.HopLimit == 0 {
		h.HopLimit = 64
	}
	if !h.Src.IsValid() {
		h.Src = addr("2001:db8::2")
	}
	if !h.Dst.IsValid() {
		h.Dst = addr("2001:db8::1")
	}
	b := make([]byte, wire.IPv6Len+len(payload))
	h.Put(b, len(payload))
	copy(b[wire.IPv6Len:], payload)
	return b
}

// echoRequest6 returns an ICMPv6 echo request.
func echoRequest6(src, dst netip.Addr, id, seq uint16, body []byte) []byte {
	b := make([]byte, wire.ICMPLen+len(body))
	h := wire.ICMPv6{Type: wire.ICMPv6Echo, Rest: wire.EchoRest(id, seq)}
	h.Put(src, dst, b, body)
	return b
}

// overIPv6 reports whether t is a subtest of TestSocketsOverIPv6, or a test whose name begins so. Hosts then
// get IPv6 addresses instead of IPv4 addresses.
func overIPv6(t testing.TB) bool { return strings.HasPrefix(t.Name(), "TestSocketsOverIPv6") }

// TestSocketsOverIPv6 repeats tests of sockets over IPv6. These tests do not depend on the family.
func TestSocketsOverIPv6(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"carries data":                   TestTCPCarriesDataOverAPipe,
		"carries data over a lossy link": TestTCPCarriesDataOverALossyLinkInVirtualTime,
		"deadlines":                      TestDeadlinesWakeReadersAndWriters,
		"direct":                         TestSmallSegmentGoesWithoutAPooledBuffer,
		"probes":                         TestTheProbesOfManyConnectionsTakeOneGoroutine,
		"interrupted writers":            TestWritersThatAreInterruptedReuseTheirBuffers,
		"bytes in a device":              TestAWriteDoesNotReturnWhileItsBytesAreInADevice,
		"given up":                       TestAnAbortedWriteKeepsNoReferenceToItsBytes,
		"unknown neighbour":              TestAWriteDoesNotWaitForTheNeighborsAddress,
		"removed link":                   TestAFrameForARemovedLinkIsCompleted,
		"a device that reads":            TestNoWriteEndsWhileADeviceReadsItsBytes,
		"a writer far away":              TestAWriterFarFromItsPeerDoesNotWaitForACKs,
		"fresh neighbours":               TestNewAcknowledgementsKeepANeighbourFresh,
		"coarse clock":                   TestTheCoarseClockIsSlowByAtMostItsLimit,
		"room in the queue":              TestOnlyAsManyWaitersAreCalledAsFit,
		"late frames":                    TestDrainerSeesLateFrame,
	} {
		t.Run(name, test)
	}
}

// hostAddr returns the first configured address of the host's first link that is not link-local.
func hostAddr(s *Stack) netip.Addr {
	for _, p := range s.Interfaces()[1].Addrs {
		if !isLinkLocal6(p.Addr()) {
			return p.Addr()
		}
	}
	return netip.Addr{}
}
