package ppp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

var (
	addrA = netip.MustParseAddr("192.0.2.1")
	addrB = netip.MustParseAddr("192.0.2.2")
	dns1  = netip.MustParseAddr("198.51.100.1")
	dns2  = netip.MustParseAddr("198.51.100.2")
)

// A cable is a line of octets in memory. Each direction takes delay, and may lose, repeat or delay a Write.
// No goroutine belongs to it.
type cable struct {
	mu   sync.Mutex
	cond sync.Cond
	ends [2]*cableEnd
	rand *rand.Rand
	bad  float64 // probability of each kind of damage
	loop bool    // each end receives what it sends
	cut  bool    // nothing arrives
}

type cableEnd struct {
	c      *cable
	buf    []byte // to be read
	peer   *cableEnd
	err    error // of Read and Write
	frames int   // Writes
}

const cableDelay = time.Millisecond

func newCable(bad float64) *cable {
	c := &cable{rand: rand.New(rand.NewPCG(7, 8)), bad: bad}
	c.cond.L = &c.mu
	c.ends = [2]*cableEnd{{c: c}, {c: c}}
	c.ends[0].peer, c.ends[1].peer = c.ends[1], c.ends[0]
	return c
}

func (e *cableEnd) Read(b []byte) (int, error) {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	for len(e.buf) == 0 && e.err == nil {
		e.c.cond.Wait()
	}
	if e.err != nil {
		return 0, e.err
	}
	n := copy(b, e.buf)
	e.buf = e.buf[n:]
	return n, nil
}

func (e *cableEnd) Write(b []byte) (int, error) {
	c := e.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.err != nil {
		return 0, e.err
	}
	e.frames++
	dst := e.peer
	if c.loop {
		dst = e
	}
	copies := 1
	delay := cableDelay
	if c.rand.Float64() < c.bad {
		copies = 0
	}
	if c.rand.Float64() < c.bad {
		copies++
	}
	if c.rand.Float64() < c.bad {
		delay += 20 * cableDelay
	}
	if c.cut {
		copies = 0
	}
	data := bytes.Clone(b)
	for range copies {
		time.AfterFunc(delay, func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			dst.buf = append(dst.buf, data...)
			c.cond.Broadcast()
		})
	}
	return len(b), nil
}

// fail makes Read and Write return err.
func (e *cableEnd) fail(err error) {
	e.c.mu.Lock()
	defer e.c.mu.Unlock()
	if e.err == nil {
		e.err = err
	}
	e.c.cond.Broadcast()
}

func (e *cableEnd) Close() error {
	e.fail(net.ErrClosed)
	return nil
}

// set calls f, which reads or changes c, while c is locked.
func (c *cable) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// An end is a device under test, with what it has reported to its user.
type end struct {
	*Device
	mu     sync.Mutex
	log    bytes.Buffer
	got    [][]byte // received packets
	config nic.NetConfig
	links  int // notifications of the link's state
	down   error
}

// Write is for the logger of the device.
func (e *end) Write(b []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.Write(b)
}

func (e *end) logged() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.log.String()
}

func (e *end) negotiated() nic.NetConfig {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.config
}

func (e *end) failure() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.down
}

func (e *end) packets() [][]byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.got
}

func newLogger(e *end) *slog.Logger { return slog.New(slog.NewTextHandler(e, nil)) }

// open makes a device on a line. It is not attached.
func open(t *testing.T, rw io.ReadWriteCloser, cfg Config) *end {
	t.Helper()
	e := new(end)
	if cfg.Logger == nil {
		cfg.Logger = newLogger(e)
	}
	dev, err := New(rw, cfg)
	require.NoError(t, err)
	e.watch(dev)
	return e
}

// watch records what a device reports.
func (e *end) watch(dev *Device) {
	e.Device = dev
	dev.NotifyDown(func(err error) { e.mu.Lock(); defer e.mu.Unlock(); e.down = err })
	dev.NotifyLink(func() { e.mu.Lock(); defer e.mu.Unlock(); e.links++ })
	dev.NotifyConfig(func(c nic.NetConfig) { e.mu.Lock(); defer e.mu.Unlock(); e.config = c })
}

func (e *end) attach() {
	e.Attach(func(batch []nic.Frame) {
		e.mu.Lock()
		defer e.mu.Unlock()
		for i := range batch {
			e.got = append(e.got, batch[i].AppendTo(nil))
		}
	})
}

// connect attaches two devices to the ends of a cable. In most tests, x is the server and y is the client.
func connect(t *testing.T, c *cable, a, b Config) (x, y *end) {
	t.Helper()
	x, y = open(t, c.ends[0], a), open(t, c.ends[1], b)
	x.attach()
	y.attach()
	return x, y
}

