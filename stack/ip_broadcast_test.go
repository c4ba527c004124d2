package stack

import (
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// soon sets read deadlines in five seconds, so that a missing datagram fails the test.
func soon(t *testing.T, socks ...interface{ SetReadDeadline(time.Time) error }) {
	for _, s := range socks {
		require.NoError(t, s.SetReadDeadline(time.Now().Add(5*time.Second)))
	}
}

// RFC 1122 3.2.1.3 (a): 0.0.0.0 is sent "as a source address as part of an initialization
// procedure by which the host learns its own IP address"; RFC 2131 4.1. The accepted packets are those
// that Linux 6.18 accepts.
func TestPacketsFromAHostWithoutAnAddress(t *testing.T) {
	s, p := hostAndPeer(t)
	u, raw := openUDP(t, s, "0.0.0.0:67"), openRaw(t, s)
	soon(t, u, raw)
	unspecified, client := netip.IPv4Unspecified(), addrPort("0.0.0.0:68")
	for _, c := range []struct {
		dst   string
		heard bool
	}{
		{"255.255.255.255", true}, {"224.0.0.1", true}, {"0.0.0.0", true},
		{"192.0.2.255", false}, {"192.0.2.1", false},
	} {
		dst := addr(c.dst)
		mac := wire.Broadcast()
		if dst == addr("192.0.2.1") {
			mac = macA
		}
		before := dropped(s, dropNoSource)
		p.ip(mac, wire.IPv4{Proto: wire.ProtoUDP, Src: unspecified, Dst: dst}, udpDatagram(client, netip.AddrPortFrom(dst, 67), []byte("discover")))
		p.ip(mac, wire.IPv4{Proto: wire.ProtoICMP, Src: unspecified, Dst: dst}, echoRequest(1, 1, nil))
		if !c.heard {
			require.Equal(t, before+2, dropped(s, dropNoSource), c.dst)
			require.Zero(t, u.queue.n, c.dst)
			require.Zero(t, raw.queue.n, c.dst)
			continue
		}
		_, _, from, meta, err := u.ReadFrom(make([]byte, 100))
		require.NoError(t, err)
		require.Equal(t, client, from)
		require.Equal(t, Meta{Dst: dst, TTL: 64, NIC: 2}, meta)
		_, _, who, _, err := raw.ReadFrom(make([]byte, 100))
		require.NoError(t, err)
		require.Equal(t, unspecified, who)
	}
	p.ip(wire.Broadcast(), wire.IPv4{Proto: wire.ProtoUDP, Src: unspecified, Dst: limitedBroadcast()},
		udpDatagram(client, netip.AddrPortFrom(limitedBroadcast(), 9), nil))
	for _, line := range p.sent() {
		require.NotContains(t, line, "ICMP", "a closed port is not reported to 0.0.0.0")
	}
}

// The hosts exchange datagrams as a DHCP client and a DHCP server do, without the messages of DHCP.
func TestAHostCanAskForItsAddress(t *testing.T) {
	da, db := nic.Pipe(nic.PipeConfig{})
	a, err := New(Config{NICs: []NIC{{Name: "eth0", Device: da}}, Rand: testRand()})
	require.NoError(t, err)
	defer a.Close()
	b := newHost(t, db, "192.0.2.2/24")
	client, server := openUDP(t, a, "0.0.0.0:68"), openUDP(t, b, "0.0.0.0:67")
	soon(t, client, server)
	for _, index := range []int{0, 2} {
		say(t, client, "255.255.255.255:67", "discover", SendOptions{NIC: index})
		text, from := readUDP(t, server)
		require.Equal(t, "discover", text)
		require.Equal(t, addrPort("0.0.0.0:68"), from)
	}
	say(t, server, "255.255.255.255:68", "offer", SendOptions{NIC: 2})
	text, from := readUDP(t, client)
	require.Equal(t, "offer", text)
	require.Equal(t, addrPort("192.0.2.2:67"), from)
	_, err = client.WriteTo(nil, addrPort("192.0.2.2:67"), SendOptions{NIC: 2})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL, "only a broadcast may lack a source")
}

