//go:build !linux && !darwin && !windows

package nic

import (
	"errors"
	"fmt"
	"runtime"
)

// tapWriter is empty: openTAP returns no TAP on this system.
type tapWriter struct{}

func openTAP(cfg TAPConfig) (*TAP, error) {
	return nil, fmt.Errorf("nic: open TAP %s: no TAP devices on %s: %w", cfg.Name, runtime.GOOS, errors.ErrUnsupported)
}

func (*tapWriter) write(*rxLoop, []Frame) (int, error) { return 0, errors.ErrUnsupported }
