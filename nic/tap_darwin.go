package nic

import (
	"errors"

	"github.com/songgao/water"
)

// waterConfig returns the configuration for a device of the tuntaposx driver. The system's own
// driver has only TUN devices.
func waterConfig(name string) (cfg water.Config, err error) {
	if name == "" {
		return cfg, errors.New("nic: open TAP: on macOS the device must be named")
	}
	cfg.DeviceType = water.TAP
	cfg.Name = name
	cfg.Driver = water.MacOSDriverTunTapOSX
	return cfg, nil
}
