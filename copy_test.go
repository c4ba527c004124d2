package usernet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A bodySpy is an end of a pipe that records where the bodies of sent frames are in memory.
type bodySpy struct {
	*nic.PipeEnd
	mu     sync.Mutex
	bodies []span
}

// A span is a part of memory.
type span struct {
	at uintptr
	n  int
}

func spanOf(p []byte) span { return span{uintptr(unsafe.Pointer(unsafe.SliceData(p))), len(p)} }

func (d *bodySpy) Send(batch []nic.Frame) (int, error) {
	d.mu.Lock()
	for i := range batch {
		if b := batch[i].Body; len(b) > 0 {
			d.bodies = append(d.bodies, spanOf(b))
		}
	}
	d.mu.Unlock()
	return d.PipeEnd.Send(batch)
}

// within returns how many bytes of the recorded bodies are in one of the spans.
func (d *bodySpy) within(spans []span) (n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, b := range d.bodies {
		for _, s := range spans {
			if s.at <= b.at && b.at+uintptr(b.n) <= s.at+uintptr(s.n) {
				n += b.n
				break
			}
		}
	}
	return n
}

// newSpiedPair is newPair with a spy on the end of a.
func newSpiedPair(t *testing.T) (a, b *Host, spy *bodySpy) {
	ea, eb := nic.Pipe(nic.PipeConfig{})
	spy = &bodySpy{PipeEnd: ea}
	return newHost(t, spy, addrA), newHost(t, eb, addrB), spy
}

// A recordingReader records the memory that it reads into. It has no WriteTo.
type recordingReader struct {
	r     io.ReadSeeker
	spans []span
}

func (r *recordingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.spans = append(r.spans, spanOf(p[:n]))
	return n, err
}

func (r *recordingReader) Seek(off int64, from int) (int64, error) { return r.r.Seek(off, from) }

func TestReadFromSendsFromTheMemoryThatItReadsInto(t *testing.T) {
	a, b, spy := newSpiedPair(t)
	c, s := connect(t, a, b, addrB)
	want := text(1 << 20)
	r := &recordingReader{r: bytes.NewReader(want)}
	go func() {
		n, err := c.ReadFrom(r)
		require.NoError(t, err)
		require.EqualValues(t, len(want), n)
		c.Close()
	}()
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.Greater(t, spy.within(r.spans), len(want)*9/10)
}

// http.ServeContent calls ReadFrom by io.CopyN.
func TestServeContentSendsFromTheMemoryThatItReadsInto(t *testing.T) {
	a, b, spy := newSpiedPair(t)
	want := text(1 << 20)
	r := &recordingReader{r: bytes.NewReader(want)}
	s := newSite(t, b, a, addrA, false, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		http.ServeContent(w, req, "x.bin", time.Time{}, r)
	}))
	resp, err := s.client.Get(s.url)
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got))
	require.Greater(t, spy.within(r.spans), len(want)*9/10)
}

func TestServeContentReadsAFileInLargeParts(t *testing.T) {
	f, err := os.Open("copy_test.go") // not a temporary file: wine cannot remove it from its directory
	require.NoError(t, err)
	defer f.Close()
	src := newCopySource(&io.LimitedReader{R: f, N: 1 << 20})
	require.Equal(t, copyBuffer, copySize(src.firstClass()))
	src = newCopySource(&io.LimitedReader{R: f, N: 5000})
	require.Equal(t, 16<<10, copySize(src.firstClass()))
	src = newCopySource(f) // which may be a pipe
	require.Zero(t, src.firstClass())
}

