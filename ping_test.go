package usernet

import (
	"context"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

func TestPingMeasuresRoundTrips(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newImpairedPair(t, nic.Impairment{Latency: 20 * time.Millisecond})
		_, err := a.Ping(context.Background(), addrB, PingConfig{}) // which also finds the neighbour
		require.NoError(t, err)
		var replies []PingReply
		began := time.Now()
		st, err := a.Ping(context.Background(), addrB, PingConfig{Count: 3, Size: 56, OnReply: func(r PingReply) { replies = append(replies, r) }})
		require.NoError(t, err)
		rtt := 40 * time.Millisecond
		require.Equal(t, PingStats{Addr: netip.MustParseAddr(addrB), Sent: 3, Received: 3, Min: rtt, Avg: rtt, Max: rtt}, st)
		require.Zero(t, st.Loss())
		require.Equal(t, 2*time.Second+rtt, time.Since(began), "it does not wait after the last answer")
		require.Len(t, replies, 3)
		for i, r := range replies {
			require.Equal(t, PingReply{Seq: i, From: netip.MustParseAddr(addrB), RTT: rtt, TTL: 64, Size: 56}, r)
		}
	})
}

func TestPingCountsWhatIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newImpairedPair(t, nic.Impairment{Latency: 20 * time.Millisecond, Jitter: 10 * time.Millisecond, Loss: 0.3, Duplicate: 0.1})
		// Requests that wait for a lost answer of ARP have long round-trip times.
		for found := false; !found; {
			st, err := a.Ping(context.Background(), addrB, PingConfig{Timeout: 5 * time.Second})
			require.NoError(t, err)
			found = st.Received > 0
		}
		timeouts, duplicates, last := 0, 0, -1
		st, err := a.Ping(context.Background(), addrB, PingConfig{
			Count: 200, Interval: 10 * time.Millisecond, Timeout: 500 * time.Millisecond, Size: 1400,
			OnReply: func(r PingReply) {
				if r.Err == os.ErrDeadlineExceeded {
					timeouts++
				}
				if r.Duplicate {
					duplicates++
				}
				last = max(last, r.Seq)
			},
		})
		require.NoError(t, err)
		require.Equal(t, 200, st.Sent)
		require.Equal(t, 199, last)
		require.Equal(t, timeouts, st.Sent-st.Received)
		require.Equal(t, duplicates, st.Duplicates)
		require.NotZero(t, duplicates)
		require.InDelta(t, 0.51, st.Loss(), 0.15, "1-0.7*0.7: lost on the way there or on the way back")
		require.LessOrEqual(t, st.Min, st.Avg)
		require.LessOrEqual(t, st.Avg, st.Max)
		require.GreaterOrEqual(t, st.Min, 20*time.Millisecond)
		require.NotZero(t, st.MDev)
		require.Less(t, st.MDev, 40*time.Millisecond)
	})
}

func TestPingOfAllSizes(t *testing.T) {
	a, b := newPair(t)
	for _, size := range []int{0, 1, 7, 8, 55, 56, 1471, 1472, 1473, 8000, 65507} {
		st, err := a.Ping(context.Background(), addrB, PingConfig{Size: size})
		require.NoError(t, err)
		require.Equal(t, 1, st.Received, "size %d", size)
	}
	_, err := a.Ping(context.Background(), addrB, PingConfig{Size: 65508})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	_, err = a.Ping(context.Background(), addrB, PingConfig{Size: 1473, DontFragment: true})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	st, err := b.Ping(context.Background(), "localhost", PingConfig{Count: 100, Interval: -1})
	require.NoError(t, err)
	require.Equal(t, 100, st.Received)
}

func TestPingToNowhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newPatientHost(t)
		began := time.Now()
		var replies []PingReply
		st, err := h.Ping(context.Background(), nobody, PingConfig{Count: 2, Timeout: 3 * time.Second, OnReply: func(r PingReply) { replies = append(replies, r) }})
		require.NoError(t, err, "a loss is no error")
		require.Equal(t, PingStats{Addr: netip.MustParseAddr(nobody), Sent: 2}, st)
		require.Equal(t, 1.0, st.Loss())
		require.Equal(t, 4*time.Second, time.Since(began))
		require.Len(t, replies, 2)
		require.Equal(t, PingReply{Seq: 1, RTT: 3 * time.Second, Err: os.ErrDeadlineExceeded}, replies[1])

		_, err = h.Ping(context.Background(), "203.0.113.1", PingConfig{})
		require.EqualError(t, err, "write ip4 0.0.0.0->203.0.113.1: sendto: network is unreachable")
		_, err = h.Ping(context.Background(), "no.example", PingConfig{})
		require.EqualError(t, err, "dial ip:icmp: lookup no.example: no such host")
		_, err = newHost(t, nic.NewNull(nic.Link{}), addrA, withoutIPv6).Ping(context.Background(), "::1", PingConfig{})
		require.EqualError(t, err, "dial ip6:ipv6-icmp ::1: socket: address family not supported by protocol", "the host has no IPv6")
	})
}

func TestPingEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, _ := newImpairedPair(t, nic.Impairment{Latency: 10 * time.Millisecond})
		ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
		defer cancel()
		began := time.Now()
		st, err := a.Ping(ctx, addrB, PingConfig{Count: -1})
		require.NoError(t, err, "without a count, the end of the context is not an error")
		require.Equal(t, 3, st.Received)
		require.Equal(t, 2500*time.Millisecond, time.Since(began))
		st, err = a.Ping(ctx, addrB, PingConfig{Count: 2})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Zero(t, st.Sent)
		require.Zero(t, st.Loss())
	})
}

// A link that accepts nothing does not block Ping: the requests count as lost.
func TestPingOverAStuckLinkEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFuzzWire(1, nic.Link{MTU: 1500, Medium: nic.IP})
		a := newHost(t, w.end[0], addrA)
		w.end[0].stick()
		u, err := a.ListenUDP("udp", nil)
		require.NoError(t, err)
		require.NoError(t, u.SetWriteDeadline(time.Now().Add(time.Second)))
		for err == nil { // fill the queue
			_, err = u.WriteToUDPAddrPort([]byte("x"), netip.MustParseAddrPort(addrB+":9"))
		}
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		began := time.Now()
		st, err := a.Ping(context.Background(), addrB, PingConfig{Count: 2})
		require.NoError(t, err)
		require.Equal(t, 1.0, st.Loss())
		require.LessOrEqual(t, time.Since(began), 3*time.Second)
		ctx, cancel := context.WithTimeout(context.Background(), 2500*time.Millisecond)
		defer cancel()
		began = time.Now()
		_, err = a.Ping(ctx, addrB, PingConfig{Count: -1, Timeout: time.Minute})
		require.NoError(t, err)
		require.Equal(t, 2500*time.Millisecond, time.Since(began))
		w.end[0].release()
	})
}