// both sleeps until both links are up, or a time has passed.
func both(x, y *end, limit time.Duration) {
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		v, w := x.view.Load(), y.view.Load()
		if v.ipv4 && w.ipv4 && v.ipv6 && w.ipv6 {
			return
		}
	}
}

// serverConfig and clientConfig are the ends of a link whose server assigns all addresses.
func serverConfig() Config {
	return Config{Name: "server", Local: addrA, Remote: addrB, DNS: []netip.Addr{dns1, dns2}, InterfaceID: 0x11}
}

func clientConfig() Config { return Config{Name: "client", DefaultRoute: true} }

// packet4 returns n bytes that begin like an IPv4 packet.
func packet4(n int) []byte {
	b := make([]byte, n)
	b[0] = 0x45
	return b
}

func TestClientGetsItsAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := connect(t, newCable(0), serverConfig(), clientConfig())
		time.Sleep(time.Second)
		require.True(t, x.Link().Up)
		require.True(t, y.Link().Up)
		require.Equal(t, nic.Link{Name: "client", MTU: 1500, Medium: nic.IP, Up: true}, y.Link())
		c := y.negotiated()
		require.Equal(t, addrB.String()+"/32", c.Addrs[0].String())
		require.Regexp(t, `^fe80::.*/64$`, c.Addrs[1].String())
		require.Equal(t, "[192.0.2.1/32 0.0.0.0/0 ::/0]", fmt.Sprint(c.Routes))
		require.Equal(t, []netip.Addr{dns1, dns2}, c.DNS)
		require.Equal(t, "192.0.2.1/32", x.negotiated().Addrs[0].String())
		require.Equal(t, "fe80::11/64", x.negotiated().Addrs[1].String())
		require.Equal(t, "[192.0.2.2/32]", fmt.Sprint(x.negotiated().Routes))
		require.Empty(t, x.negotiated().DNS)
		require.Contains(t, y.logged(), `msg="PPP link up" nic=client mtu=1500`)

		// An IPv6 packet of 1500 bytes, with octets that have to be escaped on the line.
		six := bytes.Repeat([]byte{0x60, 0x7e, 0x7d, 0x11}, 375)
		n, err := y.Send([]nic.Frame{{Head: packet4(20), Body: six[:100]}, {Head: six}, {Head: packet4(1501)}, {Head: []byte{0x12}}})
		require.NoError(t, err)
		require.Equal(t, 4, n)
		time.Sleep(time.Second)
		require.Equal(t, [][]byte{append(packet4(20), six[:100]...), six}, x.packets())
		require.Equal(t, uint64(2), y.Stats().SendDropped)
		require.Equal(t, nic.Stats{Received: 2, ReceivedBytes: 1620}, x.Stats())

		require.NoError(t, y.Close())
		require.ErrorIs(t, y.Close(), net.ErrClosed)
		time.Sleep(time.Second)
		require.False(t, x.Link().Up, "the peer is told of the end")
		require.ErrorContains(t, x.LinkErr(), "the peer has terminated the link")
		require.NoError(t, x.Close())
		require.ErrorIs(t, x.Err(), net.ErrClosed)
	})
}

// authTest is a case of authentication. The server is x.
type authTest struct {
	server, client Methods
	user           string // of the client; if empty and there is a password, joe
	password       string // of the client
	mutual         bool   // the server has to authenticate itself too
	proto          uint16 // of the client's authentication
	fails          string // the error of the client
}

func TestAuthentication(t *testing.T) {
	users := func(name string) (string, bool) {
		password, ok := map[string]string{"joe": "secret", "isp": "other"}[name]
		return password, ok
	}
	for name, c := range map[string]authTest{
		"CHAP":              {password: "secret", proto: protoCHAP},
		"PAP":               {server: PAP, password: "secret", proto: protoPAP},
		"PAP after a Nak":   {client: PAP, password: "secret", proto: protoPAP},
		"CHAP after a Nak":  {server: CHAP, client: CHAP, password: "secret", proto: protoCHAP},
		"both directions":   {password: "secret", mutual: true, proto: protoCHAP},
		"both with PAP":     {server: PAP, client: PAP, password: "secret", mutual: true, proto: protoPAP},
		"wrong with CHAP":   {password: "wrong", fails: "the peer rejects our user name or password"},
		"wrong with PAP":    {server: PAP, password: "wrong", fails: "the peer rejects our user name or password"},
		"no common method":  {server: CHAP, client: PAP, password: "secret", fails: "the peer has terminated the link"},
		"no user":           {fails: "the peer requires authentication, but Config.User is empty"},
		"an empty password": {user: "joe", fails: "the peer rejects our user name or password"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := serverConfig(), clientConfig()
				server.Authenticate, server.Methods, client.Methods = users, c.server, c.client
				client.User, client.Password = c.user, c.password
				if c.password != "" {
					client.User = "joe"
				}
				if c.mutual {
					server.User, server.Password, client.Authenticate = "isp", "other", users
				}
				x, y := connect(t, newCable(0), server, client)
				time.Sleep(9 * time.Second)
				if c.fails == "" {
					require.True(t, y.Link().Up, "%v", y.LinkErr())
					require.Equal(t, "joe", x.Peer())
					y.Device.mu.Lock()
					require.Equal(t, c.proto, y.m.local.proto)
					y.Device.mu.Unlock()
					if c.mutual {
						require.Equal(t, "isp", y.Peer())
					}
				} else {
					require.False(t, y.Link().Up)
					require.Nil(t, x.negotiated().Addrs)
					err := y.Err()
					if err == nil {
						err = y.LinkErr()
					}
					require.ErrorContains(t, err, c.fails)
					require.Contains(t, x.logged(), "PPP link not established")
				}
				x.Close()
				y.Close()
			})
		})
	}
}

