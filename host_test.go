package usernet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

func TestMethodSetsAreThoseOfNet(t *testing.T) {
	// These are absent on purpose: there is no descriptor, and there are no Unix sockets.
	absent := []string{"File", "SyscallConn", "DialUnix"}
	for _, types := range []struct{ theirs, ours any }{
		{&net.TCPConn{}, &TCPConn{}},
		{&net.TCPListener{}, &TCPListener{}},
		{&net.UDPConn{}, &UDPConn{}},
		{&net.IPConn{}, &IPConn{}},
		{&net.Dialer{}, &Dialer{}},
		{&net.ListenConfig{}, &ListenConfig{}},
	} {
		theirs, ours := reflect.TypeOf(types.theirs), reflect.TypeOf(types.ours)
		for i := range theirs.NumMethod() {
			want := theirs.Method(i)
			got, ok := ours.MethodByName(want.Name)
			if slices.Contains(absent, want.Name) {
				require.False(t, ok, "%v.%s", ours, want.Name)
				continue
			}
			require.True(t, ok, "%v.%s is missing", ours, want.Name)
			require.Equal(t, signature(want.Type), signature(got.Type), "%v.%s", ours, want.Name)
		}
		if theirs.Elem().NumField() > 0 && theirs.Elem().Field(0).IsExported() {
			for i := range theirs.Elem().NumField() {
				want := theirs.Elem().Field(i)
				if !want.IsExported() {
					continue
				}
				got, ok := ours.Elem().FieldByName(want.Name)
				require.True(t, ok, "%v.%s is missing", ours, want.Name)
				require.Equal(t, want.Type, got.Type, "%v.%s", ours, want.Name)
			}
		}
	}
	for _, hidden := range []any{&TCPConn{}, &TCPListener{}} {
		_, ok := hidden.(net.PacketConn)
		require.False(t, ok, "programs tell a packet socket from a %T by this type assertion", hidden)
	}
}

// signature returns a method's type without its receiver, with usernet's types in place of net's.
func signature(m reflect.Type) string {
	s := ""
	name := func(t reflect.Type) string {
		switch t {
		case reflect.TypeFor[*TCPConn]():
			return "*net.TCPConn"
		case reflect.TypeFor[*UDPConn]():
			return "*net.UDPConn"
		case reflect.TypeFor[*IPConn]():
			return "*net.IPConn"
		}
		return t.String()
	}
	for i := 1; i < m.NumIn(); i++ {
		s += name(m.In(i)) + ","
	}
	s += "->"
	for i := range m.NumOut() {
		s += name(m.Out(i)) + ","
	}
	return s
}

func TestZeroConnectionsReturnEINVAL(t *testing.T) {
	c := &TCPConn{}
	_, err := c.Write([]byte("x"))
	require.Equal(t, syscall.EINVAL, err)
	_, err = c.ReadFrom(nil)
	require.Equal(t, syscall.EINVAL, err)
	require.Equal(t, syscall.EINVAL, c.SetLinger(1))
	require.Equal(t, syscall.EINVAL, c.Close())
	require.Equal(t, syscall.EINVAL, (&UDPConn{}).SetDeadline(time.Time{}))
	require.Nil(t, (&UDPConn{}).LocalAddr())
	require.Equal(t, syscall.EINVAL, (&TCPListener{}).Close())
	_, err = (*TCPListener)(nil).Accept()
	require.Equal(t, syscall.EINVAL, err)
	_, _, err = (&IPConn{}).ReadFrom(nil)
	require.Equal(t, syscall.EINVAL, err)
}

