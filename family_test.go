package usernet

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// While both addresses are optimistic, neither host sends its link address in a solicitation
// (RFC 4429 3.2).
func TestNewHostsOfIPv6TalkAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hosts [2]*Host
		a, b := nic.Pipe(nic.PipeConfig{})
		for i, dev := range []nic.Device{a, b} {
			h, err := New(Config{NIC: dev, Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(i + 1)}), 64)}})
			require.NoError(t, err)
			defer h.Close()
			hosts[i] = h
		}
		ln, err := hosts[1].Listen("tcp", "[2001:db8::2]:80")
		require.NoError(t, err)
		began := time.Now()
		c, err := hosts[0].Dial("tcp", "[2001:db8::2]:80")
		require.NoError(t, err)
		defer c.Close()
		d, err := ln.Accept()
		require.NoError(t, err)
		defer d.Close()
		require.Zero(t, time.Since(began))
	})
}
