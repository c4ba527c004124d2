package ppp

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// An isp is a PPPoE server that assigns 192.0.2.100 plus the session ID to its clients.
type isp struct {
	*Server
	t *testing.T
}

func newISP(t *testing.T, dev nic.Device, cfg ServerConfig) *isp {
	t.Helper()
	if cfg.Session == nil {
		cfg.Session = func(s Session) (Config, error) {
			return Config{Local: addrA, Remote: netip.AddrFrom4([4]byte{192, 0, 2, 100 + byte(s.ID)}), DNS: []netip.Addr{dns1}}, nil
		}
	}
	s, err := NewServer(dev, cfg)
	require.NoError(t, err)
	return &isp{s, t}
}

// accept accepts a session and attaches to its device.
func (s *isp) accept() *end {
	s.t.Helper()
	d, err := s.Accept()
	require.NoError(s.t, err)
	e := new(end)
	e.watch(d)
	e.attach()
	return e
}

// subscribe attaches a client.
func subscribe(t *testing.T, dev nic.Device, cfg ClientConfig) *end {
	t.Helper()
	e := new(end)
	if cfg.Logger == nil {
		cfg.Logger = newLogger(e)
	}
	cfg.Name = "client"
	d, err := NewClient(dev, cfg)
	require.NoError(t, err)
	e.watch(d)
	e.attach()
	return e
}

// slowPipe returns the ends of an Ethernet with a latency, so that no delivery is nested in another.
func slowPipe(cfg nic.PipeConfig, bad float64) (a, b *nic.Impaired) {
	x, y := nic.Pipe(cfg)
	imp := nic.Impairment{Latency: time.Millisecond, Loss: bad, Duplicate: bad, Reorder: bad, ReorderGap: 10 * time.Millisecond}
	return nic.Impair(x, nic.ImpairConfig{Out: imp, Seed: 1}), nic.Impair(y, nic.ImpairConfig{Out: imp, Seed: 2})
}

func TestPPPoEClientGetsASession(t *testing.T) {
	for name, direct := range map[string]bool{"direct": true, "with latency": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var a, b nic.Device
				if direct {
					a, b = nic.Pipe(nic.PipeConfig{})
				} else {
					a, b = slowPipe(nic.PipeConfig{}, 0)
				}
				s := newISP(t, a, ServerConfig{Name: "ac", Services: []string{"internet", "tv"}})
				y := subscribe(t, b, ClientConfig{Service: "tv", ACName: "ac", Config: Config{DefaultRoute: true}})
				x := s.accept()
				time.Sleep(100 * time.Millisecond)
				require.True(t, y.Link().Up, "within 100 ms: %v", y.LinkErr())
				require.True(t, x.Link().Up)
				require.Equal(t, 1492, y.Link().MTU)
				require.Equal(t, 1492, x.Link().MTU)
				require.Equal(t, "192.0.2.101/32", y.negotiated().Addrs[0].String())
				require.True(t, nic.IsNonblocking(y.Device))

				frames := []nic.Frame{{Head: packet4(20), Body: make([]byte, 1472)}, {Head: packet4(1493)}, {Head: packet4(20)}}
				n, err := y.Send(frames)
				require.NoError(t, err)
				require.Equal(t, 3, n)
				time.Sleep(time.Second)
				require.Equal(t, [][]byte{packet4(1492), packet4(20)}, x.packets(), "padding is removed")
				require.Equal(t, uint64(1), y.Stats().SendDropped)

				require.NoError(t, y.Close())
				time.Sleep(2 * restartTime) // the PADT may be lost with the Ethernet; the Terminate-Request is not
				require.Error(t, x.failure())
				require.Zero(t, s.Sessions())
				require.NoError(t, x.Close())
				require.NoError(t, s.Close())
				_, err = s.Accept()
				require.Equal(t, net.ErrClosed, err)
			})
		})
	}
}

// RFC 4638: with PPP-Max-Payload, both ends use packets of 1500 bytes on frames of 1508.
func TestPPPoEWithLargeFrames(t *testing.T) {
	for _, room := range []int{1508, 1500} { // payload of the server's frames
		synctest.Test(t, func(t *testing.T) {
			a, b := slowPipe(nic.PipeConfig{MTU: 1508}, 0)
			s := newISP(t, a, ServerConfig{})
			s.disc.payload = room - 8
			y := subscribe(t, b, ClientConfig{Config: Config{MTU: 1500}})
			x := s.accept()
			time.Sleep(time.Second)
			require.Equal(t, room-8, y.Link().MTU)
			require.Equal(t, room-8, x.Link().MTU)
			y.Close()
			x.Close()
			s.Close()
		})
	}
}

