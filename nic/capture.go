package nic

import (
	"io"
	"net"
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
	w       io.Writer
	snap    int
	link    Link
	closed  atomic.Bool
	err     atomic.Pointer[error]
	writeMu condMutex
	block   []byte // under writeMu
}

var _ Device = (*Captured)(nil)

// Capture returns a Captured that wraps dev and is its only user, and writes the capture's header
// to w. An error from w does not affect the link: it ends the capture, and Err returns it.
//
// Each frame is recorded with one Write before it is passed on, in the goroutine that passes it on.
// A slow writer therefore slows the link. Calls of Write do not overlap. A frame that dev does not
// accept is recorded again when it is sent again. Incomplete checksums are completed in the
// capture, and a super-frame is recorded as one large frame. The timestamp of a frame is the time
// at which the Captured records it. The Captured hides dev's MergeReceived, so received segments
// are recorded as they arrived.
//
// Close does not close w.
func Capture(dev Device, w io.Writer, cfg CaptureConfig) *Captured {
	c := &Captured{dev: dev, w: w, snap: max(cfg.SnapLen, 0), link: dev.Link()}
	c.write(c.appendHeader(nil))
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

func (c *Captured) capture(batch []Frame, direction pcap.Direction) {
	if c.err.Load() != nil {
		return
	}
	c.writeMu.lock()
	defer c.writeMu.unlock()
	for i := range batch {
		c.block = c.appendPacket(c.block[:0], &batch[i], direction)
		if !c.write(c.block) {
			return
		}
	}
}

// write writes a block, unless an earlier write has failed. It reports whether the block was
// written.
func (c *Captured) write(block []byte) bool {
	if c.err.Load() != nil {
		return false
	}
	n, err := c.w.Write(block)
	if err == nil && n < len(block) {
		err = io.ErrShortWrite
	}
	if err != nil {
		c.err.Store(new(err)) // a copy: &err would be allocated for every frame
	}
	return err == nil
}

// appendHeader appends the beginning of the capture.
func (c *Captured) appendHeader(b []byte) []byte {
	ifc := pcap.Interface{Name: c.link.Name, Link: pcap.LinkRaw, SnapLen: c.snap}
	if c.link.Medium == Ethernet {
		ifc.Link, ifc.MAC = pcap.LinkEthernet, c.link.MAC
	}
	return pcap.AppendInterface(pcap.AppendSection(b), ifc)
}

// appendPacket appends the record of a frame.
func (c *Captured) appendPacket(b []byte, f *Frame, direction pcap.Direction) []byte {
	b = pcap.BeginPacket(b, 0, time.Now(), f.Len())
	data := len(b)
	b = f.AppendTo(b)
	if f.NeedsChecksum {
		completeChecksum(b[data:], int(f.ChecksumStart), int(f.ChecksumOffset))
	}
	if c.snap > 0 && len(b)-data > c.snap {
		b = b[:data+c.snap]
	}
	return pcap.EndPacket(b, data, direction)
}
