package usernet

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A listener on a wildcard address, even 0.0.0.0, accepts both families. If the host has no IPv6, the listener
// accepts only IPv4. The text of the listener's Addr is the same as in package net.
func TestAWildcardListensOnBothFamilies(t *testing.T) {
	for _, c := range []struct {
		change func(*Config)
		want   string
		bytes  int
	}{
		{func(*Config) {}, "[::]:80", net.IPv6len},
		{withoutIPv6, "0.0.0.0:80", net.IPv4len},
	} {
		dev, _ := nic.Pipe(nic.PipeConfig{})
		h := newHost(t, dev, addrA, c.change)
		for _, address := range []string{":80", "0.0.0.0:80"} {
			ln, err := h.Listen("tcp", address)
			require.NoError(t, err)
			require.Equal(t, c.want, ln.Addr().String())
			require.Len(t, ln.Addr().(*net.TCPAddr).IP, c.bytes)
			require.NoError(t, ln.Close())
			pc, err := h.ListenPacket("udp", address)
			require.NoError(t, err)
			require.Equal(t, c.want, pc.LocalAddr().String())
			require.NoError(t, pc.Close())
		}
	}
	// A host with only a loopback also listens on both families.
	ln, err := newLoopback(t).Listen("tcp", ":80")
	require.NoError(t, err)
	require.Equal(t, "[::]:80", ln.Addr().String())
	require.NoError(t, ln.Close())
}
