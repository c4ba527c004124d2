package main

import (
	"sync/atomic"
	"time"
)

// A kind is what the client and the server of a workload do. It is named from the client's point of
// view.
type kind string

const (
	send     kind = "send"     // the client writes for the whole time, and the server counts
	flow     kind = "flow"     // the client writes for the whole time, and the server counts continuously; both in one process
	recv     kind = "recv"     // the server writes for the whole time, and the client counts
	pingpong kind = "pingpong" // the client sends a byte and the server returns it
	short    kind = "short"    // connect, send a byte each way, and close; the server closes first
	udpEcho  kind = "udp"      // datagrams are echoed, a fixed number of them in flight
	udpBulk  kind = "udpbulk"  // the client sends datagrams for the whole time, and what arrives counts
	wrkHTTP  kind = "wrk"      // wrk sends requests to net/http
	goHTTP   kind = "http"     // net/http sends requests to net/http
	frames   kind = "frames"   // a frame is written to a TAP and read from another, without usernet
	packets  kind = "packets"  // frames are written to a TAP or a TUN of the kernel, without usernet
)

// bulk reports whether a workload is measured in bits instead of operations.
func (k kind) bulk() bool { return k == send || k == recv || k == flow || k == udpBulk || k == files }

// chunked reports whether the length of the Reads and Writes of a workload is a setting.
func (k kind) chunked() bool { return k.bulk() && k != udpBulk }

// A place is where the peer of the measured stack runs. The peer is called the other side.
type place string

const (
	onTAP   place = "tap"       // the other side is the kernel
	onPipe  place = "pipe"      // both sides are in one process
	onPorts place = "ports"     // one process has the kernel's devices and writes frames to them, without a stack
	onWG    place = "wireguard" // the other side is the kernel behind wireguard-go, at the other end of a tunnel
)

// A pin is how processes are placed on cores.
type pin string

const (
	free  pin = "free"  // the scheduler decides
	same  pin = "same"  // both sides on one core: the total cost
	cross pin = "cross" // each side on a core of its own
)

// A workload is a row of BENCHMARKS.md.
type workload struct {
	ID    string
	Name  string
	Place place
	Kind  kind
	// N is the number of connections, or of datagrams in flight.
	N int
	// Size is the length of a datagram in bytes.
	Size int
	Pin  pin
	// Plain asks for a device without offloads, one frame at a time.
	Plain bool
	// Client makes the measured stack the client and the kernel the server. Otherwise the measured
	// stack is the server.
	Client bool
	// Proxy is the program between the client and the server, if any, and Over the protocol over the stack.
	Proxy proxy
	Over  wrap
	// Batch makes the sender of udpBulk pass many datagrams in one call, as super-frames of UDP (USO). Cached
	// lets a resolver remember answers.
	Batch, Cached bool
	// Close makes each HTTP request use a new connection.
	Close bool
	// Latency is the latency of a pipe in each direction. Loss is the proportion of the client's
	// frames that the pipe loses, 0 to 1. A Loss needs a Latency. For the kernel the pipe is a kernelLink.
	Latency time.Duration
	Loss    float64
	// OverKernel and OverGVisor are the targets for usernet's rate divided by that of the kernel and
	// of gVisor. KernelCPU is the target for usernet's CPU time divided by that of the kernel, which
	// should not be exceeded. Zero means no target.
	OverKernel, OverGVisor, KernelCPU float64
}

func (w *workload) unit() string {
	if w.Kind.bulk() {
		return "Gbit/s"
	}
	return "/s"
}

