// Package dhcp implements the Dynamic Host Configuration Protocol for IPv4 (RFC 2131) and IPv6 (RFC 8415) without a
// network: the format of its messages, and the client and the server as state machines.
//
// The state machines have no clock, goroutine, socket or randomness of their own. Their inputs are
// messages, calls and the current time. Their outputs are messages to send, events, and the time of
// the next call. Equal inputs give equal outputs, so a test of a week's lease takes microseconds. A
// usernet host drives the state machines: see Host.StartDHCP and Host.ServeDHCP in package usernet.
package dhcp
