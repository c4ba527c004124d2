package usernet

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
	"golang.org/x/net/dns/dnsmessage"
)

// A plan says how dials to an address end.
type plan struct {
	after         time.Duration // when the dial ends; never if negative
	err           error         // how it ends; nil: with a connection
	ignoresCancel bool          // the dial ignores the end of its context
}

const ms = time.Millisecond

func connects(after time.Duration) plan { return plan{after: after} }
func refused(after time.Duration) plan {
	return plan{after: after, err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
}

var silent = plan{after: -1}

// A raceDialer dials for a race. Each dial ends as the plan of its address says. The raceDialer records what happens.
type raceDialer struct {
	plans map[string]plan
	began time.Time

	mu     sync.Mutex
	events []string
	open   int // open connections
}

// A raceConn is a connection that has only an address.
type raceConn struct {
	net.Conn
	dialer *raceDialer
	addr   net.Addr
}

func (c *raceConn) RemoteAddr() net.Addr { return c.addr }

func (c *raceConn) Close() error {
	c.dialer.note("close", c.addr, -1)
	return nil
}

// note records an event of an address, with the time, and adds opened to the number of open
// connections.
func (d *raceDialer) note(what string, addr net.Addr, opened int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	ip, _, _ := addrIP(addr)
	d.events = append(d.events, fmt.Sprintf("%v %s %v", time.Since(d.began), what, ip))
	d.open += opened
}

func (d *raceDialer) dial(ctx context.Context, addr net.Addr) (net.Conn, error) {
	d.note("start", addr, 0)
	ip, _, _ := addrIP(addr)
	p, ok := d.plans[ip.String()]
	if !ok {
		panic("no plan for " + ip.String())
	}
	end, done := (<-chan time.Time)(nil), ctx.Done()
	if p.after >= 0 {
		end = time.After(p.after)
	}
	if p.ignoresCancel {
		done = nil
	}
	select {
	case <-done:
		d.note("give up", addr, 0)
		return nil, contextError(ctx.Err())
	case <-end:
		if p.err != nil {
			d.note("fail", addr, 0)
			return nil, p.err
		}
		d.note("connect", addr, 1)
		return &raceConn{dialer: d, addr: addr}, nil
	}
}

// The addresses of the races.
const (
	six1, six2   = "2001:db8::1", "2001:db8::2"
	four1, four2 = "192.0.2.1", "192.0.2.2"
)

// A raceCase is a race with its expected events, exact to the nanosecond.
type raceCase struct {
	name    string
	network string // "tcp" if empty
	delay   time.Duration
	timeout time.Duration // none if zero
	cancel  time.Duration // when the caller cancels; never if zero
	addrs   []string
	plans   map[string]plan

	events []string // expected, in any order
	winner string   // the address that connects, if err is empty
	err    string
	took   time.Duration
}

func (c *raceCase) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if c.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	if c.cancel > 0 {
		time.AfterFunc(c.cancel, cancel)
	}
	if c.network == "" {
		c.network = "tcp"
	}
	d := &raceDialer{plans: c.plans, began: time.Now()}
	var addrs []net.Addr
	for _, a := range c.addrs {
		addrs = append(addrs, makeAddr(c.network, net.ParseIP(a), "", 80))
	}
	conn, err := (&race{network: c.network, delay: c.delay, dial: d.dial}).run(ctx, addrs)
	require.Equal(t, c.took, time.Since(d.began), "how long it took")
	open := 0
	if c.err != "" {
		require.Nil(t, conn)
		require.EqualError(t, err, c.err)
		require.IsType(t, &net.OpError{}, err)
	} else {
		require.NoError(t, err)
		ip, _, _ := addrIP(conn.RemoteAddr())
		require.Equal(t, c.winner, ip.String())
		open = 1
	}
	time.Sleep(time.Hour) // for events that must not happen
	require.Equal(t, open, d.open, "connections that stay open")
	sorted := func(s []string) string { return strings.Join(slices.Sorted(slices.Values(s)), "\n") }
	require.Equal(t, sorted(c.events), sorted(d.events))
}

func TestHappyEyeballs(t *testing.T) {
	for _, c := range raceCases() {
		t.Run(c.name, func(t *testing.T) { synctest.Test(t, c.run) })
	}
}