// If a client cannot get what it asks for, the error says why.
func TestPPPoERefusals(t *testing.T) {
	for name, c := range map[string]struct {
		server ServerConfig
		client ClientConfig
		want   string
	}{
		"no such service": {ServerConfig{Services: []string{"tv"}}, ClientConfig{Service: "phone"}, "no access concentrator answers"},
		"no such name":    {ServerConfig{Name: "a"}, ClientConfig{ACName: "b"}, "no access concentrator answers"},
		"a refused session": {ServerConfig{Session: func(Session) (Config, error) { return Config{}, errors.New("you have not paid") }},
			ClientConfig{}, `the access concentrator cannot serve us: "you have not paid"`},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := slowPipe(nic.PipeConfig{}, 0)
				s := newISP(t, a, c.server)
				y := subscribe(t, b, c.client)
				time.Sleep(time.Minute)
				require.False(t, y.Link().Up)
				require.ErrorContains(t, y.LinkErr(), c.want)
				require.Contains(t, y.logged(), "PPP link not established")
				require.Less(t, len(y.logged()), 500)
				require.Zero(t, s.Sessions())
				y.Close()
				s.Close()
			})
		})
	}
}

// A wrong password ends the client's device.
func TestPPPoEWithAWrongPassword(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := slowPipe(nic.PipeConfig{}, 0)
		s := newISP(t, a, ServerConfig{Session: func(Session) (Config, error) {
			return Config{Local: addrA, Remote: addrB, Authenticate: func(string) (string, bool) { return "secret", true }}, nil
		}})
		y := subscribe(t, b, ClientConfig{Config: Config{User: "joe", Password: "guess"}})
		x := s.accept()
		time.Sleep(20 * time.Second)
		require.ErrorContains(t, y.failure(), "the peer rejects our user name or password")
		require.ErrorContains(t, x.failure(), `the user name or password of the peer, "joe", is wrong`)
		require.Zero(t, s.Sessions())
		y.Close()
		x.Close()
		s.Close()
	})
}

// Clients get their sessions although frames are lost, repeated and reordered. A session that either end
// loses is replaced. Nothing is left behind after many sessions.
func TestPPPoESurvivesABadEthernet(t *testing.T) {
	for _, bad := range []float64{0, 0.1, 0.3} {
		t.Run(fmt.Sprint(bad), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := slowPipe(nic.PipeConfig{}, bad)
				s := newISP(t, a, ServerConfig{})
				go func() { // serves each session until it ends
					for {
						d, err := s.Accept()
						if err != nil {
							return
						}
						d.NotifyDown(func(error) { d.Close() })
						d.Attach(func([]nic.Frame) {})
					}
				}()
				y := subscribe(t, b, ClientConfig{})
				rounds := 200
				if bad > 0 {
					rounds = 5
				}
				for n := range rounds {
					for end := time.Now().Add(20 * time.Minute); !y.view.Load().ipv4 && time.Now().Before(end); {
						time.Sleep(10 * time.Millisecond)
					}
					require.True(t, y.view.Load().ipv4, "round %d: %v\n%s", n, y.LinkErr(), y.logged())
					s.mu.Lock()
					lines := s.list()
					s.mu.Unlock()
					for _, l := range lines {
						l.dev.step(func(time.Time) { l.dev.m.end(errNoEcho) }) // sends a PADT
					}
					for end := time.Now().Add(20 * time.Minute); y.Link().Up && time.Now().Before(end); {
						time.Sleep(time.Millisecond)
					}
				}
				require.NoError(t, y.Close())
				time.Sleep(10 * time.Minute)
				require.Zero(t, s.Sessions(), "Echo-Requests end the sessions that the client has not ended")
				s.mu.Lock()
				require.Empty(t, s.disc.sessions)
				s.mu.Unlock()
				require.NoError(t, s.Close())
			})
		})
	}
}

// The Ethernet fails: client and server learn it, and blocked calls end.
func TestPPPoEEthernetFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := net.Pipe()
		link := nic.Link{Name: "eth", MTU: 1500}
		s := newISP(t, nic.FromReadWriter(p, link), ServerConfig{})
		y := subscribe(t, nic.FromReadWriter(q, link), ClientConfig{})
		x := s.accept()
		time.Sleep(time.Second)
		require.True(t, y.Link().Up && x.Link().Up)
		q.Close()
		time.Sleep(time.Second)
		require.ErrorContains(t, y.failure(), "eth")
		require.Error(t, x.failure())
		_, err := s.Accept()
		require.Error(t, err)
		y.Close()
		x.Close()
		s.Close()
	})
}

