package usernet

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// The fuzzer of whole hosts: two hosts on a wire that the test controls, and callers that do
// anything that a program can do with them. There are three kinds of runs:
//
//   - honest: the wire only loses, repeats, reorders, delays and damages frames. Every conversation
//     arrives whole, whatever the other callers do.
//   - rough: in addition, links come and go, devices fail, and a host may be closed at any time.
//   - hostile: in addition to the honest kind, the wire sends forged frames, made from earlier ones.
//
// In all kinds of runs nothing panics, no call hangs, every frame that a host sends is well formed,
// memory is bounded, and Close returns. After Close nothing is left: no goroutine, timer or socket.
//
// The seed determines a run as far as the scheduler permits: each caller and each end of the wire
// has its own random numbers, and time is virtual. USERNET_SEED=n USERNET_FUZZ_RUNS=1 go test -run
// TestHostsBearAnything -v repeats a run.

// A fuzzKind is a kind of run.
type fuzzKind uint8

const (
	fuzzHonest fuzzKind = iota
	fuzzRough
	fuzzHostile
)

func (k fuzzKind) String() string { return [...]string{"honest", "rough", "hostile"}[k] }

// choices are the source of a caller's decisions. pick uses the bytes of the script first, and random
// numbers afterwards.
type choices struct {
	script []byte
	*rand.Rand
}

// pick returns a number in [0,n).
func (c *choices) pick(n int) int {
	if len(c.script) == 0 {
		return c.IntN(n)
	}
	k := int(c.script[0]) % n
	c.script = c.script[1:]
	return k
}

func (c *choices) chance(p float64) bool { return c.Float64() < p }

// wait sleeps for a random time between two calls.
func (c *choices) wait() {
	time.Sleep(time.Duration(c.Int64N(int64([...]time.Duration{time.Microsecond, time.Millisecond, 100 * time.Millisecond, 10 * time.Second}[c.pick(4)]))))
}

// soon returns a random deadline, which may already have passed.
func (c *choices) soon() time.Time {
	return time.Now().Add(time.Duration(c.Int64N(int64(3*time.Second))) - 100*time.Millisecond)
}

// A fuzzRun is one run.
type fuzzRun struct {
	kind   fuzzKind
	seed   uint64
	wire   *fuzzWire
	hosts  [2]*Host
	forum  *forum
	six    bool // the hosts have IPv6 addresses
	mu     sync.Mutex
	nextID uint64 // of a conversation
	errs   []error
	socks  []func() bool // each reports whether a socket is still in memory
}

// memory returns the memory budget of a host's TCP in a run. It is large in honest runs: under memory
// pressure, TCP aborts connections that the application has closed.
func (k fuzzKind) memory() int64 {
	if k == fuzzHonest {
		return 256 << 20
	}
	return 4 << 20
}

// fuzzCallers is the number of goroutines that make calls in a run.
const fuzzCallers = 8

// fuzzHosts runs one run, in its own bubble.
func fuzzHosts(t *testing.T, seed uint64, kind fuzzKind, script []byte, steps int) {
	watchdog := time.AfterFunc(2*time.Minute, func() { // in real time
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%s\n", buf[:runtime.Stack(buf, true)])
		panic(fmt.Sprintf("run of seed %d, %v, stands still", seed, kind))
	})
	defer watchdog.Stop()
	synctest.Test(t, func(t *testing.T) {
		f := &fuzzRun{kind: kind, seed: seed}
		goroutines := bubbleGoroutines()
		f.open(t)
		var stacks []weak.Pointer[stack.Stack]
		for _, h := range f.hosts {
			stacks = append(stacks, weak.Make(h.stack))
		}
		f.calls(t, script, steps)
		f.close(t)
		require.NoError(t, f.wire.err())
		f.mu.Lock()
		errs := f.errs
		f.mu.Unlock()
		require.Empty(t, errs)
		// The wire may still hold a frame or be in a Send, and the runtime keeps stopped timers
		// until time advances.
		time.Sleep(100 * time.Millisecond)
		require.Equal(t, goroutines, bubbleGoroutines(), "goroutines")
		collect()
		for i, s := range stacks {
			require.Nil(t, s.Value(), "something still refers to host %d", i)
		}
		for _, lives := range f.socks {
			require.False(t, lives(), "something still refers to a socket")
		}
	})
}

