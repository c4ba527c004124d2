//go:build darwin || windows

package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"runtime"

	"github.com/songgao/water"
)

// tapWriter writes frames to the device.
type tapWriter struct {
	ifce   *water.Interface
	sendMu condMutex
	join   []byte // under sendMu
}

func (t *tunTap) open(m Medium, cfg TAPConfig) error {
	wcfg, err := waterConfig(m, cfg)
	if err != nil {
		return err
	}
	ifce, err := water.New(wcfg)
	if errors.Is(err, fs.ErrPermission) {
		return &TAPPermissionError{Medium: m, Name: cfg.Name, Addr: cfg.Addr, Err: err}
	}
	if err != nil {
		return fmt.Errorf("nic: open %s %s: %w", m.tunTap(), cfg.Name, err)
	}
	kernel, err := net.InterfaceByName(ifce.Name())
	if err != nil {
		ifce.Close()
		return fmt.Errorf("nic: open %s %s: %w", m.tunTap(), ifce.Name(), err)
	}
	t.ifce, t.created = ifce, m == IP && runtime.GOOS == "darwin" // a utun exists while it is open
	t.setHostMAC(kernel.HardwareAddr)
	t.rxLoop.src = newFrameReader(ifce, m, maxFrame)
	t.setLink(Link{Name: ifce.Name(), MAC: cfg.MAC, MTU: kernel.MTU, Medium: m, Up: true})
	return nil
}

// nonblocking reports whether Send never blocks. It returns false, because a write of package water may block.
func (t *tunTap) nonblocking() bool { return false }

func (w *tapWriter) write(l *rxLoop, batch []Frame) (n int, err error) {
	w.sendMu.lock()
	defer w.sendMu.unlock()
	for n = range batch {
		f := &batch[n]
		if !l.current().carries(f) {
			l.sendDropped.Add(1)
			continue
		}
		w.join = f.AppendTo(w.join[:0])
		if _, err := w.ifce.Write(w.join); err != nil {
			// The interface may only be down. If it was deleted, the reader detects that.
			l.sendDropped.Add(1)
			continue
		}
		l.countSent(1, len(w.join))
	}
	return len(batch), nil
}
