package usernet

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// On a connected socket, the errors of all calls that send contain the other end's address, as those of
// Write do.
func TestErrorsOfWritePacketNameThePeer(t *testing.T) {
	a, _ := newPair(t)
	c, err := a.Dial("udp", addrB+":9")
	require.NoError(t, err)
	u := c.(*UDPConn)
	ip, err := a.Dial("ip4:99", addrB)
	require.NoError(t, err)
	unconnected, err := a.ListenPacket("udp4", ":0")
	require.NoError(t, err)
	defer unconnected.Close()
	large := make([]byte, 66000)
	_, write := u.Write(large)
	for name, send := range map[string]func() error{
		"WritePacket":    func() error { _, err := u.WritePacket(large, PacketInfo{}); return err },
		"WriteBatch":     func() error { _, err := u.WriteBatch([]Message{{Buffers: [][]byte{large}}}, 0); return err },
		"IP WritePacket": func() error { _, err := ip.(*IPConn).WritePacket(large, PacketInfo{}); return err },
	} {
		e, ok := send().(*net.OpError)
		require.True(t, ok, name)
		want := u.RemoteAddr()
		if name == "IP WritePacket" {
			want = ip.RemoteAddr()
		}
		require.Equal(t, want, e.Addr, name)
	}
	require.Equal(t, u.RemoteAddr(), write.(*net.OpError).Addr)
	u.Close()
	ip.Close()
	_, err = u.WritePacket(nil, PacketInfo{})
	require.Equal(t, u.RemoteAddr(), err.(*net.OpError).Addr, "also when it is closed")
	_, err = unconnected.(*UDPConn).WritePacket(nil, PacketInfo{})
	require.Nil(t, err.(*net.OpError).Addr, "a socket without a peer names none")
}
