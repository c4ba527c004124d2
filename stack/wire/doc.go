// Package wire turns bytes into fields and back: Ethernet, ARP, IPv4, ICMP, IGMP, IPv6 with its
// extension headers, ICMPv6, neighbour discovery, MLD, UDP and TCP. It has no state, and nothing
// that is used for each packet allocates. A parser checks every length once and returns the
// payload as a sub-slice of its input; what is wrong with a packet is told by a [Reason], so that
// it can be counted.
package wire
