package dhcp

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// This file has tests of what a hostile server or client sends.

// isPrintable reports whether a text has only printable ASCII.
func isPrintable(text string) bool {
	return !strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r > '~' })
}

// Bytes of a name that are not printable never reach a program, a log or a terminal, whichever option has the name.
func TestNamesWithControlCharactersAreOmitted(t *testing.T) {
	const optTFTPServer, optBootfile = OptionCode4(66), OptionCode4(67)
	for c := range 256 {
		name := []byte{'a', byte(c), 'b'}
		good := isName(string(name))
		search := append(append([]byte{3}, name...), 0) // one label, in which a dot is not allowed
		goodLabel := good && c != '.'
		// DHCPv4, from a server
		b := newTestClient4(t, nil)
		b.c.Up(b.now)
		b.want(Discover)
		options := []Option4{{OptHostName, name}, {OptDomainName, name}, {OptDomainSearch, search}, {optTFTPServer, name}, {optBootfile, name}}
		b.receive(b.reply(Offer, "192.0.2.1", "192.0.2.7", 60, options...))
		b.want(Request)
		b.receive(b.reply(NAK, "192.0.2.1", "", 0, Option4{OptMessage, name}))
		require.True(t, isPrintable(b.event(Refused).Reason), "byte %d", c)
		l, err := leaseOf(b.reply(ACK, "192.0.2.1", "192.0.2.7", 60, options...), start)
		require.NoError(t, err)
		require.Equal(t, []bool{good, good, goodLabel}, []bool{l.HostName != "", l.Domain != "", len(l.Search) == 1}, "byte %d", c)
		require.True(t, isPrintable(l.Options.Text(optTFTPServer)+l.Options.Text(optBootfile)), "byte %d", c)

		// DHCPv4, from a client
		s := newTestServer4(t, nil)
		s.lease(7, Option4{OptHostName, name})
		for binding := range s.s.Bindings() {
			require.Equal(t, good, binding.HostName != "", "byte %d", c)
		}

		// DHCPv6
		o := Options6{{Opt6DomainSearch, search}, {Opt6Status, AppendStatus(nil, UnspecFail6, string(name))}}
		require.Equal(t, goodLabel, len(o.Search(9)) == 1, "byte %d", c)
		_, text := o.Status()
		require.True(t, isPrintable(text), "byte %d", c)
	}
}

// RFC 8415 7.7: "a value of 0xffffffff is used to represent 'infinity'". The test also has lifetimes
// of 0, and of one second less than infinity, which is 136 years.
func TestLifetimesFromNoneToInfinity(t *testing.T) {
	for _, c := range []struct {
		preferred, valid uint32
		year             int // of the end; 0: never
		accepted         bool
	}{
		{0, 0, 0, false}, {1, 0, 0, false}, {2, 1, 0, false}, {infinity, infinity - 1, 0, false},
		{0, 1, start.Year(), true}, {1, 1, start.Year(), true}, {0, infinity, 0, true}, {infinity, infinity, 0, true},
		{infinity - 1, infinity - 1, start.Year() + 136, true}, {infinity - 1, infinity, 0, true},
	} {
		for _, t1 := range []uint32{0, 1, infinity - 1, infinity} {
			l := newLink6(t, nil)
			l.change = func(r *Message6) *Message6 {
				for i, o := range r.Options {
					if ia, ok := parseIA(o.Code, o.Data); ok && o.Code == Opt6IANA {
						ia.t1, ia.t2 = t1, t1
						ia.items[0].preferred, ia.items[0].valid = c.preferred, c.valid
						r.Options[i] = ia.option(Opt6IANA)
					}
				}
				return r
			}
			l.c.Up(l.now)
			l.next()
			l.next()
			require.Equal(t, c.accepted, l.c.Lease() != nil, "%+v", c)
			if !c.accepted {
				l.event(Refused)
				continue
			}
			lease := l.event(Acquired).Lease
			year := 0
			if !lease.Expires.IsZero() {
				year = lease.Expires.Year()
			}
			require.Equal(t, c.year, year, "%+v", c)
			if !lease.Renew.IsZero() && c.valid > 10 {
				require.True(t, l.now.Before(lease.Renew) && !lease.Renew.After(lease.Rebind), "%+v: T1 %v, T2 %v", c, lease.Renew, lease.Rebind)
				require.True(t, lease.Expires.IsZero() || lease.Rebind.Before(lease.Expires), "%+v: T2 %v", c, lease.Rebind)
			}
			began := l.now
			for range 100 {
				if at := l.c.Deadline(); !at.IsZero() {
					require.False(t, at.Before(l.now), "%+v: %v", c, at)
					l.next()
				}
			}
			require.True(t, l.now.Equal(began) || l.now.Sub(began) > 10*time.Second, "%+v: a hundred messages take %v", c, l.now.Sub(began))
		}
	}
}