// open makes the wire and the hosts.
func (f *fuzzRun) open(t *testing.T) {
	r := rand.New(rand.NewPCG(f.seed, uint64(f.kind)))
	link := nic.Link{MTU: [...]int{68, 576, 1280, 1500, 1500, 9000, 65535}[r.IntN(7)], TxChecksum: r.IntN(3) > 0}
	if link.TxChecksum && r.IntN(4) > 0 {
		link.GSO = [...]int{65535, 16384}[r.IntN(2)]
	}
	link.GSO = max(link.GSO, 0)
	if link.GSO < link.MTU {
		link.GSO = 0
	}
	if r.IntN(6) == 0 {
		link.Medium = nic.IP
	}
	w := newFuzzWire(f.seed, link)
	w.latency = [...]time.Duration{0, 0, 10 * time.Microsecond, time.Millisecond, 30 * time.Millisecond}[r.IntN(5)]
	if w.inline = w.latency == 0 && r.IntN(2) == 0; !w.inline {
		w.reorder = [...]float64{0, 0, 0.1, 0.5}[r.IntN(4)]
	}
	w.loss = [...]float64{0, 0, 0.01, 0.1}[r.IntN(4)]
	w.dup = [...]float64{0, 0, 0.02, 0.3}[r.IntN(4)]
	w.damage = [...]float64{0, 0, 0.05}[r.IntN(3)]
	w.partial = [...]float64{0, 0, 0.02}[r.IntN(3)]
	w.slow = [...]float64{0, 0, 0, 0.02}[r.IntN(4)]
	prefixLen := 24
	if f.kind == fuzzHostile {
		w.forge = [...]float64{0.02, 0.2, 1, 3}[r.IntN(4)]
		prefixLen = [...]int{24, 16}[r.IntN(2)]
	}
	w.raw = true
	f.six = link.MTU >= wire.MinIPv6MTU && r.IntN(2) == 0
	f.wire = w
	f.forum = newForum(f.seed)
	f.forum.tries = 4
	for i := range f.hosts {
		rng := rand.NewChaCha8([32]byte{byte(f.seed), byte(f.seed >> 8), byte(f.seed >> 16), byte(f.seed >> 24), byte(i)})
		var mu sync.Mutex
		var dev nic.Device = w.end[i]
		switch r.IntN(6) {
		case 0:
			dev = nic.Impair(dev, nic.ImpairConfig{Seed: f.seed})
		case 1:
			dev = nic.Capture(dev, io.Discard, nic.CaptureConfig{})
		}
		local := netip.MustParseAddr([...]string{addrA, addrB}[i])
		tcp := stack.TCPConfig{Memory: f.kind.memory(), SynBacklog: 1 + r.IntN(64), TimeWaits: 1 + r.IntN(64)}
		if f.kind == fuzzHonest {
			// With a SYN cookie, a segment that overtakes the handshake's last ACK is answered with
			// a reset, as on the kernel.
			tcp.SynBacklog = 1024
		}
		addrs := []netip.Prefix{netip.PrefixFrom(local, prefixLen)}
		names := map[string][]netip.Addr{"a": {netip.MustParseAddr(addrA)}, "b": {netip.MustParseAddr(addrB)}}
		if f.six {
			addrs = append(addrs, netip.PrefixFrom(netip.MustParseAddr([...]string{addr6A, addr6B}[i]), 64))
			names["a"], names["b"] = append(names["a"], netip.MustParseAddr(addr6A)), append(names["b"], netip.MustParseAddr(addr6B))
		}
		h, err := New(Config{
			NICs: []stack.NIC{{
				Name: "eth0", Device: dev, Addrs: addrs,
				Gateway: netip.MustParseAddr("192.0.2.254"),
			}},
			NoIPv6: !f.six,
			Hosts:  names,
			TCP:    tcp,
			Rand: func(p []byte) {
				mu.Lock()
				defer mu.Unlock()
				rng.Read(p)
			},
		})
		require.NoError(t, err)
		f.hosts[i] = h
	}
	t.Logf("seed %d, %v, %+v, IPv6 %v, latency %v, inline %v, loss %v, dup %v, damage %v, partial %v, slow %v, reorder %v, forge %v",
		f.seed, f.kind, link, f.six, w.latency, w.inline, w.loss, w.dup, w.damage, w.partial, w.slow, w.reorder, w.forge)
}

