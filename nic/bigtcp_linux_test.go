package nic

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOnlyNewKernelsGetLargeSuperFrames(t *testing.T) {
	for release, want := range map[string][2]bool{
		"6.18.44-fc-v595":  {true, true},
		"6.8.0-31-generic": {true, true},
		"6.8-rc1":          {true, true},
		"6.8":              {true, true},
		"7.0.3":            {true, false},
		"10.1+":            {true, false},
		"6.7.12":           {},
		"6.3.0":            {},
		"5.15.0-91":        {},
		"":                 {},
		"6":                {},
		"six.nine":         {},
		"6.x":              {},
	} {
		able, jumbo := bigTCP(release)
		require.Equal(t, want, [2]bool{able, jumbo}, release)
	}
}

// RFC 2675 2 draws the option. The total here is 100,008 = 0x186a8 bytes.
func TestAJumboPayloadOptionHasTheseBytes(t *testing.T) {
	whole := packetSpec{medium: IP, tcp: true, v6: true, payload: pattern(99_980)}.super(t, 1000, true)
	ip := whole.AppendTo(nil)
	b := make([]byte, 48)
	putJumbo(b, ip, len(ip)-40)
	require.Equal(t, "6000000000000040", hex.EncodeToString(b[:8]), "no payload length, and hop-by-hop options next")
	require.Equal(t, ip[8:40], b[8:40], "the addresses")
	require.Equal(t, "0600c204000186a8", hex.EncodeToString(b[40:]), "TCP next, 8 bytes, the option")
}

// TestTheLimitOfATAPDependsOnItsUse opens TAPs that the kernel is the end of, and others.
func TestTheLimitOfATAPDependsOnItsUse(t *testing.T) {
	able, _ := bigTCP(kernelRelease())
	if !able {
		t.Log("this kernel does not take large super-frames")
	}
	set := func(family, name, value string) {
		path := fmt.Sprintf("/proc/sys/net/%s/conf/%s/forwarding", family, name)
		require.NoError(t, os.WriteFile(path, []byte(value), 0))
	}
	prefix6 := netip.MustParsePrefix("2001:db8::1/64")
	for name, tc := range map[string]struct {
		cfg     TAPConfig
		prepare func()
		large   bool // as the default
	}{
		"end of IPv4":      {cfg: TAPConfig{Addr: testPrefix}, large: true},
		"end of IPv6":      {cfg: TAPConfig{Addr6: prefix6}, large: true},
		"without address":  {},
		"link-local":       {cfg: TAPConfig{Addr6: netip.MustParsePrefix("fe80::5/64")}},
		"forwarding":       {cfg: TAPConfig{Addr: testPrefix}, prepare: func() { set("ipv4", "default", "1") }},
		"forwarding, IPv6": {cfg: TAPConfig{Addr6: prefix6}, prepare: func() { set("ipv6", "default", "1") }},
		"exists": {prepare: func() {
			run(t, "ip tuntap add dev tap5 mode tap")
			run(t, "ip addr add 192.0.2.1/24 dev tap5")
		}, large: true},
		"port of a bridge": {prepare: func() {
			run(t, "ip tuntap add dev tap5 mode tap")
			run(t, "ip link add br5 type bridge")
			run(t, "ip link set tap5 master br5 up")
			run(t, "ip addr add 192.0.2.1/24 dev br5")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inNamespace(t)
			// A namespace inherits the settings of the machine.
			set("ipv4", "default", "0")
			set("ipv6", "default", "0")
			if tc.prepare != nil {
				tc.prepare()
			}
			for _, c := range []struct{ gso, want int }{
				{65535, 65535}, {0, defaultBigGSO}, {MaxGSO, MaxGSO}, {1 << 20, MaxGSO}, {-1, 0}, {3000, 3000},
			} {
				if !able || c.gso == 0 && !tc.large {
					c.want = min(c.want, 65535)
				}
				tc.cfg.Name, tc.cfg.GSO = "tap5", c.gso
				tap, err := OpenTAP(tc.cfg)
				require.NoError(t, err)
				require.Equal(t, c.want, tap.Link().GSO, "GSO %d", c.gso)
				require.NoError(t, tap.Close())
			}
		})
	}
	t.Run("without offload", func(t *testing.T) {
		inNamespace(t)
		tap, err := OpenTAP(TAPConfig{Addr: testPrefix, NoOffload: true, GSO: MaxGSO})
		require.NoError(t, err)
		require.Zero(t, tap.Link().GSO)
		require.NoError(t, tap.Close())
	})
	t.Run("TUN", func(t *testing.T) {
		inNamespace(t)
		tun, err := OpenTUN(TUNConfig{Addr: testPrefix, GSO: 100_000})
		require.NoError(t, err)
		want := 100_000
		if !able {
			want = 65535
		}
		require.Equal(t, want, tun.Link().GSO)
		require.NoError(t, tun.Close())
	})
}

// The stand-in for a device refuses long messages with EMSGSIZE.
func TestALargeSuperFrameIsCutIfTheKernelRefusesIt(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK, 0)
	require.NoError(t, err)
	defer unix.Close(fds[0])
	require.NoError(t, unix.SetsockoptInt(fds[1], unix.SOL_SOCKET, unix.SO_SNDBUF, 37_000)) // half of the buffer's size
	file := os.NewFile(uintptr(fds[1]), "tap")
	defer file.Close()
	raw, err := file.SyscallConn()
	require.NoError(t, err)
	tap := new(tunTap)
	tap.queues, tap.off = []syscall.RawConn{raw}, tapOffload{header: vnetHeaderLen, jumbo: true}
	tap.setLink(Link{MTU: 30_000, GSO: MaxGSO, TxChecksum: true, Up: true})
	for _, v6 := range []bool{false, true} {
		spec := packetSpec{tcp: true, v6: v6, payload: pattern(75_000)}
		want, ok := segmented(Ethernet, new(spec.super(t, 25_000, true)))
		require.True(t, ok)
		require.Len(t, want, 3)
		n, err := tap.Send([]Frame{spec.super(t, 25_000, true)})
		require.NoError(t, err)
		require.Equal(t, 1, n)
		buf := make([]byte, 100_000)
		for _, piece := range want {
			n, err := unix.Read(fds[0], buf)
			require.NoError(t, err)
			require.Equal(t, make([]byte, vnetHeaderLen), buf[:vnetHeaderLen], "no offloads")
			require.Equal(t, piece, buf[vnetHeaderLen:n])
		}
	}
	require.EqualValues(t, 2, tap.Stats().Sent)
	require.Zero(t, tap.Stats().SendDropped)
}
