package stack

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A piece is a fragment's range of bytes in the datagram: from off up to, but without, end.
type piece struct{ off, end int }

// fragment sends the fragment f of a UDP datagram over IPv4.
func (p *peer) fragment(id uint16, datagram []byte, f piece) {
	p.t.Helper()
	p.ip(macA, wire.IPv4{
		Proto: wire.ProtoUDP, ID: id, FragOffset: uint16(f.off), MoreFragments: f.end < len(datagram),
	}, datagram[f.off:f.end])
}

// fragmentHost makes a host with a known peer. It returns them, a socket of the host, a UDP datagram to
// that socket, and the datagram's payload of 3000 bytes.
func fragmentHost(t *testing.T) (*Stack, *peer, *UDP, []byte, []byte) {
	t.Helper()
	s, p := hostAndKnownPeer(t)
	u := openUDP(t, s, "192.0.2.1:9")
	require.NoError(t, u.SetReadBuffer(1<<20))
	payload := make([]byte, 3000)
	for i := range payload {
		payload[i] = byte(i * 7)
	}
	return s, p, u, udpDatagram(addrPort("192.0.2.2:9"), addrPort("192.0.2.1:9"), payload), payload
}

// A fragmentTest is a host that receives fragments of datagram, a UDP datagram with a payload of 3000
// bytes, over IPv4 or IPv6.
type fragmentTest struct {
	s                 *Stack
	p                 *peer
	u                 *UDP
	frags             *reassembly // s.frags or s.frags6
	datagram, payload []byte
	v6                bool
}

// fragment sends a fragment of a datagram.
func (f *fragmentTest) fragment(id uint16, datagram []byte, at piece) {
	f.p.t.Helper()
	if f.v6 {
		f.p.fragment6(uint32(id)<<14, datagram, at) // use high bits: an IPv6 identification has 32 bits
		return
	}
	f.p.fragment(id, datagram, at)
}

// overBothFamilies runs a test of reassembly over IPv4 and over IPv6.
func overBothFamilies(t *testing.T, test func(t *testing.T, f *fragmentTest)) {
	t.Run("IPv4", func(t *testing.T) {
		var f fragmentTest
		f.s, f.p, f.u, f.datagram, f.payload = fragmentHost(t)
		f.frags = &f.s.frags
		test(t, &f)
	})
	t.Run("IPv6", func(t *testing.T) {
		f := fragmentTest{v6: true}
		f.s, f.p, f.u, f.datagram, f.payload = fragmentHost6(t)
		f.frags = &f.s.frags6
		test(t, &f)
	})
}

// queued takes a datagram from the socket's queue and returns its payload, or nil if there is none.
func queued(t *testing.T, u *UDP) []byte {
	t.Helper()
	require.NoError(t, u.SetReadDeadline(time.Now().Add(-1)))
	defer u.SetReadDeadline(time.Time{})
	u.mu.Lock()
	n := u.queue.n
	u.mu.Unlock()
	if n == 0 {
		return nil
	}
	require.NoError(t, u.SetReadDeadline(time.Time{}))
	b := make([]byte, 65536)
	got, _, _, _, err := u.ReadFrom(b)
	require.NoError(t, err)
	return b[:got]
}

// RFC 8200 MUST-21.
func TestFragmentsAreReassembledInAnyOrder(t *testing.T) {
	overBothFamilies(t, func(t *testing.T, f *fragmentTest) {
		rnd := rand.New(rand.NewPCG(3, 4))
		for id := range uint16(100) {
			var pieces []piece
			for off := 0; off < len(f.datagram); {
				end := min(off+8*int(1+rnd.UintN(60)), len(f.datagram))
				pieces = append(pieces, piece{off, end})
				off = end
			}
			rnd.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
			for i, at := range pieces {
				require.Nil(t, queued(t, f.u))
				f.fragment(id, f.datagram, at)
				if i+1 < len(pieces) && rnd.UintN(3) == 0 {
					f.fragment(id, f.datagram, at) // a duplicate is harmless
				}
			}
			require.True(t, bytes.Equal(f.payload, queued(t, f.u)), "datagram %d", id)
		}
		require.Empty(t, f.frags.m)
		require.Zero(t, f.frags.cost)
		require.Zero(t, f.frags.byAge.Len())
		require.Empty(t, f.p.take())
	})
}

