// Package ppp connects hosts by the Point-to-Point Protocol, over any io.ReadWriteCloser that carries
// octets, such as a serial line, and over Ethernet (PPPoE), as client and as server.
//
// The implementation covers HDLC-like framing (RFC 1662), LCP with echo and loop detection (RFC 1661),
// PAP (RFC 1334) and CHAP with MD5 (RFC 1994) in both directions, IPCP with name servers (RFC 1332,
// RFC 1877), IPV6CP (RFC 5072), and PPPoE with frames of more than 1492 bytes (RFC 2516, RFC 4638). There
// is no compression of headers or data and no multilink.
package ppp

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"syscall"
	"time"
)

// Methods are methods of authentication.
type Methods uint8

const (
	CHAP Methods = 1 << iota // CHAP with MD5 (RFC 1994)
	PAP                      // passwords in clear text (RFC 1334)
)

// String returns the names of the methods, such as "CHAP|PAP".
func (m Methods) String() string {
	switch m {
	case CHAP:
		return "CHAP"
	case PAP:
		return "PAP"
	case CHAP | PAP:
		return "CHAP|PAP"
	}
	return fmt.Sprintf("Methods(%d)", uint8(m))
}

// Config configures one end of a PPP link. The zero value suits the end of a link without
// authentication that gets its IPv4 address from the peer.
type Config struct {
	// Name is the name of the device in messages; "ppp0" if empty.
	Name string
	// MTU is the size in bytes of the largest packet that is sent, and the Maximum-Receive-Unit of LCP. The MTU of
	// the device is smaller if the peer receives only smaller packets. The range is 128 to 16384. 0 stands for
	// 1500, or for 1492 over PPPoE. IPv6 needs at least 1280.
	MTU int

	// User and Password authenticate the device to a peer that requires authentication. PAP sends the password;
	// CHAP sends a hash of the password and the challenge. User and Password have at most 255 bytes each. If User
	// is empty, the device refuses to authenticate itself.
	User, Password string
	// Authenticate, if not nil, requires the peer to authenticate itself. It returns the password of a
	// user, and whether there is such a user. It must not block, and must not call the device.
	Authenticate func(user string) (password string, ok bool)
	// Methods are the methods of authentication that are permitted in both directions. If CHAP is
	// permitted, it is preferred. 0 stands for CHAP | PAP.
	Methods Methods

	// Local is our IPv4 address. If it is invalid, the peer has to assign one.
	Local netip.Addr
	// Remote is the IPv4 address of the peer. The device tells this address to a peer that requests another address
	// or none. If the peer then still requests none, the device takes Remote as the peer's address. If Remote is
	// invalid, the peer chooses its address itself.
	Remote netip.Addr
	// DNS are up to two IPv4 name servers for a peer that asks for them.
	DNS []netip.Addr
	// IgnoreDNS makes the device not ask the peer for name servers.
	IgnoreDNS bool
	// InterfaceID and RemoteInterfaceID are the IPv6 interface identifiers of both ends. If the peer requests
	// another identifier, the device asks it to use RemoteInterfaceID (Configure-Nak). If InterfaceID is 0, the
	// device chooses a random one. If RemoteInterfaceID is 0, the peer chooses its identifier itself.
	InterfaceID, RemoteInterfaceID uint64
	// NoIPv4 and NoIPv6 make the device refuse a family. At least one family must remain.
	NoIPv4, NoIPv6 bool
	// DefaultRoute makes the link the host's default route for each family that is negotiated.
	DefaultRoute bool

	// Echo is the time between Echo-Requests. If four in a row are not answered, the link is lost and is
	// negotiated again. 0 stands for 20 seconds. A negative value means that none are sent.
	Echo time.Duration
	// Logger gets a record when the link comes up or goes down, when it cannot be established, and when a
	// network protocol is refused. If it is nil, nothing is logged.
	Logger *slog.Logger
	// Rand fills p with unpredictable bytes. If it is nil, the device uses crypto/rand.
	Rand func(p []byte)

	serial  bool // the line carries octets, with HDLC framing
	session bool // when the link ends, the line begins another session
	once    bool // when the link ends, the device fails
}

// Limits of Config.
const (
	maxMTU  = 16384
	maxName = 255
)

// check returns the configuration with its defaults, or an error that wraps EINVAL.
func (c Config) check(mtu int) (Config, error) {
	if c.Name == "" {
		c.Name = "ppp0"
	}
	if c.MTU == 0 {
		c.MTU = mtu
	}
	if c.Methods == 0 {
		c.Methods = CHAP | PAP
	}
	if c.Echo == 0 {
		c.Echo = 20 * time.Second
	}
	if c.Rand == nil {
		c.Rand = func(p []byte) { rand.Read(p) } // never fails
	}
	var err error
	switch {
	case c.MTU < minMRU || c.MTU > maxMTU:
		err = fmt.Errorf("the MTU of %d is not from %d to %d", c.MTU, minMRU, maxMTU)
	case len(c.User) > maxName || len(c.Password) > maxName:
		err = fmt.Errorf("the user name or the password is longer than %d bytes", maxName)
	case c.Methods&^(CHAP|PAP) != 0:
		err = errors.New("Methods has an unknown method")
	case c.NoIPv4 && c.NoIPv6:
		err = errors.New("both NoIPv4 and NoIPv6 are set")
	case !c.NoIPv6 && c.NoIPv4 && c.MTU < minIPv6MTU:
		err = fmt.Errorf("the MTU of %d is too small for IPv6", c.MTU)
	case c.InterfaceID != 0 && c.InterfaceID == c.RemoteInterfaceID:
		err = errors.New("InterfaceID and RemoteInterfaceID are equal")
	case len(c.DNS) > 2:
		err = errors.New("DNS has more than two name servers")
	}
	for _, a := range append([]netip.Addr{c.Local, c.Remote}, c.DNS...) {
		if a.IsValid() && !isHost4(a) {
			err = fmt.Errorf("%v is not an IPv4 address of a host", a)
		}
	}
	if c.Local.IsValid() && c.Local == c.Remote {
		err = fmt.Errorf("both ends have the address %v", c.Local)
	}
	if err != nil {
		return c, fmt.Errorf("ppp: %w: %w", err, syscall.EINVAL)
	}
	return c, nil
}
