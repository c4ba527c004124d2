package stack

import (
	"encoding/binary"
	"io"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// requireWhole fails unless the event has the bytes of a complete IPv4 packet with valid checksums. It returns
// the payload of the packet.
func requireWhole(t *testing.T, e *WatchEvent) (payload []byte) {
	t.Helper()
	require.False(t, e.Ethernet)
	require.Len(t, e.Data, e.Len)
	require.Equal(t, int(binary.BigEndian.Uint16(e.Data[2:])), e.Len, "the total length")
	ip, payload, r := wire.ParseIPv4(e.Data)
	require.Equal(t, wire.OK, r)
	switch ip.Proto {
	case wire.ProtoTCP:
		require.True(t, wire.TCPChecksumOK(ip.Src, ip.Dst, payload))
	case wire.ProtoUDP:
		require.Zero(t, ^wire.Fold(wire.Sum(payload, wire.PseudoSum(ip.Src, ip.Dst, uint8(wire.ProtoUDP), len(payload)))))
	default:
		t.Fatalf("protocol %d", ip.Proto)
	}
	return payload
}

func TestPacketsForALinkThatIsDownAreWatchedWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wiredPair(t, nil)
		c, d := connect(t, a, b)
		go io.Copy(io.Discard, d)
		_, err := c.Write(make([]byte, 1_000_000)) // opens the congestion window
		require.NoError(t, err)
		w := watch(t, a, WatchConfig{Drops: true, Buffer: 16 << 20})
		c.path.ifc.down.Store(true)
		go c.Write(make([]byte, 300_000))
		synctest.Wait()
		super, large := 0, 0
		for _, e := range pendingEvents(w) {
			require.Equal(t, DropReason("link down"), e.Reason)
			require.True(t, e.Outbound)
			requireWhole(t, &e)
			if e.GSO != nic.GSONone {
				super++
			}
			large = max(large, e.Len)
		}
		require.NotZero(t, super)
		require.Greater(t, large, 10_000)
		c.abort()
	})
}

func TestLoopedDatagramsThatAreDroppedAreWatchedWhole(t *testing.T) {
	a, _ := twoHosts(t, nic.PipeConfig{})
	u := openUDP(t, a, "0.0.0.0:5")
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.SetMulticastInterface(2))
	require.NoError(t, u.SetReadBuffer(1))
	require.NoError(t, u.SetMulticastTTL(0))
	w := watch(t, a, WatchConfig{Drops: true})
	for dropped(a, dropUDPQueue) == 0 {
		say(t, u, "224.1.2.3:5", "hello", SendOptions{})
	}
	all := pendingEvents(w)
	require.Len(t, all, 1)
	require.Equal(t, "hello", string(requireWhole(t, &all[0])[wire.UDPLen:]))
	a.loop.bytes.Add(maxLooped) // as if that many bytes waited
	say(t, u, "224.1.2.3:5", "full", SendOptions{})
	a.loop.bytes.Add(-maxLooped)
	all = pendingEvents(w)
	require.Len(t, all, 1)
	require.Equal(t, "full", string(requireWhole(t, &all[0])[wire.UDPLen:]))
}

func TestALaterFragmentHasNoPorts(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	w := watch(t, s, WatchConfig{Drops: true})
	h := wire.IPv4{Proto: wire.ProtoUDP, Dst: addr("192.0.2.9"), FragOffset: 8}
	p.ip(macA, h, []byte("12345678"))
	h.FragOffset, h.MoreFragments = 0, true
	p.ip(macA, h, []byte("12345678"))
	all := pendingEvents(w)
	require.Len(t, all, 2)
	require.Equal(t, addrPort("192.0.2.2:0"), all[0].Remote)
	require.Equal(t, addrPort("192.0.2.9:0"), all[0].Local)
	require.Equal(t, uint16('1')<<8|'2', all[1].Remote.Port())
}

