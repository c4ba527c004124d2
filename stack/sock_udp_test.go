package stack

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// readUDP reads a datagram and returns its payload as a string.
func readUDP(t *testing.T, u *UDP) (string, netip.AddrPort) {
	t.Helper()
	b := make([]byte, 65536)
	n, full, from, _, err := u.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, n, full)
	return string(b[:n]), from
}

func TestDatagramsCarryPayloadAndMetadata(t *testing.T) {
	for _, cfg := range []nic.PipeConfig{{}, {NoTxChecksum: true}, {Medium: nic.IP}} {
		a, b := twoHosts(t, cfg)
		u, v := openUDP(t, a, "0.0.0.0:1111"), openUDP(t, b, "192.0.2.2:2222")
		for _, text := range []string{"", "x", "an odd length", string(bytes.Repeat([]byte("big"), 20000))} {
			n, err := u.WriteTo([]byte(text), addrPort("192.0.2.2:2222"), SendOptions{TTL: 3, TOS: 0xb8})
			require.NoError(t, err)
			require.Equal(t, len(text), n)
			buf := make([]byte, 65536)
			n, full, from, meta, err := v.ReadFrom(buf)
			require.NoError(t, err)
			require.Equal(t, text, string(buf[:n]))
			require.Equal(t, len(text), full)
			require.Equal(t, addrPort("192.0.2.1:1111"), from)
			require.Equal(t, Meta{Dst: addr("192.0.2.2"), TTL: 3, TOS: 0xb8, NIC: 2}, meta)
			_, err = v.WriteTo([]byte("re: "+text[:min(len(text), 10)]), from, SendOptions{})
			require.NoError(t, err)
			got, from := readUDP(t, u)
			require.Equal(t, "re: "+text[:min(len(text), 10)], got)
			require.Equal(t, addrPort("192.0.2.2:2222"), from)
		}
		require.EqualValues(t, 4, a.Stats().UDP.Sent)
		require.EqualValues(t, 4, a.Stats().UDP.Received)
	}
}

func TestALongDatagramIsTruncated(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	u := openUDP(t, s, "127.0.0.1:1")
	_, err := u.WriteTo([]byte("hello"), addrPort("127.0.0.1:1"), SendOptions{})
	require.NoError(t, err)
	b := make([]byte, 2)
	n, full, _, _, err := u.ReadFrom(b)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Equal(t, 5, full)
	require.Equal(t, "he", string(b))
}

func TestSocketsShareAPortOnlyOnDifferentAddresses(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	one := openUDP(t, s, "192.0.2.1:53")
	openUDP(t, s, "127.0.0.1:53")
	for _, local := range []string{"192.0.2.1:53", "0.0.0.0:53"} {
		_, err := s.OpenUDP(FamilyAny, addrPort(local))
		require.ErrorIs(t, err, syscall.EADDRINUSE, local)
	}
	_, err := s.OpenUDP(FamilyAny, addrPort("192.0.2.7:53"))
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	_, err = s.OpenUDP(Family6, netip.AddrPort{})
	require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
	_, err = s.OpenUDP(Family4, addrPort("[::1]:53"))
	require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
	require.NoError(t, one.Close())
	openUDP(t, s, "192.0.2.1:53")
}

func TestAConnectedSocketGetsDatagramsOfItsPeerOnly(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	client := openUDP(t, a, "0.0.0.0:5")
	_, err := client.WriteTo([]byte("nobody"), addrPort("192.0.2.2:53"), SendOptions{})
	require.NoError(t, err)
	require.Equal(t, 1, dropped(b, dropUDPNoSocket))
	connected := openUDP(t, b, "192.0.2.2:53")
	require.NoError(t, connected.Connect(addrPort("192.0.2.1:5")))
	_, err = client.WriteTo([]byte("for the connected"), addrPort("192.0.2.2:53"), SendOptions{})
	require.NoError(t, err)
	got, _ := readUDP(t, connected)
	require.Equal(t, "for the connected", got)
	other := openUDP(t, a, "0.0.0.0:6")
	_, err = other.WriteTo([]byte("from somebody else"), addrPort("192.0.2.2:53"), SendOptions{})
	require.NoError(t, err)
	require.Equal(t, 2, dropped(b, dropUDPNoSocket))
}

