package inspect

import (
	"cmp"
	"math"
	"net/netip"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"strconv"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
	"github.com/usernet/usernet/stack/wire"
)

// modulePath is the path of the module whose version HostInfo has.
const modulePath = "github.com/usernet/usernet"

// buildInfo sets the fields of h that are the same for all hosts of the program.
func (h *HostInfo) buildInfo() {
	h.Version, h.Go = "(devel)", runtime.Version()
	b, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	h.Program = b.Path
	for _, m := range append(b.Deps, &b.Main) {
		if m.Path == modulePath && m.Version != "" {
			h.Version = m.Version
		}
	}
}

// overview describes the host.
func overview(h *usernet.Host) *Overview {
	st := h.Stats()
	o := &Overview{Time: time.Now(), Interfaces: []Interface{}, Stats: statsOf(&st)}
	o.Host.buildInfo()
	o.Host.UptimeS = h.Stack().Uptime().Seconds()
	v4, v6 := false, false
	for _, info := range h.Interfaces() {
		o.Interfaces = append(o.Interfaces, interfaceOf(&info, &st))
		for _, p := range info.Addrs {
			v4, v6 = v4 || p.Addr().Is4(), v6 || p.Addr().Is6()
		}
	}
	o.Host.Families = []string{}
	if v4 {
		o.Host.Families = append(o.Host.Families, "ipv4")
	}
	if v6 {
		o.Host.Families = append(o.Host.Families, "ipv6")
	}
	o.Totals.ByState = make(map[string]int)
	for c := range h.Conns() {
		o.Totals.Conns++
		o.Totals.ByState[c.State.String()]++
	}
	for range h.Listeners() {
		o.Totals.Listeners++
	}
	for range h.Sockets() {
		o.Totals.Sockets++
	}
	o.Memory = Memory{TCPBuffers: st.TCP.Memory, HeapInUse: heap()}
	return o
}

// heap returns the bytes of the objects on the heap, without stopping the program as runtime.ReadMemStats does.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}

func interfaceOf(info *stack.InterfaceInfo, st *stack.Stats) Interface {
	i := Interface{
		Name: info.Name, Index: info.Index, VLAN: info.VLAN, MTU: info.MTU, Medium: "ethernet",
		Loopback: info.Loopback, Up: info.Up, LinkChanges: info.LinkChanges, Addrs: texts(info.Addrs),
		Gateway: addrText(info.Gateway), Gateway6: addrText(info.Gateway6), MAC: macText(info.MAC),
	}
	if info.Medium == nic.IP {
		i.Medium = "ip"
	}
	if info.Err != nil {
		i.Error = info.Err.Error()
	}
	for _, n := range st.NICs {
		if n.Name == info.Name {
			i.RxFrames, i.RxBytes, i.RxDropped = n.RxFrames, n.RxBytes, n.RxDropped
			i.TxFrames, i.TxBytes, i.TxDropped = n.TxFrames, n.TxBytes, n.TxDropped
		}
	}
	return i
}

func statsOf(st *stack.Stats) Stats {
	s := Stats{
		ARP: ResolveStats(st.ARP),
		ND:  ResolveStats(st.ND),
		IP: IPStats{
			Received: st.IP.Received, ReceivedV6: st.IP.V6, Delivered: st.IP.Delivered, Sent: st.IP.Sent,
			FragmentsReceived: st.IP.FragmentsReceived, Reassembled: st.IP.Reassembled,
			ReassemblyFailed: st.IP.ReassemblyFailed, FragmentsSent: st.IP.FragmentsSent,
		},
		ICMP:  ICMPStats(st.ICMP),
		ICMP6: ICMPStats(st.ICMP6),
		IGMP:  DatagramStats(st.IGMP),
		MLD:   DatagramStats(st.MLD),
		UDP:   DatagramStats(st.UDP),
		Raw:   DatagramStats(st.Raw),
		TCP: TCPStats{
			Received: st.TCP.Received, Sent: st.TCP.Sent, TimeWaitOverflow: st.TCP.TimeWaitOverflow,
			CookiesSent: st.TCP.CookiesSent, CookiesTaken: st.TCP.CookiesTaken, CookiesBad: st.TCP.CookiesBad,
			Orphans: st.TCP.Orphans, OrphansReset: st.TCP.OrphansReset, Events: make(map[string]uint64),
		},
		Drops: make(map[string]uint64),
	}
	for k, n := range st.TCP.Events {
		s.TCP.Events[tcp.Counter(k).String()] = n
	}
	for r, n := range st.Drops {
		s.Drops[string(r)] = n
	}
	return s
}

// seconds converts a duration for JSON.
func seconds[T ~int64](d T) float64 { return time.Duration(d).Seconds() }

func texts[T interface{ String() string }](all []T) []string {
	s := make([]string, len(all))
	for i, x := range all {
		s[i] = x.String()
	}
	return s
}

