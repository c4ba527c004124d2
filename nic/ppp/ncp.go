package ppp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// This file is IPCP (RFC 1332, with the name servers of RFC 1877) and IPV6CP (RFC 5072).

// Options of IPCP.
const (
	optAddress      = 3
	optPrimaryDNS   = 129
	optSecondaryDNS = 131
)

// ipcp is the layer IPCP.
type ipcp struct {
	automaton
	m      *machine
	ours   netip.Addr    // 0.0.0.0 asks the peer for an address
	noAddr bool          // the peer has rejected the Address option
	peer   netip.Addr    // invalid if the peer has not named it
	named  bool          // the peer's last request has the Address option
	asked  bool          // the method missing has proposed an address to the peer
	dns    [2]netip.Addr // 0.0.0.0 asks the peer; invalid: not requested
}

var zero4 = netip.IPv4Unspecified()

// reset sets the options of the first Configure-Request.
func (l *ipcp) reset() {
	l.failures, l.refusals = 0, 0
	l.ours, l.noAddr, l.peer, l.asked, l.dns = zero4, false, netip.Addr{}, false, [2]netip.Addr{}
	if l.m.cfg.Local.IsValid() {
		l.ours = l.m.cfg.Local
	} else if l.m.given.IsValid() {
		l.ours = l.m.given // ask for the address that the peer assigned last
	}
	if !l.m.cfg.IgnoreDNS {
		l.dns = [2]netip.Addr{zero4, zero4}
	}
}

func (l *ipcp) request(b []byte) []byte {
	if !l.noAddr {
		b = option{optAddress, l.ours.AsSlice()}.append(b)
	}
	for i, kind := range []byte{optPrimaryDNS, optSecondaryDNS} {
		if l.dns[i].IsValid() {
			b = option{kind, l.dns[i].AsSlice()}.append(b)
		}
	}
	return b
}

func (l *ipcp) begin() { l.peer, l.named = netip.Addr{}, false }

func (l *ipcp) missing() []byte {
	if !l.m.cfg.Remote.IsValid() || l.named || l.asked {
		return nil
	}
	l.asked = true
	return option{optAddress, l.m.cfg.Remote.AsSlice()}.append(nil)
}

func (l *ipcp) judge(o option) (verdict byte, data []byte) {
	if len(o.data) != 4 {
		return configureReject, nil
	}
	a := netip.AddrFrom4([4]byte(o.data))
	cfg := &l.m.cfg
	switch o.kind {
	case optAddress:
		l.peer, l.named = a, true
		switch {
		case cfg.Remote.IsValid() && a != cfg.Remote:
			return configureNak, cfg.Remote.AsSlice()
		case !isHost4(a) || a == l.ours:
			// RFC 1332 3.3: a peer that requests 0.0.0.0 asks us for an address. Without cfg.Remote we have none
			// to give.
			l.peer = netip.Addr{}
			return configureReject, nil
		}
		return configureAck, nil
	case optPrimaryDNS, optSecondaryDNS:
		i := int(o.kind-optPrimaryDNS) / 2
		if i >= len(cfg.DNS) {
			return configureReject, nil
		}
		if a != cfg.DNS[i] {
			return configureNak, cfg.DNS[i].AsSlice()
		}
		return configureAck, nil
	}
	return configureReject, nil
}

// isHost4 reports whether an IPv4 address can be that of a host.
func isHost4(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a.As4()[0] < 240
}

func (l *ipcp) refused(rejected bool, o option) error {
	var a netip.Addr
	if len(o.data) == 4 {
		a = netip.AddrFrom4([4]byte(o.data))
	}
	switch o.kind {
	case optAddress:
		switch {
		case rejected && !l.m.cfg.Local.IsValid():
			return errors.New("the peer assigns no address")
		case rejected:
			l.noAddr = true
		case l.m.cfg.Local.IsValid() && a != l.m.cfg.Local:
			return fmt.Errorf("the peer refuses our address %v and proposes %v", l.m.cfg.Local, a)
		case isHost4(a):
			l.ours, l.noAddr = a, false
		default:
			l.ours = zero4
		}
	case optPrimaryDNS, optSecondaryDNS:
		i := int(o.kind-optPrimaryDNS) / 2
		switch {
		case rejected || !isHost4(a):
			l.dns[i] = netip.Addr{}
		case l.dns[i].IsValid():
			l.dns[i] = a
		}
	}
	return nil
}

