package stack

import (
	"net"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// twoLinks makes the host s with 192.0.2.1 on eth0 (index 2) and 198.51.100.1 on eth1 (index 3). The hosts
// on0 and on1 are at the other ends of these links.
func twoLinks(t *testing.T) (s, on0, on1 *Stack) {
	t.Helper()
	d0, e0 := nic.Pipe(nic.PipeConfig{})
	d1, e1 := nic.Pipe(nic.PipeConfig{})
	s = newHost(t, d0, "192.0.2.1/24", func(cfg *Config) {
		cfg.NICs[0].Gateway = addr("192.0.2.2")
		cfg.NICs = append(cfg.NICs, NIC{Name: "eth1", Device: d1, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}})
	})
	return s, newHost(t, e0, "192.0.2.2/24"), newHost(t, e1, "198.51.100.2/24")
}

// openShared opens a UDP socket that shares its port. The socket is closed at the end of the test.
func openShared(t *testing.T, s *Stack, local string) *UDP {
	t.Helper()
	u, err := s.OpenSharedUDP(FamilyAny, addrPort(local))
	require.NoError(t, err)
	t.Cleanup(func() { u.Close() })
	return u
}

// take removes all datagrams from a socket's queue, and returns their payloads and metadata.
func take(u *UDP) (texts []string, metas []Meta) {
	b := make([]byte, 100)
	for {
		u.mu.Lock()
		n := u.queue.n
		u.mu.Unlock()
		if n == 0 {
			return texts, metas
		}
		n, _, _, meta, err := u.ReadFrom(b)
		if err != nil {
			return append(texts, err.Error()), metas
		}
		texts, metas = append(texts, string(b[:n])), append(metas, meta)
	}
}

func say(t *testing.T, u *UDP, to, text string, o SendOptions) {
	t.Helper()
	_, err := u.WriteTo([]byte(text), addrPort(to), o)
	require.NoError(t, err)
}

// texts removes all datagrams from a socket's queue, and returns their payloads.
func texts(u *UDP) []string {
	got, _ := take(u)
	return got
}

func TestEachMemberSocketGetsACopy(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u := openUDP(t, a, "0.0.0.0:1")
	one, two := openShared(t, b, "0.0.0.0:5"), openShared(t, b, "0.0.0.0:5")
	bound, other := openShared(t, b, "224.1.2.3:5"), openShared(t, b, "224.1.2.4:5")
	_, err := b.OpenUDP(FamilyAny, addrPort("0.0.0.0:5"))
	require.ErrorIs(t, err, syscall.EADDRINUSE, "an exclusive socket on a shared port")
	alone := openUDP(t, b, "0.0.0.0:6")
	_, err = b.OpenSharedUDP(FamilyAny, addrPort("0.0.0.0:6"))
	require.ErrorIs(t, err, syscall.EADDRINUSE, "a shared socket on an exclusive port")
	require.NoError(t, one.Join(addr("224.1.2.3"), 2))

	say(t, u, "224.1.2.3:5", "all", SendOptions{NIC: 2})
	require.Equal(t, []string{"all"}, texts(one))
	require.Equal(t, []string{"all"}, texts(two), "as on Linux, whichever has joined")
	require.Equal(t, []string{"all"}, texts(bound))
	require.Empty(t, texts(other))
	require.Empty(t, texts(alone))
	say(t, u, "192.0.2.255:5", "broadcast", SendOptions{})
	require.Equal(t, []string{"broadcast"}, texts(one))
	require.Equal(t, []string{"broadcast"}, texts(two))
	require.Empty(t, texts(bound))
	say(t, u, "192.0.2.2:5", "you", SendOptions{})
	require.Empty(t, texts(one))
	require.Equal(t, []string{"you"}, texts(two), "unicast goes to the socket that was opened last")
	require.NoError(t, two.Close())
	say(t, u, "192.0.2.2:5", "you", SendOptions{})
	require.Equal(t, []string{"you"}, texts(one))
}

func TestManySocketsShareAGroup(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	var us []*UDP
	for range 20 {
		us = append(us, openShared(t, b, "0.0.0.0:5"))
	}
	require.NoError(t, us[0].Join(addr("224.1.2.3"), 2))
	say(t, openUDP(t, a, "0.0.0.0:1"), "224.1.2.3:5", "all", SendOptions{NIC: 2})
	for _, u := range us {
		require.Equal(t, []string{"all"}, texts(u))
	}
}

