package nic

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// needSockets skips the test if the system has no sockets of the network: Windows has no Unix datagrams, wine has
// neither Unix sockets nor all options of UDP's, and in WebAssembly package net only imitates sockets in memory: its
// datagram sockets block when they are full, and have other errors.
func needSockets(t *testing.T, network string) {
	t.Helper()
	wasm := runtime.GOOS == "js" || runtime.GOOS == "wasip1"
	if wasm && (network == "unixgram" || network == "udp") {
		t.Skipf("the system has no sockets of %s: package net imitates them", network)
	}
	path := filepath.Join(os.TempDir(), fmt.Sprintf("usernet-%d-%x", os.Getpid(), rand.Uint32()))
	var c io.Closer
	var err error
	switch network {
	case "unix":
		c, err = net.Listen(network, path)
	case "unixgram":
		c, err = net.ListenPacket(network, path)
		defer os.Remove(path)
	case "udp":
		c, err = net.ListenPacket(network, "127.0.0.1:0")
	case "tcp":
		c, err = net.Listen(network, "127.0.0.1:0")
	}
	if err == nil {
		c.Close()
		return
	}
	if slices.Contains([]string{"windows", "js", "wasip1"}, runtime.GOOS) {
		t.Skipf("the system has no sockets of %s: %v", network, err)
	}
	t.Fatal(err)
}

// unixPair returns the configurations of two devices that are each other's peer.
func unixPair(t *testing.T) (a, b DatagramConfig) {
	t.Helper()
	needSockets(t, "unixgram")
	dir := t.TempDir()
	a = DatagramConfig{Network: "unixgram", Local: filepath.Join(dir, "a"), Remote: filepath.Join(dir, "b")}
	return a, DatagramConfig{Network: "unixgram", Local: a.Remote, Remote: a.Local}
}

// udpPair returns the configurations of two devices that are each other's peer. Their ports were free. No
// system gives such ports to a socket that asks for any port (those are above 32767 on Linux, and above 49151
// elsewhere), so another process is unlikely to take them before the test.
func udpPair(t *testing.T, host string) (a, b DatagramConfig) {
	t.Helper()
	needSockets(t, "udp")
	var addrs [2]string
	for i := range addrs {
		var c net.PacketConn
		var err error
		for try := 0; try == 0 || err != nil && try < 100; try++ { // a port may be in use
			addrs[i] = net.JoinHostPort(host, strconv.Itoa(10000+rand.IntN(20000)))
			c, err = net.ListenPacket("udp", addrs[i])
		}
		require.NoError(t, err)
		defer c.Close()
	}
	return DatagramConfig{Network: "udp", Local: addrs[0], Remote: addrs[1]}, DatagramConfig{Network: "udp", Local: addrs[1], Remote: addrs[0]}
}

func openTestDatagram(t *testing.T, cfg DatagramConfig) (*Datagram, *recorder) {
	t.Helper()
	d, err := OpenDatagram(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	r := new(recorder)
	d.Attach(r.recv)
	return d, r
}

func TestADatagramIsAFrame(t *testing.T) {
	for name, pair := range map[string]func(t *testing.T) (a, b DatagramConfig){
		"unix":          unixPair,
		"UDP":           func(t *testing.T) (a, b DatagramConfig) { return udpPair(t, "127.0.0.1") },
		"UDP over IPv6": func(t *testing.T) (a, b DatagramConfig) { return udpPair(t, "::1") },
	} {
		t.Run(name, func(t *testing.T) {
			var c [2]DatagramConfig
			c[0], c[1] = pair(t)
			a, inA := openTestDatagram(t, c[0])
			require.False(t, a.NotifyLink(func() {}))
			n, err := a.Send(one(ether(macB, macA, 1, 60)))
			require.NoError(t, err)
			require.Equal(t, 1, n, "without a peer, the frame is taken and dropped")
			b, inB := openTestDatagram(t, c[1])
			split := ether(macB, macA, 3, 1514)
			n, err = a.Send([]Frame{
				{Head: ether(macB, macA, 2, 60)}, {Head: make([]byte, 1600)}, {Head: split[:54], Body: split[54:]},
			})
			require.NoError(t, err)
			require.Equal(t, 3, n)
			b.Send(one(ether(macA, macB, 4, 60)))
			await(t, "the frames arrive", func() bool { return inB.count() == 2 && inA.count() == 1 })
			require.Equal(t, []uint32{2, 3}, tags(inB.all()))
			require.Equal(t, split, inB.all()[1])
			require.Equal(t, []uint32{4}, tags(inA.all()))
			st := a.Stats()
			require.Equal(t, uint64(4), st.Sent+st.SendDropped)
			require.LessOrEqual(t, uint64(1), st.SendDropped, "too long a frame")
			require.NoError(t, a.Close())
			require.ErrorIs(t, a.Close(), net.ErrClosed)
			_, err = a.Send(nil)
			require.ErrorIs(t, err, net.ErrClosed)
			if strings.HasPrefix(c[0].Network, "unix") {
				require.NoFileExists(t, c[0].Local)
			}
		})
	}
}

func TestADatagramPeerMayComeAgain(t *testing.T) {
	a, b := unixPair(t)
	server, in := openTestDatagram(t, a)
	for i := range uint32(3) {
		peer, r := openTestDatagram(t, b)
		peer.Send(one(ether(macA, macB, i, 60)))
		await(t, "the server receives", func() bool { return in.count() == int(i)+1 })
		server.Send(one(ether(macB, macA, i, 60)))
		await(t, "the peer receives", func() bool { return r.count() == 1 })
		require.NoError(t, peer.Close())
		_, err := server.Send(one(ether(macB, macA, i, 60)))
		require.NoError(t, err)
	}
	require.Equal(t, uint64(3), server.Stats().SendDropped)
}

func TestDatagramsOfOthersAreDropped(t *testing.T) {
	cfg, _ := udpPair(t, "127.0.0.1")
	d, in := openTestDatagram(t, cfg)
	other, err := net.Dial("udp", cfg.Local)
	require.NoError(t, err)
	defer other.Close()
	other.Write(ether(macA, macB, 1, 60))
	await(t, "it is dropped", func() bool { return d.Stats().RecvDropped == 1 })
	require.Zero(t, in.count())
}

func TestBadDatagramsAreDropped(t *testing.T) {
	a, _ := unixPair(t)
	d, in := openTestDatagram(t, a)
	c, err := net.Dial("unixgram", a.Local)
	require.NoError(t, err)
	defer c.Close()
	for _, n := range []int{0, 13, 1519, 60000} {
		c.Write(make([]byte, n))
	}
	c.Write(ether(macA, macB, 1, 1518))
	await(t, "a good frame arrives", func() bool { return in.count() == 1 })
	require.Equal(t, uint64(4), d.Stats().RecvDropped)
}

// A peer that does not read delays the sender and does not stop it, and Close does not wait for it.
func TestAFullDatagramPeerDoesNotStopTheSender(t *testing.T) {
	a, b := unixPair(t)
	peer, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: b.Local, Net: "unixgram"})
	require.NoError(t, err)
	defer peer.Close()
	d, _ := openTestDatagram(t, a)
	for i := uint32(0); d.Stats().SendDropped == 0; i++ {
		n, err := d.Send(one(ether(macB, macA, i, 1514)))
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	require.NoError(t, d.Close())
}