func TestAHostThatIsConfiguredWronglySaysWhatIsWrong(t *testing.T) {
	dev := nic.NewNull(nic.Link{})
	prefix := netip.MustParsePrefix
	for _, bad := range []struct {
		cfg  Config
		want string
	}{
		{Config{Addrs: []netip.Prefix{prefix("192.0.2.1/24")}}, "device is nil"},
		{Config{NIC: dev, Addrs: []netip.Prefix{prefix("192.0.2.1/24"), prefix("192.0.2.1/24")}}, "there twice"},
		{Config{NIC: dev, Addrs: []netip.Prefix{{}}}, "malformed"},
		{Config{NIC: dev, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}, Gateway: netip.MustParseAddr("203.0.113.1")}, "not on the link"},
		{Config{Routes: []stack.Route{{Dst: prefix("0.0.0.0/0")}}}, "neither an interface nor a router"},
	} {
		_, err := New(bad.cfg)
		require.ErrorContains(t, err, bad.want)
	}
	require.NoError(t, dev.Close(), "the device is still the caller's")
}

func TestAHostTellsWhatItIsMadeOf(t *testing.T) {
	a, b := newPair(t, withoutIPv6)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix(addrA + "/24")}, a.Addrs())
	var texts []string
	for _, addr := range a.InterfaceAddrs() {
		texts = append(texts, addr.String())
	}
	require.Equal(t, []string{"127.0.0.1/8", addrA + "/24"}, texts)
	require.Len(t, a.Interfaces(), 2)
	require.Equal(t, netip.MustParsePrefix("192.0.2.0/24"), a.Routes()[0].Dst)
	connect(t, a, b, addrB)
	require.Equal(t, netip.MustParseAddr(addrB), a.Neighbors()[0].Addr)
	require.NotZero(t, a.Stats().TCP.Sent)
	require.NotNil(t, a.Stack())
}

// blocked starts a call and returns the channel of its error.
func blocked(call func() error) chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}

func TestHostCloseWakesEveryBlockedCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPair(t)
		ln, err := a.Listen("tcp", ":0")
		require.NoError(t, err)
		c, peer := connect(t, a, b, addrB)
		udp, err := a.ListenPacket("udp", ":0")
		require.NoError(t, err)
		ip, err := a.ListenPacket("ip4:icmp", "")
		require.NoError(t, err)
		calls := map[string]chan error{
			"accept":   blocked(func() error { _, err := ln.Accept(); return err }),
			"read":     blocked(func() error { _, err := c.Read(make([]byte, 1)); return err }),
			"write":    blocked(func() error { _, err := c.Write(make([]byte, 64<<20)); return err }),
			"readfrom": blocked(func() error { _, _, err := udp.ReadFrom(make([]byte, 1)); return err }),
			"raw":      blocked(func() error { _, _, err := ip.ReadFrom(make([]byte, 1)); return err }),
			"dial":     blocked(func() error { _, err := a.Dial("tcp", "192.0.2.99:80"); return err }),
			"ping": blocked(func() error {
				_, err := a.Ping(context.Background(), "192.0.2.99", PingConfig{Timeout: time.Hour})
				return err
			}),
		}
		synctest.Wait()
		for name, done := range calls {
			select {
			case err := <-done:
				t.Fatalf("%s did not block: %v", name, err)
			default:
			}
		}
		require.NoError(t, a.Close())
		for name, done := range calls {
			err := <-done
			require.ErrorIs(t, err, net.ErrClosed, name)
			require.IsType(t, &net.OpError{}, err, name)
		}
		// Open connections are reset.
		_, err = io.ReadAll(peer)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.ErrorIs(t, a.Close(), net.ErrClosed)
		for name, use := range map[string]func() error{
			"dial":   func() error { _, err := a.Dial("tcp", addrB+":80"); return err },
			"listen": func() error { _, err := a.Listen("tcp", ":0"); return err },
			"packet": func() error { _, err := a.ListenPacket("udp", ":0"); return err },
			"udp":    func() error { _, err := a.Dial("udp", addrB+":80"); return err },
		} {
			require.ErrorIs(t, use(), net.ErrClosed, name)
		}
		// The bubble checks that no goroutine is left.
	})
}

func TestHostCloseEndsLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ea, eb := nic.Pipe(nic.PipeConfig{})
		server := netip.AddrPortFrom(netip.MustParseAddr(addrB), 53)
		a, err := New(Config{NIC: ea, Addrs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr(addrA), 24)}, DNS: []netip.AddrPort{server}})
		require.NoError(t, err)
		b, err := New(Config{NIC: eb, Addrs: []netip.Prefix{netip.PrefixFrom(server.Addr(), 24)}})
		require.NoError(t, err)
		defer b.Close()
		_, err = b.ListenPacket("udp", ":53") // which never answers
		require.NoError(t, err)
		calls := map[string]chan error{
			"lookup": blocked(func() error { _, err := a.LookupHost("one.test"); return err }),
			"txt":    blocked(func() error { _, err := a.LookupTXT("two.test"); return err }),
			"dial":   blocked(func() error { _, err := a.Dial("tcp", "three.test:80"); return err }),
		}
		synctest.Wait()
		began := time.Now()
		require.NoError(t, a.Close())
		for name, done := range calls {
			require.ErrorIs(t, <-done, net.ErrClosed, name)
		}
		require.Zero(t, time.Since(began))
	})
}

// A test in a bubble does not fail if it never closes its hosts.
func TestAForgottenHostIsNoTrouble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ea, eb := nic.Pipe(nic.PipeConfig{})
		var hosts [2]*Host
		for i, dev := range []nic.Device{nic.Impair(ea, nic.ImpairConfig{Out: farAway, In: farAway}), eb} {
			h, err := New(Config{NIC: dev, Addrs: []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr([]string{addrA, addrB}[i]), 24)}})
			require.NoError(t, err)
			hosts[i] = h
		}
		ln, err := hosts[1].Listen("tcp", ":80")
		require.NoError(t, err)
		c, err := hosts[0].Dial("tcp", addrB+":80")
		require.NoError(t, err)
		s, err := ln.Accept()
		require.NoError(t, err)
		go s.Write(make([]byte, 100))
		_, err = io.ReadFull(c, make([]byte, 100))
		require.NoError(t, err)
		// Connections, hosts and devices all stay open.
	})
}

func TestCopyingBetweenConnectionsComesToAnEnd(t *testing.T) {
	a, b := newPair(t)
	in, proxyIn := connect(t, a, b, addrB)
	proxyOut, out := connect(t, b, a, addrA)
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * 7)
	}
	go func() {
		in.Write(data)
		in.CloseWrite()
	}()
	copied := make(chan error, 1)
	go func() {
		// Both ends have ReadFrom and WriteTo, which must not call each other in an endless
		// recursion.
		n, err := io.Copy(proxyOut, proxyIn)
		if err == nil && n != int64(len(data)) {
			err = errors.New("copied too little")
		}
		proxyOut.CloseWrite()
		copied <- err
	}()
	got, err := io.ReadAll(out)
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.NoError(t, <-copied)
}

func TestReadFromALimitedReaderTakesNoMore(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	src, feed := connect(t, a, b, addrB)
	_, err := feed.Write([]byte("0123456789"))
	require.NoError(t, err)
	n, err := c.ReadFrom(&io.LimitedReader{R: src, N: 4})
	require.NoError(t, err)
	require.EqualValues(t, 4, n)
	require.NoError(t, c.CloseWrite())
	got, err := io.ReadAll(s)
	require.NoError(t, err)
	require.Equal(t, "0123", string(got))
	rest := make([]byte, 6)
	_, err = io.ReadFull(src, rest)
	require.NoError(t, err)
	require.Equal(t, "456789", string(rest))
}

