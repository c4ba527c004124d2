package stack

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

func TestNewReportsAWrongConfiguration(t *testing.T) {
	dev := func() nic.Device { return nic.NewNull(nic.Link{}) }
	one := func(n NIC) Config { return Config{NICs: []NIC{n}} }
	addrs := func(ps ...string) (as []netip.Prefix) {
		for _, p := range ps {
			as = append(as, netip.MustParsePrefix(p))
		}
		return as
	}
	shared := dev()
	used, _ := nic.Pipe(nic.PipeConfig{})
	other, err := New(one(NIC{Device: used}))
	require.NoError(t, err)
	defer other.Close()
	closed := nic.NewNull(nic.Link{})
	another, err := New(one(NIC{Device: closed}))
	require.NoError(t, err)
	another.Close()
	for _, test := range []struct {
		name string
		cfg  Config
		want string // a part of the error
	}{
		{"nil device", one(NIC{Name: "a"}), "device is nil"},
		{"nil pointer", one(NIC{Device: (*nic.TAP)(nil)}), "device is nil"},
		{"device of another host", one(NIC{Device: used}), "has a user already"},
		{"device that wraps a device of another host", one(NIC{Device: nic.Capture(used, io.Discard, nic.CaptureConfig{})}), "has a user already"},
		{"device that was closed with another host", one(NIC{Device: closed}), "has a user already"},
		{"port of a switch's device", one(NIC{Device: portOfADevice(t)}), "has a user already"},
		{"device twice, once wrapped", Config{NICs: []NIC{{Name: "a", Device: nic.Impair(shared, nic.ImpairConfig{})}, {Name: "b", Device: shared}}}, "that of a already"},
		// New must not compare the two devices by ==, which would panic. The error is about the second MTU.
		{"device that cannot be compared", Config{NICs: []NIC{{Device: uncomparable{dev(), nil}}, {Device: uncomparable{nic.NewNull(nic.Link{MTU: 60}), nil}}}}, "MTU of 60"},
		{"small MTU", one(NIC{Device: nic.NewNull(nic.Link{MTU: 67})}), "MTU of 67"},
		{"group MAC", one(NIC{Device: nic.NewNull(nic.Link{MAC: [6]byte{1, 2, 3, 4, 5, 6}})}), "group address"},
		{"name taken", Config{NICs: []NIC{{Name: "a", Device: dev()}, {Name: "a", Device: dev()}}}, `"a" is taken`},
		{"name of the loopback", one(NIC{Name: "lo", Device: dev()}), `"lo" is taken`},
		{"device twice", Config{NICs: []NIC{{Name: "a", Device: shared}, {Name: "b", Device: shared}}}, "that of a already"},
		{"VLAN twice", Config{NICs: []NIC{{Name: "a", Device: shared, VLAN: 100}, {Name: "b", Device: shared, VLAN: 100}}}, "VLAN 100 of the device is that of a already"},
		{"negative VLAN", one(NIC{Device: dev(), VLAN: -1}), "VLAN -1 is not from 1 to 4094"},
		{"reserved VLAN", one(NIC{Device: dev(), VLAN: 4095}), "VLAN 4095 is not from 1 to 4094"},
		{"VLAN beyond 16 bits", one(NIC{Device: dev(), VLAN: 65536 + 100}), "VLAN 65636 is not from 1 to 4094"},
		{"VLAN without Ethernet", one(NIC{Device: nic.NewNull(nic.Link{Medium: nic.IP}), VLAN: 100}), "the device has no Ethernet"},
		{"VLAN of a device of another host", one(NIC{Device: used, VLAN: 100}), "has a user already"},
		{"VLAN of a device that another NIC wraps", Config{NICs: []NIC{{Name: "a", Device: nic.Impair(shared, nic.ImpairConfig{})}, {Name: "b", Device: shared, VLAN: 1}}}, "that of a already"},
		{"malformed prefix", one(NIC{Device: dev(), Addrs: []netip.Prefix{{}}}), "malformed"},
		{"prefix too long", one(NIC{Device: dev(), Addrs: []netip.Prefix{netip.PrefixFrom(addr("192.0.2.1"), 33)}}), "malformed"},
		{"IPv6 loopback", one(NIC{Device: dev(), Addrs: addrs("::1/128")}), "::1 belongs to the loopback"},
		{"IPv4 written as IPv6", one(NIC{Device: dev(), Addrs: addrs("::ffff:192.0.2.1/120")}), "written as one"},
		{"link-local with a subnet", one(NIC{Device: dev(), Addrs: addrs("fe80:1::1/64")}), "54 zero bits"},
		{"IPv6 on a short link", one(NIC{Device: nic.NewNull(nic.Link{MTU: 1279, Medium: nic.IP}), Addrs: addrs("2001:db8::1/64")}), "below the 1280 that IPv6 needs"},
		{"address twice on one NIC", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/24", "192.0.2.1/25")}), "twice"},
		{"address twice on two", Config{NICs: []NIC{{Name: "a", Device: dev(), Addrs: addrs("192.0.2.1/24")}, {Device: dev(), Addrs: addrs("192.0.2.1/24")}}}, "a has it"},
		{"network address", one(NIC{Device: dev(), Addrs: addrs("192.0.2.0/24")}), "the network itself"},
		{"broadcast address", one(NIC{Device: dev(), Addrs: addrs("192.0.2.255/24")}), "broadcast"},
		{"multicast", one(NIC{Device: dev(), Addrs: addrs("224.0.0.9/24")}), "unicast"},
		{"loopback outside", one(NIC{Device: dev(), Addrs: addrs("127.0.0.2/8")}), "loopback"},
		{"unspecified", one(NIC{Device: dev(), Addrs: addrs("0.0.0.0/8")}), "unspecified"},
		{"gateway not on link", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/24"), Gateway: addr("198.51.100.1")}), "not on the link"},
		{"gateway is a group", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/32"), Gateway: addr("224.0.0.5")}), "not a unicast"},
		{"gateway is a broadcast address", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/24"), Gateway: addr("192.0.2.255")}), "not a unicast"},
		{"IPv6 gateway written as IPv4", one(NIC{Device: dev(), Addrs: addrs("2001:db8::1/128"), Gateway6: addr("::ffff:192.0.2.9")}), "not a unicast"},
		{"gateway is unspecified", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/32"), Gateway: addr("0.0.0.0")}), "not a unicast"},
		{"gateway not on link beside a network", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/24", "192.0.2.77/32"), Gateway: addr("198.51.100.1")}), "not on the link"},
		{"gateway without an address", one(NIC{Device: dev(), Gateway: addr("198.51.100.1")}), "not on the link"},
		{"gateway is the host", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/24"), Gateway: addr("192.0.2.1")}), "own address"},
		{"IPv6 prefix too long", one(NIC{Device: dev(), Addrs: []netip.Prefix{netip.PrefixFrom(addr("2001:db8::1"), 129)}}), "malformed"},
		{"IPv6 gateway not on link", one(NIC{Device: dev(), Addrs: addrs("2001:db8::1/64"), Gateway6: addr("2001:db8:1::1")}), "not on the link"},
		{"IPv6 gateway as Gateway", one(NIC{Device: dev(), Addrs: addrs("2001:db8::1/64"), Gateway: addr("2001:db8::9")}), "use Gateway6 for IPv6"},
		{"IPv4 gateway as Gateway6", one(NIC{Device: dev(), Addrs: addrs("192.0.2.1/24"), Gateway6: addr("192.0.2.9")}), "use Gateway for IPv4"},
		{"gateway in an unknown zone", one(NIC{Name: "a", Device: dev(), Gateway6: addr("fe80::1%b")}), "zone of fe80::1%b is not a: write it as fe80::1%a or without"},
		{"gateway in the zone of another", Config{NICs: []NIC{{Name: "a", Device: dev()}, {Name: "b", Device: dev(), Gateway6: addr("fe80::1%a")}}}, "is not b"},
		{"route in an unknown zone", Config{NICs: []NIC{{Device: dev()}}, Routes: []Route{{Dst: prefix("2001:db8::/32"), Via: addr("fe80::1%b")}}}, "fe80::1%b names no interface"},
		{"route in the zone of an unknown index", Config{NICs: []NIC{{Device: dev()}}, Routes: []Route{{Dst: prefix("2001:db8::/32"), Via: addr("fe80::1%9")}}}, "fe80::1%9 names no interface"},
		{"route in the zone of another NIC", Config{NICs: []NIC{{Name: "a", Device: dev()}, {Name: "b", Device: dev()}}, Routes: []Route{{Dst: prefix("2001:db8::/32"), Via: addr("fe80::1%b"), NIC: "a"}}}, "is not a"},
		{"neighbor in the zone of another NIC", Config{NICs: []NIC{{Name: "a", Device: dev()}, {Name: "b", Device: dev()}}, Neighbors: []Neighbor{{NIC: "a", Addr: addr("fe80::9%b"), MAC: macB}}}, "is not a"},
		{"route to nowhere", Config{Routes: []Route{{Dst: prefix("10.0.0.0/8")}}}, "neither"},
		{"route over no NIC", Config{Routes: []Route{{Dst: prefix("10.0.0.0/8"), NIC: "x"}}}, `"x"`},
		{"route over a router on no link", Config{Routes: []Route{{Dst: prefix("10.0.0.0/8"), Via: addr("192.0.2.9")}}}, "on no link"},
		{"malformed route", Config{Routes: []Route{{}}}, "malformed"},
		{"neighbor on an unknown interface", Config{Neighbors: []Neighbor{{NIC: "x", Addr: addr("192.0.2.9")}}}, `"x"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, err := New(test.cfg)
			require.ErrorContains(t, err, test.want)
			require.Nil(t, s)
		})
	}
}

// An uncomparable is a device whose type is not comparable, so == panics.
type uncomparable struct {
	nic.Device
	f []int
}

func portOfADevice(t *testing.T) nic.Device {
	p, err := nic.NewSwitch(nic.SwitchConfig{}).Attach(nic.NewNull(nic.Link{}))
	require.NoError(t, err)
	return p
}

// A host with a single address (/32) reaches all others through a gateway outside its network, as on some
// clouds.
func TestASingleAddressHasAGatewayOffItsNetwork(t *testing.T) {
	for _, medium := range []nic.Medium{nic.Ethernet, nic.IP} {
		a, b := nic.Pipe(nic.PipeConfig{Medium: medium})
		cloud := func(dev nic.Device, own, gateway string) *Stack {
			s, err := New(Config{Rand: testRand(), NICs: []NIC{{Device: dev, Addrs: []netip.Prefix{prefix(own)}, Gateway: addr(gateway)}}})
			require.NoError(t, err)
			t.Cleanup(func() { s.Close() })
			return s
		}
		one := cloud(a, "203.0.113.7/32", "169.254.0.1")
		router := cloud(b, "169.254.0.1/32", "203.0.113.7") // its gateway is the host
		u, v := openUDP(t, one, "0.0.0.0:9"), openUDP(t, router, "0.0.0.0:9")
		_, err := u.WriteTo([]byte("x"), addrPort("169.254.0.1:9"), SendOptions{})
		require.NoError(t, err)
		_, _, from, _, err := v.ReadFrom(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, addrPort("203.0.113.7:9"), from)
		p, err := one.route(addr("192.0.2.99"), netip.Addr{})
		require.NoError(t, err)
		require.Equal(t, addr("169.254.0.1"), p.hop)
		require.Equal(t, addr("203.0.113.7"), p.src)
		require.Equal(t, []Route{
			{Dst: prefix("169.254.0.1/32"), NIC: "pipe-a"},
			{Dst: prefix("203.0.113.7/32"), NIC: "pipe-a", Src: addr("203.0.113.7")},
			{Dst: prefix("0.0.0.0/0"), Via: addr("169.254.0.1"), NIC: "pipe-a"},
		}, slices.DeleteFunc(one.Routes(), func(r Route) bool { return r.Dst.Addr().Is6() }))
		// Another route may use the same gateway, but not another address outside the network.
		require.NoError(t, one.AddRoute(Route{Dst: prefix("10.0.0.0/8"), Via: addr("169.254.0.1")}))
		require.Error(t, one.AddRoute(Route{Dst: prefix("10.0.0.0/8"), Via: addr("169.254.0.2")}))
	}
}

func TestASingleAddressOfIPv6HasAGatewayOffItsNetwork(t *testing.T) {
	for _, medium := range []nic.Medium{nic.Ethernet, nic.IP} {
		synctest.Test(t, func(t *testing.T) {
			a, b := nic.Pipe(nic.PipeConfig{Medium: medium})
			cloud := func(dev nic.Device, gateway string, own ...netip.Prefix) *Stack {
				s, err := New(Config{Rand: testRand(), NICs: []NIC{{Device: dev, Addrs: own, Gateway6: addr(gateway)}}})
				require.NoError(t, err)
				t.Cleanup(func() { s.Close() })
				return s
			}
			// An IPv4 network on the same link makes no difference.
			one := cloud(a, "2001:db8:2::1", prefix("192.0.2.1/24"), prefix("2001:db8:1::7/128"))
			router := cloud(b, "2001:db8:1::7", prefix("2001:db8:2::1/128"))
			u, v := openUDP(t, one, "[::]:9"), openUDP(t, router, "[::]:9")
			_, err := u.WriteTo([]byte("x"), addrPort("[2001:db8:2::1]:9"), SendOptions{})
			require.NoError(t, err)
			_, _, from, _, err := v.ReadFrom(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, addrPort("[2001:db8:1::7]:9"), from)
			p, err := one.route(addr("2001:db8:9::9"), netip.Addr{})
			require.NoError(t, err)
			require.Equal(t, addr("2001:db8:2::1"), p.hop)
			require.Equal(t, addr("2001:db8:1::7"), p.src)
		})
	}
}

func TestAHostWithoutLinksHasItsLoopback(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	defer s.Close()
	a := openUDP(t, s, "127.0.0.1:1000")
	b := openUDP(t, s, "127.0.0.5:1000")
	_, err = a.WriteTo([]byte("hello"), addrPort("127.0.0.5:1000"), SendOptions{})
	require.NoError(t, err)
	buf := make([]byte, 10)
	n, _, from, meta, err := b.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "hello", string(buf[:n]))
	require.Equal(t, addrPort("127.0.0.1:1000"), from)
	require.Equal(t, Meta{Dst: addr("127.0.0.5"), TTL: 64, NIC: 1}, meta)
	_, err = a.WriteTo(nil, addrPort("192.0.2.1:1"), SendOptions{})
	require.ErrorIs(t, err, syscall.EINVAL, "127.0.0.1 cannot be seen outside")
	require.True(t, s.HasIPv6())
	require.True(t, s.HasIPv4())
}

func TestLinksOfARunningHostChange(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	defer s.Close()
	require.False(t, s.SourceFor(addr("192.0.2.2")).IsValid())

	da, db := nic.Pipe(nic.PipeConfig{})
	require.NoError(t, s.AddNIC(NIC{Name: "hot", Device: da, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}}))
	require.Equal(t, addr("192.0.2.1"), s.SourceFor(addr("192.0.2.2")))
	require.Error(t, s.AddNIC(NIC{Name: "hot", Device: db}))
	other := newHost(t, db, "192.0.2.2/24")
	u := openUDP(t, s, "0.0.0.0:7")
	v := openUDP(t, other, "0.0.0.0:7")
	_, err = u.WriteTo([]byte("x"), addrPort("192.0.2.2:7"), SendOptions{})
	require.NoError(t, err)
	n, _, _, _, err := v.ReadFrom(make([]byte, 9))
	require.NoError(t, err)
	require.Equal(t, 1, n)

	require.NoError(t, s.RemoveNIC("hot"))
	require.Error(t, s.RemoveNIC("hot"))
	require.Error(t, s.RemoveNIC("lo"))
	_, err = u.WriteTo([]byte("x"), addrPort("192.0.2.2:7"), SendOptions{})
	require.ErrorIs(t, err, syscall.ENETUNREACH)
	_, err = da.Send(nil)
	require.ErrorIs(t, err, net.ErrClosed)
	require.Len(t, s.Interfaces(), 1)
}

// A brokenDevice fails in its first Send.
type brokenDevice struct {
	*nic.Null
	err error
}

func (d *brokenDevice) Nonblocking() nic.Device { return d }

func (d *brokenDevice) Send([]nic.Frame) (int, error) { return 0, d.err }

func TestAFailedDeviceIsLoggedOnce(t *testing.T) {
	var log strings.Builder
	dev := &brokenDevice{nic.NewNull(nic.Link{Medium: nic.IP}), errors.New("cable cut")}
	s := newHost(t, dev, "192.0.2.1/24", func(c *Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	u := openUDP(t, s, "0.0.0.0:0")
	_, err := u.WriteTo([]byte("x"), addrPort("192.0.2.2:7"), SendOptions{})
	require.NoError(t, err, "the failure is not known yet")
	for range 3 {
		_, err = u.WriteTo([]byte("x"), addrPort("192.0.2.2:7"), SendOptions{})
		require.ErrorIs(t, err, syscall.ENETDOWN)
	}
	require.Equal(t, 1, strings.Count(log.String(), "cable cut"))
	require.False(t, s.Interfaces()[1].Up)
	require.EqualValues(t, 1, s.Stats().NICs[1].TxDropped)
}

func TestCloseWakesAllAndLeavesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := nic.Pipe(nic.PipeConfig{})
		s := newHost(t, a, "192.0.2.1/24")
		u := openUDP(t, s, "0.0.0.0:7")
		r, err := s.OpenRaw(FamilyAny, uint16(wire.ProtoICMP), netip.Addr{})
		require.NoError(t, err)
		require.NoError(t, u.SetDeadline(time.Now().Add(time.Hour)))
		_, err = u.WriteTo([]byte("parked"), addrPort("192.0.2.9:9"), SendOptions{})
		require.NoError(t, err)
		errs := make(chan error)
		go func() { _, _, _, _, err := u.ReadFrom(nil); errs <- err }()
		go func() { _, _, _, _, err := r.ReadFrom(nil); errs <- err }()
		synctest.Wait()
		begin := time.Now()
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-errs, net.ErrClosed)
		require.ErrorIs(t, <-errs, net.ErrClosed)
		require.Zero(t, time.Since(begin))

		require.ErrorIs(t, s.Close(), net.ErrClosed)
		require.ErrorIs(t, u.Close(), net.ErrClosed)
		require.ErrorIs(t, u.SetDeadline(time.Time{}), net.ErrClosed)
		_, err = u.WriteTo(nil, addrPort("192.0.2.9:9"), SendOptions{})
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = s.OpenUDP(FamilyAny, netip.AddrPort{})
		require.ErrorIs(t, err, net.ErrClosed)
		_, err = s.OpenRaw(FamilyAny, uint16(wire.ProtoICMP), netip.Addr{})
		require.ErrorIs(t, err, net.ErrClosed)
		require.ErrorIs(t, s.AddNIC(NIC{}), net.ErrClosed)
		// A frame that the device delivers after Close is ignored.
		b.Send([]nic.Frame{{Head: make([]byte, 60)}})
	})
}

func TestAForgottenCloseDoesNotHoldABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		da, db := nic.Pipe(nic.PipeConfig{})
		for i, d := range []nic.Device{da, db} {
			s, err := New(Config{NICs: []NIC{{Device: d, Addrs: []netip.Prefix{[]netip.Prefix{prefix("192.0.2.1/24"), prefix("192.0.2.2/24")}[i]}}}})
			require.NoError(t, err)
			u, err := s.OpenUDP(FamilyAny, netip.AddrPort{})
			require.NoError(t, err)
			_, err = u.WriteTo([]byte("x"), addrPort("192.0.2.77:1"), SendOptions{})
			require.NoError(t, err)
		}
	})
}

func TestInterfacesAreDescribed(t *testing.T) {
	a, _ := twoHosts(t, nic.PipeConfig{MTU: 1400})
	infos := a.Interfaces()
	require.Len(t, infos, 2)
	require.Equal(t, "lo", infos[0].Name)
	require.True(t, infos[0].Loopback)
	require.Equal(t, InterfaceInfo{
		Name: "eth0", Index: 2, MAC: macA, MTU: 1400, IPv4MTU: 1400,
		Addrs: []netip.Prefix{prefix("192.0.2.1/24")}, AddrInfo: []AddrInfo{{Prefix: prefix("192.0.2.1/24")}}, Groups: []netip.Addr{allHosts()}, Up: true,
	}, infos[1])
}

func TestLinksWithoutNamesGetOne(t *testing.T) {
	s, err := New(Config{NICs: []NIC{
		{Device: &heldDevice{}}, {Device: &heldDevice{}}, {Device: &heldDevice{name: "tap"}}, {Device: &heldDevice{name: "tap"}},
	}})
	require.NoError(t, err)
	defer s.Close()
	var names []string
	for _, info := range s.Interfaces() {
		names = append(names, info.Name)
	}
	require.Equal(t, []string{"lo", "nic", "nic.1", "tap", "tap.1"}, names)
}

// An attachedDevice calls the function during in Attach.
type attachedDevice struct {
	*nic.Null
	during   func(recv func([]nic.Frame))
	attached atomic.Bool
	early    atomic.Int32 // frames sent before Attach
	sent     atomic.Int32
}

func (d *attachedDevice) Attach(recv func([]nic.Frame)) {
	d.during(recv)
	d.attached.Store(true)
}

func (d *attachedDevice) Nonblocking() nic.Device { return d }

func (d *attachedDevice) Send(batch []nic.Frame) (int, error) {
	d.sent.Add(int32(len(batch)))
	if !d.attached.Load() {
		d.early.Add(int32(len(batch)))
	}
	return len(batch), nil
}

// nic.Device: "Before Attach nothing is received and nothing may be sent."
func TestNoFrameIsSentBeforeAttach(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	defer s.Close()
	u := openUDP(t, s, "0.0.0.0:9")
	d := &attachedDevice{Null: nic.NewNull(nic.Link{Medium: nic.IP})}
	d.during = func(func([]nic.Frame)) {
		for range 3 {
			_, err := u.WriteTo([]byte("x"), addrPort("192.0.2.2:9"), SendOptions{})
			require.NoError(t, err)
		}
	}
	require.NoError(t, s.AddNIC(NIC{Device: d, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}}))
	require.Zero(t, d.early.Load())
	require.EqualValues(t, 3, d.sent.Load())
	_, err = u.WriteTo([]byte("x"), addrPort("192.0.2.2:9"), SendOptions{})
	require.NoError(t, err)
	require.EqualValues(t, 4, d.sent.Load())
}