// TestVfkitHandshake has the datagrams of vfkit as a test vector: VFKT once, and then frames. A newer
// vfkit sends no VFKT. When the machine is started again, its socket has another path.
func TestVfkitHandshake(t *testing.T) {
	needSockets(t, "unixgram")
	dir := t.TempDir()
	server, in := openTestDatagram(t, DatagramConfig{Network: "unixgram", Local: filepath.Join(dir, "server")})
	server.Send(one(ether(macB, macA, 1, 60)))
	require.Equal(t, uint64(1), server.Stats().SendDropped, "there is no peer yet")
	for i, first := range []string{"VFKT", "", "VFKT"} {
		vm, err := net.DialUnix("unixgram",
			&net.UnixAddr{Name: filepath.Join(dir, "vfkit-"+string(rune('0'+i))+".sock"), Net: "unixgram"},
			&net.UnixAddr{Name: filepath.Join(dir, "server"), Net: "unixgram"})
		require.NoError(t, err)
		if first != "" {
			vm.Write([]byte(first))
		}
		vm.Write(ether(macA, macB, uint32(i), 60))
		await(t, "the frame arrives", func() bool { return in.count() == i+1 })
		server.Send(one(ether(macB, macA, 7, 60)))
		buf := make([]byte, 100)
		n, err := vm.Read(buf)
		require.NoError(t, err)
		require.Equal(t, ether(macB, macA, 7, 60), buf[:n])
		vm.Close()
	}
	require.Equal(t, []uint32{0, 1, 2}, tags(in.all()))
	require.Zero(t, server.Stats().RecvDropped, "VFKT is no frame")
}

func TestTheHandshakeIsSentFirst(t *testing.T) {
	needSockets(t, "unixgram")
	dir := t.TempDir()
	path := filepath.Join(dir, "gvproxy")
	cfg := DatagramConfig{Network: "unixgram", Remote: path, Handshake: true}
	_, err := OpenDatagram(cfg)
	require.ErrorIs(t, err, os.ErrNotExist)
	gvproxy, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	require.NoError(t, err)
	defer gvproxy.Close()
	d, in := openTestDatagram(t, cfg)
	d.Send(one(ether(macB, macA, 1, 60)))
	buf := make([]byte, 100)
	n, from, err := gvproxy.ReadFromUnix(buf)
	require.NoError(t, err)
	require.Equal(t, "VFKT", string(buf[:n]))
	require.True(t, filepath.IsAbs(from.Name), from.Name)
	n, _, err = gvproxy.ReadFromUnix(buf)
	require.NoError(t, err)
	require.Equal(t, 60, n)
	_, err = gvproxy.WriteToUnix(ether(macA, macB, 2, 60), from)
	require.NoError(t, err)
	await(t, "the answer arrives", func() bool { return in.count() == 1 })
	require.NoError(t, d.Close())
	require.NoFileExists(t, from.Name)
}

func TestBadDatagramConfigsSayWhatIsWrong(t *testing.T) {
	for want, cfg := range map[string]DatagramConfig{
		`unknown network "unix": it is unixgram or udp`:             {Network: "unix"},
		`the local address "x" is not an IP address with a port`:    {Network: "udp", Local: "x"},
		`the remote address "" is not an IP address with a port`:    {Network: "udp", Local: "127.0.0.1:0"},
		"the addresses 127.0.0.1:0 and [::1]:9 are of two families": {Network: "udp", Local: "127.0.0.1:0", Remote: "[::1]:9"},
		"a handshake needs the remote address":                      {Network: "unixgram", Handshake: true},
		"bad MTU 65536: it is not in the range 1 to 65535":          {Network: "unixgram", MTU: 65536},
	} {
		_, err := OpenDatagram(cfg)
		require.EqualError(t, err, "nic: open datagram device: "+want)
	}
	needSockets(t, "unixgram")
	_, err := OpenDatagram(DatagramConfig{Network: "unixgram", Local: "/nowhere/s"})
	require.EqualError(t, err, "nic: open datagram device: listen unixgram /nowhere/s: bind: no such file or directory")
}