func TestAConnectedSocketGetsAnICMPErrorOnce(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u := openUDP(t, a, "0.0.0.0:0")
	_, err := u.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EDESTADDRREQ)
	require.NoError(t, u.Connect(addrPort("192.0.2.2:7")))
	require.Equal(t, addr("192.0.2.1"), u.LocalAddr().Addr())
	require.Equal(t, addrPort("192.0.2.2:7"), u.RemoteAddr())
	for range 2 {
		_, err = u.Write([]byte("x"))
		require.NoError(t, err)
		_, _, _, _, err = u.ReadFrom(nil)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	}
	echo := openUDP(t, b, "0.0.0.0:7")
	_, err = u.Write([]byte("now"))
	require.NoError(t, err)
	got, from := readUDP(t, echo)
	require.Equal(t, "now", got)
	require.Equal(t, u.LocalAddr(), from)

	stranger := openUDP(t, a, "0.0.0.0:0")
	_, err = stranger.WriteTo([]byte("x"), addrPort("192.0.2.2:8"), SendOptions{})
	require.NoError(t, err)
	_, err = stranger.WriteTo([]byte("x"), addrPort("192.0.2.2:8"), SendOptions{})
	require.NoError(t, err, "an unconnected socket gets no error")
}

func TestInvalidWritesReturnTheirErrno(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	u := openUDP(t, s, "0.0.0.0:9")
	for _, test := range []struct {
		to   netip.AddrPort
		n    int
		o    SendOptions
		want error
	}{
		{netip.AddrPort{}, 1, SendOptions{}, syscall.EINVAL},
		{addrPort("192.0.2.2:0"), 1, SendOptions{}, syscall.EINVAL},
		{addrPort("192.0.2.2:9"), 65508, SendOptions{}, syscall.EMSGSIZE},
		{addrPort("192.0.2.2:9"), 65507, SendOptions{}, nil},
		{addrPort("192.0.2.2:9"), 1473, SendOptions{DontFragment: true}, syscall.EMSGSIZE},
		{addrPort("192.0.2.2:9"), 1472, SendOptions{DontFragment: true}, nil},
		{addrPort("192.0.2.2:9"), 1, SendOptions{Src: addr("192.0.2.7")}, syscall.EADDRNOTAVAIL},
		{addrPort("198.51.100.1:9"), 1, SendOptions{}, syscall.ENETUNREACH},
		{addrPort("[2001:db8::1]:9"), 1, SendOptions{}, syscall.ENETUNREACH},
		{addrPort("[::ffff:192.0.2.2]:9"), 1, SendOptions{}, nil},
	} {
		_, err := u.WriteTo(make([]byte, test.n), test.to, test.o)
		if test.want == nil {
			require.NoError(t, err, "%+v", test)
		} else {
			require.ErrorIs(t, err, test.want, "%+v", test)
		}
	}
	v4, err := s.OpenUDP(Family4, netip.AddrPort{})
	require.NoError(t, err)
	_, err = v4.WriteTo(nil, addrPort("[2001:db8::1]:9"), SendOptions{})
	require.ErrorIs(t, err, syscall.EAFNOSUPPORT)
	require.ErrorIs(t, v4.Connect(addrPort("[2001:db8::1]:9")), syscall.EAFNOSUPPORT)
	require.ErrorIs(t, v4.Connect(addrPort("198.51.100.1:9")), syscall.ENETUNREACH)
}

func TestAReceiveQueueIsBoundedInBytes(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	u := openUDP(t, s, "127.0.0.1:1")
	require.NoError(t, u.SetReadBuffer(1<<16))
	for _, size := range []int{0, 1, 1000, 60000} {
		for range 1000 {
			_, err := u.WriteTo(make([]byte, size), addrPort("127.0.0.1:1"), SendOptions{})
			require.NoError(t, err)
		}
		u.mu.Lock()
		require.LessOrEqual(t, u.queue.bytes, 1<<17, "an empty queue accepts one datagram of any size")
		require.Positive(t, u.queue.n)
		u.mu.Unlock()
		before := dropped(s, dropUDPQueue)
		require.Positive(t, before)
		for len(queuedAll(u)) > 0 {
		}
		u.mu.Lock()
		require.Zero(t, u.queue.bytes)
		u.mu.Unlock()
	}
}

