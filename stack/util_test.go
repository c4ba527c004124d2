package stack

import (
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

func addr(s string) netip.Addr         { return netip.MustParseAddr(s) }
func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }
func prefix(s string) netip.Prefix     { return netip.MustParsePrefix(s) }

var (
	macA = wire.MAC{2, 0, 0, 0, 0, 0xa}
	macB = wire.MAC{2, 0, 0, 0, 0, 0xb}
)

// testRand returns a Config.Rand that gives the same bytes in every test.
func testRand() func(p []byte) {
	var mu sync.Mutex
	x := uint64(1)
	return func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		for i := range p {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
			p[i] = byte(x >> 32)
		}
	}
}

// newHost makes a stack with an address on a device. Both are closed at the end of the test. If the
// configuration has no IPv6 address, newHost sets NoIPv6, so that tests of IPv4 see no other frames.
func newHost(t testing.TB, dev nic.Device, address string, change ...func(*Config)) *Stack {
	t.Helper()
	if overIPv6(t) {
		address = strings.NewReplacer("192.0.2.", "2001:db8::", "/24", "/64").Replace(address)
	}
	cfg := Config{
		NICs: []NIC{{Name: "eth0", Device: dev, Addrs: []netip.Prefix{prefix(address)}}},
		Rand: testRand(),
	}
	for _, f := range change {
		f(&cfg)
	}
	cfg.NoIPv6 = !slices.ContainsFunc(cfg.NICs, func(n NIC) bool {
		return n.Auto || slices.ContainsFunc(n.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() })
	})
	s, err := New(cfg)
	require.NoError(t, err)
	for _, n := range cfg.NICs {
		if ifc := s.ifaceNamed(n.Name); ifc != nil {
			ifc.oneQueue = n.OneQueue // although Rand is set, so that the tests use all queues
		}
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// twoHosts makes the hosts 192.0.2.1 and 192.0.2.2 on a pipe.
func twoHosts(t testing.TB, cfg nic.PipeConfig) (a, b *Stack) {
	t.Helper()
	cfg.MACs = [2][6]byte{macA, macB}
	da, db := nic.Pipe(cfg)
	return newHost(t, da, "192.0.2.1/24"), newHost(t, db, "192.0.2.2/24")
}

// A peer is the test's end of a pipe to a host. It records the frames that the host sends, and sends
// frames of the test to the host.
type peer struct {
	t   testing.TB
	dev *nic.PipeEnd

	mu     sync.Mutex
	frames [][]byte
}

// hostAndPeer makes the host 192.0.2.1 on a plain Ethernet, with a peer at the other end.
func hostAndPeer(t testing.TB, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	return hostAndPeerOn(t, nic.PipeConfig{NoTxChecksum: true}, change...)
}

// hostAndPeerOn makes the host 192.0.2.1 on a pipe, with a peer at the other end.
func hostAndPeerOn(t testing.TB, cfg nic.PipeConfig, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	cfg.MACs = [2][6]byte{macA, macB}
	da, db := nic.Pipe(cfg)
	p := &peer{t: t, dev: db}
	db.Attach(func(batch []nic.Frame) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i := range batch {
			p.frames = append(p.frames, batch[i].AppendTo(nil))
		}
	})
	s := newHost(t, da, "192.0.2.1/24", change...)
	return s, p
}

// sent describes the frames that the host has sent since the last call of sent or take.
func (p *peer) sent() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var lines []string
	for _, f := range p.frames {
		lines = append(lines, wire.Describe(f))
	}
	p.frames = nil
	return lines
}

// take returns the frames that the host has sent since the last call of sent or take.
func (p *peer) take() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	fs := p.frames
	p.frames = nil
	return fs
}

// send sends a frame to the host.
func (p *peer) send(frame []byte) {
	p.t.Helper()
	n, err := p.dev.Send([]nic.Frame{{Head: frame}})
	require.NoError(p.t, err)
	require.Equal(p.t, 1, n)
}

// arp sends an ARP packet to the MAC address to, from h.SenderMAC.
func (p *peer) arp(to wire.MAC, h wire.ARP) {
	p.t.Helper()
	b := make([]byte, wire.EthernetLen+wire.ARPLen)
	eth := wire.Ethernet{Dst: to, Src: h.SenderMAC, Type: wire.EtherTypeARP}
	eth.Put(b)
	h.Put(b[wire.EthernetLen:])
	p.send(b)
}

// reply sends an ARP reply for 192.0.2.2.
func (p *peer) reply() {
	p.arp(macA, wire.ARP{Op: wire.ARPReply, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetMAC: macA, TargetIP: addr("192.0.2.1")})
}

// ip sends an IPv4 packet from macB to the MAC address to.
func (p *peer) ip(to wire.MAC, h wire.IPv4, payload []byte) {
	p.t.Helper()
	p.send(ethernet(to, ipPacket(h, payload)))
}

// ethernet returns a frame from macB with an IPv4 packet.
func ethernet(to wire.MAC, packet []byte) []byte {
	b := make([]byte, wire.EthernetLen, wire.EthernetLen+len(packet))
	eth := wire.Ethernet{Dst: to, Src: macB, Type: wire.EtherTypeIPv4}
	eth.Put(b)
	return append(b, packet...)
}

// ipPacket returns a packet, by default from 192.0.2.2 to 192.0.2.1.
func ipPacket(h wire.IPv4, payload []byte) []byte {
	if h.TTL == 0 {
		h.TTL = 64
	}
	if !h.Src.IsValid() {
		h.Src = addr("192.0.2.2")
	}
	if !h.Dst.IsValid() {
		h.Dst = addr("192.0.2.1")
	}
	b := make([]byte, h.HeaderLen()+len(payload))
	h.Put(b, len(payload))
	copy(b[h.HeaderLen():], payload)
	return b
}

// udpDatagram returns a UDP datagram with its checksum.
func udpDatagram(src, dst netip.AddrPort, payload []byte) []byte {
	b := make([]byte, wire.UDPLen+len(payload))
	h := wire.UDP{SrcPort: src.Port(), DstPort: dst.Port()}
	h.Put(b, len(payload))
	copy(b[wire.UDPLen:], payload)
	wire.SetUDPChecksum(src.Addr(), dst.Addr(), b)
	return b
}

func echoRequest(id, seq uint16, body []byte) []byte {
	b := make([]byte, wire.ICMPLen+len(body))
	h := wire.ICMP{Type: wire.ICMPEcho, Rest: wire.EchoRest(id, seq)}
	h.Put(b, body)
	return b
}

// openUDP opens a UDP socket. The socket is closed at the end of the test.
func openUDP(t testing.TB, s *Stack, local string) *UDP {
	t.Helper()
	u, err := s.OpenUDP(FamilyAny, addrPort(local))
	require.NoError(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

// dropped returns the number of packets dropped for a reason.
func dropped(s *Stack, r wire.Reason) int { return int(s.counts.drops[r].Load()) }

// elsewhere runs f in another goroutine and waits for it. The lock order forbids the goroutine of the test
// to run f, because f takes locks that come before the locks that the test holds.
func elsewhere(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	<-done
}
