package usernet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"

	"github.com/usernet/usernet/stack"
)

// A datagramWorld is the kernel or a host of usernet. All traffic is on its loopback interface. In both
// worlds, this interface has index 1 and the name lo.
type datagramWorld struct {
	lo              *net.Interface
	listen          func(network, address string) (groupSocket, error)
	listenMulticast func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (groupSocket, error)
	dial            func(network string, laddr, raddr *net.UDPAddr) (groupSocket, error)
}

// A groupSocket has the methods of a UDPConn, including those that net.UDPConn lacks.
type groupSocket interface {
	net.PacketConn
	Write(b []byte) (int, error)
	ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error)
	WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error)
	SetReadBuffer(n int) error
	SetWriteBuffer(n int) error
	JoinGroup(ifi *net.Interface, group netip.Addr) error
	LeaveGroup(ifi *net.Interface, group netip.Addr) error
	JoinSourceGroup(ifi *net.Interface, group, source netip.Addr) error
	LeaveSourceGroup(ifi *net.Interface, group, source netip.Addr) error
	BlockSource(ifi *net.Interface, group, source netip.Addr) error
	UnblockSource(ifi *net.Interface, group, source netip.Addr) error
	SetMulticastInterface(ifi *net.Interface) error
	SetMulticastTTL(ttl int) error
	SetMulticastLoopback(on bool) error
	MulticastLoopback() (bool, error)
	SetTTL(ttl int) error
	SetTOS(tos int) error
	SetControlMessage(cf ControlFlags, on bool) error
}

var _ groupSocket = (*UDPConn)(nil)