// A slowEthernet is an Ethernet whose Send takes 20 ms. It records the frames that were sent before Close.
type slowEthernet struct {
	nic.Device
	mu     sync.Mutex
	sent   [][]byte
	silent bool // nothing arrives at the other end
	closed bool
}

func (e *slowEthernet) Send(batch []nic.Frame) (int, error) {
	time.Sleep(20 * time.Millisecond)
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return 0, net.ErrClosed
	}
	for i := range batch {
		e.sent = append(e.sent, batch[i].AppendTo(nil))
	}
	silent := e.silent
	e.mu.Unlock()
	if silent {
		return len(batch), nil
	}
	return e.Device.Send(batch)
}

func (e *slowEthernet) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	return e.Device.Close()
}

// terminated returns how many PADTs were sent.
func (e *slowEthernet) terminated() (n int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, b := range e.sent {
		if h, ok := parsePPPoE(b); ok && h.code == codePADT {
			n++
		}
	}
	return n
}

// RFC 2516 5.5: the PADT "may be sent anytime after a session is established to indicate that a PPPoE session
// has been terminated". The Ethernet is closed after the PADT was sent, however slow it is.
func TestEthernetIsClosedAfterThePADT(t *testing.T) {
	const secret = "secret"
	for name, c := range map[string]struct {
		password string
		silent   bool
		end      func(x, y *end, s *isp)
		client   int // PADTs of the client
		server   int // PADTs of the server; 0: not checked
	}{
		"the client closes":                           {secret, false, func(_, y *end, _ *isp) { y.Close() }, 1, 0},
		"the client closes, and the server is silent": {secret, true, func(_, y *end, _ *isp) { y.Close() }, 1, 0},
		"the client fails":                            {"wrong", false, func(_, y *end, _ *isp) { time.Sleep(10 * time.Second) }, 1, 0},
		"the server closes":                           {secret, false, func(_, _ *end, s *isp) { s.Close() }, 0, 1},
		"the server closes a session, then itself":    {secret, false, func(x, _ *end, s *isp) { x.Close(); s.Close() }, 0, 1},
		"the server closes, and the client is gone":   {secret, true, func(_, _ *end, s *isp) { s.Close() }, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, q := slowPipe(nic.PipeConfig{}, 0)
				a, b := &slowEthernet{Device: p}, &slowEthernet{Device: q}
				s := newISP(t, a, ServerConfig{Session: func(Session) (Config, error) {
					return Config{Local: addrA, Remote: addrB, Authenticate: func(string) (string, bool) { return secret, true }}, nil
				}})
				y := subscribe(t, b, ClientConfig{Config: Config{User: "joe", Password: c.password}})
				x := s.accept()
				both(x, y, 2*time.Second)
				require.Equal(t, c.password == secret, y.Link().Up)
				for _, e := range []*slowEthernet{a, b} {
					e.mu.Lock()
					e.silent = c.silent
					e.mu.Unlock()
				}
				c.end(x, y, s)
				require.Equal(t, c.client, b.terminated(), "by the client")
				if c.server > 0 {
					require.Equal(t, c.server, a.terminated(), "by the server")
				}
				y.Close()
				x.Close()
				s.Close()
			})
		})
	}
}

// The number of sessions is limited, and the tables hold no more.
func TestPPPoESessionsAreLimited(t *testing.T) {
	s := &pppoeServer{mac: [6]byte{2}, name: "ac", limit: 3, payload: 1492, secret: []byte("x"), sessions: make(map[uint16]*pppoeSession)}
	begun := 0
	for i := range 10 {
		client := [6]byte{2, 1, byte(i)}
		padr := &discovery{dst: s.mac, src: client, code: codePADR, tags: []tag{{tagServiceName, nil}, {tagACCookie, s.cookie(client, 1)}, {tagHostUniq, []byte{1}}, {tagRelaySessionID, []byte{7, byte(i)}}}}
		// receive returns the answer, the session that begins, and the session that ends.
		reply, x, _ := s.receive(padr)
		require.NotNil(t, reply)
		d, ok := parseDiscovery(reply)
		require.True(t, ok)
		relay, _ := d.find(tagRelaySessionID)
		require.Equal(t, []byte{7, byte(i)}, relay, `RFC 2516 A: the receiver "MUST return the TAG unmodified"`)
		if x != nil {
			begun++
			require.Equal(t, x.id, d.session)
			again, y, _ := s.receive(padr)
			require.Equal(t, reply, again, "a repeated PADR gets the same answer")
			require.Nil(t, y)
		} else {
			require.Zero(t, d.session)
			require.ErrorContains(t, tagError(&d), "no session is free")
		}
		// A PADR without our cookie, and a PADT of another client, do nothing.
		reply, x, _ = s.receive(&discovery{dst: s.mac, src: [6]byte{2, 9}, code: codePADR, tags: padr.tags})
		require.Nil(t, reply)
		require.Nil(t, x)
		_, _, ended := s.receive(&discovery{dst: s.mac, src: [6]byte{2, 9}, code: codePADT, session: 1})
		require.Nil(t, ended)
	}
	require.Equal(t, 3, begun)
	require.Len(t, s.sessions, 3)
}

