package nic

import "github.com/songgao/water"

// waterConfig asks for a device of the tap-windows6 driver, the first one if
// the name is empty.
func waterConfig(name string) (cfg water.Config, err error) {
	cfg.DeviceType = water.TAP
	cfg.ComponentID = "tap0901"
	cfg.InterfaceName = name
	return cfg, nil
}
