//go:build linux

package taptest

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/stack"
)

// TestBatchesOfDatagramsCrossToTheKernelAndBack sends batches in both directions. On a TAP with
// offloads each batch is one super-frame.
func TestBatchesOfDatagramsCrossToTheKernelAndBack(t *testing.T) {
	for name, plain := range map[string]bool{"offload": false, "plain": true} {
		t.Run(name, func(t *testing.T) {
			need(t)
			ns := newNamespace(t)
			tap := ns.openTAP(t, plain)
			s, err := stack.New(stack.Config{NICs: []stack.NIC{{
				Name: "tap", Device: tap, Addrs: []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24")},
			}}})
			require.NoError(t, err)
			t.Cleanup(func() { s.Close() })
			ours, err := s.OpenUDP(stack.Family4, netip.MustParseAddrPort(ourAddr+":7"))
			require.NoError(t, err)
			var kernel *net.UDPConn
			require.NoError(t, ns.inside(func() (err error) {
				kernel, err = net.DialUDP("udp4", &net.UDPAddr{IP: net.ParseIP(kernelAddr), Port: 7}, &net.UDPAddr{IP: net.ParseIP(ourAddr), Port: 7})
				return err
			}))
			t.Cleanup(func() { kernel.Close() })
			kernel.SetDeadline(time.Now().Add(patience))
			ours.SetDeadline(time.Now().Add(patience))

			kernelTo := netip.MustParseAddrPort(kernelAddr + ":7")
			var ms []stack.Datagram
			for i := range 30 {
				n := 1400
				if i == 29 {
					n = 7
				}
				ms = append(ms, stack.Datagram{Buffers: [][]byte{bytes.Repeat([]byte{byte(i)}, n)}, Addr: kernelTo})
			}
			_, err = ours.WriteTo([]byte("hello"), kernelTo, stack.SendOptions{}) // resolves the kernel's MAC
			require.NoError(t, err)
			buf := make([]byte, 2000)
			n, err := kernel.Read(buf)
			require.NoError(t, err)
			require.Equal(t, "hello", string(buf[:n]))

			before := tap.Stats()
			n, err = ours.WriteBatch(ms)
			require.NoError(t, err)
			require.Equal(t, len(ms), n)
			for i := range ms {
				n, err := kernel.Read(buf)
				require.NoError(t, err)
				require.Equal(t, ms[i].Buffers[0], buf[:n], i)
			}
			requireFrames(t, plain, before.Sent, func() uint64 { return tap.Stats().Sent }, len(ms))

			before = tap.Stats()
			sendSegments(t, kernel, ms, 1400)
			got := 0
			for got < len(ms) {
				in := make([]stack.Datagram, 8)
				for i := range in {
					in[i].Buffers = [][]byte{make([]byte, 2000)}
				}
				n, err := ours.ReadBatch(in)
				require.NoError(t, err)
				for _, m := range in[:n] {
					require.Equal(t, ms[got].Buffers[0], m.Buffers[0][:m.N], got)
					require.Equal(t, kernelTo, m.Addr)
					got++
				}
			}
			requireFrames(t, plain, before.Received, func() uint64 { return tap.Stats().Received }, len(ms))
		})
	}
}

// requireFrames checks that a batch was carried in the expected number of frames: one frame for each
// datagram if plain is true, and otherwise fewer. The device may count the frames after they have arrived.
func requireFrames(t *testing.T, plain bool, before uint64, count func() uint64, datagrams int) {
	t.Helper()
	least := 1
	if plain {
		least = datagrams
	}
	require.Eventually(t, func() bool { return count()-before >= uint64(least) }, patience, 5*time.Millisecond, "one frame each")
	if !plain {
		require.LessOrEqual(t, count()-before, uint64(5), "one frame for all, and perhaps what else there was")
	}
}

// sendSegments makes the kernel send one long datagram in segments (UDP_SEGMENT).
func sendSegments(t *testing.T, conn *net.UDPConn, ms []stack.Datagram, size int) {
	t.Helper()
	raw, err := conn.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_UDP, unix.UDP_SEGMENT, size)
	}))
	require.NoError(t, err)
	var all []byte
	for i := range ms {
		all = append(all, ms[i].Buffers[0]...)
	}
	_, err = conn.Write(all)
	require.NoError(t, err)
}