// RFC 2516 does not require a Host-Uniq. Without it, all copies of a PADR belong to one session, and a PADR
// after another offer begins another session.
func TestCopiesOfAPADRBeginOneSession(t *testing.T) {
	s := &pppoeServer{mac: [6]byte{2}, name: "ac", limit: 9, payload: 1492, secret: []byte("x"), sessions: make(map[uint16]*pppoeSession)}
	client := [6]byte{2, 1}
	for n := range 3 {
		pado, _, _ := s.receive(&discovery{dst: broadcastMAC, src: client, code: codePADI, tags: []tag{{tagServiceName, nil}}})
		offer, ok := parseDiscovery(pado)
		require.True(t, ok)
		cookie, ok := offer.find(tagACCookie)
		require.True(t, ok)
		padr := &discovery{dst: s.mac, src: client, code: codePADR, tags: []tag{{tagServiceName, nil}, {tagACCookie, cookie}}}
		first, begun, _ := s.receive(padr)
		require.NotNil(t, begun)
		for range 3 {
			again, other, _ := s.receive(padr)
			require.Equal(t, first, again)
			require.Nil(t, other)
		}
		require.Len(t, s.sessions, n+1)
	}
}

// FuzzDiscovery gives discovery frames to a client and to a server.
func FuzzDiscovery(f *testing.F) {
	server, client := [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
	add := func(code byte, to, from [6]byte, session uint16, tags ...tag) {
		d := discovery{dst: to, src: from, code: code, session: session, tags: tags}
		b := d.append(nil)
		f.Add(b, byte(0))
		f.Add(b[:len(b)-1], byte(1))
	}
	add(codePADI, broadcastMAC, client, 0, tag{tagServiceName, nil}, tag{tagHostUniq, []byte{1, 2}}, tag{tagMaxPayload, []byte{5, 0xdc}})
	add(codePADO, client, server, 0, tag{tagServiceName, nil}, tag{tagACName, []byte("ac")}, tag{tagACCookie, []byte{1}}, tag{tagRelaySessionID, []byte{2}})
	add(codePADR, server, client, 0, tag{tagServiceName, nil}, tag{tagACCookie, []byte{1}})
	add(codePADS, client, server, 7, tag{tagServiceName, nil})
	add(codePADS, client, server, 0, tag{tagServiceNameError, []byte("no")})
	add(codePADT, client, server, 7, tag{tagGenericError, []byte("bye")})
	add(codePADO, client, server, 0, tag{tagEndOfList, nil}, tag{tagACName, nil})
	f.Fuzz(func(t *testing.T, b []byte, mode byte) {
		d, ok := parseDiscovery(b)
		if !ok {
			return
		}
		again, ok := parseDiscovery(d.append(nil))
		require.True(t, ok)
		require.Equal(t, d.tags, again.tags)
		now := time.Unix(1000, 0)
		c := &pppoeClient{mac: client, rand: fuzzRand(), payload: int(mode&1) * 1500}
		s := &pppoeServer{mac: server, name: "ac", limit: 2, payload: 1500, secret: []byte("x"), sessions: make(map[uint16]*pppoeSession)}
		c.start(now)
		// The packet may come in each stage, with the right Host-Uniq or cookie.
		for range 4 {
			for i := range d.tags {
				switch {
				case mode&2 != 0 && d.tags[i].kind == tagHostUniq:
					d.tags[i].value = c.uniq[:]
				case mode&4 != 0 && d.tags[i].kind == tagACCookie:
					d.tags[i].value = s.cookie(d.src, 1)
				}
			}
			if mode&8 != 0 {
				d.dst = client
			}
			c.receive(now, &d)
			if mode&16 != 0 {
				d.dst = server
			}
			if reply, _, _ := s.receive(&d); reply != nil {
				answer, ok := parseDiscovery(reply)
				require.True(t, ok)
				require.LessOrEqual(t, len(reply), 1500)
				c.receive(now, &answer)
			}
			require.LessOrEqual(t, len(c.out), 8)
			for _, out := range c.out {
				request, ok := parseDiscovery(out)
				require.True(t, ok)
				s.receive(&request)
			}
			c.out = nil
			require.LessOrEqual(t, len(s.sessions), 2)
			now = now.Add(time.Minute)
			c.tick(now)
		}
		c.stop()
		require.Zero(t, c.deadline)
	})
}
