// Package nictest provides devices for tests.
package nictest

import (
	"sync"

	"github.com/usernet/usernet/nic"
)

// A Changeable is a device whose link changes when the test says so: its MTU, its MAC, and whether its
// cable is plugged in. Its methods may be called by several goroutines at the same time.
type Changeable struct {
	nic.Device

	mu       sync.Mutex
	link     nic.Link
	onChange []func()
}

// NewChangeable returns a device that sends and receives through dev. Its link is at first that of dev.
func NewChangeable(dev nic.Device) *Changeable { return &Changeable{Device: dev, link: dev.Link()} }

// Nonblocking returns the device itself.
func (d *Changeable) Nonblocking() nic.Device { return d }

// NotifyLink registers f, which Change calls. It returns true.
func (d *Changeable) NotifyLink(f func()) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.onChange = append(d.onChange, f)
	return true
}

// Link returns the link with the changes of Change.
func (d *Changeable) Link() nic.Link {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.link
}

// Change changes the link with f, and then calls the functions of NotifyLink.
func (d *Changeable) Change(f func(l *nic.Link)) {
	d.mu.Lock()
	f(&d.link)
	registered := d.onChange
	d.mu.Unlock()
	for _, f := range registered {
		f()
	}
}

// Plug plugs the cable in or out.
func (d *Changeable) Plug(in bool) {
	d.Change(func(l *nic.Link) { l.Up = in })
}
