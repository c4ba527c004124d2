// Package scenario has tests of what programs do with connections and packets, each of which runs on
// the kernel and on usernet.
package scenario