// RFC 5722 4, RFC 8200 4.5: "If any of the fragments being reassembled overlap with any other fragments being
// reassembled for the same packet, reassembly of that packet must be abandoned [...] and no ICMP
// error messages should be sent."
//
// RFC 8200 MUST-27 SHLD-8.
func TestAnOverlapDropsTheWholeDatagram(t *testing.T) {
	for _, overlap := range []piece{{0, 800}, {496, 1008}, {480, 1000}, {496, 512}, {0, 1000}, {1000, 2400}, {1488, 1504}, {496, 1504}} {
		overBothFamilies(t, func(t *testing.T, f *fragmentTest) {
			f.fragment(1, f.datagram, piece{0, 504})
			f.fragment(1, f.datagram, piece{1000, 1496})
			f.fragment(1, f.datagram, overlap)
			require.Equal(t, 1, dropped(f.s, dropOverlap), "%v", overlap)
			require.Empty(t, f.frags.m)
			require.Zero(t, f.frags.cost)
			require.Nil(t, queued(t, f.u))
			require.Empty(t, f.p.take())
		})
	}
}

// RFC 5722 4 with erratum 3089: "duplicates ... should be ignored". A duplicate is a fragment whose
// bytes have all arrived. Linux 6.18 requires that they arrived in one fragment, or in several fragments
// in order; this stack allows any order. RFC 8200 4.5: "An implementation may choose to detect this case
// and drop exact duplicate fragments while keeping the other fragments".
//
// RFC 8200 MAY-1.
func TestAFragmentOfOldBytesIsADuplicate(t *testing.T) {
	for _, again := range []piece{{0, 1000}, {0, 504}, {0, 8}, {8, 496}, {496, 1000}, {200, 800}, {1000, 1496}, {200, 1400}, {0, 1440}, {2000, 3008}, {2504, 3008}, {2000, 2400}} {
		overBothFamilies(t, func(t *testing.T, f *fragmentTest) {
			for _, at := range []piece{{504, 1000}, {0, 504}, {2000, len(f.datagram)}, {1000, 1496}} {
				f.fragment(1, f.datagram, at)
			}
			f.fragment(1, f.datagram, again)
			require.Equal(t, 1, dropped(f.s, dropDuplicateFragment), "%v", again)
			f.fragment(1, f.datagram, piece{1496, 2000})
			require.True(t, bytes.Equal(f.payload, queued(t, f.u)), "%v", again)
			require.Empty(t, f.frags.m)
			require.Zero(t, f.frags.cost)
		})
	}
}

// The reference records for each byte of a datagram whether it has arrived. Fragments arrive in random
// order. Some are repeated, cut differently or overlapping.
func TestReassemblyAgreesWithASlowReference(t *testing.T) {
	overBothFamilies(t, reassembleAtRandom)
}

// reassembleAtRandom is the test of TestReassemblyAgreesWithASlowReference for one family.
func reassembleAtRandom(t *testing.T, f *fragmentTest) {
	s, u, datagram, payload := f.s, f.u, f.datagram, f.payload
	rnd := rand.New(rand.NewPCG(5, 6))
	done := 0
	for id := range uint16(150) {
		have := make([]bool, len(datagram))
		for range 400 {
			off := 8 * rnd.IntN(len(datagram)/8)
			end := min(off+8*(1+rnd.IntN(40)), len(datagram))
			if id%2 == 0 && slices.Contains(have[off:end], false) { // no overlaps in datagrams with an even id
				off += slices.Index(have[off:end], false)
				if n := slices.Index(have[off:end], true); n > 0 {
					end = off + n
				}
			}
			known := slices.Contains(have[off:end], true)
			fresh := slices.Contains(have[off:end], false)
			duplicates, overlaps := dropped(s, dropDuplicateFragment), dropped(s, dropOverlap)
			f.fragment(id, datagram, piece{off, end})
			if known && fresh {
				require.Equal(t, overlaps+1, dropped(s, dropOverlap))
				clear(have)
				continue
			}
			require.Equal(t, overlaps, dropped(s, dropOverlap))
			if known {
				require.Equal(t, duplicates+1, dropped(s, dropDuplicateFragment))
			}
			for i := off; i < end; i++ {
				have[i] = true
			}
			if !slices.Contains(have, false) {
				require.True(t, bytes.Equal(payload, queued(t, u)), "datagram %d", id)
				clear(have)
				done++
			}
			require.Nil(t, queued(t, u))
		}
	}
	require.Greater(t, done, 25)
}