func TestAFrameOfAnUnknownVLANIsWatchedTwice(t *testing.T) {
	s, p := trunkHost(t)
	w := watch(t, s, WatchConfig{Frames: true, Drops: true})
	for range 2 {
		p.send(tagFrame(300, pingFrame("192.0.2.2", "192.0.2.1")))
		all := pendingEvents(w)
		require.Len(t, all, 2)
		require.Equal(t, FrameReceived, all[0].Kind)
		require.Equal(t, PacketDropped, all[1].Kind)
		require.Equal(t, all[0].Data, all[1].Data)
	}
}

func TestAFilterMatchesLinkLocalAddressesOnTheLoopback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev, far := nic.Pipe(nic.PipeConfig{})
		defer far.Close()
		s, err := New(Config{Rand: testRand(), NICs: []NIC{{Name: "eth0", Device: dev, Addrs: []netip.Prefix{prefix("fe80::1/64")}, DADTransmits: -1}}})
		require.NoError(t, err)
		defer s.Close()
		w := watch(t, s, WatchConfig{Frames: true, Filter: "host fe80::1 and udp port 9"})
		u := openUDP(t, s, "[fe80::1%eth0]:9")
		_, err = u.WriteTo([]byte("hello"), addrPort("[fe80::1%eth0]:9"), SendOptions{})
		require.NoError(t, err)
		all := pendingEvents(w)
		require.Len(t, all, 2)
		require.Equal(t, FrameSent, all[0].Kind)
		require.Equal(t, FrameReceived, all[1].Kind)
		require.NoError(t, u.SetReadDeadline(time.Now().Add(time.Second)))
		n, _, from, _, err := u.ReadFrom(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, 5, n)
		require.Equal(t, "eth0", from.Addr().Zone(), "the filter leaves the zone in the frame")
	})
}

// A refusingDevice accepts no frame.
type refusingDevice struct{ *crowdDevice }

func (d refusingDevice) Nonblocking() nic.Device         { return d }
func (d refusingDevice) Send(b []nic.Frame) (int, error) { return 0, nil }

func TestFramesThatTheDeviceDoesNotTakeAreWatched(t *testing.T) {
	s := newHost(t, refusingDevice{&crowdDevice{t: t}}, "192.0.2.1/24", func(c *Config) {
		c.Neighbors = []Neighbor{{NIC: "eth0", Addr: addr("192.0.2.2"), MAC: macB}}
	})
	w := watch(t, s, WatchConfig{Frames: true, Drops: true, Filter: "udp port 5"})
	u := openUDP(t, s, "192.0.2.1:9")
	_, err := u.WriteTo([]byte("refused"), addrPort("192.0.2.2:5"), SendOptions{})
	require.NoError(t, err)
	all := pendingEvents(w)
	require.Len(t, all, 2)
	require.Equal(t, FrameSent, all[0].Kind)
	require.Equal(t, PacketDropped, all[1].Kind)
	require.Equal(t, DropReason("frame not accepted by the device"), all[1].Reason)
	require.True(t, all[1].Outbound)
	require.Equal(t, all[0].Data, all[1].Data)
	require.Contains(t, string(all[1].Data), "refused")
}

func TestFramesOfAQueueThatIsClosedAreWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stuck, _ := stuckAndOther(t)
		ifc := (*s.ifaces.Load())[1]
		stuck.set(true, false)
		fill(t, ifc, "198.51.100.2:5")
		w := watch(t, s, WatchConfig{Drops: true, Buffer: 16 << 20})
		require.NoError(t, s.RemoveNIC(ifc.name))
		stuck.Close()
		synctest.Wait()
		require.NotEmpty(t, pendingEvents(w)) // the goroutine that sends has dropped some of them, or the queue has
		buf := s.bufs.get(100)
		ifc.tx.enqueue(&txEntry{frame: nic.Frame{Head: buf}, buf: buf})
		all := pendingEvents(w)
		n := 0
		for _, e := range all {
			if e.Reason == "transmit queue full or closed" {
				n++
				require.True(t, e.Outbound)
				require.Equal(t, ifc.name, e.NIC)
				require.NotEmpty(t, e.Data)
			}
		}
		require.NotZero(t, n)
	})
}
