package wireguard

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/conn/bindtest"
	"golang.zx2c4.com/wireguard/device"

	"github.com/usernet/usernet/internal/leak"
	"github.com/usernet/usernet/nic"
)

// patience is the time after which a test that hangs fails. It is not a requirement for speed.
const patience = time.Minute

// newKey returns a private key and its public key.
func newKey(t testing.TB) (private, public Key) {
	t.Helper()
	k, err := ecdh.X25519().GenerateKey(rand.Reader)
	require.NoError(t, err)
	return Key(k.Bytes()), Key(k.PublicKey().Bytes())
}

// newDevice returns a WireGuard device that is down.
func newDevice(t testing.TB) *device.Device {
	t.Helper()
	dev := device.NewDevice(NewTUN(nic.NewTunnel(nic.TunnelConfig{})), conn.NewDefaultBind(), logger(nil))
	t.Cleanup(dev.Close)
	return dev
}

// The addresses of the two ends of a tunnel.
var (
	addrs4 = [2]string{"192.0.2.1", "192.0.2.2"}
	addrs6 = [2]string{"2001:db8::1", "2001:db8::2"}
)

// configs returns the configurations of the two ends of a tunnel. Only the second end knows the address of the other
// end, so the second end has to send first.
func configs(t testing.TB, endpoint string) (cfgs [2]Config) {
	t.Helper()
	var public [2]Key
	for i := range cfgs {
		cfgs[i].PrivateKey, public[i] = newKey(t)
		cfgs[i].Addresses = []netip.Prefix{
			netip.PrefixFrom(netip.MustParseAddr(addrs4[i]), 24),
			netip.PrefixFrom(netip.MustParseAddr(addrs6[i]), 64),
		}
	}
	var shared Key
	rand.Read(shared[:])
	for i := range cfgs {
		cfgs[i].Peers = []Peer{{
			PublicKey:    public[1-i],
			PresharedKey: shared,
			AllowedIPs: []netip.Prefix{
				netip.PrefixFrom(netip.MustParseAddr(addrs4[1-i]), 32),
				netip.PrefixFrom(netip.MustParseAddr(addrs6[1-i]), 128),
			},
		}}
	}
	cfgs[1].Peers[0].Endpoint = endpoint
	return cfgs
}

// open opens an interface, which is closed at the end of the test.
func open(t testing.TB, cfg Config, o Options) *Interface {
	t.Helper()
	wg, err := OpenWith(t.Context(), cfg, o)
	require.NoError(t, err)
	t.Cleanup(func() { wg.Close() })
	return wg
}

// pair returns two interfaces that are connected over the kernel's loopback. loss is the fraction of the encrypted
// packets that is lost.
func pair(t testing.TB, loss float64) (a, b *Interface) {
	t.Helper()
	bind := func() conn.Bind {
		if loss == 0 {
			return nil
		}
		return &lossyBind{Bind: conn.NewDefaultBind(), loss: loss}
	}
	cfgs := configs(t, "")
	a = open(t, cfgs[0], Options{Bind: bind()})
	port, err := a.ListenPort()
	require.NoError(t, err)
	require.NotZero(t, port)
	cfgs[1].Peers[0].Endpoint = fmt.Sprintf("127.0.0.1:%d", port)
	return a, open(t, cfgs[1], Options{Bind: bind()})
}

// A lossyBind loses some of the packets that are sent.
type lossyBind struct {
	conn.Bind
	loss float64
}

func (b *lossyBind) Send(bufs [][]byte, ep conn.Endpoint) error {
	var kept [][]byte
	for _, buf := range bufs {
		var r [2]byte
		rand.Read(r[:])
		if float64(r[0])+float64(r[1])/256 >= b.loss*256 {
			kept = append(kept, buf)
		}
	}
	if len(kept) == 0 {
		return nil
	}
	return b.Bind.Send(kept, ep)
}

// content returns n bytes that do not repeat.
func content(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// requireEcho checks that a server sends back what it got, over HTTP.
func requireEcho(t testing.TB, dial func(ctx context.Context, network, addr string) (net.Conn, error), addr string, size int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: patience}
	defer client.CloseIdleConnections()
	want := content(size)
	resp, err := client.Post("http://"+net.JoinHostPort(addr, "80")+"/", "application/octet-stream", bytes.NewReader(want))
	require.NoError(t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, sha256.Sum256(want), sha256.Sum256(got))
}

