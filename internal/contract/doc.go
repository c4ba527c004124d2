// Package contract has tests that run the same calls on the kernel and on usernet, and compare all
// that a program can see: results, errors with their types, addresses.
package contract
