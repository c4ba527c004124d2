package main

import (
	"io"
	"sync"
	"time"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A tracer writes a line for every frame.
type tracer struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte // a frame whose bytes are in two places
	out []byte // the line
}

// frame writes what one frame says. dir is "in" or "out".
func (t *tracer) frame(link string, medium nic.Medium, dir string, f *nic.Frame) {
	t.mu.Lock()
	defer t.mu.Unlock()
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

// traced is a device whose frames are written to a tracer.
type traced struct {
	nic.Device
	t    *tracer
	link nic.Link
}

func trace(dev nic.Device, t *tracer) *traced {
	return &traced{Device: dev, t: t, link: dev.Link()}
}

// Attach has every frame shown before the stack sees it.
func (d *traced) Attach(recv func(batch []nic.Frame)) {
	d.Device.Attach(func(batch []nic.Frame) {
		for i := range batch {
			d.t.frame(d.link.Name, d.link.Medium, "in", &batch[i])
		}
		recv(batch)
	})
}

// NotifyDown passes on that the device has come to an end.
func (d *traced) NotifyDown(f func(error)) {
	if n, ok := d.Device.(nic.DownNotifier); ok {
		n.NotifyDown(f)
	}
}

// NotifyLink passes on what the device tells of its link.
func (d *traced) NotifyLink(f func()) bool {
	n, ok := d.Device.(nic.LinkNotifier)
	return ok && n.NotifyLink(f)
}

// Unwrap returns the device that is traced.
func (d *traced) Unwrap() nic.Device { return d.Device }

// Nonblocking returns the device if the Send of the one that is traced does not wait.
func (d *traced) Nonblocking() nic.Device {
	if !nic.IsNonblocking(d.Device) {
		return nil
	}
	return d
}

// Send shows the frames before they are sent: on a wire in memory the answer may
// arrive before Send returns. Those that the device does not take now are shown
// again when they are sent again.
func (d *traced) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		d.t.frame(d.link.Name, d.link.Medium, "out", &batch[i])
	}
	return d.Device.Send(batch)
}