// WriteTo does not copy the data that has been received.
func TestWriteToPassesTheReceiveBufferToWrite(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	want := text(200_000)
	require.NoError(t, s.SetReadBuffer(1<<20))
	_, err := c.Write(want)
	require.NoError(t, err)
	require.NoError(t, c.CloseWrite())
	var got []byte
	largest := 0
	n, err := s.WriteTo(writerFunc(func(p []byte) (int, error) {
		largest = max(largest, len(p))
		got = append(got, p...)
		return len(p), nil
	}))
	require.NoError(t, err)
	require.EqualValues(t, len(want), n)
	require.Equal(t, want, got)
	require.Greater(t, largest, copyBuffer, "data is not copied to a buffer of copyBuffer bytes first")
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func TestAddrPortFormsOfUDPDoNotAllocate(t *testing.T) {
	a, b := newPair(t)
	s, err := b.ListenUDP("udp", nil)
	require.NoError(t, err)
	c, err := a.ListenUDP("udp", nil)
	require.NoError(t, err)
	to := netip.AddrPortFrom(netip.MustParseAddr(addrB), s.LocalAddr().(*net.UDPAddr).AddrPort().Port())
	msg, buf := make([]byte, 512), make([]byte, 2048)
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, err := c.WriteToUDPAddrPort(msg, to); err != nil {
			t.Error(err)
		}
		if n, _, err := s.ReadFromUDPAddrPort(buf); err != nil || n != len(msg) {
			t.Error(n, err)
		}
	}))
	require.LessOrEqual(t, testing.AllocsPerRun(200, func() {
		c.WriteToUDPAddrPort(msg, to)
		if _, _, err := s.ReadFrom(buf); err != nil {
			t.Error(err)
		}
	}), 1.0, "one allocation has the address and its IP")
}

func TestTCPReadsAndWritesDoNotAllocate(t *testing.T) {
	a, b := newPair(t)
	c, s := connect(t, a, b, addrB)
	msg, buf := make([]byte, 1000), make([]byte, 1000)
	require.Less(t, testing.AllocsPerRun(500, func() {
		if _, err := c.Write(msg); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(s, buf); err != nil {
			t.Error(err)
		}
	}), 1.0)
}

func TestUDPPacketInfoTellsWhatTheHeadersSay(t *testing.T) {
	a, b := newPair(t)
	s, err := b.ListenUDP("udp4", &net.UDPAddr{Port: 9000})
	require.NoError(t, err)
	c, err := a.ListenUDP("udp", nil)
	require.NoError(t, err)
	to := netip.AddrPortFrom(netip.MustParseAddr(addrB), 9000)
	n, err := c.WritePacket([]byte("hello"), PacketInfo{Remote: to, TTL: 7, TOS: 0x2e << 2}) // DSCP EF
	require.NoError(t, err)
	require.Equal(t, 5, n)
	buf := make([]byte, 3)
	n, info, err := s.ReadPacket(buf)
	require.NoError(t, err)
	require.Equal(t, 3, n)
	require.Equal(t, PacketInfo{
		Remote:    netip.AddrPortFrom(netip.MustParseAddr(addrA), c.LocalAddr().(*net.UDPAddr).AddrPort().Port()),
		Local:     netip.MustParseAddr(addrB),
		TTL:       7,
		TOS:       0x2e << 2,
		Interface: 2,
		Size:      5,
	}, info)
	_, err = c.WritePacket(make([]byte, 3000), PacketInfo{Remote: to, DontFragment: true})
	require.ErrorIs(t, err, syscall.EMSGSIZE)
	_, err = c.WritePacket([]byte("x"), PacketInfo{Remote: to, Local: netip.MustParseAddr("203.0.113.1")})
	require.ErrorIs(t, err, syscall.EADDRNOTAVAIL)
	_, _, err = c.WriteMsgUDP([]byte("x"), []byte("control"), nil)
	require.EqualError(t, err, "write udp "+c.LocalAddr().String()+": missing address")
	_, _, err = c.WriteMsgUDPAddrPort([]byte("x"), []byte("what does this mean?"), to)
	require.ErrorIs(t, err, syscall.EINVAL, "a malformed control message is not ignored")
	connected, err := a.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	require.NoError(t, err)
	_, err = connected.WritePacket([]byte("x"), PacketInfo{TTL: 3})
	require.NoError(t, err)
	_, info, err = s.ReadPacket(buf)
	require.NoError(t, err)
	require.EqualValues(t, 3, info.TTL)
	_, err = connected.WritePacket([]byte("x"), PacketInfo{Remote: to})
	require.ErrorIs(t, err, net.ErrWriteToConnected)
}

