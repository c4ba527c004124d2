//go:build race

package stack

// flood is how many segments an attacker sends. One goroutine does, so that the race
// detector has as much to see in a tenth.
const flood = 100_000
