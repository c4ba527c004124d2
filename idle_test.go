//go:build !race

// The race detector makes all objects larger, so these tests do not run under it.

package usernet

import (
	"io"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// idleBytes is the maximum memory of one end of an idle connection: the connection, its table
// entry, and the net.Conn.
const idleBytes = 1024

// heap returns the size of the reachable heap.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// dialMany makes n connections and returns both ends of each.
func dialMany(t testing.TB, a, b *Host, n int) []net.Conn {
	ln, err := b.Listen("tcp", addrB+":0")
	require.NoError(t, err)
	defer ln.Close()
	all := make([]net.Conn, 0, 2*n)
	for range n {
		c, err := a.Dial("tcp", ln.Addr().String())
		require.NoError(t, err)
		d, err := ln.Accept()
		require.NoError(t, err)
		all = append(all, c, d)
	}
	return all
}

func TestAnIdleConnectionHoldsLittleMemory(t *testing.T) {
	const n = 4_000
	use := func(t *testing.T, c, d net.Conn) {
		var b [3000]byte
		for range 2 {
			_, err := c.Write(b[:])
			require.NoError(t, err)
			_, err = io.ReadFull(d, b[:])
			require.NoError(t, err)
			c, d = d, c
		}
	}
	for _, use := range []struct {
		name string
		once func(t *testing.T, c, d net.Conn) // use of the connection before it is idle
		wait time.Duration
		link nic.Impairment // with a latency, Dial and Read block
	}{
		{"never used", nil, 3 * time.Second, nic.Impairment{}},
		{"never used, and waited for", nil, 3 * time.Second, nic.Impairment{Latency: time.Millisecond}},
		{"kept alive", nil, 40 * time.Second, nic.Impairment{}},
		{"used", use, 40 * time.Second, nic.Impairment{}},
		{"used, and waited for", use, 40 * time.Second, nic.Impairment{Latency: time.Millisecond}},
	} {
		t.Run(use.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newPair(t)
				if use.link != (nic.Impairment{}) {
					a, b = newImpairedPair(t, use.link)
				}
				// First let the hosts allocate the memory that all connections share.
				for _, c := range dialMany(t, a, b, 1) {
					c.Close()
				}
				time.Sleep(2 * time.Minute)
				before := heap()
				var conns []net.Conn
				for range n / 10 {
					ten := dialMany(t, a, b, 10)
					for i := 0; use.once != nil && i < len(ten); i += 2 {
						use.once(t, ten[i], ten[i+1])
					}
					conns = append(conns, ten...)
					time.Sleep(10 * time.Millisecond) // otherwise all keep-alive probes would coincide
				}
				time.Sleep(use.wait)
				// An element of conns has 16 bytes.
				each := (heap() - before - int64(16*cap(conns))) / int64(len(conns))
				t.Logf("%d bytes", each)
				require.LessOrEqual(t, each, int64(idleBytes))
				for _, c := range conns {
					c.Close()
				}
			})
		})
	}
}

func TestADeadlineOfEachRequestCostsNoMemory(t *testing.T) {
	a, b := newPair(t)
	c, _ := connect(t, a, b, addrB)
	past := time.Unix(1, 0)
	require.Zero(t, testing.AllocsPerRun(100, func() { // as net/http does
		c.SetReadDeadline(past)
		c.SetReadDeadline(time.Time{})
	}))
	c.SetReadDeadline(time.Now().Add(time.Hour))
	require.Zero(t, testing.AllocsPerRun(100, func() {
		c.SetReadDeadline(past)
		c.SetReadDeadline(time.Time{})
		c.SetReadDeadline(time.Now().Add(time.Hour))
	}))
}

// A short connection takes ten allocations: for both ends, their addresses in net's form, and the state
// of the dial. Package net over the kernel makes twenty.
func TestAShortConnectionAllocatesLittle(t *testing.T) {
	a, b := newPair(t)
	ln, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	addr, buf := net.JoinHostPort(addrB, "80"), make([]byte, 1)
	exchange := func() {
		c, err := a.Dial("tcp", addr)
		require.NoError(t, err)
		s, err := ln.Accept()
		require.NoError(t, err)
		for _, way := range [2][2]net.Conn{{c, s}, {s, c}} {
			way[0].Write(buf)
			way[1].Read(buf)
		}
		s.Close()
		_, err = c.Read(buf)
		require.ErrorIs(t, err, io.EOF)
		c.Close()
	}
	for range 100 {
		exchange()
	}
	require.LessOrEqual(t, testing.AllocsPerRun(500, exchange), 11.0)
}

