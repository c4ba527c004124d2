package nic

import (
	"errors"

	"github.com/songgao/water"
)

// waterConfig returns the configuration for a TUN of the system's own driver, or for a TAP of the
// tuntaposx driver. The system's own driver has only TUN devices.
func waterConfig(m Medium, cfg TAPConfig) (w water.Config, err error) {
	w.Name = cfg.Name
	if m == IP {
		w.DeviceType, w.Driver = water.TUN, water.MacOSDriverSystem
		return w, nil
	}
	if cfg.Name == "" {
		return w, errors.New("nic: open TAP: on macOS the device must be named")
	}
	w.DeviceType, w.Driver = water.TAP, water.MacOSDriverTunTapOSX
	return w, nil
}
