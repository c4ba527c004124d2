package main

import (
	"encoding/binary"
	"io"
	"sync"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
	"github.com/usernet/usernet/stack/wire"
)

// A tracer writes one line for each frame, or passes each frame to a dumper.
type tracer struct {
	mu   sync.Mutex
	w    io.Writer
	dump *dumper // nil for lines
	buf  []byte  // joins a frame's Head and Body
	out  []byte  // the line
}

// frame writes the line of one frame. dir is "in" or "out".
func (t *tracer) frame(link string, medium nic.Medium, dir string, f *nic.Frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dump != nil {
		t.passOn(link, medium, dir, f)
		return
	}
	b := f.Head
	if len(f.Body) > 0 {
		t.buf = f.AppendTo(t.buf[:0])
		b = t.buf
	}
	t.out = time.Now().AppendFormat(t.out[:0], "15:04:05.000000 ")
	t.out = append(append(append(t.out, link...), ' '), dir...)
	for range max(1, 4-len(dir)) {
		t.out = append(t.out, ' ')
	}
	t.out = wire.AppendFrame(t.out, b, medium == nic.Ethernet)
	t.out = append(t.out, '\n')
	t.w.Write(t.out)
}

// passOn passes a frame to the dumper, with its checksum completed.
func (t *tracer) passOn(link string, medium nic.Medium, dir string, f *nic.Frame) {
	t.buf = f.AppendTo(t.buf[:0])
	if start, field := int(f.ChecksumStart), int(f.ChecksumOffset); f.NeedsChecksum && start+field+2 <= len(t.buf) {
		binary.BigEndian.PutUint16(t.buf[start+field:], wire.FinishChecksum(t.buf[start:], field))
	}
	pkt := pcap.Packet{Data: t.buf, Len: len(t.buf), Time: time.Now(), Link: pcap.LinkEthernet, Direction: pcap.Inbound}
	if medium == nic.IP {
		pkt.Link = pcap.LinkRaw
	}
	if dir == "out" {
		pkt.Direction = pcap.Outbound
	}
	t.dump.frame(link, pkt)
}

// A traced is a device that writes its frames to a tracer.
type traced struct {
	nic.Device
	t    *tracer
	link nic.Link
}

func trace(dev nic.Device, t *tracer) *traced {
	return &traced{Device: dev, t: t, link: dev.Link()}
}

// Attach attaches recv. It traces each received frame before recv gets it.
func (d *traced) Attach(recv func(batch []nic.Frame)) {
	d.Device.Attach(func(batch []nic.Frame) {
		for i := range batch {
			d.t.frame(d.link.Name, d.link.Medium, "in", &batch[i])
		}
		recv(batch)
	})
}

// NotifyDown calls NotifyDown of the traced device, if it has that method.
func (d *traced) NotifyDown(f func(error)) {
	if n, ok := d.Device.(nic.DownNotifier); ok {
		n.NotifyDown(f)
	}
}

// NotifyLink calls NotifyLink of the traced device, if it has that method.
func (d *traced) NotifyLink(f func()) bool {
	n, ok := d.Device.(nic.LinkNotifier)
	return ok && n.NotifyLink(f)
}

// Unwrap returns the traced device.
func (d *traced) Unwrap() nic.Device { return d.Device }

// Nonblocking returns d if the Send of the traced device does not block, and nil otherwise.
func (d *traced) Nonblocking() nic.Device {
	if !nic.IsNonblocking(d.Device) {
		return nil
	}
	return d
}

// Send traces the frames and then sends them. It traces them first, because on a wire in memory the
// answer may arrive before the device's Send returns. If the device does not accept all frames, the
// rest are traced again when the caller sends them again.
func (d *traced) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		d.t.frame(d.link.Name, d.link.Medium, "out", &batch[i])
	}
	return d.Device.Send(batch)
}
