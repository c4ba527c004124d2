//go:build !linux

package nic

import (
	"errors"
	"fmt"
	"runtime"
)

func openVDE(VDEConfig) (*VDE, error) {
	return nil, fmt.Errorf("no VDE on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}
