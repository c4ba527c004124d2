package guide

import (
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

// The host asks three times, a second apart. Then the dial fails with Linux's error, "no route to host". A datagram would
// be dropped without a word, as on Linux: UDP promises nothing.
func TestSolution03_1NobodyAnswers(t *testing.T) {
	solution(t, func(t *testing.T) {
		var asked []time.Duration
		a, _ := pair(t, nic.Impairment{}, 1, func(dev nic.Device) nic.Device {
			return lab.Frames(dev, "arp and host 192.0.2.3", func(at time.Duration, _ []byte) { asked = append(asked, at) })
		})
		began := time.Now()
		_, err := a.Dial("tcp", "192.0.2.3:9")
		require.ErrorIs(t, err, syscall.EHOSTUNREACH)
		require.Equal(t, 3*time.Second, time.Since(began).Round(time.Millisecond))
		synctest.Wait()
		require.Len(t, asked, 3)
		require.Equal(t, time.Second, (asked[1] - asked[0]).Round(time.Millisecond))
	})
}

// The host that starts later announces 192.0.2.1, and the other one defends it. Both keep it: the addresses of a
// configuration are not given up (RFC 5227 2.4), but each host reports the conflict. With IPv6, duplicate address detection
// finds the conflict before it does harm, and the later host goes without the address (RFC 4862 5.4.5).
func TestSolution03_2TwoOwners(t *testing.T) {
	solution(t, func(t *testing.T) {
		left, right := lab.Wire()
		a := lab.Host(left, 1, "192.0.2.1/24", "2001:db8::1/64")
		closeLater(t, a)
		time.Sleep(5 * time.Second)
		b := lab.Host(right, 2, "192.0.2.1/24", "2001:db8::1/64")
		closeLater(t, b)
		time.Sleep(5 * time.Second)

		has := func(addrs []netip.Prefix, addr string) bool {
			return slices.Contains(addrs, netip.MustParsePrefix(addr))
		}
		require.True(t, has(a.Addrs(), "192.0.2.1/24"))
		require.True(t, has(b.Addrs(), "192.0.2.1/24"))
		require.True(t, has(a.Addrs(), "2001:db8::1/64"))
		require.False(t, has(b.Addrs(), "2001:db8::1/64"))
	})
}
