//go:build !wasip1

package stack

import "syscall"

const errHostDown = syscall.EHOSTDOWN
