//go:build !race && !lockorder

// These tests do not run with the race detector, because it makes sync.Pool drop items at random.

package stack

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

func TestADatagramCostsNoAllocationEitherWay(t *testing.T) {
	for name, cfg := range map[string]nic.PipeConfig{"offloads": {}, "plain": {NoTxChecksum: true}, "IP": {Medium: nic.IP}} {
		a, b := twoHosts(t, cfg)
		u, v := openUDP(t, a, "0.0.0.0:1"), openUDP(t, b, "0.0.0.0:1")
		buf := make([]byte, 1400)
		there, back := addrPort("192.0.2.2:1"), addrPort("192.0.2.1:1")
		round := func() {
			if _, err := u.WriteTo(buf, there, SendOptions{}); err != nil {
				t.Error(err)
			}
			if _, _, _, _, err := v.ReadFrom(buf); err != nil {
				t.Error(err)
			}
			if _, err := v.WriteTo(buf, back, SendOptions{}); err != nil {
				t.Error(err)
			}
			if _, _, _, _, err := u.ReadFrom(buf); err != nil {
				t.Error(err)
			}
		}
		round()
		require.Zero(t, testing.AllocsPerRun(200, round), name)
	}
}

func TestABatchAllocatesNothing(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "0.0.0.0:2222")
	out := datagramsOf(1000, 1000, 1000, 1000, 1000, 1000, 1000, 900)
	in := datagramsOf(1000, 1000, 1000, 1000, 1000, 1000, 1000, 1000)
	for _, k := range []int{len(out), 1} {
		round := func() {
			u.WriteBatch(out[:k])
			if n, err := v.ReadBatch(in); n != k || err != nil {
				panic(fmt.Sprint(n, err))
			}
		}
		round()
		require.Zero(t, testing.AllocsPerRun(200, round), k)
	}
}

// An IPv6 segment or datagram is sent and received without an allocation.
func TestIPv6AllocatesNothingPerPacket(t *testing.T) {
	a, b := twoHosts6(t, nic.PipeConfig{})
	u, w := openUDP(t, a, "[::]:1000"), openUDP(t, b, "[::]:53")
	buf := make([]byte, 100)
	to := addrPort("[2001:db8::2]:53")
	var errs [4]error
	n := testing.AllocsPerRun(200, func() {
		_, errs[0] = u.WriteTo(buf, to, SendOptions{})
		_, _, _, _, errs[1] = w.ReadFrom(buf)
	})
	require.Equal(t, [4]error{}, errs)
	require.Zero(t, n)
	l, err := b.ListenTCP(FamilyAny, addrPort("[::]:80"), ListenOptions{})
	require.NoError(t, err)
	c, err := a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("[2001:db8::2]:80"), TCPOptions{})
	require.NoError(t, err)
	d, err := l.Accept()
	require.NoError(t, err)
	n = testing.AllocsPerRun(200, func() {
		_, errs[0] = c.Write(buf)
		_, errs[1] = d.Read(buf)
		_, errs[2] = d.Write(buf)
		_, errs[3] = c.Read(buf)
	})
	require.Equal(t, [4]error{}, errs)
	require.Zero(t, n)
}