// calls runs the callers and waits for them.
func (f *fuzzRun) calls(t *testing.T, script []byte, steps int) {
	ln, err := f.hosts[1].Listen("tcp", ":80")
	require.NoError(t, err)
	serving := make(chan struct{})
	go func() {
		defer close(serving)
		f.forum.accept(ln)
	}()
	var wg sync.WaitGroup
	for i := range fuzzCallers {
		part := script[len(script)*i/fuzzCallers : len(script)*(i+1)/fuzzCallers]
		c := &choices{part, rand.New(rand.NewPCG(f.seed, uint64(100+i)))}
		wg.Go(func() {
			for range steps {
				f.call(c)
				c.wait()
			}
		})
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Duration(steps+1) * conversationLimit):
		buf := make([]byte, 1<<20)
		t.Fatalf("a call hangs:\n%s", buf[:runtime.Stack(buf, true)])
	}
	f.forum.accepted()
	ln.Close()
	<-serving
	err = f.forum.end()
	if f.kind == fuzzHonest {
		require.NoError(t, err)
	}
}

// close closes the hosts. It checks that Close returns soon, and that the hosts send nothing
// afterwards.
func (f *fuzzRun) close(t *testing.T) {
	var sends [2]int64
	for i, h := range f.hosts {
		begin := time.Now()
		h.Close()
		require.Less(t, time.Since(begin), time.Minute, "Close of host %d", i)
		require.Zero(t, h.Stats().TCP.Memory, "host %d", i)
		_, err := h.Dial("tcp", addrB+":80")
		require.ErrorIs(t, err, net.ErrClosed)
		sends[i] = f.wire.end[i].sends.Load()
		f.hosts[i] = nil
	}
	for i, e := range f.wire.end {
		e.release()
		synctest.Wait()
		require.Equal(t, sends[i], e.sends.Load(), "host %d sends after Close", i)
		e.recv.Store(nil)
		e.down = nil
	}
}

func (f *fuzzRun) fail(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.errs = append(f.errs, fmt.Errorf(format, args...))
}

// target returns an address with one of a few ports, so that many calls use the same address.
func (c *choices) target() string {
	a := [...]string{addrA, addrB, addrA, addrB, "127.0.0.1", "192.0.2.9", "198.51.100.1", "a", "b", "192.0.2.255", "224.1.2.3",
		addr6A, addr6B, addr6A, addr6B, "::1", "2001:db8::9", "ff02::1"}[c.pick(18)]
	return net.JoinHostPort(a, fmt.Sprint(1000+c.pick(4)))
}

// call makes one random call.
func (f *fuzzRun) call(c *choices) {
	k := c.pick(2)
	h := f.hosts[k]
	switch c.pick(16) {
	case 0, 1, 2:
		f.converse(c)
	case 3, 4:
		f.listen(h, c)
	case 5, 6, 7:
		f.dial(h, c)
	case 8, 9:
		f.datagrams(h, c)
	case 10:
		f.groups(h, c)
	case 11:
		ctx, cancel := context.WithDeadline(context.Background(), c.soon())
		h.Ping(ctx, [...]string{addrA, addrB, "192.0.2.9", "192.0.2.255", "127.0.0.1", addr6A, addr6B, "ff02::1"}[c.pick(8)], PingConfig{
			Count: c.pick(5), Size: c.IntN(1 << c.IntN(17)), Interval: time.Duration(c.IntN(100)-10) * time.Millisecond, TTL: uint8(c.IntN(3)),
		})
		cancel()
	case 12:
		f.rawIP(h, c)
	case 13:
		f.configure(k, c)
	case 14:
		st := h.Stats()
		if st.TCP.Memory < 0 || st.TCP.Memory > 2*f.kind.memory() {
			f.fail("TCP has %d bytes of %d", st.TCP.Memory, f.kind.memory())
		}
		h.Interfaces()
		h.Neighbors()
		h.Routes()
		h.InterfaceAddrs()
		h.LookupHost("a")
		h.LookupAddr(addrB)
		h.ResolveTCPAddr("tcp", "b:80")
	case 15:
		if f.kind == fuzzRough {
			f.disturb(k, c)
		}
	}
}

