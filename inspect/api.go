package inspect

import "time"

// The types of this file are the JSON of the interface. Keys are in snake_case. Times are RFC 3339 with
// nanoseconds, durations are seconds (keys end in _s), sizes are bytes and rates are bytes per second. Addresses
// and prefixes are strings as package netip prints them. Counters are totals since the host was made.

// An Overview is the answer of api/overview.
type Overview struct {
	Time       time.Time   `json:"time"`
	Host       HostInfo    `json:"host"`
	Interfaces []Interface `json:"interfaces"`
	Stats      Stats       `json:"stats"`
	Totals     Totals      `json:"totals"`
	Memory     Memory      `json:"memory"`
}

// A HostInfo describes the host and the program.
type HostInfo struct {
	Version  string   `json:"version"` // of the module usernet; "(devel)" if it is not known
	Go       string   `json:"go"`
	Program  string   `json:"program"` // the path of the main package; may be empty
	UptimeS  float64  `json:"uptime_s"`
	Families []string `json:"families"` // "ipv4", "ipv6"
	Recorded bool     `json:"recorded"` // the answers come from a recording: see Open
	// CanCapture, CanAbort and HasSecrets report whether api/capture and api/abort work, and whether
	// captures include the secrets of TLS connections.
	CanCapture bool `json:"can_capture"`
	CanAbort   bool `json:"can_abort"`
	HasSecrets bool `json:"has_secrets"`
}

