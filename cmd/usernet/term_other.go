//go:build !linux && !darwin && !freebsd

package main

import (
	"errors"
	"os"
)

// isTerminal reports false: here the program does not control terminals, and prints plain tables.
func isTerminal(*os.File) bool { return false }

func rawTerminal(*os.File) (restore func(), err error) { return nil, errors.ErrUnsupported }

func terminalSize(*os.File) (columns, rows int) { return 80, 24 }
