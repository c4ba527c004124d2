// Package contract runs the same calls on the kernel and on usernet, and compares everything that a
// program can see: results, errors with their types, addresses.
package contract
