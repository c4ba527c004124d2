//go:build darwin || windows

package nic

import (
	"errors"
	"fmt"
	"io/fs"
	"net"

	"github.com/songgao/water"
)

// tapWriter writes frames to the device.
type tapWriter struct {
	ifce   *water.Interface
	sendMu condMutex
	join   []byte // under sendMu
}

func openTAP(cfg TAPConfig) (*TAP, error) {
	wcfg, err := waterConfig(cfg.Name)
	if err != nil {
		return nil, err
	}
	ifce, err := water.New(wcfg)
	if errors.Is(err, fs.ErrPermission) {
		return nil, &TAPPermissionError{Name: cfg.Name, Addr: cfg.Addr, Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("nic: open TAP %s: %w", cfg.Name, err)
	}
	kernel, err := net.InterfaceByName(ifce.Name())
	if err != nil {
		ifce.Close()
		return nil, fmt.Errorf("nic: open TAP %s: %w", ifce.Name(), err)
	}
	t := new(TAP)
	t.ifce = ifce
	t.setHostMAC(kernel.HardwareAddr)
	t.rxLoop.src = newFrameReader(ifce, Ethernet, maxFrame)
	t.setLink(Link{Name: ifce.Name(), MAC: cfg.MAC, MTU: kernel.MTU, Medium: Ethernet, Up: true})
	return t, nil
}

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