// A server sends lifetimes of 136 years as they are, and longer ones as infinity.
func TestAServer6WithLongLifetimes(t *testing.T) {
	for _, c := range []struct {
		valid time.Duration
		ends  bool
	}{{(infinity - 1) * time.Second, true}, {infinity * time.Second, false}, {1<<63 - 1, false}} {
		l := newLink6(t, func(_ *ClientConfig6, s *ServerConfig6) { s.Valid, s.Preferred = c.valid, c.valid })
		l.c.Up(l.now)
		l.until(Bound6)
		require.Equal(t, c.ends, !l.c.Lease().Expires.IsZero())
		l.s.Tick(l.now.Add(100 * 365 * 24 * time.Hour))
		require.Len(t, l.s.byAddr, 1)
	}
}

// RFC 8415 14.1: "A client MUST limit the rate of DHCP messages it transmits or retransmits."
func TestALoopOfRefusals6IsLimited(t *testing.T) {
	for _, status := range []Status6{NoAddrsAvail6, NoBinding6, NotOnLink6, UnspecFail6, UseMulticast6} {
		l := newLink6(t, func(_ *ClientConfig6, s *ServerConfig6) { s.Preference = 255 })
		l.change = func(r *Message6) *Message6 {
			if r.Type == Reply6 {
				r.Options = append(r.Options[:2:2], (&ia6{id: l.c.cfg.IAID, status: status, text: "no"}).option(Opt6IANA), Option6{Opt6Status, AppendStatus(nil, status, "no")})
			}
			return r
		}
		l.c.Up(l.now)
		end := l.now.Add(10 * time.Minute)
		for n := 0; l.c.Deadline().Before(end); n++ {
			require.Less(t, n, 2000)
			l.next()
			for _, ok := l.c.NextEvent(); ok; _, ok = l.c.NextEvent() {
			}
		}
		require.LessOrEqual(t, len(l.took()), 20+10*60, "%v", status)
		l.change = nil
		l.until(Bound6)
	}
}

// Two servers disagree about everything. The client ignores each Reply of the server that it has not asked.
func TestTwoServers6Disagree(t *testing.T) {
	l := newLink6(t, nil)
	cfg := l.s.cfg
	cfg.DUID, cfg.Pools = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 2}, []Range6{{addr("2001:db8::2:0"), addr("2001:db8::2:ff")}}
	second, err := NewServer6(cfg, l.now)
	require.NoError(t, err)
	// Before each Reply of the first server, the client receives a failure from the second server.
	l.change = func(r *Message6) *Message6 {
		if r.Type == Reply6 {
			failure := (&ia6{id: l.c.cfg.IAID, status: NoBinding6}).option(Opt6IANA)
			l.c.Receive(l.now, &Message6{Type: Reply6, XID: r.XID, Options: Options6{{Opt6ServerID, cfg.DUID}, {Opt6ClientID, l.c.cfg.DUID}, failure}})
		}
		return r
	}
	l.c.Up(l.now)
	l.until(Bound6)
	first := l.event(Acquired).Lease
	for range 10 {
		l.next()
		require.Equal(t, first.Addrs[0].Prefix, l.event(Renewed).Lease.Addrs[0].Prefix)
	}
	// The first server dies. The second one assigns another address, and gives the old address lifetimes of 0
	// (RFC 8415 18.3.5).
	l.s, l.change = second, nil
	for n := 0; l.c.Lease() == nil || l.c.Lease().Addrs[0].Prefix == first.Addrs[0].Prefix; n++ {
		require.Less(t, n, 100)
		l.next()
	}
	require.Len(t, l.c.Lease().Addrs, 1)
	require.Equal(t, slices.Collect(second.Bindings())[0].Addr, l.c.Lease().Addrs[0].Prefix.Addr())
}
