//go:build lockorder && race

package stack

import "runtime"

// hideFromRace has the race detector look away from what the goroutine does with locks.
func hideFromRace(on bool) {
	if on {
		runtime.RaceDisable()
	} else {
		runtime.RaceEnable()
	}
}