// converse has a conversation from host 0 to host 1.
func (f *fuzzRun) converse(c *choices) {
	f.mu.Lock()
	id := f.nextID
	f.nextID++
	f.mu.Unlock()
	conv := randomConversation(id, c.Rand, 60_000)
	for i := range conv.side {
		if c.chance(0.2) {
			conv.side[i].fiddlers = 1 + c.pick(3)
		}
		if c.chance(0.1) {
			conv.side[i].end = endRudely
		}
	}
	from, to := f.hosts[0], addrB+":80"
	if f.six && c.chance(0.5) {
		to = net.JoinHostPort(addr6B, "80")
	}
	if c.chance(0.2) { // from host 1 to itself
		from, to = f.hosts[1], [...]string{"127.0.0.1:80", "b:80"}[c.pick(2)]
	}
	f.forum.converse(func() (net.Conn, error) { return from.Dial("tcp", to) }, conv)
}

// remember registers a socket. At its end, the run checks that the socket is no longer in memory.
func remember[T any](f *fuzzRun, p *T) {
	w := weak.Make(p)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.socks = append(f.socks, func() bool { return w.Value() != nil })
}

func (f *fuzzRun) listen(h *Host, c *choices) {
	lc := ListenConfig{Host: h, KeepAlive: time.Duration(c.IntN(3)-1) * time.Second}
	ln, err := lc.Listen(context.Background(), "tcp", fmt.Sprintf(":%d", 1000+c.pick(4)))
	if err != nil {
		return
	}
	var wg sync.WaitGroup
	for range 1 + c.pick(4) {
		ln.(*TCPListener).SetDeadline(c.soon())
		if conn, err := ln.Accept(); err == nil {
			d := &choices{nil, rand.New(rand.NewPCG(c.Uint64(), 5))}
			wg.Go(func() { f.misuse(conn.(*TCPConn), d) })
		}
	}
	ln.Close()
	wg.Wait()
}

func (f *fuzzRun) dial(h *Host, c *choices) {
	d := Dialer{Host: h, Deadline: c.soon()}
	if c.chance(0.2) {
		d.LocalAddr = &net.TCPAddr{Port: 1000 + c.pick(4)}
	}
	if conn, err := d.Dial("tcp", c.target()); err == nil {
		f.misuse(conn.(*TCPConn), c)
	}
}

// misuse makes random calls on a connection, from several goroutines, and closes it.
func (f *fuzzRun) misuse(conn *TCPConn, c *choices) {
	remember(f, conn.tcp)
	var wg sync.WaitGroup
	conn.SetDeadline(time.Now().Add(time.Duration(c.Int64N(int64(20 * time.Second)))))
	for range 1 + c.pick(3) {
		d := &choices{nil, rand.New(rand.NewPCG(c.Uint64(), 6))}
		wg.Go(func() {
			buf := make([]byte, 1+d.IntN(1<<(1+d.IntN(18))))
			for range 1 + d.pick(8) {
				switch d.pick(16) {
				case 0, 1, 2:
					conn.Write(buf)
					clear(buf) // the buffer belongs to the caller again
				case 3, 4, 5:
					conn.Read(buf)
				case 6:
					conn.ReadFrom(&patternReader{c: &conversation{}, total: d.IntN(100_000), chunk: len(buf)})
				case 7:
					conn.WriteTo(&countingWriter{most: d.IntN(100_000)})
				case 8:
					conn.CloseWrite()
				case 9:
					conn.CloseRead()
				case 10:
					conn.SetDeadline(d.soon())
				case 11:
					conn.SetReadBuffer(d.IntN(1 << (1 + d.IntN(24))))
					conn.SetWriteBuffer(d.IntN(1 << (1 + d.IntN(24))))
				case 12:
					conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: time.Duration(d.IntN(5)) * time.Second, Interval: time.Duration(d.IntN(5)) * time.Second, Count: d.IntN(5)})
					conn.SetUserTimeout(time.Duration(d.IntN(5000)) * time.Millisecond)
				case 13:
					conn.SetNoDelay(d.pick(2) == 0)
					conn.SetLinger(d.pick(5) - 1)
					conn.SetTTL(d.pick(256))
					conn.SetTOS(d.pick(256))
				case 14:
					conn.Info()
					conn.LocalAddr()
					conn.RemoteAddr()
				case 15:
					if d.chance(0.3) {
						conn.Close()
					}
				}
				if d.chance(0.3) {
					d.wait()
				}
			}
		})
	}
	wg.Wait()
	switch c.pick(4) {
	case 0:
		conn.SetLinger(0)
	case 1:
		conn.SetLinger(1 + c.pick(3))
	case 2:
		conn.CloseRead()
		conn.CloseWrite()
	}
	conn.Close()
}

