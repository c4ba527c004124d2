//go:build !unix

package usernet

import "syscall"

// awaitDescriptor returns at once, because there is no way to wait for data without reading it.
func awaitDescriptor(syscall.Conn) error { return nil }
