package nic

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The request of a plug, struct request_v3 of vde_switch: magic, version, type, the address of the plug's
// data socket, and a description, which extends to the end of the request. The numbers are in the byte
// order of the machine.
const (
	vdeMagic       = 0xfeedface
	vdeVersion     = 3
	vdeNewControl  = 0 // type; the number of the port is in the upper 24 bits
	vdeSockAddr    = 12
	vdeRequestLen  = vdeSockAddr + unix.SizeofSockaddrUnix
	vdeDescription = 128 // maximum length in bytes, with a NUL
)

// vdeTime is how long to wait for the switch's answer.
const vdeTime = 5 * time.Second

// vdeRequest returns the request for a port. data is the path of the plug's data socket.
func vdeRequest(port int, data, description string) []byte {
	b := make([]byte, vdeRequestLen, vdeRequestLen+vdeDescription)
	ne := binary.NativeEndian
	ne.PutUint32(b[0:], vdeMagic)
	ne.PutUint32(b[4:], vdeVersion)
	ne.PutUint32(b[8:], uint32(vdeNewControl|port<<8))
	ne.PutUint16(b[vdeSockAddr:], unix.AF_UNIX)
	copy(b[vdeSockAddr+2:vdeRequestLen-1], data)
	return append(b, description[:min(len(description), vdeDescription-1)]...)
}

// parseVDEReply returns the path of the switch's data socket from its answer, which is a struct
// sockaddr_un.
func parseVDEReply(b []byte) (string, error) {
	if len(b) < unix.SizeofSockaddrUnix {
		return "", fmt.Errorf("the switch's answer has %d bytes instead of %d", len(b), unix.SizeofSockaddrUnix)
	}
	if family := binary.NativeEndian.Uint16(b); family != unix.AF_UNIX {
		return "", fmt.Errorf("the switch's answer has the address family %d", family)
	}
	path, _, _ := bytes.Cut(b[2:unix.SizeofSockaddrUnix], []byte{0})
	if len(path) == 0 {
		return "", errors.New("the switch's answer has no path")
	}
	return string(path), nil
}

func openVDE(cfg VDEConfig) (*VDE, error) {
	link := Link{Name: cfg.Name, MAC: cfg.MAC, MTU: cfg.MTU, Up: true}
	ctl, dir, err := dialVDE(cfg.Path)
	if err != nil {
		return nil, err
	}
	link = link.withDefaults(dir)
	if err := checkMTU(link.MTU); err != nil {
		ctl.Close()
		return nil, err
	}
	sock, err := plug(ctl, dir, cfg)
	if err != nil {
		ctl.Close()
		return nil, err
	}
	d := new(VDE)
	d.start(sock, link)
	d.watch = &vdeWatch{ctl: ctl, fail: d.fail}
	return d, nil
}