// queuedAll removes all datagrams from a socket's queue and returns their lengths.
func queuedAll(u *UDP) (lengths []int) {
	for {
		u.mu.Lock()
		var d datagram
		ok := u.queue.pop(&d)
		u.mu.Unlock()
		if !ok {
			return lengths
		}
		lengths = append(lengths, len(d.buf))
		u.s.bufs.put(d.buf)
	}
}

func TestDeadlinesWakeReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
		u := openUDP(t, s, "0.0.0.0:1")
		begin := time.Now()
		require.NoError(t, u.SetDeadline(begin.Add(time.Second)))
		_, _, _, _, err := u.ReadFrom(nil)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
		_, err = u.WriteTo(nil, addrPort("127.0.0.1:1"), SendOptions{})
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.NoError(t, u.SetDeadline(time.Time{}))
		_, err = u.WriteTo([]byte("x"), addrPort("127.0.0.1:1"), SendOptions{})
		require.NoError(t, err)
		got, _ := readUDP(t, u)
		require.Equal(t, "x", got)

		// A deadline in the past wakes a waiting reader.
		done := make(chan error)
		go func() { _, _, _, _, err := u.ReadFrom(nil); done <- err }()
		synctest.Wait()
		require.NoError(t, u.SetReadDeadline(time.Unix(1, 0)))
		require.ErrorIs(t, <-done, os.ErrDeadlineExceeded)
		// ErrClosed takes precedence over an expired deadline.
		require.NoError(t, u.Close())
		_, _, _, _, err = u.ReadFrom(nil)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestCloseWakesAReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
		u := openUDP(t, s, "0.0.0.0:1")
		done := make(chan error)
		for range 3 {
			go func() { _, _, _, _, err := u.ReadFrom(nil); done <- err }()
		}
		synctest.Wait()
		require.NoError(t, u.Close())
		for range 3 {
			require.ErrorIs(t, <-done, net.ErrClosed)
		}
		require.ErrorIs(t, u.Close(), net.ErrClosed)
	})
}

func TestABroadcastReachesTheOtherHost(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	for _, dst := range []string{"255.255.255.255", "192.0.2.255"} {
		u, v := openUDP(t, a, "0.0.0.0:67"), openUDP(t, b, "0.0.0.0:67")
		bound := openUDP(t, b, "192.0.2.2:68")
		_, err := u.WriteTo([]byte("all"), netip.AddrPortFrom(addr(dst), 67), SendOptions{})
		require.NoError(t, err)
		_, err = u.WriteTo([]byte("all"), netip.AddrPortFrom(addr(dst), 68), SendOptions{})
		require.NoError(t, err)
		buf := make([]byte, 10)
		n, _, from, meta, err := v.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "all", string(buf[:n]))
		require.Equal(t, addrPort("192.0.2.1:67"), from)
		require.Equal(t, addr(dst), meta.Dst)
		require.Empty(t, queuedAll(bound), "a socket bound to a unicast address gets no broadcasts")
		require.NoError(t, u.Close())
		require.NoError(t, v.Close())
		require.NoError(t, bound.Close())
	}
}

