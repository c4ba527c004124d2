package inspect

import (
	"syscall"
	"time"
)

// threadCPU returns the CPU time that the calling thread has used. ok is false if the system does not say.
func threadCPU() (used time.Duration, ok bool) {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_THREAD, &u) != nil {
		return 0, false
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), true
}
