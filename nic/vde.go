package nic

import (
	"fmt"
	"os"
)

// VDEConfig configures OpenVDE.
type VDEConfig struct {
	// Path is the directory of the switch, as in vde_switch -s. If it is empty, OpenVDE tries
	// /var/run/vde.ctl and /tmp/vde.ctl, as VDE's own programs do.
	Path string
	// Port is the number of the switch's port, from 1 to 255. 0 stands for any free port.
	Port int
	// Mode and Group are the permissions and the group of the device's socket. The switch must be able
	// to read and write the socket. If both are zero, only the socket's owner and root may do so.
	// However, if the switch then runs as a third user, the group of the switch's control socket may do
	// so too or, if the system does not permit that group, every user.
	Mode  os.FileMode
	Group string // a name or a number
	// Description is shown by the switch (port/allprint). It is cut to 127 bytes.
	Description string

	Name string  // name in messages; empty stands for Path
	MAC  [6]byte // address of this end; zero stands for a random one
	MTU  int     // in bytes; 0 stands for 1500, which is also vde_switch's maximum
}

// VDE is a device on a port of a vde_switch, the virtual switch of the VirtualSquare project. It needs
// neither libvdeplug nor privileges, only the permission to use the switch's directory.
//
// If the switch ends or removes the port, the device fails.
type VDE struct{ datagramDevice }

var _ Device = (*VDE)(nil)

// OpenVDE connects to a port of a switch. It needs Linux. On other systems the error is
// errors.ErrUnsupported.
func OpenVDE(cfg VDEConfig) (*VDE, error) {
	if cfg.Port < 0 || cfg.Port > 255 {
		return nil, fmt.Errorf("nic: bad VDE port %d: it is not in the range 0 to 255", cfg.Port)
	}
	d, err := openVDE(cfg)
	if err != nil {
		return nil, fmt.Errorf("nic: open VDE port: %w", err)
	}
	return d, nil
}
