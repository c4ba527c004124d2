//go:build !linux

package usernet

import "testing"

func kernelGroups(t *testing.T) *datagramWorld {
	t.Skip("usernet is compared with Linux only")
	return nil
}