// A wrong password ends the device: the host learns it, and nothing is tried again.
func TestWrongPasswordEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := serverConfig(), clientConfig()
		server.Authenticate = func(string) (string, bool) { return "secret", true }
		client.User, client.Password = "joe", "guess"
		x, y := connect(t, newCable(0), server, client)
		time.Sleep(10 * time.Second)
		require.ErrorContains(t, y.failure(), "ppp: client: the peer rejects our user name or password")
		_, err := y.Send([]nic.Frame{{Head: packet4(20)}})
		require.Equal(t, y.failure(), err)
		require.NoError(t, y.Close())
		require.NoError(t, x.Close())
	})
}

// Each end refuses something. The rest works, and the log says what does not.
func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(server, client *Config)
		up4, up6 bool
		log      string // of the client
		fatal    string // the error that ends the client's device
	}{
		"the peer has no IPv6":  {change: func(s, c *Config) { s.NoIPv6 = true }, up4: true, log: `family=IPv6 reason="the peer does not support the protocol"`},
		"the peer has no IPv4":  {change: func(s, c *Config) { s.NoIPv4 = true }, up6: true, log: `family=IPv4 reason="the peer does not support the protocol"`},
		"no address to assign":  {change: func(s, c *Config) { s.Remote = netip.Addr{} }, up6: true, log: `family=IPv4 reason="the peer assigns no address"`},
		"another address":       {change: func(s, c *Config) { c.Local = dns1 }, up6: true, log: `the peer refuses our address 198.51.100.1 and proposes 192.0.2.2`},
		"a small MTU":           {change: func(s, c *Config) { s.MTU = 1000 }, up4: true, log: `family=IPv6 reason="the MTU is below 1280"`},
		"nothing in common":     {change: func(s, c *Config) { s.NoIPv4, c.NoIPv6 = true, true }, fatal: "the peer refuses all network protocols"},
		"no name servers":       {change: func(s, c *Config) { s.DNS = nil }, up4: true, up6: true},
		"a name server is zero": {change: func(s, c *Config) { s.DNS = s.DNS[:1] }, up4: true, up6: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, client := serverConfig(), clientConfig()
				c.change(&server, &client)
				x, y := connect(t, newCable(0), server, client)
				time.Sleep(5 * time.Second)
				v := y.view.Load()
				require.Equal(t, c.up4, v.ipv4)
				require.Equal(t, c.up6, v.ipv6)
				require.Contains(t, y.logged(), c.log)
				if err4, err6 := y.FamilyErrs(); c.fatal == "" {
					require.Equal(t, c.up4, err4 == nil)
					require.Equal(t, c.up6, err6 == nil)
				} else {
					require.ErrorContains(t, y.Err(), c.fatal)
				}
				if name == "a small MTU" {
					require.Equal(t, 1000, y.Link().MTU)
				}
				x.Close()
				y.Close()
			})
		})
	}
}

// RFC 1661 6.4: the magic number "provides a method to detect looped-back links and other Data Link Layer
// anomalies".
func TestLoopedBackLineIsDetected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(0)
		c.loop = true
		x := open(t, c.ends[0], serverConfig())
		x.attach()
		time.Sleep(time.Minute)
		require.ErrorIs(t, x.LinkErr(), errLoopedBack)
		require.Contains(t, x.logged(), "the line is looped back")
		require.False(t, x.Link().Up)
		c.set(func() { require.Less(t, c.ends[0].frames, 500) })
		y := open(t, c.ends[1], clientConfig())
		y.attach()
		c.set(func() { c.loop = false })
		time.Sleep(time.Minute)
		require.True(t, x.Link().Up, "the loop is gone")

		c.set(func() { c.loop = true }) // Echo-Requests come back
		time.Sleep(time.Minute)
		require.ErrorIs(t, x.LinkErr(), errLoopedBack)
		x.Close()
		y.Close()
	})
}

