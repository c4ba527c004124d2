package dropin

import (
	"context"
	"net"
	"net/netip"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// useHost makes a host and uses it as the default Host until the test ends.
func useHost(t testing.TB, cfg usernet.Config) *usernet.Host {
	t.Helper()
	h, err := usernet.New(cfg)
	require.NoError(t, err)
	before := Use(h)
	t.Cleanup(func() {
		Use(before)
		h.Close()
	})
	return h
}

// inNet formats a type with the names that it has in net.
func inNet(t reflect.Type) string {
	s := strings.ReplaceAll(t.String(), "dropin.", "net.")
	return strings.ReplaceAll(s, "usernet.", "net.")
}

func TestFunctionsHaveTheSignaturesOfNet(t *testing.T) {
	require.NotEmpty(t, apiFuncs())
	for _, f := range apiFuncs() {
		require.Equal(t, f.theirs.Type().String(), inNet(f.ours.Type()), f.name)
	}
}

func TestValuesAreThoseOfNet(t *testing.T) {
	require.NotEmpty(t, apiValues())
	for _, v := range apiValues() {
		require.Equal(t, v.theirs.Type().String(), inNet(v.ours.Type()), v.name)
		if v.name != "DefaultResolver" { // it uses the Host
			require.Equal(t, v.theirs.Interface(), v.ours.Interface(), v.name)
		}
	}
}

func TestTypesAreNetsOrHaveItsFieldsAndMethods(t *testing.T) {
	other := 0
	for _, pair := range apiTypes() {
		theirs, ours := pair.theirs.Type(), pair.ours.Type()
		if theirs == ours {
			continue
		}
		other++
		require.Equal(t, theirs.Elem().Kind(), ours.Elem().Kind(), pair.name)
		for i := range theirs.NumMethod() {
			want := theirs.Method(i)
			got, ok := ours.MethodByName(want.Name)
			absent := slices.Contains(apiRefused(), pair.name+"."+want.Name)
			require.Equal(t, absent, !ok, "%s.%s", pair.name, want.Name)
			if ok {
				require.Equal(t, want.Type.String(), inNet(got.Type), "%s.%s", pair.name, want.Name)
			}
		}
		for i := range theirs.Elem().NumField() {
			want := theirs.Elem().Field(i)
			if !want.IsExported() {
				continue
			}
			got, ok := ours.Elem().FieldByName(want.Name)
			require.True(t, ok, "%s.%s is missing", pair.name, want.Name)
			require.Equal(t, want.Type.String(), inNet(got.Type), "%s.%s", pair.name, want.Name)
		}
	}
	require.Equal(t, 8, other, "Dialer, ListenConfig, Resolver, Interface and the four of usernet")
}

func TestRefusedMethodsExistInNet(t *testing.T) {
	for _, name := range apiRefused() {
		typ, method, ok := strings.Cut(name, ".")
		if !ok {
			continue
		}
		i := slices.IndexFunc(apiTypes(), func(p pair) bool { return p.name == typ })
		require.GreaterOrEqual(t, i, 0, name)
		_, ok = apiTypes()[i].theirs.Type().MethodByName(method)
		require.True(t, ok, "net has no %s", name)
	}
}

func TestEveryCallBeforeUseSaysWhatToDo(t *testing.T) {
	before := Use(nil)
	defer Use(before)
	ctx := context.Background()
	lo := netip.MustParseAddrPort("127.0.0.1:7")
	errorOf := func(_ any, err error) error { return err }
	for name, call := range map[string]func() error{
		"Dial":               func() error { return errorOf(Dial("tcp", "127.0.0.1:7")) },
		"DialTimeout":        func() error { return errorOf(DialTimeout("tcp", "127.0.0.1:7", 1)) },
		"DialTCP":            func() error { return errorOf(DialTCP("tcp", nil, &TCPAddr{Port: 7})) },
		"DialUDP":            func() error { return errorOf(DialUDP("udp", nil, &UDPAddr{Port: 7})) },
		"DialIP":             func() error { return errorOf(DialIP("ip4:icmp", nil, &IPAddr{IP: IPv4(127, 0, 0, 1)})) },
		"Dialer.Dial":        func() error { return errorOf((&Dialer{}).Dial("udp", "127.0.0.1:7")) },
		"Dialer.DialTCP":     func() error { return errorOf((&Dialer{}).DialTCP(ctx, "tcp", netip.AddrPort{}, lo)) },
		"Dialer.DialUDP":     func() error { return errorOf((&Dialer{}).DialUDP(ctx, "udp", netip.AddrPort{}, lo)) },
		"Dialer.DialIP":      func() error { return errorOf((&Dialer{}).DialIP(ctx, "ip4:icmp", netip.Addr{}, lo.Addr())) },
		"Listen":             func() error { return errorOf(Listen("tcp", "127.0.0.1:0")) },
		"ListenPacket":       func() error { return errorOf(ListenPacket("udp", "127.0.0.1:0")) },
		"ListenTCP":          func() error { return errorOf(ListenTCP("tcp", nil)) },
		"ListenUDP":          func() error { return errorOf(ListenUDP("udp", nil)) },
		"ListenIP":           func() error { return errorOf(ListenIP("ip4:icmp", nil)) },
		"ListenMulticastUDP": func() error { return errorOf(ListenMulticastUDP("udp", nil, &UDPAddr{IP: IPv4(224, 0, 0, 9)})) },
		"Listen by config":   func() error { return errorOf((&ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")) },
		"ResolveTCPAddr":     func() error { return errorOf(ResolveTCPAddr("tcp", "127.0.0.1:7")) },
		"ResolveUDPAddr":     func() error { return errorOf(ResolveUDPAddr("udp", "127.0.0.1:7")) },
		"ResolveIPAddr":      func() error { return errorOf(ResolveIPAddr("ip", "127.0.0.1")) },
		"Interfaces":         func() error { return errorOf(Interfaces()) },
		"InterfaceAddrs":     func() error { return errorOf(InterfaceAddrs()) },
		"InterfaceByIndex":   func() error { return errorOf(InterfaceByIndex(1)) },
		"InterfaceByName":    func() error { return errorOf(InterfaceByName("lo")) },
		"Interface.Addrs":    func() error { return errorOf((&Interface{Index: 1}).Addrs()) },
	} {
		err := call()
		require.Error(t, err, name)
		require.IsType(t, &net.OpError{}, err, name)
		require.ErrorIs(t, err, errNoHost, name)
		require.ErrorContains(t, err, "call dropin.Use", name)
	}
	var r *Resolver
	for name, call := range map[string]func() error{
		"LookupAddr":  func() error { return errorOf(LookupAddr("127.0.0.1")) },
		"LookupCNAME": func() error { return errorOf(LookupCNAME("localhost")) },
		"LookupHost":  func() error { return errorOf(LookupHost("localhost")) },
		"LookupIP":    func() error { return errorOf(LookupIP("localhost")) },
		"LookupMX":    func() error { return errorOf(LookupMX("localhost")) },
		"LookupNS":    func() error { return errorOf(LookupNS("localhost")) },
		"LookupPort":  func() error { return errorOf(LookupPort("tcp", "http")) },
		"LookupSRV": func() error {
			_, _, err := LookupSRV("", "", "localhost")
			return err
		},
		"LookupTXT":             func() error { return errorOf(LookupTXT("localhost")) },
		"Resolver.LookupIPAddr": func() error { return errorOf(r.LookupIPAddr(ctx, "localhost")) },
		"Resolver.LookupNetIP":  func() error { return errorOf(r.LookupNetIP(ctx, "ip", "localhost")) },
	} {
		err := call()
		require.IsType(t, &net.DNSError{}, err, name)
		require.ErrorIs(t, err, errNoHost, name)
		require.ErrorContains(t, err, "call dropin.Use", name)
	}
}

func TestUseReturnsTheHostBefore(t *testing.T) {
	h := useHost(t, usernet.Config{})
	other, err := usernet.New(usernet.Config{})
	require.NoError(t, err)
	defer other.Close()
	require.Same(t, h, Use(other))
	require.Same(t, other, Use(h))
}

func TestConnectionsAreThoseOfUsernet(t *testing.T) {
	useHost(t, usernet.Config{})
	ln, err := Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	require.IsType(t, &usernet.TCPListener{}, ln)
	c, err := Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	require.IsType(t, &usernet.TCPConn{}, c)
	pc, err := ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer pc.Close()
	require.IsType(t, &usernet.UDPConn{}, pc)
	// A port in use on the Host is unknown to the kernel.
	_, err = ListenTCP("tcp", ln.Addr().(*TCPAddr))
	require.ErrorContains(t, err, "bind: address already in use")
	_, err = Listen("unix", "/tmp/socket")
	require.ErrorAs(t, err, new(UnknownNetworkError))
}

func TestADialerKeepsItsSettings(t *testing.T) {
	useHost(t, usernet.Config{})
	ln, err := Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	d := &Dialer{LocalAddr: &TCPAddr{IP: IPv4(127, 0, 0, 1), Port: 40404}, KeepAlive: -1}
	c, err := d.Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:40404", c.LocalAddr().String())
	require.NoError(t, c.Close())

	_, err = (&Dialer{Timeout: -1}).Dial("tcp", ln.Addr().String())
	require.ErrorIs(t, err, context.DeadlineExceeded)
	canceled := make(chan struct{})
	close(canceled)
	d = &Dialer{Cancel: canceled, Resolver: &Resolver{Dial: func(ctx context.Context, _, _ string) (Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}}
	_, err = d.Dial("tcp", "name.test:80")
	require.Error(t, err)
	require.IsType(t, &OpError{}, err)

	d = &Dialer{}
	require.False(t, d.MultipathTCP())
	d.SetMultipathTCP(true)
	require.True(t, d.MultipathTCP())
	lc := &ListenConfig{}
	lc.SetMultipathTCP(true)
	require.True(t, lc.MultipathTCP())
}

func TestInterfacesAreThoseOfTheHost(t *testing.T) {
	dev, other := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{{2, 0, 0, 0, 0, 0xa}, {2, 0, 0, 0, 0, 0xb}}})
	defer other.Close()
	useHost(t, usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	all, err := Interfaces()
	require.NoError(t, err)
	require.Len(t, all, 2)
	lo, eth := all[0], all[1]
	require.Equal(t, "lo", lo.Name)
	require.Equal(t, FlagUp|FlagRunning|FlagLoopback, lo.Flags)
	require.Empty(t, lo.HardwareAddr)
	require.Equal(t, FlagUp|FlagRunning|FlagBroadcast|FlagMulticast, eth.Flags)
	require.Len(t, eth.HardwareAddr, 6)
	require.Equal(t, 1500, eth.MTU)

	addrs, err := eth.Addrs()
	require.NoError(t, err)
	require.Equal(t, []Addr{
		&IPNet{IP: IPv4(192, 0, 2, 1), Mask: CIDRMask(24, 32)},
		&IPNet{IP: ParseIP("fe80::ff:fe00:a"), Mask: CIDRMask(64, 128)},
	}, addrs)
	addrs, err = InterfaceAddrs()
	require.NoError(t, err)
	require.Equal(t, "[127.0.0.1/8 ::1/128 192.0.2.1/24 fe80::ff:fe00:a/64]", strings.ReplaceAll(formatAddrs(addrs), ",", " "))

	byIndex, err := InterfaceByIndex(eth.Index)
	require.NoError(t, err)
	require.Equal(t, eth, *byIndex)
	byName, err := InterfaceByName("lo")
	require.NoError(t, err)
	require.Equal(t, lo, *byName)
	c, err := ListenMulticastUDP("udp4", &eth, &UDPAddr{IP: IPv4(224, 0, 0, 251), Port: 5353})
	require.NoError(t, err)
	groups := func(ifi Interface) string {
		addrs, err := ifi.MulticastAddrs()
		require.NoError(t, err)
		return formatAddrs(addrs)
	}
	require.Equal(t, "[224.0.0.1,224.0.0.251,ff02::1,ff02::1:ff00:a]", groups(eth))
	require.Equal(t, "[224.0.0.1,ff02::1]", groups(lo))
	if runtime.GOOS == "linux" {
		theirs, err := net.InterfaceByIndex(1)
		require.NoError(t, err)
		kernel, err := theirs.MulticastAddrs()
		require.NoError(t, err)
		ours, err := lo.MulticastAddrs()
		require.NoError(t, err)
		require.Subset(t, kernel, ours, "the addresses have the form of net's")
	}
	require.NoError(t, c.Close())
	require.Equal(t, "[224.0.0.1,ff02::1,ff02::1:ff00:a]", groups(eth))
}

// A link of the medium IP has no MACs, as a TUN device.
func TestALinkWithoutAddressesOfItsOwnIsPointToPoint(t *testing.T) {
	dev, other := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
	defer other.Close()
	useHost(t, usernet.Config{NIC: dev, Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}})
	all, err := Interfaces()
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, FlagUp|FlagRunning|FlagPointToPoint|FlagMulticast, all[1].Flags)
	require.Empty(t, all[1].HardwareAddr)
}

func TestDialsByAddressReachTheHost(t *testing.T) {
	useHost(t, usernet.Config{})
	ctx, d := context.Background(), &Dialer{}
	ln, err := ListenTCP("tcp", &TCPAddr{IP: IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer ln.Close()
	tcp, err := d.DialTCP(ctx, "tcp", netip.AddrPort{}, ln.Addr().(*TCPAddr).AddrPort())
	require.NoError(t, err)
	require.Equal(t, ln.Addr(), tcp.RemoteAddr())
	require.NoError(t, tcp.Close())
	pc, err := ListenUDP("udp", &UDPAddr{IP: IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer pc.Close()
	udp, err := d.DialUDP(ctx, "udp", netip.AddrPort{}, pc.LocalAddr().(*UDPAddr).AddrPort())
	require.NoError(t, err)
	require.Equal(t, pc.LocalAddr().String(), udp.RemoteAddr().String())
	require.NoError(t, udp.Close())

	raw, err := ListenIP("ip4:200", &IPAddr{IP: IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer raw.Close()
	ip, err := d.DialIP(ctx, "ip4:200", netip.Addr{}, netip.MustParseAddr("127.0.0.1"))
	require.NoError(t, err)
	defer ip.Close()
	_, err = ip.Write([]byte("experimental"))
	require.NoError(t, err)
	b := make([]byte, 100)
	n, from, err := raw.ReadFromIP(b)
	require.NoError(t, err)
	require.Equal(t, "experimental", string(b[:n]))
	require.Equal(t, "127.0.0.1", from.String())
}

func formatAddrs(addrs []Addr) string {
	var s []string
	for _, a := range addrs {
		s = append(s, a.String())
	}
	return "[" + strings.Join(s, ",") + "]"
}

func TestMultipathIsReportedAsByNet(t *testing.T) {
	var theirs net.ListenConfig
	var ours ListenConfig
	require.Equal(t, theirs.MultipathTCP(), ours.MultipathTCP(), "at first")
	for _, use := range []bool{true, false} {
		theirs.SetMultipathTCP(use)
		ours.SetMultipathTCP(use)
		require.Equal(t, theirs.MultipathTCP(), ours.MultipathTCP())
	}
	require.Equal(t, new(net.Dialer).MultipathTCP(), new(Dialer).MultipathTCP())
}

func TestInterfaceErrorsAreThoseOfNet(t *testing.T) {
	useHost(t, usernet.Config{})
	for _, c := range []struct{ theirs, ours func() error }{
		{func() error { _, err := net.InterfaceByIndex(0); return err }, func() error { _, err := InterfaceByIndex(0); return err }},
		{func() error { _, err := net.InterfaceByIndex(1 << 30); return err }, func() error { _, err := InterfaceByIndex(1 << 30); return err }},
		{func() error { _, err := net.InterfaceByName(""); return err }, func() error { _, err := InterfaceByName(""); return err }},
		{func() error { _, err := net.InterfaceByName("no-such-one"); return err }, func() error { _, err := InterfaceByName("no-such-one"); return err }},
		{func() error { _, err := (*net.Interface)(nil).Addrs(); return err }, func() error { _, err := (*Interface)(nil).Addrs(); return err }},
		{func() error { _, err := (*net.Interface)(nil).MulticastAddrs(); return err }, func() error { _, err := (*Interface)(nil).MulticastAddrs(); return err }},
	} {
		require.EqualError(t, c.ours(), c.theirs().Error())
	}
	addrs, err := (&Interface{Index: 1 << 30}).Addrs()
	require.NoError(t, err)
	require.Empty(t, addrs)
	addrs, err = (&Interface{Index: 1 << 30}).MulticastAddrs()
	require.NoError(t, err)
	require.Empty(t, addrs)
}