func TestIPSocketsCarryAProtocolOfTheirOwn(t *testing.T) {
	a, b := newPair(t)
	const network = "ip4:253" // RFC 3692: reserved for experiments
	s, err := b.ListenIP(network, nil)
	require.NoError(t, err)
	c, err := a.Dial(network, addrB)
	require.NoError(t, err)
	require.Equal(t, addrA, c.LocalAddr().String())
	require.Equal(t, addrB, c.RemoteAddr().(*net.IPAddr).String())
	_, err = c.Write([]byte("ping"))
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, from, err := s.ReadFrom(buf)
	require.NoError(t, err)
	require.Equal(t, "ping", string(buf[:n]), "without the IP header")
	require.Equal(t, addrA, from.(*net.IPAddr).String())
	_, err = s.WriteTo([]byte("a longer answer"), from)
	require.NoError(t, err)
	n, _, flags, addr, err := c.(*IPConn).ReadMsgIP(buf[:28], nil)
	require.NoError(t, err)
	require.Equal(t, "a longer", string(buf[20:n]), "with the IP header")
	require.Equal(t, 0x20, flags, "MSG_TRUNC")
	require.Equal(t, addrB, addr.String())
	_, err = s.WritePacket([]byte("x"), PacketInfo{Remote: netip.AddrPortFrom(netip.MustParseAddr(addrA), 0), TTL: 9})
	require.NoError(t, err)
	_, info, err := c.(*IPConn).ReadPacket(buf)
	require.NoError(t, err)
	require.EqualValues(t, 9, info.TTL)
	_, err = s.WriteToIP([]byte("x"), nil)
	require.ErrorContains(t, err, "missing address")
	_, err = s.Write([]byte("x"))
	require.ErrorIs(t, err, syscall.EDESTADDRREQ)
	_, err = c.(*IPConn).WriteToIP([]byte("x"), addr)
	require.ErrorIs(t, err, net.ErrWriteToConnected)
	_, err = a.ListenPacket("ip4:0", "")
	require.EqualError(t, err, "listen ip4:0 : socket: protocol not supported")
}