// An Interface describes an interface of the host.
type Interface struct {
	Name        string   `json:"name"`
	Index       int      `json:"index"`
	MAC         string   `json:"mac,omitempty"`
	VLAN        int      `json:"vlan,omitempty"`
	MTU         int      `json:"mtu"`
	Medium      string   `json:"medium"` // "ethernet" or "ip"
	Loopback    bool     `json:"loopback"`
	Up          bool     `json:"up"`
	LinkChanges uint32   `json:"link_changes"`
	Addrs       []string `json:"addrs"`
	Gateway     string   `json:"gateway,omitempty"`
	Gateway6    string   `json:"gateway6,omitempty"`
	Error       string   `json:"error,omitempty"` // why the device has failed

	RxFrames  uint64 `json:"rx_frames"`
	RxBytes   uint64 `json:"rx_bytes"`
	RxDropped uint64 `json:"rx_dropped"`
	TxFrames  uint64 `json:"tx_frames"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxDropped uint64 `json:"tx_dropped"`
}

// Stats are the counters of stack.Stats, without those of the interfaces.
type Stats struct {
	ARP   ResolveStats  `json:"arp"`
	ND    ResolveStats  `json:"nd"`
	IP    IPStats       `json:"ip"`
	ICMP  ICMPStats     `json:"icmp"`
	ICMP6 ICMPStats     `json:"icmp6"`
	IGMP  DatagramStats `json:"igmp"`
	MLD   DatagramStats `json:"mld"`
	UDP   DatagramStats `json:"udp"`
	Raw   DatagramStats `json:"raw"`
	TCP   TCPStats      `json:"tcp"`
	// Drops counts the dropped packets by reason.
	Drops map[string]uint64 `json:"drops"`
}

// ResolveStats are the counters of ARP or of Neighbour Discovery.
type ResolveStats struct {
	Received uint64 `json:"received"`
	Sent     uint64 `json:"sent"`
	Failed   uint64 `json:"failed"`
}

// IPStats are the counters of IPv4 and IPv6.
type IPStats struct {
	Received          uint64 `json:"received"`
	ReceivedV6        uint64 `json:"received_v6"`
	Delivered         uint64 `json:"delivered"`
	Sent              uint64 `json:"sent"`
	FragmentsReceived uint64 `json:"fragments_received"`
	Reassembled       uint64 `json:"reassembled"`
	ReassemblyFailed  uint64 `json:"reassembly_failed"`
	FragmentsSent     uint64 `json:"fragments_sent"`
}

// ICMPStats are the counters of ICMP or ICMPv6.
type ICMPStats struct {
	Received uint64 `json:"received"`
	Errors   uint64 `json:"errors"`
	Sent     uint64 `json:"sent"`
}

// DatagramStats are the counters of a protocol of datagrams.
type DatagramStats struct {
	Received uint64 `json:"received"`
	Sent     uint64 `json:"sent"`
}

// TCPStats are the counters of TCP.
type TCPStats struct {
	Received         uint64 `json:"received"`
	Sent             uint64 `json:"sent"`
	TimeWaitOverflow uint64 `json:"time_wait_overflow"`
	CookiesSent      uint64 `json:"cookies_sent"`
	CookiesTaken     uint64 `json:"cookies_taken"`
	CookiesBad       uint64 `json:"cookies_bad"`
	Orphans          int    `json:"orphans"`
	OrphansReset     uint64 `json:"orphans_reset"`
	// Events has the counters of tcp.Counter by their names, which are those of nstat.
	Events map[string]uint64 `json:"events"`
}

// Totals are current numbers.
type Totals struct {
	Conns     int            `json:"conns"`
	Listeners int            `json:"listeners"`
	Sockets   int            `json:"sockets"`
	ByState   map[string]int `json:"by_state"` // connections by state, as in Conn.State
}

// Memory is the memory that TCP uses, in bytes, and that of the process.
type Memory struct {
	TCPBuffers int64  `json:"tcp_buffers"`
	HeapInUse  uint64 `json:"heap_in_use"` // objects on the heap of the whole process
}

// Conns is the answer of api/conns: a page of the connections.
//
// The parameters are sort (a key of Conn with a number, an address or a state; default "id"), desc (0 or 1), q (a
// text that the id or the state contains), state (a state), limit (1 to 1000, default 100) and offset.
type Conns struct {
	Time  time.Time `json:"time"`
	Total int       `json:"total"` // connections that match q and state; Conns has limit of them
	All   int       `json:"all"`   // all connections
	Conns []Conn    `json:"conns"`
}

// A Conn is a TCP connection. The fields from rtt_s on are zero in TIME-WAIT.
type Conn struct {
	ID       string  `json:"id"` // "local->remote"
	Local    string  `json:"local"`
	Remote   string  `json:"remote"`
	State    string  `json:"state"` // as in RFC 9293: "ESTABLISHED"
	Passive  bool    `json:"passive"`
	Orphan   bool    `json:"orphan"`
	RecvQ    int     `json:"recv_q"`    // bytes received that the application has not read
	SendQ    int     `json:"send_q"`    // bytes written that the peer has not acknowledged
	Timer    string  `json:"timer"`     // "none", "on", "keepalive", "timewait" or "persist", as ss prints it
	ExpiresS float64 `json:"expires_s"` // time until the timer expires

	RTTS       float64 `json:"rtt_s"`
	Cwnd       int     `json:"cwnd"`
	InFlight   int     `json:"in_flight"`
	SndWnd     int     `json:"snd_wnd"`
	RcvWnd     int     `json:"rcv_wnd"`
	Retrans    int     `json:"retrans"` // segments retransmitted
	BytesIn    uint64  `json:"bytes_in"`
	BytesOut   uint64  `json:"bytes_out"` // bytes acknowledged by the peer
	LastSendS  float64 `json:"last_send_s"`
	LastRecvS  float64 `json:"last_recv_s"`
	Congestion string  `json:"congestion"`

	// The rates since the sample before. They are missing if there is no such sample: a GET has none, and a
	// stream has one from its second event on.
	RateIn  *float64 `json:"rate_in_bytes_per_s,omitempty"`
	RateOut *float64 `json:"rate_out_bytes_per_s,omitempty"`
	// LimitedBy is what limited the connection since the sample before, in the direction in which more bytes were
	// transferred. It is missing if there is no such sample, and in TIME-WAIT. Of a sender: "idle", "writes" (the
	// application does not write faster), "sndbuf" (the send buffer), "rwnd" (the peer's receive window), "peer_reads"
	// (the peer's application does not read), "loss", "cwnd" or "pacing". Of a receiver: "idle", "reads" (the
	// application does not read), "own_window" (the own receive window), "loss_in" or "peer" (the peer sends no faster).
	LimitedBy string `json:"limited_by,omitempty"`
}

// A ConnDetail is the answer of api/conn, and an event of the topic conn.
type ConnDetail struct {
	Time time.Time `json:"time"`
	Conn Conn      `json:"conn"`
	// Info is nil in TIME-WAIT, and Ended is set in the last event of a stream, after the connection has ended.
	Info  *Info `json:"info"`
	Ended bool  `json:"ended,omitempty"`
	// Events are what has happened since the sample before. A GET has none.
	Events []ConnEvent `json:"events"`
}

// A ConnEvent is something that has happened to a connection between two samples.
type ConnEvent struct {
	Time time.Time `json:"time"` // of the sample that shows it
	// Kind is "retransmission", "timeout" (a retransmission timeout), "recovery_begin", "recovery_end",
	// "window_closed" (the peer's receive window is 0), "window_opened", "full" (the own receive window is 0),
	// "cwnd_reduced", "state" (Text is the new state), "out_of_order" or "reordering".
	Kind string `json:"kind"`
	N    int    `json:"n,omitempty"` // how often; for cwnd_reduced by how many bytes
	Text string `json:"text,omitempty"`
}

// Info is tcp.Info: the state of a connection in detail, with names as in Linux's tcp_info.
type Info struct {
	State             string  `json:"state"`
	RTTS              float64 `json:"rtt_s"`
	RTTVarS           float64 `json:"rttvar_s"`
	MinRTTS           float64 `json:"min_rtt_s"`
	RTOS              float64 `json:"rto_s"`
	RcvRTTS           float64 `json:"rcv_rtt_s"`
	SndCwnd           int     `json:"snd_cwnd"`
	SndSsthresh       int     `json:"snd_ssthresh"` // 0: no loss yet
	SndMSS            int     `json:"snd_mss"`
	RcvMSS            int     `json:"rcv_mss"`
	SndWnd            int     `json:"snd_wnd"` // the peer's receive window
	RcvWnd            int     `json:"rcv_wnd"` // the own receive window
	InFlight          int     `json:"in_flight"`
	Unacked           int     `json:"unacked"`
	Sacked            int     `json:"sacked"`
	Lost              int     `json:"lost"`
	NotSent           int     `json:"not_sent"`
	RecvQ             int     `json:"recv_q"`
	Delivered         uint64  `json:"delivered"`
	Retrans           int     `json:"retrans"`
	Backoff           int     `json:"backoff"`
	SndBuf            int     `json:"snd_buf"`
	RcvBuf            int     `json:"rcv_buf"`
	SACK              bool    `json:"sack"`
	Timestamps        bool    `json:"timestamps"`
	WScale            bool    `json:"wscale"`
	SndWScale         uint8   `json:"snd_wscale"`
	RcvWScale         uint8   `json:"rcv_wscale"`
	Congestion        string  `json:"congestion"`
	Recovery          bool    `json:"recovery"`
	PacingRate        int64   `json:"pacing_bytes_per_s"`   // 0: no pacing
	DeliveryRate      int64   `json:"delivery_bytes_per_s"` // 0: not measured
	SegsOut           uint32  `json:"segs_out"`
	SegsIn            uint32  `json:"segs_in"`
	DataSegsOut       uint32  `json:"data_segs_out"`
	DataSegsIn        uint32  `json:"data_segs_in"`
	BytesSent         uint64  `json:"bytes_sent"`
	BytesRetrans      uint64  `json:"bytes_retrans"`
	BytesAcked        uint64  `json:"bytes_acked"`
	BytesReceived     uint64  `json:"bytes_received"`
	LastDataSentS     float64 `json:"last_data_sent_s"`
	LastDataRecvS     float64 `json:"last_data_recv_s"`
	LastAckRecvS      float64 `json:"last_ack_recv_s"`
	OutOfOrder        int     `json:"out_of_order"`
	Reordering        bool    `json:"reordering"`
	ECN               bool    `json:"ecn"`
	Passive           bool    `json:"passive"`
	KeepAliveIdleS    float64 `json:"keepalive_idle_s"` // 0: no keep-alive
	KeepAliveInterval float64 `json:"keepalive_interval_s"`
	KeepAliveCount    int     `json:"keepalive_count"`
}

// Listeners is the answer of api/listeners.
type Listeners struct {
	Time      time.Time  `json:"time"`
	Listeners []Listener `json:"listeners"`
}

// A Listener is a TCP listener.
type Listener struct {
	Local    string `json:"local"`
	Family   string `json:"family"` // "any", "ipv4" or "ipv6"
	Queue    int    `json:"queue"`
	Backlog  int    `json:"backlog"`
	HalfOpen int    `json:"half_open"`
}

// Sockets is the answer of api/sockets, which has the parameters limit (1 to 1000, default 1000) and offset.
type Sockets struct {
	Time    time.Time `json:"time"`
	Total   int       `json:"total"`
	Sockets []Socket  `json:"sockets"`
}

// A Socket is a UDP or a raw socket.
type Socket struct {
	Protocol  string `json:"protocol"` // "udp", or the protocol of a raw socket: "icmp", "icmpv6" or a number
	Raw       bool   `json:"raw"`
	Family    string `json:"family"`
	Local     string `json:"local"`
	Remote    string `json:"remote,omitempty"`
	RecvQ     int    `json:"recv_q"`
	RecvLimit int    `json:"recv_limit"`
	Datagrams int    `json:"datagrams"`
	Received  uint64 `json:"received"`
	Sent      uint64 `json:"sent"`
	Dropped   uint64 `json:"dropped"`
}

// Neighbors is the answer of api/neighbors.
type Neighbors struct {
	Time      time.Time  `json:"time"`
	Neighbors []Neighbor `json:"neighbors"`
}

// A Neighbor is an entry of a neighbour table.
type Neighbor struct {
	NIC    string  `json:"nic"`
	Addr   string  `json:"addr"`
	MAC    string  `json:"mac,omitempty"`
	State  string  `json:"state"`
	AgeS   float64 `json:"age_s"`
	Router bool    `json:"router"`
}

// Routes is the answer of api/routes.
type Routes struct {
	Time   time.Time `json:"time"`
	Routes []Route   `json:"routes"`
}

// A Route is a route.
type Route struct {
	Dst string `json:"dst"`
	Via string `json:"via,omitempty"`
	NIC string `json:"nic"`
	Src string `json:"src,omitempty"`
}

// Addresses is the answer of api/addresses.
type Addresses struct {
	Time      time.Time `json:"time"`
	Addresses []Address `json:"addresses"`
}

// An Address is an address of the host.
type Address struct {
	NIC            string     `json:"nic"`
	Prefix         string     `json:"prefix"`
	State          string     `json:"state"`
	Origin         string     `json:"origin"`
	Temporary      bool       `json:"temporary"`
	ValidUntil     *time.Time `json:"valid_until,omitempty"`     // missing: for ever
	PreferredUntil *time.Time `json:"preferred_until,omitempty"` // missing: for ever
	ConflictMAC    string     `json:"conflict_mac,omitempty"`
}

// Groups is the answer of api/groups.
type Groups struct {
	Time   time.Time `json:"time"`
	Groups []Group   `json:"groups"`
}

// A Group is a multicast group that an interface receives.
type Group struct {
	NIC  string `json:"nic"`
	Addr string `json:"addr"`
}

// Leases is the answer of api/leases: the clients of DHCP.
type Leases struct {
	Time   time.Time `json:"time"`
	Leases []Lease   `json:"leases"`
}

// A Lease is a client of DHCPv4 or DHCPv6, with its lease if it has one.
type Lease struct {
	NIC      string     `json:"nic"`
	Protocol string     `json:"protocol"` // "dhcpv4" or "dhcpv6"
	State    string     `json:"state"`
	Tries    int        `json:"tries"`
	Refusal  string     `json:"refusal,omitempty"`
	Addrs    []string   `json:"addrs"`
	Prefixes []string   `json:"prefixes,omitempty"` // delegated prefixes
	Server   string     `json:"server,omitempty"`
	DNS      []string   `json:"dns,omitempty"`
	Search   []string   `json:"search,omitempty"`
	Obtained *time.Time `json:"obtained,omitempty"`
	Renew    *time.Time `json:"renew,omitempty"`
	Rebind   *time.Time `json:"rebind,omitempty"`
	Expires  *time.Time `json:"expires,omitempty"` // missing: never
}

// Names is the answer of api/names: where the host gets names from.
type Names struct {
	Time time.Time `json:"time"`
	// Servers and Search are what the network has advertised, by interface.
	Servers []NameServer `json:"servers"`
	MDNS    []MDNSName   `json:"mdns"`
}

// A NameServer is a name server that a network has advertised.
type NameServer struct {
	NIC    string `json:"nic"`
	Addr   string `json:"addr"`
	Origin string `json:"origin"` // "dhcpv4", "dhcpv6" or "router"
}

// An MDNSName is the name of the host on a link with Multicast DNS.
type MDNSName struct {
	NIC         string `json:"nic"`
	Name        string `json:"name"`
	Established bool   `json:"established"`
}

// Drops is the answer of api/drops.
type Drops struct {
	Time    time.Time `json:"time"`
	Reasons []Drop    `json:"reasons"`
	// Lost is the number of dropped frames that Last lacks because they came faster than they could be described.
	Lost uint64 `json:"lost"`
}

// A Drop is a reason for which packets were dropped.
type Drop struct {
	Reason string `json:"reason"`
	Rule   string `json:"rule"` // the sentence of the RFC; may be empty
	Count  uint64 `json:"count"`
	// Last are the last dropped frames, the newest last. They are kept while a stream of the topic drops is open.
	Last []DroppedFrame `json:"last"`
}

// A DroppedFrame is a frame that was dropped.
type DroppedFrame struct {
	Time    time.Time `json:"time"`
	NIC     string    `json:"nic"`
	Dir     string    `json:"dir"`     // "in" or "out"
	Len     int       `json:"len"`     // bytes of the whole frame
	Summary string    `json:"summary"` // one line
	Decoded string    `json:"decoded"` // a line for each field
	Hex     string    `json:"hex"`     // the first bytes in hexadecimal
}

// A Dropped is an event of the topic dropped: a packet that was dropped. A stream has at most some thousand of them in
// a second.
type Dropped struct {
	Reason string `json:"reason"`
	Rule   string `json:"rule"`
	Lost   uint64 `json:"lost,omitempty"` // drops before this one that the stream lacks
	DroppedFrame
}

// A ChangeEvent is an event of the topic events: a change of the host's configuration.
type ChangeEvent struct {
	Time time.Time `json:"time"`
	Kind string    `json:"kind"` // as usernet.EventKind prints it: "address added"
	NIC  string    `json:"nic,omitempty"`
	Text string    `json:"text"` // a line
}

// A SegmentItem is an event of api/segments and of the topic segments: a segment, or a super-segment, of one connection.
// A stream has at most some thousand of them in a second. Sequence numbers are relative to the first
// that was seen of their direction, modulo 2^32.
type SegmentItem struct {
	Time           time.Time   `json:"time"`
	Dir            string      `json:"dir"` // "in" or "out"
	Seq            uint32      `json:"seq"`
	Len            int         `json:"len"` // bytes of the payload
	Ack            uint32      `json:"ack"` // 0 without the flag ACK
	Win            int         `json:"win"` // bytes, scaled if the SYN was seen or the scale can be derived
	Flags          string      `json:"flags"`
	SACK           [][2]uint32 `json:"sack,omitempty"`
	Retransmission bool        `json:"retransmission"` // bytes that were sent before
	Lost           uint64      `json:"lost,omitempty"` // items lost before this one
}

// All is the answer of api/all.
type All struct {
	Overview  *Overview  `json:"overview"`
	Conns     *Conns     `json:"conns"`
	Listeners *Listeners `json:"listeners"`
	Sockets   *Sockets   `json:"sockets"`
	Neighbors *Neighbors `json:"neighbors"`
	Routes    *Routes    `json:"routes"`
	Addresses *Addresses `json:"addresses"`
	Groups    *Groups    `json:"groups"`
	Leases    *Leases    `json:"leases"`
	Names     *Names     `json:"names"`
	Drops     *Drops     `json:"drops"`
}

// An Error is the body of an answer with an error status.
type Error struct {
	Error string `json:"error"` // a sentence that says what to do
}
