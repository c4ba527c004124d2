package stack

import (
	"log/slog"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

const whoHas2 = "02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff ARP who-has 192.0.2.2 tell 192.0.2.1"

// sendTo2 sends a datagram with the payload text from u to 192.0.2.2.
func sendTo2(t *testing.T, u *UDP, text string) {
	t.Helper()
	_, err := u.WriteTo([]byte(text), addrPort("192.0.2.2:9"), SendOptions{})
	require.NoError(t, err)
}

// payloads returns the UDP payloads in frames.
func payloads(frames [][]byte) (texts []string) {
	for _, f := range frames {
		_, p, _ := wire.ParseEthernet(f)
		if h, p, r := wire.ParseIPv4(p); r == wire.OK && h.Proto == wire.ProtoUDP {
			_, p, _ = wire.ParseUDP(p)
			texts = append(texts, string(p))
		}
	}
	return texts
}

func arpCount(frames [][]byte) (n int) {
	for _, f := range frames {
		if h, _, r := wire.ParseEthernet(f); r == wire.OK && h.Type == wire.EtherTypeARP {
			n++
		}
	}
	return n
}

func TestAnAddressIsAnnouncedWhenItsLinkComesUp(t *testing.T) {
	_, p := hostAndPeer(t)
	require.Equal(t, []string{"02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff ARP announce 192.0.2.1 is-at 02:00:00:00:00:0a"}, p.sent())
}

func TestPacketsWaitForTheirNeighbourAndLeaveInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		p.sent()
		for _, text := range []string{"1", "2", "3"} {
			sendTo2(t, u, text)
		}
		require.Equal(t, []string{whoHas2}, p.sent(), "one request, however many packets wait")
		p.reply()
		sendTo2(t, u, "4")
		frames := p.take()
		require.Equal(t, []string{"1", "2", "3", "4"}, payloads(frames))
		for _, f := range frames {
			h, _, _ := wire.ParseEthernet(f)
			require.Equal(t, macB, h.Dst)
			require.Len(t, f, wire.MinFrame, "short frames are padded")
		}
	})
}

func TestASilentNeighbourIsAskedThreeTimesASecondApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		require.NoError(t, u.Connect(addrPort("192.0.2.2:9")))
		p.sent()
		begin := time.Now()
		_, err := u.Write([]byte("lost"))
		require.NoError(t, err)
		for i := range 3 {
			synctest.Wait()
			require.Equal(t, []string{whoHas2}, p.sent(), "request %d", i)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		require.Equal(t, 3*time.Second, time.Since(begin))
		require.Empty(t, p.sent())
		require.Equal(t, 1, dropped(s, dropUnreachableNeighbor))
		require.Equal(t, "failed", s.Neighbors()[0].State.String())

		_, err = u.Write([]byte("again"))
		require.NoError(t, err, "as on Linux, a datagram socket does not report a failed resolution")
		synctest.Wait()
		require.Equal(t, []string{whoHas2}, p.sent(), "the next packet asks anew")
		p.reply()
		require.Equal(t, []string{"again"}, payloads(p.take()))
	})
}

func TestTheQueueOfANeighbourIsBoundedAndKeepsTheLatest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		const fit = maxWaiting / (256 + waitingOverhead) // each datagram waits in the smallest buffer, of 256 bytes
		for i := range fit + 2 {
			sendTo2(t, u, strconv.Itoa(i))
		}
		p.take()
		p.reply()
		got := payloads(p.take())
		require.Len(t, got, fit)
		require.Equal(t, "2", got[0])
		require.Equal(t, strconv.Itoa(fit+1), got[fit-1])
		require.Equal(t, 2, dropped(s, dropNeighborQueue))
	})
}

func TestAStaleNeighbourIsVerifiedByUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		sendTo2(t, u, "1")
		p.reply()
		p.take()
		time.Sleep(29 * time.Second)
		sendTo2(t, u, "2")
		require.Zero(t, arpCount(p.take()), "fresh")

		time.Sleep(time.Hour)
		require.Empty(t, p.take(), "without packets there are no requests")
		require.Equal(t, "stale", s.Neighbors()[0].State.String())
		// RFC 4861 7.3.3: "If the entry is still in the DELAY state when the timer
		// expires, the entry's state changes to PROBE."
		sendTo2(t, u, "3")
		require.Equal(t, []string{"3"}, payloads(p.take()), "an upper layer may confirm it first")
		require.Equal(t, "delay", s.Neighbors()[0].State.String())
		time.Sleep(5 * time.Second)
		synctest.Wait()
		require.Equal(t, []string{
			"02:00:00:00:00:0a > 02:00:00:00:00:0b ARP who-has 192.0.2.2 tell 192.0.2.1",
		}, p.sent(), "asked by unicast")
		require.Equal(t, "probe", s.Neighbors()[0].State.String())
		sendTo2(t, u, "4")
		require.Equal(t, []string{"4"}, payloads(p.take()), "meanwhile it is still used")
		p.reply()
		time.Sleep(10 * time.Second)
		require.Zero(t, arpCount(p.take()))
		require.Equal(t, "reachable", s.Neighbors()[0].State.String())

		// If the neighbour moves without an announcement, three unanswered probes show that.
		time.Sleep(time.Minute)
		sendTo2(t, u, "5")
		time.Sleep(10 * time.Second)
		require.Equal(t, 3, arpCount(p.take()))
		require.Equal(t, "failed", s.Neighbors()[0].State.String())
		sendTo2(t, u, "6")
		require.Equal(t, []string{whoHas2}, p.sent())
	})
}

func TestProgressOfAnUpperLayerKeepsANeighbourFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		sendTo2(t, u, "1")
		p.reply()
		path, err := s.route(addr("192.0.2.2"), netip.Addr{})
		require.NoError(t, err)
		for range 10 {
			time.Sleep(20 * time.Second)
			path.neigh.confirm(s.now())
		}
		p.take()
		sendTo2(t, u, "2")
		require.Equal(t, []string{"2"}, payloads(p.take()))
		require.Zero(t, arpCount(p.take()))
		(*neighbor)(nil).confirm(s.now()) // must not panic: the path of a broadcast has no neighbour
	})
}

func TestOnlyRequestersAreLearned(t *testing.T) {
	s, p := hostAndPeer(t)
	p.sent()
	macC := wire.MAC{2, 0, 0, 0, 0, 0xc}
	// An unsolicited reply makes no entry.
	p.reply()
	require.Empty(t, s.Neighbors())
	// A gratuitous request from an unknown host makes no entry.
	p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.2")})
	require.Empty(t, s.Neighbors())
	// A request for the host's address is answered, and makes an entry.
	p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")})
	require.Equal(t, []string{"02:00:00:00:00:0a > 02:00:00:00:00:0b ARP reply 192.0.2.1 is-at 02:00:00:00:00:0a"}, p.sent())
	require.Len(t, s.Neighbors(), 1)
	require.Equal(t, macB, s.Neighbors()[0].MAC)
	// A gratuitous ARP updates an existing entry.
	p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macC, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.2")})
	require.Equal(t, macC, s.Neighbors()[0].MAC)
	// A request for another address makes no entry.
	p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.8"), TargetIP: addr("192.0.2.9")})
	require.Len(t, s.Neighbors(), 1)
	// A probe for the host's address is answered, although its sender has no address.
	p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: netip.IPv4Unspecified(), TargetIP: addr("192.0.2.1")})
	require.Equal(t, []string{"02:00:00:00:00:0a > 02:00:00:00:00:0b ARP reply 192.0.2.1 is-at 02:00:00:00:00:0a"}, p.sent())
	require.Len(t, s.Neighbors(), 1)
}

