package stack

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// sentIDs returns the identifications of the IPv4 packets that the host has sent since the last call. A
// super-frame counts once: the device numbers the other packets of a super-frame.
func (p *peer) sentIDs() (ids []uint16) {
	for _, f := range p.take() {
		if binary.BigEndian.Uint16(f[12:]) == uint16(wire.EtherTypeIPv4) {
			ids = append(ids, binary.BigEndian.Uint16(f[wire.EthernetLen+4:]))
		}
	}
	return ids
}

// twoNeighbors adds permanent neighbour entries for 192.0.2.2 and 192.0.2.3, with the peer's MAC.
func twoNeighbors(cfg *Config) {
	cfg.Neighbors = []Neighbor{
		{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB},
		{NIC: "eth0", Addr: addr("192.0.2.3"), MAC: macB},
	}
}

// RFC 6864 4.3: "sources emitting non-atomic datagrams MUST NOT repeat IPv4 ID values within one MDL
// for a given source address/destination address/protocol tuple". No identification repeats before all
// have been used, whichever socket sends.
func TestIdentificationsRepeatAsLateAsPossible(t *testing.T) {
	s, p := hostAndPeer(t, twoNeighbors)
	socks := []*UDP{openUDP(t, s, "0.0.0.0:0"), openUDP(t, s, "192.0.2.1:0")}
	seen := make(map[uint16]bool)
	for i := range 1 << 16 {
		_, err := socks[i%2].WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{})
		require.NoError(t, err)
		if i%1000 == 0 {
			for _, id := range p.sentIDs() {
				require.False(t, seen[id])
				seen[id] = true
			}
		}
	}
	for _, id := range p.sentIDs() {
		require.False(t, seen[id])
		seen[id] = true
	}
	require.Len(t, seen, 1<<16)
}

// Datagrams to other hosts do not change the identifications of the datagrams to a host. Therefore a host
// cannot count the datagrams to others, and runs with the same seed stay comparable.
func TestIdentificationsOfFlowsAreIndependent(t *testing.T) {
	ids := func(others int) []uint16 {
		s, p := hostAndPeer(t, twoNeighbors)
		u := openUDP(t, s, "0.0.0.0:1")
		for range others {
			u.WriteTo(nil, addrPort("192.0.2.3:9"), SendOptions{})
		}
		p.take()
		for range 5 {
			u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{})
		}
		return p.sentIDs()
	}
	require.Equal(t, ids(0), ids(7))
	require.Len(t, ids(0), 5)
}

func TestFlowsThatShareACounterHaveTheirOwnOffset(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	first, err := s.route(addr("192.0.2.2"), netip.Addr{})
	require.NoError(t, err)
	for i := range 1 << 16 {
		other, err := s.route(netip.AddrFrom4([4]byte{192, 0, 2 + byte(i>>8), byte(i)}), netip.Addr{})
		if err == nil && other.ids == first.ids && other.dst != first.dst {
			require.NotEqual(t, first.idOffset, other.idOffset)
			return
		}
		if i == 0 {
			require.NoError(t, s.AddRoute(Route{Dst: prefix("0.0.0.0/0"), NIC: "eth0"}))
		}
	}
	t.Fatal("none of 65,536 flows shares a counter")
}

// The device numbers the datagrams of a super-frame consecutively. The next packet has the identification
// after the last of these datagrams.
func TestASuperFrameUsesAnIdentificationForEachDatagram(t *testing.T) {
	s, p := hostAndPeerOn(t, nic.PipeConfig{}, twoNeighbors)
	u := openUDP(t, s, "0.0.0.0:1")
	_, err := u.WriteBatch(datagramsOf(100, 100, 100, 100, 50))
	require.NoError(t, err)
	_, err = u.WriteTo(nil, addrPort("192.0.2.2:2222"), SendOptions{})
	require.NoError(t, err)
	ids := p.sentIDs()
	require.Len(t, ids, 2)
	require.Equal(t, uint16(5), ids[1]-ids[0])
}

// RFC 6864 4.1: "Originating sources MAY set the IPv4 ID field of atomic datagrams to any value."
// As on Linux, UDP datagrams with the option DontFragment have the identification 0, and use up no
// identification.
func TestAnAtomicDatagramUsesNoIdentification(t *testing.T) {
	s, p := hostAndPeer(t, twoNeighbors)
	u := openUDP(t, s, "0.0.0.0:1")
	for _, df := range []bool{false, true, false} {
		_, err := u.WriteTo(nil, addrPort("192.0.2.2:9"), SendOptions{DontFragment: df})
		require.NoError(t, err)
	}
	ids := p.sentIDs()
	require.Len(t, ids, 3)
	require.Zero(t, ids[1])
	require.Equal(t, ids[0]+1, ids[2])
}

func TestAConnectionCountsItsOwnIdentifications(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // in real time, a timer could send another packet on a loaded machine
		a, b := wiredPair(t, nil)
		c, d := connect(t, a, b)
		before := c.ipID
		for range 3 {
			c.Write([]byte{1})
		}
		require.Equal(t, before+3, c.ipID)
		c.Write(make([]byte, 5*1448)) // full segments, as many as the window still allows
		require.Equal(t, before+8, c.ipID)
		require.NotEqual(t, c.ipID, d.ipID)
	})
}
