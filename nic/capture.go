package nic

import (
	"encoding/binary"
	"io"
	"net"
	"sync/atomic"
	"time"
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
		c.capture(batch, inbound)
		recv(batch)
	})
}

// Send records the frames and passes them to the wrapped device.
func (c *Captured) Send(batch []Frame) (n int, err error) {
	if c.closed.Load() {
		return 0, net.ErrClosed
	}
	c.capture(batch, outbound)
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

// Numbers from draft-ietf-opsawg-pcapng section 4 and from the registry of link types.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 6 // Enhanced Packet Block

	byteOrderMagic = 0x1a2b3c4d
	linkEthernet   = 1
	linkRaw        = 101 // LINKTYPE_RAW: each packet begins with an IPv4 or IPv6 header

	optEnd       = 0
	optUserAppl  = 4 // of the section
	optIfName    = 2
	optIfMAC     = 6
	optIfTSResol = 9
	optFlags     = 2 // of a packet

	inbound, outbound = 1, 2 // bits 0-1 of a packet's flags
)

func (c *Captured) capture(batch []Frame, direction uint32) {
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

// appendHeader appends the section header and the description of the link.
func (c *Captured) appendHeader(b []byte) []byte {
	le := binary.LittleEndian
	start := len(b)
	b = le.AppendUint32(b, blockSection)
	b = le.AppendUint32(b, 0) // length, set by endBlock
	b = le.AppendUint32(b, byteOrderMagic)
	b = le.AppendUint16(b, 1) // version 1.0
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, 1<<64-1) // length of the section: unknown
	b = appendOption(b, optUserAppl, []byte("usernet"))
	b = endBlock(b, start)

	linkType := uint16(linkEthernet)
	if c.link.Medium == IP {
		linkType = linkRaw
	}
	start = len(b)
	b = le.AppendUint32(b, blockInterface)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint16(b, linkType)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint32(b, uint32(c.snap)) // "0 means no limit"
	b = appendOption(b, optIfName, []byte(c.link.Name))
	if c.link.Medium == Ethernet {
		b = appendOption(b, optIfMAC, c.link.MAC[:])
	}
	b = appendOption(b, optIfTSResol, []byte{9}) // nanoseconds
	return endBlock(b, start)
}

// appendPacket appends an Enhanced Packet Block.
func (c *Captured) appendPacket(b []byte, f *Frame, direction uint32) []byte {
	le := binary.LittleEndian
	start := len(b)
	now := uint64(time.Now().UnixNano())
	b = le.AppendUint32(b, blockPacket)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, 0) // interface
	b = le.AppendUint32(b, uint32(now>>32))
	b = le.AppendUint32(b, uint32(now))
	b = le.AppendUint32(b, 0) // captured length, set below
	b = le.AppendUint32(b, uint32(f.Len()))
	data := len(b)
	b = f.AppendTo(b)
	if f.NeedsChecksum {
		completeChecksum(b[data:], int(f.ChecksumStart), int(f.ChecksumOffset))
	}
	if c.snap > 0 && len(b)-data > c.snap {
		b = b[:data+c.snap]
	}
	le.PutUint32(b[data-8:], uint32(len(b)-data))
	b = pad(b, data)
	b = appendOption(b, optFlags, le.AppendUint32(make([]byte, 0, 4), direction))
	return endBlock(b, start)
}

// appendOption appends one option with its padding.
func appendOption(b []byte, code uint16, value []byte) []byte {
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	start := len(b)
	return pad(append(b, value...), start)
}

// pad appends zeros until the bytes from start on are a multiple of 4.
func pad(b []byte, start int) []byte {
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// endBlock appends the end of the options and of the block that begins at start. It writes the
// block's length at the block's beginning and end.
func endBlock(b []byte, start int) []byte {
	b = appendOption(b, optEnd, nil)
	n := uint32(len(b) - start + 4)
	binary.LittleEndian.PutUint32(b[start+4:], n)
	return binary.LittleEndian.AppendUint32(b, n)
}
