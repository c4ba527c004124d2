package main

import "slices"

// The kinds of the workloads of programs.
const (
	files kind = "files" // net/http fetches a file of Size bytes again and again, from http.ServeContent
	h2    kind = "h2"    // net/http sends requests over one connection of HTTP/2 with TLS
	unary kind = "grpc"  // unary calls of gRPC over one connection
	names kind = "dns"   // names are looked up at a name server
)

// A wrap is a protocol between a workload and the stack.
type wrap string

const (
	overTLS  wrap = "tls"
	overQUIC wrap = "quic"
)

// A proxy is a program between the client and the server of a workload. It runs where the measured stack is. If
// Client is false, it listens on the measured stack and dials the server through the kernel's loopback. If Client
// is true, it listens on the kernel's loopback and dials the server through the measured stack.
type proxy string

const (
	tcpProxy  proxy = "tcp"  // io.Copy in both directions
	httpProxy proxy = "http" // httputil.ReverseProxy
)

// The sizes of the files, in bytes.
const (
	smallFile = 1 << 20
	largeFile = 1e9
)

// programs are workloads of programs that people run. lneto does not run them.
var programs = []workload{
	{ID: "T15", Name: "http.ServeContent, 1 MiB, 16 connections", Place: onTAP, Kind: files, N: 16, Size: smallFile, Pin: free, OverKernel: 1, OverGVisor: 2, KernelCPU: 1.1},
	{ID: "T15big", Name: "http.ServeContent, 1 GB", Place: onTAP, Kind: files, N: 1, Size: largeFile, Pin: free, OverKernel: 1, OverGVisor: 2, KernelCPU: 1.1},
	{ID: "T16in", Name: "ReverseProxy to the kernel, 1 MiB, 16", Place: onTAP, Kind: files, N: 16, Size: smallFile, Pin: free, Proxy: httpProxy, OverKernel: 1, OverGVisor: 2, KernelCPU: 1.1},
	{ID: "T16out", Name: "ReverseProxy from the kernel, 1 MiB, 16", Place: onTAP, Kind: files, N: 16, Size: smallFile, Pin: free, Proxy: httpProxy, Client: true, OverKernel: 1, OverGVisor: 2, KernelCPU: 1.1},
	{ID: "T16req", Name: "ReverseProxy to the kernel, 13 B, 64", Place: onTAP, Kind: goHTTP, N: 64, Pin: free, Proxy: httpProxy, OverKernel: 1, OverGVisor: 2, KernelCPU: 1.1},
	{ID: "T17in", Name: "TCP proxy to the kernel, io.Copy", Place: onTAP, Kind: send, N: 1, Pin: free, Proxy: tcpProxy, OverKernel: 1, OverGVisor: 2, KernelCPU: 1.1},
	{ID: "T17out", Name: "TCP proxy from the kernel, io.Copy", Place: onTAP, Kind: send, N: 1, Pin: free, Proxy: tcpProxy, Client: true, OverKernel: 1, OverGVisor: 2, KernelCPU: 1.1},
	// Rows without a target over the kernel.
	{ID: "T18in", Name: "UDP bulk in, 1400 B", Place: onTAP, Kind: udpBulk, N: 1, Size: 1400, Pin: free, OverGVisor: 2},
	{ID: "T18out", Name: "UDP bulk out, 1400 B", Place: onTAP, Kind: udpBulk, N: 1, Size: 1400, Pin: free, Client: true, OverGVisor: 2},
	{ID: "T18uin", Name: "UDP bulk in, 1400 B, USO", Place: onTAP, Kind: udpBulk, N: 1, Size: 1400, Pin: free, Batch: true, OverGVisor: 2},
	{ID: "T18uout", Name: "UDP bulk out, 1400 B, USO", Place: onTAP, Kind: udpBulk, N: 1, Size: 1400, Pin: free, Batch: true, Client: true, OverGVisor: 2},
	{ID: "T19in", Name: "TLS bulk in, 1 stream", Place: onTAP, Kind: send, N: 1, Pin: free, Over: overTLS, OverGVisor: 2},
	{ID: "T19out", Name: "TLS bulk out, 1 stream", Place: onTAP, Kind: recv, N: 1, Pin: free, Over: overTLS, OverGVisor: 2},
	{ID: "T19hs", Name: "TLS handshakes, 16 at once", Place: onTAP, Kind: short, N: 16, Pin: free, Over: overTLS, OverGVisor: 2},
	{ID: "T20", Name: "HTTP/2 requests, 1 connection, 64 streams", Place: onTAP, Kind: h2, N: 64, Pin: free, OverGVisor: 2},
	{ID: "T21", Name: "gRPC unary, 1 connection, 64 at once", Place: onTAP, Kind: unary, N: 64, Pin: free, OverGVisor: 2},
	{ID: "T22in", Name: "quic-go bulk in, 1 stream", Place: onTAP, Kind: send, N: 1, Pin: free, Over: overQUIC, OverGVisor: 2},
	{ID: "T22out", Name: "quic-go bulk out, 1 stream", Place: onTAP, Kind: send, N: 1, Pin: free, Over: overQUIC, Client: true, OverGVisor: 2},
	{ID: "T23", Name: "DNS lookups, no cache, 16 at once", Place: onTAP, Kind: names, N: 16, Pin: free, Client: true, OverGVisor: 2},
	{ID: "T23hit", Name: "DNS lookups, cache (net has none), 16", Place: onTAP, Kind: names, N: 16, Pin: free, Client: true, Cached: true, OverGVisor: 2},
	{ID: "T24", Name: "1-byte ping-pong, 10,000 connections", Place: onTAP, Kind: pingpong, N: 10_000, Pin: free, OverGVisor: 2},
}

// every returns all workloads, in the order of the tables.
func every() (list []*workload) {
	for i := range workloads {
		list = append(list, &workloads[i])
	}
	// The workloads in memory come last.
	at := slices.IndexFunc(list, func(w *workload) bool { return w.Place == onPipe })
	var more []*workload
	for i := range programs {
		more = append(more, &programs[i])
	}
	return slices.Insert(list, at, more...)
}

// forLneto reports whether lneto runs a workload.
func (w *workload) forLneto() bool {
	switch w.Kind {
	case files, h2, unary, names, udpBulk:
		return false
	}
	return w.Proxy == "" && w.Over == "" && w.N <= lnetoPool
}