func TestAHostReceivesItselfAsAMember(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, far := openUDP(t, a, "0.0.0.0:5"), openUDP(t, b, "0.0.0.0:5")
	require.NoError(t, far.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.SetMulticastInterface(2))
	say(t, u, "224.1.2.3:5", "not a member", SendOptions{})
	require.Empty(t, texts(u))
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	say(t, u, "224.1.2.3:5", "member", SendOptions{TTL: 3, TOS: 8})
	got, metas := take(u)
	require.Equal(t, []string{"member"}, got)
	require.Equal(t, []Meta{{Dst: addr("224.1.2.3"), TTL: 3, TOS: 8, NIC: 2}}, metas)
	require.NoError(t, u.SetMulticastLoopback(false))
	say(t, u, "224.1.2.3:5", "quiet", SendOptions{})
	require.Empty(t, texts(u))
	require.Equal(t, []string{"not a member", "member", "quiet"}, texts(far))
	require.NoError(t, u.SetMulticastLoopback(true))
	require.NoError(t, u.SetMulticastTTL(0))
	say(t, u, "224.1.2.3:5", "to ourselves", SendOptions{})
	require.Equal(t, []string{"to ourselves"}, texts(u))
	require.Empty(t, texts(far), "a datagram with TTL 0 stays in the host")
	say(t, u, "224.0.0.1:5", "all hosts", SendOptions{})
	require.Equal(t, []string{"all hosts"}, texts(u))
	big := make([]byte, 5000)
	say(t, u, "224.1.2.3:5", string(big), SendOptions{TTL: 1})
	require.Len(t, texts(u), 1, "the host's own copy is whole, though it left in fragments")
	require.Len(t, texts(far), 1)
	_, err := u.WriteTo(big, addrPort("224.1.2.3:5"), SendOptions{TTL: 1, DontFragment: true})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	require.Empty(t, texts(u))
}

func TestAHostReceivesItsOwnBroadcasts(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, far := openUDP(t, a, "0.0.0.0:5"), openUDP(t, b, "0.0.0.0:5")
	for _, to := range []string{"192.0.2.255:5", "255.255.255.255:5"} {
		say(t, u, to, "hear, hear", SendOptions{})
		require.Equal(t, []string{"hear, hear"}, texts(u), to)
		require.Equal(t, []string{"hear, hear"}, texts(far), to)
	}
}

func TestAGroupOnTheLoopbackStaysInTheHost(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v, far := openUDP(t, a, "0.0.0.0:5"), openUDP(t, a, "0.0.0.0:6"), openUDP(t, b, "0.0.0.0:6")
	require.NoError(t, far.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.SetMulticastInterface(1))
	say(t, u, "224.1.2.3:6", "not joined", SendOptions{})
	require.Empty(t, texts(v))
	require.NoError(t, v.Join(addr("224.1.2.3"), 1))
	require.NoError(t, u.SetMulticastLoopback(false)) // does not affect the loopback interface
	say(t, u, "224.1.2.3:6", "inside", SendOptions{})
	got, metas := take(v)
	require.Equal(t, []string{"inside"}, got)
	require.Equal(t, Meta{Dst: addr("224.1.2.3"), TTL: 1, NIC: 1}, metas[0])
	require.Empty(t, texts(far))
}

func TestMembershipIsPerInterface(t *testing.T) {
	s, on0, on1 := twoLinks(t)
	u := openUDP(t, s, "0.0.0.0:5")
	a, b := openUDP(t, on0, "0.0.0.0:1"), openUDP(t, on1, "0.0.0.0:1")
	group := addr("224.1.2.3")
	sendToEach := func(text string) {
		t.Helper()
		say(t, a, "224.1.2.3:5", text+" from eth0", SendOptions{NIC: 2})
		say(t, b, "224.1.2.3:5", text+" from eth1", SendOptions{NIC: 2})
	}
	require.NoError(t, u.Join(group, 3))
	sendToEach("one")
	got, metas := take(u)
	require.Equal(t, []string{"one from eth1"}, got)
	require.Equal(t, 3, metas[0].NIC)
	require.Equal(t, []netip.Addr{allHosts()}, s.Interfaces()[1].Groups)
	require.Equal(t, []netip.Addr{allHosts(), group}, s.Interfaces()[2].Groups)
	require.NoError(t, u.Join(group, 0), "0 is the interface of the default route, eth0")
	sendToEach("two")
	require.Equal(t, []string{"two from eth0", "two from eth1"}, texts(u))
	require.NoError(t, u.Leave(group, 0), "0 leaves the oldest membership, on eth1")
	sendToEach("three")
	require.Equal(t, []string{"three from eth0"}, texts(u))
	require.ErrorIs(t, u.Leave(group, 3), syscall.EADDRNOTAVAIL)
	require.NoError(t, u.Leave(group, 2))
	require.ErrorIs(t, u.Leave(group, 0), syscall.EADDRNOTAVAIL)
}

