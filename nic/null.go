package nic

import "net"

// Null is a link without other stations. It counts and drops sent frames, and receives nothing.
type Null struct {
	base
	link Link
}

var _ Device = (*Null)(nil)

// NewNull returns a Null with the properties of link. The defaults are the Name "null", an MTU of
// 1500 and, on Ethernet, a random MAC. Up reports whether the device is open.
func NewNull(link Link) *Null {
	return &Null{link: link.withDefaults("null")}
}

// withDefaults returns the link with defaults in place of zero fields.
func (l Link) withDefaults(name string) Link {
	if l.Name == "" {
		l.Name = name
	}
	if l.MTU <= 0 {
		l.MTU = 1500
	}
	if l.Medium == Ethernet && l.MAC == ([6]byte{}) {
		l.MAC = randomMAC()
	}
	return l
}

// Link describes the link.
func (d *Null) Link() Link {
	l := d.link
	l.Up = !d.closed.Load()
	return l
}

// Nonblocking returns the device: its Send does not block.
func (d *Null) Nonblocking() Device { return d }

// Send accepts all frames. Frames that the link could not carry count as dropped. After Close it
// returns net.ErrClosed.
func (d *Null) Send(batch []Frame) (n int, err error) {
	if d.closed.Load() {
		return 0, net.ErrClosed
	}
	d.link.each(batch, d.countFrames, func() { d.sendDropped.Add(1) })
	return len(batch), nil
}

func (d *Null) countFrames(run []Frame, bytes int) { d.countSent(len(run), bytes) }
