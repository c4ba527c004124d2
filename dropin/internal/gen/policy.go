package main

// A way is how package dropin provides a name that net exports.
type way int

const (
	same    way = iota // an alias of net's type, a copy of net's constant or variable, or a function that calls net's
	ours               // the type of the same name in package usernet
	onHost             // a function that calls the default Host's method of the same name
	lookup             // a function that calls DefaultResolver's method of the same name
	written            // written by hand, in the other files of the package
	refused            // absent on purpose
)

// A choice is how package dropin provides a name, or why it does not.
type choice struct {
	way way
	op  string // for onHost: Op of the *net.OpError if there is no default Host
	why string // for refused
}

const (
	whyUnix       = "a Unix socket belongs to the kernel's file system, which a Host does not have; Dial and Listen return net.UnknownNetworkError for \"unix\", \"unixgram\" and \"unixpacket\""
	whyFile       = "these functions wrap a socket of the kernel, whose connection would not use the Host"
	whyDescriptor = "connections of a Host have no descriptor; code that checks for the method with a type assertion finds that it is absent and can fall back"
)

// choices returns the choice for each exported name of net, and for the methods of its types that
// are absent. There is no default: when a release of Go adds a name, a developer has to decide.
func choices() map[string]choice {
	m := map[string]choice{
		"DialTCP":   {way: onHost, op: "dial"},
		"DialUDP":   {way: onHost, op: "dial"},
		"DialIP":    {way: onHost, op: "dial"},
		"ListenTCP": {way: onHost, op: "listen"},
		"ListenUDP": {way: onHost, op: "listen"},
		"ListenIP":  {way: onHost, op: "listen"},
	}
	for _, group := range []struct {
		choice choice
		names  []string
	}{
		{choice{way: same}, []string{
			// Constants and variables.
			"IPv4len", "IPv6len", "FlagUp", "FlagBroadcast", "FlagLoopback", "FlagPointToPoint", "FlagMulticast", "FlagRunning",
			"IPv4bcast", "IPv4allsys", "IPv4allrouter", "IPv4zero",
			"IPv6zero", "IPv6unspecified", "IPv6loopback", "IPv6interfacelocalallnodes", "IPv6linklocalallnodes", "IPv6linklocalallrouters",
			"ErrClosed", "ErrWriteToConnected",
			// Data, interfaces and errors.
			"Addr", "Buffers", "Conn", "Error", "Flags", "HardwareAddr", "IP", "IPAddr", "IPMask", "IPNet", "KeepAliveConfig", "Listener",
			"MX", "NS", "PacketConn", "SRV", "TCPAddr", "UDPAddr", "UnixAddr",
			"AddrError", "DNSConfigError", "DNSError", "InvalidAddrError", "OpError", "ParseError", "UnknownNetworkError",
			// Nothing in the package returns one of these, but type switches name them.
			"UnixConn", "UnixListener",
			// Functions whose results depend only on their arguments.
			"CIDRMask", "IPv4", "IPv4Mask", "JoinHostPort", "ParseCIDR", "ParseIP", "ParseMAC", "Pipe", "ResolveUnixAddr", "SplitHostPort",
			"TCPAddrFromAddrPort", "UDPAddrFromAddrPort",
		}},
		{choice{way: ours}, []string{"IPConn", "TCPConn", "TCPListener", "UDPConn"}},
		{choice{way: lookup}, []string{
			"LookupAddr", "LookupCNAME", "LookupHost", "LookupMX", "LookupNS", "LookupPort", "LookupSRV", "LookupTXT",
		}},
		{choice{way: written}, []string{
			"Dial", "DialTimeout", "Dialer", "Listen", "ListenConfig", "ListenMulticastUDP", "ListenPacket",
			"DefaultResolver", "LookupIP", "ResolveIPAddr", "ResolveTCPAddr", "ResolveUDPAddr", "Resolver",
			"Interface", "InterfaceAddrs", "InterfaceByIndex", "InterfaceByName", "Interfaces",
		}},
		{choice{way: refused, why: whyUnix}, []string{"DialUnix", "Dialer.DialUnix", "ListenUnix", "ListenUnixgram"}},
		{choice{way: refused, why: whyFile}, []string{"FileConn", "FileListener", "FilePacketConn"}},
		{choice{way: refused, why: whyDescriptor}, []string{
			"IPConn.File", "IPConn.SyscallConn", "TCPConn.File", "TCPConn.SyscallConn",
			"TCPListener.File", "TCPListener.SyscallConn", "UDPConn.File", "UDPConn.SyscallConn",
		}},
	} {
		for _, name := range group.names {
			m[name] = group.choice
		}
	}
	return m
}