// raceCases returns cases for the rules of RFC 8305 or, where net differs, for those of net.
func raceCases() []raceCase {
	return slices.Concat(attemptCases(), orderCases(), failureCases(), limitCases())
}

// RFC 8305 5: "one connection attempt to a single address is started first, followed by the
// others in the list, one at a time. Starting a new connection attempt does not affect
// previous attempts". The "Connection Attempt Delay" is 250 ms in the RFC, and 300 ms in net.
func attemptCases() []raceCase {
	both := []string{six1, four1}
	return []raceCase{
		{
			name: "the second family is not tried if the first one is quick", addrs: both,
			plans:  map[string]plan{six1: connects(299 * ms)},
			events: []string{"0s start " + six1, "299ms connect " + six1},
			winner: six1, took: 299 * ms,
		}, {
			name: "the second family is tried after the delay", addrs: both,
			plans:  map[string]plan{six1: silent, four1: connects(40 * ms)},
			events: []string{"0s start " + six1, "300ms start " + four1, "340ms connect " + four1, "340ms give up " + six1},
			winner: four1, took: 340 * ms,
		}, {
			name: "an attempt is not affected by the start of the next", addrs: both,
			plans:  map[string]plan{six1: connects(350 * ms), four1: connects(60 * ms)},
			events: []string{"0s start " + six1, "300ms start " + four1, "350ms connect " + six1, "350ms give up " + four1},
			winner: six1, took: 350 * ms,
		}, {
			name: "the delay is the caller's", addrs: both, delay: 50 * ms,
			plans:  map[string]plan{six1: silent, four1: connects(10 * ms)},
			events: []string{"0s start " + six1, "50ms start " + four1, "60ms connect " + four1, "60ms give up " + six1},
			winner: four1, took: 60 * ms,
		}, {
			// "all other connections attempts that have not yet succeeded SHOULD be canceled": an
			// attempt that succeeds in spite of that is closed.
			name: "an attempt that succeeds though it was cancelled is closed", addrs: both,
			plans: map[string]plan{six1: {after: 400 * ms, ignoresCancel: true}, four1: connects(40 * ms)},
			events: []string{
				"0s start " + six1, "300ms start " + four1, "340ms connect " + four1,
				"400ms connect " + six1, "400ms close " + six1,
			},
			winner: four1, took: 400 * ms,
		}, {
			// As in net, a negative FallbackDelay turns the second family's parallel attempts off. The
			// addresses keep their order.
			name: "without the delay the addresses are tried one after the other", addrs: []string{six1, four1, six2},
			delay: -1, timeout: 9 * time.Second,
			plans: map[string]plan{six1: silent, four1: silent, six2: connects(ms)},
			events: []string{
				"0s start " + six1, "3s give up " + six1, "3s start " + four1, "6s give up " + four1,
				"6s start " + six2, "6.001s connect " + six2,
			},
			winner: six2, took: 6001 * ms,
		}, {
			name: "the addresses of one family do not race", addrs: []string{four1, four2}, timeout: 10 * time.Second,
			plans:  map[string]plan{four1: silent, four2: connects(ms)},
			events: []string{"0s start " + four1, "5s give up " + four1, "5s start " + four2, "5.001s connect " + four2},
			winner: four2, took: 5001 * ms,
		}, {
			// In net, families race on "tcp" only.
			name: "datagrams do not race", network: "udp", addrs: both,
			plans:  map[string]plan{six1: connects(time.Second)},
			events: []string{"0s start " + six1, "1s connect " + six1},
			winner: six1, took: time.Second,
		},
	}
}

