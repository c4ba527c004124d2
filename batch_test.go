package usernet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A batchSocket is a socket with ReadBatch and WriteBatch.
type batchSocket interface {
	groupSocket
	ReadBatch(ms []Message, flags int) (int, error)
	WriteBatch(ms []Message, flags int) (int, error)
}

// noteBatch logs the result of a batch and the contents of its messages.
func (l *log) noteBatch(name string, ms []Message, n int, err error) {
	l.note("%s: %d %s", name, max(n, 0), why(err)) // x/net has -1 on an error
	for _, m := range ms[:max(n, 0)] {
		var text []string
		left := m.N
		for _, b := range m.Buffers {
			k := min(left, len(b))
			text = append(text, string(b[:k]))
			left -= k
		}
		l.note("%d bytes %q, control %x of %d, flags %#x", m.N, text, m.OOB[:min(m.NN, len(m.OOB))], m.NN, m.Flags)
	}
}

func TestBatchesDoAsThoseOfXNetOnTheKernel(t *testing.T) {
	oob := func() []byte { return make([]byte, 40) }
	// emptyMessages returns one message for each list of buffer sizes.
	emptyMessages := func(sizes ...[]int) []Message {
		var ms []Message
		for _, s := range sizes {
			m := Message{OOB: oob()}
			for _, n := range s {
				m.Buffers = append(m.Buffers, make([]byte, n))
			}
			ms = append(ms, m)
		}
		return ms
	}
	inBothWorlds(t, func(l *log) {
		listened, port := l.listenOn("127.0.0.1:0")
		s := listened.(batchSocket)
		sent, _ := l.listenOn("127.0.0.2:0")
		c := sent.(batchSocket)
		addr := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
		ttl := control(0, 2, int32Bytes(7)...) // IPPROTO_IP, IP_TTL
		require.NoError(l.t, s.SetControlMessage(FlagTTL, true))
		out := []Message{
			{Buffers: [][]byte{[]byte("one")}, Addr: addr},
			{Buffers: [][]byte{[]byte("in "), []byte("three"), []byte(" pieces")}, Addr: addr},
			{Buffers: [][]byte{[]byte("with a TTL")}, Addr: addr, OOB: ttl},
			{Buffers: [][]byte{[]byte("longer than there is room for")}, Addr: addr},
			{Buffers: [][]byte{[]byte("last")}, Addr: addr},
		}
		n, err := c.WriteBatch(out, 0)
		l.noteBatch("write", out, n, err)
		in := emptyMessages([]int{100}, []int{2, 5, 100}, []int{4, 100}, []int{3, 4}, []int{10}, []int{10}, []int{10})
		n, err = s.ReadBatch(in[:2], 0)
		l.noteBatch("read two", in, n, err)
		n, err = s.ReadBatch(in[2:], 0)
		l.noteBatch("read the rest", in[2:], n, err)
		require.Equal(l.t, c.LocalAddr().String(), in[2].Addr.String())
		s.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, err = s.ReadBatch(in, 0)
		l.noteBatch("read nothing", in, n, err)
		n, err = s.ReadBatch(nil, 0)
		l.noteBatch("read into nothing", nil, n, err)
		n, err = c.WriteBatch(nil, 0)
		l.noteBatch("write nothing", nil, n, err)
		s.SetReadDeadline(time.Time{})

		// A datagram that cannot be sent ends the batch. It is an error if it is the first one.
		big := Message{Buffers: [][]byte{make([]byte, 65508)}, Addr: addr}                               // the maximum over IPv4 is 65507
		bad := Message{Buffers: [][]byte{[]byte("x")}, Addr: addr, OOB: control(0, 2, int32Bytes(0)...)} // a TTL of 0
		for _, ms := range [][]Message{{out[0], big, out[4]}, {big, out[0]}, {out[0], bad}, {bad, out[0]}} {
			n, err := c.WriteBatch(ms, 0)
			l.note("write: %d %s", max(n, 0), why(err))
		}
		n, err = s.ReadBatch(in, 0)
		l.noteBatch("read what was sent", in, n, err)
		require.NoError(l.t, s.Close())
		n, err = s.ReadBatch(in, 0)
		l.note("read when closed: %d, closed %v", max(n, 0), errors.Is(err, net.ErrClosed))
		n, err = s.WriteBatch(out, 0)
		l.note("write when closed: %d, closed %v", max(n, 0), errors.Is(err, net.ErrClosed))
	})
}

// ReadBatch does not wait until all messages are filled.
func TestReadBatchReturnsWithOneDatagram(t *testing.T) {
	a, b := newPair(t)
	s, err := b.ListenUDP("udp", nil)
	require.NoError(t, err)
	c, err := a.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(addrB), Port: s.LocalAddr().(*net.UDPAddr).Port})
	require.NoError(t, err)
	got := make(chan int)
	go func() {
		n, err := s.ReadBatch([]Message{{Buffers: [][]byte{make([]byte, 10)}}, {Buffers: [][]byte{make([]byte, 10)}}}, waitForOne)
		if err != nil {
			t.Error(err)
		}
		got <- n
	}()
	n, err := c.WriteBatch([]Message{{Buffers: [][]byte{[]byte("x")}}}, 0)
	require.NoError(t, err)
	require.Equal(t, 1, n)
	require.Equal(t, 1, <-got)
}

