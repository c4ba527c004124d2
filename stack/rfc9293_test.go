package stack

import (
	"context"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// This file has the tests of the requirements of RFC 9293 that the host meets outside of the state
// machine. docs/rfc9293.md is generated from the comments of these tests.

// tcpSegment makes a segment from 192.0.2.2 to dst with its checksum.
func tcpSegment(dst netip.Addr, h wire.TCP) []byte {
	b := make([]byte, h.Len())
	h.Put(b)
	wire.SetTCPChecksum(addr("192.0.2.2"), dst, b)
	return b
}

// segments returns the TCP segments that the host has sent since the last call, with their sources and
// their IP packets. It checks the checksums.
func (p *peer) segments() (list []wire.TCP, sources []netip.Addr, packets [][]byte) {
	p.t.Helper()
	for _, f := range p.take() {
		_, packet, _ := wire.ParseEthernet(f)
		ip, payload, r := wire.ParseIPv4(packet)
		require.Equal(p.t, wire.OK, r)
		if ip.Proto != wire.ProtoTCP {
			continue
		}
		// RFC 9293 3.1: "the sender MUST generate it".
		require.True(p.t, wire.TCPChecksumOK(ip.Src, ip.Dst, payload))
		h, _, r := wire.ParseTCP(payload)
		require.Equal(p.t, wire.OK, r)
		list, sources, packets = append(list, h), append(sources, ip.Src), append(packets, packet)
	}
	return list, sources, packets
}

// dialing dials in the background. It returns the SYN, its source and its packet, and a function that
// returns the result of the dial. If the dial is still in progress, this function cancels it.
func dialing(t *testing.T, s *Stack, p *peer, local netip.AddrPort) (syn wire.TCP, src netip.Addr, packet []byte, wait func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	done := make(chan error, 1)
	go func() {
		_, err := s.DialTCP(ctx, FamilyAny, local, addrPort("192.0.2.2:80"), TCPOptions{})
		done <- err
	}()
	synctest.Wait()
	list, sources, packets := p.segments()
	require.Len(t, list, 1)
	require.Equal(t, wire.FlagSYN, list[0].Flags)
	return list[0], sources[0], packets[0], func() error {
		synctest.Wait()
		select {
		case err := <-done:
			return err
		default:
			cancel()
			return <-done
		}
	}
}

func TestInitialSequenceNumbersAreUnpredictableAndFollowTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := hostAndPeer(t)
		other, _ := hostAndPeer(t, func(c *Config) {
			c.Rand = func(p []byte) {
				for i := range p {
					p[i] = 7
				}
			}
		})
		a, b, c := addrPort("192.0.2.1:1000"), addrPort("192.0.2.2:80"), addrPort("192.0.2.2:81")
		isn := func(s *Stack, local, remote netip.AddrPort) tcp.Seq {
			k := makeTuple(local, remote, 0)
			return s.isn(s.now(), &k)
		}
		first := isn(s, a, b)
		require.Equal(t, first, isn(s, a, b))
		// RFC 9293 SHLD-1, MUST-9: another connection and another host's secret
		// give unrelated numbers.
		require.NotEqual(t, first, isn(s, a, c))
		require.NotEqual(t, first, isn(other, a, b))
		require.NotEqual(t, isn(s, a, c)-first, isn(other, a, c)-isn(other, a, b), "no difference carries over")
		// RFC 9293 MUST-8: the clock ticks every 4 microseconds.
		time.Sleep(4 * time.Millisecond)
		require.Equal(t, first+1000, isn(s, a, b))
	})
}

func TestIPChoosesTheAddressOfASYNUnlessTheCallerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t, func(c *Config) {
			c.NICs[0].Addrs = append(c.NICs[0].Addrs, prefix("192.0.2.9/24"))
		})
		p.segments()
		// RFC 9293 MUST-44: IP chooses.
		_, src, _, wait := dialing(t, s, p, netip.AddrPort{})
		require.Equal(t, addr("192.0.2.1"), src)
		require.ErrorIs(t, wait(), context.Canceled)
		// RFC 9293 MUST-43: the caller chooses.
		syn, src, _, wait := dialing(t, s, p, addrPort("192.0.2.9:0"))
		require.Equal(t, addr("192.0.2.9"), src)
		// RFC 9293 MUST-45: later segments have the same source.
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP, Dst: src}, tcpSegment(src, wire.TCP{
			SrcPort: 80, DstPort: syn.SrcPort, Seq: 100, Ack: syn.Seq + 1, Flags: wire.FlagSYN | wire.FlagACK, Window: 1000,
		}))
		require.NoError(t, wait())
		list, sources, _ := p.segments()
		require.NotEmpty(t, list)
		require.Equal(t, wire.FlagACK, list[0].Flags)
		require.Equal(t, src, sources[0])
	})
}

