//go:build race

package nic

// raceEnabled reports whether the race detector is on. With it, sync.Pool drops items, and so calls
// allocate.
const raceEnabled = true
