// Package std only has tests. They run the protocols of the standard library, unmodified, between
// usernet hosts.
package std