// workloads are all workloads except those of programs, in the order of the tables. The targets are at least 2.0 times gVisor over TAP and 2.2
// times in memory; those against the kernel are different for each workload.
var workloads = []workload{
	{ID: "T1", Name: "bulk in, 1 stream", Place: onTAP, Kind: send, N: 1, Pin: free, OverKernel: 1.2, OverGVisor: 2, KernelCPU: 0.9},
	{ID: "T2", Name: "bulk out, 1 stream", Place: onTAP, Kind: recv, N: 1, Pin: free, OverKernel: 1.4, OverGVisor: 2, KernelCPU: 0.8},
	{ID: "T3", Name: "bulk in, 4 streams", Place: onTAP, Kind: send, N: 4, Pin: free, OverKernel: 0.9, OverGVisor: 2, KernelCPU: 1.05},
	{ID: "T4", Name: "bulk out, 4 streams", Place: onTAP, Kind: recv, N: 4, Pin: free, OverKernel: 1, OverGVisor: 2, KernelCPU: 0.95},
	{ID: "T5", Name: "1-byte ping-pong, 1 connection", Place: onTAP, Kind: pingpong, N: 1, Pin: same, OverKernel: 1.35, OverGVisor: 2, KernelCPU: 0.9},
	{ID: "T6", Name: "1-byte ping-pong, 16 connections", Place: onTAP, Kind: pingpong, N: 16, Pin: free, OverKernel: 1, OverGVisor: 2, KernelCPU: 0.95},
	{ID: "T7", Name: "connect, exchange, close; 16 at once", Place: onTAP, Kind: short, N: 16, Pin: free, OverKernel: 1.25, OverGVisor: 2, KernelCPU: 0.85},
	{ID: "T8", Name: "UDP echo 64 B, 32 in flight", Place: onTAP, Kind: udpEcho, N: 32, Size: 64, Pin: free, OverKernel: 1.3, OverGVisor: 2, KernelCPU: 0.9},
	{ID: "T9", Name: "UDP echo 1400 B, 32 in flight", Place: onTAP, Kind: udpEcho, N: 32, Size: 1400, Pin: free, OverKernel: 1.6, OverGVisor: 2, KernelCPU: 0.9},
	{ID: "T10", Name: "net/http keep-alive, wrk, 64 connections", Place: onTAP, Kind: wrkHTTP, N: 64, Pin: free, OverKernel: 1.2, OverGVisor: 2, KernelCPU: 0.85},
	{ID: "T11", Name: "net/http, a connection each, wrk, 64", Place: onTAP, Kind: wrkHTTP, N: 64, Pin: free, Close: true, OverKernel: 1.3, OverGVisor: 2, KernelCPU: 0.85},
	{ID: "T12", Name: "net/http keep-alive, wrk, 1 connection", Place: onTAP, Kind: wrkHTTP, N: 1, Pin: same, OverKernel: 1.15, OverGVisor: 2, KernelCPU: 0.9},
	{ID: "T13in", Name: "plain frames, bulk in", Place: onTAP, Kind: send, N: 1, Pin: free, Plain: true, OverKernel: 1, OverGVisor: 2},
	{ID: "T13out", Name: "plain frames, bulk out", Place: onTAP, Kind: recv, N: 1, Pin: free, Plain: true, OverKernel: 0.7, OverGVisor: 2},
	{ID: "T14in", Name: "client: bulk in, 1 stream", Place: onTAP, Kind: recv, N: 1, Pin: free, Client: true, OverKernel: 1.2, OverGVisor: 2, KernelCPU: 0.9},
	{ID: "T14out", Name: "client: bulk out, 1 stream", Place: onTAP, Kind: send, N: 1, Pin: free, Client: true, OverKernel: 1.4, OverGVisor: 2, KernelCPU: 0.8},
	{ID: "T14pp", Name: "client: 1-byte ping-pong, 1 connection", Place: onTAP, Kind: pingpong, N: 1, Pin: same, Client: true, OverKernel: 1.4, OverGVisor: 2, KernelCPU: 0.9},
	{ID: "T14pp16", Name: "client: 1-byte ping-pong, 16 connections", Place: onTAP, Kind: pingpong, N: 16, Pin: free, Client: true, OverKernel: 1, OverGVisor: 2, KernelCPU: 0.95},
	{ID: "T14conn", Name: "client: connect, exchange, close; 16 at once", Place: onTAP, Kind: short, N: 16, Pin: free, Client: true, OverKernel: 1.3, OverGVisor: 2, KernelCPU: 0.85},

	{ID: "P1", Name: "bulk, 1 stream", Place: onPipe, Kind: send, N: 1, Pin: free, OverKernel: 3, OverGVisor: 2.2},
	{ID: "P2", Name: "bulk, 4 streams", Place: onPipe, Kind: send, N: 4, Pin: free, OverKernel: 4, OverGVisor: 2.2},
	{ID: "P3", Name: "1-byte ping-pong, 1 connection", Place: onPipe, Kind: pingpong, N: 1, Pin: free, OverKernel: 7, OverGVisor: 2.2},
	{ID: "P4", Name: "1-byte ping-pong, 16 connections", Place: onPipe, Kind: pingpong, N: 16, Pin: free, OverKernel: 8, OverGVisor: 2.2},
	{ID: "P5", Name: "connect, exchange, close; 16 at once", Place: onPipe, Kind: short, N: 16, Pin: free, OverKernel: 6, OverGVisor: 2.2},
	{ID: "P6", Name: "net/http both sides, keep-alive, 64", Place: onPipe, Kind: goHTTP, N: 64, Pin: free, OverKernel: 1.9, OverGVisor: 2.2},
	{ID: "P7", Name: "net/http both sides, a connection each, 64", Place: onPipe, Kind: goHTTP, N: 64, Pin: free, Close: true, OverKernel: 2, OverGVisor: 2.2},
	{ID: "P8", Name: "UDP echo 64 B, 32 in flight", Place: onPipe, Kind: udpEcho, N: 32, Size: 64, Pin: free, OverKernel: 10, OverGVisor: 2.2},
	{ID: "P8big", Name: "UDP echo 1400 B, 32 in flight", Place: onPipe, Kind: udpEcho, N: 32, Size: 1400, Pin: free, OverKernel: 10, OverGVisor: 2.2},
}

