package stack

import (
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

func TestEveryDropReasonHasItsOwnName(t *testing.T) {
	seen := make(map[DropReason]wire.Reason)
	for r := wire.OK; r < numReasons; r++ {
		text := reasonText(r)
		require.False(t, strings.HasPrefix(string(text), "reason "), "%d", r)
		require.NotContains(t, seen, text)
		seen[text] = r
	}
}

func TestStatsCountFramesDatagramsAndDrops(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	u := openUDP(t, s, "0.0.0.0:9")
	before := s.Stats()
	p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP}, udpDatagram(addrPort("192.0.2.2:9"), addrPort("192.0.2.1:9"), []byte("x")))
	p.ip(wire.MAC{2, 9}, wire.IPv4{Proto: wire.ProtoUDP}, nil)
	_, err := u.WriteTo(make([]byte, 2000), addrPort("192.0.2.2:9"), SendOptions{})
	require.NoError(t, err)
	after := s.Stats()
	require.Equal(t, "eth0", after.NICs[1].Name)
	require.EqualValues(t, 2, after.NICs[1].RxFrames-before.NICs[1].RxFrames)
	require.EqualValues(t, 1, after.NICs[1].RxDropped-before.NICs[1].RxDropped)
	require.EqualValues(t, 2, after.NICs[1].TxFrames-before.NICs[1].TxFrames)
	require.EqualValues(t, 2000+8+2*(20+14), after.NICs[1].TxBytes-before.NICs[1].TxBytes)
	require.EqualValues(t, 2, after.IP.FragmentsSent)
	require.EqualValues(t, 1, after.UDP.Received)
	require.EqualValues(t, 1, after.UDP.Sent)
	require.Equal(t, map[DropReason]uint64{"frame for another station": 1}, after.Drops)
}

func TestConcurrentUseOfAHost(t *testing.T) {
	da, db := nic.Pipe(nic.PipeConfig{})
	a, b := newHost(t, da, "192.0.2.1/24"), newHost(t, db, "192.0.2.2/24")
	u, v := openUDP(t, a, "0.0.0.0:9"), openUDP(t, b, "0.0.0.0:9")
	var wg sync.WaitGroup
	repeat := func(f func(i int)) {
		wg.Go(func() {
			for i := range 200 {
				f(i)
			}
		})
	}
	to := func(last byte) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, last}), 9)
	}
	for range 3 {
		repeat(func(i int) { u.WriteTo(make([]byte, 8*i), to(2), SendOptions{}) })
		repeat(func(i int) { v.WriteTo(make([]byte, 8*i), to(1), SendOptions{}) })
		repeat(func(i int) { u.WriteTo(nil, to(byte(i)), SendOptions{}) })
	}
	repeat(func(int) { a.FlushNeighbors(); b.Neighbors() })
	repeat(func(i int) {
		r := Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i)}), 16), Via: addr("192.0.2.2")}
		if a.AddRoute(r) == nil {
			a.DelRoute(r)
		}
		a.lowerPathMTU(addr("192.0.2.2"), netip.Addr{}, 1000+i)
	})
	repeat(func(int) {
		c, err := a.OpenUDP(FamilyAny, netip.AddrPort{})
		if err != nil {
			return
		}
		c.Connect(to(2))
		c.Write([]byte("nobody"))
		c.SetDeadline(time.Now().Add(time.Millisecond))
		c.Close()
	})
	readers := make(chan struct{})
	for _, s := range []*UDP{u, v} {
		go func() {
			defer func() { readers <- struct{}{} }()
			for {
				if _, _, _, _, err := s.ReadFrom(make([]byte, 2000)); err != nil {
					return
				}
			}
		}()
	}
	wg.Wait()
	wg.Go(func() { a.RemoveNIC("eth0") })
	wg.Go(func() { u.WriteTo(nil, to(2), SendOptions{}) })
	wg.Go(func() { a.Close() })
	wg.Wait()
	require.NoError(t, b.Close())
	<-readers
	<-readers
	require.Zero(t, a.frags.cost)
}

func TestPacketsOfARemovedNICStayCounted(t *testing.T) {
	s, p := hostAndPeer(t)
	u := openUDP(t, s, "0.0.0.0:9")
	sendTo2(t, u, "1")
	p.reply()
	for range 10 {
		sendTo2(t, u, "2")
	}
	sent := s.Stats().IP.Sent
	require.NotZero(t, s.ifaceNamed("eth0").stats.TxDirect.Frames())
	require.NoError(t, s.RemoveNIC("eth0"))
	require.GreaterOrEqual(t, s.Stats().IP.Sent, sent)
}

func TestDropReasonsHaveTheirRules(t *testing.T) {
	require.Contains(t, DropReason("bad TCP checksum").Rule(), "MUST-3")
	require.Contains(t, DropReason("destination is not this host").Rule(), "RFC 1122 3.2.1.3")
	require.Empty(t, DropReason("accept queue full").Rule(), "no rule, but a limit")
	require.Empty(t, DropReason("no such reason").Rule())
	for r := wire.OK + 1; r < numReasons; r++ {
		rule := reasonText(r).Rule()
		require.True(t, rule == "" || strings.HasPrefix(rule, "RFC ") || strings.HasPrefix(rule, "IEEE "), "%s: %s", reasonText(r), rule)
	}
}
