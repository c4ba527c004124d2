package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// Two hosts exchange data on a wire with ordinary super-frames, of up to 65535 bytes, and on a wire with large ones. On
// both, the same bytes arrive, nothing is sent again, and what a Watcher sees can be described.
func TestLargeSuperFramesChangeNothingButTheirNumber(t *testing.T) {
	const size = 4 << 20
	for _, v6 := range []bool{false, true} {
		for _, vlan := range []int{0, 7} {
			t.Run(fmt.Sprintf("IPv6 %v, VLAN %d", v6, vlan), func(t *testing.T) {
				var ordinary, large int // super-frames
				synctest.Test(t, func(t *testing.T) { ordinary = exchangeWatched(t, v6, vlan, 65535, size) })
				synctest.Test(t, func(t *testing.T) { large = exchangeWatched(t, v6, vlan, nic.MaxGSO, size) })
				require.Less(t, large*2, ordinary, "super-frames for %d bytes in each direction", size)
			})
		}
	}
}

// exchangeWatched sends size bytes in each direction over a wire whose super-frames have up to gso bytes. It returns the
// number of super-frames; other frames, such as acknowledgements, are not counted.
func exchangeWatched(t *testing.T, v6 bool, vlan, gso, size int) (superFrames int) {
	ea, eb := nic.Pipe(nic.PipeConfig{GSO: gso})
	params := tcp.DefaultParams()
	params.RecvBuffer, params.SendBuffer = 2<<20, 2<<20
	host := func(dev nic.Device, four, six string) *Host {
		h, err := New(Config{
			NIC: dev, VLAN: vlan, TCP: stack.TCPConfig{Params: &params},
			Addrs: []netip.Prefix{netip.MustParsePrefix(four + "/24"), netip.MustParsePrefix(six + "/64")},
		})
		require.NoError(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	a, b := host(ea, addrA, "2001:db8::1"), host(eb, addrB, "2001:db8::2")
	w, err := a.Watch(stack.WatchConfig{Frames: true, Buffer: 1 << 30})
	require.NoError(t, err)
	to := addrB
	if v6 {
		to = "2001:db8::2"
	}
	client, server := connect(t, a, b, to)
	data := text(size)
	for _, c := range [][2]net.Conn{{client, server}, {server, client}} {
		go func() {
			if _, err := c[0].Write(data); err != nil {
				t.Error(err)
			}
		}()
		got := make([]byte, size)
		_, err := io.ReadFull(c[1], got)
		require.NoError(t, err)
		require.True(t, string(data) == string(got), "the bytes are as they were sent")
	}
	for _, h := range []*Host{a, b} {
		require.Zero(t, h.Stats().TCP.Events[tcp.RetransSegs])
		require.NoError(t, h.Close())
	}
	longest := 0
	for {
		e, err := w.Next(context.Background())
		if errors.Is(err, net.ErrClosed) {
			break
		}
		require.NoError(t, err)
		require.Zero(t, e.Lost)
		line := wire.Describe(e.Data)
		require.False(t, strings.Contains(line, "bad") || strings.Contains(line, "checksum"), line)
		if e.GSO != nic.GSONone {
			superFrames++
		}
		longest = max(longest, e.Len-wire.EthernetLen)
	}
	limit := ea.Link().GSO
	require.Greater(t, longest, limit-3000)
	require.LessOrEqual(t, longest, limit+4, "a VLAN tag does not count")
	return superFrames
}
