// Package nic provides the links that a usernet host can use: TAP and TUN devices, wires and switches in
// memory, and devices that wrap another one to impair or capture its traffic. The package reads the
// contents of frames only for GSO and GRO.
package nic

import (
	"errors"
	"iter"
	"net/netip"
	"reflect"
)

// A Device is one end of a link. The stack above it is its only user.
//
// Before Attach the device receives nothing, and nothing may be sent. All methods may be called
// from several goroutines.
//
// A device may also implement DownNotifier, LinkNotifier, ReceiveMerger, ZeroCopyReceiver,
// Nonblocking, AttachReporter and Configurer. A stack checks for these interfaces before it calls
// Attach. A device that wraps another device is a Wrapper. A Wrapper also implements each of these
// interfaces that the wrapped device implements, if the Wrapper can keep the promises of that
// interface. A Wrapper need not implement Configurer.
type Device interface {
	// Link describes the link. While the device is open, only Up may change. If the device is a
	// LinkNotifier, MTU and MAC may change too.
	Link() Link

	// Attach sets the function to which the device passes received frames. It is called once,
	// before the first Send; a second call panics. The device calls recv with one or more frames in
	// the order of the wire. Several goroutines may call recv at once. recv never blocks for long,
	// and recv may call Send. The frames and their bytes are valid until recv returns. recv must not
	// change them: they may belong to the sender, and other receivers may read them too.
	Attach(recv func(batch []Frame))

	// Send sends the frames in order and returns how many it accepted. It does not keep the frames
	// or their bytes. It never blocks for long. If the link is full, Send either does not accept
	// the remaining frames (n < len(batch) and a nil error), or drops and counts them; the device's
	// documentation says which. After an error the device cannot be used any more; after Close the
	// error is net.ErrClosed. Before it returns, Send may call the recv function of the device at
	// the other end, which may in turn call that device's Send and this device's recv.
	//
	// If the device is Nonblocking, a host calls Send from any goroutine that has frames for it.
	// Otherwise the host calls Send from one goroutine at a time. The host starts that goroutine
	// when there are frames, and it ends when there are none. A Send that blocks therefore fills
	// the host's queue for that device, but delays nothing else.
	Send(batch []Frame) (n int, err error)

	// Close ends the link. After it has returned, no more frames are passed to recv. Close does not
	// wait for calls of recv that are in progress, so recv may call Close. A second Close returns
	// net.ErrClosed.
	Close() error
}

// A DownNotifier is a Device that reports when it fails.
type DownNotifier interface {
	Device
	// NotifyDown registers f. The device calls f once, with the reason, if it ends other than by
	// Close. It calls f from any goroutine and holds no lock. NotifyDown must be called before
	// Attach.
	NotifyDown(f func(err error))
}

// A LinkNotifier is a Device whose Link may change while it is open, and that reports the change. A
// stack relies on Link.Up only if NotifyLink has returned true.
type LinkNotifier interface {
	Device
	// NotifyLink registers f. The device calls f after each change of MTU, MAC or Up in the result
	// of Link, and when other stations may have moved to other ports. It calls f from any
	// goroutine, possibly from several at once, and holds no lock; f may call Link. NotifyLink
	// reports whether the device will call f. It must be called before Attach.
	NotifyLink(f func()) bool
}

// A NetConfig is a configuration of the network layer that the two ends of a link have negotiated.
type NetConfig struct {
	Addrs  []netip.Prefix // addresses of this end
	Routes []netip.Prefix // destinations behind the link
	DNS    []netip.Addr   // name servers
}

// A Configurer is a Device that negotiates the addresses of its end with the other end, as PPP does. A
// device that wraps a Configurer need not be one: a stack looks for it by Unwrap.
type Configurer interface {
	Device
	// NotifyConfig registers f. The device calls f after each negotiation, with the whole configuration,
	// which replaces the one before. It calls f from one goroutine at a time and holds no lock. Before
	// the first call the end has no configuration. NotifyConfig must be called before Attach.
	NotifyConfig(f func(NetConfig))
}

// ConfigurerOf returns dev, or a device that dev wraps, as a Configurer; nil if there is none.
func ConfigurerOf(dev Device) Configurer {
	for d := range chain(dev) {
		if c, ok := d.(Configurer); ok {
			return c
		}
	}
	return nil
}

// A ReceiveMerger is a Device that can merge TCP segments that arrive together into
// super-frames (GRO).
type ReceiveMerger interface {
	Device
	// MergeReceived turns merging on. It must be called before Attach.
	MergeReceived()
}

// A ZeroCopyReceiver is a Device that can write the payload of received frames into buffers that
// the stack provides.
type ZeroCopyReceiver interface {
	Device
	// ReceiveInto sets the function buffer. The device calls buffer before the device reads a frame.
	// ReceiveInto reports whether the device will call buffer. ReceiveInto must be called before
	// Attach.
	ReceiveInto(buffer func() ReceiveBuffer) bool
}

