//go:build lockorder && !race

package stack

// goroutine returns what no other goroutine that runs has. To parse runtime.Stack would take a hundred
// times as long.
func goroutine() uintptr
