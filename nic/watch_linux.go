package nic

import (
	"encoding/binary"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A linkState is the state of an interface that rtnetlink reports.
type linkState struct {
	mtu int
	mac [6]byte
	up  bool // whether it is up and has a carrier
}

// A linkWatch watches an interface of the kernel through rtnetlink(7), which needs no privilege. It
// implements watcher.
type linkWatch struct {
	file   *os.File
	raw    syscall.RawConn
	index  int
	change func(linkState) // called by one goroutine at a time
	err    error           // the error that ended run
}

// maxLinkMessage is the longest rtnetlink message that receive reads. The message of an interface
// with many virtual functions may be longer; receive then requests the state of that interface.
const maxLinkMessage = 16 << 10

// watchLink watches the interface with the given index, in the network namespace of the calling
// thread. It calls change with the current state before it returns. If the kernel does not permit
// watching, watchLink returns nil and no change is reported.
func watchLink(index int, change func(linkState)) watcher {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: unix.RTMGRP_LINK}); err != nil {
		unix.Close(fd)
		return nil
	}
	w := &linkWatch{file: os.NewFile(uintptr(fd), "rtnetlink"), index: index, change: change}
	if w.raw, err = w.file.SyscallConn(); err != nil {
		w.file.Close()
		return nil
	}
	// The kernel answers before ask returns.
	if w.ask() == nil {
		w.raw.Control(func(fd uintptr) { w.receive(fd) })
	}
	return w
}

func (w *linkWatch) Close() error { return w.file.Close() }

// run reads the kernel's messages until Close.
func (w *linkWatch) run() {
	for w.err == nil && w.raw.Read(w.receive) == nil {
	}
}

// ask requests the state of the interface from the kernel.
func (w *linkWatch) ask() (err error) {
	var b [unix.SizeofNlMsghdr + unix.SizeofIfInfomsg]byte
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], uint32(len(b)))
	ne.PutUint16(b[4:], unix.RTM_GETLINK)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	ne.PutUint32(b[unix.SizeofNlMsghdr+4:], uint32(w.index))
	cerr := w.raw.Control(func(fd uintptr) {
		err = unix.Sendto(int(fd), b[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// receive reads the messages that have arrived. It returns false when there are no more.
func (w *linkWatch) receive(fd uintptr) bool {
	buf := make([]byte, maxLinkMessage) // not reused, because messages are rare
	lost, asked := false, false
	for {
		n, _, flags, _, err := unix.Recvmsg(int(fd), buf, nil, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN && lost && !asked: // request the state, and read the answer
			asked = true
			w.ask()
		case err == unix.EAGAIN:
			return false
		case err == unix.ENOBUFS, err == nil && flags&unix.MSG_TRUNC != 0:
			lost = true // a message was lost
		case err != nil:
			w.err = err
			return true
		default:
			w.take(buf[:n])
		}
	}
}

// take processes the messages about the interface.
func (w *linkWatch) take(b []byte) {
	messages, err := syscall.ParseNetlinkMessage(b)
	if err != nil {
		return
	}
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != unix.RTM_NEWLINK || len(m.Data) < unix.SizeofIfInfomsg ||
			int32(binary.NativeEndian.Uint32(m.Data[4:])) != int32(w.index) {
			continue // another interface, or a deletion, which the device's readers detect
		}
		if st, ok := parseLinkState(m); ok {
			w.change(st)
		}
	}
}

// parseLinkState parses a message about an interface. It returns false if the message does not have
// the state.
func parseLinkState(m *syscall.NetlinkMessage) (st linkState, ok bool) {
	attrs, err := syscall.ParseNetlinkRouteAttr(m)
	if err != nil {
		return st, false
	}
	const usable = unix.IFF_UP | unix.IFF_LOWER_UP
	st.up = binary.NativeEndian.Uint32(m.Data[8:])&usable == usable
	for _, a := range attrs {
		switch {
		case a.Attr.Type == unix.IFLA_MTU && len(a.Value) >= 4:
			st.mtu = int(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unix.IFLA_ADDRESS && len(a.Value) >= 6:
			st.mac = [6]byte(a.Value[:6])
		}
	}
	// A message about another kind of change may lack the MTU.
	return st, st.mtu > 0
}