func TestAFailedNeighborLearnsOnlyFromAnAnswer(t *testing.T) {
	// RFC 4861 7.2.5, of an unsolicited advertisement: "If no entry exists, the advertisement
	// SHOULD be silently discarded". A failed entry counts as no entry, because no packet waits for an
	// answer. If an advertisement could complete the entry, an attacker would get the next packets.
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		sendTo2(t, u, "lost")
		time.Sleep(10 * time.Second)
		require.Equal(t, "failed", s.Neighbors()[0].State.String())
		p.take()
		macC := wire.MAC{2, 0, 0, 0, 0, 0xc}
		for _, h := range []wire.ARP{
			{Op: wire.ARPReply, SenderMAC: macC, SenderIP: addr("192.0.2.2"), TargetMAC: macA, TargetIP: addr("192.0.2.1")},
			{Op: wire.ARPReply, SenderMAC: macC, SenderIP: addr("192.0.2.2"), TargetMAC: macC, TargetIP: addr("192.0.2.2")},
			{Op: wire.ARPRequest, SenderMAC: macC, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.2")},
		} {
			p.arp(macA, h)
			require.Equal(t, "failed", s.Neighbors()[0].State.String(), "%+v", h)
		}
		sendTo2(t, u, "again")
		require.Equal(t, []string{whoHas2}, p.sent(), "the neighbour is asked")
		p.reply()
		require.Equal(t, []string{"again"}, payloads(p.take()))
		require.Equal(t, macB, s.Neighbors()[0].MAC)
	})
}

func TestInvalidSendersAreNotLearned(t *testing.T) {
	s, p := hostAndPeer(t)
	p.sent()
	ask := wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")}
	for _, change := range []func(*wire.ARP){
		func(h *wire.ARP) { h.SenderIP = addr("224.0.0.1") },
		func(h *wire.ARP) { h.SenderIP = addr("255.255.255.255") },
		func(h *wire.ARP) { h.SenderIP = addr("127.0.0.1") },
		func(h *wire.ARP) { h.SenderMAC = wire.MAC{} },
		func(h *wire.ARP) { h.SenderMAC = macA },
	} {
		h := ask
		change(&h)
		p.arp(wire.Broadcast(), h)
	}
	require.Equal(t, 5, dropped(s, dropBadARPSender))
	require.Empty(t, s.Neighbors())
	require.Empty(t, p.sent())
}

func TestAnAddressIsDefendedOnceInTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log strings.Builder
		s, p := hostAndPeer(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		announcement := p.sent()
		thief := wire.ARP{Op: wire.ARPReply, SenderMAC: macB, SenderIP: addr("192.0.2.1"), TargetMAC: macA, TargetIP: addr("192.0.2.7")}
		for range 5 {
			p.arp(wire.Broadcast(), thief)
		}
		require.Equal(t, announcement, p.sent())
		time.Sleep(10 * time.Second)
		p.arp(wire.Broadcast(), thief)
		require.Equal(t, announcement, p.sent())
		require.Equal(t, 6, dropped(s, dropAddressConflict))
		require.Equal(t, 2, strings.Count(log.String(), "in use"))
	})
}

func TestStaticNeighboursAreNeitherAskedNorChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t, func(c *Config) {
			c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
		})
		p.sent()
		u := openUDP(t, s, "0.0.0.0:9")
		time.Sleep(time.Hour)
		sendTo2(t, u, "1")
		require.Equal(t, []string{"1"}, payloads(p.take()))
		p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: wire.MAC{2, 1}, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")})
		p.take()
		s.FlushNeighbors()
		sendTo2(t, u, "2")
		require.Equal(t, []string{"2"}, payloads(p.take()))
		require.Equal(t, []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB, State: NeighborPermanent}}, s.Neighbors())

		require.NoError(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("192.0.2.2")}))
		require.Empty(t, s.Neighbors())
		sendTo2(t, u, "3")
		require.Equal(t, []string{whoHas2}, p.sent())
		// Waiting packets leave as soon as the address is set.
		require.NoError(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}))
		require.Equal(t, []string{"3"}, payloads(p.take()))

		require.Error(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("192.0.2.1"), MAC: macB}))
		require.Error(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("224.0.0.1"), MAC: macB}))
		require.Error(t, s.SetNeighbor(Neighbor{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: wire.Broadcast()}))
		require.Error(t, s.SetNeighbor(Neighbor{NIC: "lo", Addr: addr("192.0.2.2"), MAC: macB}))
	})
}

func TestFlushInvalidatesPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		sendTo2(t, u, "1")
		p.reply()
		s.FlushNeighbors()
		require.Empty(t, s.Neighbors())
		p.take()
		sendTo2(t, u, "2")
		require.Equal(t, []string{whoHas2}, p.sent())
		p.reply()
		require.Equal(t, []string{"2"}, payloads(p.take()))
	})
}

func TestTheNeighbourTableIsBoundedAndKeepsWhatIsResolved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeerOn(t, nic.PipeConfig{NoTxChecksum: true}, func(c *Config) {
			c.NICs[0].Addrs = []netip.Prefix{prefix("192.0.2.1/24"), prefix("10.0.0.1/8")}
		})
		u := openUDP(t, s, "0.0.0.0:9")
		sendTo2(t, u, "1")
		p.reply()
		// A scan of unused addresses does not evict the neighbour.
		a := addr("10.0.0.2")
		for range 3 * maxNeighbors {
			_, err := u.WriteTo([]byte("x"), netip.AddrPortFrom(a, 9), SendOptions{})
			require.NoError(t, err)
			a = a.Next()
		}
		require.Len(t, s.Neighbors(), maxNeighbors)
		table := s.ifaceNamed("eth0").neigh4
		table.mu.Lock()
		require.LessOrEqual(t, table.waiting, maxWaitingTotal)
		table.mu.Unlock()
		p.take()
		sendTo2(t, u, "2")
		require.Equal(t, []string{"2"}, payloads(p.take()), "the neighbour that answered is still in the table")
		time.Sleep(time.Minute)
		table.mu.Lock()
		defer table.mu.Unlock()
		require.Empty(t, table.asking)
		require.Zero(t, table.waiting)
	})
}

func TestLookingANeighbourUpAllocatesNothing(t *testing.T) {
	n := &neighbor{}
	n.reachable.Store(int64(reachableTime))
	n.word.Store(packNeighbor(macB, NeighborReachable))
	var got macWord
	var ok bool
	require.Zero(t, testing.AllocsPerRun(100, func() { got, ok = n.lookup(tcp.Time(time.Second)) }))
	require.True(t, ok)
	var mac wire.MAC
	got.put(mac[:])
	require.Equal(t, macB, mac)
	_, ok = n.lookup(reachableTime)
	require.False(t, ok)
}

// sendTCP sends a segment from 192.0.2.2.
func sendTCP(p *peer, h wire.TCP, data []byte) {
	b := make([]byte, h.Len()+len(data))
	h.Put(b)
	copy(b[h.Len():], data)
	wire.SetTCPChecksum(addr("192.0.2.2"), addr("192.0.2.1"), b)
	p.ip(macA, wire.IPv4{Proto: wire.ProtoTCP}, b)
}

// RFC 4861 7.3.1: "receipt of a (new) acknowledgment indicates that previously sent data
// reached the peer". A received segment does not show that the host's segments arrive.
func TestSegmentsAloneDoNotConfirmANeighbour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		l, err := s.ListenTCP(Family4, addrPort("0.0.0.0:80"), ListenOptions{})
		require.NoError(t, err)
		ask := wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr("192.0.2.1")}
		p.arp(wire.Broadcast(), ask)
		require.Equal(t, "stale", s.Neighbors()[0].State.String(), "a request does not show that the peer receives")
		seg := wire.TCP{SrcPort: 5555, DstPort: 80, Seq: 1000, Window: 60000, Flags: wire.FlagSYN}
		sendTCP(p, seg, nil)
		frames := p.take()
		_, b, _ := wire.ParseEthernet(frames[len(frames)-1])
		_, b, _ = wire.ParseIPv4(b)
		answer, _, r := wire.ParseTCP(b)
		require.Equal(t, wire.OK, r)
		require.Equal(t, "delay", s.Neighbors()[0].State.String())
		seg.Seq, seg.Ack, seg.Flags = 1001, answer.Seq+1, wire.FlagACK
		sendTCP(p, seg, nil)
		_, err = l.Accept()
		require.NoError(t, err)
		require.Equal(t, "reachable", s.Neighbors()[0].State.String(), "the host's SYN was acknowledged")
		// From now on the host's answers are lost, and the peer retransmits.
		begin := time.Now()
		for time.Since(begin) < time.Minute {
			sendTCP(p, seg, []byte("again"))
			time.Sleep(500 * time.Millisecond)
			if arpCount(p.take()) > 0 {
				break
			}
		}
		require.Less(t, time.Since(begin), time.Minute, "the host probes the peer")
	})
}