// BenchmarkSetUpBesideIdleConnections shows that a new connection costs the same with and without idle
// connections.
func BenchmarkSetUpBesideIdleConnections(b *testing.B) {
	for _, idle := range []int{0, 10_000} {
		b.Run(strconv.Itoa(idle), func(b *testing.B) {
			x, y := newPair(b)
			conns := dialMany(b, x, y, idle)
			ln, err := y.Listen("tcp", addrB+":80")
			require.NoError(b, err)
			b.ReportAllocs()
			for b.Loop() {
				c, err := x.Dial("tcp", addrB+":80")
				require.NoError(b, err)
				d, err := ln.Accept()
				require.NoError(b, err)
				c.Close()
				d.Close()
			}
			runtime.KeepAlive(conns)
		})
	}
}

// A connection that io.Copy reads from holds no buffer while no data arrives, whether it copies to
// another connection or back to the same one.
func TestAnIdleCopyHoldsNoBuffer(t *testing.T) {
	const n = 500
	for name, start := range map[string]func(c net.Conn){
		"io.Copy": func(c net.Conn) { io.Copy(c, c) },
		"ReadFrom a limited reader": func(c net.Conn) {
			c.(*TCPConn).ReadFrom(io.LimitReader(c, 1<<30))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newPair(t)
				measure := func(n int) (int64, []net.Conn) {
					conns := dialMany(t, a, b, n)
					for i := 0; i < len(conns); i += 2 {
						go start(conns[i+1])
					}
					var buf [3000]byte
					for i := 0; i < len(conns); i += 2 {
						for range 2 { // each connection has been in use
							_, err := conns[i].Write(buf[:])
							require.NoError(t, err)
							_, err = io.ReadFull(conns[i], buf[:])
							require.NoError(t, err)
							time.Sleep(time.Millisecond)
						}
					}
					time.Sleep(40 * time.Second)
					return heap(), conns
				}
				before, first := measure(1)
				after, conns := measure(n)
				each := (after - before) / n
				t.Logf("%d bytes", each)
				require.Less(t, each, int64(2*idleBytes+1024))
				for _, c := range append(conns, first...) {
					c.Close()
				}
			})
		})
	}
}

// A sniffedConn is a kernel connection whose first bytes have been read before, as by a proxy that detects the
// protocol.
type sniffedConn struct {
	*net.UnixConn // which has no WriteTo
	r             io.Reader
}

func (c *sniffedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// ReadFrom also holds no buffer while it waits for a connection of package net. A proxy may have many
// such connections.
func TestReadFromAnIdleSystemConnHoldsNoBuffer(t *testing.T) {
	switch runtime.GOOS {
	case "windows", "js", "wasip1", "plan9":
		t.Skip("the system cannot be asked for data without reading it")
	}
	dir := t.TempDir()
	systemPair := func(network, addr string) (near, far net.Conn) {
		ln, err := net.Listen(network, addr)
		require.NoError(t, err)
		defer ln.Close()
		far, err = net.Dial(network, ln.Addr().String())
		require.NoError(t, err)
		t.Cleanup(func() { far.Close() })
		near, err = ln.Accept()
		require.NoError(t, err)
		t.Cleanup(func() { near.Close() })
		return near, far
	}
	// waits reports whether a goroutine waits for a descriptor to become readable.
	waits := func() bool {
		buf := make([]byte, 1<<20)
		return strings.Contains(string(buf[:runtime.Stack(buf, true)]), "usernet.(*systemSource).next")
	}
	a, b := newPair(t)
	for name, tc := range map[string]struct {
		network, addr string
		copy          func(dst *TCPConn, src net.Conn) (int64, error)
	}{
		"TCP":                 {"tcp4", "127.0.0.1:0", func(dst *TCPConn, src net.Conn) (int64, error) { return dst.ReadFrom(src) }},
		"io.Copy":             {"tcp4", "127.0.0.1:0", func(dst *TCPConn, src net.Conn) (int64, error) { return io.Copy(dst, src) }},
		"unix":                {"unix", dir + "/1", func(dst *TCPConn, src net.Conn) (int64, error) { return io.Copy(dst, src) }},
		"a limited reader of": {"unix", dir + "/2", func(dst *TCPConn, src net.Conn) (int64, error) { return dst.ReadFrom(io.LimitReader(src, 1<<20)) }},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := systemPair(tc.network, tc.addr)
			c, d := connect(t, a, b, addrB)
			done := make(chan error, 1)
			begin := func() {
				go func() {
					_, err := tc.copy(c, near)
					done <- err
				}()
			}
			begin()
			buf := make([]byte, 100_000)
			pass := func(n int) {
				_, err := far.Write(buf[:n])
				require.NoError(t, err)
				_, err = io.ReadFull(d, buf[:n])
				require.NoError(t, err)
			}
			for _, n := range []int{3000, 1, 100_000, 4096, 10} {
				pass(n)
				require.Eventually(t, waits, time.Minute, time.Millisecond, "after %d bytes", n)
			}
			// A deadline and the end of the stream are noticed during the wait, too.
			require.NoError(t, near.SetReadDeadline(time.Unix(1, 0)))
			require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
			require.NoError(t, near.SetReadDeadline(time.Time{}))
			begin()
			pass(5000)
			require.Eventually(t, waits, time.Minute, time.Millisecond)
			require.NoError(t, far.Close())
			require.NoError(t, <-done)
		})
	}
	t.Run("a reset", func(t *testing.T) {
		near, far := systemPair("tcp4", "127.0.0.1:0")
		c, _ := connect(t, a, b, addrB)
		done := make(chan error, 1)
		go func() {
			_, err := c.ReadFrom(near)
			done <- err
		}()
		require.Eventually(t, waits, time.Minute, time.Millisecond)
		require.NoError(t, far.(*net.TCPConn).SetLinger(0))
		require.NoError(t, far.Close())
		err := <-done
		require.ErrorIs(t, err, syscall.ECONNRESET, "a reset is not the end of the stream")
		require.ErrorContains(t, err, "read tcp "+near.LocalAddr().String()+"->"+near.RemoteAddr().String()+": read: connection reset by peer")
	})
	near, _ := systemPair("unix", dir+"/3")
	c, d := connect(t, a, b, addrB)
	go c.ReadFrom(&sniffedConn{near.(*net.UnixConn), io.MultiReader(strings.NewReader("first"), near)})
	require.NoError(t, d.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err := io.ReadFull(d, make([]byte, 5))
	require.NoError(t, err, "the bytes that were read before are copied at once")
}

