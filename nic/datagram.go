package nic

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
)

// DatagramConfig configures OpenDatagram.
type DatagramConfig struct {
	// Network is the kind of socket, "unixgram" or "udp".
	Network string
	// Local is the address of the device: a path, or an IP address with a port. If it is empty, a Unix
	// socket gets a path in the directory for temporary files.
	Local string
	// Remote is the address of the peer. On UDP the device drops datagrams from all other addresses.
	// If Remote is empty, which is possible with Unix sockets only, the peer is the socket that has sent
	// the last datagram.
	Remote string
	// Handshake makes the device send the datagram "VFKT" to Remote when it is opened. Programs that
	// serve vfkit, such as gvproxy, learn the device's path from this datagram.
	Handshake bool

	Name string  // name in messages; empty stands for Local
	MAC  [6]byte // address of this end; zero stands for a random one
	MTU  int     // in bytes, at most 65535; 0 stands for 1500
}

// Datagram is a device that sends each frame as a datagram, on a Unix or UDP socket. QEMU (-netdev
// dgram) and vfkit use this form. A device without Remote can serve vfkit: the device takes the address of vfkit from
// vfkit's first datagram, "VFKT", and does not pass this datagram on as a frame.
//
// Frames that are sent while no peer is there are dropped and counted. On Linux, one system call moves
// several frames.
type Datagram struct{ datagramDevice }

// datagramDevice is the part that Datagram and VDE share.
type datagramDevice struct {
	rxLoop
	sock *datagramSocket
}

var _ Device = (*Datagram)(nil)

// handshake is the datagram that vfkit sends first.
const handshake = "VFKT"

// OpenDatagram opens a datagram socket. The peer need not exist yet, unless Handshake is set. An existing
// socket at the path Local is replaced if no process uses it.
func OpenDatagram(cfg DatagramConfig) (*Datagram, error) {
	d, err := openDatagram(cfg)
	if err != nil {
		return nil, fmt.Errorf("nic: open datagram device: %w", err)
	}
	return d, nil
}

func openDatagram(cfg DatagramConfig) (*Datagram, error) {
	link := Link{Name: cfg.Name, MAC: cfg.MAC, MTU: cfg.MTU, Up: true}
	if err := checkMTU(max(link.MTU, 1)); err != nil {
		return nil, err
	}
	var sock *datagramSocket
	var err error
	switch cfg.Network {
	case "unixgram":
		sock, err = openUnixgram(cfg)
	case "udp":
		sock, err = openUDP(cfg)
	default:
		err = fmt.Errorf("unknown network %q: it is unixgram or udp", cfg.Network)
	}
	if err != nil {
		return nil, err
	}
	if cfg.Handshake {
		if _, err := sock.conn.WriteTo([]byte(handshake), sock.remote.addr); err != nil {
			sock.Close()
			return nil, err
		}
	}
	d := new(Datagram)
	d.start(sock, link.withDefaults(sock.conn.LocalAddr().String()))
	return d, nil
}

// start makes d a device on sock, which openUDP, openUnixgram or VDE has set up.
func (d *datagramDevice) start(sock *datagramSocket, link Link) {
	d.sock = sock
	sock.min, sock.max = link.Medium.headerLen(), link.MTU+link.Medium.headerLen()+vlanTagLen
	sock.loop = &d.rxLoop
	d.src = sock
	d.setLink(link)
}

// NotifyLink returns false: the link does not change.
func (d *datagramDevice) NotifyLink(func()) bool { return false }

// Send sends the frames. On Linux it waits while the peer's queue is full; if the socket is not connected, it drops
// frames after a limited time (see maxFullWait). On other systems it waits only if the system call does. It drops and
// counts frames that the link cannot carry or that the system does not deliver. After Close it returns net.ErrClosed;
// after a failure it returns the error of Err.
func (d *datagramDevice) Send(batch []Frame) (n int, err error) {
	if err := d.sendError(); err != nil {
		return 0, err
	}
	if err := d.sock.write(batch); err != nil {
		d.fail(err)
		return 0, d.sendError()
	}
	return len(batch), nil
}

// A datagramSocket receives and sends the frames of a datagram device.
type datagramSocket struct {
	conn   net.PacketConn
	path   string         // file to remove at Close; may be empty
	remote datagramPeer   // the configured peer; its addr is nil if there is none
	loop   *rxLoop        // of the device
	min    int            // the shortest frame in bytes
	max    int            // the longest frame in bytes
	io     datagramBuffer // the state that depends on the operating system
}

// A datagramPeer is the address of a peer.
type datagramPeer struct {
	addr net.Addr       // nil if there is none, or if the socket is connected
	udp  netip.AddrPort // the same, on UDP
}

// learns reports whether the device takes the last sender as its peer.
func (s *datagramSocket) learns() bool { return s.remote.addr == nil && !s.io.connected }

// Close closes the socket and removes its file.
func (s *datagramSocket) Close() error {
	if s.path != "" && s.path[0] != '@' {
		os.Remove(s.path) // first, so that the file is gone when the reader notices
	}
	return s.conn.Close()
}

// openUDP opens a UDP socket.
func openUDP(cfg DatagramConfig) (*datagramSocket, error) {
	local, err := netip.ParseAddrPort(cfg.Local)
	if err != nil {
		return nil, fmt.Errorf("the local address %q is not an IP address with a port", cfg.Local)
	}
	remote, err := netip.ParseAddrPort(cfg.Remote)
	if err != nil {
		return nil, fmt.Errorf("the remote address %q is not an IP address with a port", cfg.Remote)
	}
	local, remote = unmapped(local), unmapped(remote)
	if local.Addr().Is4() != remote.Addr().Is4() {
		return nil, fmt.Errorf("the addresses %v and %v are of two families", local, remote)
	}
	network := "udp4"
	if local.Addr().Is6() {
		network = "udp6"
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(local))
	if err != nil {
		return nil, err
	}
	s := &datagramSocket{conn: conn, remote: datagramPeer{net.UDPAddrFromAddrPort(remote), remote}}
	return s, s.setUp()
}

// unmapped converts an IPv4-mapped IPv6 address to the IPv4 address. It returns other addresses unchanged.
func unmapped(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

// openUnixgram opens a Unix socket.
func openUnixgram(cfg DatagramConfig) (*datagramSocket, error) {
	if cfg.Handshake && cfg.Remote == "" {
		return nil, errors.New("a handshake needs the remote address")
	}
	path := cfg.Local
	if path == "" {
		path = filepath.Join(os.TempDir(), "usernet-"+rand.Text()[:10])
	}
	conn, err := listenUnixgram(path)
	if err != nil {
		return nil, err
	}
	s := &datagramSocket{conn: conn, path: path}
	if cfg.Remote != "" {
		s.remote.addr = &net.UnixAddr{Name: cfg.Remote, Net: "unixgram"}
	}
	return s, s.setUp()
}

// listenUnixgram binds a socket to a path. It replaces a socket that no process uses any more.
func listenUnixgram(path string) (*net.UnixConn, error) {
	addr := &net.UnixAddr{Name: path, Net: "unixgram"}
	conn, err := net.ListenUnixgram("unixgram", addr)
	if err == nil || !removeStale("unixgram", path) {
		return conn, err
	}
	return net.ListenUnixgram("unixgram", addr)
}
