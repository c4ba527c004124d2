package nic

import (
	"encoding/hex"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A fakeSwitch is the control socket of a switch that answers each request with reply.
type fakeSwitch struct {
	dir      string
	requests chan []byte
	ctl      chan net.Conn
}

// newFakeSwitch starts a switch. reply returns the answer. After an answer that is not complete, the
// switch closes the connection.
func newFakeSwitch(t *testing.T, reply func(dir string, request []byte) []byte) *fakeSwitch {
	t.Helper()
	s := &fakeSwitch{dir: t.TempDir(), requests: make(chan []byte, 10), ctl: make(chan net.Conn, 10)}
	ln, err := net.Listen("unix", filepath.Join(s.dir, "ctl"))
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b := make([]byte, 1000)
			n, _ := c.Read(b)
			s.requests <- b[:n]
			answer := reply(s.dir, b[:n])
			c.Write(answer)
			if len(answer) == unix.SizeofSockaddrUnix {
				s.ctl <- c
			} else {
				c.Close()
			}
		}
	}()
	return s
}

// sockaddr returns a struct sockaddr_un.
func sockaddr(path string) []byte {
	b := make([]byte, unix.SizeofSockaddrUnix)
	b[0] = unix.AF_UNIX
	copy(b[2:], path)
	return b
}

// TestVDERequest has the bytes of a request for port 5 on a little-endian machine: the magic number, the version, the
// type with the port, a sockaddr_un and the description.
func TestVDERequest(t *testing.T) {
	want := "cefaedfe" + "03000000" + "00050000" + "0100" + hex.EncodeToString([]byte("/tmp/x")) + strings.Repeat("00", 102) + hex.EncodeToString([]byte("me"))
	require.Equal(t, want, hex.EncodeToString(vdeRequest(5, "/tmp/x", "me")))
	require.Len(t, vdeRequest(0, strings.Repeat("p", 200), strings.Repeat("d", 200)), 12+110+127)
}

func TestAVDEPortExchangesFramesWithTheSwitch(t *testing.T) {
	var data *net.UnixConn
	sw := newFakeSwitch(t, func(dir string, _ []byte) []byte {
		var err error
		data, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/001.9", Net: "unixgram"})
		require.NoError(t, err)
		return sockaddr(dir + "/001.9")
	})
	d, err := OpenVDE(VDEConfig{Path: sw.dir, Port: 3, Description: "test"})
	require.NoError(t, err)
	defer data.Close()
	request := <-sw.requests
	path, err := parseVDEReply(request[vdeSockAddr:])
	require.NoError(t, err)
	require.Equal(t, sw.dir, filepath.Dir(path))
	require.Equal(t, vdeRequest(3, path, "test"), request)
	st, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), st.Mode().Perm())

	down := make(chan error, 1)
	d.NotifyDown(func(err error) { down <- err })
	var in recorder
	d.Attach(in.recv)
	require.Equal(t, 1500, d.Link().MTU)
	d.Send([]Frame{{Head: ether(macB, macA, 1, 60)}, {Head: ether(macB, macA, 2, 60)}})
	buf := make([]byte, 2000)
	for tag := range uint32(2) {
		n, _, err := data.ReadFromUnix(buf)
		require.NoError(t, err)
		require.Equal(t, ether(macB, macA, tag+1, 60), buf[:n])
	}
	_, err = data.WriteToUnix(ether(macA, macB, 3, 60), &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	await(t, "a frame arrives", func() bool { return in.count() == 1 })

	// The device fails when the switch ends.
	(<-sw.ctl).Close()
	require.EqualError(t, <-down, "nic: "+sw.dir+": the switch has closed the port")
	require.NoFileExists(t, path)
	require.NoError(t, d.Close())
}

// A switch that does not read fills the queue of its socket. Send then waits, and Close ends the wait.
func TestCloseEndsAVDEPortThatWaits(t *testing.T) {
	var data *net.UnixConn
	sw := newFakeSwitch(t, func(dir string, _ []byte) []byte {
		data, _ = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: dir + "/001.9", Net: "unixgram"})
		return sockaddr(dir + "/001.9")
	})
	d, err := OpenVDE(VDEConfig{Path: sw.dir})
	require.NoError(t, err)
	defer data.Close()
	d.Attach(func([]Frame) {})
	done := make(chan error, 1)
	go func() {
		for {
			if _, err := d.Send(one(ether(macB, macA, 1, 60))); err != nil {
				done <- err
				return
			}
		}
	}()
	var before uint64
	await(t, "the queue is full", func() bool {
		sent := d.Stats().Sent
		full := sent == before && sent > 0
		before = sent
		return full
	})
	buf := make([]byte, 2000)
	data.ReadFromUnix(buf)
	await(t, "the sender goes on", func() bool { return d.Stats().Sent > before })
	require.NoError(t, d.Close())
	require.ErrorIs(t, <-done, net.ErrClosed)
	require.Zero(t, d.Stats().SendDropped)
}

func TestHostileVDESwitchesAreAnError(t *testing.T) {
	for want, reply := range map[string][]byte{
		"the switch does not give port 2: it may be in use": nil,
		"has 5 bytes instead of 110":                        []byte("short"),
		"address family 770":                                append([]byte{2, 3}, sockaddr("x")[2:]...),
		"has no path":                                       sockaddr(""),
		"no such file or directory":                         sockaddr("/nowhere/" + strings.Repeat("x", 98)),
		"connection refused":                                nil,
	} {
		sw := newFakeSwitch(t, func(string, []byte) []byte { return reply })
		path := sw.dir
		if want == "connection refused" {
			path = t.TempDir()
			ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(path, "ctl"), Net: "unix"})
			require.NoError(t, err)
			ln.SetUnlinkOnClose(false)
			ln.Close()
			want = "connection refused (no switch runs there: vde_switch -s " + path + ")"
		}
		_, err := OpenVDE(VDEConfig{Path: path, Port: 2})
		require.ErrorContains(t, err, want)
		files, err := filepath.Glob(filepath.Join(path, ".*"))
		require.NoError(t, err)
		require.Empty(t, files, "no socket stays behind")
	}
	_, err := OpenVDE(VDEConfig{Path: "/nowhere"})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = OpenVDE(VDEConfig{Port: 256})
	require.EqualError(t, err, "nic: bad VDE port 256: it is not in the range 0 to 255")
	sw := newFakeSwitch(t, func(string, []byte) []byte { return nil })
	_, err = OpenVDE(VDEConfig{Path: sw.dir, Group: "no such group"})
	require.ErrorContains(t, err, `there is no group "no such group"`)
}

func FuzzVDEReply(f *testing.F) {
	f.Add(sockaddr("/var/run/vde.ctl/001.9"))
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		path, err := parseVDEReply(b)
		if err == nil {
			require.NotEmpty(t, path)
			require.Less(t, len(path), unix.SizeofSockaddrUnix)
			require.NotContains(t, path, "\x00")
		}
	})
}
