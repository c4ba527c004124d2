package stack

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// A negotiating is a device without stations that negotiates what a test says.
type negotiating struct {
	*nic.Null
	tell func(nic.NetConfig)
}

func (d *negotiating) NotifyConfig(f func(nic.NetConfig)) { d.tell = f }

// negotiatingStack makes a stack with the interface ppp0, whose device negotiates its configuration.
func negotiatingStack(t *testing.T, addrs ...netip.Prefix) (*Stack, *negotiating, *bytes.Buffer) {
	log := new(bytes.Buffer)
	dev := &negotiating{Null: nic.NewNull(nic.Link{Name: "ppp0", Medium: nic.IP})}
	s, err := New(Config{
		NICs:   []NIC{{Device: nic.Impair(dev, nic.ImpairConfig{}), Addrs: addrs, Auto: true}},
		Logger: slog.New(slog.NewTextHandler(log, nil)),
	})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s, dev, log
}

// The device negotiates the same address with another prefix. The interface keeps the address and the
// program's routes.
func TestANegotiatedPrefixChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dev, log := negotiatingStack(t)
		dev.tell(nic.NetConfig{Addrs: []netip.Prefix{prefix("192.0.2.2/32")}, Routes: []netip.Prefix{prefix("192.0.2.1/32")}})
		own := Route{Dst: prefix("198.51.100.0/24"), NIC: "ppp0"}
		require.NoError(t, s.AddRoute(own))
		for _, p := range []string{"192.0.2.2/24", "192.0.2.2/25", "192.0.2.2/32"} {
			dev.tell(nic.NetConfig{Addrs: []netip.Prefix{prefix(p)}})
			require.Equal(t, []AddrInfo{{Prefix: prefix(p), Origin: AddrNegotiated}}, s.Interfaces()[1].AddrInfo)
			require.Contains(t, s.Routes(), own)
		}
		require.Empty(t, log.String())
		dev.tell(nic.NetConfig{})
		require.Empty(t, s.Interfaces()[1].Addrs)
	})
}

// An address that the program has configured stays static, whether the program configured it before or after
// the device negotiated the same address.
func TestANegotiatedAddressOfTheProgramStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dev, log := negotiatingStack(t, prefix("192.0.2.2/32"))
		requireStatic := func(all ...string) {
			t.Helper()
			var want []AddrInfo
			for _, p := range all {
				want = append(want, AddrInfo{Prefix: prefix(p)})
			}
			require.Equal(t, want, s.Interfaces()[1].AddrInfo)
		}
		dev.tell(nic.NetConfig{Addrs: []netip.Prefix{prefix("192.0.2.2/32")}})
		requireStatic("192.0.2.2/32")
		require.Empty(t, log.String())
		dev.tell(nic.NetConfig{Addrs: []netip.Prefix{prefix("192.0.2.3/32")}})
		require.Len(t, s.Interfaces()[1].Addrs, 2)
		require.NoError(t, s.AddAddr("", prefix("192.0.2.3/32"), AddrOptions{}))
		dev.tell(nic.NetConfig{Addrs: []netip.Prefix{prefix("192.0.2.3/32")}})
		requireStatic("192.0.2.2/32", "192.0.2.3/32")
		dev.tell(nic.NetConfig{})
		requireStatic("192.0.2.2/32", "192.0.2.3/32")
	})
}

// What a device negotiates replaces what it has negotiated before. What the program has configured stays, even
// if the device has negotiated the same.
func TestNegotiatedConfigurationIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, dev, log := negotiatingStack(t, prefix("203.0.113.1/24"))
		prefixes := func(all ...string) (ps []netip.Prefix) {
			for _, p := range all {
				ps = append(ps, netip.MustParsePrefix(p))
			}
			return ps
		}
		addrs := func() []netip.Prefix { return s.Interfaces()[1].Addrs }
		require.Equal(t, prefixes("203.0.113.1/24"), addrs(), "the stack makes no link-local address, because the device negotiates it")
		own := Route{Dst: netip.MustParsePrefix("198.51.100.0/24"), NIC: "ppp0"}
		require.NoError(t, s.AddRoute(own))

		dev.tell(nic.NetConfig{
			Addrs:  prefixes("192.0.2.2/32", "fe80::7/64"),
			Routes: prefixes("192.0.2.1/32", "0.0.0.0/0", "198.51.100.0/24", "::/0"),
			DNS:    []netip.Addr{netip.MustParseAddr("192.0.2.53")},
		})
		require.Equal(t, prefixes("203.0.113.1/24", "192.0.2.2/32", "fe80::7/64"), addrs())
		for _, a := range s.Interfaces()[1].AddrInfo[1:] {
			require.Equal(t, AddrNegotiated, a.Origin)
			require.Equal(t, AddrPreferred, a.State, "without Duplicate Address Detection")
		}
		require.Contains(t, fmt.Sprint(s.Routes()), "0.0.0.0/0")
		require.Contains(t, fmt.Sprint(s.Routes()), "::/0")
		servers, _ := s.LearnedDNS()
		require.Equal(t, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.53:53")}, servers)

		dev.tell(nic.NetConfig{Addrs: prefixes("192.0.2.3/32", "203.0.113.1/32"), Routes: prefixes("192.0.2.9/32")})
		require.Equal(t, prefixes("203.0.113.1/24", "192.0.2.3/32"), addrs())
		require.Contains(t, log.String(), "negotiated address cannot be used", "the program has it with another prefix")
		text := fmt.Sprint(s.Routes())
		require.Contains(t, text, "192.0.2.9/32")
		require.Contains(t, text, "198.51.100.0/24", "the program's own route")
		require.NotContains(t, text, "0.0.0.0/0")
		require.NotContains(t, text, "192.0.2.1/32")
		servers, _ = s.LearnedDNS()
		require.Empty(t, servers)

		dev.tell(nic.NetConfig{})
		require.Equal(t, prefixes("203.0.113.1/24"), addrs())
		require.NoError(t, s.DelRoute(own))
		require.NoError(t, s.RemoveNIC("ppp0"))
		dev.tell(nic.NetConfig{Addrs: prefixes("192.0.2.2/32")}) // late
		require.NotContains(t, log.String(), "192.0.2.2/32")
	})
}