// RFC 3168 5.3: "if any fragment of an IP packet to be reassembled has the CE codepoint set", the host
// sets CE on the reassembled packet, or drops the packet. It must drop the packet if "any of the other
// fragments ... carries the Not-ECT codepoint". The host "MUST NOT change the ECN codepoint when all of
// the fragments carry the same codepoint". The other cases are as on Linux 6.18.
func TestCEOfAFragmentIsKept(t *testing.T) {
	overBothFamilies(t, func(t *testing.T, f *fragmentTest) {
		raw, err := f.s.OpenRaw(Family4, uint16(wire.ProtoUDP), netip.Addr{})
		require.NoError(t, err)
		defer raw.Close()
		for id := range uint16(64) {
			// The six bits of id are the ECN codepoints of the three fragments.
			tos := [3]uint8{0x20 | uint8(id)&3, 0x40 | uint8(id)>>2&3, uint8(id) >> 4}
			seen := [4]bool{}
			for i, at := range []piece{{0, 1000}, {1000, 2000}, {2000, len(f.datagram)}} {
				seen[tos[i]&3] = true
				if f.v6 {
					f.p.send(fragment6(wire.IPv6{TrafficClass: tos[i]}, nil, wire.ProtoUDP, uint32(id), f.datagram, at))
					continue
				}
				f.p.ip(macA, wire.IPv4{
					Proto: wire.ProtoUDP, ID: id, TOS: tos[i], FragOffset: uint16(at.off), MoreFragments: at.end < len(f.datagram),
				}, f.datagram[at.off:at.end])
			}
			_, metas := take(f.u)
			if seen[wire.NotECT] && (seen[wire.ECT0] || seen[wire.ECT1] || seen[wire.CE]) {
				require.Empty(t, metas, "%x", tos)
				continue
			}
			want := tos[0]
			if seen[wire.CE] {
				want |= wire.CE
			}
			require.Len(t, metas, 1, "%x", tos)
			require.Equal(t, want, metas[0].TOS, "%x", tos)
			if f.v6 {
				continue // a raw socket of IPv6 does not receive the IP header
			}
			header := make([]byte, 20)
			_, _, _, _, err := raw.ReadHeader(header)
			require.NoError(t, err)
			require.Equal(t, want, header[1])
			require.EqualValues(t, 0xffff, wire.Fold(wire.Sum(header, 0)), "the header's checksum")
		}
		// Of the 4*4*4 combinations, 3*3*3 have no Not-ECT, and one has nothing else.
		require.Equal(t, 36, dropped(f.s, dropFragmentECN))
		require.EqualValues(t, 36, f.s.Stats().IP.ReassemblyFailed)
		require.Zero(t, f.frags.cost)
	})
}

func TestImpossibleFragmentsAreDropped(t *testing.T) {
	s, p, u, datagram, _ := fragmentHost(t)
	more := wire.IPv4{Proto: wire.ProtoUDP, ID: 1, MoreFragments: true}
	p.ip(macA, more, datagram[:12]) // not a multiple of 8
	p.ip(macA, more, nil)           // empty
	last := wire.IPv4{Proto: wire.ProtoUDP, ID: 1, FragOffset: 65528}
	p.ip(macA, last, datagram[:100]) // the ping of death
	require.Equal(t, 3, dropped(s, dropBadFragment))
	require.Empty(t, s.frags.m)
	// A datagram cannot have two ends, nor bytes after its end.
	p.fragment(2, datagram, piece{2000, len(datagram)})
	p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP, ID: 2, FragOffset: 1000}, datagram[1000:1400])
	p.fragment(3, datagram, piece{2000, len(datagram)})
	p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP, ID: 3, FragOffset: 3200, MoreFragments: true}, datagram[:8])
	require.Equal(t, 5, dropped(s, dropBadFragment))
	require.Empty(t, s.frags.m)
	require.Nil(t, queued(t, u))
}

func TestReassemblyGivesUpAfterThirtySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, p, u, datagram, payload := fragmentHost(t)
		p.fragment(1, datagram, piece{0, 1000})
		p.fragment(2, datagram, piece{1000, 2000})
		time.Sleep(20 * time.Second)
		p.fragment(3, datagram, piece{0, 1000})
		time.Sleep(10 * time.Second)
		synctest.Wait()
		require.Equal(t, 2, dropped(s, dropReassemblyTimeout))
		frames := p.take()
		require.Len(t, frames, 1, "no error without the first fragment")
		_, b := parseFrame(t, frames[0])
		h, body, r := wire.ParseICMP(b)
		require.Equal(t, wire.OK, r)
		require.Equal(t, wire.ICMPTimeExceeded, h.Type)
		require.EqualValues(t, wire.ExceededReassembly, h.Code)
		quoted, _, _ := wire.ParseQuoted(body)
		require.EqualValues(t, 1, quoted.ID)

		p.fragment(1, datagram, piece{1000, 2000})
		p.fragment(1, datagram, piece{2000, len(datagram)})
		require.Nil(t, queued(t, u), "the rest comes too late")
		p.fragment(3, datagram, piece{1000, 2000})
		p.fragment(3, datagram, piece{2000, len(datagram)})
		require.True(t, bytes.Equal(payload, queued(t, u)), "datagram 3 is younger")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, s.frags.m)
		require.False(t, s.frags.alarm.at != 0, "no timer without a fragment")
	})
}

// RFC 792: a Time Exceeded quotes "the internet header plus the first 64 bits of the original datagram's
// data". These bytes are in the first fragment, so the host quotes the first fragment even if others
// arrived after it.
func TestATimeoutQuotesTheFirstFragment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, p, _, datagram, _ := fragmentHost(t)
		p.fragment(1, datagram, piece{0, 16})
		p.fragment(1, datagram, piece{16, 32})
		time.Sleep(time.Minute)
		synctest.Wait()
		frames := p.take()
		require.Len(t, frames, 1)
		_, b := parseFrame(t, frames[0])
		require.Equal(t, datagram[:16], b[wire.ICMPLen+wire.IPv4Len:])
	})
}

func TestReassemblyIsBoundedInDatagramsAndBytes(t *testing.T) {
	overBothFamilies(t, func(t *testing.T, f *fragmentTest) {
		for id := range uint16(3 * maxReassemblies) {
			f.fragment(id, f.datagram, piece{0, 8})
		}
		require.Len(t, f.frags.m, maxReassemblies)
		big := make([]byte, 65000)
		for id := range uint16(200) {
			for off := 0; off < len(big)-1440; off += 1440 {
				f.fragment(id, big, piece{off, off + 1440})
			}
			require.LessOrEqual(t, f.frags.cost, maxReassemblyBytes)
		}
		for id := range uint16(4) { // fragments with gaps in between: each needs its own buffer
			for off := 16; off < len(big)-8; off += 16 {
				f.fragment(1000+id, big, piece{off, off + 8})
			}
			require.LessOrEqual(t, f.frags.cost, maxReassemblyBytes)
		}
		f.fragment(9, f.datagram, piece{0, 1440})
		f.fragment(9, f.datagram, piece{1440, 2880})
		f.fragment(9, f.datagram, piece{2880, len(f.datagram)})
		require.True(t, bytes.Equal(f.payload, queued(t, f.u)), "reassembly still works")
		if f.v6 {
			require.Zero(t, len(f.s.frags.m), "IPv4 has a table of its own")
		}
	})
}

func TestALargeDatagramCrossesASmallLink(t *testing.T) {
	for _, mtu := range []int{68, 576, 1500} {
		a, b := twoHosts(t, nic.PipeConfig{MTU: mtu})
		u, v := openUDP(t, a, "0.0.0.0:9"), openUDP(t, b, "0.0.0.0:9")
		require.NoError(t, v.SetReadBuffer(1<<20))
		// Resolve the neighbour first. Its queue would drop packets during resolution.
		_, err := u.WriteTo([]byte("hello"), addrPort("192.0.2.2:9"), SendOptions{})
		require.NoError(t, err)
		big := bytes.Repeat([]byte("0123456789abcdef"), maxUDPPayload/16)
		_, err = u.WriteTo(big, addrPort("192.0.2.2:9"), SendOptions{})
		require.NoError(t, err)
		require.Equal(t, "hello", string(queued(t, v)))
		require.True(t, bytes.Equal(big, queued(t, v)), "MTU %d", mtu)
		_, err = u.WriteTo(big, addrPort("192.0.2.2:9"), SendOptions{DontFragment: true})
		require.Error(t, err)
	}
}