// inMemory are the workloads on a pipe that -links runs without and with VLAN tags.
var inMemory = []string{"P1", "P3", "P8"}

// bridgeAlone and deviceAlone are the workloads of -links that show what a part of the way costs the kernel: a VLAN tag on a
// bridge, and a full frame from a TUN instead of from a TAP. Their stacks have the names of usernet's, but their processes
// only write and read frames.
var bridgeAlone = workload{ID: "K1", Name: "64-byte frames from TAP to TAP, without usernet", Place: onPorts, Kind: frames, N: 1, Size: 64, Pin: same}
var deviceAlone = workload{ID: "K2", Name: "1514-byte frames into the kernel, without usernet", Place: onPorts, Kind: packets, N: 1, Size: 1514, Pin: same}

// tunnels are the workloads of -links inside a WireGuard tunnel. On the stack gVisor the inside is the netstack
// of wireguard-go, on the kernel a TUN device.
var tunnels = []workload{
	{ID: "W1", Name: "WireGuard: bulk in, 1 stream", Place: onWG, Kind: send, N: 1, Pin: free, OverGVisor: 1},
	{ID: "W2", Name: "WireGuard: bulk out, 1 stream", Place: onWG, Kind: recv, N: 1, Pin: free, OverGVisor: 1},
	{ID: "W3", Name: "WireGuard: 1-byte ping-pong, 1 connection", Place: onWG, Kind: pingpong, N: 1, Pin: same, OverGVisor: 1},
	{ID: "W4", Name: "WireGuard: 1-byte ping-pong, 16 connections", Place: onWG, Kind: pingpong, N: 16, Pin: free, OverGVisor: 1},
	{ID: "W5", Name: "WireGuard: UDP echo 64 B, 32 in flight", Place: onWG, Kind: udpEcho, N: 32, Size: 64, Pin: free, OverGVisor: 1},
}

// A stackName names a TCP/IP stack.
type stackName string

const (
	kernel stackName = "kernel"
	// kernelBig is the kernel over a veth pair with BIG TCP: super-frames of up to 512 KiB.
	kernelBig stackName = "kernel-big"
	usern     stackName = "usernet"
	usern6    stackName = "usernet6" // usernet over IPv6
	gvisor    stackName = "gVisor"
	lnetoS    stackName = "lneto"
	netPipe   stackName = "net.Pipe" // no TCP/IP stack, as a reference for P3
	before    stackName = "before"   // usernet at the commit of -compare

	// usernet on other links than a TAP to the kernel. On a bridge, both sides are usernet hosts, each on a TAP
	// that is a port of a bridge of the kernel: the kernel of the machine may have no VLANs of its own.
	usernTUN    stackName = "usernet-tun"
	usernBridge stackName = "usernet-bridge"
	usernVLAN   stackName = "usernet-vlan" // on a bridge or a pipe, with tags
)

