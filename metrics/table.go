package metrics

import (
	"strings"
	"time"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/tcp"
)

// A reading has what one Read needs of a host.
type reading struct {
	host      *usernet.Host
	stats     stack.Stats
	ifaces    []stack.InterfaceInfo
	addrs     map[string]int // number of addresses by state
	neighbors map[string]int // number of neighbours by state
	states    map[string]int // number of connections by state
	listeners int
	queued    int // connections in the accept queues
	sockets   int
	udpQueues int // bytes in the receive queues of sockets
}

func readHost(h *usernet.Host) *reading {
	s := &reading{host: h, stats: h.Stats(), ifaces: h.Interfaces(), addrs: make(map[string]int), neighbors: make(map[string]int), states: make(map[string]int)}
	for _, ifc := range s.ifaces {
		for _, a := range ifc.AddrInfo {
			s.addrs[a.State.String()]++
		}
	}
	for _, n := range h.Neighbors() {
		s.neighbors[n.State.String()]++
	}
	for st := tcp.SynSent; st <= tcp.TimeWait; st++ {
		s.states[stateLabel(st)] = 0
	}
	for c := range h.Conns() {
		s.states[stateLabel(c.State)]++
	}
	for l := range h.Listeners() {
		s.listeners++
		s.queued += l.Queue
	}
	for sock := range h.Sockets() {
		s.sockets++
		s.udpQueues += sock.RecvQ
	}
	return s
}

// stateLabel returns a state in lower case, for example "fin_wait_1".
func stateLabel(st tcp.State) string {
	return strings.ReplaceAll(strings.ToLower(st.String()), "-", "_")
}

// A row is a metric and the function that reads it. The function calls put once for each value.
type row struct {
	Metric
	read func(s *reading, put func(label string, v float64))
}

// one returns a read function for a metric without a label.
func one[N int | int64 | uint64](get func(s *reading) N) func(*reading, func(string, float64)) {
	return func(s *reading, put func(string, float64)) { put("", float64(get(s))) }
}

// nic returns a read function for a counter of each interface.
func nic(get func(n *stack.NICStats) uint64) func(*reading, func(string, float64)) {
	return func(s *reading, put func(string, float64)) {
		for i := range s.stats.NICs {
			put(s.stats.NICs[i].Name, float64(get(&s.stats.NICs[i])))
		}
	}
}

// iface returns a read function for a property of each interface.
func iface(get func(ifc *stack.InterfaceInfo) int) func(*reading, func(string, float64)) {
	return func(s *reading, put func(string, float64)) {
		for i := range s.ifaces {
			put(s.ifaces[i].Name, float64(get(&s.ifaces[i])))
		}
	}
}

// unixSeconds returns a time in seconds since 1970, or 0 for the zero time.
func unixSeconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

