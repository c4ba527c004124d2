package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/link/pipe"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// gvisorStack makes a stack with the options that measured best: buffers of 4 to 8 MiB, growing
// receive buffers, SACK.
func gvisorStack(link stack.LinkEndpoint, addr string) (*stack.Stack, error) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocolCUBIC, udp.NewProtocol, icmp.NewProtocol4},
	})
	sack, grow := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(true)
	const def, limit = 4 << 20, 8 << 20
	errs := []tcpip.Error{
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &sack),
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &grow),
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: def, Max: limit}),
		s.SetTransportProtocolOption(tcp.ProtocolNumber, &tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: def, Max: limit}),
		s.SetOption(tcpip.ReceiveBufferSizeOption{Min: 4096, Default: def, Max: limit}),
		s.SetOption(tcpip.SendBufferSizeOption{Min: 4096, Default: def, Max: limit}),
		s.CreateNIC(1, link),
		s.AddProtocolAddress(1, tcpip.ProtocolAddress{
			Protocol: header.IPv4ProtocolNumber,
			AddressWithPrefix: tcpip.AddressWithPrefix{
				Address:   tcpip.AddrFromSlice(netip.MustParseAddr(addr).AsSlice()),
				PrefixLen: 24,
			},
		}, stack.AddressProperties{}),
	}
	for i, err := range errs {
		if err != nil {
			return nil, fmt.Errorf("gVisor, step %d: %v", i, err)
		}
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: 1}})
	return s, nil
}

// ofGVisor returns a stack's network, through gVisor's adapter to package net.
func ofGVisor(s *stack.Stack, close func()) *network {
	const v4 = header.IPv4ProtocolNumber
	return &network{
		dial: func(network, address string) (net.Conn, error) {
			to, err := fullAddress(address)
			if err != nil {
				return nil, err
			}
			if strings.HasPrefix(network, "udp") {
				return gonet.DialUDP(s, nil, &to, v4)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			c, err := gonet.DialContextTCP(ctx, s, to, v4)
			if err != nil {
				return nil, err
			}
			return c, nil
		},
		listen: func(network, address string) (net.Listener, error) {
			at, err := fullAddress(address)
			if err != nil {
				return nil, err
			}
			return gvisorListen(s, at)
		},
		listenPacket: func(network, address string) (net.PacketConn, error) {
			at, err := fullAddress(address)
			if err != nil {
				return nil, err
			}
			return gonet.DialUDP(s, &at, nil, v4)
		},
		close: close,
	}
}

// gvisorListen is like gonet.ListenTCP, but with Linux's backlog of 4096 connections instead of 10.
func gvisorListen(s *stack.Stack, at tcpip.FullAddress) (net.Listener, error) {
	var wq waiter.Queue
	ep, err := s.NewEndpoint(tcp.ProtocolNumber, header.IPv4ProtocolNumber, &wq)
	if err != nil {
		return nil, errors.New(err.String())
	}
	if err := ep.Bind(at); err != nil {
		ep.Close()
		return nil, errors.New(err.String())
	}
	if err := ep.Listen(4096); err != nil {
		ep.Close()
		return nil, errors.New(err.String())
	}
	return gonet.NewTCPListener(s, &wq, ep), nil
}

func fullAddress(address string) (a tcpip.FullAddress, err error) {
	if strings.HasPrefix(address, ":") {
		address = "0.0.0.0" + address
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return a, err
	}
	a.NIC, a.Port = 1, ap.Port()
	if !ap.Addr().IsUnspecified() {
		a.Addr = tcpip.AddrFromSlice(ap.Addr().AsSlice())
	}
	return a, nil
}

// gvisorPipe makes two stacks connected by gVisor's own pipe.
func gvisorPipe(mtu int) (near, far *network, err error) {
	const mac1, mac2 = tcpip.LinkAddress("\x02\x00\x00\x00\x00\x01"), tcpip.LinkAddress("\x02\x00\x00\x00\x00\x02")
	a, b := pipe.New(mac1, mac2, uint32(mtu))
	s1, err := gvisorStack(ethernet.New(a), nearAddr)
	if err != nil {
		return nil, nil, err
	}
	s2, err := gvisorStack(ethernet.New(b), farAddr)
	if err != nil {
		return nil, nil, err
	}
	return ofGVisor(s1, func() { s1.Close() }), ofGVisor(s2, func() { s2.Close() }), nil
}

// gvisorOnTAP makes a TAP device and a stack on it.
func gvisorOnTAP(s setup) (*network, error) {
	link, err := newGVisorTAP(!s.Plain)
	if err != nil {
		return nil, err
	}
	st, err := gvisorStack(link, farAddr)
	if err != nil {
		link.Close()
		return nil, err
	}
	return ofGVisor(st, func() { link.Close(); st.Close() }), nil
}

func gvisorIdle() (*idlePair, error) {
	near, far, err := gvisorPipe(65535)
	if err != nil {
		return nil, err
	}
	return &idlePair{near: near, far: far, settle: time.Second}, nil
}
