package stack

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A piece is a fragment to send: bytes from off to end of the datagram.
type piece struct{ off, end int }

func (p *peer) fragment(id uint16, datagram []byte, f piece) {
	p.t.Helper()
	p.ip(macA, wire.IPv4{
		Proto: wire.ProtoUDP, ID: id, FragOffset: uint16(f.off), MoreFragments: f.end < len(datagram),
	}, datagram[f.off:f.end])
}

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

// queued returns the payload that is in the socket's queue, if any.
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

func TestFragmentsArePutTogetherInWhateverOrderTheyCome(t *testing.T) {
	s, p, u, datagram, payload := fragmentHost(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	for id := range uint16(200) {
		var pieces []piece
		for off := 0; off < len(datagram); {
			end := min(off+8*int(1+rnd.UintN(60)), len(datagram))
			pieces = append(pieces, piece{off, end})
			off = end
		}
		rnd.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
		for i, f := range pieces {
			require.Nil(t, queued(t, u))
			p.fragment(id, datagram, f)
			if i+1 < len(pieces) && rnd.UintN(3) == 0 {
				p.fragment(id, datagram, f) // a duplicate does no harm
			}
		}
		require.True(t, bytes.Equal(payload, queued(t, u)), "datagram %d", id)
	}
	require.Empty(t, s.frags.m)
	require.Zero(t, s.frags.cost)
	require.Zero(t, s.frags.byAge.Len())
}

func TestAnOverlapDropsTheWholeDatagram(t *testing.T) {
	for _, overlap := range []piece{{0, 800}, {0, 16}, {496, 1008}, {496, 512}, {480, 1000}, {1000, 2400}, {1488, 1504}} {
		s, p, u, datagram, _ := fragmentHost(t)
		p.fragment(1, datagram, piece{0, 504})
		p.fragment(1, datagram, piece{1000, 1500 - 1500%8})
		p.fragment(1, datagram, overlap)
		require.Equal(t, 1, dropped(s, dropOverlap), "%v", overlap)
		require.Empty(t, s.frags.m)
		require.Zero(t, s.frags.cost)
		require.Nil(t, queued(t, u))
	}
}

func TestImpossibleFragmentsAreDropped(t *testing.T) {
	s, p, u, datagram, _ := fragmentHost(t)
	more := wire.IPv4{Proto: wire.ProtoUDP, ID: 1, MoreFragments: true}
	p.ip(macA, more, datagram[:12]) // no multiple of 8
	p.ip(macA, more, nil)           // empty
	last := wire.IPv4{Proto: wire.ProtoUDP, ID: 1, FragOffset: 65528}
	p.ip(macA, last, datagram[:100]) // the ping of death
	require.Equal(t, 3, dropped(s, dropBadFragment))
	require.Empty(t, s.frags.m)
	// Two different ends.
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
		require.Len(t, frames, 1, "without the first fragment nobody is told")
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
		require.True(t, bytes.Equal(payload, queued(t, u)), "the younger one lives on")
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Empty(t, s.frags.m)
		require.False(t, s.frags.running, "no timer without a fragment")
	})
}

func TestReassemblyIsBoundedInDatagramsAndBytes(t *testing.T) {
	s, p, u, datagram, payload := fragmentHost(t)
	for id := range uint16(3 * maxReassemblies) {
		p.fragment(id, datagram, piece{0, 8})
	}
	require.Len(t, s.frags.m, maxReassemblies)
	for id := range uint16(maxReassemblies) {
		for off := 0; off < 65000-1480; off += 1480 {
			p.ip(macA, wire.IPv4{Proto: 99, ID: id, FragOffset: uint16(off), MoreFragments: true}, make([]byte, 1480))
		}
		require.LessOrEqual(t, s.frags.cost, maxReassemblyBytes)
	}
	for off := range maxFragments + 8 {
		p.ip(macA, wire.IPv4{Proto: 100, ID: 1, FragOffset: uint16(16 * off), MoreFragments: true}, make([]byte, 8))
	}
	for _, d := range s.frags.m {
		require.LessOrEqual(t, len(d.parts), maxFragments)
	}
	p.fragment(9, datagram, piece{0, 1480})
	p.fragment(9, datagram, piece{1480, 2960})
	p.fragment(9, datagram, piece{2960, len(datagram)})
	require.True(t, bytes.Equal(payload, queued(t, u)), "and it still works")
}

func TestALargeDatagramCrossesASmallLink(t *testing.T) {
	for _, mtu := range []int{68, 576, 1500} {
		a, b := twoHosts(t, nic.PipeConfig{MTU: mtu})
		u, v := openUDP(t, a, "0.0.0.0:9"), openUDP(t, b, "0.0.0.0:9")
		require.NoError(t, v.SetReadBuffer(1<<20))
		size := min(maxUDPPayload, (maxFragments-1)*((mtu-wire.IPv4Len)&^7))
		// While the neighbour is being asked for, fewer packets are kept.
		_, err := u.WriteTo([]byte("hello"), addrPort("192.0.2.2:9"), SendOptions{})
		require.NoError(t, err)
		big := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		_, err = u.WriteTo(big, addrPort("192.0.2.2:9"), SendOptions{})
		require.NoError(t, err)
		require.Equal(t, "hello", string(queued(t, v)))
		require.True(t, bytes.Equal(big, queued(t, v)), "MTU %d", mtu)
		_, err = u.WriteTo(big, addrPort("192.0.2.2:9"), SendOptions{DontFragment: true})
		require.Error(t, err)
	}
}
