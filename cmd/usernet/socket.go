package main

import (
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/usernet/usernet/nic"
)

// socketFlags are the flags for links that use a socket of the operating system.
type socketFlags struct {
	iface  string // the kernel's interface for a packet socket
	name   string // the name of the flag for iface; if it is empty, define sets it to "i"
	vde    string
	stream string
	dgram  string
}

func (s *socketFlags) define(fs *flag.FlagSet) {
	if s.name == "" {
		s.name = "i"
	}
	fs.StringVar(&s.iface, s.name, "", "`interface` of the kernel to share, through a packet socket, instead of a TAP device; it needs -addr or -auto")
	fs.StringVar(&s.vde, "vde", "", "`directory` of a vde_switch to connect to, instead of a TAP device; DIR[3] is its port 3")
	fs.StringVar(&s.stream, "stream", "", "stream `socket` of a virtual machine or of passt, instead of a TAP device: unix:PATH, tcp:IP:PORT, or with listen: before it")
	fs.StringVar(&s.dgram, "dgram", "", "datagram `sockets` of ours and of a virtual machine, instead of a TAP device: unix:PATH,PATH or udp:IP:PORT,IP:PORT; unix:PATH alone serves vfkit")
}

// flags returns the flags that are set.
func (s *socketFlags) flags() (set []string) {
	for _, f := range []struct{ name, value string }{{s.name, s.iface}, {"vde", s.vde}, {"stream", s.stream}, {"dgram", s.dgram}} {
		if f.value != "" {
			set = append(set, "-"+f.name)
		}
	}
	return set
}

func (s *socketFlags) isSet() bool { return len(s.flags()) > 0 }

// place returns the value of the flag that is set. At most one is set.
func (s *socketFlags) place() string { return s.iface + s.vde + s.stream + s.dgram }

// kind returns what the link is, for messages.
func (s *socketFlags) kind() string {
	switch {
	case s.iface != "":
		return "interface"
	case s.vde != "":
		return "VDE switch"
	case s.stream != "":
		return "stream socket"
	}
	return "datagram socket"
}

// check returns an error if the flags conflict with each other or with other flags of the link.
func (s *socketFlags) check(l *linkFlags) error {
	set := s.flags()
	if len(set) == 0 {
		return nil
	}
	for _, other := range []string{"tap", "tun", "wire"} {
		if isSet(l.fs, other) {
			set = append(set, "-"+other)
		}
	}
	switch {
	case len(set) > 1:
		return usageError(fmt.Sprintf("%s and %s: there is only one link", set[0], set[1]))
	case s.iface != "" && l.plain:
		return usageError("-" + s.name + " and -plain: a packet socket always has offloads")
	}
	return nil
}

// checkAddrs returns an error if the link is a packet socket and neither -addr nor -auto is given. The default
// addresses are of no use there, because they are not on the network of the interface.
func (s *socketFlags) checkAddrs(l *linkFlags) error {
	if s.iface != "" && !l.auto && l.addr == (prefixes{}) {
		return usageError("-" + s.name + " needs -addr, an address on the network of the interface, or -auto")
	}
	return nil
}

// redialTime is the time between two attempts to dial a stream socket again, after the peer has closed the connection.
const redialTime = time.Second

// open opens the link. If everything is set, a packet socket receives all frames that its interface sends and
// receives, whatever their addresses.
func (s *socketFlags) open(mac [6]byte, everything bool) (dev nic.DownNotifier, err error) {
	switch {
	case s.iface != "":
		dev, err = nic.OpenPacket(nic.PacketConfig{Interface: s.iface, MAC: mac, Promiscuous: everything, Outgoing: everything})
	case s.vde != "":
		dev, err = openVDE(s.vde, mac)
	case s.stream != "":
		dev, err = openStream(s.stream, mac)
	default:
		dev, err = openDatagram(s.dgram, mac)
	}
	if err != nil {
		return nil, errors.New(strings.TrimPrefix(err.Error(), "nic: "))
	}
	return dev, nil
}

// openVDE connects to the switch in dir, which may end with a port in brackets.
func openVDE(dir string, mac [6]byte) (*nic.VDE, error) {
	cfg := nic.VDEConfig{Path: dir, MAC: mac, Name: "vde"}
	if at := strings.LastIndexByte(dir, '['); at >= 0 && strings.HasSuffix(dir, "]") {
		port, err := strconv.ParseUint(dir[at+1:len(dir)-1], 10, 8)
		if err != nil || port == 0 {
			return nil, fmt.Errorf("-vde %s: a port is a number from 1 to 255", dir)
		}
		cfg.Path, cfg.Port = dir[:at], int(port)
	}
	return nic.OpenVDE(cfg)
}

// openStream opens a stream socket.
func openStream(spec string, mac [6]byte) (*nic.Stream, error) {
	rest, listen := strings.CutPrefix(spec, "listen:")
	network, address, ok := strings.Cut(rest, ":")
	if !ok || network != "unix" && network != "tcp" {
		return nil, fmt.Errorf("-stream %s: it is unix:PATH or tcp:IP:PORT, or listen: and one of these", spec)
	}
	return nic.OpenStream(nic.StreamConfig{Network: network, Address: address, Listen: listen, Redial: redialTime, MAC: mac, Name: "stream"})
}

// openDatagram opens a datagram socket.
func openDatagram(spec string, mac [6]byte) (*nic.Datagram, error) {
	network, addrs, ok := strings.Cut(spec, ":")
	local, remote, two := strings.Cut(addrs, ",")
	if !ok || network != "unix" && network != "udp" || network == "udp" && !two {
		return nil, fmt.Errorf("-dgram %s: it is unix:PATH, unix:PATH,PATH or udp:IP:PORT,IP:PORT", spec)
	}
	if network == "unix" {
		network = "unixgram"
	}
	return nic.OpenDatagram(nic.DatagramConfig{Network: network, Local: local, Remote: remote, MAC: mac, Name: "datagram"})
}

// isReady reports whether the user need not configure the device: either the program has created it, or it is not a
// TAP or TUN.
func isReady(dev nic.Device) bool {
	d, ok := dev.(interface{ Created() bool })
	return !ok || d.Created()
}
