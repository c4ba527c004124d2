//go:build !race

package stack

// flood is how many segments an attacker sends.
const flood = 1_000_000
