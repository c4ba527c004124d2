package stack

// stackGrowth is how many bytes of a goroutine's stack sending may take: on a wire in memory it
// runs the receiver, and what the receiver sends.
const stackGrowth = 4 << 10

// growStack makes sure that the calling goroutine's stack has stackGrowth bytes to spare. It is called
// first by each call of an application that sends, while the stack is shallow.
//
// A goroutine begins with 2 KiB, which double when they are used up, each time by unwinding and
// copying all that is there. The goroutine of a short connection did so twice from deep within
// its first Write. Short connections take 8 % less CPU time by it on a TAP (T7) and 16 % less in memory
// (P5).
//
//go:noinline
func growStack(use bool) {
	if use { // never: the room is made by entering the function
		var room [stackGrowth]byte
		touch(&room)
	}
}

//go:noinline
func touch(room *[stackGrowth]byte) { room[0] = 1 }
