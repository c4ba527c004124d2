// Code generated from what package net exports by dropin/internal/gen. DO NOT EDIT.

package dropin

import (
	"net"
	"reflect"
)

// A pair is a name with its values in net and in this package.
type pair struct {
	name         string
	theirs, ours reflect.Value
}

// apiFuncs are the functions.
func apiFuncs() []pair {
	return []pair{
		{"CIDRMask", reflect.ValueOf(net.CIDRMask), reflect.ValueOf(CIDRMask)},
		{"Dial", reflect.ValueOf(net.Dial), reflect.ValueOf(Dial)},
		{"DialIP", reflect.ValueOf(net.DialIP), reflect.ValueOf(DialIP)},
		{"DialTCP", reflect.ValueOf(net.DialTCP), reflect.ValueOf(DialTCP)},
		{"DialTimeout", reflect.ValueOf(net.DialTimeout), reflect.ValueOf(DialTimeout)},
		{"DialUDP", reflect.ValueOf(net.DialUDP), reflect.ValueOf(DialUDP)},
		{"IPv4", reflect.ValueOf(net.IPv4), reflect.ValueOf(IPv4)},
		{"IPv4Mask", reflect.ValueOf(net.IPv4Mask), reflect.ValueOf(IPv4Mask)},
		{"InterfaceAddrs", reflect.ValueOf(net.InterfaceAddrs), reflect.ValueOf(InterfaceAddrs)},
		{"InterfaceByIndex", reflect.ValueOf(net.InterfaceByIndex), reflect.ValueOf(InterfaceByIndex)},
		{"InterfaceByName", reflect.ValueOf(net.InterfaceByName), reflect.ValueOf(InterfaceByName)},
		{"Interfaces", reflect.ValueOf(net.Interfaces), reflect.ValueOf(Interfaces)},
		{"JoinHostPort", reflect.ValueOf(net.JoinHostPort), reflect.ValueOf(JoinHostPort)},
		{"Listen", reflect.ValueOf(net.Listen), reflect.ValueOf(Listen)},
		{"ListenIP", reflect.ValueOf(net.ListenIP), reflect.ValueOf(ListenIP)},
		{"ListenMulticastUDP", reflect.ValueOf(net.ListenMulticastUDP), reflect.ValueOf(ListenMulticastUDP)},
		{"ListenPacket", reflect.ValueOf(net.ListenPacket), reflect.ValueOf(ListenPacket)},
		{"ListenTCP", reflect.ValueOf(net.ListenTCP), reflect.ValueOf(ListenTCP)},
		{"ListenUDP", reflect.ValueOf(net.ListenUDP), reflect.ValueOf(ListenUDP)},
		{"LookupAddr", reflect.ValueOf(net.LookupAddr), reflect.ValueOf(LookupAddr)},
		{"LookupCNAME", reflect.ValueOf(net.LookupCNAME), reflect.ValueOf(LookupCNAME)},
		{"LookupHost", reflect.ValueOf(net.LookupHost), reflect.ValueOf(LookupHost)},
		{"LookupIP", reflect.ValueOf(net.LookupIP), reflect.ValueOf(LookupIP)},
		{"LookupMX", reflect.ValueOf(net.LookupMX), reflect.ValueOf(LookupMX)},
		{"LookupNS", reflect.ValueOf(net.LookupNS), reflect.ValueOf(LookupNS)},
		{"LookupPort", reflect.ValueOf(net.LookupPort), reflect.ValueOf(LookupPort)},
		{"LookupSRV", reflect.ValueOf(net.LookupSRV), reflect.ValueOf(LookupSRV)},
		{"LookupTXT", reflect.ValueOf(net.LookupTXT), reflect.ValueOf(LookupTXT)},
		{"ParseCIDR", reflect.ValueOf(net.ParseCIDR), reflect.ValueOf(ParseCIDR)},
		{"ParseIP", reflect.ValueOf(net.ParseIP), reflect.ValueOf(ParseIP)},
		{"ParseMAC", reflect.ValueOf(net.ParseMAC), reflect.ValueOf(ParseMAC)},
		{"Pipe", reflect.ValueOf(net.Pipe), reflect.ValueOf(Pipe)},
		{"ResolveIPAddr", reflect.ValueOf(net.ResolveIPAddr), reflect.ValueOf(ResolveIPAddr)},
		{"ResolveTCPAddr", reflect.ValueOf(net.ResolveTCPAddr), reflect.ValueOf(ResolveTCPAddr)},
		{"ResolveUDPAddr", reflect.ValueOf(net.ResolveUDPAddr), reflect.ValueOf(ResolveUDPAddr)},
		{"ResolveUnixAddr", reflect.ValueOf(net.ResolveUnixAddr), reflect.ValueOf(ResolveUnixAddr)},
		{"SplitHostPort", reflect.ValueOf(net.SplitHostPort), reflect.ValueOf(SplitHostPort)},
		{"TCPAddrFromAddrPort", reflect.ValueOf(net.TCPAddrFromAddrPort), reflect.ValueOf(TCPAddrFromAddrPort)},
		{"UDPAddrFromAddrPort", reflect.ValueOf(net.UDPAddrFromAddrPort), reflect.ValueOf(UDPAddrFromAddrPort)},
	}
}

