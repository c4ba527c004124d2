package tcp

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/usernet/usernet/stack/wire"
)

// syscall makes a call of the script. If the call blocks, it must return at time to.
func (h *scriptHost) syscall(ev *pktEvent, to Time) error {
	c := &ev.call
	ret, errno := 0, ""
	fd := h.fds[c.fd()]
	if c.name != "socket" && fd == nil {
		return fmt.Errorf("%s: no such descriptor", c.name)
	}
	switch c.name {
	case "socket":
		ret = h.addFD(&scriptFD{linger: -1, keep: KeepAlive{7200 * Second, 75 * Second, 9}})
	case "bind":
	case "listen":
		h.listener = fd
	case "fcntl":
		fd.nonblock = len(c.args) > 2 && strings.Contains(c.args[2], "O_NONBLOCK")
	case "setsockopt":
		if err := h.setsockopt(fd, c.args); err != nil {
			return err
		}
		h.run()
	case "getsockopt":
		if err := h.getsockopt(fd, c.args); err != nil {
			return err
		}
	case "connect", "accept", "read", "recv", "write", "send", "shutdown", "close":
		call, err := h.start(ev, fd, to)
		if err != nil {
			return err
		}
		return h.begin(call, fd.nonblock)
	default:
		return fmt.Errorf("%q is not known", c.name)
	}
	if h.err != nil {
		return h.err
	}
	return h.returned(ev, h.now, h.now, ret, errno)
}

// fd returns the descriptor that is the call's first argument, or -1.
func (c *pktSyscall) fd() int {
	if len(c.args) == 0 {
		return -1
	}
	n, err := strconv.Atoi(c.args[0])
	if err != nil {
		return -1
	}
	return n
}

// addFD gives fd the lowest free descriptor from 3, and returns it.
func (h *scriptHost) addFD(fd *scriptFD) int {
	n := 3
	for h.fds[n] != nil {
		n++
	}
	h.fds[n] = fd
	return n
}

// begin makes a call. If the call cannot be completed at once, it blocks if the script and the descriptor
// allow that. Otherwise it returns EINPROGRESS, EAGAIN, or the number of bytes that it has written.
func (h *scriptHost) begin(b *scriptCall, nonblock bool) error {
	if h.blocked != nil {
		return fmt.Errorf("%s still blocks", h.blocked.ev.text)
	}
	ret, errno, done := b.try()
	h.run()
	for !done && (b.ev.call.name == "write" || b.ev.call.name == "send") {
		// Sent segments may have freed space in the send buffer, so try again.
		before := ret
		if ret, errno, done = b.try(); ret == before {
			break
		}
		h.run()
	}
	switch {
	case h.err != nil:
		return h.err
	case done:
	case b.ev.blocking && !nonblock:
		h.blocked = b
		return nil
	case b.ev.call.name == "connect":
		ret, errno = -1, "EINPROGRESS"
	case ret == 0:
		ret, errno = -1, "EAGAIN"
	}
	return h.returned(b.ev, b.from, b.to, ret, errno)
}

// returned compares the result of a call, and its time, with the script.
func (h *scriptHost) returned(ev *pktEvent, from, to Time, ret int, errno string) error {
	c := &ev.call
	if ret != c.ret || errno != c.err {
		return fmt.Errorf("%s returned %d %s", ev.text, ret, errno)
	}
	if h.now < to-h.tolerance || h.now > to+h.tolerance {
		return fmt.Errorf("%s returned after %s", ev.text, formatTime(h.now-from+scriptStart))
	}
	return nil
}

