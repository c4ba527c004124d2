package nic

import (
	"errors"

	"github.com/songgao/water"
)

// waterConfig returns the configuration for a device of the tap-windows6 driver: the first one if
// cfg.Name is empty.
func waterConfig(m Medium, cfg TAPConfig) (w water.Config, err error) {
	w.DeviceType = water.TAP
	w.ComponentID = "tap0901"
	w.InterfaceName = cfg.Name
	if m == IP {
		if !cfg.Addr.Addr().Is4() {
			return w, errors.New("nic: open TUN: on Windows it needs an IPv4 address for the kernel's side")
		}
		// The driver answers ARP for the network of this address.
		w.DeviceType, w.Network = water.TUN, cfg.Addr.String()
	}
	return w, nil
}
