// Package wire parses and writes packet headers: Ethernet, ARP, IPv4, ICMP, IGMP, IPv6 with its
// extension headers, ICMPv6, neighbour discovery, MLD, UDP and TCP. It has no state, and its functions
// for the headers of every packet do not allocate. A parser checks each length once and returns the
// payload as a sub-slice of its input. If a packet is malformed, the parser returns a [Reason], so that
// the packet can be counted.
package wire
