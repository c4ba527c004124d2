//go:build !unix

package usernet

import (
	"syscall"

	"github.com/usernet/usernet/stack"
)

// A systemSource is not available: there is no way to wait for data without a buffer.
type systemSource struct{}

func newSystemSource(syscall.Conn) *systemSource { return nil }

func (*systemSource) next(*stack.TCP, int, int) (*stack.SendBlock, int, error) { return nil, 0, nil }
