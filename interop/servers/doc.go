// Package servers only has tests. They run clients over usernet against real servers in the kernel,
// each in a network namespace behind a TAP device. They need root, PostgreSQL and Redis.
package servers
