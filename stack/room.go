package stack

// stackRoom is how many bytes of a goroutine's stack sending may take: on a wire
// in memory it runs the receiver, and what that sends.
const stackRoom = 4 << 10

// roomy makes sure that there is so much room. A goroutine begins with 2 KiB,
// which double when they are used up, each time by unwinding and copying all that
// is there; that of a short connection did so twice from deep within its first
// Write, and spent a quarter of its time on that. So the calls of an application
// that send begin with this one, while the stack is shallow.
//
//go:noinline
func roomy(use bool) {
	if use { // never: the room is made by entering the function
		var room [stackRoom]byte
		touch(&room)
	}
}

//go:noinline
func touch(room *[stackRoom]byte) { room[0] = 1 }