// A slowReader provides data in portions of the given sizes. A Read returns bytes of one portion only. The
// reader records the size of the largest buffer and of the last buffer that Read got.
type slowReader struct {
	portions   []int
	most, last int
}

func (r *slowReader) Read(p []byte) (int, error) {
	r.most, r.last = max(r.most, len(p)), len(p)
	if len(r.portions) == 0 {
		return 0, io.EOF
	}
	n := min(r.portions[0], len(p))
	if r.portions[0] -= n; r.portions[0] == 0 {
		r.portions = r.portions[1:]
	}
	return n, nil
}

func TestReadFromTakesABufferThatSuitsItsSource(t *testing.T) {
	for name, tc := range map[string]struct {
		portions   []int
		most, last int
	}{
		"few bytes at a time":     {[]int{100, 1000, 3000}, 4 << 10, 4 << 10},
		"much at once":            {[]int{1 << 20}, 64 << 10, 16 << 10},
		"much, and then a little": {[]int{1 << 20, 1, 1, 1}, 64 << 10, 4 << 10},
		"10,000 bytes at a time":  {[]int{10_000, 10_000}, 16 << 10, 4 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := newPair(t)
			c, d := connect(t, a, b, addrB)
			r := &slowReader{portions: tc.portions}
			want := int64(0)
			for _, n := range tc.portions {
				want += int64(n)
			}
			go func() {
				n, err := c.ReadFrom(r)
				require.NoError(t, err)
				require.Equal(t, want, n)
				c.Close()
			}()
			n, err := io.Copy(io.Discard, d)
			require.NoError(t, err)
			require.Equal(t, want, n)
			require.Equal(t, tc.most, r.most)
			require.Equal(t, tc.last, r.last)
		})
	}
}

// Only a call of ReadFrom allocates, not the data that passes.
func TestReadFromAllocatesNothingPerRead(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	var feed [100_000]byte
	pass := make(chan int)
	ready := make(chan struct{})
	go func() {
		left := 0
		c.ReadFrom(readerFunc(func(p []byte) (int, error) {
			if left == 0 {
				ready <- struct{}{}
				if left = <-pass; left == 0 {
					return 0, io.EOF
				}
			}
			n := min(left, len(p))
			left -= n
			return n, nil
		}))
	}()
	round := func() {
		<-ready
		pass <- len(feed)
		io.ReadFull(s, feed[:])
	}
	for range 100 {
		round()
	}
	require.Zero(t, testing.AllocsPerRun(200, round))
	<-ready
	pass <- 0
}

// This test needs sync.Pool to keep items. Under the race detector a Pool drops items at random.
func TestReadFromAndWriteToDoNotAllocateBuffers(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	data, buf := make([]byte, 32<<10), make([]byte, 32<<10)
	avg := testing.AllocsPerRun(100, func() {
		if _, err := c.ReadFrom(io.LimitReader(zeros{}, int64(len(data)))); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(s, buf); err != nil {
			t.Error(err)
		}
	})
	require.LessOrEqual(t, avg, 4.0, "small readers and writers that hide methods are allocated, and no buffer")
}
