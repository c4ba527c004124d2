// Package scenario tests what programs do with connections and packets. Each test runs on the
// kernel and on usernet.
package scenario