// apiValues are the constants and variables.
func apiValues() []pair {
	return []pair{
		{"DefaultResolver", reflect.ValueOf(net.DefaultResolver), reflect.ValueOf(DefaultResolver)},
		{"ErrClosed", reflect.ValueOf(net.ErrClosed), reflect.ValueOf(ErrClosed)},
		{"ErrWriteToConnected", reflect.ValueOf(net.ErrWriteToConnected), reflect.ValueOf(ErrWriteToConnected)},
		{"FlagBroadcast", reflect.ValueOf(net.FlagBroadcast), reflect.ValueOf(FlagBroadcast)},
		{"FlagLoopback", reflect.ValueOf(net.FlagLoopback), reflect.ValueOf(FlagLoopback)},
		{"FlagMulticast", reflect.ValueOf(net.FlagMulticast), reflect.ValueOf(FlagMulticast)},
		{"FlagPointToPoint", reflect.ValueOf(net.FlagPointToPoint), reflect.ValueOf(FlagPointToPoint)},
		{"FlagRunning", reflect.ValueOf(net.FlagRunning), reflect.ValueOf(FlagRunning)},
		{"FlagUp", reflect.ValueOf(net.FlagUp), reflect.ValueOf(FlagUp)},
		{"IPv4allrouter", reflect.ValueOf(net.IPv4allrouter), reflect.ValueOf(IPv4allrouter)},
		{"IPv4allsys", reflect.ValueOf(net.IPv4allsys), reflect.ValueOf(IPv4allsys)},
		{"IPv4bcast", reflect.ValueOf(net.IPv4bcast), reflect.ValueOf(IPv4bcast)},
		{"IPv4len", reflect.ValueOf(net.IPv4len), reflect.ValueOf(IPv4len)},
		{"IPv4zero", reflect.ValueOf(net.IPv4zero), reflect.ValueOf(IPv4zero)},
		{"IPv6interfacelocalallnodes", reflect.ValueOf(net.IPv6interfacelocalallnodes), reflect.ValueOf(IPv6interfacelocalallnodes)},
		{"IPv6len", reflect.ValueOf(net.IPv6len), reflect.ValueOf(IPv6len)},
		{"IPv6linklocalallnodes", reflect.ValueOf(net.IPv6linklocalallnodes), reflect.ValueOf(IPv6linklocalallnodes)},
		{"IPv6linklocalallrouters", reflect.ValueOf(net.IPv6linklocalallrouters), reflect.ValueOf(IPv6linklocalallrouters)},
		{"IPv6loopback", reflect.ValueOf(net.IPv6loopback), reflect.ValueOf(IPv6loopback)},
		{"IPv6unspecified", reflect.ValueOf(net.IPv6unspecified), reflect.ValueOf(IPv6unspecified)},
		{"IPv6zero", reflect.ValueOf(net.IPv6zero), reflect.ValueOf(IPv6zero)},
	}
}

