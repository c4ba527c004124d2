package usernet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/stack"
)

// kernelHas6 skips the test if the kernel's loopback has no IPv6. If CI=true is in the environment, the
// test fails instead.
func kernelHas6(t *testing.T) {
	t.Helper()
	c, err := net.ListenUDP("udp6", &net.UDPAddr{IP: net.IPv6loopback})
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("needs ::1 on the kernel's loopback: %v", err)
		}
		t.Skipf("needs ::1 on the kernel's loopback: %v", err)
	}
	c.Close()
}

// control6Socket has the methods that net.UDPConn and usernet.UDPConn share.
type control6Socket interface {
	net.PacketConn
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
}

// packetInfo6 returns an in6_pktinfo (RFC 3542 6.1).
func packetInfo6(index int, src string) []byte {
	a := netip.MustParseAddr(src).As16()
	return append(a[:], int32Bytes(index)...)
}

// RFC 3542 6.5: a traffic class of -1 is "use kernel default". Linux sends 0xff.
func TestATrafficClassOfMinusOneIsTheDefault(t *testing.T) {
	o := stack.SendOptions{}
	require.NoError(t, sendControl(control(unix.IPPROTO_IPV6, unix.IPV6_TCLASS, int32Bytes(-1)...), control6, &o))
	require.Equal(t, stack.SendOptions{}, o)
}

// The control messages (RFC 3542 6) that an IPv6 socket receives and sends equal the kernel's, byte for
// byte, for datagrams of both families.
func TestControlMessagesOfIPv6HaveTheBytesOfTheKernel(t *testing.T) {
	kernelHas6(t)
	// The levels are those of Linux: 0 is IPPROTO_IP, 1 is SOL_SOCKET and 41 is IPPROTO_IPV6. Of IPv6, type 50
	// is IPV6_PKTINFO, 52 is IPV6_HOPLIMIT and 67 is IPV6_TCLASS; of IPv4, 1 is IP_TOS, 2 is IP_TTL and 8 is IP_PKTINFO.
	messages := []struct {
		name string
		oob  []byte
	}{
		{"nothing", nil},
		{"source", control(41, 50, packetInfo6(0, "::1")...)},
		{"source and interface", control(41, 50, packetInfo6(1, "::1")...)},
		{"interface", control(41, 50, packetInfo6(1, "::")...)},
		{"neither", control(41, 50, packetInfo6(0, "::")...)},
		{"mapped source", control(41, 50, packetInfo6(0, "::ffff:127.0.0.7")...)},
		{"not our source", control(41, 50, packetInfo6(0, "2001:db8:9::9")...)},
		{"a group as source", control(41, 50, packetInfo6(0, "ff02::1")...)},
		{"info too short", control(41, 50, packetInfo6(0, "::1")[:16]...)},
		{"info too long", control(41, 50, append(packetInfo6(0, "::1"), 0, 0, 0, 0)...)},
		{"hop limit", control(41, 52, int32Bytes(7)...)},
		{"hop limit -1", control(41, 52, int32Bytes(-1)...)},
		{"hop limit -2", control(41, 52, int32Bytes(-2)...)},
		{"hop limit 255", control(41, 52, int32Bytes(255)...)},
		{"hop limit 256", control(41, 52, int32Bytes(256)...)},
		{"hop limit of a byte", control(41, 52, 7)},
		{"traffic class", control(41, 67, int32Bytes(0x20)...)},
		{"traffic class 256", control(41, 67, int32Bytes(256)...)},
		{"unknown of IPv6", control(41, 199, 1, 2, 3, 4)},
		{"TTL", control(0, 2, int32Bytes(9)...)},
		{"TOS", control(0, 1, 0x28)},
		{"info of IPv4", control(0, 8, packetInfo(0, "127.0.0.7")...)},
		{"unknown of IPv4", control(0, 99, 1, 2, 3, 4)},
		{"unknown of the socket", control(1, 999, 1, 2, 3, 4)},
		{"two", append(control(41, 52, int32Bytes(9)...), control(41, 67, int32Bytes(4)...)...)},
	}
	program := func(listen func(network, address string) control6Socket, dial func(to *net.UDPAddr) control6Socket, receiveControl func(control6Socket)) (lines []string) {
		for _, dst := range []string{"::1", "127.0.0.1"} {
			c, sender := listen("udp", "[::]:0"), listen("udp", "[::]:0")
			defer c.Close()
			defer sender.Close()
			receiveControl(c)
			to := &net.UDPAddr{IP: net.ParseIP(dst), Port: c.LocalAddr().(*net.UDPAddr).Port}
			connected := dial(to)
			defer connected.Close()
			b, oob := make([]byte, 100), make([]byte, 200)
			for _, m := range messages {
				n, oobn, err := sender.WriteMsgUDP([]byte("datagram"), m.oob, to)
				lines = append(lines, fmt.Sprintf("%s to %s: %d %d %s", m.name, dst, n, oobn, why(err)))
				_, oobn, connectedErr := connected.WriteMsgUDP([]byte("datagram"), m.oob, nil)
				lines = append(lines, fmt.Sprintf("%s, connected: %d %s", m.name, oobn, why(connectedErr)))
				for _, err := range []error{err, connectedErr} {
					if err != nil {
						continue
					}
					require.NoError(t, c.SetReadDeadline(time.Now().Add(time.Minute)))
					n, oobn, flags, from, err := c.ReadMsgUDP(b, oob)
					require.NoError(t, err, m.name)
					lines = append(lines, fmt.Sprintf("from %v of %d bytes: %d %x %d", from.IP, len(from.IP), n, oob[:oobn], flags))
				}
			}
			// A buffer that is too small for the control messages.
			for size := range 100 {
				_, err := sender.WriteTo([]byte("long"), to)
				require.NoError(t, err)
				n, oobn, flags, _, err := c.ReadMsgUDP(b, oob[:size])
				lines = append(lines, fmt.Sprintf("room %d: %d %d %#x %s", size, n, oobn, flags, why(err)))
			}
		}
		return lines
	}
	kernel := program(
		func(network, address string) control6Socket {
			c, err := net.ListenPacket(network, address)
			require.NoError(t, err)
			return c.(*net.UDPConn)
		},
		func(to *net.UDPAddr) control6Socket {
			c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.IPv6unspecified}, to)
			require.NoError(t, err)
			return c
		},
		func(c control6Socket) {
			raw, err := c.(*net.UDPConn).SyscallConn()
			require.NoError(t, err)
			require.NoError(t, raw.Control(func(fd uintptr) {
				for _, o := range [][2]int{
					{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO}, {unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT}, {unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS},
					{unix.IPPROTO_IP, unix.IP_RECVTTL}, {unix.IPPROTO_IP, unix.IP_RECVTOS},
				} {
					require.NoError(t, syscall.SetsockoptInt(int(fd), o[0], o[1], 1))
				}
			}))
		})
	h := sixHost(t)
	ours := program(
		func(network, address string) control6Socket {
			c, err := h.ListenPacket(network, address)
			require.NoError(t, err)
			return c.(*UDPConn)
		},
		func(to *net.UDPAddr) control6Socket {
			c, err := h.DialUDP("udp", &net.UDPAddr{IP: net.IPv6unspecified}, to)
			require.NoError(t, err)
			return c
		},
		func(c control6Socket) { require.NoError(t, c.(*UDPConn).SetControlMessage(allFlags, true)) })
	require.Equal(t, kernel, ours, "the expected lines are those of the kernel")
}
