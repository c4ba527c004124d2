// Package std has no code of its own: its tests run the protocols of the standard
// library, unchanged, between hosts of usernet.
package std