// dialVDE connects to the control socket of the switch in dir, and returns the absolute path of the directory. If dir
// is empty, dialVDE tries the usual directories.
func dialVDE(dir string) (ctl *net.UnixConn, path string, err error) {
	dirs := []string{dir}
	if dir == "" {
		dirs = []string{"/var/run/vde.ctl", "/tmp/vde.ctl"}
	}
	for _, dir := range dirs {
		// The switch does not know our working directory, so the path must be absolute.
		if path, err = filepath.Abs(dir); err != nil {
			return nil, "", err
		}
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		ctl, err = net.DialUnix("unix", nil, &net.UnixAddr{Name: filepath.Join(path, "ctl"), Net: "unix"})
		if err == nil {
			return ctl, path, nil
		}
	}
	switch {
	case errors.Is(err, os.ErrPermission):
		err = fmt.Errorf("%w (start the switch with -m 666, or with -m 660 -g and a group of this user)", err)
	case errors.Is(err, os.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		err = fmt.Errorf("%w (no switch runs there: vde_switch -s %s)", err, path)
	}
	return nil, "", err
}

// plug makes a data socket, asks the switch for a port, and returns the data socket, connected to the switch.
func plug(ctl *net.UnixConn, dir string, cfg VDEConfig) (*datagramSocket, error) {
	conn, path, err := bindVDE(dir)
	if err != nil {
		return nil, err
	}
	s := &datagramSocket{conn: conn, path: path}
	if err := s.setUp(); err != nil {
		return nil, err
	}
	s.io.connected = true
	if err = permit(path, dir, cfg); err == nil {
		err = s.connectVDE(ctl, cfg)
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// bindVDE binds a data socket in the directory of the switch or, if that fails, in the directory for
// temporary files.
func bindVDE(dir string) (conn *net.UnixConn, path string, err error) {
	for _, prefix := range []string{dir + "/.", filepath.Join(os.TempDir(), "vde.")} {
		for n := range 1000 {
			path = fmt.Sprintf("%s%05d-%05d", prefix, os.Getpid(), n)
			conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
			if err == nil {
				return conn, path, nil
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				break
			}
		}
	}
	return nil, "", err
}

// permit sets the permissions of the data socket at path, so that the switch can use it.
func permit(path, dir string, cfg VDEConfig) error {
	mode, group := cfg.Mode, -1
	if cfg.Group != "" {
		id := cfg.Group
		if g, err := user.LookupGroup(cfg.Group); err == nil {
			id = g.Gid
		}
		n, err := strconv.Atoi(id)
		if err != nil || n < 0 {
			return fmt.Errorf("there is no group %q", cfg.Group)
		}
		if group = n; mode == 0 {
			mode = 0o770
		}
	}
	if mode == 0 {
		mode = 0o700
		var st unix.Stat_t
		if unix.Stat(filepath.Join(dir, "ctl"), &st) == nil && st.Uid != 0 && int(st.Uid) != os.Geteuid() {
			// The switch runs as another user. If we may not give the socket the switch's group, every user
			// must be permitted.
			mode = 0o777
			if os.Chown(path, -1, int(st.Gid)) == nil {
				mode = 0o770
			}
		}
	}
	if group >= 0 {
		if err := os.Chown(path, -1, group); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

// connectVDE sends the request, and connects the data socket to that of the switch.
func (s *datagramSocket) connectVDE(ctl *net.UnixConn, cfg VDEConfig) error {
	description := cfg.Description
	if description == "" {
		description = fmt.Sprintf("usernet PID=%d", os.Getpid())
	}
	ctl.SetDeadline(time.Now().Add(vdeTime))
	if _, err := ctl.Write(vdeRequest(cfg.Port, s.path, description)); err != nil {
		return err
	}
	reply := make([]byte, unix.SizeofSockaddrUnix)
	n, err := io.ReadFull(ctl, reply)
	switch {
	case err == io.EOF || errors.Is(err, syscall.ECONNRESET) || timedOut(err):
		// vde_switch does not answer if the port does not exist or is in use.
		port := "a port"
		if cfg.Port > 0 {
			port = fmt.Sprintf("port %d", cfg.Port)
		}
		return fmt.Errorf("the switch does not give %s: it may be in use, absent or reserved for another user, or the switch may not access %s", port, s.path)
	case err != nil && err != io.ErrUnexpectedEOF:
		return err
	}
	ctl.SetDeadline(time.Time{})
	path, err := parseVDEReply(reply[:n])
	if err != nil {
		return err
	}
	cerr := s.io.raw.Control(func(fd uintptr) {
		err = unix.Connect(int(fd), &unix.SockaddrUnix{Name: path})
	})
	if cerr != nil {
		return cerr
	}
	if err != nil {
		return fmt.Errorf("connect to the switch's socket %s: %w", path, err)
	}
	return nil
}

// A vdeWatch makes a device fail when the switch closes the control connection. It implements watcher.
type vdeWatch struct {
	ctl  *net.UnixConn
	fail func(error)
}

// run waits until the control connection ends, and then calls fail.
func (w *vdeWatch) run() {
	// The switch sends nothing after its answer.
	if _, err := io.Copy(io.Discard, w.ctl); err != nil {
		w.fail(err)
		return
	}
	w.fail(errors.New("the switch has closed the port"))
}

func (w *vdeWatch) Close() error { return w.ctl.Close() }
