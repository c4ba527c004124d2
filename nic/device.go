// Package nic has the links that a usernet host can stand on: TAP devices,
// wires and switches in memory, and devices that wrap another one to impair
// or to capture what passes. It knows frames and nothing of what is in them,
// but for the headers that change when a super-frame is cut up.
package nic

import (
	"errors"
	"iter"
	"reflect"
)

// A Device is one end of a link. The stack above it is its only user.
//
// Before Attach nothing is received and nothing may be sent. All methods may
// be called from several goroutines.
//
// Further interfaces tell what some devices can do besides, which a stack looks for
// before Attach: DownNotifier, LinkNotifier, ReceiveMerger, ZeroCopyReceiver, Nonblocking and AttachReporter. A
// device that wraps another one passes them on, where they still hold, and is a Wrapper.
type Device interface {
	// Link describes the link. While the device is open, only Up may change, and where the
	// device is a LinkNotifier MTU and MAC.
	Link() Link

	// Attach gives the device the function that takes what it receives.
	// It is called once, before the first Send; a second call panics. recv is called with one or
	// more frames in the order of the wire; it never blocks for long, it may
	// call Send, and it may be called by several goroutines at once.
	// The frames and their bytes are borrowed for the call, and not to be
	// changed: they may be the sender's own, and other receivers' too.
	Attach(recv func(batch []Frame))

	// Send sends the frames in order and returns how many it took. The frames
	// and their bytes are the caller's again when it returns. It never blocks
	// for long: what the link has no room for is not taken (n < len(batch) and
	// a nil error), or dropped and counted, as the device's documentation says.
	// An error means that the device is of no more use: after Close it is
	// net.ErrClosed. Send may call the recv function of the device at the
	// other end, and so of this one, before it returns.
	//
	// A host calls the Send of a device that is Nonblocking from whichever goroutine has
	// frames for it, and that of any other from one goroutine at a time, which it
	// starts when there are frames and which ends with them. So a Send that blocks fills the
	// host's queue for that device, and nothing else waits for it.
	Send(batch []Frame) (n int, err error)

	// Close ends the link. Nothing that arrives after it has returned is given
	// to recv, but a call of recv that another goroutine was making, or had just
	// decided to make, may still run to its end: Close waits for nobody, so that
	// it can be called from within recv. A second Close returns net.ErrClosed.
	Close() error
}

// A DownNotifier is a Device that tells when it comes to an end by itself.
type DownNotifier interface {
	Device
	// NotifyDown has f called once if the device comes to an end by itself, with why,
	// from any goroutine and with no lock held. It is not called for Close.
	// NotifyDown must be called before Attach.
	NotifyDown(f func(err error))
}

// A LinkNotifier is a Device whose Link may change while it is open, and can tell when it
// does. Only of a device that will does a stack take Up for the state of the link.
type LinkNotifier interface {
	Device
	// NotifyLink has f called after each change of MTU, MAC or Up in what Link returns, and
	// when other stations may have changed places. f may be called from any goroutine, with
	// no lock held, and by several at once; it calls Link. NotifyLink reports whether the
	// device will. It must be called before Attach.
	NotifyLink(f func()) bool
}

// A ReceiveMerger is a Device that can join segments of TCP that arrive together to
// super-frames.
type ReceiveMerger interface {
	Device
	// MergeReceived has it do so. It must be called before Attach.
	MergeReceived()
}

// A ZeroCopyReceiver is a Device that can put the payload of what it receives where the stack
// wants it.
type ZeroCopyReceiver interface {
	Device
	// ReceiveInto gives the device a function that it may ask for a ReceiveBuffer before it
	// reads a frame, and reports whether it will. It must be called before Attach.
	ReceiveInto(buffer func() ReceiveBuffer) bool
}

// Nonblocking is a Device whose Send never waits: not for the other end of the link, and
// not for a write that may take long.
type Nonblocking interface {
	Device
	// Nonblocking returns the device itself if its Send never waits, else nil. A type
	// that embeds such a device and has a Send of its own inherits the method but not the
	// promise: what is returned is not that type's device.
	Nonblocking() Device
}

// An AttachReporter is a Device that can tell whether it has its one user, so that giving it
// to a second one is an error rather than a panic.
type AttachReporter interface {
	Device
	// Attached reports whether Attach was called.
	Attached() bool
}

// A Wrapper is a Device in front of another one, whose only user it is.
type Wrapper interface {
	Device
	// Unwrap returns the device below.
	Unwrap() Device
}

// IsNonblocking reports whether the Send of a device never waits.
func IsNonblocking(dev Device) bool {
	d, ok := dev.(Nonblocking)
	return ok && same(d.Nonblocking(), dev)
}