func TestTheSenderChoosesTheLinkOfAGroup(t *testing.T) {
	s, on0, on1 := twoLinks(t)
	a, b := openUDP(t, on0, "0.0.0.0:5"), openUDP(t, on1, "0.0.0.0:5")
	require.NoError(t, a.Join(addr("224.1.2.3"), 2))
	require.NoError(t, b.Join(addr("224.1.2.3"), 2))
	u := openUDP(t, s, "0.0.0.0:1")
	say(t, u, "224.1.2.3:5", "by the routes", SendOptions{})
	require.Equal(t, []string{"by the routes"}, texts(a))
	say(t, u, "224.1.2.3:5", "by the source", SendOptions{Src: addr("198.51.100.1")})
	require.Equal(t, []string{"by the source"}, texts(b), "though the route is elsewhere")
	say(t, u, "224.1.2.3:5", "by the call", SendOptions{NIC: 3})
	require.NoError(t, u.SetMulticastInterface(3))
	say(t, u, "224.1.2.3:5", "by the socket", SendOptions{})
	say(t, u, "224.1.2.3:5", "the call wins", SendOptions{NIC: 2})
	b.mu.Lock()
	require.Equal(t, addrPort("198.51.100.1:1"), b.queue.ring[b.queue.head].from, "the source is that of the link")
	b.mu.Unlock()
	require.Equal(t, []string{"by the call", "by the socket"}, texts(b))
	require.Equal(t, []string{"the call wins"}, texts(a))
	bound := openUDP(t, s, "198.51.100.1:2")
	say(t, bound, "224.1.2.3:5", "by the socket's address", SendOptions{})
	require.Equal(t, []string{"by the socket's address"}, texts(b))
	require.NoError(t, u.SetMulticastInterface(0))
	say(t, u, "224.1.2.3:5", "by the routes", SendOptions{})
	require.Equal(t, []string{"by the routes"}, texts(a))
	require.ErrorIs(t, u.SetMulticastInterface(9), syscall.EADDRNOTAVAIL)
	_, err := u.WriteTo(nil, addrPort("224.1.2.3:5"), SendOptions{NIC: 9})
	require.ErrorIs(t, err, syscall.ENODEV)
	require.NoError(t, u.SetMulticastInterface(3))
	require.NoError(t, s.RemoveNIC("eth1"))
	_, err = u.WriteTo(nil, addrPort("224.1.2.3:5"), SendOptions{})
	require.ErrorIs(t, err, syscall.ENODEV)
}

func TestTheSenderChoosesTheLinkOfAHost(t *testing.T) {
	s, on0, on1 := twoLinks(t)
	u, v := openUDP(t, s, "0.0.0.0:1"), openUDP(t, on1, "0.0.0.0:5")
	require.NoError(t, on1.AddRoute(Route{Dst: prefix("192.0.2.0/24"), NIC: "eth0"}))
	say(t, u, "198.51.100.2:5", "its own link", SendOptions{NIC: 3})
	require.Equal(t, []string{"its own link"}, texts(v))
	far := openUDP(t, on0, "0.0.0.0:5")
	say(t, u, "203.0.113.1:5", "by the router", SendOptions{NIC: 2})
	require.Equal(t, 1, dropped(on0, dropNotLocal), "on0, the gateway, received it and does not forward")
	require.Empty(t, texts(far))
	// On a chosen link, an address without a route is on-link.
	say(t, u, "203.0.113.1:5", "who has it?", SendOptions{NIC: 3})
	require.NotEmpty(t, s.Neighbors())
	say(t, u, "255.255.255.255:5", "limited", SendOptions{NIC: 3})
	require.Equal(t, []string{"limited"}, texts(v))
	require.Empty(t, texts(far))
	self := openUDP(t, s, "0.0.0.0:7")
	say(t, u, "192.0.2.1:7", "ourselves", SendOptions{NIC: 3})
	require.Equal(t, []string{"ourselves"}, texts(self))
	_, err := u.WriteTo(nil, addrPort("203.0.113.1:5"), SendOptions{NIC: 1})
	require.ErrorIs(t, err, syscall.ENETUNREACH, "the loopback has no other host")
}