// table has all metrics. It is complete when the package is initialized and is never modified.
var table = append([]row{
	{Metric{"host", "up", "", Gauge, "", "1 until the host is closed"}, one(func(s *reading) int {
		select {
		case <-s.host.Done():
			return 0
		default:
			return 1
		}
	})},
	{Metric{"interface", "receive", "bytes", Counter, "interface", "Bytes received, with the link header"}, nic(func(n *stack.NICStats) uint64 { return n.RxBytes })},
	{Metric{"interface", "receive_frames", "", Counter, "interface", "Frames received; a super-frame is one frame"}, nic(func(n *stack.NICStats) uint64 { return n.RxFrames })},
	{Metric{"interface", "receive_dropped_frames", "", Counter, "interface", "Received frames that were dropped at the interface"}, nic(func(n *stack.NICStats) uint64 { return n.RxDropped })},
	{Metric{"interface", "transmit", "bytes", Counter, "interface", "Bytes sent, with the link header"}, nic(func(n *stack.NICStats) uint64 { return n.TxBytes })},
	{Metric{"interface", "transmit_frames", "", Counter, "interface", "Frames sent; a super-frame is one frame"}, nic(func(n *stack.NICStats) uint64 { return n.TxFrames })},
	{Metric{"interface", "transmit_dropped_frames", "", Counter, "interface", "Frames that the device or the transmit queue did not accept"}, nic(func(n *stack.NICStats) uint64 { return n.TxDropped })},
	{Metric{"interface", "up", "", Gauge, "interface", "1 while the link is up"}, iface(func(ifc *stack.InterfaceInfo) int {
		if ifc.Up {
			return 1
		}
		return 0
	})},
	{Metric{"interface", "mtu", "bytes", Gauge, "interface", "MTU of the network layer"}, iface(func(ifc *stack.InterfaceInfo) int { return ifc.MTU })},
	{Metric{"interface", "link_changes", "", Counter, "interface", "Changes of the link"}, iface(func(ifc *stack.InterfaceInfo) int { return int(ifc.LinkChanges) })},
	{Metric{"interface", "multicast_groups", "", Gauge, "interface", "Multicast groups that the interface receives"}, iface(func(ifc *stack.InterfaceInfo) int { return len(ifc.Groups) })},
	{Metric{"host", "addresses", "", Gauge, "state", "Addresses of the host by state"}, func(s *reading, put func(string, float64)) { byKey(s.addrs, put) }},
	{Metric{"neighbor", "entries", "", Gauge, "state", "Entries of the neighbour tables by state"}, func(s *reading, put func(string, float64)) { byKey(s.neighbors, put) }},
	{Metric{"route", "entries", "", Gauge, "", "Routes"}, one(func(s *reading) int { return len(s.host.Routes()) })},
	{Metric{"arp", "received_packets", "", Counter, "", "ARP packets received"}, one(func(s *reading) uint64 { return s.stats.ARP.Received })},
	{Metric{"arp", "sent_packets", "", Counter, "", "ARP packets sent"}, one(func(s *reading) uint64 { return s.stats.ARP.Sent })},
	{Metric{"arp", "failed_resolutions", "", Counter, "", "ARP resolutions without an answer"}, one(func(s *reading) uint64 { return s.stats.ARP.Failed })},
	{Metric{"nd", "received_messages", "", Counter, "", "Neighbour Discovery messages received"}, one(func(s *reading) uint64 { return s.stats.ND.Received })},
	{Metric{"nd", "sent_messages", "", Counter, "", "Neighbour Discovery messages sent"}, one(func(s *reading) uint64 { return s.stats.ND.Sent })},
	{Metric{"nd", "failed_resolutions", "", Counter, "", "Neighbour Discovery resolutions without an answer"}, one(func(s *reading) uint64 { return s.stats.ND.Failed })},
	{Metric{"ip", "received_packets", "", Counter, "version", "IP packets received by version, invalid ones and fragments included"}, func(s *reading, put func(string, float64)) {
		put("4", float64(s.stats.IP.Received-s.stats.IP.V6))
		put("6", float64(s.stats.IP.V6))
	}},
	{Metric{"ip", "delivered_datagrams", "", Counter, "", "Complete datagrams that were passed to a protocol"}, one(func(s *reading) uint64 { return s.stats.IP.Delivered })},
	{Metric{"ip", "sent_packets", "", Counter, "", "IP packets sent"}, one(func(s *reading) uint64 { return s.stats.IP.Sent })},
	{Metric{"ip", "received_fragments", "", Counter, "", "Fragments received"}, one(func(s *reading) uint64 { return s.stats.IP.FragmentsReceived })},
	{Metric{"ip", "sent_fragments", "", Counter, "", "Fragments sent"}, one(func(s *reading) uint64 { return s.stats.IP.FragmentsSent })},
	{Metric{"ip", "reassembled_datagrams", "", Counter, "", "Datagrams reassembled"}, one(func(s *reading) uint64 { return s.stats.IP.Reassembled })},
	{Metric{"ip", "failed_reassemblies", "", Counter, "", "Datagrams whose reassembly failed"}, one(func(s *reading) uint64 { return s.stats.IP.ReassemblyFailed })},
	{Metric{"icmp", "received_messages", "", Counter, "version", "ICMP messages received with a good checksum"}, func(s *reading, put func(string, float64)) {
		put("4", float64(s.stats.ICMP.Received))
		put("6", float64(s.stats.ICMP6.Received))
	}},
	{Metric{"icmp", "received_errors", "", Counter, "version", "ICMP messages received that report an error about a packet of this host"}, func(s *reading, put func(string, float64)) {
		put("4", float64(s.stats.ICMP.Errors))
		put("6", float64(s.stats.ICMP6.Errors))
	}},
	{Metric{"icmp", "sent_messages", "", Counter, "version", "ICMP messages that the stack sent"}, func(s *reading, put func(string, float64)) {
		put("4", float64(s.stats.ICMP.Sent))
		put("6", float64(s.stats.ICMP6.Sent))
	}},
	{Metric{"group", "received_messages", "", Counter, "protocol", "IGMP and MLD messages received"}, func(s *reading, put func(string, float64)) {
		put("igmp", float64(s.stats.IGMP.Received))
		put("mld", float64(s.stats.MLD.Received))
	}},
	{Metric{"group", "sent_messages", "", Counter, "protocol", "IGMP and MLD messages sent"}, func(s *reading, put func(string, float64)) {
		put("igmp", float64(s.stats.IGMP.Sent))
		put("mld", float64(s.stats.MLD.Sent))
	}},
	{Metric{"udp", "received_datagrams", "", Counter, "", "UDP datagrams passed to a socket"}, one(func(s *reading) uint64 { return s.stats.UDP.Received })},
	{Metric{"udp", "sent_datagrams", "", Counter, "", "UDP datagrams sent"}, one(func(s *reading) uint64 { return s.stats.UDP.Sent })},
	{Metric{"raw", "received_datagrams", "", Counter, "", "Datagrams passed to a raw socket"}, one(func(s *reading) uint64 { return s.stats.Raw.Received })},
	{Metric{"raw", "sent_datagrams", "", Counter, "", "Datagrams that raw sockets sent"}, one(func(s *reading) uint64 { return s.stats.Raw.Sent })},
	{Metric{"socket", "open", "", Gauge, "", "Open UDP and raw sockets"}, one(func(s *reading) int { return s.sockets })},
	{Metric{"socket", "queues", "bytes", Gauge, "", "Bytes in the receive queues of UDP and raw sockets"}, one(func(s *reading) int { return s.udpQueues })},
	{Metric{"drop", "packets", "", Counter, "reason", "Dropped packets by reason"}, func(s *reading, put func(string, float64)) {
		drops := make(map[string]uint64, len(s.stats.Drops))
		for r, n := range s.stats.Drops {
			drops[string(r)] = n
		}
		byKey(drops, put)
	}},
	{Metric{"dhcp", "lease_expiry_timestamp", "seconds", Gauge, "interface", "Unix time at which the DHCPv4 lease ends, or 0 if it does not end"}, func(s *reading, put func(string, float64)) {
		for _, d := range s.host.DHCP() {
			if d.Lease != nil {
				put(d.NIC, unixSeconds(d.Lease.Expires))
			}
		}
	}},
	{Metric{"dhcp6", "lease_expiry_timestamp", "seconds", Gauge, "interface", "Unix time at which the DHCPv6 lease ends, or 0 if it does not end"}, func(s *reading, put func(string, float64)) {
		for _, d := range s.host.DHCP6() {
			if d.Lease != nil {
				put(d.NIC, unixSeconds(d.Lease.Expires))
			}
		}
	}},
	{Metric{"tcp", "connections", "", Gauge, "state", "TCP connections by state"}, func(s *reading, put func(string, float64)) { byKey(s.states, put) }},
	{Metric{"tcp", "listeners", "", Gauge, "", "TCP listeners"}, one(func(s *reading) int { return s.listeners })},
	{Metric{"tcp", "accept_queues", "", Gauge, "", "Established connections that wait for Accept"}, one(func(s *reading) int { return s.queued })},
	{Metric{"tcp", "received_segments", "", Counter, "", "TCP segments received with a good checksum; a super-frame is one segment"}, one(func(s *reading) uint64 { return s.stats.TCP.Received })},
	{Metric{"tcp", "sent_segments", "", Counter, "", "TCP segments sent; a super-frame is one segment"}, one(func(s *reading) uint64 { return s.stats.TCP.Sent })},
	{Metric{"tcp", "memory", "bytes", Gauge, "", "Bytes of the buffers of all connections"}, one(func(s *reading) int64 { return s.stats.TCP.Memory })},
	{Metric{"tcp", "orphans", "", Gauge, "", "Connections that the application has closed and that have not ended"}, one(func(s *reading) int { return s.stats.TCP.Orphans })},
	{Metric{"tcp", "orphans_reset", "", Counter, "", "Orphans that were reset because of their number or memory pressure"}, one(func(s *reading) uint64 { return s.stats.TCP.OrphansReset })},
	{Metric{"tcp", "time_wait_overflows", "", Counter, "", "Connections whose TIME-WAIT ended early because there were too many"}, one(func(s *reading) uint64 { return s.stats.TCP.TimeWaitOverflow })},
	{Metric{"tcp", "syn_cookies_sent", "", Counter, "", "SYNs that were answered with a cookie"}, one(func(s *reading) uint64 { return s.stats.TCP.CookiesSent })},
	{Metric{"tcp", "syn_cookies_accepted", "", Counter, "", "Connections that a valid cookie opened"}, one(func(s *reading) uint64 { return s.stats.TCP.CookiesTaken })},
	{Metric{"tcp", "syn_cookies_failed", "", Counter, "", "ACKs with an invalid cookie"}, one(func(s *reading) uint64 { return s.stats.TCP.CookiesBad })},
}, eventRows()...)

