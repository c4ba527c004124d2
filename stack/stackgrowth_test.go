//go:build !race && !lockorder

// The race detector changes the size of stack frames.

package stack

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// If a goroutine's stack grows deep within a call that sends, the runtime has to copy all of its frames. A
// connection that is opened, used and closed costs 8 % more CPU time over IPv6 if that path needs 200 bytes
// more than IPv4's.
func TestIPv6NeedsNoMoreStackThanIPv4(t *testing.T) {
	a, b := twoHosts6(t, nic.PipeConfig{})
	from, to := openUDP(t, a, "[::]:1"), openUDP(t, b, "[::]:1")
	var at uintptr // address of a variable in the handler, which the sending goroutine calls
	to.SetHandler(func(p []byte, _ netip.AddrPort, _ Meta) {
		var here byte
		at = uintptr(unsafe.Pointer(&here))
	})
	depth := func(dst string) (d int) {
		for range 3 { // a stack that grows moves: the last rounds need no growth
			var here byte
			_, err := from.WriteTo([]byte("x"), netip.AddrPortFrom(addr(dst), 1), SendOptions{})
			require.NoError(t, err)
			d = int(uintptr(unsafe.Pointer(&here)) - at)
		}
		return d
	}
	v4, v6 := depth("192.0.2.2"), depth("2001:db8::2")
	t.Logf("%d and %d bytes", v4, v6)
	require.Greater(t, v4, 1000)
	require.LessOrEqual(t, v6, v4, "bytes of stack from WriteTo to the receiver's handler")
}

// A stackWatcher counts how often the stack of a goroutine that passes frames to a host grew meanwhile.
type stackWatcher struct {
	nic.Device
	passed, grown int
}

// Attach attaches recv. A stack that grows moves, and the address of a variable on it changes.
func (d *stackWatcher) Attach(recv func([]nic.Frame)) {
	d.Device.Attach(func(batch []nic.Frame) {
		var here byte
		before := uintptr(unsafe.Pointer(&here))
		recv(batch)
		d.passed++
		if uintptr(unsafe.Pointer(&here)) != before {
			d.grown++
		}
	})
}

// On an impaired link, a timer delivers the frames, each time on a new goroutine. It grows its stack at once,
// and not deep within the code of the host (see nic's growStack).
func TestAFrameFromATimerFindsTheStackGrown(t *testing.T) {
	for i, family := range []string{"IPv4", "IPv6"} {
		synctest.Test(t, func(t *testing.T) {
			x, y := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
			imp := nic.Impairment{Latency: time.Millisecond, Rate: 100e6}
			near := &stackWatcher{Device: nic.Impair(x, nic.ImpairConfig{Out: imp, In: imp, Seed: 1})}
			far := &stackWatcher{Device: y}
			a, b := newHost(t, near, "192.0.2.1/24", with(both[0][i:])), newHost(t, far, "192.0.2.2/24", with(both[1][i:]))
			c, d := connect(t, a, b)
			exchange(t, c, d, 1<<20)
			c.Close()
			d.Close()
			synctest.Wait()
			require.Greater(t, near.passed, 100)
			require.Greater(t, far.passed, 500)
			t.Logf("%s: the stack grew in %d of %d and %d of %d deliveries", family, near.grown, near.passed, far.grown, far.passed)
			require.LessOrEqual(t, near.grown, near.passed/20)
			require.LessOrEqual(t, far.grown, far.passed/20)
		})
	}
}