// RFC 8305 4: the addresses are sorted by RFC 6724 and then mixed: "Whichever address
// family is first in the list should be followed by an address of the other address family".
// net sorts, and does not mix.
func orderCases() []raceCase {
	return []raceCase{
		{
			name: "the family of the first address is the first", addrs: []string{four1, six1},
			plans:  map[string]plan{four1: silent, six1: connects(40 * ms)},
			events: []string{"0s start " + four1, "300ms start " + six1, "340ms connect " + six1, "340ms give up " + four1},
			winner: six1, took: 340 * ms,
		}, {
			// RFC 8305 would try four1 next.
			name: "a family's next address is tried when one has failed", addrs: []string{six1, four1, six2, four2},
			plans: map[string]plan{six1: refused(10 * ms), six2: silent, four1: refused(20 * ms), four2: connects(40 * ms)},
			events: []string{
				"0s start " + six1, "10ms fail " + six1, "10ms start " + six2,
				"300ms start " + four1, "320ms fail " + four1, "320ms start " + four2,
				"360ms connect " + four2, "360ms give up " + six2,
			},
			winner: four2, took: 360 * ms,
		}, {
			// RFC 8305 would try six2 at 250 ms, and four1 at 500 ms.
			name: "within a family the next address waits for the end of the one before", addrs: []string{six1, six2, four1},
			timeout: 8 * time.Second,
			plans:   map[string]plan{six1: silent, six2: connects(ms), four1: silent},
			events: []string{
				"0s start " + six1, "300ms start " + four1, "4s give up " + six1, "4s start " + six2,
				"4.001s connect " + six2, "4.001s give up " + four1,
			},
			winner: six2, took: 4001 * ms,
		}, {
			// RFC 8305 5: "Any address that was not yet attempted as a connection SHOULD be ignored."
			name: "what was not tried when one has won never is", addrs: []string{six1, six2, four1, four2},
			plans:  map[string]plan{six1: silent, four1: connects(ms)},
			events: []string{"0s start " + six1, "300ms start " + four1, "301ms connect " + four1, "301ms give up " + six1},
			winner: four1, took: 301 * ms,
		},
	}
}

func failureCases() []raceCase {
	both := []string{six1, four1}
	return []raceCase{
		{
			name: "the second family starts at once when the first has failed", addrs: both,
			plans:  map[string]plan{six1: refused(10 * ms), four1: connects(40 * ms)},
			events: []string{"0s start " + six1, "10ms fail " + six1, "10ms start " + four1, "50ms connect " + four1},
			winner: four1, took: 50 * ms,
		}, {
			name: "the first family has failed when all of its addresses have", addrs: []string{six1, six2, four1},
			plans: map[string]plan{six1: refused(10 * ms), six2: refused(20 * ms), four1: connects(40 * ms)},
			events: []string{
				"0s start " + six1, "10ms fail " + six1, "10ms start " + six2, "30ms fail " + six2,
				"30ms start " + four1, "70ms connect " + four1,
			},
			winner: four1, took: 70 * ms,
		}, {
			name: "the failure of the second family does not hurt the first", addrs: both,
			plans:  map[string]plan{six1: connects(time.Second), four1: refused(10 * ms)},
			events: []string{"0s start " + six1, "300ms start " + four1, "310ms fail " + four1, "1s connect " + six1},
			winner: six1, took: time.Second,
		}, {
			name: "if all fail the error is that of the first address", addrs: []string{six1, six2, four1},
			plans: map[string]plan{six1: refused(310 * ms), six2: {after: 90 * ms, err: syscall.EHOSTUNREACH}, four1: {after: 10 * ms, err: syscall.ENETUNREACH}},
			events: []string{
				"0s start " + six1, "300ms start " + four1, "310ms fail " + four1, "310ms fail " + six1,
				"310ms start " + six2, "400ms fail " + six2,
			},
			err: "dial tcp [" + six1 + "]:80: connect: connection refused", took: 400 * ms,
		}, {
			name: "the error is the first family's though the second one fails last", addrs: both,
			plans:  map[string]plan{six1: refused(10 * ms), four1: {after: 500 * ms, err: syscall.ENETUNREACH}},
			events: []string{"0s start " + six1, "10ms fail " + six1, "10ms start " + four1, "510ms fail " + four1},
			err:    "dial tcp [" + six1 + "]:80: connect: connection refused", took: 510 * ms,
		},
	}
}

