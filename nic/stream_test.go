package nic

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// prefixed returns the frames as a peer of a Stream sends them.
func prefixed(frames ...[]byte) (b []byte) {
	for _, f := range frames {
		b = binary.BigEndian.AppendUint32(b, uint32(len(f)))
		b = append(b, f...)
	}
	return b
}

// await waits until cond holds. The patience is long because it only ends a test that hangs.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func TestAStreamHasALengthBeforeEachFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := framePipe()
		s := FromStream(near, Link{MAC: macA, GSO: 65535, TxChecksum: true})
		defer s.Close()
		require.Equal(t, Link{Name: "stream", MAC: macA, MTU: 1500, Up: true}, s.Link())
		var r recorder
		s.Attach(r.recv)
		a, b := ether(macB, macA, 1, 100), ether(macB, macA, 2, 60)
		n, err := s.Send([]Frame{{Head: a[:20], Body: a[20:]}, {Head: make([]byte, 1600)}, {Head: b}})
		require.NoError(t, err)
		require.Equal(t, 3, n)
		buf := make([]byte, 2000)
		n, _ = far.Read(buf)
		require.Equal(t, prefixed(a, b), buf[:n], "one Write has several frames")

		far.Write(prefixed(ether(macA, macB, 3, 60), ether(macA, macB, 4, 1518), make([]byte, 1519), make([]byte, 13), nil, ether(macA, macB, 5, 60)))
		synctest.Wait()
		require.Equal(t, []uint32{3, 4, 5}, tags(r.all()))
		require.Equal(t, []int{3}, r.batch, "what one Read returns is one batch")
		require.Equal(t, Stats{Sent: 2, SentBytes: 160, SendDropped: 1, Received: 3, ReceivedBytes: 1638, RecvDropped: 3}, s.Stats())
	})
}

// RFC 894: the padding "is not part of the IP packet". passt ignores IPv4 packets in frames with padding.
func TestAStreamSendsNoPadding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := framePipe()
		s := FromStream(near, Link{MAC: macA})
		defer s.Close()
		s.Attach(func([]Frame) {})
		b, _, _ := packetSpec{tcp: true}.build(t)
		require.Len(t, b, 54)
		padded := append(b[:54:54], make([]byte, 6)...)
		bad := append([]byte(nil), padded...)
		bad[16], bad[17] = 0, 3 // a total length shorter than the header
		n, err := s.Send([]Frame{{Head: padded}, {Head: padded[:34], Body: padded[34:]}, {Head: bad}, {Head: ether(macB, macA, 1, 60)}})
		require.NoError(t, err)
		require.Equal(t, 4, n)
		buf := make([]byte, 2000)
		n, _ = far.Read(buf)
		require.Equal(t, prefixed(b, b, bad, ether(macB, macA, 1, 60)), buf[:n])
	})
}

func TestAStreamMayBeCutAnywhere(t *testing.T) {
	var all []byte
	var want []uint32
	for i := range 20 {
		all = append(all, prefixed(ether(macA, macB, uint32(i), 18+i*70))...)
		want = append(want, uint32(i))
	}
	for _, size := range []int{1, 3, 4, 5, 19, 1000, len(all)} {
		synctest.Test(t, func(t *testing.T) {
			near, far := framePipe()
			s := FromStream(near, Link{})
			defer s.Close()
			var r recorder
			s.Attach(r.recv)
			for b := all; len(b) > 0; b = b[min(size, len(b)):] {
				far.Write(b[:min(size, len(b))])
			}
			synctest.Wait()
			require.Equal(t, want, tags(r.all()), "%d bytes at a time", size)
		})
	}
}

func TestHostileLengthsEndAStream(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"too long":        {[]byte{0, 1, 0, 18, 1, 2, 3}, "nic: stream: the peer announces a frame of 65554 bytes: the maximum is 65553"},
		"4 GB":            {[]byte{255, 255, 255, 255}, "nic: stream: the peer announces a frame of 4294967295 bytes: the maximum is 65553"},
		"within a frame":  {prefixed(make([]byte, 60))[:50], "nic: stream: the peer closed the connection within a frame: unexpected EOF"},
		"within a length": {[]byte{0}, "nic: stream: the peer closed the connection within a frame: unexpected EOF"},
		"between frames":  {nil, "nic: stream: EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				s := FromStream(near, Link{})
				down := make(chan error, 1)
				s.NotifyDown(func(err error) { down <- err })
				var r recorder
				s.Attach(r.recv)
				far.Write(append(prefixed(ether(macA, macB, 1, 60)), c.data...))
				far.Close()
				require.EqualError(t, <-down, c.want)
				require.Equal(t, []uint32{1}, tags(r.all()), "the frames before it have arrived")
				require.False(t, s.Link().Up)
				require.NoError(t, s.Close())
			})
		})
	}
}

func TestCloseEndsAStreamThatNobodyReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := FromStream(near, Link{})
		s.Attach(func([]Frame) {})
		done := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := s.Send(one(ether(macB, macA, 1, 60)))
				done <- err
			}()
		}
		synctest.Wait()
		require.Empty(t, done)
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
		require.ErrorIs(t, <-done, net.ErrClosed)
		require.ErrorIs(t, s.Close(), net.ErrClosed)
		far.Close()
	})
}

// onStreamSockets runs a test with an address of each of the two kinds of sockets.
func onStreamSockets(t *testing.T, test func(t *testing.T, network, addr string)) {
	t.Run("unix", func(t *testing.T) {
		needSockets(t, "unix")
		test(t, "unix", filepath.Join(t.TempDir(), "s"))
	})
	t.Run("tcp", func(t *testing.T) {
		needSockets(t, "tcp")
		test(t, "tcp", "127.0.0.1:0")
	})
}

// exchange sends a frame in each direction.
func exchange(t *testing.T, a, b Device, ra, rb *recorder, tag uint32) {
	t.Helper()
	await(t, "both ends are up", func() bool { return a.Link().Up && b.Link().Up })
	a.Send(one(ether(macB, macA, tag, 60)))
	b.Send(one(ether(macA, macB, tag, 60)))
	for _, r := range []*recorder{ra, rb} {
		await(t, "the frame arrives", func() bool {
			all := r.all()
			return len(all) > 0 && tagOf(all[len(all)-1]) == tag
		})
	}
}

func TestAListeningStreamHasOnePeerAfterAnother(t *testing.T) {
	onStreamSockets(t, func(t *testing.T, network, addr string) {
		server, err := OpenStream(StreamConfig{Network: network, Address: addr, Listen: true, Name: "server"})
		require.NoError(t, err)
		defer server.Close()
		require.False(t, server.Link().Up)
		var changes sync.Map
		require.True(t, server.NotifyLink(func() { changes.Store(server.Link().Up, true) }))
		var in recorder
		server.Attach(in.recv)
		n, err := server.Send(one(ether(macB, macA, 1, 60)))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		require.Equal(t, uint64(1), server.Stats().SendDropped, "nobody is there")
		for i := range 3 {
			client, err := OpenStream(StreamConfig{Network: network, Address: server.Addr().String()})
			require.NoError(t, err)
			require.Nil(t, client.Addr())
			require.False(t, client.NotifyLink(func() {}))
			var r recorder
			client.Attach(r.recv)
			exchange(t, server, client, &in, &r, uint32(10+i))
			require.NoError(t, client.Close())
			await(t, "the server notices", func() bool { return !server.Link().Up })
		}
		for _, up := range []bool{true, false} {
			_, ok := changes.Load(up)
			require.True(t, ok, "no report that Up is %v", up)
		}
		// A peer that sends nonsense is disconnected, and the next one is served.
		bad, err := net.Dial(network, server.Addr().String())
		require.NoError(t, err)
		bad.Write([]byte{255, 255, 255, 255})
		_, err = bad.Read(make([]byte, 1))
		require.Error(t, err)
		bad.Close()
		client, err := OpenStream(StreamConfig{Network: network, Address: server.Addr().String()})
		require.NoError(t, err)
		defer client.Close()
		var r recorder
		client.Attach(r.recv)
		exchange(t, server, client, &in, &r, 99)
		require.NoError(t, server.Close())
		await(t, "the client fails", func() bool { return client.Err() != nil })
		require.ErrorIs(t, client.Err(), io.EOF)
	})
}

// A failingListener is a Listener whose first Accepts fail, as they do if the process has too many open files.
type failingListener struct {
	failures int
	conns    chan net.Conn // closed by Close
}

func (l *failingListener) Accept() (net.Conn, error) {
	if l.failures > 0 {
		l.failures--
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	c, ok := <-l.conns
	if !ok {
		return nil, &net.OpError{Op: "accept", Net: "unix", Err: net.ErrClosed}
	}
	return c, nil
}

func (l *failingListener) Close() error {
	close(l.conns)
	return nil
}

func (l *failingListener) Addr() net.Addr { return &net.UnixAddr{} }

func TestAListeningStreamOutlivesFailedAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := &failingListener{failures: 5, conns: make(chan net.Conn, 1)}
		s := newListeningStream(ln, Link{Name: "server", MTU: 1500, MAC: macA})
		var r recorder
		s.Attach(r.recv)
		near, far := net.Pipe()
		ln.conns <- near
		far.Write(prefixed(ether(macA, macB, 1, 60)))
		synctest.Wait()
		require.Equal(t, []uint32{1}, tags(r.all()))
		require.NoError(t, s.Err())
		far.Close()
		require.NoError(t, s.Close())
	})
}

