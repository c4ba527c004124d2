// Package dhcp implements the Dynamic Host Configuration Protocol for IPv4 (RFC 2131) without a
// network: the format of its messages, and the client as a state machine.
//
// The machine has no clock, goroutine, socket or randomness of its own. Its inputs are messages,
// calls and the present time; its outputs are messages to send, events and the time at which it
// wants to be called again. Equal inputs give equal outputs, so that a lease of a week is a test of
// microseconds. A usernet host drives the machine: see Host.StartDHCP in package usernet.
package dhcp