func TestMulticastReachesTheMembersOfTheGroup(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	for _, s := range []*Stack{a, b} {
		require.NoError(t, s.AddRoute(Route{Dst: prefix("224.0.0.0/4"), NIC: "eth0"}))
	}
	u, v := openUDP(t, a, "0.0.0.0:5"), openUDP(t, b, "224.1.2.3:5")
	group := addrPort("224.1.2.3:5")
	say := func() {
		t.Helper()
		_, err := u.WriteTo([]byte("all"), group, SendOptions{})
		require.NoError(t, err)
	}
	say()
	require.Empty(t, queuedAll(v))
	require.NoError(t, v.Join(group.Addr(), 0))
	require.ErrorIs(t, v.Join(group.Addr(), 2), syscall.EADDRINUSE)
	require.ErrorIs(t, v.Join(addr("192.0.2.1"), 0), syscall.EINVAL)
	require.ErrorIs(t, v.Join(group.Addr(), 9), syscall.ENODEV)
	say()
	buf := make([]byte, 10)
	_, _, _, meta, err := v.ReadFrom(buf)
	require.NoError(t, err)
	require.EqualValues(t, 1, meta.TTL)
	require.NoError(t, v.Leave(group.Addr(), 0))
	require.ErrorIs(t, v.Leave(group.Addr(), 0), syscall.EADDRNOTAVAIL)
	say()
	require.Empty(t, queuedAll(v))
	require.NoError(t, v.Join(group.Addr(), 0))
	require.NoError(t, v.Close())
	require.False(t, b.ifaceNamed("eth0").group.has(group.Addr()), "Close leaves the groups")
}

func TestACorruptedDatagramIsDropped(t *testing.T) {
	s, p := hostAndKnownPeer(t)
	u := openUDP(t, s, "0.0.0.0:9")
	good := udpDatagram(addrPort("192.0.2.2:9"), addrPort("192.0.2.1:9"), []byte("hello"))
	bad := bytes.Clone(good)
	bad[10]++
	p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP}, bad)
	require.Equal(t, 1, dropped(s, wire.BadUDPChecksum))
	bad[6], bad[7] = 0, 0 // a checksum of zero means that the datagram has none
	p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP}, bad)
	p.ip(macA, wire.IPv4{Proto: wire.ProtoUDP}, good)
	require.Equal(t, []int{5, 5}, queuedAll(u))
}

// A gate is a device whose Send waits while it is shut.
type gate struct {
	*nic.Null
	mu   sync.Mutex
	cond sync.Cond
	shut bool
	sent int
}

func (g *gate) Send(batch []nic.Frame) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.shut {
		g.cond.Wait()
	}
	g.sent += len(batch)
	return len(batch), nil
}

func (g *gate) set(shut bool) {
	g.mu.Lock()
	g.shut = shut
	g.cond.Broadcast()
	g.mu.Unlock()
}

func TestAWriterWaitsWhileTheTransmitQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gate{Null: nic.NewNull(nic.Link{Medium: nic.IP})}
		g.cond.L = &g.mu
		s := newHost(t, g, "192.0.2.1/24")
		u := openUDP(t, s, "0.0.0.0:9")
		to := addrPort("192.0.2.2:9")
		g.set(true)
		go u.WriteTo(nil, to, SendOptions{}) // drains the queue and blocks in Send
		synctest.Wait()
		require.NoError(t, u.SetWriteDeadline(time.Now().Add(time.Second)))
		var err error
		written := 1
		for err == nil {
			if _, err = u.WriteTo(nil, to, SendOptions{}); err == nil {
				written++
			}
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, txQueueLen+1, written, "one frame in Send, and a full queue")

		require.NoError(t, u.SetWriteDeadline(time.Time{}))
		done := make(chan error)
		go func() { _, err := u.WriteTo(nil, to, SendOptions{}); done <- err }()
		synctest.Wait()
		g.set(false)
		require.NoError(t, <-done)
		synctest.Wait()
		g.mu.Lock()
		require.Equal(t, written+1, g.sent, "every frame was sent")
		g.mu.Unlock()

		g.set(true)
		go u.WriteTo(nil, to, SendOptions{})
		synctest.Wait()
		for range txQueueLen {
			_, err := u.WriteTo(nil, to, SendOptions{})
			require.NoError(t, err)
		}
		go func() { _, err := u.WriteTo(nil, to, SendOptions{}); done <- err }()
		synctest.Wait()
		require.NoError(t, u.Close())
		require.ErrorIs(t, <-done, net.ErrClosed)
		g.set(false)
	})
}

func TestDatagramsCrossAnImpairedLinkInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{})
		slow := nic.Impair(da, nic.ImpairConfig{
			Out: nic.Impairment{Latency: 50 * time.Millisecond},
			In:  nic.Impairment{Latency: 50 * time.Millisecond},
		})
		a, b := newHost(t, slow, "192.0.2.1/24"), newHost(t, db, "192.0.2.2/24")
		u, v := openUDP(t, a, "0.0.0.0:1"), openUDP(t, b, "0.0.0.0:1")
		time.Sleep(time.Second) // let the ARP announcements pass
		begin := time.Now()
		_, err := u.WriteTo([]byte("ping"), addrPort("192.0.2.2:1"), SendOptions{})
		require.NoError(t, err)
		_, from := readUDP(t, v)
		require.Equal(t, 150*time.Millisecond, time.Since(begin), "an ARP round trip and one way of the datagram")
		_, err = v.WriteTo([]byte("pong"), from, SendOptions{})
		require.NoError(t, err)
		readUDP(t, u)
		require.Equal(t, 200*time.Millisecond, time.Since(begin))
	})
}

func TestRawSocketsGetCopiesOfTheirProtocol(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	const proto = 253 // RFC 3692: for experiments
	r, err := a.OpenRaw(FamilyAny, proto, netip.Addr{})
	require.NoError(t, err)
	_, err = r.Write(nil)
	require.ErrorIs(t, err, syscall.EDESTADDRREQ)
	var others []*Raw
	for _, local := range []string{"0.0.0.0", "192.0.2.2", "127.0.0.1"} {
		o, err := b.OpenRaw(Family4, proto, addr(local))
		require.NoError(t, err)
		others = append(others, o)
	}
	otherPeer, err := b.OpenRaw(FamilyAny, proto, netip.Addr{})
	require.NoError(t, err)
	require.NoError(t, otherPeer.Connect(addr("192.0.2.77")))
	require.Equal(t, addr("192.0.2.2"), otherPeer.LocalAddr())
	require.NoError(t, r.Connect(addr("192.0.2.2")))
	big := bytes.Repeat([]byte("raw!"), 1000)
	_, err = r.Write(big)
	require.NoError(t, err)
	for _, o := range others[:2] {
		buf := make([]byte, 10)
		n, full, from, meta, err := o.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, 10, n)
		require.Equal(t, len(big), full)
		require.Equal(t, addr("192.0.2.1"), from)
		require.EqualValues(t, 64, meta.TTL)
	}
	for _, o := range []*Raw{others[2], otherPeer} {
		o.mu.Lock()
		require.Zero(t, o.queue.n)
		o.mu.Unlock()
	}
	for _, o := range append(others, otherPeer) {
		require.NoError(t, o.Close())
		require.ErrorIs(t, o.Close(), net.ErrClosed)
	}
	// Without a socket, the sender gets a protocol unreachable error.
	_, err = r.Write([]byte("nobody there"))
	require.NoError(t, err)
	_, _, _, _, err = r.ReadFrom(nil)
	require.ErrorIs(t, err, syscall.ENOPROTOOPT)

	_, err = a.OpenRaw(FamilyAny, 0, netip.Addr{})
	require.ErrorIs(t, err, syscall.EPROTONOSUPPORT)
	_, err = a.OpenRaw(FamilyAny, proto, addr("192.0.2.9"))
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	_, err = r.WriteTo(make([]byte, 65516), addr("192.0.2.2"), SendOptions{})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
}

// RFC 768: "If the computed checksum is zero, it is transmitted as all ones".
func TestAChecksumOfZeroIsSentAsAllOnesInUDPOnly(t *testing.T) {
	const start = 20
	packet := make([]byte, 2*start)
	for offset, want := range map[int][]byte{wire.UDPChecksumOffset: {0xff, 0xff}, wire.TCPChecksumOffset: {0, 0}} {
		clear(packet)
		copy(packet[start:], []byte{0xff, 0xf0, 0, 0x0f}) // the sum is 0xffff, so the checksum is 0
		completeChecksum(packet[start:], offset)
		require.Equal(t, want, packet[start+offset:][:2])
	}
}
