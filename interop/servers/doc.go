// Package servers has no code of its own: its tests run clients over usernet against
// real servers in the kernel, each in a network namespace behind a TAP device.
// They need root, and PostgreSQL and Redis installed.
package servers
