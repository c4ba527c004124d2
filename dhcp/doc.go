// Package dhcp implements the Dynamic Host Configuration Protocol for IPv4 (RFC 2131) without a
// network: the format of its messages, and the client as a state machine.
//
// The state machine has no clock, goroutine, socket or randomness of its own. Its inputs are
// messages, calls and the current time. Its outputs are messages to send, events, and the time of
// the next call. Equal inputs give equal outputs, so a test of a week's lease takes microseconds. A
// usernet host drives the state machine: see Host.StartDHCP in package usernet.
package dhcp