// A countingWriter accepts a limited number of bytes.
type countingWriter struct{ most int }

func (w *countingWriter) Write(p []byte) (int, error) {
	if w.most -= len(p); w.most < 0 {
		return 0, os.ErrInvalid
	}
	return len(p), nil
}

// datagramText returns the contents of a datagram of n bytes. The contents depend only on n.
func datagramText(n int) []byte { return pattern[n*31%patternPeriod:][:n] }

// verifyDatagram verifies a datagram that was read into a buffer of the given size. It does not verify a
// datagram that fills the buffer, because the rest may have been cut off.
func (f *fuzzRun) verifyDatagram(b []byte, size int) {
	if f.kind != fuzzHostile && len(b) < size && !bytes.Equal(b, datagramText(len(b))) {
		f.fail("a datagram of %d bytes is not what was sent", len(b))
	}
}

// datagrams makes random calls on a UDP socket, possibly from two goroutines.
func (f *fuzzRun) datagrams(h *Host, c *choices) {
	var u *UDPConn
	if c.pick(2) == 0 {
		conn, err := h.Dial("udp", c.target())
		if err != nil {
			return
		}
		u = conn.(*UDPConn)
	} else {
		pc, err := h.ListenPacket("udp", fmt.Sprintf(":%d", 1000+c.pick(4)))
		if err != nil {
			return
		}
		u = pc.(*UDPConn)
	}
	remember(f, u.udp)
	u.SetDeadline(c.soon())
	u.SetReadBuffer(c.IntN(1 << c.IntN(20)))
	u.SetControlMessage(ControlFlags(c.IntN(32)), true)
	var wg sync.WaitGroup
	for range 1 + c.pick(2) {
		d := &choices{nil, rand.New(rand.NewPCG(c.Uint64(), 7))}
		wg.Go(func() {
			buf, oob := make([]byte, 1+d.IntN(1<<(1+d.IntN(16)))), make([]byte, d.IntN(200))
			for range 1 + d.pick(10) {
				to, _ := net.ResolveUDPAddr("udp", d.targetIP())
				out := datagramText(d.IntN(1 << (1 + d.IntN(16))))
				switch d.pick(9) {
				case 0:
					u.Write(out)
				case 1:
					u.WriteTo(out, to)
				case 2:
					n, _ := u.Read(buf)
					f.verifyDatagram(buf[:n], len(buf))
				case 3:
					n, _, _, _, _ := u.ReadMsgUDP(buf, oob)
					f.verifyDatagram(buf[:n], len(buf))
				case 4:
					for i := range oob {
						oob[i] = byte(d.Uint32() >> d.IntN(32))
					}
					u.WriteMsgUDP(out, oob, to)
				case 5:
					ms := make([]Message, 1+d.pick(20))
					for i := range ms {
						in := make([]byte, len(buf))
						ms[i] = Message{Buffers: [][]byte{in[:len(in)/2], in[len(in)/2:]}, OOB: oob}
					}
					n, _ := u.ReadBatch(ms, 0)
					for _, m := range ms[:max(n, 0)] {
						f.verifyDatagram(append(m.Buffers[0], m.Buffers[1]...)[:m.N], len(buf))
					}
				case 6:
					ms := make([]Message, 1+d.pick(80))
					out = out[:min(len(out), 1000)]
					for i := range ms {
						k := d.IntN(len(out) + 1)
						one := datagramText(len(out))
						if d.chance(0.1) {
							one = datagramText(d.IntN(2000))
						}
						k = min(k, len(one))
						ms[i] = Message{Buffers: [][]byte{one[:k], one[k:]}, Addr: to}
					}
					u.WriteBatch(ms, 0)
				case 7:
					u.WritePacket(out, PacketInfo{Remote: netip.MustParseAddrPort(d.targetIP()), TTL: uint8(d.IntN(4)), TOS: uint8(d.IntN(256)), Interface: d.pick(4), DontFragment: d.pick(2) == 0})
				case 8:
					u.SetTTL(d.IntN(300) - 10)
					u.SetTOS(d.IntN(256))
					u.SetDeadline(d.soon())
				}
			}
		})
	}
	if c.chance(0.2) {
		c.wait()
		u.Close()
	}
	wg.Wait()
	u.Close()
}

