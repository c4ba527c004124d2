package std

import (
	"encoding/binary"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/hosttest"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
)

// patience ends a test that hangs.
const patience = time.Minute

func TestMessagesOfTheICMPPackage(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	c, err := h[0].ListenPacket("ip4:icmp", "0.0.0.0")
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	server, err := h[0].ResolveIPAddr("ip4", "server.test")
	require.NoError(t, err)
	receive := func() *icmp.Message {
		b := make([]byte, 1500)
		n, from, err := c.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, server.String(), from.String())
		m, err := icmp.ParseMessage(1, b[:n])
		require.NoError(t, err)
		return m
	}

	// RFC 792: "the data received in the echo message must be returned in the echo
	// reply message."
	for seq := range 10 {
		echo := &icmp.Echo{ID: 4711, Seq: seq, Data: make([]byte, 100*seq)}
		b, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: echo}).Marshal(nil)
		require.NoError(t, err)
		_, err = c.WriteTo(b, server)
		require.NoError(t, err)
		m := receive()
		require.Equal(t, ipv4.ICMPTypeEchoReply, m.Type)
		require.Equal(t, echo.ID, m.Body.(*icmp.Echo).ID)
		require.Equal(t, echo.Seq, m.Body.(*icmp.Echo).Seq)
		require.Equal(t, string(echo.Data), string(m.Body.(*icmp.Echo).Data))
	}

	// An ICMP error answers a datagram to a closed port.
	u, err := h[0].Dial("udp", "server.test:9")
	require.NoError(t, err)
	defer u.Close()
	_, err = u.Write([]byte("is there anybody?"))
	require.NoError(t, err)
	m := receive()
	require.Equal(t, ipv4.ICMPTypeDestinationUnreachable, m.Type)
	require.Equal(t, 3, m.Code, "port unreachable")
	quoted := m.Body.(*icmp.DstUnreach).Data
	head, err := icmp.ParseIPv4Header(quoted)
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", head.Src.String())
	require.Equal(t, "192.0.2.2", head.Dst.String())
	require.Equal(t, 17, head.Protocol)
	port := u.LocalAddr().(*net.UDPAddr).Port
	require.Equal(t, port, int(binary.BigEndian.Uint16(quoted[head.Len:])))
}