// start returns the call of ev on fd, for begin to make.
func (h *scriptHost) start(ev *pktEvent, fd *scriptFD, to Time) (*scriptCall, error) {
	c := &ev.call
	b := &scriptCall{ev: ev, from: h.now, to: to}
	n := 0
	// k is the index of the argument with the number of bytes.
	if k := map[string]int{"read": 2, "recv": 2, "write": 2, "send": 2}[c.name]; k > 0 {
		if len(c.args) <= k {
			return nil, fmt.Errorf("%s: arguments are missing", c.name)
		}
		var err error
		if n, err = strconv.Atoi(c.args[k]); err != nil {
			return nil, err
		}
	}
	s := fd.sock
	if s == nil && c.name != "connect" && c.name != "accept" && c.name != "close" {
		b.try = func() (int, string, bool) { return -1, "ENOTCONN", true }
		return b, nil
	}
	switch c.name {
	case "connect":
		h.connect(b, fd)
	case "accept":
		b.try = h.accept
	case "read", "recv":
		b.try = func() (int, string, bool) { return h.read(s, n) }
	case "write", "send":
		done := 0
		b.try = func() (int, string, bool) {
			k, errno := h.write(s, n-done)
			done += k
			if errno != "" && done == 0 {
				return -1, errno, true
			}
			return done, "", done == n || errno != ""
		}
	case "shutdown":
		b.try = func() (int, string, bool) { return h.shutdown(s, c.args[1]) }
	case "close":
		h.close(b, fd)
	}
	return b, nil
}

func (h *scriptHost) connect(b *scriptCall, fd *scriptFD) {
	s := &scriptSock{fd: fd, iss: h.iss, linked: true, readAt: 1, writeAt: 1}
	begun := false
	b.try = func() (int, string, bool) {
		if !begun {
			begun = true
			fd.sock, h.sock = s, s
			cfg := h.cfg
			cfg.NoDelay = fd.nodelay
			s.conn.Open(h.now, cfg)
		}
		if errno := s.takeErr(); errno != "" {
			return -1, errno, true
		}
		return 0, "", s.connected
	}
}

func (h *scriptHost) accept() (int, string, bool) {
	for len(h.queue) > 0 {
		s := h.queue[0]
		h.queue = h.queue[1:]
		return h.addFD(s.fd), "", true
	}
	return 0, "", false
}

// takeErr returns the errno of the connection's error the first time, and "" after that or without an
// error.
func (s *scriptSock) takeErr() string {
	if s.errReported || s.conn.Err() == ErrNone {
		return ""
	}
	s.errReported = true
	return map[Err]string{
		ErrRefused: "ECONNREFUSED", ErrReset: "ECONNRESET", ErrTimedOut: "ETIMEDOUT",
		ErrHostUnreachable: "EHOSTUNREACH", ErrNetUnreachable: "ENETUNREACH", ErrProtocol: "ENOPROTOOPT",
		ErrProhibited: "EACCES", ErrMessageSize: "EMSGSIZE", ErrPipe: "EPIPE", ErrAborted: "ECONNABORTED",
	}[s.conn.Err()]
}

func (h *scriptHost) read(s *scriptSock, n int) (int, string, bool) {
	p := make([]byte, n)
	if n = s.conn.Read(h.now, p); n > 0 {
		for i, x := range p[:n] {
			if x != scriptByte(s.readAt+uint32(i)) {
				h.err = fmt.Errorf("read: the byte at %d is wrong", s.readAt+uint32(i))
			}
		}
		s.readAt += uint32(n)
		return n, "", true
	}
	if s.conn.AtEOF() {
		return 0, "", true
	}
	if errno := s.takeErr(); errno != "" {
		return -1, errno, true
	}
	return 0, "", s.rdShut || s.conn.State() == Closed
}

func (h *scriptHost) write(s *scriptSock, n int) (int, string) {
	if errno := s.takeErr(); errno != "" {
		return 0, errno
	}
	if st := s.conn.State(); s.wrShut || st == Closed || st == TimeWait {
		return 0, "EPIPE"
	}
	p := make([]byte, n)
	for i := range p {
		p[i] = scriptByte(s.writeAt + uint32(i))
	}
	k := s.conn.Write(h.now, p)
	s.writeAt += uint32(k)
	return k, ""
}