// targetIP is like target, without names.
func (c *choices) targetIP() string {
	a := [...]string{addrA, addrB, "127.0.0.1", "192.0.2.9", "192.0.2.255", "224.1.2.3", "255.255.255.255",
		addr6A, addr6B, "2001:db8::9", "ff02::1"}[c.pick(11)]
	return net.JoinHostPort(a, fmt.Sprint(1000+c.pick(4)))
}

func (f *fuzzRun) groups(h *Host, c *choices) {
	u, err := h.ListenMulticastUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(224, 1, 2, byte(3+c.pick(2))), Port: 1000 + c.pick(4)})
	if err != nil {
		return
	}
	remember(f, u.udp)
	u.SetDeadline(c.soon())
	for range 1 + c.pick(6) {
		g := netip.AddrFrom4([4]byte{224, 1, 2, byte(3 + c.pick(4))})
		if c.pick(3) == 0 {
			g = netip.MustParseAddr([...]string{"ff05::1:3", "ff02::9"}[c.pick(2)])
		}
		switch c.pick(6) {
		case 0:
			u.JoinGroup([]*net.Interface{nil, {Index: 2}}[c.pick(2)], g)
		case 1:
			u.LeaveGroup(nil, g)
		case 2:
			u.SetMulticastLoopback(c.pick(2) == 0)
			u.SetMulticastTTL(c.pick(3))
			u.SetMulticastInterface(&net.Interface{Index: c.pick(4)})
		case 3:
			u.WriteTo(datagramText(c.IntN(3000)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(g, 1000)))
		case 4:
			u.ReadFrom(make([]byte, 100))
		case 5:
			c.wait()
		}
	}
	u.Close()
}

func (f *fuzzRun) rawIP(h *Host, c *choices) {
	pc, err := h.ListenPacket([...]string{"ip4:icmp", "ip4:99", "ip4:2", "ip6:ipv6-icmp", "ip6:99"}[c.pick(5)], "")
	if err != nil {
		return
	}
	r := pc.(*IPConn)
	remember(f, r.raw)
	r.SetDeadline(c.soon())
	for range 1 + c.pick(5) {
		buf := make([]byte, c.IntN(1<<(1+c.IntN(12))))
		for i := range buf {
			buf[i] = byte(c.Uint32())
		}
		host, _, _ := net.SplitHostPort(c.targetIP())
		switch c.pick(4) {
		case 0:
			r.WriteTo(buf, &net.IPAddr{IP: net.ParseIP(host)})
		case 1:
			if len(buf) >= wire.ICMPLen {
				(&wire.ICMP{Type: wire.ICMPEcho, Rest: c.Uint32()}).Put(buf, buf[wire.ICMPLen:])
			}
			r.WriteTo(buf, &net.IPAddr{IP: net.ParseIP(host)})
		case 2:
			r.ReadMsgIP(buf, make([]byte, 100))
		case 3:
			r.Read(buf)
		}
	}
	r.Close()
}