// addrText returns an address as a text, or an empty text if it is invalid.
func addrText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func macText(m wire.MAC) string {
	if m == (wire.MAC{}) {
		return ""
	}
	return m.String()
}

// moment returns a pointer to t, or nil if t is zero.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func infoOf(c *stack.ConnInfo, i *stack.TCPInfo) *Info {
	info := &Info{
		State: i.State.String(), RTTS: seconds(i.RTT), RTTVarS: seconds(i.RTTVar), MinRTTS: seconds(i.MinRTT),
		RTOS: seconds(i.RTO), RcvRTTS: seconds(i.RcvRTT),
		SndCwnd: i.SndCwnd, SndSsthresh: i.SndSsthresh, SndMSS: i.SndMSS, RcvMSS: i.RcvMSS,
		SndWnd: i.SndWnd, RcvWnd: i.RcvWnd, InFlight: i.InFlight, Unacked: i.Unacked, Sacked: i.Sacked, Lost: i.Lost,
		NotSent: i.NotSent, RecvQ: c.RecvQ, Delivered: i.Delivered, Retrans: i.Retrans, Backoff: i.Backoff,
		SndBuf: i.SndBuf, RcvBuf: i.RcvBuf, SACK: i.SACK, Timestamps: i.Timestamps, WScale: i.WScale,
		SndWScale: i.SndWScale, RcvWScale: i.RcvWScale,
		Congestion: i.Congestion.String(), Recovery: i.Recovery, PacingRate: i.PacingRate, DeliveryRate: i.DeliveryRate,
		SegsOut: i.SegsOut, SegsIn: i.SegsIn, DataSegsOut: i.DataSegsOut, DataSegsIn: i.DataSegsIn,
		BytesSent: i.BytesSent, BytesRetrans: i.BytesRetrans, BytesAcked: i.BytesAcked, BytesReceived: i.BytesReceived,
		LastDataSentS: seconds(i.LastDataSent), LastDataRecvS: seconds(i.LastDataRecv), LastAckRecvS: seconds(i.LastAckRecv),
		OutOfOrder: i.OutOfOrder, Reordering: i.Reordering, ECN: i.ECN, Passive: i.Passive,
		KeepAliveIdleS: seconds(max(i.KeepAlive.Idle, 0)), KeepAliveInterval: seconds(max(i.KeepAlive.Interval, 0)),
		KeepAliveCount: i.KeepAlive.Count,
	}
	if info.SndSsthresh >= math.MaxInt32 {
		info.SndSsthresh = 0
	}
	return info
}

func familyText(f stack.Family) string {
	switch f {
	case stack.Family4:
		return "ipv4"
	case stack.Family6:
		return "ipv6"
	}
	return "any"
}

func listeners(h *usernet.Host) *Listeners {
	l := &Listeners{Time: time.Now(), Listeners: []Listener{}}
	for x := range h.Listeners() {
		l.Listeners = append(l.Listeners, Listener{
			Local: x.Local.String(), Family: familyText(x.Family), Queue: x.Queue, Backlog: x.Backlog, HalfOpen: x.HalfOpen,
		})
	}
	return l
}

// sockets describes the sockets from the offset-th on, at most limit of them, ordered by protocol and address.
func sockets(h *usernet.Host, limit, offset int) *Sockets {
	all := slices.SortedFunc(h.Sockets(), func(a, b stack.SocketInfo) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Local.Compare(b.Local), a.Remote.Compare(b.Remote))
	})
	s := &Sockets{Time: time.Now(), Total: len(all), Sockets: []Socket{}}
	for _, x := range page(all, limit, offset) {
		out := Socket{
			Protocol: protocolText(x.Protocol), Raw: x.Raw, Family: familyText(x.Family), Local: x.Local.String(),
			RecvQ: x.RecvQ, RecvLimit: x.RecvLimit, Datagrams: x.Datagrams, Received: x.Received, Sent: x.Sent, Dropped: x.Dropped,
		}
		if x.Remote.IsValid() {
			out.Remote = x.Remote.String()
		}
		s.Sockets = append(s.Sockets, out)
	}
	return s
}

// page returns at most limit elements from the offset-th on.
func page[T any](all []T, limit, offset int) []T {
	all = all[min(offset, len(all)):]
	return all[:min(limit, len(all))]
}

func protocolText(p wire.Proto) string {
	switch p {
	case wire.ProtoICMP:
		return "icmp"
	case wire.ProtoICMPv6:
		return "icmpv6"
	case wire.ProtoIGMP:
		return "igmp"
	case wire.ProtoTCP:
		return "tcp"
	case wire.ProtoUDP:
		return "udp"
	}
	return strconv.Itoa(int(p))
}