func TestABatchSaysWhatIsWrong(t *testing.T) {
	a, b := newPair(t)
	s, err := b.ListenUDP("udp", nil)
	require.NoError(t, err)
	to := &net.UDPAddr{IP: net.ParseIP(addrB), Port: s.LocalAddr().(*net.UDPAddr).Port}
	c, err := a.DialUDP("udp", nil, to)
	require.NoError(t, err)
	message := func(addr net.Addr) []Message {
		return []Message{{Buffers: [][]byte{[]byte("x")}, Addr: addr}}
	}
	for _, wrong := range []struct {
		c    *UDPConn
		addr net.Addr
		err  error
	}{
		{c, to, net.ErrWriteToConnected},
		{s, nil, errMissingAddress},
		{s, (*net.UDPAddr)(nil), errMissingAddress},
		{s, &net.TCPAddr{}, syscall.EINVAL},
		{s, &net.UDPAddr{IP: net.ParseIP(addrA)}, syscall.EINVAL},
		{s, &net.UDPAddr{IP: net.ParseIP(addrA), Port: 65536 + to.Port}, syscall.EINVAL},
	} {
		n, err := wrong.c.WriteBatch(message(wrong.addr), 0)
		require.Zero(t, n)
		require.ErrorIs(t, err, wrong.err)
		require.IsType(t, &net.OpError{}, err)
		require.Equal(t, "write", err.(*net.OpError).Op)
	}
	udp4, err := b.ListenUDP("udp4", nil)
	require.NoError(t, err)
	_, err = udp4.WriteBatch(message(&net.UDPAddr{IP: net.ParseIP("2001:db8::1"), Port: 1}), 0)
	require.ErrorContains(t, err, "non-IPv4 address")
	_, err = s.ReadBatch(message(nil), 2) // Linux's MSG_PEEK
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = s.WriteBatch(message(to), 1)
	require.ErrorIs(t, err, errors.ErrUnsupported)
	_, err = new(UDPConn).WriteBatch(nil, 0)
	require.Equal(t, syscall.EINVAL, err)
	require.NoError(t, s.SetReadDeadline(time.Unix(1, 0)))
	_, err = s.ReadBatch(message(nil), 0)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// An ICMP error that arrives within a batch is reported by the next call.
func TestAnErrorThatComesWithinABatchIsKept(t *testing.T) {
	h, err := New(Config{})
	require.NoError(t, err)
	defer h.Close()
	c, err := h.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
	require.NoError(t, err)
	x := Message{Buffers: [][]byte{[]byte("x")}}
	n, err := c.WriteBatch([]Message{x, x, x}, 0)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	_, err = c.WriteBatch([]Message{x}, 0)
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestBatchesAndControlMessagesAllocateNoMoreThanAddresses(t *testing.T) {
	a, b := newPair(t)
	s, err := b.ListenUDP("udp", nil)
	require.NoError(t, err)
	c, err := a.ListenUDP("udp", nil)
	require.NoError(t, err)
	require.NoError(t, s.SetControlMessage(allFlags, true))
	port := s.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	to := netip.AddrPortFrom(netip.MustParseAddr(addrB), port)
	msg, buf, oob := make([]byte, 100), make([]byte, 200), make([]byte, 100)
	controlOut := (&PacketInfo{TTL: 7, TOS: 4}).AppendControl(nil)
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, _, err := c.WriteMsgUDPAddrPort(msg, controlOut, to); err != nil {
			t.Error(err)
		}
		if n, oobn, _, _, err := s.ReadMsgUDPAddrPort(buf, oob); err != nil || n != 100 || oobn == 0 {
			t.Error(n, oobn, err)
		}
	}))
	out, in := make([]Message, 20), make([]Message, 20)
	for i := range out {
		out[i] = Message{Buffers: [][]byte{make([]byte, 100)}, Addr: net.UDPAddrFromAddrPort(to), OOB: controlOut}
		in[i] = Message{Buffers: [][]byte{make([]byte, 100)}, OOB: make([]byte, 100)}
	}
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		if n, err := c.WriteBatch(out, 0); err != nil || n != len(out) {
			t.Error(n, err)
		}
		if n, err := s.ReadBatch(in, 0); err != nil || n != len(in) {
			t.Error(n, err)
		}
	}), float64(len(in)/2), "one allocation holds the addresses of a batch; more come from pools, which drop entries at random under the race detector")
}

func BenchmarkDatagrams(b *testing.B) {
	h, err := New(Config{})
	require.NoError(b, err)
	defer h.Close()
	s, err := h.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(b, err)
	c, err := h.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(b, err)
	to := s.LocalAddr().(*net.UDPAddr)
	const many = 64
	payload := []byte(strings.Repeat("x", 1200))
	b.Run("one by one", func(b *testing.B) {
		buf := make([]byte, 2000)
		b.SetBytes(many * int64(len(payload)))
		for b.Loop() {
			for range many {
				c.WriteTo(payload, to)
			}
			for range many {
				s.ReadFrom(buf)
			}
		}
	})
	b.Run(fmt.Sprintf("batches of %d", many), func(b *testing.B) {
		out, in := make([]Message, many), make([]Message, many)
		for i := range out {
			out[i] = Message{Buffers: [][]byte{payload}, Addr: to}
			in[i] = Message{Buffers: [][]byte{make([]byte, 2000)}}
		}
		b.SetBytes(many * int64(len(payload)))
		for b.Loop() {
			c.WriteBatch(out, 0)
			s.ReadBatch(in, 0)
		}
	})
}
