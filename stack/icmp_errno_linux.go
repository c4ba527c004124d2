package stack

import "syscall"

// errHostIsolated is the errno of an isolated source host.
const errHostIsolated = syscall.ENONET
