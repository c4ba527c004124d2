//go:build !linux && !darwin && !windows

package nic

import (
	"errors"
	"fmt"
	"runtime"
)

// tapWriter is empty: there are no devices on this system.
type tapWriter struct{}

func (t *tunTap) open(m Medium, cfg TAPConfig) error {
	return fmt.Errorf("nic: open %s %s: no %[1]s devices on %[3]s: %[4]w", m.tunTap(), cfg.Name, runtime.GOOS, errors.ErrUnsupported)
}

func (t *tunTap) nonblocking() bool { return false }

func (*tapWriter) write(*rxLoop, []Frame) (int, error) { return 0, errors.ErrUnsupported }
