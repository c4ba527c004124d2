//go:build !linux

package stack

import "syscall"

// errHostIsolated is the errno of an isolated source host; only Linux has one of its own.
const errHostIsolated = syscall.EHOSTUNREACH
