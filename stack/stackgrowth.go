package stack

// stackGrowth is how many bytes of a goroutine's stack a call that sends may need. On an in-memory link, the
// sending goroutine also runs the code of the receiver, and sends the receiver's answers.
const stackGrowth = 4 << 10

// growStack makes sure that the calling goroutine's stack has stackGrowth bytes free. Methods that an
// application calls to send call growStack first, while the stack is shallow. use must be false.
//
// A goroutine begins with a stack of 2 KiB. The runtime doubles a full stack by copying it frame by
// frame. Without growStack, the goroutine of a short connection grows its stack twice, deep within its
// first Write. With growStack, short connections take 5 % less CPU time on a TAP (benchmark T7) and 13 % less
// on an in-memory link (benchmark P5).
//
//go:noinline
func growStack(use bool) {
	if use { // never true, but on entry the runtime makes stack space for room all the same
		var room [stackGrowth]byte
		touch(&room)
	}
}

// touch makes the compiler keep room on the stack.
//
//go:noinline
func touch(room *[stackGrowth]byte) { room[0] = 1 }
