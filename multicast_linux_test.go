package usernet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// A kernelSocket is a net.UDPConn with more methods: those methods of usernet.UDPConn that the tests call
// and net.UDPConn lacks. x/net/ipv4 implements these methods, except that SetControlMessage itself
// handles FlagTOS, which x/net/ipv4 does not have.
type kernelSocket struct {
	*net.UDPConn
	p *ipv4.PacketConn
}

// kernelGroups returns the world of the kernel.
func kernelGroups(t *testing.T) *datagramWorld {
	lo, err := net.InterfaceByName("lo")
	require.NoError(t, err)
	require.Equal(t, 1, lo.Index)
	wrap := func(c *net.UDPConn, err error) (groupSocket, error) {
		if err != nil {
			return nil, err
		}
		return kernelSocket{c, ipv4.NewPacketConn(c)}, nil
	}
	return &datagramWorld{
		lo: lo,
		listen: func(network, address string) (groupSocket, error) {
			c, err := net.ListenPacket(network, address)
			if err != nil {
				return nil, err
			}
			return wrap(c.(*net.UDPConn), nil)
		},
		listenMulticast: func(network string, ifi *net.Interface, gaddr *net.UDPAddr) (groupSocket, error) {
			return wrap(net.ListenMulticastUDP(network, ifi, gaddr))
		},
		dial: func(network string, laddr, raddr *net.UDPAddr) (groupSocket, error) {
			return wrap(net.DialUDP(network, laddr, raddr))
		},
	}
}

func ipAddr(a netip.Addr) net.Addr { return &net.IPAddr{IP: a.AsSlice()} }

func (k kernelSocket) JoinGroup(ifi *net.Interface, group netip.Addr) error {
	return k.p.JoinGroup(ifi, ipAddr(group))
}

func (k kernelSocket) LeaveGroup(ifi *net.Interface, group netip.Addr) error {
	return k.p.LeaveGroup(ifi, ipAddr(group))
}

func (k kernelSocket) JoinSourceGroup(ifi *net.Interface, group, source netip.Addr) error {
	return k.p.JoinSourceSpecificGroup(ifi, ipAddr(group), ipAddr(source))
}

func (k kernelSocket) LeaveSourceGroup(ifi *net.Interface, group, source netip.Addr) error {
	return k.p.LeaveSourceSpecificGroup(ifi, ipAddr(group), ipAddr(source))
}

func (k kernelSocket) BlockSource(ifi *net.Interface, group, source netip.Addr) error {
	return k.p.ExcludeSourceSpecificGroup(ifi, ipAddr(group), ipAddr(source))
}

func (k kernelSocket) UnblockSource(ifi *net.Interface, group, source netip.Addr) error {
	return k.p.IncludeSourceSpecificGroup(ifi, ipAddr(group), ipAddr(source))
}

func (k kernelSocket) SetMulticastInterface(ifi *net.Interface) error {
	return k.p.SetMulticastInterface(ifi)
}
func (k kernelSocket) SetMulticastTTL(ttl int) error      { return k.p.SetMulticastTTL(ttl) }
func (k kernelSocket) SetMulticastLoopback(on bool) error { return k.p.SetMulticastLoopback(on) }
func (k kernelSocket) MulticastLoopback() (bool, error)   { return k.p.MulticastLoopback() }
func (k kernelSocket) SetTTL(ttl int) error               { return k.p.SetTTL(ttl) }
func (k kernelSocket) SetTOS(tos int) error               { return k.p.SetTOS(tos) }

func (k kernelSocket) SetControlMessage(cf ControlFlags, on bool) error {
	if cf&FlagTOS != 0 {
		raw, err := k.SyscallConn()
		if err != nil {
			return err
		}
		value := 0
		if on {
			value = 1
		}
		var serr error
		if err := raw.Control(func(fd uintptr) {
			serr = os.NewSyscallError("setsockopt", syscall.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVTOS, value))
		}); err != nil || serr != nil {
			return serr
		}
	}
	if cf &^= FlagTOS; cf == 0 {
		return nil
	}
	return k.p.SetControlMessage(ipv4.ControlFlags(cf), on)
}

// xnetMessages converts usernet's Messages to x/net's. The results share the buffers of ms.
func xnetMessages(ms []Message) []ipv4.Message {
	out := make([]ipv4.Message, len(ms))
	for i, m := range ms {
		out[i] = ipv4.Message(m)
	}
	return out
}

func (k kernelSocket) ReadBatch(ms []Message, flags int) (int, error) {
	xs := xnetMessages(ms)
	n, err := k.p.ReadBatch(xs, flags)
	for i := range xs {
		ms[i] = Message(xs[i])
	}
	return n, err
}

func (k kernelSocket) WriteBatch(ms []Message, flags int) (int, error) {
	xs := xnetMessages(ms)
	n, err := k.p.WriteBatch(xs, flags)
	for i := range xs {
		ms[i] = Message(xs[i])
	}
	return n, err
}

// The test compares the control messages of raw sockets, ours and the kernel's. Raw sockets have the
// same control messages as UDP sockets.
func TestIPControlMessagesHaveTheBytesOfTheKernel(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a raw socket of the kernel")
	}
	lo := &net.IPAddr{IP: net.IPv4(127, 0, 0, 1)}
	type ipSocket interface {
		ReadMsgIP(b, oob []byte) (n, oobn, flags int, addr *net.IPAddr, err error)
		WriteMsgIP(b, oob []byte, addr *net.IPAddr) (n, oobn int, err error)
	}
	program := func(c ipSocket) (lines []string) {
		for _, m := range [][]byte{
			nil,
			control(0, 2, int32Bytes(7)...),
			control(0, 1, 0x20),
			control(0, 8, packetInfo(1, "127.0.0.7")...),
			control(0, 8, packetInfo(9999, "0.0.0.0")...),
			control(0, 2, int32Bytes(0)...),
			control(250, 2, int32Bytes(0)...),
			{1, 2, 3},
		} {
			n, oobn, err := c.WriteMsgIP([]byte("datagram"), m, lo)
			lines = append(lines, fmt.Sprintf("sent %d %d %s", n, oobn, why(err)))
			if err != nil {
				continue
			}
			b, oob := make([]byte, 100), make([]byte, 80)
			n, oobn, flags, from, err := c.ReadMsgIP(b, oob)
			require.NoError(t, err)
			lines = append(lines, fmt.Sprintf("%q from %v, control %x, flags %#x", b[20:n], from, oob[:oobn], flags))
		}
		return lines
	}
	kernel, err := net.ListenIP("ip4:200", lo)
	require.NoError(t, err)
	defer kernel.Close()
	require.NoError(t, ipv4.NewPacketConn(kernel).SetControlMessage(ipv4.FlagTTL|ipv4.FlagDst, true))
	h, err := New(Config{})
	require.NoError(t, err)
	defer h.Close()
	ours, err := h.ListenIP("ip4:200", lo)
	require.NoError(t, err)
	require.NoError(t, ours.SetControlMessage(FlagTTL|FlagDst, true))
	require.Equal(t, program(kernel), program(ours), "the expected lines are those of the kernel")
}