// events has the names of the counters of TCP's events.
var events = [tcp.NumCounters]struct{ base, help string }{
	tcp.ActiveOpens:       {"active_opens", "Connections that this host began to open"},
	tcp.PassiveOpens:      {"passive_opens", "Connections that peers opened"},
	tcp.AttemptFails:      {"failed_opens", "Connections that ended before they were established"},
	tcp.EstabResets:       {"reset_connections", "Established connections that were reset"},
	tcp.RetransSegs:       {"retransmitted_segments", "Segments retransmitted, SYNs and loss probes included"},
	tcp.OutRsts:           {"sent_resets", "RSTs that connections sent"},
	tcp.SynRetrans:        {"retransmitted_syns", "SYNs and SYN,ACKs retransmitted"},
	tcp.FastRetrans:       {"fast_retransmissions", "Segments retransmitted in fast recovery"},
	tcp.SlowStartRetrans:  {"slow_start_retransmissions", "Segments retransmitted after a retransmission timeout"},
	tcp.LostRetransmit:    {"lost_retransmissions", "Retransmissions that were lost as well"},
	tcp.LossProbes:        {"loss_probes", "Tail loss probes sent"},
	tcp.Timeouts:          {"retransmission_timeouts", "Retransmission timeouts"},
	tcp.SackRecovery:      {"sack_recoveries", "Episodes of fast recovery with SACK"},
	tcp.RenoRecovery:      {"reno_recoveries", "Episodes of fast recovery without SACK"},
	tcp.LossProbeRecovery: {"loss_probe_recoveries", "Losses that a tail loss probe repaired"},
	tcp.SACKReneging:      {"sack_renegings", "Peers that discarded data that they had acknowledged by SACK"},
	tcp.DSACKRecv:         {"received_dsacks", "DSACK blocks received"},
	tcp.DSACKSent:         {"sent_dsacks", "DSACK blocks sent"},
	tcp.FullUndo:          {"timestamp_undos", "Reductions of the congestion window undone because of a timestamp"},
	tcp.DSACKUndo:         {"dsack_undos", "Reductions of the congestion window undone because of DSACKs"},
	tcp.SpuriousRTOs:      {"spurious_timeouts", "Retransmission timeouts that F-RTO found to be unnecessary"},
	tcp.LossUndo:          {"loss_undos", "Reductions of the congestion window undone because no data was lost"},
	tcp.InCEPkts:          {"received_ce_segments", "Segments received with the CE codepoint"},
	tcp.ECEReductions:     {"ecn_reductions", "Reductions of the congestion window because of ECN"},
	tcp.OFOQueue:          {"out_of_order_segments", "Segments queued beyond a hole"},
	tcp.OFOPruned:         {"pruned_queues", "Queues of out-of-order data discarded because of memory pressure"},
	tcp.DelayedACKs:       {"delayed_acks", "Delayed ACKs that the timer sent"},
	tcp.PAWSEstab:         {"paws_rejections", "Segments rejected because of an old timestamp"},
	tcp.ChallengeACK:      {"challenge_acks", "Challenge ACKs sent"},
	tcp.WinProbe:          {"zero_window_probes", "Zero-window probes sent"},
	tcp.KeepAliveProbes:   {"keep_alive_probes", "Keep-alive probes sent"},
	tcp.AbortOnTimeout:    {"timed_out_connections", "Connections that failed because the peer did not answer"},
}

func eventRows() []row {
	rows := make([]row, len(events))
	for k, e := range events {
		rows[k] = row{Metric{"tcp", e.base, "", Counter, "", e.help}, one(func(s *reading) uint64 { return s.stats.TCP.Events[k] })}
	}
	return rows
}
