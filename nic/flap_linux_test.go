package nic

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The kernel's interface of a TUN or a TAP goes down and comes up, a thousand times in twenty steps.
func TestATUNFlapsAThousandTimes(t *testing.T) {
	for _, m := range []Medium{IP, Ethernet} {
		t.Run(m.String(), func(t *testing.T) {
			inNamespace(t)
			dev := new(tunTap)
			require.NoError(t, dev.openAny(m, TAPConfig{Name: "flap0", Addr: testPrefix}))
			defer dev.Close()
			changes := linkChanges(dev)
			dev.Attach(func([]Frame) {})
			script := filepath.Join(t.TempDir(), "script")
			const flaps = 50
			require.NoError(t, os.WriteFile(script, []byte(strings.Repeat("link set flap0 down\nlink set flap0 up\n", flaps)), 0o600))
			files := openFiles(t)
			steps := 0
			var before int32
			requireNoGrowthIn(t, 20, func() {
				run(t, "ip -batch "+script)
				steps++
				eventually(t, "the link is up", func() bool { return dev.Link().Up && changes() > before })
				before = changes()
			})
			require.GreaterOrEqual(t, flaps*steps, 1000)
			require.Equal(t, files, openFiles(t))
			require.NoError(t, dev.Err())
		})
	}
}

// A program opens and closes a port of a switch. The switch answers each request.
func TestAVDEPortFlapsAThousandTimes(t *testing.T) {
	var data *net.UnixConn
	n := 0
	sw := newFakeSwitch(t, func(dir string, _ []byte) []byte {
		n++
		path := filepath.Join(dir, "port"+strconv.Itoa(n))
		data, _ = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		return sockaddr(path)
	})
	buf := make([]byte, 2000)
	files := openFiles(t)
	requireNoGrowth(t, func() {
		d, err := OpenVDE(VDEConfig{Path: sw.dir})
		require.NoError(t, err)
		<-sw.requests
		ctl := <-sw.ctl
		down := make(chan error, 1)
		d.NotifyDown(func(err error) { down <- err })
		d.Attach(func([]Frame) {})
		d.Send(one(ether(macB, macA, 1, 60)))
		_, _, err = data.ReadFromUnix(buf)
		require.NoError(t, err)
		if n%2 == 0 { // the switch removes the port
			ctl.Close()
			<-down
		}
		require.NoError(t, d.Close())
		ctl.Close()
		data.Close()
	})
	require.Equal(t, files, openFiles(t))
	left, err := filepath.Glob(filepath.Join(sw.dir, ".*"))
	require.NoError(t, err)
	require.Empty(t, left, "no socket stays behind")
}
