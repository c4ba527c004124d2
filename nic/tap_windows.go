package nic

import "github.com/songgao/water"

// waterConfig returns the configuration for a device of the tap-windows6 driver: the first one if
// name is empty.
func waterConfig(name string) (cfg water.Config, err error) {
	cfg.DeviceType = water.TAP
	cfg.ComponentID = "tap0901"
	cfg.InterfaceName = name
	return cfg, nil
}