func (l *ipcp) up(now time.Time) {
	if l.ours.IsUnspecified() {
		// The peer has accepted 0.0.0.0.
		l.failed(errors.New("the peer assigns no address"))
		l.fire(now, evClose)
		return
	}
	l.m.given = l.ours
	l.m.ncpUp(now, protoIPCP)
}

func (l *ipcp) down(now time.Time) { l.m.ncpDown(now, protoIPCP) }

func (l *ipcp) finished(now time.Time) { l.m.ncpFinished(now, protoIPCP) }

func (l *ipcp) failed(err error) { l.m.refuse(protoIPCP, err) }

func (l *ipcp) extra(time.Time, packet) bool { return false }

// IPV6CP's option (RFC 5072 4.1).
const optInterfaceID = 1

// ipv6cp is the layer IPV6CP.
type ipv6cp struct {
	automaton
	m        *machine
	ours     uint64 // interface identifier
	peer     uint64 // 0 if the peer has not named it
	named    bool   // the peer's last request has the option
	asked    bool   // the method missing has proposed an identifier to the peer
	noOption bool   // the peer has rejected the option
}

func (l *ipv6cp) reset() {
	l.failures, l.refusals = 0, 0
	l.ours, l.peer, l.asked, l.noOption = l.m.id, 0, false, false
}

func (l *ipv6cp) request(b []byte) []byte {
	if l.noOption {
		return b
	}
	return option{optInterfaceID, binary.BigEndian.AppendUint64(nil, l.ours)}.append(b)
}

func (l *ipv6cp) begin() { l.peer, l.named = 0, false }

func (l *ipv6cp) missing() []byte {
	if l.m.cfg.RemoteInterfaceID == 0 || l.named || l.asked {
		return nil
	}
	l.asked = true
	return option{optInterfaceID, binary.BigEndian.AppendUint64(nil, l.m.cfg.RemoteInterfaceID)}.append(nil)
}

// judge judges the peer's interface identifier.
//
// RFC 5072 4.1: "If the two interface identifiers are different but the received interface identifier is
// zero, a Configure-Nak is sent with a non-zero interface-identifier value suggested for use by the remote
// peer." "If the two interface identifiers are equal and are not zero, Configure-Nak MUST be sent
// specifying a different non-zero interface-identifier".
func (l *ipv6cp) judge(o option) (verdict byte, data []byte) {
	if o.kind != optInterfaceID || len(o.data) != 8 {
		return configureReject, nil
	}
	l.peer, l.named = binary.BigEndian.Uint64(o.data), true
	want := l.m.cfg.RemoteInterfaceID
	if l.peer == 0 || l.peer == l.ours || want != 0 && want != l.ours && l.peer != want {
		if want == 0 || want == l.ours {
			want = l.m.randomID(l.ours)
		}
		return configureNak, binary.BigEndian.AppendUint64(nil, want)
	}
	return configureAck, nil
}

func (l *ipv6cp) refused(rejected bool, o option) error {
	switch {
	case o.kind != optInterfaceID:
	case rejected:
		l.noOption = true
	case len(o.data) == 8:
		l.noOption = false
		if id := binary.BigEndian.Uint64(o.data); id != 0 && id != l.peer {
			l.ours = id
		} else {
			l.ours = l.m.randomID(l.peer, l.m.cfg.RemoteInterfaceID)
		}
	}
	return nil
}

func (l *ipv6cp) up(now time.Time) {
	l.m.id = l.ours
	l.m.ncpUp(now, protoIPV6CP)
}

func (l *ipv6cp) down(now time.Time) { l.m.ncpDown(now, protoIPV6CP) }

func (l *ipv6cp) finished(now time.Time) { l.m.ncpFinished(now, protoIPV6CP) }

func (l *ipv6cp) failed(err error) { l.m.refuse(protoIPV6CP, err) }

func (l *ipv6cp) extra(time.Time, packet) bool { return false }

// linkLocal returns the link-local address with an interface identifier.
func linkLocal(id uint64) netip.Addr {
	a := [16]byte{0: 0xfe, 1: 0x80}
	binary.BigEndian.PutUint64(a[8:], id)
	return netip.AddrFrom16(a)
}