// serveEcho serves HTTP on port 80: each request is answered with its own body.
func serveEcho(t testing.TB, h interface {
	Listen(network, addr string) (net.Listener, error)
}) {
	t.Helper()
	ln, err := h.Listen("tcp", ":80")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(body)
	}))
}

func TestHTTPRunsThroughTheTunnel(t *testing.T) {
	for _, loss := range []float64{0, 0.02} {
		t.Run(fmt.Sprint(loss), func(t *testing.T) {
			a, b := pair(t, loss)
			serveEcho(t, a)
			for _, addr := range []string{addrs4[0], addrs6[0]} {
				requireEcho(t, b.DialContext, addr, 2<<20)
			}
			// Also in the other direction: the first end has learned the address of the second.
			serveEcho(t, b)
			for _, addr := range []string{addrs4[1], addrs6[1]} {
				requireEcho(t, a.DialContext, addr, 2<<20)
			}
			peers, err := a.Peers()
			require.NoError(t, err)
			require.Len(t, peers, 1)
			require.False(t, peers[0].LastHandshake.IsZero())
			require.Greater(t, peers[0].Received, uint64(4<<20))
			require.Greater(t, peers[0].Sent, uint64(4<<20))
			require.True(t, peers[0].Endpoint.Addr().IsLoopback())
			st := b.Stats().NICs
			require.Equal(t, "wg0", st[len(st)-1].Name)
		})
	}
}

func TestPeersAreAddedAndRemovedWhileItRuns(t *testing.T) {
	cfgs := configs(t, "")
	a := open(t, cfgs[0], Options{})
	port, err := a.ListenPort()
	require.NoError(t, err)
	peer := cfgs[1].Peers[0]
	cfgs[1].Peers = nil
	b := open(t, cfgs[1], Options{})
	serveEcho(t, a)
	_, err = b.DialTimeout("tcp", "198.51.100.1:80", patience)
	require.ErrorContains(t, err, "network is unreachable")

	peer.Endpoint = fmt.Sprintf("127.0.0.1:%d", port)
	require.NoError(t, b.AddPeer(t.Context(), peer))
	requireEcho(t, b.DialContext, addrs4[0], 1000)
	require.NoError(t, b.RemovePeer(peer.PublicKey))
	peers, err := b.Peers()
	require.NoError(t, err)
	require.Empty(t, peers)
	require.NoError(t, b.AddPeer(t.Context(), peer)) // its routes are still there
	requireEcho(t, b.DialContext, addrs4[0], 1000)
	require.ErrorContains(t, b.AddPeer(t.Context(), Peer{}), "a peer has no public key")
}

func TestTheHostLearnsThatTheTunnelEnded(t *testing.T) {
	a, _ := pair(t, 0)
	ln, err := a.Listen("tcp", ":80")
	require.NoError(t, err)
	defer ln.Close()
	a.dev.Close()
	select {
	case <-a.Done():
	case <-time.After(patience):
		t.Fatal("the host did not learn that the tunnel ended")
	}
	require.ErrorIs(t, a.Err(), os.ErrClosed)
	require.NoError(t, a.Close())
}

