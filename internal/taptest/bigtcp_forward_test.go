//go:build linux

package taptest

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// TestTheKernelSegmentsBigSuperFramesThatItForwards sends large super-frames to a kernel that forwards them to a
// veth, whose limit is 64 KiB.
func TestTheKernelSegmentsBigSuperFramesThatItForwards(t *testing.T) {
	t.Parallel()
	need(t, "curl", "sha256sum")
	ns, far := newNamespace(t), newNamespace(t)
	dev := ns.openBigTAP(t, nic.MaxGSO)
	ns.shell(t, `
		ip link add far type veth peer name veth0 netns `+string(far.Namespace)+`
		ip link set far up
		ip addr add 198.51.100.1/24 dev far
		ip -6 addr add 2001:db8:1::1/64 dev far nodad
		echo 1 > /proc/sys/net/ipv4/ip_forward
		echo 1 > /proc/sys/net/ipv6/conf/all/forwarding`)
	far.shell(t, `
		ip link set veth0 up
		ip addr add 198.51.100.2/24 dev veth0
		ip -6 addr add 2001:db8:1::2/64 dev veth0 nodad
		ip route add default via 198.51.100.1
		ip -6 route add default via 2001:db8:1::1`)
	h := newHost(t, dev)
	serveSite(t, h)
	for i, e := range families {
		curlDownload(t, far, e, someBulk)
		if dev.Link().GSO == nic.MaxGSO {
			require.Greater(t, dev.sent[i].Load(), int64(65535), "the test needs large super-frames")
		}
	}
	require.Zero(t, ns.nstat(t)["IpOutDiscards"])
}

// TestABridgeSegmentsBigSuperFramesForAnotherTAP sends large super-frames to a bridge whose other port is a TAP. A TAP
// has at most 65535 bytes for its program.
func TestABridgeSegmentsBigSuperFramesForAnotherTAP(t *testing.T) {
	t.Parallel()
	need(t)
	for name, vlan := range map[string]int{"untagged": 0, "VLAN": 7} {
		t.Run(name, func(t *testing.T) {
			ns := newNamespace(t)
			ns.run(t, "ip", "link", "add", "br0", "type", "bridge")
			ns.run(t, "ip", "link", "set", "br0", "up")
			addrs := [2][2]string{{ourAddr, ourAddr6}, {"192.0.2.3", "2001:db8::3"}}
			var taps [2]*longestFrame
			var hosts [2]*usernet.Host
			for i, name := range []string{"tap-a", "tap-b"} {
				taps[i] = new(longestFrame)
				require.NoError(t, ns.inside(func() (err error) {
					taps[i].TAP, err = nic.OpenTAP(nic.TAPConfig{Name: name, GSO: nic.MaxGSO})
					return err
				}))
				t.Cleanup(func() { taps[i].Close() })
				ns.run(t, "ip", "link", "set", name, "master", "br0")
				h, err := usernet.New(usernet.Config{NIC: taps[i], VLAN: vlan, Addrs: []netip.Prefix{
					netip.MustParsePrefix(addrs[i][0] + "/24"), netip.MustParsePrefix(addrs[i][1] + "/64"),
				}})
				require.NoError(t, err)
				t.Cleanup(func() { h.Close() })
				hosts[i] = h
			}
			for family, addr := range addrs[1] {
				sendContent(t, hosts[0], hosts[1], addr)
				if taps[0].Link().GSO == nic.MaxGSO {
					require.Greater(t, taps[0].sent[family].Load(), int64(65535+4), "the test needs large super-frames")
				}
			}
			require.Zero(t, taps[1].Stats().RecvDropped)
		})
	}
}

// sendContent sends bulk bytes of content from one host to an address of another.
func sendContent(t *testing.T, from, to *usernet.Host, addr string) {
	t.Helper()
	ln, err := to.Listen("tcp", net.JoinHostPort(addr, "9"))
	require.NoError(t, err)
	defer ln.Close()
	done := make(chan error, 1)
	go func() {
		c, err := from.Dial("tcp", ln.Addr().String())
		if err == nil {
			_, err = io.Copy(c, content(bulk))
			c.Close()
		}
		done <- err
	}()
	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	require.Equal(t, contentSum(t, bulk), sumOf(t, c))
	require.NoError(t, <-done)
}
