package usernet_test

import (
	"bytes"
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// This file has what the tests of DHCP, DHCPv6 and link-local addresses share.

// A testServer is a DHCP server on a host. It assigns one address; its fields change its behaviour.
type testServer struct {
	t    *testing.T
	host *usernet.Host
	conn *usernet.UDPConn

	mu      sync.Mutex
	addr    netip.Addr
	lease   uint32 // seconds
	silent  bool   // answers nothing
	nak     bool   // refuses requests for addresses that it has not offered
	options dhcp.Options4
	got     []*dhcp.Message4 // the messages of clients, until types is called
	from    []netip.Addr     // their source addresses
}

// startServer starts a testServer that assigns the address a. The host is also the router and the name server.
func startServer(t *testing.T, h *usernet.Host, a string, lease time.Duration) *testServer {
	c, err := h.ListenPacket("udp4", ":67")
	require.NoError(t, err)
	s := &testServer{t: t, host: h, conn: c.(*usernet.UDPConn), addr: netip.MustParseAddr(a), lease: uint32(lease / time.Second)}
	self := addr4(h)
	s.options = dhcp.Options4{
		{Code: dhcp.OptSubnetMask, Data: []byte{255, 255, 255, 0}}, {Code: dhcp.OptRouter, Data: self.AsSlice()}, {Code: dhcp.OptDNS, Data: self.AsSlice()},
	}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, info, err := s.conn.ReadPacket(buf)
			if err != nil {
				return
			}
			m, err := dhcp.ParseMessage4(buf[:n])
			if err != nil {
				panic(err)
			}
			s.serve(m, info)
		}
	}()
	return s
}

// linkWithServer makes a link with a server on a host with the address 192.0.2.1. The server assigns the address
// 192.0.2.7. dev is the other end of the link.
func linkWithServer(t *testing.T, lease time.Duration) (s *testServer, dev nic.Device) {
	near, far := nic.Pipe(nic.PipeConfig{})
	h := host(near, "192.0.2.1/24")
	t.Cleanup(func() { h.Close() })
	return startServer(t, h, "192.0.2.7", lease), far
}

func (s *testServer) serve(m *dhcp.Message4, info usernet.PacketInfo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got, s.from = append(s.got, m), append(s.from, info.Remote.Addr())
	if s.silent {
		return
	}
	self := addr4(s.host)
	kind := dhcp.Offer
	switch m.Type() {
	case dhcp.Discover:
	case dhcp.Request:
		kind = dhcp.ACK
		if id := m.Options.Addr(dhcp.OptServerID); id.IsValid() && id != self {
			return
		}
		if want := m.Options.Addr(dhcp.OptRequestedAddr); s.nak && want.IsValid() && want != s.addr {
			kind = dhcp.NAK
		}
	default:
		return
	}
	r := &dhcp.Message4{Op: dhcp.BootReply, HType: 1, XID: m.XID, Flags: m.Flags, CHAddr: m.CHAddr}
	r.Options.Set(dhcp.OptMessageType, []byte{byte(kind)})
	r.Options.Set(dhcp.OptServerID, self.AsSlice())
	if kind != dhcp.NAK {
		r.YIAddr = s.addr
		r.Options.Set(dhcp.OptLeaseTime, []byte{byte(s.lease >> 24), byte(s.lease >> 16), byte(s.lease >> 8), byte(s.lease)})
		for _, o := range s.options {
			r.Options.Set(o.Code, o.Data)
		}
	}
	to := usernet.PacketInfo{Remote: netip.MustParseAddrPort("255.255.255.255:68"), Interface: info.Interface}
	if m.CIAddr.IsValid() {
		to.Remote = netip.AddrPortFrom(m.CIAddr, 68)
	}
	b, err := r.Append(nil, 0)
	if err != nil {
		panic(err)
	}
	s.conn.WritePacket(b, to)
}

// set changes the server's fields.
func (s *testServer) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// types returns the types of the messages that arrived since the last call.
func (s *testServer) types() (types []dhcp.MessageType4) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.got {
		types = append(types, m.Type())
	}
	s.got, s.from = nil, nil
	return types
}