// Time limits and their errors, as in net.
func limitCases() []raceCase {
	both := []string{six1, four1}
	return []raceCase{
		{
			name: "a caller who gives up early gets the error at once", addrs: both, cancel: 100 * ms,
			plans:  map[string]plan{six1: silent},
			events: []string{"0s start " + six1, "100ms give up " + six1},
			err:    "dial tcp [" + six1 + "]:80: operation was canceled", took: 100 * ms,
		}, {
			name: "a caller who gives up ends both attempts", addrs: both, cancel: 400 * ms,
			plans:  map[string]plan{six1: silent, four1: silent},
			events: []string{"0s start " + six1, "300ms start " + four1, "400ms give up " + six1, "400ms give up " + four1},
			err:    "dial tcp [" + six1 + "]:80: operation was canceled", took: 400 * ms,
		}, {
			// net checks the context before each address.
			name: "the error of a caller who gives up names the next address", addrs: []string{six1, six2, four1}, cancel: 100 * ms,
			plans:  map[string]plan{six1: silent},
			events: []string{"0s start " + six1, "100ms give up " + six1},
			err:    "dial tcp [" + six2 + "]:80: operation was canceled", took: 100 * ms,
		}, {
			name: "a deadline before the delay ends it all", addrs: both, timeout: 200 * ms,
			plans:  map[string]plan{six1: silent},
			events: []string{"0s start " + six1, "200ms give up " + six1},
			err:    "dial tcp [" + six1 + "]:80: i/o timeout", took: 200 * ms,
		}, {
			name: "each family shares the time that it has among its addresses", addrs: []string{six1, six2, four1, four2}, timeout: 8300 * ms,
			plans: map[string]plan{six1: silent, six2: silent, four1: silent, four2: silent},
			events: []string{
				"0s start " + six1, "300ms start " + four1,
				"4.15s give up " + six1, "4.15s start " + six2, "4.3s give up " + four1, "4.3s start " + four2,
				"8.3s give up " + six2, "8.3s give up " + four2,
			},
			err: "dial tcp [" + six1 + "]:80: i/o timeout", took: 8300 * ms,
		}, {
			name: "an address has 2 s, and those that come too late none", addrs: []string{six1, six2, "2001:db8::3"}, timeout: 3 * time.Second,
			plans:  map[string]plan{six1: silent, six2: silent},
			events: []string{"0s start " + six1, "2s give up " + six1, "2s start " + six2, "3s give up " + six2},
			err:    "dial tcp [" + six1 + "]:80: i/o timeout", took: 3 * time.Second,
		}, {
			name: "time that an address has left goes to the others", addrs: []string{four1, four2}, timeout: 10 * time.Second,
			plans:  map[string]plan{four1: refused(time.Second), four2: silent},
			events: []string{"0s start " + four1, "1s fail " + four1, "1s start " + four2, "10s give up " + four2},
			err:    "dial tcp " + four1 + ":80: connect: connection refused", took: 10 * time.Second,
		},
	}
}

func TestOfTwoThatConnectAtOnceOneIsClosed(t *testing.T) {
	for range 20 { // either may win
		synctest.Test(t, func(t *testing.T) {
			d := &raceDialer{plans: map[string]plan{six1: connects(340 * ms), four1: connects(40 * ms)}, began: time.Now()}
			addrs := []net.Addr{makeAddr("tcp", net.ParseIP(six1), "", 80), makeAddr("tcp", net.ParseIP(four1), "", 80)}
			conn, err := (&race{network: "tcp", dial: d.dial}).run(t.Context(), addrs)
			require.NoError(t, err)
			require.Equal(t, 340*ms, time.Since(d.began))
			synctest.Wait()
			require.Equal(t, 1, d.open)
			require.NoError(t, conn.Close())
			require.Zero(t, d.open, "the one that was returned is the one that was open")
		})
	}
}

// A recorder is a link without other hosts that records when the first frame to each address was
// sent.
type recorder struct {
	*nic.Null
	mu    sync.Mutex
	first map[netip.Addr]time.Time
}

func (r *recorder) Nonblocking() nic.Device { return r }

func (r *recorder) Send(batch []nic.Frame) (int, error) {
	r.mu.Lock()
	for i := range batch {
		dst := netip.AddrFrom4([4]byte(batch[i].Head[16:20])) // RFC 791 3.1
		if _, ok := r.first[dst]; !ok {
			r.first[dst] = time.Now()
		}
	}
	r.mu.Unlock()
	return r.Null.Send(batch)
}

func TestTheTimeLeftIsSharedByTheAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// None of these three addresses answers.
		addrs := []netip.Addr{
			netip.MustParseAddr("192.0.2.91"), netip.MustParseAddr("192.0.2.92"), netip.MustParseAddr("192.0.2.93"),
		}
		for _, c := range []struct {
			timeout time.Duration
			starts  []time.Duration // of the attempts
		}{
			{9 * time.Second, []time.Duration{0, 3 * time.Second, 6 * time.Second}},
			{5 * time.Second, []time.Duration{0, 2 * time.Second, 4 * time.Second}}, // at least 2 s for each address
			{time.Second, []time.Duration{0}},                                       // the first address has all the time: it is less than 2 s
		} {
			link := &recorder{Null: nic.NewNull(nic.Link{Medium: nic.IP}), first: make(map[netip.Addr]time.Time)}
			h := newHost(t, link, addrA, func(cfg *Config) { cfg.Hosts = map[string][]netip.Addr{"all.example": addrs} })
			began := time.Now()
			_, err := (&Dialer{Host: h, Timeout: c.timeout}).Dial("tcp", "all.example:80")
			require.EqualError(t, err, "dial tcp 192.0.2.91:80: i/o timeout", "the error is that of the first address")
			require.Equal(t, c.timeout, time.Since(began))
			require.Len(t, link.first, len(c.starts))
			for i, start := range c.starts {
				require.Equal(t, start, link.first[addrs[i]].Sub(began), "address %d of %v", i, c.timeout)
			}
		}
	})
}

func TestHappyEyeballsTriesTheOtherFamilyAfterTheDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newImpairedPair(t, nic.Impairment{Latency: 10 * time.Millisecond})
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		go serve(ln, echo)
		good := []net.Addr{&net.TCPAddr{IP: net.ParseIP(addrB), Port: 80}}
		silent := []net.Addr{&net.TCPAddr{IP: net.ParseIP(nobody), Port: 80}}
		refused := []net.Addr{&net.TCPAddr{IP: net.ParseIP(addrB), Port: 81}}
		ctx := context.Background()

		// For this test the two lists may have the same family.
		race := func(d Dialer, primaries, fallbacks []net.Addr) (net.Conn, time.Duration, error) {
			began := time.Now()
			d.Host = a
			c, err := d.race("tcp").parallel(ctx, primaries, fallbacks)
			return c, time.Since(began), err
		}
		c, first, err := race(Dialer{}, good, silent)
		require.NoError(t, err)
		require.Less(t, first, 300*time.Millisecond, "the fallback is not needed")
		require.NoError(t, c.Close())

		c, took, err := race(Dialer{}, silent, good)
		require.NoError(t, err)
		require.Equal(t, 320*time.Millisecond, took, "the delay and a round trip")
		require.NoError(t, c.Close())

		c, took, err = race(Dialer{FallbackDelay: time.Second}, silent, good)
		require.NoError(t, err)
		require.Equal(t, 1020*time.Millisecond, took)
		require.NoError(t, c.Close())

		c, took, err = race(Dialer{}, refused, good)
		require.NoError(t, err)
		require.Equal(t, 40*time.Millisecond, took, "at once, when the primary has failed")
		require.NoError(t, c.Close())

		_, _, err = race(Dialer{}, refused, silent)
		require.ErrorIs(t, err, syscall.ECONNREFUSED, "the error is the primary's")
		_, _, err = race(Dialer{}, silent, refused)
		require.ErrorIs(t, err, syscall.EHOSTUNREACH, "the error is the primary's")

		ctx2, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		_, err = (&Dialer{Host: newPatientHost(t)}).race("tcp").parallel(ctx2, silent, silent)
		require.EqualError(t, err, "dial tcp "+nobody+":80: i/o timeout")
	})
}

func TestTheSlowerOfTwoFamiliesIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newImpairedPair(t, nic.Impairment{Latency: 200 * time.Millisecond})
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		addrs := []net.Addr{&net.TCPAddr{IP: net.ParseIP(addrB), Port: 80}}
		c, err := (&Dialer{Host: a}).race("tcp").parallel(context.Background(), addrs, addrs)
		require.NoError(t, err)
		defer c.Close()
		s, err := ln.Accept()
		require.NoError(t, err)
		defer s.Close()
		require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String(), "the first has won")
		require.NoError(t, ln.(*TCPListener).SetDeadline(time.Now().Add(time.Minute)))
		_, err = ln.Accept()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the second attempt was given up before its handshake ended")
	})
}