// A proxy from one host to another sends from the memory of the receive buffer.
func TestAProxyDoesNotCopyInAProcess(t *testing.T) {
	a, b, spy := newSpiedPair(t)
	x, y := newPair(t)
	far, in := connect(t, x, y, addrB)
	out, s := connect(t, a, b, addrB)
	want := text(300_000)
	require.NoError(t, in.SetReadBuffer(1<<20))
	_, err := far.Write(want)
	require.NoError(t, err)
	require.NoError(t, far.CloseWrite())
	require.Eventually(t, func() bool { return in.tcp.Info().BytesReceived == uint64(len(want)) }, time.Minute, time.Millisecond)
	p, q, storage := in.tcp.Take()
	require.Len(t, append(append([]byte(nil), p...), q...), len(want))
	sink := copySink{conn: out}
	done := make(chan error, 1)
	go func() {
		_, err := sink.write(in.tcp, p, q, storage)
		out.Close()
		done <- err
	}()
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.NoError(t, <-done)
	require.True(t, bytes.Equal(want, got))
	require.Greater(t, spy.within([]span{spanOf(storage)}), len(want)*9/10)
	require.Eventually(t, func() bool { return y.Stats().TCP.Memory == 0 }, time.Minute, time.Millisecond, "the storage is free")
}

// A sink that panics, as one in a handler of net/http may, must not keep memory of the host.
func TestASinkThatPanicsKeepsNoMemory(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	_, err := c.Write(text(50_000))
	require.NoError(t, err)
	require.PanicsWithValue(t, "sink", func() {
		s.WriteTo(writerFunc(func(p []byte) (int, error) { panic("sink") }))
	})
	require.NoError(t, s.Close())
	require.Eventually(t, func() bool { return b.Stats().TCP.Memory == 0 }, time.Minute, time.Millisecond)
}

// A source that panics, or that reports more bytes than it may have read, fails as with io.Copy. The connection stays
// usable.
func TestASourceThatPanicsDoesNoHarm(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	calls := 0
	require.Panics(t, func() {
		c.ReadFrom(readerFunc(func(p []byte) (int, error) {
			if calls++; calls < 5 {
				return copy(p, text(len(p))), nil
			}
			panic("source")
		}))
	})
	require.Panics(t, func() {
		c.ReadFrom(readerFunc(func(p []byte) (int, error) { return 1 << 20, nil }))
	})
	n, err := c.ReadFrom(readerFunc(func(p []byte) (int, error) { return -1, io.EOF }))
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Len(t, got, (4+16+64+64)<<10)
	require.Eventually(t, func() bool { return a.Stats().TCP.Memory == 0 }, time.Minute, time.Millisecond)
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// While the source blocks, ReadFrom holds no lock: everything else on the connection goes on.
func TestASourceThatBlocksDelaysNothingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t)
		c, s := connect(t, a, b, addrB)
		r, w := io.Pipe()
		done := make(chan error, 1)
		go func() {
			_, err := c.ReadFrom(r)
			done <- err
		}()
		w.Write(text(20_000))
		_, err := c.Write([]byte("between"))
		require.NoError(t, err)
		w.Write(text(30_000))
		synctest.Wait()
		buf := make([]byte, 50_007)
		_, err = io.ReadFull(s, buf)
		require.NoError(t, err)
		require.True(t, bytes.Contains(buf, []byte("between")))
		require.NoError(t, c.SetWriteDeadline(time.Now().Add(time.Hour)))
		_, err = s.Write([]byte("back"))
		require.NoError(t, err)
		_, err = c.Read(buf)
		require.NoError(t, err)
		time.Sleep(time.Minute)
		require.Zero(t, a.Stats().TCP.Memory, "a connection that waits for its source has no charged memory")
		require.NoError(t, c.Close())
		select {
		case <-done:
			t.Error("ReadFrom waits for its source")
		default:
		}
		w.Write([]byte("late"))
		require.ErrorIs(t, <-done, net.ErrClosed)
		_, err = io.ReadAll(s)
		require.NoError(t, err)
		r.Close()
	})
}

