//go:build !linux

package nic

import (
	"errors"
	"fmt"
	"runtime"
)

// packetSocket is empty: openPacket returns no Packet on this system.
type packetSocket struct{}

func openPacket(PacketConfig) (*Packet, error) {
	return nil, fmt.Errorf("no packet sockets on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func (*packetSocket) write(*rxLoop, []Frame) (int, error) { return 0, errors.ErrUnsupported }

func (*packetSocket) lost() uint64 { return 0 }
