package contract

// allowedDifferences returns the intended differences between usernet and the kernel.
func allowedDifferences() []difference {
	return []difference{
		{"dial with a Control function", "there is no descriptor to control, and to fail is better than to ignore the function", "operation not supported"},
		{"a ListenConfig with a Control function", "as with a dial: there is no descriptor", "operation not supported"},
		{"dial on a Unix network", "a Unix socket is a file of the kernel's file system", "unknown network unix"},
		{"ReadFrom from a connection, after CloseWrite", "on the kernel, the call that fails is splice(2), which no Host has; here it is a write", "write: broken pipe"},
		{"net.Buffers on a broken pipe", "net writes buffers with writev(2) by an unexported method, which no type outside of net can have", "write: broken pipe"},
		{"ReadFrom of an IP socket into a small buffer", "net reads the IP header into the caller's buffer and then removes it, so the header takes room from the payload; here the payload has the whole buffer", "14"},
		{"what ReadMsgUDP returns beside an error", "net's ReadMsgUDP passes on the result of the failed system call, -1 bytes from 0.0.0.0:0; net's other reads, and ReadMsgUDP here, return 0 and no address", "0"},
		{"a connection that asks for Multipath TCP on both sides", "there is no Multipath TCP (RFC 8684): the connection is plain TCP, as on a kernel without Multipath TCP", "false"},
		{"the methods that return a descriptor", "there is no descriptor; code that asserts File or SyscallConn has a fallback for a type without these methods, and breaks if they exist and fail", "false"},
	}
}
