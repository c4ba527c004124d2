// Package nic has the links that a usernet host can use: TAP devices,
// wires and switches in memory, and devices that wrap another one to impair
// or to capture its traffic. It looks into frames only for GSO and GRO.
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
// A device may also implement DownNotifier, LinkNotifier, ReceiveMerger, ZeroCopyReceiver,
// Nonblocking and AttachReporter. A stack checks for them before it calls Attach. A device that
// wraps another one is a Wrapper, and passes on those of the wrapped device's abilities that still
// hold.
type Device interface {
	// Link describes the link. While the device is open only Up may change, and also MTU and
	// MAC if the device is a LinkNotifier.
	Link() Link

	// Attach sets the function to which the device passes received frames.
	// It is called once, before the first Send; a second call panics. recv is called with one or
	// more frames in the order of the wire; it never blocks for long, it may
	// call Send, and it may be called by several goroutines at once.
	// The frames and their bytes are valid until recv returns. It must not change them: they
	// may belong to the sender, and other receivers may read them too.
	Attach(recv func(batch []Frame))

	// Send sends the frames in order and returns how many it took. It does not keep the frames or
	// their bytes. It never blocks for long: frames for which the link has no room are either
	// not taken (n < len(batch) and a nil error), or dropped and counted, as the
	// device's documentation says. After an error the device cannot be used any more; after
	// Close the error is net.ErrClosed. Before it returns, Send may call the recv function of the
	// device at the other end, which may call that of this device.
	//
	// If the device is Nonblocking, a host calls Send from any goroutine that has frames for it.
	// Otherwise it calls Send from one goroutine at a time, which it starts when there are
	// frames, and which ends when there are none. A Send that blocks therefore fills the host's
	// queue for that device, but delays nothing else.
	Send(batch []Frame) (n int, err error)

	// Close ends the link. Frames that arrive after it has returned are not passed to recv. It
	// does not wait for calls of recv that have begun in other goroutines, so that recv
	// may call it. A second Close returns net.ErrClosed.
	Close() error
}

// A DownNotifier is a Device that reports when it fails.
type DownNotifier interface {
	Device
	// NotifyDown registers f, which the device calls once with the reason if it comes to an end
	// other than by Close. It calls f from any goroutine and with no lock held.
	// NotifyDown must be called before Attach.
	NotifyDown(f func(err error))
}

// A LinkNotifier is a Device whose Link may change while it is open, and that reports the
// change. A stack takes Up for the state of the link only if NotifyLink has returned true.
type LinkNotifier interface {
	Device
	// NotifyLink registers f, which the device calls after each change of MTU, MAC or Up in the
	// result of Link, and when other stations may have moved to other ports. f is called from any
	// goroutine, perhaps by several at once, with no lock held; it may call Link. NotifyLink
	// reports whether the device will call f. It must be called before Attach.
	NotifyLink(f func()) bool
}

// A ReceiveMerger is a Device that can merge TCP segments that arrive together into
// super-frames (GRO).
type ReceiveMerger interface {
	Device
	// MergeReceived turns merging on. It must be called before Attach.
	MergeReceived()
}

// A ZeroCopyReceiver is a Device that can write the payload of received frames to a buffer of the
// stack's choice.
type ZeroCopyReceiver interface {
	Device
	// ReceiveInto sets a function from which the device gets a ReceiveBuffer before it reads a
	// frame, and reports whether the device will call it. It must be called before Attach.
	ReceiveInto(buffer func() ReceiveBuffer) bool
}

// Nonblocking is a Device whose Send waits neither for the other end of the link nor for a write
// that may take long.
type Nonblocking interface {
	Device
	// Nonblocking returns the device itself if its Send never waits, else nil. A type that
	// embeds such a device and has its own Send inherits this method, but is not taken for
	// nonblocking, because the method returns the embedded device.
	Nonblocking() Device
}

// An AttachReporter is a Device that can report whether it has a user, so that passing it
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

// same reports whether a and b are the same device. It is false for types that cannot be compared.
func same(a, b Device) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// CheckFree returns an error if a device cannot be attached: it is nil or a nil pointer, it or
// a device below it has been attached, or it shares a device with one of others, which are about to
// be attached.
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

// isNil reports whether dev is nil, or a nil pointer of some type.
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

// chain yields a device and those below it.
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

// Medium is the kind of header with which a link's frames begin.
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

// Link describes a link to the stack that uses it.
type Link struct {
	// Name is the device's name in messages, such as "tap0" or "pipe".
	Name string
	// MAC is the address of this end. It is meaningless on an IP medium.
	MAC [6]byte
	// MTU is the largest network-layer packet in bytes, without the Ethernet
	// header: 1500 on a classic Ethernet.
	MTU int
	// Medium is what a frame begins with.
	Medium Medium
	// GSO is the largest network-layer packet in bytes that Send takes with
	// Frame.GSOSize set, for the link to segment; 0 if it takes none.
	GSO int
	// TxChecksum is whether Send takes frames with Frame.NeedsChecksum set.
	TxChecksum bool
	// Up is whether the device is open and its link is usable.
	Up bool
}

// GSOKind is the protocol inside a super-frame.
type GSOKind uint8

const (
	GSONone GSOKind = iota
	GSOTCP4
	GSOTCP6
	GSOUDP
)

// A Frame is one frame, or a super-frame that stands for several.
// Its bytes are Head followed by Body, so that a sender need not copy headers and payload into one
// buffer. The link-layer header is always in Head, and so are all headers of a frame that asks for an
// offload.
type Frame struct {
	Head []byte
	Body []byte

	// NeedsChecksum is whether the transport checksum is incomplete: the
	// 16-bit field at ChecksumStart+ChecksumOffset holds the folded sum of the
	// pseudo-header (not complemented), and the bytes from ChecksumStart to the
	// end of the frame are still to be added. A received frame with NeedsChecksum
	// has never left the memory of this machine and need not be verified.
	NeedsChecksum  bool
	ChecksumStart  uint16 // offset in the frame of the transport header
	ChecksumOffset uint16 // offset of the field from ChecksumStart

	// ChecksumValid is set on a received frame whose transport checksum the
	// device has verified.
	ChecksumValid bool

	// A frame whose GSO is not GSONone is a super-frame: its payload is segmented
	// every GSOSize bytes, and HeaderLen is the length of all headers that each segment
	// gets, from the frame's first byte. NeedsChecksum is always set with it; the lengths
	// and checksums in the headers are those of the whole super-frame.
	GSO       GSOKind
	GSOSize   uint16
	HeaderLen uint16
}

// A ReceiveBuffer is the buffer for the payload of the next frame in zero-copy receive. The
// device owns it until it calls End, which it must do exactly once, and before it asks for the next
// buffer.
//
// If the device receives a super-frame of TCP with Headers bytes of headers, it may write the rest
// to the beginning of Buf, and pass both to recv as Head and Body; it calls End after recv has
// returned. No other frame may be in Buf when it is passed to recv. The device may overwrite all
// of Buf.
//
// Only one goroutine asks for buffers and calls End.
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