// The other end of the link stands for two hosts that answer requests to the broadcast address.
func TestPingOfABroadcastCountsItsAnswers(t *testing.T) {
	for _, c := range []struct{ network, to string }{
		{"192.0.2.1/24", "192.0.2.255"}, {"192.0.2.1/26", "192.0.2.63"}, {"192.0.2.1/29", "192.0.2.7"}, {"192.0.2.1/26", "255.255.255.255"},
	} {
		ea, eb := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		h, err := New(Config{NIC: ea, Addrs: []netip.Prefix{netip.MustParsePrefix(c.network)}})
		require.NoError(t, err)
		defer h.Close()
		eb.Attach(func(batch []nic.Frame) {
			for i := range batch {
				for _, last := range []byte{2, 3} {
					// Turn the request into an echo reply (type 0) from 192.0.2.last.
					out := batch[i].AppendTo(nil)
					copy(out[16:20], out[12:16])
					copy(out[12:16], []byte{192, 0, 2, last})
					out[20], out[10], out[11], out[22], out[23] = 0, 0, 0, 0, 0
					sum := wire.Checksum(out[20:])
					out[22], out[23] = byte(sum>>8), byte(sum)
					sum = wire.Checksum(out[:20])
					out[10], out[11] = byte(sum>>8), byte(sum)
					eb.Send([]nic.Frame{{Head: out}})
				}
			}
		})
		var from []string
		st, err := h.Ping(context.Background(), c.to, PingConfig{Count: 3, Interval: 10 * time.Millisecond, OnReply: func(r PingReply) {
			from = append(from, r.From.String())
		}})
		require.NoError(t, err)
		require.Equal(t, 3, st.Received, "%s on %s", c.to, c.network)
		require.Contains(t, from, "192.0.2.2")
		require.Contains(t, from, "192.0.2.3")
		require.Positive(t, st.Duplicates)
	}
}

func TestPingTellsOfICMPErrors(t *testing.T) {
	// The router is a function that answers every echo request with a Time Exceeded message (type 11).
	ea, eb := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	a := newHost(t, ea, addrA, func(cfg *Config) {
		cfg.Routes = []stack.Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), NIC: "pipe-a"}}
	})
	router := netip.MustParseAddr(addrB)
	eb.Attach(func(batch []nic.Frame) {
		for i := range batch {
			in := batch[i].AppendTo(nil)
			out := make([]byte, 20+8+28) // IPv4, ICMP, and the IPv4 header and 8 bytes of the request
			out[0], out[3], out[8], out[9] = 0x45, byte(len(out)), 64, 1
			r := router.As4()
			copy(out[12:], r[:])
			copy(out[16:], in[12:16])
			out[20], out[21] = 11, 0
			copy(out[28:], in[:28])
			sum := wire.Checksum(out[20:])
			out[22], out[23] = byte(sum>>8), byte(sum)
			sum = wire.Checksum(out[:20])
			out[10], out[11] = byte(sum>>8), byte(sum)
			eb.Send([]nic.Frame{{Head: out}})
		}
	})
	var got []PingReply
	st, err := a.Ping(context.Background(), "203.0.113.9", PingConfig{Count: 2, Interval: -1, TTL: 1, OnReply: func(r PingReply) { got = append(got, r) }})
	require.NoError(t, err)
	require.Equal(t, 2, st.Errors)
	require.Equal(t, 1.0, st.Loss())
	require.Len(t, got, 2)
	require.Equal(t, router, got[1].From)
	require.Equal(t, 1, got[1].Seq)
	require.Equal(t, syscall.EHOSTUNREACH, got[1].Err)
}

func FuzzPingInput(f *testing.F) {
	h, err := New(Config{})
	require.NoError(f, err)
	defer h.Close()
	reply := append([]byte{0, 0, 0, 0, 1, 2, 0, 0}, 0, 1, 2, 3)
	// A Host Unreachable that quotes a request.
	quote := append([]byte{3, 1, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1}, 8, 0, 0, 0, 1, 2, 0, 0)
	f.Add(reply)
	f.Add(quote)
	f.Fuzz(func(t *testing.T, msg []byte) {
		raw, err := h.stack.OpenRaw(stack.Family4, 1, netip.Addr{})
		require.NoError(t, err)
		defer raw.Close()
		p := newPinger(h, family{stack: stack.Family4}, raw, netip.MustParseAddr("127.0.0.1"), PingConfig{Size: 4})
		p.id = 0x0102
		p.out = []request{{0, time.Now()}}
		if len(msg) >= 4 { // a correct checksum, so that more of the message is parsed
			msg[2], msg[3] = 0, 0
			sum := wire.Checksum(msg)
			msg[2], msg[3] = byte(sum>>8), byte(sum)
		}
		p.input(msg, netip.MustParseAddr("127.0.0.1"), stack.Meta{})
		p.input(msg, netip.MustParseAddr("127.0.0.1"), stack.Meta{})
		require.LessOrEqual(t, p.stats.Received+p.stats.Errors, 1)
		p.finish()
		require.GreaterOrEqual(t, p.stats.MDev, time.Duration(0))
	})
}

