package usernet

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// RFC 6724 6, rule 3: "If Source(DA) is deprecated and Source(DB) is not, then prefer DB."
func TestNamesAvoidDeprecatedSources(t *testing.T) {
	six := netip.MustParsePrefix("2001:db8::1/64")
	h, err := New(Config{
		NIC:   nic.NewNull(nic.Link{MTU: 1500, Medium: nic.IP}), // the host probes no addresses on a nic.IP link
		Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), six},
		Hosts: map[string][]netip.Addr{"both.test": {netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}},
	})
	require.NoError(t, err)
	defer h.Close()
	addrs, err := h.LookupNetIP(t.Context(), "ip", "both.test")
	require.NoError(t, err)
	require.Equal(t, "[2001:db8::9 ::ffff:192.0.2.9]", fmt.Sprint(addrs))
	require.False(t, h.Stack().IsDeprecated(six.Addr()))
	require.NoError(t, h.Stack().AddAddr("", six, stack.AddrOptions{Preferred: -1}))
	require.True(t, h.Stack().IsDeprecated(six.Addr()))
	addrs, err = h.LookupNetIP(t.Context(), "ip", "both.test")
	require.NoError(t, err)
	require.Equal(t, "[::ffff:192.0.2.9 2001:db8::9]", fmt.Sprint(addrs))
}

// RFC 5452 9.2: a resolver must "use an unpredictable source port for outgoing queries from the
// range of available ports", and "an unpredictable query ID for outgoing queries, utilizing the full
// range available".
func TestPortsAndIDsOfQueriesCannotBePredicted(t *testing.T) {
	const queries = 500
	synctest.Test(t, func(t *testing.T) {
		a, b := newFarPair(t, func(cfg *Config) {
			cfg.DNS = []netip.AddrPort{netip.MustParseAddrPort(addrB + ":53")}
		})
		pc, err := b.ListenPacket("udp", ":53")
		require.NoError(t, err)
		var ports, ids []int
		go func() {
			buf := make([]byte, 1500)
			for {
				n, from, err := pc.ReadFrom(buf)
				if err != nil {
					return
				}
				var m dnsmessage.Message
				if m.Unpack(buf[:n]) != nil {
					continue
				}
				ports = append(ports, from.(*net.UDPAddr).Port)
				ids = append(ids, int(m.ID))
				reply := dnsmessage.Message{
					Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true},
					Questions: m.Questions,
					Answers: []dnsmessage.Resource{{
						Header: dnsmessage.ResourceHeader{Name: m.Questions[0].Name, Class: dnsmessage.ClassINET},
						Body:   &dnsmessage.TXTResource{TXT: []string{"text"}},
					}},
				}
				if out, err := reply.Pack(); err == nil {
					pc.WriteTo(out, from)
				}
			}
		}()
		for i := range queries {
			_, err := a.Resolver().LookupTXT(t.Context(), fmt.Sprintf("%d.example.", i))
			require.NoError(t, err)
		}
		synctest.Wait()
		for what, numbers := range map[string][]int{"ports": ports, "IDs": ids} {
			require.Len(t, numbers, queries)
			steps := make([]int, 0, queries)
			for i := range numbers[1:] {
				steps = append(steps, numbers[i+1]-numbers[i])
			}
			distinct := func(s []int) int { return len(slices.Compact(slices.Sorted(slices.Values(s)))) }
			// Among so many random ports out of 28,000, or IDs out of 65,536, few are equal.
			require.Greater(t, distinct(numbers), queries*95/100, what)
			require.Greater(t, distinct(steps), queries*95/100, "%s: the steps between them differ too", what)
			require.Greater(t, slices.Max(numbers)-slices.Min(numbers), 25_000, "%s: they are from the whole range", what)
		}
	})
}
