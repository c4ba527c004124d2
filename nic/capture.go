package nic

import (
	"io"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/usernet/usernet/nic/pcap"
)

// CaptureConfig configures a Capture.
type CaptureConfig struct {
	// SnapLen is the maximum number of bytes recorded of a frame; 0 means all.
	SnapLen int
}

// Captured is a Device that records the frames of another device in the pcapng format
// (draft-ietf-opsawg-pcapng), which Wireshark and tcpdump read.
type Captured struct {
	dev     Device
	medium  Medium
	link    pcap.LinkType
	closed  atomic.Bool
	err     atomic.Pointer[error]
	writeMu condMutex
	out     *pcap.Writer // under writeMu
	join    []byte       // under writeMu: a frame that must not be written as it is
}

var _ Device = (*Captured)(nil)

// Capture returns a Captured that wraps dev and is its only user, and writes the capture's header
// to w. An error from w does not affect the link: it ends the capture, and Err returns it.
//
// Each frame is recorded with one Write before it is passed on, in the goroutine that passes it on.
// A slow writer therefore slows the link. Calls of Write do not overlap. A frame that dev does not
// accept is recorded again when it is sent again. Incomplete checksums are completed in the
// capture, and a super-frame is recorded as one large frame, or as several if it is longer than
// 65535 bytes without the link-layer header: not all programs read such frames. The timestamp of a frame is the time
// at which the Captured records it. The Captured hides dev's MergeReceived, so received segments
// are recorded as they arrived.
//
// Close does not close w.
func Capture(dev Device, w io.Writer, cfg CaptureConfig) *Captured {
	link := dev.Link()
	c := &Captured{dev: dev, medium: link.Medium, link: pcap.LinkRaw}
	ifc := pcap.Interface{Name: link.Name, SnapLen: cfg.SnapLen}
	if link.Medium == Ethernet {
		c.link, ifc.MAC = pcap.LinkEthernet, link.MAC
	}
	ifc.Link = c.link
	out, err := pcap.NewWriter(w, ifc)
	c.out = out
	c.failed(err)
	return c
}

// Link describes the link of the wrapped device.
func (c *Captured) Link() Link {
	l := c.dev.Link()
	l.Up = l.Up && !c.closed.Load()
	return l
}

// Attach attaches recv to the wrapped device. Received frames are recorded before recv gets them.
func (c *Captured) Attach(recv func(batch []Frame)) {
	c.dev.Attach(func(batch []Frame) {
		if c.closed.Load() {
			return
		}
		c.capture(batch, pcap.Inbound)
		recv(batch)
	})
}

// Send records the frames and passes them to the wrapped device.
func (c *Captured) Send(batch []Frame) (n int, err error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	c.capture(batch, pcap.Outbound)
	return c.dev.Send(batch)
}

// NotifyDown calls NotifyDown of the wrapped device. If that device is not a DownNotifier, f is
// never called.
func (c *Captured) NotifyDown(f func(err error)) { notifyDown(c.dev, f) }

// NotifyLink calls NotifyLink of the wrapped device. If that device is not a LinkNotifier, it
// returns false.
func (c *Captured) NotifyLink(f func()) bool { return notifyLink(c.dev, f) }

// Unwrap returns the wrapped device.
func (c *Captured) Unwrap() Device { return c.dev }

// Nonblocking returns c if Send of the wrapped device does not block, and nil otherwise. It assumes
// that the capture's writer does not block.
func (c *Captured) Nonblocking() Device {
	if !IsNonblocking(c.dev) {
		return nil
	}
	return c
}

// Close ends the capture and closes the wrapped device. A frame that another goroutine is passing
// on may still be recorded. A second Close returns net.ErrClosed.
func (c *Captured) Close() error {
	if !c.closed.CompareAndSwap(false, true) {
		return net.ErrClosed
	}
	return c.dev.Close()
}

// Err returns the error that ended the capture, or nil.
func (c *Captured) Err() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}

// capture records the frames of a batch.
func (c *Captured) capture(batch []Frame, direction pcap.Direction) {
	if c.err.Load() != nil {
		return
	}
	c.writeMu.lock()
	defer c.writeMu.unlock()
	for i := range batch {
		if c.err.Load() != nil {
			return
		}
		if f := &batch[i]; f.GSO == GSONone || f.Len()-c.medium.headerLen() <= maxPacket || !c.pieces(f, direction) {
			c.failed(c.out.Write(c.packet(f, direction)))
		}
	}
}

// pieces records a super-frame in pieces of at most 65535 bytes without the link-layer header. It returns
// false if the headers of f are not where f says.
func (c *Captured) pieces(f *Frame, direction pcap.Direction) bool {
	size := int(f.GSOSize)
	if room := maxPacket - (int(f.HeaderLen) - c.medium.headerLen()); room > size {
		size *= room / size
	}
	return c.medium.cut(f, size, func(n int) []byte {
		c.join = slices.Grow(c.join[:0], n)[:n]
		return c.join
	}, func(b []byte) {
		if c.err.Load() == nil {
			c.failed(c.out.Write(c.packet(&Frame{Head: b}, direction)))
		}
	})
}

// failed ends the capture if err is not nil.
func (c *Captured) failed(err error) {
	if err != nil {
		c.err.Store(new(err)) // a copy: &err would be allocated for every frame
	}
}

// packet returns the record of a frame, whose bytes are valid until the next call.
func (c *Captured) packet(f *Frame, direction pcap.Direction) pcap.Packet {
	b := f.Head
	if len(f.Body) > 0 || f.NeedsChecksum {
		c.join = f.AppendTo(c.join[:0])
		b = c.join
	}
	if f.NeedsChecksum {
		completeChecksum(b, int(f.ChecksumStart), int(f.ChecksumOffset))
	}
	return pcap.Packet{Data: b, Len: len(b), Time: time.Now(), Link: c.link, Direction: direction}
}
