package nic

import (
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestABadPacketConfigurationIsRefusedBeforeTheSystemIsAsked(t *testing.T) {
	for text, cfg := range map[string]PacketConfig{
		`nic: bad interface name "a/b": has a slash, a colon, a percent sign or a space`: {Interface: "a/b"},
		`nic: open packet socket: no interface named`:                                    {},
		`nic: bad MAC 010000000000: a group address`:                                     {Interface: "eth0", MAC: [6]byte{1}},
	} {
		p, err := OpenPacket(cfg)
		require.Nil(t, p)
		require.EqualError(t, err, text)
	}
}

func TestPacketSocketsAreOfLinux(t *testing.T) {
	if runtime.GOOS == "linux" {
		return
	}
	_, err := OpenPacket(PacketConfig{Interface: "eth0"})
	require.ErrorIs(t, err, errors.ErrUnsupported)
}
