//go:build race

package nic

// raceEnabled: the race detector makes pools forget, and so calls allocate.
const raceEnabled = true
