package nic

import "net"

// Null is a link without other stations: it counts and drops what is sent, and receives nothing.
type Null struct {
	base
	link Link
}

var _ Device = (*Null)(nil)

// NewNull returns a Null that describes itself by link. An empty Name becomes
// "null", a zero MTU 1500, and on Ethernet a zero MAC a random one; Up is
// whether the device is open.
func NewNull(link Link) *Null {
	return &Null{link: link.withDefaults("null")}
}

// withDefaults returns a link whose zero fields have their defaults.
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

// Nonblocking returns the device: its Send does not wait.
func (d *Null) Nonblocking() Device { return d }

// Send takes all frames. Those that the described link could not carry count as
// dropped. After Close it returns net.ErrClosed.
func (d *Null) Send(batch []Frame) (n int, err error) {
	if d.closed.Load() {
		return 0, net.ErrClosed
	}
	d.link.each(batch, d.countFrames, func() { d.sendDropped.Add(1) })
	return len(batch), nil
}

func (d *Null) countFrames(run []Frame, bytes int) { d.countSent(len(run), bytes) }