func TestMulticastReachesThoseWhoJoined(t *testing.T) {
	a, b := newPair(t)
	for h, name := range map[*Host]string{a: "pipe-a", b: "pipe-b"} {
		require.NoError(t, h.Stack().AddRoute(stack.Route{Dst: netip.MustParsePrefix("224.0.0.0/4"), NIC: name}))
	}
	group := &net.UDPAddr{IP: net.IPv4(239, 1, 2, 3), Port: 5000}
	s, err := b.ListenMulticastUDP("udp", &net.Interface{Index: 2}, group)
	require.NoError(t, err)
	c, err := a.ListenUDP("udp", nil)
	require.NoError(t, err)
	_, err = c.WriteTo([]byte("to all"), group)
	require.NoError(t, err)
	buf := make([]byte, 100)
	n, info, err := s.ReadPacket(buf)
	require.NoError(t, err)
	require.Equal(t, "to all", string(buf[:n]))
	require.Equal(t, "239.1.2.3", info.Local.String())
	require.EqualValues(t, 1, info.TTL)

	require.NoError(t, s.LeaveGroup(&net.Interface{Index: 2}, netip.MustParseAddr("239.1.2.3")))
	_, err = c.WriteTo([]byte("to nobody"), group)
	require.NoError(t, err)
	require.NoError(t, s.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
	_, _, err = s.ReadPacket(buf)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.NoError(t, s.SetReadDeadline(time.Time{}))
	require.NoError(t, s.JoinGroup(nil, netip.MustParseAddr("239.1.2.3")))
	require.ErrorIs(t, s.JoinGroup(&net.Interface{Index: 77}, netip.MustParseAddr("239.1.2.3")), syscall.ENODEV)
	_, err = a.ListenMulticastUDP("udp", nil, nil)
	require.ErrorContains(t, err, "missing address")
	_, err = a.ListenMulticastUDP("tcp", nil, group)
	require.ErrorContains(t, err, "unknown network tcp")
}

func TestBroadcastIsAllowedByDefault(t *testing.T) {
	a, b := newPair(t)
	s, err := b.ListenPacket("udp", ":6000")
	require.NoError(t, err)
	c, err := a.ListenPacket("udp", ":0")
	require.NoError(t, err)
	buf := make([]byte, 10)
	for _, to := range []net.IP{net.IPv4bcast, net.IPv4(192, 0, 2, 255)} {
		_, err = c.WriteTo([]byte("all"), &net.UDPAddr{IP: to, Port: 6000})
		require.NoError(t, err)
		n, from, err := s.ReadFrom(buf)
		require.NoError(t, err)
		require.Equal(t, "all", string(buf[:n]))
		require.Equal(t, c.LocalAddr().(*net.UDPAddr).Port, from.(*net.UDPAddr).Port)
	}
}

func TestIPSocketsPassControlMessages(t *testing.T) {
	a, b := newPair(t)
	s, err := b.ListenIP("ip4:200", nil)
	require.NoError(t, err)
	require.NoError(t, s.SetControlMessage(FlagTTL|FlagTOS|FlagDst, true))
	c, err := a.ListenIP("ip4:200", nil)
	require.NoError(t, err)
	to := &net.IPAddr{IP: net.ParseIP(addrB)}
	sent := &PacketInfo{TTL: 7, TOS: 0x20, Local: netip.MustParseAddr(addrA), Interface: 2}
	n, oobn, err := c.WriteMsgIP([]byte("hello"), sent.AppendControl(nil), to)
	require.NoError(t, err)
	require.Equal(t, []int{5, len(sent.AppendControl(nil))}, []int{n, oobn})
	buf, oob := make([]byte, 20+3), make([]byte, 100) // for the header too
	n, oobn, flags, from, err := s.ReadMsgIP(buf, oob)
	require.NoError(t, err)
	require.Equal(t, "hel", string(buf[20:n]))
	require.Equal(t, msgTrunc, flags)
	require.Equal(t, addrA, from.String())
	var info PacketInfo
	require.NoError(t, info.ParseControl(oob[:oobn]))
	require.Equal(t, PacketInfo{TTL: 7, TOS: 0x20, Local: netip.MustParseAddr(addrB), Interface: 2}, info)

	// The last control message does not fit.
	_, err = c.WriteTo([]byte("hey"), to)
	require.NoError(t, err)
	_, short, flags, _, err := s.ReadMsgIP(buf, oob[:oobn-8])
	require.NoError(t, err)
	require.Equal(t, msgCTrunc, flags)
	require.Equal(t, oobn-8, short)

	for _, bad := range []struct {
		sent *PacketInfo
		err  error
	}{
		{&PacketInfo{Interface: 9}, syscall.ENODEV},
		{&PacketInfo{Local: netip.MustParseAddr("203.0.113.1")}, syscall.ENETUNREACH},
	} {
		n, oobn, err := c.WriteMsgIP([]byte("x"), bad.sent.AppendControl(nil), to)
		require.ErrorIs(t, err, bad.err)
		require.Equal(t, []int{0, 0}, []int{n, oobn})
	}
	_, _, err = c.WriteMsgIP([]byte("x"), []byte("what does this mean?"), to)
	require.EqualError(t, err, "write ip4 0.0.0.0->"+addrB+": sendmsg: invalid argument")
	require.NoError(t, s.Close())
	require.ErrorIs(t, s.SetControlMessage(FlagTTL, true), net.ErrClosed)
}
