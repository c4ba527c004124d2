package nic

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

func TestAnAdapterReadsAndWritesFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := framePipe()
		a := FromReadWriter(near, Link{MAC: macA, GSO: 65535, TxChecksum: true})
		require.Equal(t, Link{Name: "adapter", MAC: macA, MTU: 1500, Up: true}, a.Link())
		var r recorder
		a.Attach(r.recv)
		b := ether(macB, macA, 1, 100)
		n, err := a.Send([]Frame{{Head: b[:20], Body: b[20:]}, {Head: ether(macB, macA, 2, 60)}})
		require.NoError(t, err)
		require.Equal(t, 2, n)
		buf := make([]byte, 2000)
		n, _ = far.Read(buf)
		require.Equal(t, b, buf[:n])
		n, _ = far.Read(buf)
		require.Equal(t, uint32(2), tagOf(buf[:n]))

		far.Write(ether(macA, macB, 3, 1514))
		far.Write(ether(macA, macB, 4, 1518))
		far.Write(ether(macA, macB, 5, 1519)) // too long for the reader's buffer, so truncated
		far.Write(make([]byte, 13))
		synctest.Wait()
		require.Equal(t, []uint32{3, 4}, tags(r.all()))
		require.Equal(t, Stats{
			Sent: 2, SentBytes: 160, Received: 2, ReceivedBytes: 1514 + 1518, RecvDropped: 2,
		}, a.Stats())
		require.NoError(t, a.Err())
		require.NoError(t, a.Close())
		require.ErrorIs(t, a.Err(), net.ErrClosed)
	})
}

func TestAnAdapterEndsWithItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := framePipe()
		a := FromReadWriter(near, Link{Name: "wire"})
		var errs []error
		a.NotifyDown(func(err error) { errs = append(errs, err) })
		a.Attach(func([]Frame) {})
		far.Close()
		synctest.Wait()
		require.Len(t, errs, 1)
		require.ErrorIs(t, errs[0], io.EOF)
		require.EqualError(t, errs[0], "nic: wire: EOF")
		require.Equal(t, errs[0], a.Err())
		require.False(t, a.Link().Up)
		_, err := a.Send(one(ether(macB, macA, 1, 60)))
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, a.Close())
		_, err = a.Send(nil)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestCloseIsNoFailureOfAnAdapter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := framePipe()
		a := FromReadWriter(near, Link{})
		a.NotifyDown(func(err error) { t.Errorf("reported down: %v", err) })
		a.Attach(func([]Frame) {})
		synctest.Wait()
		require.NoError(t, a.Close())
		synctest.Wait()
	})
}

// script is a ReadWriteCloser whose Read and Write call functions of the test.
type script struct {
	frameEnd
	read  func([]byte) (int, error)
	write func([]byte) (int, error)
}

func (s *script) Read(b []byte) (int, error) {
	if s.read != nil {
		return s.read(b)
	}
	return s.frameEnd.Read(b)
}

func (s *script) Write(b []byte) (int, error) { return s.write(b) }

func newScript() *script {
	near, _ := framePipe()
	return &script{frameEnd: *near}
}

func TestAFailedWriteEndsAnAdapterButForATimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		a := FromReadWriter(s, Link{})
		a.Attach(func([]Frame) {})
		batch := []Frame{{Head: ether(macB, macA, 1, 60)}, {Head: ether(macB, macA, 2, 60)}}
		s.write = func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded }
		n, err := a.Send(batch)
		require.NoError(t, err)
		require.Equal(t, 2, n)
		s.write = func([]byte) (int, error) { return 1, nil }
		_, err = a.Send(batch)
		require.NoError(t, err)
		require.Equal(t, Stats{SendDropped: 4}, a.Stats())

		broken := errors.New("broken")
		writes := 0
		s.write = func(b []byte) (int, error) {
			if writes++; writes == 2 {
				return 0, broken
			}
			return len(b), nil
		}
		n, err = a.Send(batch)
		require.ErrorIs(t, err, broken)
		require.Equal(t, 1, n)
		synctest.Wait() // wait until the reader has ended
		require.ErrorIs(t, a.Err(), broken)
		require.False(t, a.Link().Up)
	})
}

func TestAnAdapterDoesNotSpinOnAReaderThatReturnsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		s.read = func([]byte) (int, error) { return 0, nil }
		a := FromReadWriter(s, Link{})
		a.Attach(func([]Frame) {})
		synctest.Wait()
		require.ErrorIs(t, a.Err(), io.ErrNoProgress)
	})
}

func TestWritesOfAnAdapterAreMadeOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newScript()
		enter, leave := make(chan struct{}, 9), make(chan struct{})
		s.write = func(b []byte) (int, error) {
			enter <- struct{}{}
			<-leave
			return len(b), nil
		}
		a := FromReadWriter(s, Link{})
		a.Attach(func([]Frame) {})
		for range 3 {
			go a.Send(one(ether(macB, macA, 1, 60)))
		}
		for i := range 3 {
			synctest.Wait()
			require.Len(t, enter, i+1)
			leave <- struct{}{}
		}
		synctest.Wait()
		require.NoError(t, a.Close())
	})
}

func TestFramesGoThroughFunctions(t *testing.T) {
	var out [][]byte
	var fail error
	d := FromFuncs(Link{Name: "mine", MAC: macA}, func(b []byte) error {
		out = append(out, append([]byte(nil), b...))
		return fail
	})
	require.Equal(t, Link{Name: "mine", MAC: macA, MTU: 1500, Up: true}, d.Link())
	require.NoError(t, d.Receive(ether(macA, macB, 0, 60)))
	require.Equal(t, uint64(1), d.Stats().RecvDropped, "before Attach")
	var r recorder
	d.Attach(r.recv)
	b := ether(macB, macA, 1, 100)
	n, err := d.Send([]Frame{{Head: b[:14], Body: b[14:]}, {Head: b}})
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, [][]byte{b, b}, out)

	require.NoError(t, d.Receive(b))
	require.NoError(t, d.Receive(make([]byte, 1515)))
	require.NoError(t, d.Receive(nil))
	require.Equal(t, [][]byte{b}, r.all())
	require.Equal(t, Stats{Sent: 2, SentBytes: 200, Received: 1, ReceivedBytes: 100, RecvDropped: 3}, d.Stats())

	fail = errors.New("gone")
	n, err = d.Send(one(b))
	require.Zero(t, n)
	require.Equal(t, fail, err)
	require.NoError(t, d.Close())
	require.ErrorIs(t, d.Receive(b), net.ErrClosed)
}

func TestFuncDeviceDoesNotAllocatePerFrame(t *testing.T) {
	d := FromFuncs(Link{}, func([]byte) error { return nil })
	d.Attach(func([]Frame) {})
	b := ether(macA, macB, 1, 100)
	batch := []Frame{{Head: b[:14], Body: b[14:]}}
	allocs := testing.AllocsPerRun(100, func() {
		d.Receive(b)
		d.Send(batch)
	})
	if !raceEnabled {
		require.Zero(t, allocs)
	}
}
