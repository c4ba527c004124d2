// Code generated from what package net exports by dropin/internal/gen. DO NOT EDIT.

// # Refused
//
// Names of net that this package does not have, on purpose:
//   - DialUnix, Dialer.DialUnix, ListenUnix, ListenUnixgram: a Unix socket belongs to the kernel's file system, which a Host does not have; Dial and Listen return net.UnknownNetworkError for "unix", "unixgram" and "unixpacket".
//   - FileConn, FileListener, FilePacketConn: these functions wrap a socket of the kernel, whose connection would not use the Host.
//   - IPConn.File, IPConn.SyscallConn, TCPConn.File, TCPConn.SyscallConn, TCPListener.File, TCPListener.SyscallConn, UDPConn.File, UDPConn.SyscallConn: connections of a Host have no descriptor; code that checks for the method with a type assertion finds that it is absent and can fall back.
package dropin