// RFC 9293 MUST-67: the MSS option is the size of the largest segment that can be received: the MTU
// without headers.
func TestTheMSSOptionIsTheMTUWithoutHeaders(t *testing.T) {
	for mtu, mss := range map[int]uint16{1500: 1460, 9000: 8960, 576: 536} {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndPeerOn(t, nic.PipeConfig{NoTxChecksum: true, MTU: mtu}, func(c *Config) {
				c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
			})
			p.take()
			syn, _, _, wait := dialing(t, s, p, netip.AddrPort{})
			require.Equal(t, mss, syn.MSS)
			require.ErrorIs(t, wait(), context.Canceled)
		})
	}
}

// RFC 9293 MUST-46: an OPEN to an address that cannot be a host's is an error.
func TestAnOpenToAGroupFails(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	for _, to := range []string{"255.255.255.255:80", "192.0.2.255:80", "224.0.0.1:80"} {
		_, err := s.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort(to), TCPOptions{})
		require.ErrorIs(t, err, syscall.ENETUNREACH, to)
	}
	require.Empty(t, p.sent())
}

// RFC 9293 MUST-57: a SYN to a broadcast or multicast address is discarded
// silently, and so is any other segment.
func TestASegmentToAGroupIsDiscardedSilently(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	l, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	defer l.Close()
	p.sent()
	for _, dst := range []netip.Addr{addr("255.255.255.255"), addr("192.0.2.255"), addr("224.0.0.1")} {
		mac := wire.Broadcast()
		if dst.IsMulticast() {
			mac = wire.MulticastMAC(dst)
		}
		for _, flags := range []wire.TCPFlags{wire.FlagSYN, wire.FlagACK} {
			p.ip(mac, wire.IPv4{Proto: wire.ProtoTCP, Dst: dst}, tcpSegment(dst, wire.TCP{SrcPort: 9, DstPort: 80, Flags: flags}))
		}
	}
	require.Empty(t, p.sent())
	require.Equal(t, 6, dropped(s, dropTCPBroadcast), "%v", s.Stats().Drops)
	// The listener still accepts connections.
	p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{SrcPort: 9, DstPort: 80, Flags: wire.FlagSYN}))
	require.Len(t, p.sent(), 1)
}

// RFC 9293 MUST-3: a segment whose checksum is wrong is dropped.
func TestASegmentWithAWrongChecksumIsDropped(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	b := tcpSegment(addr("192.0.2.1"), wire.TCP{SrcPort: 9, DstPort: 80, Flags: wire.FlagSYN})
	b[16] ^= 1 // a byte of the checksum
	p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, b)
	require.Empty(t, p.sent())
	require.Equal(t, 1, dropped(s, wire.BadTCPChecksum))
	b[16] ^= 1 // restores the checksum
	p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, b)
	list, _, _ := p.segments() // RFC 9293 MUST-2: the answer has a checksum.
	require.Len(t, list, 1)
	require.Equal(t, wire.FlagRST|wire.FlagACK, list[0].Flags)
}

// RFC 9293 MUST-50: IP options that TCP does not know are ignored.
func TestIPOptionsOfASegmentAreIgnored(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	l, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	defer l.Close()
	p.segments()
	routerAlert := []byte{148, 4, 0, 0}
	p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP, Options: routerAlert}, tcpSegment(addr("192.0.2.1"), wire.TCP{SrcPort: 9, DstPort: 80, Flags: wire.FlagSYN}))
	list, _, _ := p.segments()
	require.Len(t, list, 1)
	require.Equal(t, wire.FlagSYN|wire.FlagACK, list[0].Flags)
}

func TestICMPMessagesReachTheConnectionTheyQuote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		_, _, packet, wait := dialing(t, s, p, netip.AddrPort{})
		// RFC 9293 MUST-55: Source Quench is discarded silently.
		p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPSourceQuench, 0, 0, packet[:28]))
		synctest.Wait()
		require.Empty(t, p.sent())
		// RFC 9293 MUST-54: other messages reach the connection that they quote.
		strange := append([]byte(nil), packet[:28]...)
		strange[wire.IPv4Len+7]++ // a sequence number that is not in flight
		p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachPort, 0, strange))
		synctest.Wait()
		require.Equal(t, 1, dropped(s, dropICMPSequence))
		p.ip(macA, wire.IPv4{Proto: wire.ProtoICMP}, quote(wire.ICMPUnreachable, wire.UnreachPort, 0, packet[:28]))
		require.ErrorIs(t, wait(), syscall.ECONNREFUSED)
	})
}