// Both ends negotiate although the line loses, repeats and reorders frames. Packets arrive unchanged.
func TestNegotiationSurvivesABadLine(t *testing.T) {
	for _, bad := range []float64{0.05, 0.2, 0.35} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				users := func(string) (string, bool) { return "secret", true }
				server, client := serverConfig(), clientConfig()
				server.Authenticate, client.Authenticate = users, users
				server.User, server.Password, client.User, client.Password = "isp", "secret", "joe", "secret"
				c := newCable(bad)
				x, y := connect(t, c, server, client)
				both(x, y, 10*time.Minute)
				require.True(t, x.view.Load().ipv4 && y.view.Load().ipv4 && x.view.Load().ipv6 && y.view.Load().ipv6,
					"x: %v\n%s\ny: %v\n%s", x.LinkErr(), x.logged(), y.LinkErr(), y.logged())
				require.Equal(t, addrB, y.negotiated().Addrs[0].Addr())
				for range 100 {
					_, err := y.Send([]nic.Frame{{Head: packet4(100)}})
					require.NoError(t, err)
				}
				time.Sleep(time.Second)
				require.NotEmpty(t, x.packets())
				for _, p := range x.packets() {
					require.Equal(t, packet4(100), p)
				}
				x.Close()
				y.Close()
			})
		})
	}
}

// A peer that vanishes is noticed by Echo-Requests, and the link is negotiated again when it is back. The
// addresses stay meanwhile.
func TestLostLinkIsNegotiatedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(0)
		x, y := connect(t, c, serverConfig(), clientConfig())
		time.Sleep(time.Minute)
		require.True(t, y.Link().Up)
		c.set(func() { c.cut = true })
		time.Sleep(3 * time.Minute)
		require.False(t, x.Link().Up)
		require.False(t, y.Link().Up)
		require.ErrorIs(t, y.LinkErr(), errNoAnswer)
		require.Contains(t, y.logged(), `msg="PPP link down" nic=client reason="the peer no longer answers Echo-Requests"`)
		require.Equal(t, addrB, y.negotiated().Addrs[0].Addr())
		_, err := y.Send([]nic.Frame{{Head: packet4(20)}})
		require.NoError(t, err)
		require.Equal(t, uint64(1), y.Stats().SendDropped)
		time.Sleep(24 * time.Hour)
		require.Less(t, len(y.logged()), 4000, "the log has only changes")
		c.set(func() { c.cut = false })
		time.Sleep(2 * time.Minute)
		require.True(t, x.Link().Up)
		require.True(t, y.Link().Up)
		x.Close()
		y.Close()
	})
}

// A line that fails ends the device. Blocked calls end, too.
func TestFailedLineEndsTheDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCable(0)
		x, y := connect(t, c, serverConfig(), clientConfig())
		time.Sleep(time.Second)
		gone := errors.New("the modem is gone")
		c.ends[1].fail(gone)
		time.Sleep(time.Second)
		require.ErrorIs(t, y.failure(), gone)
		require.ErrorIs(t, y.Err(), gone)
		require.EqualError(t, y.Err(), "ppp: client: the modem is gone")
		require.False(t, y.Link().Up)
		require.NoError(t, y.Close())
		require.NoError(t, x.Close())
	})
}

// Close returns although nobody reads from the line.
func TestCloseOfAStuckLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe() // a Write waits for a Read
		x := open(t, a, serverConfig())
		x.attach()
		time.Sleep(time.Minute)
		begin := time.Now()
		require.NoError(t, x.Close())
		require.LessOrEqual(t, time.Since(begin), time.Second)
		b.Close()
	})
}

func TestConfigErrors(t *testing.T) {
	for want, cfg := range map[string]Config{
		"the MTU of 20 is not from 128 to 16384":                 {MTU: 20},
		"both NoIPv4 and NoIPv6 are set":                         {NoIPv4: true, NoIPv6: true},
		"the MTU of 1000 is too small for IPv6":                  {NoIPv4: true, MTU: 1000},
		"2001:db8::1 is not an IPv4 address of a host":           {Local: netip.MustParseAddr("2001:db8::1")},
		"224.0.0.1 is not an IPv4 address of a host":             {Remote: netip.MustParseAddr("224.0.0.1")},
		"both ends have the address 192.0.2.1":                   {Local: addrA, Remote: addrA},
		"DNS has more than two name servers":                     {DNS: []netip.Addr{dns1, dns2, addrA}},
		"the user name or the password is longer than 255 bytes": {User: string(make([]byte, 256))},
		"Methods has an unknown method":                          {Methods: 8},
		"InterfaceID and RemoteInterfaceID are equal":            {InterfaceID: 1, RemoteInterfaceID: 1},
	} {
		_, err := New(newCable(0).ends[0], cfg)
		require.EqualError(t, err, "ppp: "+want+": invalid argument")
	}
}
