//go:build !linux

package main

import (
	"errors"
	"io"
)

// openLine is for Linux only.
func openLine(string) (io.ReadWriteCloser, error) {
	return nil, errors.New("-ppp works only on Linux: on other systems, use package nic/ppp with a serial line that the program opens")
}