func TestAConnectionsTOSAndTTLCanBeSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndKnownPeer(t)
		done := dialKnownPeer(t, s)
		list, _, packets := p.segments()
		require.Len(t, list, 1)
		syn := list[0]
		first, _, _ := wire.ParseIPv4(packets[0])
		require.EqualValues(t, 0, first.TOS)
		require.EqualValues(t, 64, first.TTL)
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{
			SrcPort: 80, DstPort: syn.SrcPort, Seq: 100, Ack: syn.Seq + 1, Flags: wire.FlagSYN | wire.FlagACK, Window: 1000,
		}))
		c := <-done
		p.segments()
		// RFC 9293 MUST-48, MUST-49, SHLD-21, SHLD-22: both may be changed at any
		// time, and are sent unchanged.
		for _, v := range []struct{ tos, ttl, wantTTL uint8 }{{0xb8, 7, 7}, {0x20, 255, 255}, {0, 0, 64}} {
			require.NoError(t, c.SetTOS(v.tos|1))
			require.NoError(t, c.SetTTL(v.ttl))
			require.Equal(t, v.tos, c.TOS(), "without the bits of ECN")
			require.Equal(t, v.wantTTL, c.TTL())
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
			_, _, packets := p.segments()
			require.Len(t, packets, 1)
			h, _, _ := wire.ParseIPv4(packets[0])
			require.Equal(t, v.tos, h.TOS)
			require.Equal(t, v.wantTTL, h.TTL)
			// RFC 9293 SHLD-23: a retransmission has the same values.
			time.Sleep(time.Duration(c.Info().RTO) + timerSlots)
			synctest.Wait()
			_, _, packets = p.segments()
			require.NotEmpty(t, packets)
			h, _, _ = wire.ParseIPv4(packets[0])
			require.Equal(t, v.tos, h.TOS)
			syn.Seq++
			p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{
				SrcPort: 80, DstPort: syn.SrcPort, Seq: 101, Ack: syn.Seq + 1, Flags: wire.FlagACK, Window: 1000,
			}))
			p.segments()
		}
		c.SetLinger(0)
		c.Close()
		require.ErrorIs(t, c.SetTOS(0), net.ErrClosed)
		require.ErrorIs(t, c.SetTTL(0), net.ErrClosed)
	})
}

// A listener drops segments without SYN, ACK and RST, which nmap -sN, -sF and -sX send.
func TestAListenerDropsSegmentsWithoutFlags(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	_, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	all := []wire.TCPFlags{0, wire.FlagFIN, wire.FlagPSH, wire.FlagFIN | wire.FlagPSH | wire.FlagURG}
	for _, flags := range all {
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{SrcPort: 9, DstPort: 80, Seq: 5, Flags: flags}))
		require.Empty(t, p.take(), "%v", flags)
		// RFC 9293 3.10.7.1: without a listener, the answer is a RST.
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{SrcPort: 9, DstPort: 81, Seq: 5, Flags: flags}))
		list, _, _ := p.segments()
		require.Len(t, list, 1)
		require.Equal(t, wire.FlagRST|wire.FlagACK, list[0].Flags)
	}
	require.Equal(t, len(all), dropped(s, dropTCPListen))
}

func TestListeningOnAPortLeavesItsConnectionsAlone(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	l, err := s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	open := func(port uint16) (synAck wire.TCP) {
		p.segments()
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{SrcPort: port, DstPort: 80, Flags: wire.FlagSYN}))
		list, _, _ := p.segments()
		require.Len(t, list, 1)
		require.Equal(t, wire.FlagSYN|wire.FlagACK, list[0].Flags)
		return list[0]
	}
	ack := func(port uint16, synAck wire.TCP) {
		p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, tcpSegment(addr("192.0.2.1"), wire.TCP{
			SrcPort: port, DstPort: 80, Seq: 1, Ack: synAck.Seq + 1, Flags: wire.FlagACK, Window: 1000,
		}))
	}
	// RFC 9293 MUST-42: the port accepts further SYNs while a connection is in SYN-RECEIVED.
	first, second := open(1), open(2)
	// RFC 9293 MUST-41: a second LISTEN fails and changes nothing.
	_, err = s.ListenTCP(FamilyAny, addrPort("192.0.2.1:80"), ListenOptions{})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
	ack(2, second)
	ack(1, first)
	for _, want := range []string{"192.0.2.2:2", "192.0.2.2:1"} {
		c, err := l.Accept()
		require.NoError(t, err)
		require.Equal(t, addrPort(want), c.RemoteAddr())
	}
	// After the listener is closed, another listener can be opened while the connections are open.
	require.NoError(t, l.Close())
	l, err = s.ListenTCP(FamilyAny, addrPort("0.0.0.0:80"), ListenOptions{})
	require.NoError(t, err)
	ack(3, open(3))
	c, err := l.Accept()
	require.NoError(t, err)
	require.Equal(t, addrPort("192.0.2.2:3"), c.RemoteAddr())
}
