package dhcp

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// makeOptions makes the options for all clients of the network.
func (n *network4) makeOptions() error {
	o := &n.options
	put := func(code OptionCode4, data []byte) {
		if len(data) > 0 {
			o.Set(code, data)
		}
	}
	for _, list := range [][]netip.Addr{n.Routers, n.DNS, n.NTP} {
		if i := slices.IndexFunc(list, func(a netip.Addr) bool { return !isHost(a) }); i >= 0 {
			return fmt.Errorf("dhcp: the router or server %v is not the address of a host", list[i])
		}
	}
	mask := binary.BigEndian.AppendUint32(nil, uint32(math.MaxUint32<<(32-n.Prefix.Bits())))
	put(OptSubnetMask, mask)
	put(OptClasslessRoutes, AppendRoutes(nil, n.classlessRoutes()))
	put(OptRouter, AppendAddrs(nil, n.Routers...))
	put(OptDNS, AppendAddrs(nil, n.DNS...))
	put(OptNTP, AppendAddrs(nil, n.NTP...))
	if domain := strings.TrimSuffix(n.Domain, "."); domain != "" {
		if !isName(domain) {
			return fmt.Errorf("dhcp: %q is not a domain name", n.Domain)
		}
		put(OptDomainName, []byte(domain))
	}
	search, err := AppendSearch(nil, n.Search)
	if err != nil {
		return err
	}
	put(OptDomainSearch, search)
	if n.MTU != 0 {
		if n.MTU < 68 || n.MTU > math.MaxUint16 { // RFC 2132 5.1
			return fmt.Errorf("dhcp: the MTU %d is not from 68 to 65535", n.MTU)
		}
		put(OptMTU, binary.BigEndian.AppendUint16(nil, uint16(n.MTU)))
	}
	if n.Prefix.Bits() <= 30 { // RFC 3021: a network with a 31-bit prefix has no broadcast address
		put(OptBroadcast, AppendAddrs(nil, broadcastOf(n.Prefix)))
	}
	if n.IPv6Only > 0 {
		put(OptIPv6Only, binary.BigEndian.AppendUint32(nil, uint32(min(n.IPv6Only/time.Second, math.MaxUint32))))
	}
	all := slices.Clone(n.Options)
	for _, r := range n.Reservations {
		all = append(all, r.Options...)
		if r.HostName != "" && !isName(r.HostName) {
			return fmt.Errorf("dhcp: %q is not a host name", r.HostName)
		}
	}
	for _, x := range all {
		switch x.Code {
		case optPad, optEnd, optOverload, OptMessageType, OptServerID, OptLeaseTime, OptRequestedAddr, OptClientID, OptRelayAgent, OptRapidCommit:
			return fmt.Errorf("dhcp: option %d is set by the server itself", x.Code)
		}
	}
	for _, x := range n.Options {
		o.Set(x.Code, x.Data)
	}
	return nil
}

// classlessRoutes returns the routes for the option of classless static routes.
//
// RFC 3442: "DHCP administrators SHOULD specify both a Router option and a Classless Static Routes
// option, and SHOULD specify the default router(s) both in the Router option and in the Classless Static
// Routes option."
func (n *network4) classlessRoutes() []Route4 {
	routes := slices.Clone(n.Routes)
	if len(routes) == 0 || slices.ContainsFunc(routes, func(r Route4) bool { return r.Dst.Bits() == 0 }) {
		return routes
	}
	for _, via := range n.Routers {
		routes = append(routes, Route4{netip.PrefixFrom(netip.IPv4Unspecified(), 0), via})
	}
	return routes
}

// linkSelection returns the address in the relay agent's link selection suboption, or an invalid address if there
// is none. RFC 3527 3: the server allocates an address of that network instead of an address of giaddr's network.
func linkSelection(m *Message4) netip.Addr {
	const subLink = 5
	b, _ := m.Options.Get(OptRelayAgent)
	for len(b) >= 2 && len(b) >= 2+int(b[1]) {
		if b[0] == subLink && b[1] == 4 {
			return addrAt(b[2:])
		}
		b = b[2+int(b[1]):]
	}
	return netip.Addr{}
}

// reply returns a message to the client with the fields and options that all replies have (RFC 2131
// 4.3.1, table 3).
func (s *Server4) reply(q *query4, t MessageType4) *Message4 {
	m := &Message4{Op: BootReply, HType: q.HType, XID: q.XID, Flags: q.Flags, GIAddr: q.GIAddr, CHAddr: q.CHAddr}
	m.Options.Set(OptMessageType, []byte{byte(t)})
	m.Options.Set(OptServerID, AppendAddrs(nil, s.cfg.ID))
	// RFC 6842 3: "If the 'client identifier' option is present in a message received from a client, the
	// server MUST return the 'client identifier' option, unaltered, in its response message."
	if id := clientID(q.Message4); id != nil {
		m.Options.Set(OptClientID, id)
	}
	return m
}

