package nic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// packetBuffer is the maximum number of bytes that the kernel keeps for a socket in each direction.
// The kernel counts the memory of a frame, which is more than its length.
const packetBuffer = 8 << 20

// packetSocket is an AF_PACKET socket; see packet(7).
type packetSocket struct {
	raw syscall.RawConn
	ops sync.Pool // of *packetWrite

	index       int  // index of the interface
	promiscuous bool // as configured
	ownMAC      bool // whether the stack's MAC is the interface's
}

func openPacket(cfg PacketConfig) (*Packet, error) {
	// Without a protocol the socket receives nothing until it is bound.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, os.ErrPermission) {
		return nil, fmt.Errorf("%w (it needs CAP_NET_RAW: run as root, or setcap cap_net_raw+ep the program)", err)
	}
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	p, err := newPacket(fd, cfg)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	// From here on file owns the descriptor.
	file := os.NewFile(uintptr(fd), cfg.Interface)
	if p.raw, err = file.SyscallConn(); err != nil {
		file.Close()
		return nil, err
	}
	p.rxLoop.src = newPacketReader(file, p.raw)
	p.rxLoop.watch = watchLink(p.index, p.follow)
	return p, nil
}

// newPacket binds a socket to the interface. It queries the interface through the socket, because
// the socket's network namespace may differ from the calling thread's.
func newPacket(fd int, cfg PacketConfig) (*Packet, error) {
	p := new(Packet)
	link := &Link{Name: cfg.Interface, MAC: cfg.MAC, Medium: Ethernet, GSO: maxPacket, TxChecksum: true, Up: true}
	index, err := link.ask(fd)
	if err != nil {
		return nil, err
	}
	if cfg.MAC != ([6]byte{}) {
		link.MAC = cfg.MAC
	}
	if err := setUpPacket(fd, index, link.MAC, cfg.Promiscuous); err != nil {
		return nil, err
	}
	if !cfg.Outgoing {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
			return nil, os.NewSyscallError("PACKET_IGNORE_OUTGOING", err)
		}
	}
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	if err != nil {
		return nil, os.NewSyscallError("bind", err)
	}
	p.setLink(*link)
	p.packetSocket.index, p.packetSocket.promiscuous = index, cfg.Promiscuous
	p.packetSocket.ownMAC = cfg.MAC == ([6]byte{})
	return p, nil
}

// follow applies a new state of the interface to the link.
func (p *Packet) follow(st linkState) {
	link := *p.current()
	mac := link.MAC
	if p.ownMAC {
		mac = st.mac
	}
	if link.MTU == st.mtu && link.Up == st.up && link.MAC == mac {
		return
	}
	if mac != link.MAC {
		p.receiveMAC(mac)
	}
	link.MTU, link.Up, link.MAC = st.mtu, st.up, mac
	p.setLink(link)
}

// receiveMAC changes the MAC address that the filter passes.
func (p *packetSocket) receiveMAC(mac [6]byte) {
	p.raw.Control(func(fd uintptr) {
		setPacketFilter(int(fd), mac, p.promiscuous)
	})
}

// ask sets MTU and MAC from the kernel's interface and returns the interface's index.
func (l *Link) ask(fd int) (index int, err error) {
	req, err := unix.NewIfreq(l.Name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	index = int(req.Uint32())
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFMTU, req); err != nil {
		return 0, os.NewSyscallError("get MTU", err)
	}
	l.MTU = int(req.Uint32())
	// Package x/sys has no function that reads the MAC address from an Ifreq. hw has the layout of struct
	// ifreq of netdevice(7).
	var hw struct {
		name   [unix.IFNAMSIZ]byte
		family uint16
		addr   [6]byte
		_      [16]byte
	}
	copy(hw.name[:], l.Name)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCGIFHWADDR, uintptr(unsafe.Pointer(&hw)))
	if errno != 0 {
		return 0, os.NewSyscallError("get MAC", errno)
	}
	if hw.family != unix.ARPHRD_ETHER {
		return 0, fmt.Errorf("it is no Ethernet: %w", unix.EINVAL)
	}
	l.MAC = hw.addr
	return index, nil
}

// setUpPacket sets the options of a socket.
func setUpPacket(fd, index int, mac [6]byte, promiscuous bool) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		return os.NewSyscallError("PACKET_VNET_HDR", err)
	}
	// The kernel removes the VLAN tag from a received frame, and passes it in the auxiliary data.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
		return os.NewSyscallError("PACKET_AUXDATA", err)
	}
	for _, o := range []struct{ force, ask int }{
		{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF}, {unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
	} {
		// Exceeding the system's limit needs CAP_NET_ADMIN.
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.force, packetBuffer) != nil {
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, o.ask, packetBuffer); err != nil {
				return os.NewSyscallError("set buffer", err)
			}
		}
	}
	// The stack does not tell the device which multicast groups it has joined, so the socket receives the
	// frames to all multicast addresses.
	join := []unix.PacketMreq{{Type: unix.PACKET_MR_ALLMULTI}, {Type: unix.PACKET_MR_UNICAST, Alen: 6}}
	copy(join[1].Address[:], mac[:])
	if promiscuous {
		join = append(join, unix.PacketMreq{Type: unix.PACKET_MR_PROMISC})
	}
	for i := range join {
		join[i].Ifindex = int32(index)
		if err := unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &join[i]); err != nil {
			return os.NewSyscallError("PACKET_ADD_MEMBERSHIP", err)
		}
	}
	return setPacketFilter(fd, mac, promiscuous)
}

// setPacketFilter attaches a filter and replaces the previous one.
func setPacketFilter(fd int, mac [6]byte, promiscuous bool) error {
	filter := packetFilter(mac, promiscuous)
	err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER,
		&unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]})
	return os.NewSyscallError("SO_ATTACH_FILTER", err)
}

// packetFilter returns a filter that passes only frames for the stack, or all frames if promiscuous is set.
func packetFilter(mac [6]byte, promiscuous bool) []unix.SockFilter {
	const (
		loadByte  = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
		loadHalf  = unix.BPF_LD | unix.BPF_H | unix.BPF_ABS
		loadWord  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		jumpEqual = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		jumpAny   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		end       = unix.BPF_RET | unix.BPF_K
	)
	all := unix.SockFilter{Code: end, K: 1 << 18} // bytes
	if promiscuous {
		return []unix.SockFilter{all}
	}
	return []unix.SockFilter{
		{Code: loadByte, K: 0},
		{Code: jumpAny, K: 1, Jt: 5}, // pass frames to a group address
		{Code: loadWord, K: 0},
		{Code: jumpEqual, K: binary.BigEndian.Uint32(mac[:]), Jf: 2},
		{Code: loadHalf, K: 4},
		{Code: jumpEqual, K: uint32(binary.BigEndian.Uint16(mac[4:])), Jt: 1},
		{Code: end},
		all,
	}
}

// lost returns the number of frames that the kernel has dropped since the last call because the
// socket's buffer was full.
func (p *packetSocket) lost() (n uint64) {
	p.raw.Control(func(fd uintptr) {
		if s, err := unix.GetsockoptTpacketStats(int(fd), unix.SOL_PACKET, unix.PACKET_STATISTICS); err == nil {
			n = uint64(s.Drops)
		}
	})
	return n
}
