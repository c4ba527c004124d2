package nic

import (
	"io/fs"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestABadTAPConfigurationIsRefusedBeforeTheSystemIsAsked(t *testing.T) {
	for text, cfg := range map[string]TAPConfig{
		`nic: bad TAP name "sixteen-bytes-xx": longer than 15 bytes`:                 {Name: "sixteen-bytes-xx"},
		`nic: bad TAP name "a/b": has a slash, a colon, a percent sign or a space`:   {Name: "a/b"},
		`nic: bad TAP name "tap%d": has a slash, a colon, a percent sign or a space`: {Name: "tap%d"},
		`nic: bad TAP name "..": not a name`:                                         {Name: ".."},
		`nic: bad TAP spin -1ns: not from 0 to 10ms`:                                 {Spin: -1},
		`nic: bad TAP spin 11ms: not from 0 to 10ms`:                                 {Spin: 11 * time.Millisecond},
		`nic: bad number of TAP queues -1: not from 1 to 256`:                        {Queues: -1},
		`nic: bad number of TAP queues 257: not from 1 to 256`:                       {Queues: 257},
		`nic: bad TAP MTU 67: not from 68 to 65521`:                                  {MTU: 67},
		`nic: bad TAP MTU 65522: not from 68 to 65521`:                               {MTU: 65522},
		`nic: bad TAP MAC 010000000000: a group address`:                             {MAC: [6]byte{1}},
		`nic: bad TAP address 0.0.0.0/0: not that of a host`:                         {Addr: netip.MustParsePrefix("0.0.0.0/0")},
		`nic: bad TAP address 224.0.0.1/4: not that of a host`:                       {Addr: netip.MustParsePrefix("224.0.0.1/4")},
	} {
		if runtime.GOOS == "windows" && cfg.Name != "" {
			continue
		}
		tap, err := OpenTAP(cfg)
		require.Nil(t, tap)
		require.EqualError(t, err, text)
	}
}

func TestAPermissionErrorTellsTheWayOut(t *testing.T) {
	var err error = &TAPPermissionError{
		Name: "vpn7", Addr: netip.MustParsePrefix("198.51.100.1/30"), Err: syscall.EPERM,
	}
	require.ErrorIs(t, err, fs.ErrPermission)
	if runtime.GOOS != "linux" {
		return
	}
	me := currentUser()
	require.NotEmpty(t, me)
	require.NotContains(t, me, "$")
	require.EqualError(t, err, `nic: open TAP vpn7: operation not permitted; make a device of your own, once, as root:
	ip tuntap add dev vpn7 mode tap user `+me+`
	ip addr add 198.51.100.1/30 dev vpn7
	ip link set vpn7 up`)
	err = &TAPPermissionError{Err: syscall.EACCES}
	require.EqualError(t, err, `nic: open TAP tap0: permission denied; make a device of your own, once, as root:
	chmod 666 /dev/net/tun
	ip tuntap add dev tap0 mode tap user `+me+`
	ip addr add 192.0.2.1/24 dev tap0
	ip link set tap0 up`)
	err = &TAPPermissionError{Name: "tap1", Exists: true, Err: syscall.EPERM}
	require.EqualError(t, err, `nic: open TAP tap1: operation not permitted; it exists: make it your own, once, as root:
	ip tuntap del dev tap1 mode tap
	ip tuntap add dev tap1 mode tap user `+me+`
	ip addr add 192.0.2.1/24 dev tap1
	ip link set tap1 up`)
	err = &TAPPermissionError{Name: "tap1", Exists: true, Err: syscall.EACCES}
	require.EqualError(t, err, `nic: open TAP tap1: permission denied; it exists: make it your own, once, as root:
	chmod 666 /dev/net/tun`)
}

func TestABadTUNConfigurationIsRefused(t *testing.T) {
	for text, cfg := range map[string]TUNConfig{
		`nic: bad TUN name "sixteen-bytes-xx": longer than 15 bytes`: {Name: "sixteen-bytes-xx"},
		`nic: bad TUN spin 11ms: not from 0 to 10ms`:                 {Spin: 11 * time.Millisecond},
		`nic: bad number of TUN queues 257: not from 1 to 256`:       {Queues: 257},
		`nic: bad TUN MTU 67: not from 68 to 65535`:                  {MTU: 67},
		`nic: bad TUN MTU 65536: not from 68 to 65535`:               {MTU: 65536},
		`nic: bad TUN address 224.0.0.1/4: not that of a host`:       {Addr: netip.MustParsePrefix("224.0.0.1/4")},
		`nic: bad TUN address 192.0.2.1/24: not of IPv6`:             {Addr6: netip.MustParsePrefix("192.0.2.1/24")},
	} {
		if runtime.GOOS == "windows" && cfg.Name != "" {
			continue
		}
		tun, err := OpenTUN(cfg)
		require.Nil(t, tun)
		require.EqualError(t, err, text)
	}
}