// send completes and queues a reply. d is the duration of the lease; 0 if the reply has none. send drops the reply
// if the essential options do not fit.
func (s *Server4) send(q *query4, m *Message4, d time.Duration) {
	if d > 0 {
		seconds := uint32(d / time.Second)
		put := func(code OptionCode4, v uint32) { m.Options.Set(code, binary.BigEndian.AppendUint32(nil, v)) }
		put(OptLeaseTime, seconds)
		if seconds != infinity && seconds > 1 {
			// RFC 2131 4.4.5: "T1 defaults to (0.5 * duration_of_lease). T2 defaults to (0.875 * duration_of_lease)."
			put(OptRenewalTime, seconds/2)
			put(OptRebindingTime, uint32(uint64(seconds)*7/8))
		}
	}
	essential := len(m.Options)
	if m.Type() != NAK {
		m.Options = append(m.Options, q.parameters()...)
	}
	// RFC 3046 2.2: servers "SHALL echo the entire contents of the Relay Agent Information option in all
	// replies"; 2.1: as the last option.
	relay, relayed := q.Options.Get(OptRelayAgent)
	relayed = relayed && q.GIAddr.IsValid()
	room := replySize(q.Message4)
	for {
		all := m.Options
		if relayed {
			all = append(slices.Clone(all), Option4{OptRelayAgent, relay})
		}
		sent := *m
		sent.Options = all
		b, err := sent.Append(nil, room)
		if err == nil {
			r := Reply4{Message: &sent, Payload: b}
			r.To, r.MAC = s.destination(q, m)
			if m.Type() == NAK && q.GIAddr.IsValid() {
				// RFC 2131 4.3.2: "If 'giaddr' is set in the DHCPREQUEST message, [...] the server MUST set the
				// broadcast bit in the DHCPNAK, so that the relay agent will broadcast the DHCPNAK to the client".
				sent.Flags |= FlagBroadcast
				r.Payload, _ = sent.Append(nil, room)
			}
			s.replies = append(s.replies, r)
			return
		}
		// Not all parameters fit. They are in the order in which the client requests them: leave out the last one.
		if len(m.Options) == essential {
			return // not even the essential options fit
		}
		m.Options = m.Options[:len(m.Options)-1]
	}
}

// replySize returns the maximum length of a reply in bytes.
//
// RFC 2132 9.10: the Maximum DHCP Message Size includes the headers of IP and UDP, as RFC 2131 2's
// default of 576 does. A message that does not fit into an Ethernet frame would be fragmented, and clients
// without an address do not always reassemble fragments.
func replySize(m *Message4) int {
	size, ok := m.Options.Uint16(OptMaxMessageSize)
	if !ok || size < 576 {
		return MinMessageSize4
	}
	return min(int(size), 1500) - 28
}

// parameters returns the subnet mask and the options that the client requests, in the order of the request. It takes
// them from the network and the client's reservation. If the client has no parameter request list, parameters
// returns all options except IPv6-Only Preferred.
//
// RFC 2131 4.3.1: the server returns "Parameters requested by the client", "including the values explicitly
// configured for the client".
func (q *query4) parameters() (list Options4) {
	all := slices.Clone(q.net.options)
	if r := q.reserved; r != nil {
		if r.HostName != "" {
			all.Set(OptHostName, []byte(r.HostName))
		}
		for _, o := range r.Options {
			all.Set(o.Code, o.Data)
		}
	}
	requested, ok := q.Options.Get(OptParameters)
	if !ok || len(requested) == 0 {
		// RFC 8925 3.3: IPv6-Only Preferred is only for clients that request it.
		return slices.DeleteFunc(all, func(o Option4) bool { return o.Code == OptIPv6Only })
	}
	// RFC 2132 3.3: "If both the subnet mask and the router option are specified in a DHCP reply, the subnet
	// mask option MUST be first." A client needs the mask even if it does not ask for it.
	if mask, ok := all.Get(OptSubnetMask); ok {
		list.Set(OptSubnetMask, mask)
	}
	for _, code := range requested {
		if data, ok := all.Get(OptionCode4(code)); ok {
			list.Set(OptionCode4(code), data)
		}
	}
	return list
}

// destination returns where a reply is sent: see Reply4.
//
// RFC 2131 4.1: "If the 'giaddr' field in a DHCP message from a client is non-zero, the server sends any
// return messages to the 'DHCP server' port on the BOOTP relay agent whose address appears in 'giaddr'. If
// the 'giaddr' field is zero and the 'ciaddr' field is nonzero, then the server unicasts DHCPOFFER and
// DHCPACK messages to the address in 'ciaddr'. If 'giaddr' is zero and 'ciaddr' is zero, and the broadcast
// bit is set, then the server broadcasts DHCPOFFER and DHCPACK messages to 0xffffffff. If the broadcast bit
// is not set and 'giaddr' is zero and 'ciaddr' is zero, then the server unicasts DHCPOFFER and DHCPACK
// messages to the client's hardware address and 'yiaddr' address. In all cases, when 'giaddr' is zero, the
// server broadcasts any DHCPNAK messages to 0xffffffff."
func (s *Server4) destination(q *query4, m *Message4) (to netip.AddrPort, mac []byte) {
	broadcast := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), ClientPort4)
	switch {
	case q.GIAddr.IsValid():
		return netip.AddrPortFrom(q.GIAddr, ServerPort4), nil
	case m.Type() == NAK:
		return broadcast, nil
	case q.CIAddr.IsValid():
		return netip.AddrPortFrom(q.CIAddr, ClientPort4), nil
	case q.Flags&FlagBroadcast != 0 || q.HType != 1 || len(q.CHAddr) != 6 || q.CHAddr[0]&1 != 0:
		return broadcast, nil
	}
	return netip.AddrPortFrom(m.YIAddr, ClientPort4), q.CHAddr
}