// RFC 4861 7.3.1: an acknowledgment of new data confirms the neighbour.
//
// RFC 4861 SHLD-8.
func TestNewAcknowledgementsKeepANeighbourFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := twoHosts(t, nic.PipeConfig{})
		c, d := connect(t, a, b)
		for range 200 {
			_, err := c.Write([]byte("x"))
			require.NoError(t, err)
			_, err = d.Read(make([]byte, 10))
			require.NoError(t, err)
			time.Sleep(time.Second)
			require.Equal(t, "reachable", a.Neighbors()[0].State.String())
		}
	})
}

func TestAnOffLinkSenderIsNotLearned(t *testing.T) {
	s, p := hostAndPeer(t)
	p.sent()
	p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("198.51.100.7"), TargetIP: addr("192.0.2.1")})
	require.Len(t, p.sent(), 1, "the request is answered, as on Linux")
	require.Empty(t, s.Neighbors())
}

// RFC 1122 2.3.2.2: "at least one (the latest) packet of each set of packets destined to the
// same unresolved IP address".
func TestDeadNeighboursDisplaceNoLivePacket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		u := openUDP(t, s, "0.0.0.0:9")
		large := make([]byte, 1400)
		for i := range 100 {
			for range 100 {
				to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)}), 9)
				_, err := u.WriteTo(large, to, SendOptions{})
				require.NoError(t, err)
			}
		}
		sendTo2(t, u, "live")
		for i := range 50 { // later packets, for other neighbours
			to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(50 + i)}), 9)
			_, err := u.WriteTo(large, to, SendOptions{})
			require.NoError(t, err)
		}
		nt := s.ifaceNamed("eth0").neigh4
		nt.mu.Lock()
		// Above keepLatestAbove, each of less than 200 neighbours keeps one packet, in a buffer of 2048 bytes.
		require.LessOrEqual(t, nt.waiting, keepLatestAbove+200*(2048+waitingOverhead))
		for _, n := range nt.m {
			require.NotEmpty(t, n.waiting.list, "each neighbour keeps its latest packet")
		}
		nt.mu.Unlock()
		p.take()
		p.reply()
		require.Equal(t, []string{"live"}, payloads(p.take()))
		time.Sleep(10 * time.Second)
		nt.mu.Lock()
		defer nt.mu.Unlock()
		require.Zero(t, nt.waiting)
	})
}

// The total number of bytes that wait for the neighbours of an interface is bounded too. Above the bound,
// the datagrams for the neighbours whose resolution began first are dropped.
func TestLargeDatagramsForManyNeighboursAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeerOn(t, nic.PipeConfig{NoTxChecksum: true}, func(c *Config) {
			c.NICs[0].Addrs = []netip.Prefix{prefix("192.0.2.1/24"), prefix("10.0.0.1/8")}
		})
		u := openUDP(t, s, "0.0.0.0:9")
		large, a := make([]byte, 60_000), addr("10.0.0.2")
		const n = 400 // 24 MB
		for range n {
			_, err := u.WriteTo(large, netip.AddrPortFrom(a, 9), SendOptions{})
			require.NoError(t, err)
			a = a.Next()
			p.take() // discard the ARP request
		}
		nt := s.ifaceNamed("eth0").neigh4
		nt.mu.Lock()
		waiting, kept := nt.waiting, 0
		for _, n := range nt.m {
			kept += len(n.waiting.list)
		}
		oldest, newest := len(nt.m[addr("10.0.0.2")].waiting.list), len(nt.m[a.Prev()].waiting.list)
		nt.mu.Unlock()
		require.LessOrEqual(t, waiting, maxWaitingTotal)
		require.Greater(t, waiting, maxWaitingTotal*3/4)
		require.Zero(t, oldest)
		require.Equal(t, 1, newest)
		require.Equal(t, n-kept, dropped(s, dropNeighborQueue))
		time.Sleep(10 * time.Second)
		require.Equal(t, n, dropped(s, dropNeighborQueue)+dropped(s, dropUnreachableNeighbor))
	})
}

