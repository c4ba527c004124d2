// Code generated from what package net exports by dropin/internal/gen. DO NOT EDIT.

// # Refused
//
// What net has and this package does not have, on purpose:
//   - DialUnix, Dialer.DialUnix, ListenUnix, ListenUnixgram: a Unix socket is a thing of the kernel's file system, and a Host is not on it; Dial and Listen say net.UnknownNetworkError to "unix" and its like.
//   - FileConn, FileListener, FilePacketConn: it takes a socket of the kernel's over by its descriptor, which would be a connection that does not go through the Host.
//   - IPConn.File, IPConn.SyscallConn, TCPConn.File, TCPConn.SyscallConn, TCPListener.File, TCPListener.SyscallConn, UDPConn.File, UDPConn.SyscallConn: no connection of a Host has a descriptor; code that asserts an interface with this method sees that it is absent, and falls back.
package dropin
