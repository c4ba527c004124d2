//go:build linux

package taptest

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/tcp"
)

// A longestFrame records the length in bytes of the longest IP packet of each family that a TAP has sent.
type longestFrame struct {
	*nic.TAP
	sent [2]atomic.Int64 // IPv4 and IPv6
}

func (d *longestFrame) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		if f := &batch[i]; f.GSO == nic.GSOTCP4 || f.GSO == nic.GSOTCP6 {
			longest := &d.sent[f.GSO-nic.GSOTCP4]
			longest.Store(max(longest.Load(), int64(f.Len()-14)))
		}
	}
	return d.TAP.Send(batch)
}

// openBigTAP opens a TAP with a limit of super-frames.
func (ns *namespace) openBigTAP(t *testing.T, gso int) *longestFrame {
	t.Helper()
	d := new(longestFrame)
	require.NoError(t, ns.inside(func() (err error) {
		d.TAP, err = nic.OpenTAP(nic.TAPConfig{
			Name: tapName, GSO: gso,
			Addr:  netip.MustParsePrefix(kernelAddr + "/24"),
			Addr6: netip.MustParsePrefix(kernelAddr6 + "/64"),
		})
		return err
	}))
	t.Cleanup(func() { d.Close() })
	return d
}

// TestBigSuperFramesChangeNoByte transfers files over TAPs with super-frames of several sizes. The files arrive as they
// were, and the kernel counts no error.
func TestBigSuperFramesChangeNoByte(t *testing.T) {
	t.Parallel()
	need(t, "curl", "sha256sum", "nstat")
	const size = 80 << 20
	for _, gso := range []int{0, 65535, nic.MaxGSO} {
		t.Run(fmt.Sprint(gso), func(t *testing.T) {
			ns := newNamespace(t)
			dev := ns.openBigTAP(t, gso)
			limit := int64(dev.Link().GSO)
			t.Logf("the limit is %d bytes", limit)
			if gso != 0 {
				require.EqualValues(t, gso, limit)
			}
			h := newHost(t, dev)
			serveSite(t, h)
			for i, e := range families {
				curlDownload(t, ns, e, size)
				curlUpload(t, ns, e, size)
				longest := dev.sent[i].Load()
				require.LessOrEqual(t, longest, limit, e.name)
				require.Greater(t, longest, limit-5000, "%s: only headers and less than a segment are missing", e.name)
			}
			// On a busy machine either side may send loss probes. Neither loses anything.
			theirs, events := ns.nstat(t), h.Stats().TCP.Events
			for _, name := range []string{
				"TcpInErrs", "TcpInCsumErrors", "TcpExtTCPRcvQDrop", "TcpExtTCPOFOQueue", "TcpExtTCPOFODrop",
				"IpInHdrErrors", "IpInDiscards", "IpExtInTruncatedPkts", "IpExtInCsumErrors",
				"Ip6InHdrErrors", "Ip6InDiscards", "Ip6InTruncatedPkts",
			} {
				n, known := theirs[name]
				require.True(t, known || strings.HasSuffix(name, "CsumErrors"), name)
				require.Zero(t, n, name)
			}
			require.Zero(t, events[tcp.FastRetrans]+events[tcp.LossProbeRecovery]+events[tcp.OFOQueue], "%v", events)
			require.Zero(t, dev.Stats().SendDropped)
		})
	}
}

// TestBigSuperFramesCrossATUN sends large super-frames without a link header.
func TestBigSuperFramesCrossATUN(t *testing.T) {
	t.Parallel()
	need(t, "curl", "sha256sum")
	ns := newNamespace(t)
	var tun *nic.TUN
	require.NoError(t, ns.inside(func() (err error) {
		tun, err = nic.OpenTUN(nic.TUNConfig{
			GSO:  nic.MaxGSO,
			Addr: netip.MustParsePrefix(kernelAddr + "/24"), Addr6: netip.MustParsePrefix(kernelAddr6 + "/64"),
		})
		return err
	}))
	t.Cleanup(func() { tun.Close() })
	h, err := usernet.New(usernet.Config{NIC: tun, Addrs: []netip.Prefix{
		netip.MustParsePrefix(ourAddr + "/24"), netip.MustParsePrefix(ourAddr6 + "/64"),
	}})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	serveSite(t, h)
	for _, e := range families {
		before := tun.Stats()
		curlDownload(t, ns, e, bulk)
		after := tun.Stats()
		if tun.Link().GSO == nic.MaxGSO {
			mean := (after.SentBytes - before.SentBytes) / (after.Sent - before.Sent)
			require.Greater(t, mean, uint64(65535), "the mean length of a packet to %s", e.name)
		}
	}
	require.Zero(t, h.Stats().TCP.Events[tcp.FastRetrans])
	require.Zero(t, tun.Stats().SendDropped)
}