func TestAStreamRedialsUntilItIsClosed(t *testing.T) {
	needSockets(t, "unix")
	path := filepath.Join(t.TempDir(), "s")
	listen := func() *Stream {
		s, err := OpenStream(StreamConfig{Network: "unix", Address: path, Listen: true})
		require.NoError(t, err)
		return s
	}
	server := listen()
	client, err := OpenStream(StreamConfig{Network: "unix", Address: path, Redial: time.Millisecond})
	require.NoError(t, err)
	var in recorder
	require.True(t, client.NotifyLink(nil))
	client.Attach(in.recv)
	for i := range 3 {
		var r recorder
		server.Attach(r.recv)
		exchange(t, client, server, &in, &r, uint32(i))
		require.NoError(t, server.Close())
		await(t, "the client notices", func() bool {
			client.Send(one(ether(macB, macA, 1, 60)))
			return !client.Link().Up
		})
		require.NoError(t, client.Err())
		server = listen()
	}
	require.NoError(t, server.Close())
	require.NoError(t, client.Close())
	require.ErrorIs(t, client.Err(), net.ErrClosed)
}

func TestAListeningStreamReplacesADeadSocketOnly(t *testing.T) {
	needSockets(t, "unix")
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	ln.SetUnlinkOnClose(false)
	cfg := StreamConfig{Network: "unix", Address: path, Listen: true}
	_, err = OpenStream(cfg)
	require.ErrorContains(t, err, "address already in use")
	ln.Close()
	s, err := OpenStream(cfg)
	require.NoError(t, err)
	require.NoError(t, s.Close(), "before Attach")
	require.NoFileExists(t, path)

	require.NoError(t, os.WriteFile(path, []byte("precious"), 0o600))
	_, err = OpenStream(cfg)
	require.ErrorContains(t, err, "address already in use")
	require.FileExists(t, path)
}

func TestBadStreamConfigsSayWhatIsWrong(t *testing.T) {
	for want, cfg := range map[string]StreamConfig{
		`unknown network "udp": it is unix or tcp`:         {Network: "udp"},
		"the path of the socket is empty":                  {Network: "unix"},
		`"localhost:1" is not an IP address with a port`:   {Network: "tcp", Address: "localhost:1"},
		"bad MTU 65536: it is not in the range 1 to 65535": {Network: "unix", Address: "/nowhere/s", MTU: 65536},
	} {
		_, err := OpenStream(cfg)
		require.EqualError(t, err, "nic: open stream device: "+want)
	}
	needSockets(t, "unix")
	_, err := OpenStream(StreamConfig{Network: "unix", Address: "/nowhere/s"})
	if runtime.GOOS == "windows" {
		require.ErrorContains(t, err, "nic: open stream device: dial unix /nowhere/s: connect: ") // the rest is Winsock's
		return
	}
	require.EqualError(t, err, "nic: open stream device: dial unix /nowhere/s: connect: no such file or directory")
}

// FuzzStream passes what a peer sends, in pieces. The device must pass on the same frames however the
// data is cut, and its memory is bounded.
func FuzzStream(f *testing.F) {
	f.Add(prefixed(ether(macA, macB, 1, 60), ether(macA, macB, 2, 1514)), uint16(7))
	f.Add([]byte{255, 255, 255, 255, 0}, uint16(1))
	f.Add(append(prefixed(make([]byte, 3), nil), 0, 0, 0, 9), uint16(2))
	f.Fuzz(func(t *testing.T, b []byte, size uint16) {
		whole, wholeErr := readAll(b, len(b)+1)
		pieces, piecesErr := readAll(b, int(size)%1000+1)
		require.Equal(t, whole, pieces)
		require.Equal(t, wholeErr.Error(), piecesErr.Error())
	})
}

// readAll returns the frames that a streamPeer reads from b, with at most size bytes in each Read, and
// the error that ended it.
func readAll(b []byte, size int) (frames [][]byte, err error) {
	p := newStreamPeer(Link{MTU: 1500})
	p.conn = &slowStream{b: b, size: size}
	for err == nil {
		var batch []Frame
		batch, _, err = p.read()
		for i := range batch {
			frames = append(frames, batch[i].AppendTo(nil))
		}
		if len(p.buf) > streamRead {
			return frames, errors.New("the buffer grew")
		}
	}
	return frames, err
}

// slowStream is a stream that returns at most size bytes in each Read.
type slowStream struct {
	b    []byte
	size int
}

func (p *slowStream) Read(b []byte) (int, error) {
	if len(p.b) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.b[:min(p.size, len(p.b))])
	p.b = p.b[n:]
	return n, nil
}

func (p *slowStream) Write(b []byte) (int, error) { return len(b), nil }
func (p *slowStream) Close() error                { return nil }
