package nic

// stackGrowth is how many bytes of a goroutine's stack the delivery of a frame may need. The goroutine of a timer
// also runs the code of the host that receives the frame, and sends the host's answers.
const stackGrowth = 6 << 10

// growStack makes sure that the calling goroutine's stack has stackGrowth bytes free. use must be false.
//
// Each time a timer fires, its function runs on a new goroutine, whose stack has 2 KiB. The runtime doubles a
// full stack by copying it frame by frame. Without growStack, a delivery grew its stack twice, deep within the
// code of the host, and that was 38 % of the CPU time of a simulation in which each frame arrives by itself
// (benchmark C6, one pair of hosts). With growStack, the stack grows once, while it is shallow, which takes 10 %.
// A standing goroutine would not have to grow its stack, but it would keep a bubble of testing/synctest from
// ending.
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