// overlapping makes a host whose two links have the broadcast address 10.255.255.255: eth0 has 10.0.0.1/8,
// and eth1 has 10.255.255.1/24. wide is the peer on eth0, narrow the peer on eth1.
func overlapping(t *testing.T) (s *Stack, narrow, wide *peer) {
	t.Helper()
	d0, e0 := nic.Pipe(nic.PipeConfig{NoTxChecksum: true})
	d1, e1 := nic.Pipe(nic.PipeConfig{NoTxChecksum: true})
	s = newHost(t, d0, "10.0.0.1/8", func(cfg *Config) {
		cfg.NICs = append(cfg.NICs, NIC{Name: "eth1", Device: d1, Addrs: []netip.Prefix{prefix("10.255.255.1/24")}})
	})
	record := func(dev *nic.PipeEnd) *peer {
		p := &peer{t: t, dev: dev}
		dev.Attach(func(batch []nic.Frame) {
			for i := range batch {
				p.frames = append(p.frames, batch[i].AppendTo(nil))
			}
		})
		return p
	}
	return s, record(e1), record(e0)
}

// broadcasts returns the sources of the UDP datagrams that the host has sent. It fails if a frame is
// not a UDP datagram or not a broadcast.
func (p *peer) broadcasts() (from []string) {
	p.t.Helper()
	for _, f := range p.take() {
		eth, body, _ := wire.ParseEthernet(f)
		require.Equal(p.t, wire.EtherTypeIPv4, eth.Type, "%s", wire.Describe(f))
		require.Equal(p.t, wire.Broadcast(), eth.Dst)
		h, _, _ := wire.ParseIPv4(body)
		from = append(from, h.Src.String())
	}
	return from
}

func TestTwoLinksHaveOneBroadcastAddress(t *testing.T) {
	s, narrow, wide := overlapping(t)
	u := openUDP(t, s, "0.0.0.0:5")
	for i, p := range []*peer{wide, narrow} {
		dst := addrPort("10.255.255.255:5")
		p.ip(wire.Broadcast(), wire.IPv4{Proto: wire.ProtoUDP, Src: addr("10.255.255.7"), Dst: dst.Addr()},
			udpDatagram(addrPort("10.255.255.7:1"), dst, []byte("hi")))
		_, metas := take(u)
		require.Len(t, metas, 1)
		require.Equal(t, i+2, metas[0].NIC)
	}
	for _, c := range []struct {
		o            SendOptions
		narrow, wide []string
	}{
		{SendOptions{}, []string{"10.255.255.1"}, nil}, // the longer prefix determines the link
		{SendOptions{NIC: 3}, []string{"10.255.255.1"}, nil},
		{SendOptions{NIC: 2}, nil, []string{"10.0.0.1"}},
		{SendOptions{Src: addr("10.0.0.1")}, nil, []string{"10.0.0.1"}},
	} {
		narrow.take()
		wide.take()
		say(t, u, "10.255.255.255:5", "hi", c.o)
		require.Equal(t, c.narrow, narrow.broadcasts(), "%+v", c.o)
		require.Equal(t, c.wide, wide.broadcasts(), "%+v", c.o)
	}
	require.NoError(t, s.RemoveNIC("eth1"))
	wide.take()
	say(t, u, "10.255.255.255:5", "hi", SendOptions{})
	require.Equal(t, []string{"10.0.0.1"}, wide.broadcasts())
	s.ifaceNamed("eth0").failed(syscall.EIO)
	_, err := u.WriteTo(nil, addrPort("10.255.255.255:5"), SendOptions{})
	require.ErrorIs(t, err, syscall.ENETDOWN)
}

func TestRoutesChooseABroadcastsInterface(t *testing.T) {
	over := func(s *Stack, src string) int {
		from := netip.Addr{}
		if src != "" {
			from = addr(src)
		}
		p, err := s.route(limitedBroadcast(), from)
		require.NoError(t, err)
		require.True(t, p.group)
		return p.ifc.index
	}
	s, _, _ := overlapping(t)
	require.Equal(t, 2, over(s, ""), "the first link, because no route matches")
	require.Equal(t, 3, over(s, "10.255.255.1"), "the source's link")
	require.NoError(t, s.AddRoute(Route{Dst: prefix("0.0.0.0/0"), Via: addr("10.255.255.254"), NIC: "eth1", Src: addr("10.0.0.1")}))
	require.Equal(t, 3, over(s, ""), "the link of the default route")
	p, err := s.route(limitedBroadcast(), netip.Addr{})
	require.NoError(t, err)
	require.Equal(t, addr("10.0.0.1"), p.src, "the source of the default route")
	require.Equal(t, 2, over(s, "10.0.0.1"))
	require.NoError(t, s.AddRoute(Route{Dst: prefix("255.255.255.255/32"), NIC: "eth0"}))
	require.Equal(t, 2, over(s, ""), "the route of the broadcast address itself")
	_, err = s.route(limitedBroadcast(), addr("127.0.0.1"))
	require.ErrorIs(t, err, syscall.EINVAL)
}