// apiTypes are the types, as nil pointers to them.
func apiTypes() []pair {
	return []pair{
		{"Addr", reflect.ValueOf((*net.Addr)(nil)), reflect.ValueOf((*Addr)(nil))},
		{"AddrError", reflect.ValueOf((*net.AddrError)(nil)), reflect.ValueOf((*AddrError)(nil))},
		{"Buffers", reflect.ValueOf((*net.Buffers)(nil)), reflect.ValueOf((*Buffers)(nil))},
		{"Conn", reflect.ValueOf((*net.Conn)(nil)), reflect.ValueOf((*Conn)(nil))},
		{"DNSConfigError", reflect.ValueOf((*net.DNSConfigError)(nil)), reflect.ValueOf((*DNSConfigError)(nil))},
		{"DNSError", reflect.ValueOf((*net.DNSError)(nil)), reflect.ValueOf((*DNSError)(nil))},
		{"Dialer", reflect.ValueOf((*net.Dialer)(nil)), reflect.ValueOf((*Dialer)(nil))},
		{"Error", reflect.ValueOf((*net.Error)(nil)), reflect.ValueOf((*Error)(nil))},
		{"Flags", reflect.ValueOf((*net.Flags)(nil)), reflect.ValueOf((*Flags)(nil))},
		{"HardwareAddr", reflect.ValueOf((*net.HardwareAddr)(nil)), reflect.ValueOf((*HardwareAddr)(nil))},
		{"IP", reflect.ValueOf((*net.IP)(nil)), reflect.ValueOf((*IP)(nil))},
		{"IPAddr", reflect.ValueOf((*net.IPAddr)(nil)), reflect.ValueOf((*IPAddr)(nil))},
		{"IPConn", reflect.ValueOf((*net.IPConn)(nil)), reflect.ValueOf((*IPConn)(nil))},
		{"IPMask", reflect.ValueOf((*net.IPMask)(nil)), reflect.ValueOf((*IPMask)(nil))},
		{"IPNet", reflect.ValueOf((*net.IPNet)(nil)), reflect.ValueOf((*IPNet)(nil))},
		{"Interface", reflect.ValueOf((*net.Interface)(nil)), reflect.ValueOf((*Interface)(nil))},
		{"InvalidAddrError", reflect.ValueOf((*net.InvalidAddrError)(nil)), reflect.ValueOf((*InvalidAddrError)(nil))},
		{"KeepAliveConfig", reflect.ValueOf((*net.KeepAliveConfig)(nil)), reflect.ValueOf((*KeepAliveConfig)(nil))},
		{"ListenConfig", reflect.ValueOf((*net.ListenConfig)(nil)), reflect.ValueOf((*ListenConfig)(nil))},
		{"Listener", reflect.ValueOf((*net.Listener)(nil)), reflect.ValueOf((*Listener)(nil))},
		{"MX", reflect.ValueOf((*net.MX)(nil)), reflect.ValueOf((*MX)(nil))},
		{"NS", reflect.ValueOf((*net.NS)(nil)), reflect.ValueOf((*NS)(nil))},
		{"OpError", reflect.ValueOf((*net.OpError)(nil)), reflect.ValueOf((*OpError)(nil))},
		{"PacketConn", reflect.ValueOf((*net.PacketConn)(nil)), reflect.ValueOf((*PacketConn)(nil))},
		{"ParseError", reflect.ValueOf((*net.ParseError)(nil)), reflect.ValueOf((*ParseError)(nil))},
		{"Resolver", reflect.ValueOf((*net.Resolver)(nil)), reflect.ValueOf((*Resolver)(nil))},
		{"SRV", reflect.ValueOf((*net.SRV)(nil)), reflect.ValueOf((*SRV)(nil))},
		{"TCPAddr", reflect.ValueOf((*net.TCPAddr)(nil)), reflect.ValueOf((*TCPAddr)(nil))},
		{"TCPConn", reflect.ValueOf((*net.TCPConn)(nil)), reflect.ValueOf((*TCPConn)(nil))},
		{"TCPListener", reflect.ValueOf((*net.TCPListener)(nil)), reflect.ValueOf((*TCPListener)(nil))},
		{"UDPAddr", reflect.ValueOf((*net.UDPAddr)(nil)), reflect.ValueOf((*UDPAddr)(nil))},
		{"UDPConn", reflect.ValueOf((*net.UDPConn)(nil)), reflect.ValueOf((*UDPConn)(nil))},
		{"UnixAddr", reflect.ValueOf((*net.UnixAddr)(nil)), reflect.ValueOf((*UnixAddr)(nil))},
		{"UnixConn", reflect.ValueOf((*net.UnixConn)(nil)), reflect.ValueOf((*UnixConn)(nil))},
		{"UnixListener", reflect.ValueOf((*net.UnixListener)(nil)), reflect.ValueOf((*UnixListener)(nil))},
		{"UnknownNetworkError", reflect.ValueOf((*net.UnknownNetworkError)(nil)), reflect.ValueOf((*UnknownNetworkError)(nil))},
	}
}

// apiRefused are the names that are absent on purpose.
func apiRefused() []string {
	return []string{
		"DialUnix",
		"Dialer.DialUnix",
		"FileConn",
		"FileListener",
		"FilePacketConn",
		"IPConn.File",
		"IPConn.SyscallConn",
		"ListenUnix",
		"ListenUnixgram",
		"TCPConn.File",
		"TCPConn.SyscallConn",
		"TCPListener.File",
		"TCPListener.SyscallConn",
		"UDPConn.File",
		"UDPConn.SyscallConn",
	}
}
