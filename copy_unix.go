//go:build unix

package usernet

import "syscall"

// awaitDescriptor waits until a Read of c, a connection of package net, would not block. It returns
// early on an error; the Read then reports the error.
func awaitDescriptor(c syscall.Conn) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	raw.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK)
			if err != syscall.EINTR {
				return err != syscall.EAGAIN
			}
		}
	})
}