// ourGroups makes a host with only its loopback.
func ourGroups(t *testing.T) *datagramWorld {
	h, err := New(Config{})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return &datagramWorld{
		lo: &net.Interface{Index: 1, Name: "lo"},
		listen: func(network, address string) (groupSocket, error) {
			c, err := h.ListenPacket(network, address)
			if err != nil {
				return nil, err
			}
			return c.(*UDPConn), nil
		},
		listenMulticast: func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (groupSocket, error) {
			c, err := h.ListenMulticastUDP(network, ifi, gaddr)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		dial: func(network string, laddr, raddr *net.UDPAddr) (groupSocket, error) {
			c, err := h.DialUDP(network, laddr, raddr)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
	}
}

// A log holds the observations of a program in a world, line by line.
type log struct {
	t     *testing.T
	w     *datagramWorld
	lines []string
}

// note adds a line.
func (l *log) note(format string, args ...any) {
	l.lines = append(l.lines, fmt.Sprintf(format, args...))
}

// why formats an error as its errno, or as its text.
func why(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "nothing came"
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}

// listenOn opens a socket and returns it with its port. A port of 0 means a free one.
func (l *log) listenOn(address string) (groupSocket, int) {
	l.t.Helper()
	c, err := l.w.listen("udp4", address)
	require.NoError(l.t, err)
	l.t.Cleanup(func() { c.Close() })
	return c, c.LocalAddr().(*net.UDPAddr).Port
}

// join opens a socket with ListenMulticastUDP.
func (l *log) join(group string, port int) groupSocket {
	l.t.Helper()
	c, err := l.w.listenMulticast("udp4", l.w.lo, &net.UDPAddr{IP: net.ParseIP(group), Port: port})
	require.NoError(l.t, err)
	l.t.Cleanup(func() { c.Close() })
	return c
}

// hear logs what a socket receives next, if it arrives soon.
func (l *log) hear(name string, c groupSocket) {
	b := make([]byte, 100)
	n, err := l.read(c, b)
	if err != nil {
		l.note("%s: %s", name, why(err))
		return
	}
	l.note("%s: %q", name, b[:n])
}

// read reads a datagram that arrives soon. It tries three times, because on a loaded machine a
// deadline may pass before the read starts.
func (l *log) read(c groupSocket, b []byte) (n int, err error) {
	for range 3 {
		c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		if n, _, err = c.ReadFrom(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
	}
	return n, err
}

// say sends a datagram and logs the result.
func (l *log) say(c groupSocket, to string, port int, text string) {
	_, err := c.WriteTo([]byte(text), &net.UDPAddr{IP: net.ParseIP(to), Port: port})
	l.note("say %q: %s", text, why(err))
}

// inBothWorlds runs a program on the kernel and on usernet, and compares their logs.
func inBothWorlds(t *testing.T, program func(l *log)) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("usernet is compared with Linux only")
	}
	kernel, ours := &log{t: t, w: kernelGroups(t)}, &log{t: t, w: ourGroups(t)}
	program(kernel)
	program(ours)
	require.NotEmpty(t, kernel.lines)
	require.Equal(t, kernel.lines, ours.lines, "the expected lines are those of the kernel")
}

// ownGroup returns a group that only this test uses. The kernel passes a datagram for a group to
// every socket of the port as long as any process on the machine is a member.
func ownGroup() string {
	return netip.AddrFrom4([4]byte{239, byte(rand.N(256)), byte(rand.N(256)), byte(1 + rand.N(254))}).String()
}

func TestGroupsOnTheLoopbackAreHeardAsOnTheKernel(t *testing.T) {
	group, other := ownGroup(), ownGroup()
	inBothWorlds(t, func(l *log) {
		first := l.join(group, 0)
		port := first.LocalAddr().(*net.UDPAddr).Port
		l.note("bound to %v", first.LocalAddr().(*net.UDPAddr).IP)
		loop, err := first.MulticastLoopback()
		l.note("loops back: %v %v", loop, err)
		second := l.join(group, port)
		third := l.join(other, port)
		sender, _ := l.listenOn("0.0.0.0:0")
		require.NoError(l.t, sender.SetMulticastInterface(l.w.lo))
		for range 2 {
			l.say(sender, group, port, "to the group")
			l.hear("first", first)
			l.hear("second", second)
			l.hear("third, which did not join it", third)
			l.say(sender, other, port, "to the other")
			l.hear("first", first)
			l.say(first, group, port, "from a member")
			l.hear("the member", first)
			l.say(sender, "127.0.0.1", port, "to the host")
			l.hear("first", first)
			l.hear("second", second)
			l.hear("third", third)
		}
		l.note("close %s", why(third.Close()))
		l.say(sender, other, port, "to nobody")
		l.hear("first", first)
		l.note("leave %s", why(second.LeaveGroup(l.w.lo, netip.MustParseAddr(group))))
		l.say(sender, group, port, "while one is a member")
		l.hear("second", second)
		l.note("leave %s", why(first.LeaveGroup(l.w.lo, netip.MustParseAddr(group))))
		for range 20 {
			l.hear("rest", first)
			l.hear("rest", second)
		}
		l.say(sender, group, port, "to nobody")
		l.hear("first", first)
	})
}

func TestMembershipFailsAsOnTheKernel(t *testing.T) {
	group, host := netip.MustParseAddr("224.0.0.254"), netip.MustParseAddr("127.0.0.1")
	inBothWorlds(t, func(l *log) {
		c, port := l.listenOn("0.0.0.0:0")
		nowhere := &net.Interface{Index: 9999, Name: "none"}
		l.note("leave what was not joined: %s", why(c.LeaveGroup(l.w.lo, group)))
		l.note("join: %s", why(c.JoinGroup(l.w.lo, group)))
		l.note("join again: %s", why(c.JoinGroup(l.w.lo, group)))
		l.note("join a host: %s", why(c.JoinGroup(l.w.lo, host)))
		l.note("join nowhere: %s", why(c.JoinGroup(nowhere, group)))
		l.note("leave nowhere: %s", why(c.LeaveGroup(nowhere, group)))
		l.note("leave: %s", why(c.LeaveGroup(l.w.lo, group)))
		l.note("leave again: %s", why(c.LeaveGroup(l.w.lo, group)))
		for _, ttl := range []int{-2, -1, 0, 1, 255, 256} {
			l.note("multicast TTL %d: %s", ttl, why(c.SetMulticastTTL(ttl)))
			l.note("TTL %d: %s", ttl, why(c.SetTTL(ttl)))
		}
		l.note("TOS: %s", why(c.SetTOS(0x10)))
		connected, err := l.w.dial("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		require.NoError(l.t, err)
		defer connected.Close()
		l.note("join when connected: %s", why(connected.JoinGroup(l.w.lo, group)))
		l.note("close: %s", why(c.Close()))
		for _, addr := range []*net.UDPAddr{nil, {IP: net.IPv4(127, 0, 0, 1)}, {IP: net.ParseIP("ff02::1")}, {Port: 1}} {
			_, err := l.w.listenMulticast("udp4", l.w.lo, addr)
			l.note("%v", err)
		}
		_, err = l.w.listenMulticast("udp4", nowhere, &net.UDPAddr{IP: group.AsSlice()})
		l.note("%v", err)
		_, err = l.w.listenMulticast("tcp", l.w.lo, &net.UDPAddr{IP: group.AsSlice()})
		l.note("%v", err)
	})
}

// For each pair of addresses, two sockets are bound to them one after the other, on the same port.
func TestListenersShareAPortAsOnTheKernel(t *testing.T) {
	addresses := []string{"", "0.0.0.0", "127.0.0.1", "127.0.0.2", "224.0.0.254", "224.0.0.253"}
	inBothWorlds(t, func(l *log) {
		for _, one := range addresses {
			for _, two := range addresses {
				first, err := l.w.listen("udp4", one+":0")
				require.NoError(l.t, err)
				port := first.LocalAddr().(*net.UDPAddr).Port
				second, err := l.w.listen("udp4", fmt.Sprintf("%s:%d", two, port))
				l.note("%q then %q: %s", one, two, why(err))
				if err == nil {
					l.note("%v %v", first.LocalAddr().(*net.UDPAddr).IP, second.LocalAddr().(*net.UDPAddr).IP)
					second.Close()
				}
				first.Close()
			}
		}
	})
}

// allFlags are all flags of control messages.
const allFlags = FlagTTL | FlagSrc | FlagDst | FlagInterface | FlagTOS

func TestControlMessagesHaveTheBytesOfTheKernel(t *testing.T) {
	group := ownGroup()
	inBothWorlds(t, func(l *log) {
		c := l.join(group, 0)
		port := c.LocalAddr().(*net.UDPAddr).Port
		sender, _ := l.listenOn("127.0.0.1:0")
		require.NoError(l.t, sender.SetMulticastInterface(l.w.lo))
		require.NoError(l.t, sender.SetMulticastTTL(5))
		require.NoError(l.t, sender.SetTTL(99))
		require.NoError(l.t, sender.SetTOS(0x2e<<2))
		b, oob := make([]byte, 3), make([]byte, 200)
		read := func(space []byte) {
			c.SetReadDeadline(time.Now().Add(time.Minute))
			for i := range space {
				space[i] = 0xee // to detect bytes that are not written
			}
			n, oobn, flags, _, err := c.ReadMsgUDP(b, space)
			l.note("%d bytes, control %x, flags %#x: %s", n, space[:oobn], flags, why(err))
		}
		for _, to := range []string{group, "127.0.0.1", "127.0.0.9"} {
			for _, cf := range []ControlFlags{0, FlagTTL, FlagDst, FlagTOS, FlagSrc | FlagInterface, allFlags} {
				require.NoError(l.t, c.SetControlMessage(allFlags, false))
				require.NoError(l.t, c.SetControlMessage(cf, true))
				l.say(sender, to, port, fmt.Sprint(cf))
				read(oob)
			}
			for space := range 90 { // all control messages together have 80 bytes
				l.say(sender, to, port, "longer")
				read(oob[:space])
			}
			l.say(sender, to, port, "none")
			read(nil)
		}
	})
}

// control makes a control message, in the form of a 64-bit Linux. Level 0 is IPPROTO_IP; its types are 1 for IP_TOS,
// 2 for IP_TTL and 8 for IP_PKTINFO.
func control(level, typ int, data ...byte) []byte {
	b := make([]byte, 8, 64)
	binary.NativeEndian.PutUint64(b, uint64(16+len(data)))
	b = binary.NativeEndian.AppendUint32(b, uint32(level))
	b = binary.NativeEndian.AppendUint32(b, uint32(typ))
	b = append(b, data...)
	return append(b, make([]byte, -len(b)&7)...)
}

func int32Bytes(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

// packetInfo returns Linux's in_pktinfo.
func packetInfo(index int, src string) []byte {
	a := netip.MustParseAddr(src).As4()
	return append(append(int32Bytes(index), a[:]...), 0, 0, 0, 0)
}

func TestControlMessagesAreObeyedAsByTheKernel(t *testing.T) {
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("the messages are written by hand for 64 bits")
	}
	cut := func(b []byte, n int) []byte { return b[:n] }
	withLength := func(b []byte, n uint64) []byte { binary.NativeEndian.PutUint64(b, n); return b }
	messages := []struct {
		name string
		oob  []byte
	}{
		{"nothing", nil},
		{"source", control(0, 8, packetInfo(0, "127.0.0.7")...)},
		{"interface", control(0, 8, packetInfo(1, "0.0.0.0")...)},
		{"both", control(0, 8, packetInfo(1, "127.0.0.7")...)},
		{"neither", control(0, 8, packetInfo(0, "0.0.0.0")...)},
		{"no such interface", control(0, 8, packetInfo(9999, "0.0.0.0")...)},
		{"not our source", control(0, 8, packetInfo(0, "203.0.113.9")...)},
		{"a group as source", control(0, 8, packetInfo(0, "224.0.0.1")...)},
		{"broadcast as source", control(0, 8, packetInfo(0, "255.255.255.255")...)},
		{"info too short", control(0, 8, packetInfo(0, "127.0.0.7")[:8]...)},
		{"info too long", control(0, 8, append(packetInfo(0, "127.0.0.7"), 0, 0, 0, 0)...)},
		{"TTL", control(0, 2, int32Bytes(7)...)},
		{"TTL 0", control(0, 2, int32Bytes(0)...)},
		{"TTL 255", control(0, 2, int32Bytes(255)...)},
		{"TTL 256", control(0, 2, int32Bytes(256)...)},
		{"TTL of a byte", control(0, 2, 7)},
		{"TOS", control(0, 1, int32Bytes(8)...)},
		{"TOS 0", control(0, 1, int32Bytes(0)...)},
		{"TOS 256", control(0, 1, int32Bytes(256)...)},
		{"TOS -1", control(0, 1, int32Bytes(-1)...)},
		{"TOS of a byte", control(0, 1, 0x20)},
		{"TOS of two bytes", control(0, 1, 0x20, 0)},
		{"two", append(control(0, 2, int32Bytes(9)...), control(0, 1, 4)...)},
		{"the last counts", append(control(0, 2, int32Bytes(9)...), control(0, 2, int32Bytes(8)...)...)},
		{"good, then bad", append(control(0, 2, int32Bytes(9)...), control(0, 2)...)},
		{"unknown type", control(0, 99, 1, 2, 3, 4)},
		{"unknown of the socket", control(1, 999, 1, 2, 3, 4)},
		{"unknown of UDP", control(17, 99, 1, 2, 3, 4)},
		{"unknown level", control(250, 1, 1, 2, 3, 4)},
		{"IPv6", control(41, 50, 1, 2, 3, 4)},
		{"too short to be one", cut(control(0, 2, int32Bytes(7)...), 15)},
		{"cut", cut(control(0, 2, int32Bytes(7)...), 19)},
		{"without padding", cut(control(0, 2, int32Bytes(7)...), 20)},
		{"rest too short to be one", append(control(0, 2, int32Bytes(7)...), 1, 2, 3)},
		{"length 0", withLength(control(0, 2, int32Bytes(7)...), 0)},
		{"length of less than a header", withLength(control(0, 2, int32Bytes(7)...), 15)},
		{"length of all there is", withLength(control(0, 2, int32Bytes(7)...), 1<<62)},
	}
	group := ownGroup()
	inBothWorlds(t, func(l *log) {
		for _, to := range []string{"127.0.0.1", group} {
			c := l.join(group, 0)
			require.NoError(l.t, c.SetControlMessage(allFlags, true))
			port := c.LocalAddr().(*net.UDPAddr).Port
			sender, _ := l.listenOn("127.0.0.1:0")
			require.NoError(l.t, sender.SetMulticastInterface(l.w.lo))
			require.NoError(l.t, sender.SetTOS(0x10))
			connected, err := l.w.dial("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
			require.NoError(l.t, err)
			defer connected.Close()
			b, oob := make([]byte, 100), make([]byte, 100)
			addr := &net.UDPAddr{IP: net.ParseIP(to), Port: port}
			for _, m := range messages {
				if to == group && (m.name == "interface" || m.name == "neither") {
					continue // the kernel then uses another of its addresses
				}
				n, oobn, err := sender.WriteMsgUDP([]byte("datagram"), m.oob, addr)
				if m.name == "not our source" { // EINVAL before Linux 6.12
					l.note("%s: %v", m.name, err != nil)
					continue
				}
				l.note("%s: %d %d %s", m.name, n, oobn, why(err))
				_, oobn, connectedErr := connected.WriteMsgUDP([]byte("datagram"), m.oob, nil)
				l.note("%s, connected: %d %s", m.name, oobn, why(connectedErr))
				for _, err := range []error{err, connectedErr} {
					if err == nil {
						c.SetReadDeadline(time.Now().Add(time.Minute))
						n, oobn, _, from, err := c.ReadMsgUDP(b, oob)
						require.NoError(l.t, err)
						l.note("from %v: %d %x", from.IP, n, oob[:oobn])
					}
				}
			}
		}
	})
}

// Both x/net/ipv4 and ParseControl parse the bytes.
func TestControlMessagesAreParsedByXNet(t *testing.T) {
	w := ourGroups(t)
	c, err := w.listen("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetControlMessage(allFlags, true))
	var cm *ipv4.ControlMessage
	if runtime.GOOS == "linux" {
		cm = &ipv4.ControlMessage{Src: net.IPv4(127, 0, 0, 7), IfIndex: 1}
	}
	info := PacketInfo{Local: netip.MustParseAddr("127.0.0.7"), Interface: 1}
	oob := info.AppendControl(nil)
	if cm != nil {
		require.Equal(t, cm.Marshal(), oob)
	}
	info.TTL, info.TOS = 7, 0x20
	_, _, err = c.WriteMsgUDP([]byte("x"), info.AppendControl(nil), c.LocalAddr().(*net.UDPAddr))
	require.NoError(t, err)
	b, oob := make([]byte, 10), make([]byte, 200)
	_, oobn, flags, from, err := c.ReadMsgUDP(b, oob)
	require.NoError(t, err)
	require.Zero(t, flags)
	require.Equal(t, "127.0.0.7", from.IP.String())
	if cm != nil {
		got := new(ipv4.ControlMessage)
		require.NoError(t, got.Parse(oob[:oobn]))
		require.Equal(t, &ipv4.ControlMessage{TTL: 7, Dst: net.IP{127, 0, 0, 1}, IfIndex: 1}, got)
	}
	var got PacketInfo
	require.NoError(t, got.ParseControl(oob[:oobn]))
	require.Equal(t, PacketInfo{Local: netip.MustParseAddr("127.0.0.1"), Interface: 1, TTL: 7, TOS: 0x20}, got)
	require.ErrorIs(t, got.ParseControl(oob[:oobn-8]), syscall.EINVAL)
}

func TestAPacketIsAnsweredFromWhereItCame(t *testing.T) {
	w := ourGroups(t)
	server, err := w.listen("udp4", ":0")
	require.NoError(t, err)
	defer server.Close()
	client, err := w.listen("udp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer client.Close()
	require.NoError(t, server.SetControlMessage(FlagDst, true))
	port := server.LocalAddr().(*net.UDPAddr).Port
	_, err = client.WriteTo([]byte("?"), &net.UDPAddr{IP: net.IPv4(127, 0, 0, 5), Port: port})
	require.NoError(t, err)
	b, oob := make([]byte, 10), make([]byte, 100)
	_, oobn, _, from, err := server.ReadMsgUDP(b, oob)
	require.NoError(t, err)
	var info PacketInfo
	require.NoError(t, info.ParseControl(oob[:oobn]))
	_, _, err = server.WriteMsgUDP([]byte("!"), info.AppendControl(nil), from)
	require.NoError(t, err)
	_, addr, err := client.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("127.0.0.5:%d", port), addr.String())
}

func TestAnAnswerToABroadcastIsFromTheHost(t *testing.T) {
	a, b := newPair(t)
	server, err := b.ListenUDP("udp4", &net.UDPAddr{Port: 7})
	require.NoError(t, err)
	client, err := a.ListenUDP("udp4", nil)
	require.NoError(t, err)
	for _, to := range []string{addrB, "192.0.2.255", "255.255.255.255"} {
		_, err = client.WriteTo([]byte("?"), &net.UDPAddr{IP: net.ParseIP(to), Port: 7})
		require.NoError(t, err)
		_, info, err := server.ReadPacket(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, to, info.Local.String())
		_, err = server.WritePacket([]byte("!"), info)
		require.NoError(t, err)
		_, from, err := client.ReadFrom(make([]byte, 1))
		require.NoError(t, err)
		require.Equal(t, addrB+":7", from.String())
	}
	_, err = server.WritePacket(nil, PacketInfo{Remote: client.LocalAddr().(*net.UDPAddr).AddrPort(), Local: netip.MustParseAddr("192.0.2.77")})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL, "no host has this address")
}

func TestAnAnswerToAGroupIsFromTheHost(t *testing.T) {
	a, b := newPair(t)
	eth := &net.Interface{Index: 2}
	group := &net.UDPAddr{IP: net.IPv4(239, 1, 2, 3), Port: 5000}
	server, err := b.ListenMulticastUDP("udp4", eth, group)
	require.NoError(t, err)
	require.NoError(t, server.SetControlMessage(FlagDst, true))
	client, err := a.ListenUDP("udp4", nil)
	require.NoError(t, err)
	require.NoError(t, client.SetMulticastInterface(eth))
	ifi, err := client.MulticastInterface()
	require.NoError(t, err)
	require.Equal(t, 2, ifi.Index)
	buf, oob := make([]byte, 10), make([]byte, 100)
	for range 2 {
		_, err = client.WriteTo([]byte("?"), group)
		require.NoError(t, err)
	}
	_, info, err := server.ReadPacket(buf)
	require.NoError(t, err)
	require.Equal(t, "239.1.2.3", info.Local.String())
	_, err = server.WritePacket([]byte("!"), info)
	require.NoError(t, err)
	_, oobn, _, from, err := server.ReadMsgUDP(buf, oob)
	require.NoError(t, err)
	var parsed PacketInfo
	require.NoError(t, parsed.ParseControl(oob[:oobn]))
	_, _, err = server.WriteMsgUDP([]byte("!"), parsed.AppendControl(nil), from)
	require.NoError(t, err)
	for range 2 {
		_, addr, err := client.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, addrB+":5000", addr.String())
	}
}

func TestSettingsOfDatagramSocketsAreKept(t *testing.T) {
	a, _ := newPair(t)
	udp, err := a.ListenUDP("udp4", nil)
	require.NoError(t, err)
	ip, err := a.ListenIP("ip4:200", nil)
	require.NoError(t, err)
	for _, c := range []interface {
		Close() error
		JoinGroup(ifi *net.Interface, group netip.Addr) error
		SetTTL(ttl int) error
		SetTOS(tos int) error
		SetMulticastTTL(ttl int) error
		SetMulticastLoopback(on bool) error
		TTL() (int, error)
		TOS() (int, error)
		MulticastTTL() (int, error)
		MulticastLoopback() (bool, error)
		MulticastInterface() (*net.Interface, error)
	}{udp, ip} {
		require.NoError(t, c.SetTTL(9))
		require.NoError(t, c.SetTOS(8))
		require.NoError(t, c.SetMulticastTTL(7))
		require.NoError(t, c.SetMulticastLoopback(false))
		for want, get := range map[int]func() (int, error){9: c.TTL, 8: c.TOS, 7: c.MulticastTTL} {
			n, err := get()
			require.NoError(t, err)
			require.Equal(t, want, n)
		}
		loop, err := c.MulticastLoopback()
		require.NoError(t, err)
		require.False(t, loop)
		ifi, err := c.MulticastInterface()
		require.NoError(t, err)
		require.Nil(t, ifi)
		require.NoError(t, c.Close())
		_, err = c.TTL()
		require.ErrorIs(t, err, net.ErrClosed)
		require.IsType(t, &net.OpError{}, err)
		require.ErrorIs(t, c.SetTTL(9), net.ErrClosed)
		require.ErrorIs(t, c.JoinGroup(nil, netip.MustParseAddr("192.0.2.1")), net.ErrClosed, "the error is that of a closed socket, although the group is invalid too")
		require.ErrorIs(t, c.SetMulticastTTL(256), net.ErrClosed)
		require.ErrorIs(t, c.JoinGroup(&net.Interface{Index: 2}, netip.MustParseAddr("224.1.2.3")), net.ErrClosed)
	}
	require.Equal(t, syscall.EINVAL, new(UDPConn).SetTTL(1))
	_, err = new(IPConn).TTL()
	require.Equal(t, syscall.EINVAL, err)
}

func TestBuffersOfDatagramSocketsAreAsOnTheKernel(t *testing.T) {
	inBothWorlds(t, func(l *log) {
		c, port := l.listenOn("127.0.0.1:0")
		sender, _ := l.listenOn("127.0.0.1:0")
		for i := range 20 {
			l.say(sender, "127.0.0.1", port, strings.Repeat("x", i))
		}
		// Queued datagrams stay, however small the buffer becomes.
		l.note("shrink: %s", why(c.SetReadBuffer(1)))
		l.say(sender, "127.0.0.1", port, "more than fits is lost without an error")
		for range 20 {
			l.hear("queued", c)
		}
		l.hear("the end", c)
		l.say(sender, "127.0.0.1", port, "one always fits")
		l.hear("one", c)
		for _, n := range []int{0, 1, 4096, 1 << 16} {
			l.note("read buffer %d: %s", n, why(c.SetReadBuffer(n)))
			l.note("write buffer %d: %s", n, why(c.SetWriteBuffer(n)))
		}
		// A burst is truncated. After it the socket still works.
		for range 2000 {
			sender.WriteTo(make([]byte, 1000), c.LocalAddr())
		}
		got := 0
		for b := make([]byte, 2000); ; got++ {
			if _, err := l.read(c, b); err != nil {
				break
			}
		}
		l.note("of 2000 there came some, not all: %v", got > 10 && got < 1000)
		l.say(sender, "127.0.0.1", port, "goes on")
		l.hear("goes on", c)
		l.note("close: %s", why(c.Close()))
		l.note("%v", strings.ReplaceAll(c.SetReadBuffer(4096).Error(), fmt.Sprint(port), "P"))
		l.note("%v", strings.ReplaceAll(c.SetWriteBuffer(4096).Error(), fmt.Sprint(port), "P"))
	})
}

func FuzzControlMessages(f *testing.F) {
	f.Add([]byte(nil))
	f.Add((&PacketInfo{Local: netip.MustParseAddr("192.0.2.1"), Interface: 3, TTL: 4, TOS: 5}).AppendControl(nil))
	f.Add((&PacketInfo{Local: netip.MustParseAddr("2001:db8::1"), Interface: 3, TTL: 4, TOS: 5}).AppendControl(nil))
	f.Add(control(0, 2, int32Bytes(7)...))
	f.Fuzz(func(t *testing.T, oob []byte) {
		var o stack.SendOptions
		if err := sendControl(oob, control4, &o); err != nil {
			require.Equal(t, syscall.EINVAL, err)
		}
		var info PacketInfo
		if err := info.ParseControl(oob); err != nil {
			require.Equal(t, syscall.EINVAL, err)
			return
		}
		// The control messages that AppendControl appends can be parsed for sending. info's source is then the
		// source to send from.
		var reparsed stack.SendOptions
		kind := control4
		if info.isSix() {
			kind = control6
		}
		require.NoError(t, sendControl(info.AppendControl(nil), kind, &reparsed))
		require.Equal(t, info.Interface, reparsed.NIC)
		if src := info.source(); src.IsValid() && src != netip.IPv6Unspecified() {
			require.Equal(t, src, reparsed.Src)
		}
		require.Equal(t, info.TTL, reparsed.TTL)
		require.Equal(t, info.TOS, reparsed.TOS)
	})
}