// same reports whether two devices are one. Those that cannot be compared are not.
func same(a, b Device) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// CheckFree returns an error if a device cannot be given to a user: it is nil, or a nil
// pointer, it or one below it has been attached, or it has a device in common with one of others,
// which are about to be.
func CheckFree(dev Device, others ...Device) error {
	if isNil(dev) {
		return errors.New("the device is nil")
	}
	for d := range chain(dev) {
		if a, ok := d.(AttachReporter); ok && a.Attached() {
			return errors.New("the device has a user already")
		}
		for _, other := range others {
			for o := range chain(other) {
				if same(d, o) {
					return errors.New("the device is given to two users")
				}
			}
		}
	}
	return nil
}

// isNil reports whether there is no device: dev is nil, or a nil pointer of some type.
func isNil(dev Device) bool {
	if dev == nil {
		return true
	}
	v := reflect.ValueOf(dev)
	switch v.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice, reflect.Func, reflect.Chan:
		return v.IsNil()
	}
	return false
}

// chain has a device and those below it.
func chain(dev Device) iter.Seq[Device] {
	return func(yield func(Device) bool) {
		for !isNil(dev) && yield(dev) {
			w, ok := dev.(Wrapper)
			if !ok {
				return
			}
			dev = w.Unwrap()
		}
	}
}

// Medium says what a link's frames begin with.
type Medium uint8

const (
	Ethernet Medium = iota // an Ethernet II header
	IP                     // an IPv4 or IPv6 header, as on a TUN device
)

func (m Medium) String() string {
	if m == IP {
		return "ip"
	}
	return "ethernet"
}

// Link is what a stack has to know about a link to use it.
type Link struct {
	// Name is the device's name for people, such as "tap0" or "pipe".
	Name string
	// MAC is the address of this end. It is meaningless on an IP medium.
	MAC [6]byte
	// MTU is the largest network-layer packet in bytes, without the Ethernet
	// header: 1500 on a classic Ethernet.
	MTU int
	// Medium is what a frame begins with.
	Medium Medium
	// GSO is the largest network-layer packet in bytes that Send takes with
	// Frame.GSOSize set, for the link to cut up; 0 where it takes none.
	GSO int
	// TxChecksum tells that Send takes frames with Frame.NeedsChecksum set.
	TxChecksum bool
	// Up tells that the device is open and its link is usable.
	Up bool
}

// GSO kinds, named by what is inside the super-frame.
type GSOKind uint8

const (
	GSONone GSOKind = iota
	GSOTCP4
	GSOTCP6
	GSOUDP
)

// A Frame is one frame, or a super-frame that stands for several.
// Its bytes are Head followed by Body: a sender that has headers and payload in
// two places need not join them. The link-layer header is always in Head, and
// so are all headers of a frame that asks for an offload.
type Frame struct {
	Head []byte
	Body []byte

	// NeedsChecksum says that the transport checksum is not yet complete: the
	// 16-bit field at ChecksumStart+ChecksumOffset holds the folded sum of the
	// pseudo-header (not complemented), and the bytes from ChecksumStart to the
	// end of the frame are still to be added. On a received frame it says that
	// the frame never left this machine's memory and need not be verified.
	NeedsChecksum  bool
	ChecksumStart  uint16 // offset in the frame of the transport header
	ChecksumOffset uint16 // offset of the field from ChecksumStart

	// ChecksumValid is set on a received frame whose transport checksum the
	// device has verified.
	ChecksumValid bool

	// GSO, when it is not GSONone, says that the frame is a super-frame: its
	// payload is to be cut every GSOSize bytes, and HeaderLen is the length of
	// all the headers that each piece gets, from the frame's first byte.
	// NeedsChecksum is always set with it; the lengths and the checksums in the
	// headers are those of the whole super-frame.
	GSO       GSOKind
	GSOSize   uint16
	HeaderLen uint16
}

// A ReceiveBuffer is where a stack wants the payload of the next frame: zero-copy receive. The
// device owns it from when it asked for it until it calls End, which it has to do once, and
// before it asks for the next.
//
// If the frame that the device receives is a super-frame of TCP with Headers bytes of headers, the
// device may put the rest at the beginning of Buf, and pass both to recv as Head and Body; it
// calls End after that call of recv. A frame of any other kind has to be elsewhere when it is
// passed to recv. The device may leave anything in what remains of Buf.
//
// One goroutine asks for buffers and ends them.
type ReceiveBuffer struct {
	Headers int    // bytes from the link-layer header on that do not go into Buf
	Buf     []byte // nil: there is no buffer, and no End
	End     func()
}

// Len is the length of the frame in bytes.
func (f *Frame) Len() int { return len(f.Head) + len(f.Body) }

// AppendTo appends the frame's bytes to b.
func (f *Frame) AppendTo(b []byte) []byte {
	return append(append(b, f.Head...), f.Body...)
}
