package contract

// allowedDifferences returns the intended differences between usernet and the kernel.
func allowedDifferences() []difference {
	return []difference{
		{"dial with a Control function", "there is no descriptor to control, and to ignore the function would be worse than to fail", "operation not supported"},
		{"a ListenConfig with a Control function", "as with a dial: there is no descriptor", "operation not supported"},
		{"dial on a Unix network", "a Unix socket is a thing of the kernel's file system", "unknown network unix"},
		{"ReadFrom of a connection on one that is a broken pipe", "the kernel's system call is splice(2), which no Host has: the call that fails is a write", "write: broken pipe"},
		{"net.Buffers on a broken pipe", "net writes buffers with writev(2) by an unexported method, which no type outside of net can have", "write: broken pipe"},
		{"ReadFrom of an IP socket into a small buffer", "net reads the IP header into the caller's buffer and takes it out there, so that it is at the payload's expense; here the payload has the whole buffer", "14"},
		{"what ReadMsgUDP returns beside an error", "net passes on what the system call returned, -1 bytes from 0.0.0.0:0, where its other reads return 0 and no address; so does ReadMsgUDP here", "0"},
		{"a connection that asks for Multipath TCP on both sides", "there is no Multipath TCP (RFC 8684): the connection is plain TCP, as on a kernel that has it not", "false"},
		{"a descriptor of a connection, a listener and a socket", "there is none: code that asserts File or SyscallConn falls back when they are absent, and breaks when they are there and fail", "false"},
	}
}