// A fragmented datagram waits as a whole, and is dropped as a whole.
func TestALargeDatagramWaitsForItsNeighbourWhole(t *testing.T) {
	for _, mtu := range []int{68, 576, 1500} {
		synctest.Test(t, func(t *testing.T) {
			s, p := hostAndPeerOn(t, nic.PipeConfig{NoTxChecksum: true, MTU: mtu})
			u := openUDP(t, s, "0.0.0.0:9")
			p.take()
			const n = 65507
			for range 5 {
				_, err := u.WriteTo(make([]byte, n), addrPort("192.0.2.2:9"), SendOptions{})
				require.NoError(t, err)
			}
			p.take()
			p.reply()
			bytes := map[uint16]int{}
			first := map[uint16]bool{}
			for _, f := range p.take() {
				_, b, _ := wire.ParseEthernet(f)
				if h, payload, r := wire.ParseIPv4(b); r == wire.OK {
					bytes[h.ID] += len(payload)
					first[h.ID] = first[h.ID] || h.FragOffset == 0
				}
			}
			require.NotEmpty(t, bytes)
			require.Less(t, len(bytes), 5, "the queue does not hold all datagrams")
			for id, got := range bytes {
				require.Equal(t, n+wire.UDPLen, got, "whole")
				require.True(t, first[id])
			}
			require.Equal(t, 5-len(bytes), dropped(s, dropNeighborQueue))
		})
	}
}

// A scan that fills the table does not invalidate the paths to other neighbours.
func TestAnEvictionInvalidatesOnlyItsPaths(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeerOn(t, nic.PipeConfig{NoTxChecksum: true}, func(c *Config) {
			c.NICs[0].Addrs = []netip.Prefix{prefix("192.0.2.1/24"), prefix("10.0.0.1/8")}
		})
		u := openUDP(t, s, "0.0.0.0:9")
		sendTo2(t, u, "1")
		p.reply()
		live, err := s.route(addr("192.0.2.2"), netip.Addr{})
		require.NoError(t, err)
		first, err := s.route(addr("10.0.0.2"), netip.Addr{})
		require.NoError(t, err)
		gen := s.gen.Load()
		a := addr("10.0.0.2")
		for range 2 * maxNeighbors {
			_, err := u.WriteTo([]byte("x"), netip.AddrPortFrom(a, 9), SendOptions{})
			require.NoError(t, err)
			a = a.Next()
		}
		require.Equal(t, gen, s.gen.Load())
		require.True(t, live.valid(s))
		require.False(t, first.valid(s), "its neighbour was evicted")
	})
}

// RFC 3927 2.5: "All ARP packets (*replies* as well as requests) that contain a Link-Local 'sender IP address' MUST be
// sent using link-layer broadcast instead of link-layer unicast."
func TestARPOfLinkLocalAddressesIsBroadcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p := hostAndPeer(t)
		require.NoError(t, s.AddAddr("", netip.MustParsePrefix("169.254.7.7/16"), AddrOptions{Origin: AddrLinkLocal}))
		for target, want := range map[string]wire.MAC{"192.0.2.1": macB, "169.254.7.7": wire.Broadcast()} {
			p.take()
			p.arp(wire.Broadcast(), wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr("192.0.2.2"), TargetIP: addr(target)})
			frames := p.take()
			require.Len(t, frames, 1)
			require.Equal(t, want, wire.MAC(frames[0][:6]))
		}
	})
}
