//go:build lockorder && !race

package stack

func hideFromRace(bool) {}