func neighbors(h *usernet.Host) *Neighbors {
	n := &Neighbors{Time: time.Now(), Neighbors: []Neighbor{}}
	for _, x := range h.Neighbors() {
		n.Neighbors = append(n.Neighbors, Neighbor{
			NIC: x.NIC, Addr: x.Addr.String(), MAC: macText(x.MAC), State: x.State.String(), AgeS: seconds(x.Age), Router: x.Router,
		})
	}
	return n
}

func routes(h *usernet.Host) *Routes {
	r := &Routes{Time: time.Now(), Routes: []Route{}}
	for _, x := range h.Routes() {
		r.Routes = append(r.Routes, Route{Dst: x.Dst.String(), Via: addrText(x.Via), NIC: x.NIC, Src: addrText(x.Src)})
	}
	return r
}

func addresses(h *usernet.Host) *Addresses {
	a := &Addresses{Time: time.Now(), Addresses: []Address{}}
	for _, info := range h.Interfaces() {
		for _, x := range info.AddrInfo {
			a.Addresses = append(a.Addresses, Address{
				NIC: info.Name, Prefix: x.Prefix.String(), State: x.State.String(), Origin: x.Origin.String(),
				Temporary: x.Temporary, ValidUntil: moment(x.ValidUntil), PreferredUntil: moment(x.PreferredUntil),
				ConflictMAC: macText(x.ConflictMAC),
			})
		}
	}
	return a
}

func groups(h *usernet.Host) *Groups {
	g := &Groups{Time: time.Now(), Groups: []Group{}}
	for _, info := range h.Interfaces() {
		for _, a := range info.Groups {
			g.Groups = append(g.Groups, Group{NIC: info.Name, Addr: a.String()})
		}
	}
	return g
}

func leases(h *usernet.Host) *Leases {
	all := &Leases{Time: time.Now(), Leases: []Lease{}}
	for _, x := range h.DHCP() {
		l := Lease{NIC: x.NIC, Protocol: "dhcpv4", State: x.State.String(), Tries: x.Tries, Refusal: x.Refusal, Addrs: []string{}}
		if x.Lease != nil {
			l.Addrs, l.Server = []string{x.Lease.Addr.String()}, addrText(x.Lease.Server)
			l.DNS, l.Search = texts(x.Lease.DNS), x.Lease.Search
			l.Obtained, l.Renew = moment(x.Lease.Obtained), moment(x.Lease.Renew)
			l.Rebind, l.Expires = moment(x.Lease.Rebind), moment(x.Lease.Expires)
		}
		all.Leases = append(all.Leases, l)
	}
	for _, x := range h.DHCP6() {
		l := Lease{NIC: x.NIC, Protocol: "dhcpv6", State: x.State.String(), Tries: x.Tries, Refusal: x.Refusal, Addrs: []string{}}
		if x.Lease != nil {
			l.Addrs, l.Prefixes = items(x.Lease.Addrs), items(x.Lease.Prefixes)
			l.DNS, l.Search = texts(x.Lease.DNS), x.Lease.Search
			l.Obtained, l.Renew = moment(x.Lease.Obtained), moment(x.Lease.Renew)
			l.Rebind, l.Expires = moment(x.Lease.Rebind), moment(x.Lease.Expires)
		}
		all.Leases = append(all.Leases, l)
	}
	return all
}

// items returns the prefixes of a lease of DHCPv6.
func items(all []dhcp.LeaseItem6) []string {
	s := make([]string, len(all))
	for i, x := range all {
		s[i] = x.Prefix.String()
	}
	return s
}

func names(h *usernet.Host) *Names {
	n := &Names{Time: time.Now(), Servers: []NameServer{}, MDNS: []MDNSName{}}
	add := func(nic, origin string, addrs []netip.Addr) {
		for _, a := range addrs {
			n.Servers = append(n.Servers, NameServer{NIC: nic, Addr: a.String(), Origin: origin})
		}
	}
	for _, x := range h.DHCP() {
		if x.Lease != nil {
			add(x.NIC, "dhcpv4", x.Lease.DNS)
		}
	}
	for _, x := range h.DHCP6() {
		if x.Lease != nil {
			add(x.NIC, "dhcpv6", x.Lease.DNS)
		}
	}
	for _, info := range h.Interfaces() {
		if info.Auto != nil {
			add(info.Name, "router", info.Auto.DNS)
		}
		if name, ok := h.MDNSName(info.Name); name != "" {
			n.MDNS = append(n.MDNS, MDNSName{NIC: info.Name, Name: name, Established: ok})
		}
	}
	return n
}

// dropCounts returns the reasons for which packets were dropped, ordered by their number.
func dropCounts(h *usernet.Host) []Drop {
	all := []Drop{}
	for r, n := range h.Stats().Drops {
		all = append(all, Drop{Reason: string(r), Rule: r.Rule(), Count: n, Last: []DroppedFrame{}})
	}
	slices.SortFunc(all, func(a, b Drop) int { return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Reason, b.Reason)) })
	return all
}