func TestSettingsOfASocketAreKeptAndChecked(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:1"), openUDP(t, b, "0.0.0.0:5")
	settings, err := u.Settings()
	require.NoError(t, err)
	require.Equal(t, DatagramSettings{TTL: 64, MulticastTTL: 1, MulticastLoopback: true}, settings)
	require.NoError(t, u.SetTTL(9))
	require.NoError(t, u.SetTOS(0x12e))
	require.NoError(t, u.SetMulticastTTL(7))
	say(t, u, "192.0.2.2:5", "a", SendOptions{})
	say(t, u, "192.0.2.2:5", "b", SendOptions{TTL: 3, TOS: 4})
	say(t, u, "192.0.2.2:5", "c", SendOptions{SetTOS: true})
	say(t, u, "192.0.2.255:5", "d", SendOptions{})
	say(t, u, "224.0.0.1:5", "e", SendOptions{NIC: 2})
	_, metas := take(v)
	var got [][2]uint8
	for _, m := range metas {
		got = append(got, [2]uint8{m.TTL, m.TOS})
	}
	require.Equal(t, [][2]uint8{{9, 0x2e}, {3, 4}, {9, 0}, {9, 0x2e}, {7, 0x2e}}, got)
	for _, bad := range []int{-2, 256} {
		require.ErrorIs(t, u.SetMulticastTTL(bad), syscall.EINVAL)
		require.ErrorIs(t, u.SetTTL(bad), syscall.EINVAL)
	}
	require.ErrorIs(t, u.SetTTL(0), syscall.EINVAL)
	require.NoError(t, u.Close())
	for _, err := range []error{
		u.SetTTL(1), u.SetTOS(1), u.SetMulticastTTL(1), u.SetMulticastLoopback(true), u.SetMulticastInterface(2),
		u.Join(addr("224.1.2.3"), 2), u.Leave(addr("224.1.2.3"), 2),
	} {
		require.ErrorIs(t, err, net.ErrClosed)
	}
}

func TestAGroupWithoutARouteOrALinkCannotBeJoined(t *testing.T) {
	s := newHost(t, nic.NewNull(nic.Link{}), "192.0.2.1/24")
	u := openUDP(t, s, "0.0.0.0:5")
	require.ErrorIs(t, u.Join(addr("224.1.2.3"), 0), syscall.ENODEV)
	_, err := u.WriteTo(nil, addrPort("224.1.2.3:5"), SendOptions{})
	require.ErrorIs(t, err, syscall.ENETUNREACH)
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	_, err = u.WriteTo(nil, addrPort("224.1.2.3:5"), SendOptions{NIC: 2})
	require.NoError(t, err)
	_, err = u.WriteTo(nil, addrPort("240.0.0.1:5"), SendOptions{NIC: 2})
	require.ErrorIs(t, err, syscall.ENETUNREACH)
}

// RFC 1112 6.4: 32 groups share a MAC address.
func TestAGroupWithTheSameMACIsNotReceived(t *testing.T) {
	s, p := hostAndPeer(t)
	u := openUDP(t, s, "0.0.0.0:5")
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	from := addrPort("192.0.2.2:9")
	for _, group := range []string{"224.1.2.3:5", "225.1.2.3:5", "224.129.2.3:5"} {
		to := addrPort(group)
		require.Equal(t, wire.MulticastMAC(addr("224.1.2.3")), wire.MulticastMAC(to.Addr()))
		p.ip(wire.MulticastMAC(to.Addr()), wire.IPv4{Proto: wire.ProtoUDP, Dst: to.Addr()}, udpDatagram(from, to, []byte(group)))
	}
	require.Equal(t, []string{"224.1.2.3:5"}, texts(u))
	require.Equal(t, 2, dropped(s, dropNotJoined))
}

