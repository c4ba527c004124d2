//go:build lockorder && !race

package stack

// goroutine returns a number that is unique among running goroutines. Parsing runtime.Stack would take
// a hundred times as long.
func goroutine() uintptr
