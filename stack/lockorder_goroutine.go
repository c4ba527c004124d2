//go:build lockorder && !race && !amd64

package stack

import (
	"bytes"
	"runtime"
	"strconv"
)

// goroutine returns the number of the calling goroutine.
func goroutine() uintptr {
	var buf [40]byte
	b := bytes.TrimPrefix(buf[:runtime.Stack(buf[:], false)], []byte("goroutine "))
	b, _, _ = bytes.Cut(b, []byte(" "))
	id, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		panic(err)
	}
	return uintptr(id)
}