// The host's own datagrams are received in the order in which they were sent, whichever goroutine
// delivers them.
func TestConcurrentSendersReceiveInOrder(t *testing.T) {
	a, _ := twoHosts(t, nic.PipeConfig{})
	u := openUDP(t, a, "0.0.0.0:5")
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.SetReadBuffer(1<<30))
	const senders, each = 4, 500
	var wg sync.WaitGroup
	for i := range senders {
		v := openUDP(t, a, "0.0.0.0:0")
		wg.Go(func() {
			for n := range each {
				v.WriteTo([]byte{byte(i), byte(n >> 8), byte(n)}, addrPort("224.1.2.3:5"), SendOptions{NIC: 2})
			}
		})
	}
	wg.Wait()
	var next [senders]int
	for _, text := range texts(u) {
		i := text[0]
		require.Equal(t, next[i], int(text[1])<<8|int(text[2]))
		next[i]++
	}
	require.Equal(t, [senders]int{each, each, each, each}, next)
}

func TestLoopedDatagramsAreBounded(t *testing.T) {
	a, _ := twoHosts(t, nic.PipeConfig{})
	u := openUDP(t, a, "0.0.0.0:5")
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.SetReadBuffer(1<<30))
	require.NoError(t, u.SetMulticastTTL(0)) // the datagrams stay in the host, so none waits for the link
	ds := make([]Datagram, 200)
	payload := make([]byte, 40000) // uses a buffer of 64 KiB
	for i := range ds {
		ds[i] = Datagram{Buffers: [][]byte{payload}, Addr: addrPort("224.1.2.3:5"), Options: SendOptions{NIC: 2}}
	}
	// The batch is larger than the queue, so some datagrams should be lost. On a loaded machine the host
	// may deliver datagrams during the batch and lose none, so try until there is a loss.
	for range 50 {
		n, err := u.WriteBatch(ds)
		require.NoError(t, err)
		require.Equal(t, len(ds), n)
		lost := dropped(a, dropLoopQueue)
		heard := 0
		for heard < len(ds)-lost { // another goroutine may still be delivering
			runtime.Gosched()
			heard += len(texts(u))
		}
		require.Equal(t, len(ds), heard+lost)
		require.GreaterOrEqual(t, heard, maxLooped/(64<<10))
		if lost > 0 {
			return
		}
	}
	t.Fatal("nothing was ever lost")
}

func TestRawSocketsAreMembersOfGroupsToo(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openRaw(t, a), openRaw(t, b)
	require.NoError(t, v.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.SetMulticastInterface(2))
	require.NoError(t, u.SetMulticastTTL(9))
	say := func(text string) {
		_, err := u.WriteTo(echoRequest(1, 2, []byte(text)), addr("224.1.2.3"), SendOptions{})
		require.NoError(t, err)
	}
	say("hello")
	buf := make([]byte, 100)
	_, _, from, meta, err := v.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, addr("192.0.2.1"), from)
	require.Equal(t, Meta{Dst: addr("224.1.2.3"), TTL: 9, NIC: 2}, meta)
	// RFC 1122 3.2.2.6: an echo request to a group "MAY be silently discarded", as on Linux.
	require.Equal(t, 1, dropped(b, dropEchoBroadcast))
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	say("ourselves")
	_, _, from, _, err = u.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, addr("192.0.2.1"), from)
	require.Equal(t, 1, dropped(a, dropEchoBroadcast))
	require.NoError(t, v.Close())
	require.Equal(t, []netip.Addr{allHosts()}, b.Interfaces()[1].Groups)
}

// RFC 1122 3.2.2: no error is sent about a datagram to a group, whatever its source.
func TestNoErrorIsSentAboutADatagramToAGroup(t *testing.T) {
	a, b := twoHosts(t, nic.PipeConfig{})
	u, v := openUDP(t, a, "0.0.0.0:5"), openUDP(t, b, "0.0.0.0:6")
	require.NoError(t, v.Join(addr("224.1.2.3"), 2))
	require.NoError(t, u.Join(addr("224.1.2.3"), 2))
	say(t, u, "224.1.2.3:7", "no socket on this port", SendOptions{NIC: 2})
	for _, s := range []*Stack{a, b} {
		require.Equal(t, 1, dropped(s, dropUDPNoSocket))
		require.Zero(t, s.Stats().ICMP.Sent)
	}
	_, err := u.WriteTo(nil, addrPort("192.0.2.2:6"), SendOptions{})
	require.NoError(t, err)
}
