package usernet

import "github.com/usernet/usernet/stack"

// These types of package stack occur in Config and in the methods of Host. With the aliases, programs
// need not import package stack.
type (
	// NIC is a link with the host's configuration on it: its VLAN, addresses and gateways of both families,
	// Auto, and the number of probes of Duplicate Address Detection.
	NIC = stack.NIC
	// Route is a route of a host.
	Route = stack.Route
	// Neighbor is an entry of the ARP cache or of IPv6's neighbor cache.
	Neighbor = stack.Neighbor
	// AddrOptions are the options of an address: its lifetimes, its origin, and whether the host probes
	// for the address first.
	AddrOptions = stack.AddrOptions
)