func (h *scriptHost) shutdown(s *scriptSock, how string) (int, string, bool) {
	if st := s.conn.State(); st == Closed || st == TimeWait {
		return -1, "ENOTCONN", true
	}
	if how != "SHUT_WR" {
		s.rdShut = true
		s.conn.CloseRead()
	}
	if how != "SHUT_RD" && !s.wrShut {
		s.wrShut = true
		s.conn.CloseWrite(h.now)
	}
	return 0, "", true
}

func (h *scriptHost) close(b *scriptCall, fd *scriptFD) {
	for n, f := range h.fds {
		if f == fd {
			delete(h.fds, n)
		}
	}
	if h.listener == fd {
		h.listener = nil
	}
	s := fd.sock
	if fd.linger > 0 {
		b.deadline = h.now + Time(fd.linger)*Second
	}
	begun := false
	b.try = func() (int, string, bool) {
		if s == nil {
			return 0, "", true
		}
		if !begun {
			begun = true
			if fd.linger == 0 {
				s.conn.Abort(h.now)
			} else {
				s.conn.Close(h.now)
			}
		}
		st := s.conn.State()
		return 0, "", fd.linger <= 0 || !s.linked || st == Closed || st == FinWait2 || h.now >= b.deadline
	}
}

func (h *scriptHost) setsockopt(fd *scriptFD, args []string) error {
	if len(args) < 4 {
		return fmt.Errorf("setsockopt: arguments are missing")
	}
	var v []int
	for _, d := range regexp.MustCompile(`-?\d+`).FindAllString(args[3], -1) {
		n, err := strconv.Atoi(d)
		if err != nil {
			return err
		}
		v = append(v, n)
	}
	if len(v) == 0 {
		return fmt.Errorf("setsockopt: no value")
	}
	n := v[0]
	switch args[2] {
	case "TCP_NODELAY":
		fd.nodelay = n != 0
		if fd.sock != nil {
			fd.sock.conn.SetNoDelay(n != 0)
		}
	case "SO_KEEPALIVE", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT":
		switch args[2] {
		case "SO_KEEPALIVE":
			fd.keepOn = n != 0
		case "TCP_KEEPIDLE":
			fd.keep.Idle = Time(n) * Second
		case "TCP_KEEPINTVL":
			fd.keep.Interval = Time(n) * Second
		case "TCP_KEEPCNT":
			fd.keep.Count = n
		}
		if fd.sock != nil && fd.sock.connected {
			h.applyKeepAlive(fd.sock)
		}
	case "SO_LINGER":
		fd.linger = -1
		if n != 0 && len(v) > 1 {
			fd.linger = v[1]
		}
	case "SO_RCVBUF":
		if fd.sock != nil {
			fd.sock.conn.SetRecvLimit(n)
		} else {
			h.params.RecvBuffer, h.params.RecvBufferMax = n, n
		}
	case "SO_SNDBUF":
		if fd.sock != nil {
			fd.sock.conn.SetSendLimit(n)
		} else {
			h.params.SendBuffer, h.params.SendBufferMax = n, n
		}
	case "IP_MTU": // a property of the route, not set by the application
		h.pathMSS = n - wire.IPv4Len - wire.TCPLen
		fd.sock.conn.PathMTU(h.now, h.pathMSS)
	default:
		return fmt.Errorf("setsockopt: %s is not known", args[2])
	}
	return nil
}

// getsockopt compares SO_ERROR with the script's [ERRNO].
func (h *scriptHost) getsockopt(fd *scriptFD, args []string) error {
	if len(args) < 4 || args[2] != "SO_ERROR" || fd.sock == nil {
		return fmt.Errorf("getsockopt: only SO_ERROR of a connection")
	}
	want := strings.Trim(args[3], "[]")
	if got := fd.sock.takeErr(); got != want && !(got == "" && want == "0") {
		return fmt.Errorf("SO_ERROR is %q", got)
	}
	return nil
}