// Nonblocking is a Device whose Send waits neither for the other end of the link nor for a long
// write.
type Nonblocking interface {
	Device
	// Nonblocking returns the device itself if its Send never waits, and nil otherwise. A type that
	// embeds such a device inherits this method, even if the type has a Send of its own. The
	// inherited method returns the embedded device, so IsNonblocking reports false for the type.
	Nonblocking() Device
}

// An AttachReporter is a Device that can report whether it has a user. Passing such a device to a
// second user is an error instead of a panic.
type AttachReporter interface {
	Device
	// Attached reports whether Attach was called.
	Attached() bool
}

// A Wrapper is a Device that wraps another one and is that device's only user.
type Wrapper interface {
	Device
	// Unwrap returns the wrapped device.
	Unwrap() Device
}

// IsNonblocking reports whether the Send of a device never waits.
func IsNonblocking(dev Device) bool {
	d, ok := dev.(Nonblocking)
	return ok && Same(d.Nonblocking(), dev)
}

// Same reports whether a and b are the same device. It returns false for types that cannot be
// compared.
func Same(a, b Device) bool {
	return reflect.ValueOf(a).Comparable() && reflect.ValueOf(b).Comparable() && a == b
}

// CheckFree returns an error if the device dev cannot be attached. That is the case if dev is nil or a
// nil pointer, or if dev or a device that dev wraps has been attached. The devices in the list others
// are about to be attached too. dev and any of them must not be or wrap the same device.
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
				if Same(d, o) {
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

// chain yields a device and the devices that it wraps.
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

// A Link describes a link to the stack that uses it.
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
	// GSO is the largest network-layer packet in bytes that Send accepts with Frame.GSOSize set,
	// for the link to segment. It is 0 if the link does not segment, and at most MaxGSO. If it is
	// above 65535, Send accepts super-frames of TCP up to GSO, and super-frames of UDP up to 65535.
	GSO int
	// TxChecksum reports whether Send accepts frames with Frame.NeedsChecksum set.
	TxChecksum bool
	// Up reports whether the device is open and its link is usable.
	Up bool
}

// MaxGSO is the maximum of Link.GSO in bytes. With all headers, such a super-frame fits into 256 KiB,
// which is also the longest packet that Wireshark and tcpdump read.
const MaxGSO = 255 << 10

// GSOKind is the protocol inside a super-frame.
type GSOKind uint8

const (
	GSONone GSOKind = iota
	GSOTCP4
	GSOTCP6
	GSOUDP
)

// A Frame is one frame, or a super-frame that stands for several. Its bytes are Head followed by
// Body, so a sender need not copy headers and payload into one buffer. Head always contains the
// link-layer header. If the frame asks for an offload, Head contains all its headers.
type Frame struct {
	Head []byte
	Body []byte

	// NeedsChecksum reports whether the transport checksum is incomplete. The 16-bit field at
	// ChecksumStart+ChecksumOffset then holds the folded sum of the pseudo-header (not
	// complemented), and the bytes from ChecksumStart to the end of the frame are still to be
	// added. A received frame with NeedsChecksum has never left the memory of this machine and need
	// not be verified.
	NeedsChecksum  bool
	ChecksumStart  uint16 // offset in the frame of the transport header
	ChecksumOffset uint16 // offset of the field from ChecksumStart

	// Local is set on a received frame that the kernel of this machine has passed to the device with an
	// incomplete checksum. Its sender is on this machine, because a wire carries only complete
	// checksums. This is not true of a TCP super-frame: the kernel may have merged it from frames of a
	// wire (GRO).
	Local bool

	// ChecksumValid is set on a received frame whose transport checksum the
	// device has verified.
	ChecksumValid bool

	// A frame whose GSO is not GSONone is a super-frame. Its payload is to be cut into segments of
	// GSOSize bytes. Each segment gets a copy of all headers; HeaderLen is their total length.
	// NeedsChecksum is always set too. The lengths and checksums in the headers are those of the
	// whole super-frame. A length that does not fit its field is 0 (see wire.ParseIPv4); only TCP
	// has such super-frames.
	GSO       GSOKind
	GSOSize   uint16
	HeaderLen uint16
}

// A ReceiveBuffer is the buffer for the payload of the next frame in zero-copy receive. The device
// owns the buffer until the device calls End. The device must call End exactly once, before it asks
// for the next buffer.
//
// If the device receives a TCP super-frame with Headers bytes of headers, it may write the payload
// to the beginning of Buf and pass the headers and the payload to recv as Head and Body. It calls
// End after recv has returned. When recv is called, Buf must hold no other frame. The device may
// overwrite all of Buf.
//
// Only one goroutine asks for buffers and calls End.
type ReceiveBuffer struct {
	Headers int    // length of all headers, including the link layer's; headers do not go into Buf
	Buf     []byte // nil if there is no buffer; End is then nil too
	End     func()
}

// Len returns the length of the frame in bytes.
func (f *Frame) Len() int { return len(f.Head) + len(f.Body) }

// AppendTo appends the frame's bytes to b.
func (f *Frame) AppendTo(b []byte) []byte {
	return append(append(b, f.Head...), f.Body...)
}
