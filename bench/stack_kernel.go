package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelNetwork returns the kernel's network in the namespace of the process. Its TCP sockets use
// the congestion control cc, or the namespace's default if cc is "". Accepted connections have the
// congestion control of their listener. kernelNetwork does not change the namespace's default: a
// namespace may refuse a congestion control that root may set on a socket.
func kernelNetwork(cc string) *network {
	d, lc := kernelDialer(cc)
	return &network{
		dial: d.Dial,
		listen: func(network, address string) (net.Listener, error) {
			return lc.Listen(context.Background(), network, address)
		},
		listenPacket: net.ListenPacket,
		close:        func() {},
	}
}

func kernelDialer(cc string) (net.Dialer, net.ListenConfig) {
	if cc == "" {
		return net.Dialer{}, net.ListenConfig{}
	}
	control := func(network, _ string, c syscall.RawConn) (err error) {
		if !strings.HasPrefix(network, "tcp") {
			return nil
		}
		outer := c.Control(func(fd uintptr) { err = setCC(int(fd), cc) })
		if outer != nil {
			return outer
		}
		return err
	}
	return net.Dialer{Control: control}, net.ListenConfig{Control: control}
}

// setCC sets a socket's congestion control, unless the socket already has it.
func setCC(fd int, cc string) error {
	own, err := socketCC(fd)
	if err == nil && own == cc {
		return nil
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, cc); err != nil {
		return fmt.Errorf("congestion control %s: %w", cc, os.NewSyscallError("setsockopt", err))
	}
	return nil
}

// socketCC returns the name of a socket's congestion control.
func socketCC(fd int) (string, error) {
	s, err := unix.GetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION)
	return strings.TrimRight(s, "\x00"), err
}

// settableCCs returns the congestion controls that a TCP socket of the current namespace may have. The
// first one is the namespace's default.
func settableCCs() ([]string, error) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/tcp_available_congestion_control")
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	own, err := socketCC(fd)
	if err != nil {
		return nil, err
	}
	list := []string{own}
	for _, cc := range strings.Fields(string(b)) {
		if !slices.Contains(list, cc) && setCC(fd, cc) == nil {
			list = append(list, cc)
		}
	}
	return list, nil
}
