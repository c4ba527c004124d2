package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/ppp"
)

// pppFlags are the flags for a PPP link.
type pppFlags struct {
	line     string // a serial line or pseudo-terminal
	ethernet string // an interface or TAP for PPPoE
	service  string
	user     string
	password string // name of the file with the password
}

func (f *pppFlags) define(fs *flag.FlagSet) {
	fs.StringVar(&f.line, "ppp", "", "use PPP on a serial `line` or pseudo-terminal, such as /dev/ttyS0, instead of the TAP device; the peer assigns our IPv4 address, unless there is -addr")
	fs.StringVar(&f.ethernet, "pppoe", "", "use PPPoE on an interface of the kernel or a TAP device with this `name`; the server assigns our IPv4 address")
	fs.StringVar(&f.service, "service", "", "with -pppoe: the `name` of the service; by default any")
	fs.StringVar(&f.user, "user", "", "with -ppp or -pppoe: our user `name`, if the peer asks for it")
	fs.StringVar(&f.password, "password", "", "with -user: a `file` whose first line is the password")
}

// used reports whether the link uses PPP.
func (f *pppFlags) used() bool { return f.line != "" || f.ethernet != "" }

// check returns an error if flags conflict.
func (f *pppFlags) check(l *linkFlags) error {
	switch {
	case !f.used() && (f.user != "" || f.password != "" || f.service != ""):
		return usageError("-user, -password and -service are for -ppp and -pppoe")
	case !f.used():
		return nil
	case f.line != "" && f.ethernet != "":
		return usageError("-ppp and -pppoe: there is only one link")
	case l.wire || l.tun != "" || isSet(l.fs, "tap"):
		return usageError("-ppp or -pppoe, and -tap, -tun or -wire: there is only one link")
	case l.socket.isSet():
		return usageError("-ppp or -pppoe, and " + l.socket.flags()[0] + ": there is only one link")
	case l.auto:
		return usageError("-auto and -ppp or -pppoe: the peer gives the addresses")
	case l.vlan != 0:
		return usageError("-vlan and -ppp or -pppoe: use -pppoe with an interface of the VLAN, such as eth0.7")
	case f.line != "" && isSet(l.fs, "mac"):
		return usageError("-ppp and -mac: a line has no MAC addresses")
	case f.line != "" && f.service != "":
		return usageError("-service is for -pppoe")
	case f.password != "" && f.user == "":
		return usageError("-password without -user")
	}
	return nil
}

// config returns the configuration of the link.
func (f *pppFlags) config(l *linkFlags, log *slog.Logger) (ppp.Config, error) {
	cfg := ppp.Config{User: f.user, Local: l.addr.four.Addr(), Remote: l.hostAddr.four.Addr(), DefaultRoute: true, NoIPv6: l.noIPv6, Logger: log}
	if f.password != "" {
		text, err := os.ReadFile(f.password)
		if err != nil {
			return cfg, err
		}
		cfg.Password, _, _ = strings.Cut(string(text), "\n")
		cfg.Password = strings.TrimSuffix(cfg.Password, "\r")
	}
	return cfg, nil
}

// open returns a device for the link.
func (f *pppFlags) open(l *linkFlags, log *slog.Logger) (*ppp.Device, error) {
	cfg, err := f.config(l, log)
	if err != nil {
		return nil, err
	}
	if f.line != "" {
		line, err := openLine(f.line)
		if err != nil {
			return nil, err
		}
		dev, err := ppp.New(line, cfg)
		if err != nil {
			line.Close()
		}
		return dev, err
	}
	eth, err := openEthernet(f.ethernet, l.mac)
	if err != nil {
		return nil, err
	}
	dev, err := ppp.NewClient(eth, ppp.ClientConfig{Config: cfg, Service: f.service})
	if err != nil {
		eth.Close()
	}
	return dev, err
}

// openEthernet opens the TAP called name. If no interface has that name, openEthernet creates the TAP. If it cannot
// open or create the TAP, it opens a packet socket on the interface called name.
func openEthernet(name string, mac [6]byte) (nic.Device, error) {
	tap, err := nic.OpenTAP(nic.TAPConfig{Name: name, MAC: mac})
	if err == nil {
		return tap, nil
	}
	dev, other := nic.OpenPacket(nic.PacketConfig{Interface: name, MAC: mac})
	if other == nil {
		return dev, nil
	}
	if _, missing := net.InterfaceByName(name); missing == nil && errors.Is(err, syscall.EINVAL) {
		return nil, other // the interface is no TAP
	}
	return nil, &tapError{name: name, err: err}
}

// openPPP makes a host on a PPP link.
func (l *linkFlags) openPPP(t terminal, log *slog.Logger) (*network, error) {
	file, err := createOutput(l.pcap)
	if err != nil {
		return nil, err
	}
	link, err := l.ppp.open(l, log)
	if err != nil {
		file.discard()
		return nil, err
	}
	n := newNetwork(plans{}, l.ppp.line+l.ppp.ethernet, log)
	n.file, n.kind = file, "PPP line"
	if l.ppp.ethernet != "" {
		n.kind = "PPPoE link on"
	}
	dev, err := n.wrap(l, t, link)
	if err == nil {
		var six []netip.Prefix
		if l.addr.six.IsValid() {
			six = append(six, l.addr.six)
		}
		n.host, err = usernet.New(usernet.Config{NIC: dev, Addrs: six, Auto: l.routers(dev), NoIPv6: l.noIPv6, DNS: l.dns, Logger: log})
	}
	if err != nil {
		link.Close()
		n.Close()
		return nil, fmt.Errorf("PPP: %w", err)
	}
	n.follow()
	return n, nil
}