// configure changes the configuration of a host. It does not change what a conversation needs.
func (f *fuzzRun) configure(k int, c *choices) {
	h := f.hosts[k]
	s := h.Stack()
	switch c.pick(8) {
	case 6, 7:
		f.readdress(h, c)
	case 5:
		// Datagrams to neighbours that do not exist.
		u, err := h.ListenUDP("udp", nil)
		if err != nil {
			return
		}
		u.SetWriteDeadline(c.soon()) // a stuck link accepts nothing
		for range c.IntN(1200) {
			to := netip.AddrFrom4([4]byte{192, 0, byte(c.Uint32()), byte(c.Uint32())})
			u.WriteToUDPAddrPort(make([]byte, c.IntN(2000)), netip.AddrPortFrom(to, 9))
		}
		u.Close()
	case 0:
		s.FlushNeighbors()
	case 1:
		r := stack.Route{Dst: netip.MustParsePrefix("203.0.113.0/24"), Via: netip.MustParseAddr([...]string{addrA, addrB, "192.0.2.77"}[c.pick(3)])}
		s.AddRoute(r)
		c.wait()
		s.DelRoute(r)
	case 2:
		name := fmt.Sprint("eth", 1+c.pick(3))
		da, db := nic.Pipe(nic.PipeConfig{})
		db.Attach(func([]nic.Frame) {})
		if s.AddNIC(stack.NIC{Name: name, Device: da, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/24")}}) == nil {
			d := &choices{nil, rand.New(rand.NewPCG(c.Uint64(), 8))}
			f.datagrams(h, d)
			f.dial(h, d)
			s.RemoveNIC(name)
		}
	case 3:
		s.SetNeighbor(stack.Neighbor{NIC: "eth0", Addr: netip.MustParseAddr("192.0.2.9"), MAC: wire.MAC{2, 0, 0, 0, 0, 9}})
		c.wait()
		s.SetNeighbor(stack.Neighbor{NIC: "eth0", Addr: netip.MustParseAddr("192.0.2.9")})
	case 4:
		if _, err := h.Listen("tcp", "192.0.2.200:80"); err == nil {
			f.fail("Listen on an address that is not the host's")
		}
	}
}

// readdress adds a further address, uses it, and removes it.
func (f *fuzzRun) readdress(h *Host, c *choices) {
	p := netip.MustParsePrefix([...]string{"192.0.2.50/24", "10.9.0.1/24", "2001:db8::50/64", "2001:db8:9::1/64", "169.254.1.1/16"}[c.pick(5)])
	o := stack.AddrOptions{
		Valid: time.Duration(c.IntN(4)) * time.Second, Preferred: time.Duration(c.IntN(4)-1) * time.Second, Origin: stack.AddrOrigin(c.pick(4)),
	}
	if h.AddAddr("eth0", p, o) != nil {
		return
	}
	changed := h.Changed()
	d := &choices{nil, rand.New(rand.NewPCG(c.Uint64(), 9))}
	done := make(chan struct{})
	go func() {
		defer close(done)
		dialer := Dialer{Host: h, Deadline: d.soon(), LocalAddr: &net.TCPAddr{IP: p.Addr().AsSlice()}}
		if conn, err := dialer.Dial("tcp", d.target()); err == nil {
			f.misuse(conn.(*TCPConn), d)
		}
		if u, err := h.ListenUDP("udp", &net.UDPAddr{IP: p.Addr().AsSlice()}); err == nil {
			u.SetDeadline(d.soon())
			u.WriteToUDPAddrPort(datagramText(d.IntN(3000)), netip.MustParseAddrPort(d.targetIP()))
			u.Read(make([]byte, 100))
			u.Close()
		}
	}()
	c.wait()
	if c.chance(0.3) {
		h.AddRoute(stack.Route{Dst: netip.MustParsePrefix("203.0.113.0/24"), NIC: "eth0", Src: p.Addr()})
	}
	h.RemoveAddr("eth0", p.Addr())
	<-changed
	<-done
}

// disturb does something that may end conversations.
func (f *fuzzRun) disturb(k int, c *choices) {
	h := f.hosts[k]
	switch c.pick(8) {
	case 0:
		f.wire.end[k].die()
	case 1:
		h.Stack().RemoveNIC("eth0")
	case 2:
		h.Close()
	case 3:
		h.Stack().RemoveNIC("lo")
	case 4:
		f.wire.end[k].stick() // until the end of the run, or for a while
		if c.pick(2) == 0 {
			c.wait()
			f.wire.end[k].release()
		}
	default:
		f.wire.cut.Store(true)
		c.wait()
		f.wire.cut.Store(false)
	}
}

func TestHostsBearAnything(t *testing.T) {
	runs := envInt(t, "USERNET_FUZZ_RUNS", 15)
	first := envInt(t, "USERNET_SEED", 1)
	for seed := first; seed < first+runs; seed++ {
		for kind := fuzzHonest; kind <= fuzzHostile; kind++ {
			t.Run(fmt.Sprintf("seed=%d/%v", seed, kind), func(t *testing.T) {
				fuzzHosts(t, uint64(seed), kind, nil, 6)
			})
		}
	}
}

// FuzzHosts lets go test's fuzzer choose the calls.
func FuzzHosts(f *testing.F) {
	for seed := range uint64(6) {
		script := make([]byte, 8*64)
		r := rand.New(rand.NewPCG(seed, 11))
		for i := 0; i < len(script); i += 8 {
			binary.BigEndian.PutUint64(script[i:], r.Uint64())
		}
		f.Add(seed, uint8(seed), script)
	}
	f.Fuzz(func(t *testing.T, seed uint64, kind uint8, script []byte) {
		fuzzHosts(t, seed, fuzzKind(kind%3), script, 3)
	})
}
