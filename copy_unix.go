//go:build unix

package usernet

import "syscall"

// awaitDescriptor waits until a Read of c, a connection of package net, would not block. If the connection
// has failed, awaitDescriptor returns the errno: the system reports it only once, so a Read would return
// io.EOF. awaitDescriptor returns nil if c is closed or its deadline passes; the Read then reports this.
func awaitDescriptor(c syscall.Conn) (failed error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	raw.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			switch err {
			case syscall.EINTR:
			case syscall.EAGAIN:
				return false
			default:
				failed = err
				return true
			}
		}
	})
	return failed
}