func TestReadFromALimitedSystemConnTakesNoMore(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	far, err := net.Dial("tcp4", ln.Addr().String())
	require.NoError(t, err)
	defer far.Close()
	near, err := ln.Accept()
	require.NoError(t, err)
	defer near.Close()
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	_, err = far.Write([]byte("0123456789"))
	require.NoError(t, err)
	inner := &io.LimitedReader{R: near, N: 8}
	outer := &io.LimitedReader{R: inner, N: 4}
	n, err := c.ReadFrom(outer)
	require.NoError(t, err)
	require.EqualValues(t, 4, n)
	require.Zero(t, outer.N)
	require.EqualValues(t, 4, inner.N)
	n, err = c.ReadFrom(inner)
	require.NoError(t, err)
	require.EqualValues(t, 4, n)
	require.NoError(t, far.Close())
	n, err = c.ReadFrom(near)
	require.NoError(t, err)
	require.EqualValues(t, 2, n)
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Equal(t, "0123456789", string(got))
}

// FuzzReadFrom compares ReadFrom with a plain copy. Each byte of the script is what the source does: it provides
// bytes, none, or an error, or first writes to the connection beside ReadFrom or sets its deadline.
func FuzzReadFrom(f *testing.F) {
	f.Add([]byte{1, 200, 0, 255, 7, 7, 240, 100}, uint8(0))
	f.Add([]byte{255, 255, 255, 255, 255, 250, 3, 241, 90}, uint8(1))
	f.Add(bytes.Repeat([]byte{255, 130, 242, 99}, 20), uint8(2))
	f.Add([]byte{128, 244, 128, 243, 5}, uint8(0))
	f.Fuzz(func(t *testing.T, script []byte, link uint8) {
		script = script[:min(len(script), 60)]
		synctest.Test(t, func(t *testing.T) { copyByScript(t, script, link) })
	})
}

// copyByScript runs one script of FuzzReadFrom.
func copyByScript(t *testing.T, script []byte, link uint8) {
	imp := []nic.Impairment{{}, {Latency: time.Millisecond, Loss: 0.02}, {Latency: 5 * time.Millisecond, Rate: 50e6}}[link%3]
	a, b := newImpairedPair(t, imp)
	c, s := connect(t, a, b, addrB)
	errSource := errors.New("source")
	var want bytes.Buffer // what a plain copy would have written
	var late atomic.Bool
	next := byte(0)
	give := func(p []byte) {
		for i := range p {
			next = next*5 + 1
			p[i] = next
		}
		if !late.Load() {
			want.Write(p)
		}
	}
	src := readerFunc(func(p []byte) (int, error) {
		if len(script) == 0 {
			return 0, io.EOF
		}
		k := int(script[0])
		script = script[1:]
		switch {
		case k == 240:
			return 0, nil
		case k == 241:
			n := min(len(p), 3000)
			give(p[:n])
			return n, errSource
		case k == 242:
			own := make([]byte, 1+k*int(next)%9000)
			give(own)
			n, err := c.Write(own)
			if !late.Load() {
				require.NoError(t, err)
				require.Equal(t, len(own), n)
			}
			return 0, nil
		case k == 243:
			time.Sleep(2 * time.Second) // the connection becomes idle
			return 0, nil
		case k == 244:
			late.Store(true)
			c.SetWriteDeadline(time.Unix(1, 0))
		case k == 245:
			n := min(len(p), 100)
			give(p[:n])
			return n, io.EOF
		}
		n := min(len(p), 1+k*k)
		give(p[:n])
		return n, nil
	})
	done := make(chan error, 1)
	go func() {
		defer c.CloseWrite()
		for {
			switch _, err := c.ReadFrom(src); {
			case err == nil && len(script) > 0, errors.Is(err, errSource):
			default:
				done <- err
				return
			}
		}
	}()
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	if err := <-done; err != nil {
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.True(t, late.Load())
	}
	require.True(t, bytes.Equal(want.Bytes(), got), "%d of %d bytes", len(got), want.Len())
	c.Close()
	s.Close()
	time.Sleep(10 * time.Minute)
	require.Zero(t, a.Stats().TCP.Memory)
}