// isKernel reports whether a stack is the kernel's.
func (s stackName) isKernel() bool { return s == kernel || s == kernelBig }

// bridged reports whether both sides of a workload are usernet hosts on a bridge.
func (s stackName) bridged() bool { return s == usernBridge || s == usernVLAN }

// A setup has the settings of a stack. The harness chooses them to the stack's advantage.
type setup struct {
	// Procs is GOMAXPROCS of the stack's process. Zero means Go's default for the cores that the
	// process may use.
	Procs int
	// CC is the congestion control of every kernel that takes part.
	CC string
	// Plain turns off the offloads of the device.
	Plain bool
	// MTU is the MTU of gVisor's pipe.
	MTU int
	// Chunk is the length in bytes of each Read and Write in a bulk workload.
	Chunk int
	// GSO is the limit of usernet's super-frames in bytes; 0 is the default of the device.
	GSO int
}

// The addresses of the two sides, from the network of RFC 2544 for benchmarks and the prefix of
// RFC 3849 for documentation. In the kernel's own runs the far side is a second namespace.
const (
	near6, far6 = "2001:db8:5::1", "2001:db8:5::2"
	prefixed6   = "/64"

	nearAddr = "198.18.0.1" // the kernel on the other side
	farAddr  = "198.18.0.2" // the measured stack
	prefixed = "/24"
	tapName  = "tap0"
	loopback = "127.0.0.1" // of the kernel; a run over IPv6 uses it too

	bridgeName = "br0"
	vlanID     = 100
)

// The servers' ports. Each run has its own port. With a port of an earlier run, the new connections of
// one stack could meet connections in TIME-WAIT that another stack left at the same address, and have
// older timestamps.
const firstPort, lastPort = 2000, 9999

// The lengths in bytes of a bulk workload's Reads and Writes. The kernel is fastest with small
// ones, which stay in the cache, and the other stacks with large ones.
const (
	smallChunk = 32 << 10
	largeChunk = 128 << 10
)

// A task is the work of one process. The harness passes it as JSON.
type task struct {
	Role    string // "server", "proxy", "client", "both", "frames", "idle" or "growth"
	Stack   stackName
	Kind    kind
	N       int
	Size    int
	Close   bool
	Place   place
	Latency time.Duration
	Loss    float64
	Setup   setup
	Proxy   proxy
	Over    wrap
	Batch   bool
	Cached  bool
	// Paced gives the links of a simulation a rate and a seed.
	Paced bool `json:",omitempty"`
	// V6 selects IPv6.
	V6 bool
	// Client is set on a proxy that dials through the measured stack.
	Client bool `json:",omitempty"`
	// Near is set on the side whose address is nearAddr.
	Near bool `json:",omitempty"`
	// Spaces are the namespaces of the two sides of a kernelLink.
	Spaces [2]string
	// Addr is the address that a client dials, and Port the port. For a proxy, Addr is the server's address
	// with its port, and Port is the proxy's own.
	Addr string
	Port int
	// Time is how long a client measures, after a warm-up.
	Time time.Duration
	// Profile, if not empty, is the file for a CPU profile.
	Profile string
	// Steps are numbers of idle connections, and Limit is the time to make them.
	Steps []int         `json:",omitempty"`
	Limit time.Duration `json:",omitempty"`
	// arrived counts the bytes of a flow.
	arrived *atomic.Int64
}

// network returns protocol, "tcp" or "udp", with the family of the task.
func (t *task) network(protocol string) string {
	if t.V6 {
		return protocol + "6"
	}
	return protocol + "4"
}

// addrs returns the addresses of the two sides in a family, and their prefix length.
func addrs(v6 bool) (near, far, prefix string) {
	if v6 {
		return near6, far6, prefixed6
	}
	return nearAddr, farAddr, prefixed
}

// A report is the result that a process prints when it ends.
type report struct {
	// Count is the number of bytes or operations in Time.
	Count float64
	Time  time.Duration
	// Total is the number of bytes or operations in the whole run. CPU is the CPU time for Total.
	Total float64
	// CPU is the CPU time that the process used for the workload.
	CPU time.Duration
	// Errors is the number of failed operations, and Lost the number of lost datagrams.
	Errors int
	Lost   int
	// Note is the first error.
	Note string
}