func TestICMPSocketsOfNetsForm(t *testing.T) {
	a, _ := newPair(t)
	c, err := a.ListenPacket("ip4:icmp", "0.0.0.0")
	require.NoError(t, err)
	msg := []byte{8, 0, 0, 0, 0x12, 0x34, 0, 1, 'h', 'i'}
	sum := wire.Checksum(msg)
	msg[2], msg[3] = byte(sum>>8), byte(sum)
	_, err = c.WriteTo(msg, &net.IPAddr{IP: net.ParseIP(addrB)})
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, from, err := c.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, addrB, from.String())
	require.Equal(t, "hi", string(buf[8:n]))
	require.EqualValues(t, 0, buf[0])
}

func TestPingOverIPv6(t *testing.T) {
	near, far := nic.Pipe(nic.PipeConfig{})
	a, b := sixPair(t, near, far)
	for _, size := range []int{0, 1, 56, 1452, 1453, 65527} {
		var got []PingReply
		st, err := a.Ping(context.Background(), addr6B, PingConfig{Size: size, OnReply: func(r PingReply) { got = append(got, r) }})
		require.NoError(t, err)
		require.Equal(t, 1, st.Received, "size %d", size)
		require.Equal(t, netip.MustParseAddr(addr6B), got[0].From)
		require.Equal(t, size, got[0].Size)
		require.EqualValues(t, 64, got[0].TTL)
	}
	_, err := a.Ping(context.Background(), addr6B, PingConfig{Size: 65528})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	_, err = a.Ping(context.Background(), addr6B, PingConfig{Size: 1453, DontFragment: true})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	st, err := b.Ping(context.Background(), "::1", PingConfig{Count: 10, Interval: -1})
	require.NoError(t, err)
	require.Equal(t, 10, st.Received)
}

// The quote in an ICMPv6 error is matched to the request.
func TestPingTellsOfICMPv6Errors(t *testing.T) {
	h := sixHost(t)
	raw, err := h.stack.OpenRaw(stack.Family6, uint16(wire.ProtoICMPv6), netip.Addr{})
	require.NoError(t, err)
	defer raw.Close()
	to, router := netip.MustParseAddr(addr6B), netip.MustParseAddr("2001:db8::fe")
	var got []PingReply
	p := newPinger(h, family{stack: stack.Family6, six: true}, raw, to, PingConfig{Size: 4, OnReply: func(r PingReply) { got = append(got, r) }})
	exceeded := func(dst netip.Addr, id uint16) []byte {
		msg := make([]byte, echoLen+wire.IPv6Len+len(p.msg))
		msg[0] = byte(wire.ICMPv6TimeExceeded)
		ip := wire.IPv6{Next: wire.ProtoICMPv6, HopLimit: 1, Src: netip.MustParseAddr(addr6A), Dst: dst}
		ip.Put(msg[echoLen:], len(p.msg))
		copy(msg[echoLen+wire.IPv6Len:], p.msg)
		binary.BigEndian.PutUint16(msg[echoLen+wire.IPv6Len+4:], id)
		return msg
	}
	for _, msg := range [][]byte{exceeded(router, p.id), exceeded(to, p.id+1), exceeded(to, p.id)[:50], exceeded(to, p.id)} {
		p.out = []request{{0, time.Now()}}
		p.input(msg, router, stack.Meta{})
	}
	require.Len(t, got, 1, "the others are not about our request")
	require.Equal(t, syscall.EHOSTUNREACH, got[0].Err)
	require.Equal(t, router, got[0].From)
	require.Equal(t, 1, p.stats.Errors)
}