// The interface goes down and comes up a thousand times. The tunnel works afterwards.
func TestAnInterfaceFlapsAThousandTimes(t *testing.T) {
	a, b := pair(t, 0)
	serveEcho(t, a)
	requireEcho(t, b.DialContext, addrs4[0], 1000)
	goroutines, bytes := leak.Growth(1000, func() {
		require.NoError(t, b.dev.Down())
		require.NoError(t, b.dev.Up())
	})
	require.LessOrEqual(t, goroutines, 0)
	require.Less(t, bytes, int64(1<<20), "bytes: a kilobyte for each flap would be more")
	for _, addr := range []string{addrs4[0], addrs6[0]} {
		requireEcho(t, b.DialContext, addr, 1<<20)
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	private, public := newKey(t)
	for want, change := range map[string]func(c *Config){
		"there is no private key":  func(c *Config) { c.PrivateKey = Key{} },
		"a peer has no public key": func(c *Config) { c.Peers[0].PublicKey = Key{} },
		"at most 65535 s":          func(c *Config) { c.Peers[0].Keepalive = 65536 * time.Second },
		"endpoint of peer":         func(c *Config) { c.Peers[0].Endpoint = "127.0.0.1" },
		"MTU":                      func(c *Config) { c.MTU = 20 },
	} {
		cfg := Config{PrivateKey: private, Peers: []Peer{{PublicKey: public}}}
		change(&cfg)
		_, err := Open(t.Context(), cfg)
		require.ErrorContains(t, err, want)
	}

	a := open(t, Config{PrivateKey: private}, Options{})
	port, err := a.ListenPort()
	require.NoError(t, err)
	_, err = Open(t.Context(), Config{PrivateKey: private, ListenPort: port})
	require.ErrorIs(t, err, syscall.EADDRINUSE)
}

// TestCreateNetTUNIsThatOfNetstack runs the example of package netstack.
func TestCreateNetTUNIsThatOfNetstack(t *testing.T) {
	cfgs := configs(t, "127.0.0.1:2") // the port that bindtest gives to the other end
	binds := bindtest.NewChannelBinds()
	var nets [2]*Net
	for i := range nets {
		dev, n, err := CreateNetTUN([]netip.Addr{netip.MustParseAddr(addrs4[i]), netip.MustParseAddr(addrs6[i])}, nil, 1420)
		require.NoError(t, err)
		wg := device.NewDevice(dev, binds[i], logger(nil))
		defer wg.Close()
		ipc, err := cfgs[i].ipc(t.Context())
		require.NoError(t, err)
		require.NoError(t, wg.IpcSet(ipc))
		require.NoError(t, wg.Up())
		nets[i] = n
	}
	a, b := nets[0], nets[1]
	serveEcho(t, a.Host())
	for _, addr := range []string{addrs4[0], addrs6[0]} {
		requireEcho(t, b.DialContext, addr, 1<<20)

		u, err := a.ListenUDPAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), 7))
		require.NoError(t, err)
		defer u.Close()
		go func() {
			buf := make([]byte, 100)
			if n, from, err := u.ReadFrom(buf); err == nil {
				u.WriteTo(buf[:n], from)
			}
		}()
		c, err := b.Dial("udp", net.JoinHostPort(addr, "7"))
		require.NoError(t, err)
		defer c.Close()
		c.SetDeadline(time.Now().Add(patience))
		c.Write([]byte("hello"))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "hello", string(buf[:n]))
		requirePing(t, b, addr)
	}
	addrs, err := b.LookupHost("localhost")
	require.NoError(t, err)
	require.NotEmpty(t, addrs)
}

// requirePing sends an echo request on a ping socket and checks the reply.
func requirePing(t *testing.T, n *Net, addr string) {
	t.Helper()
	c, err := n.Dial("ping", addr)
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.SetDeadline(time.Now().Add(patience)))
	request, reply := byte(8), byte(0)
	if netip.MustParseAddr(addr).Is6() {
		request, reply = 128, 129
	}
	for _, noAddr := range []net.Addr{nil, (*PingAddr)(nil)} {
		_, err := c.(*PingConn).WriteTo([]byte{request, 0, 0, 0, 0, 0, 0, 3}, noAddr)
		require.ErrorIs(t, err, syscall.EINVAL)
	}
	_, err = c.Write([]byte{request, 0, 0, 0, 0, 0, 0, 3, 'x', 'y'})
	require.NoError(t, err)
	buf := make([]byte, 100)
	got, err := c.Read(buf)
	require.NoError(t, err)
	require.Equal(t, 10, got)
	require.Equal(t, reply, buf[0])
	require.Equal(t, []byte{0, 3, 'x', 'y'}, buf[6:10])
	require.Equal(t, addr, c.RemoteAddr().String())
	_, err = c.Write([]byte("no request"))
	require.Error(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now()))
	_, err = c.Read(buf)
	var timeout net.Error
	require.True(t, errors.As(err, &timeout) && timeout.Timeout())
}

func Example() {
	// Both ends run the same program, with different keys and addresses.
	ctx := context.Background()
	server, err := Open(ctx, Config{
		PrivateKey: mustKey("GIF6nZ2mbPDPIWX2y5xB8cYUa1rDkGG0h7Q6rnA5WHk="),
		Addresses:  []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")},
		Peers: []Peer{{
			PublicKey:  mustKey("PTSJhQyKLCSbUJrOdkjx6CTIN4LkNjRBn6/1GZ5b/QE="),
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("192.0.2.2/32")},
		}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	ln, err := server.Listen("tcp", ":80")
	fmt.Println(ln.Addr(), err)
	// Output: [::]:80 <nil>
}

func mustKey(s string) Key {
	k, err := ParseKey(s)
	if err != nil {
		panic(err)
	}
	return k
}
