package stack

import "syscall"

// errHostDown is the error that stands for EHOSTDOWN, which WASI does not have.
//
// It is not a constant, because a switch may not have two constant cases with the same value.
var errHostDown = syscall.EHOSTUNREACH