// A slowDNS answers questions about addresses, each type after its own delay, and records when they
// arrived.
type slowDNS struct {
	pc      net.PacketConn
	answers map[dnsmessage.Type]dnsAnswer
	began   time.Time

	mu    sync.Mutex
	asked []string
}

type dnsAnswer struct {
	after time.Duration // never if negative
	rcode dnsmessage.RCode
	body  dnsmessage.ResourceBody // nil if there is none
}

func (s *slowDNS) serve() {
	buf := make([]byte, 1500)
	for {
		n, from, err := s.pc.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
			continue
		}
		q := m.Questions[0]
		s.mu.Lock()
		s.asked = append(s.asked, fmt.Sprintf("%v %v", time.Since(s.began), strings.TrimPrefix(q.Type.String(), "Type")))
		s.mu.Unlock()
		ans := s.answers[q.Type]
		reply := dnsmessage.Message{
			Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: ans.rcode},
			Questions: m.Questions,
		}
		if ans.body != nil {
			reply.Answers = []dnsmessage.Resource{{
				Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60}, Body: ans.body,
			}}
		}
		if out, err := reply.Pack(); err == nil && ans.after >= 0 {
			time.AfterFunc(ans.after, func() { s.pc.WriteTo(out, from) })
		}
	}
}

// newFarPair makes two hosts, 5 ms apart, on a wire without link addresses.
func newFarPair(t *testing.T, change ...func(*Config)) (a, b *Host) {
	t.Helper()
	ea, eb := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	imp := nic.Impairment{Latency: 5 * ms}
	return newHost(t, nic.Impair(ea, nic.ImpairConfig{Out: imp, In: imp}), addrA, change...), newHost(t, eb, addrB)
}

// RFC 8305 3: "Both queries SHOULD be made as soon after one another as possible". The RFC
// continues: "Implementations SHOULD NOT wait for both families of answers to return before
// attempting connection establishment", except for a "Resolution Delay" of 50 ms. net waits for
// both.
func TestBothFamiliesAreAskedForAtOnceAndWaitedFor(t *testing.T) {
	A, AAAA := dnsmessage.TypeA, dnsmessage.TypeAAAA
	here := &dnsmessage.AResource{A: netip.MustParseAddr(addrB).As4()}
	far := &dnsmessage.AAAAResource{AAAA: netip.MustParseAddr(six1).As16()}
	both := []string{"5ms A", "5ms AAAA"}
	for name, c := range map[string]struct {
		network string
		answers map[dnsmessage.Type]dnsAnswer
		asked   []string
		err     string
		took    time.Duration // a round trip takes 10 ms
	}{ // A query in mixed case without an answer is repeated in the caller's case.
		"one family only":           {"tcp", map[dnsmessage.Type]dnsAnswer{A: {body: here}, AAAA: {}}, both, "", 20 * ms},
		"the other is late":         {"tcp", map[dnsmessage.Type]dnsAnswer{A: {body: here}, AAAA: {after: 200 * ms}}, both, "", 220 * ms},
		"this one is late":          {"tcp", map[dnsmessage.Type]dnsAnswer{A: {body: here, after: 200 * ms}, AAAA: {body: far}}, both, "", 220 * ms},
		"the other is out of reach": {"tcp", map[dnsmessage.Type]dnsAnswer{A: {body: here}, AAAA: {body: far}}, both, "", 20 * ms},
		"only IPv4 asked for":       {"tcp4", map[dnsmessage.Type]dnsAnswer{A: {body: here}}, []string{"5ms A"}, "", 20 * ms},
		"the other never ends":      {"tcp", map[dnsmessage.Type]dnsAnswer{A: {body: here}, AAAA: {after: -1}}, append(both, "2.505s AAAA", "5.005s AAAA", "7.505s AAAA"), "", 10*time.Second + 10*ms},
		"the other is broken":       {"tcp", map[dnsmessage.Type]dnsAnswer{A: {body: here}, AAAA: {rcode: dnsmessage.RCodeServerFailure}}, append(both, "15ms AAAA"), "", 30 * ms},
		"only one out of reach":     {"tcp", map[dnsmessage.Type]dnsAnswer{A: {}, AAAA: {body: far}}, append(both, "15ms A"), "dial tcp [" + six1 + "]:80: connect: network is unreachable", 20 * ms},
		"only IPv6 asked for":       {"tcp6", map[dnsmessage.Type]dnsAnswer{AAAA: {body: far}}, []string{"5ms AAAA"}, "dial tcp6 [" + six1 + "]:80: connect: network is unreachable", 10 * ms},
		"none at all":               {"tcp", map[dnsmessage.Type]dnsAnswer{A: {}, AAAA: {}}, append(both, "15ms A", "15ms AAAA"), "dial tcp: lookup dual.example. on " + addrB + ":53: no such host", 20 * ms},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newFarPair(t, func(cfg *Config) { cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort(addrB + ":53")} })
				pc, err := b.ListenPacket("udp", ":53")
				require.NoError(t, err)
				ln, err := b.Listen("tcp", ":80")
				require.NoError(t, err)
				defer ln.Close()
				dns := &slowDNS{pc: pc, answers: c.answers, began: time.Now()}
				go dns.serve()
				conn, err := a.Dial(c.network, "dual.example.:80")
				require.Equal(t, c.took, time.Since(dns.began))
				if c.err != "" {
					require.EqualError(t, err, c.err)
				} else {
					require.NoError(t, err)
					require.Equal(t, addrB+":80", conn.RemoteAddr().String())
					require.NoError(t, conn.Close())
				}
				dns.mu.Lock()
				defer dns.mu.Unlock()
				require.ElementsMatch(t, c.asked, dns.asked)
			})
		})
	}
}

func TestADialGoesOnToTheNextAddressAndLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := func(cfg *Config) {
			cfg.Hosts = map[string][]netip.Addr{
				"dead.example":    {netip.MustParseAddr(nobody), netip.MustParseAddr(addrB)},
				"refused.example": {netip.MustParseAddr(addrA), netip.MustParseAddr(addrB)},
			}
		}
		a, b := newFarPair(t, names)
		ln, err := b.Listen("tcp", ":80")
		require.NoError(t, err)
		for _, c := range []struct {
			host string
			took time.Duration
		}{
			{"dead.example", 5*time.Second + 10*ms}, // half of the timeout, and a round trip
			{"refused.example", 10 * ms},
		} {
			began := time.Now()
			conn, err := (&Dialer{Host: a, Timeout: 10 * time.Second}).Dial("tcp", c.host+":80")
			require.NoError(t, err)
			require.Equal(t, c.took, time.Since(began))
			require.Equal(t, addrB+":80", conn.RemoteAddr().String())
			s, err := ln.Accept()
			require.NoError(t, err)
			require.Equal(t, conn.LocalAddr().String(), s.RemoteAddr().String())
			require.NoError(t, conn.Close())
			require.NoError(t, s.Close())
		}
		require.NoError(t, ln.(*TCPListener).SetDeadline(time.Now().Add(time.Minute)))
		_, err = ln.Accept()
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "one connection for each dial")
	})
}

// A synRecorder is a device that records the times at which it sends SYNs, in one list for each family.
type synRecorder struct {
	nic.Device
	began time.Time
	mu    sync.Mutex
	sent  map[string][]string // by "IPv4" and "IPv6"
}

func (r *synRecorder) Nonblocking() nic.Device { return r }

func (r *synRecorder) Send(batch []nic.Frame) (int, error) {
	r.mu.Lock()
	for _, f := range batch {
		ip := slices.Concat(f.Head, f.Body)
		if r.Link().Medium == nic.Ethernet {
			ip = ip[wire.EthernetLen:]
		}
		const syn, ack = 0x02, 0x10
		family, proto, at := "IPv4", 9, wire.IPv4Len
		if ip[0]>>4 == 6 {
			family, proto, at = "IPv6", 6, wire.IPv6Len
		}
		if len(ip) >= at+wire.TCPLen && wire.Proto(ip[proto]) == wire.ProtoTCP && ip[at+13]&(syn|ack) == syn {
			r.sent[family] = append(r.sent[family], time.Since(r.began).String())
		}
	}
	r.mu.Unlock()
	return r.Device.Send(batch)
}