// newDHCPHost makes a host that gets its address by DHCP. The host has IPv6 only if Auto is set.
func newDHCPHost(t *testing.T, dev nic.Device, change ...func(*usernet.Config)) *usernet.Host {
	t.Helper()
	cfg := usernet.Config{NIC: dev, DHCP: true}
	for _, f := range change {
		f(&cfg)
	}
	cfg.NoIPv6 = !cfg.Auto
	h, err := usernet.New(cfg)
	require.NoError(t, err)
	return h
}

func waitOnline(t *testing.T, h *usernet.Host) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	require.NoError(t, h.WaitOnline(ctx))
}

func prefixes(list ...string) (ps []netip.Prefix) {
	for _, s := range list {
		ps = append(ps, netip.MustParsePrefix(s))
	}
	return ps
}

// router6 makes a host that is a router with the address 2001:db8::1.
func router6(t *testing.T, dev nic.Device) *usernet.Host {
	h, err := usernet.New(usernet.Config{NIC: dev, Addrs: prefixes("2001:db8::1/64", "192.0.2.1/24")})
	require.NoError(t, err)
	return h
}

// advertise makes a router advertise its prefix and the flags M and O. Hosts do not form addresses from the prefix
// themselves.
func advertise(t *testing.T, h *usernet.Host, managed, other bool) {
	require.NoError(t, h.Stack().Advertise("", &stack.RouterConfig{
		Lifetime: 30 * time.Minute, Interval: 10 * time.Second, Managed: managed, Other: other,
		Prefixes: []stack.RouterPrefix{{Prefix: netip.MustParsePrefix("2001:db8::/64"), NoAuto: true}},
	}))
}

// pool6 returns the configuration of a server that assigns 256 addresses of the network of router6.
func pool6() usernet.DHCP6ServerConfig {
	var cfg usernet.DHCP6ServerConfig
	cfg.Server.Pools = []dhcp.Range6{{First: netip.MustParseAddr("2001:db8::1:0"), Last: netip.MustParseAddr("2001:db8::1:ff")}}
	cfg.Server.DNS = []netip.Addr{netip.MustParseAddr("2001:db8::1")}
	cfg.Server.Search = []string{"b.test"}
	return cfg
}

// addrsIn returns the addresses of a host's only link that are in a network.
func addrsIn(h *usernet.Host, network string) (addrs []stack.AddrInfo) {
	for _, a := range h.Interfaces()[1].AddrInfo {
		if netip.MustParsePrefix(network).Contains(a.Prefix.Addr()) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// addrIn returns the first address of addrsIn that is not tentative. The result is invalid if there is none.
func addrIn(h *usernet.Host, network string) netip.Addr {
	for _, a := range addrsIn(h, network) {
		if a.State != stack.AddrTentative {
			return a.Prefix.Addr()
		}
	}
	return netip.Addr{}
}

// global6 returns the addresses of a host in the network of router6.
func global6(h *usernet.Host) []stack.AddrInfo { return addrsIn(h, "2001:db8::/64") }

// addr4 and linkLocal4 return the first IPv4 address of a host, and the first link-local one.
func addr4(h *usernet.Host) netip.Addr      { return addrIn(h, "0.0.0.0/0") }
func linkLocal4(h *usernet.Host) netip.Addr { return addrIn(h, "169.254.0.0/16") }

// eventually waits in virtual time until f returns true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 600 {
		if f() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatal("not within a minute: " + what)
}

// serve6 makes a host that is a router with the address 2001:db8::1 and serves DHCPv6.
func serve6(t *testing.T, dev nic.Device, change ...func(*usernet.DHCP6ServerConfig)) (*usernet.Host, *usernet.DHCP6Server) {
	t.Helper()
	router := router6(t, dev)
	t.Cleanup(func() { router.Close() })
	cfg := pool6()
	for _, f := range change {
		f(&cfg)
	}
	d, err := router.ServeDHCP6("", cfg)
	require.NoError(t, err)
	return router, d
}

// newDHCP6Host makes a host with a DHCPv6 client.
func newDHCP6Host(t *testing.T, dev nic.Device, cfg usernet.DHCP6Config, change ...func(*usernet.Config)) *usernet.Host {
	t.Helper()
	c := usernet.Config{NIC: dev}
	for _, f := range change {
		f(&c)
	}
	h, err := usernet.New(c)
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	require.NoError(t, h.StartDHCP6("", cfg))
	return h
}

// A logBuffer holds what a host has logged.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String waits until all other goroutines of the bubble are blocked, and returns what was logged. It must be called
// in a bubble.
func (b *logBuffer) String() string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