// TestHappyEyeballsBetweenHosts dials a name that has an IPv6 and an IPv4 address, from one host to
// another. It checks which family connects, when, and when SYNs are sent.
//
// RFC 8305 5: "one connection attempt to a single address is started first, followed by the others in the
// list, one at a time"; 8: "Connection Attempt Delay [...] Recommended to be 250 milliseconds"; "Minimum
// Connection Attempt Delay [...] MUST NOT be less than 10 milliseconds".
func TestHappyEyeballsBetweenHosts(t *testing.T) {
	const nobody = "2001:db8::99" // no host has this address
	for _, c := range []struct {
		name   string
		six    string // the name's IPv6 address
		listen string // the network of the server's listener
		medium nic.Medium
		delay  time.Duration // FallbackDelay

		winner string // the family that connects
		took   time.Duration
		sent4  []string // when SYNs are sent
		sent6  []string
	}{
		{name: "both families answer", six: addr6B, listen: "tcp", medium: nic.IP, winner: "IPv6", sent6: []string{"0s"}},
		{name: "IPv6 is silent", six: nobody, listen: "tcp", medium: nic.IP,
			winner: "IPv4", took: 300 * ms, sent6: []string{"0s"}, sent4: []string{"300ms"}},
		{name: "IPv6 is silent, and the delay is that of RFC 8305", six: nobody, listen: "tcp", medium: nic.IP, delay: 250 * ms,
			winner: "IPv4", took: 250 * ms, sent6: []string{"0s"}, sent4: []string{"250ms"}},
		// The SYN over IPv6 waits for a Neighbor Advertisement.
		{name: "IPv6 has no neighbor", six: nobody, listen: "tcp", medium: nic.Ethernet,
			winner: "IPv4", took: 300 * ms, sent4: []string{"300ms"}},
		{name: "IPv6 is refused", six: addr6B, listen: "tcp4", medium: nic.IP,
			winner: "IPv4", sent6: []string{"0s"}, sent4: []string{"0s"}},
		// Without parallel attempts, a silent address has its share of the timeout. The times of the
		// retransmissions are 1 s and 3 s.
		{name: "IPv6 is silent, and there are no parallel attempts", six: nobody, listen: "tcp", medium: nic.IP, delay: -1,
			winner: "IPv4", took: 5 * time.Second, sent6: []string{"0s", "1s", "3s"}, sent4: []string{"5s"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := nic.Pipe(nic.PipeConfig{Medium: c.medium})
				rec := &synRecorder{Device: near, sent: make(map[string][]string)}
				with := func(addr string) func(*Config) {
					return func(cfg *Config) {
						cfg.Addrs = append(cfg.Addrs, netip.PrefixFrom(netip.MustParseAddr(addr), 64))
						// The host sorts the addresses by RFC 6724: IPv6 first.
						cfg.Hosts = map[string][]netip.Addr{"dual.example": {netip.MustParseAddr(addrB), netip.MustParseAddr(c.six)}}
					}
				}
				a, b := newHost(t, rec, addrA, with(addr6A)), newHost(t, far, addrB, with(addr6B))
				time.Sleep(time.Minute) // Duplicate Address Detection
				ln, err := b.Listen(c.listen, ":80")
				require.NoError(t, err)
				go serve(ln, echo)
				rec.began = time.Now()
				d := &Dialer{Host: a, Timeout: 10 * time.Second, FallbackDelay: c.delay}
				conn, err := d.Dial("tcp", "dual.example:80")
				require.NoError(t, err)
				require.Equal(t, c.took, time.Since(rec.began))
				remote := map[string]string{"IPv4": addrB + ":80", "IPv6": net.JoinHostPort(addr6B, "80")}
				require.Equal(t, remote[c.winner], conn.RemoteAddr().String())
				_, err = conn.Write([]byte("x"))
				require.NoError(t, err)
				_, err = conn.Read(make([]byte, 1))
				require.NoError(t, err, "the connection works")
				require.NoError(t, conn.Close())
				time.Sleep(time.Hour) // for SYNs of attempts that were not cancelled
				require.Equal(t, c.sent6, rec.sent["IPv6"])
				require.Equal(t, c.sent4, rec.sent["IPv4"])
				require.NoError(t, ln.Close())
			})
		})
	}
}
