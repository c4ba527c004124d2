package contract

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/rpc"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/internal/world"
)

// programBehaviours returns the behaviours on which popular code relies.
func programBehaviours() []behaviour {
	return []behaviour{
		{"a server's background read is ended by a past deadline, as net/http does", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			got := after(func() error { return readErr(s) })
			require.NoError(t, s.SetReadDeadline(time.Unix(1, 0)))
			err := <-got
			ne, isNet := err.(net.Error)
			oe, isOp := err.(*net.OpError)
			require.NoError(t, s.SetReadDeadline(time.Time{}))
			return []any{isNet && ne.Timeout(), isOp && oe.Op == "read", errors.Is(err, os.ErrDeadlineExceeded), writeErr(c), readErr(s)}
		}, "<nil>"},
		{"a proxy that copies both ways and passes the ends on", func(t *testing.T, w *world.World) []any {
			a, b := w.Pair(t)
			c, s := w.Pair(t)
			done := make(chan error, 2)
			relay := func(to, from world.TCPConn) {
				_, err := io.Copy(to, from)
				to.CloseWrite()
				from.CloseRead()
				done <- err
			}
			go relay(c, b)
			go relay(b, c)
			seen := append(write(a, "request"), a.CloseWrite())
			seen = append(seen, all(s)...)
			seen = append(append(seen, write(s, "response")...), s.CloseWrite())
			seen = append(seen, all(a)...)
			return append(seen, <-done, <-done)
		}, "<nil>"},
		{"an http.Client that is refused", func(t *testing.T, w *world.World) []any {
			_, err := client1(w).Get("http://" + world.FreePort(t, w))
			return []any{errors.Unwrap(err)}
		}, "connect: connection refused"},
		{"an http.Client whose timeout passes", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			client := client1(w)
			client.Timeout = 300 * time.Millisecond
			_, err := client.Get("http://" + ln.Addr().String())
			var ne net.Error
			return []any{errors.As(err, &ne) && ne.Timeout(), errors.Is(err, context.DeadlineExceeded), err.Error()}
		}, `(Client.Timeout exceeded while awaiting headers)"`},
		{"an http.Client whose server closes", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			go hosttest.Serve(ln, func(c net.Conn) {
				bufio.NewReader(c).ReadString('\n')
				c.(world.TCPConn).CloseWrite()
				io.Copy(io.Discard, c)
				c.Close()
			})
			client := client1(w)
			_, err := client.Post("http://"+ln.Addr().String(), "text/plain", strings.NewReader("x"))
			return []any{errors.Is(err, io.EOF), errors.Unwrap(err)}
		}, "EOF"},
		{"an http.Client whose server resets", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			go hosttest.Serve(ln, func(c net.Conn) {
				bufio.NewReader(c).ReadString('\n')
				c.(world.TCPConn).SetLinger(0)
				c.Close()
			})
			_, err := client1(w).Get("http://" + ln.Addr().String())
			return []any{errors.Unwrap(err)}
		}, "connection reset by peer"},
		{"an http.Server knows both ends, and its client's end", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			gone := make(chan error, 1)
			remote := make(chan string, 1)
			srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				_, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
				remote <- plain(w, fmt.Sprint(r.RemoteAddr, " ", ok))
				<-r.Context().Done()
				gone <- r.Context().Err()
			})}
			defer srv.Close()
			go srv.Serve(ln)
			c := w.Connect(t, ln)
			require.NoError(t, writeAll(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
			seen := []any{<-remote}
			require.NoError(t, c.Close())
			return append(seen, <-gone)
		}, "context canceled"},
		{"an http.Server is shut down while a client is idle", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			srv := &http.Server{Handler: http.NotFoundHandler()}
			served := make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			client := client1(w)
			client.Transport.(*http.Transport).DisableKeepAlives = false
			resp, err := client.Get("http://" + ln.Addr().String())
			require.NoError(t, err)
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			err = srv.Shutdown(context.Background())
			_, refused := client.Get("http://" + ln.Addr().String())
			return []any{resp.StatusCode, err, <-served, errors.Unwrap(refused)}
		}, "connect: connection refused"},
		{"a server on a closed listener", func(t *testing.T, w *world.World) []any {
			ln := w.Listener(t)
			require.NoError(t, ln.Close())
			return []any{http.Serve(ln, nil)}
		}, "use of closed network connection"},
		{"TLS, and its end", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			certificate := selfSigned(t)
			server := tls.Server(s, &tls.Config{Certificates: []tls.Certificate{certificate}})
			client := tls.Client(c, &tls.Config{InsecureSkipVerify: true})
			served := make(chan []any, 1)
			go func() { served <- append(all(server), server.Close()) }()
			seen := []any{client.Handshake(), writeAll(client, "in secret"), client.CloseWrite()}
			seen = append(seen, <-served...)
			return append(seen, readErr(client), client.Close(), readErr(client))
		}, "EOF"},
		{"TLS with a server that does not speak it", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			go func() {
				bufio.NewReader(s).ReadByte()
				s.SetLinger(0)
				s.Close()
			}()
			return []any{tls.Client(c, &tls.Config{InsecureSkipVerify: true}).Handshake()}
		}, "connection reset by peer"},
		{"calls of net/rpc", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			srv := rpc.NewServer()
			require.NoError(t, srv.RegisterName("Upper", upper{}))
			go srv.ServeConn(s)
			client := rpc.NewClient(c)
			var reply string
			err := client.Call("Upper.Case", "quiet", &reply)
			unknown := client.Call("Upper.None", "quiet", &reply)
			return []any{err, reply, unknown.Error(), client.Close(), client.Call("Upper.Case", "quiet", &reply)}
		}, "connection is shut down"},
		{"whether connections are a net.PacketConn, by which net.Resolver chooses the framing", func(t *testing.T, w *world.World) []any {
			c, s := w.UdpPair(t)
			stream, _ := w.Pair(t)
			var seen []any
			for _, conn := range []net.Conn{c, s, stream} {
				_, ok := conn.(net.PacketConn)
				seen = append(seen, ok)
			}
			return seen
		}, "false"},
		{"the concrete types of addresses, which programs assert without a check", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			u, p := w.UdpPair(t)
			return []any{
				c.LocalAddr().(*net.TCPAddr).Port == s.RemoteAddr().(*net.TCPAddr).Port,
				u.LocalAddr().(*net.UDPAddr).IP.String() == w.Client, p.LocalAddr().(*net.UDPAddr).IP.To4() != nil,
				c.RemoteAddr().(*net.TCPAddr).IP.Equal(net.ParseIP(w.Server)), c.LocalAddr().(*net.TCPAddr).Zone == "",
			}
		}, "true"},
		{"a bufio.Scanner reads lines until a reset", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			require.NoError(t, writeAll(s, "one\ntwo\nthr"))
			world.Settle()
			reset(t, s)
			scan := bufio.NewScanner(c)
			var seen []any
			for scan.Scan() {
				seen = append(seen, scan.Text())
			}
			return append(seen, scan.Err())
		}, "connection reset by peer"},
		{"errors of both ends after a reset in the middle of a transfer", func(t *testing.T, w *world.World) []any {
			c, s := w.Pair(t)
			data := make([]byte, 64<<20)
			got := after(func() error {
				_, err := c.Write(data)
				return err
			})
			require.NoError(t, readErr(s), "it has begun")
			time.Sleep(50 * time.Millisecond)
			require.NoError(t, s.SetLinger(0))
			return []any{s.Close(), <-got, writeErr(c), readErr(s)}
		}, "use of closed network connection"},
		{"the methods that return a descriptor", func(t *testing.T, w *world.World) []any {
			c, _ := w.Pair(t)
			u := w.Packets(t)
			var has []bool
			for _, v := range []any{c, u, w.Listener(t)} {
				_, raw := v.(interface {
					SyscallConn() (syscall.RawConn, error)
				})
				_, file := v.(interface{ File() (*os.File, error) })
				has = append(has, raw, file)
			}
			// Whether a method is missing, and whether one is there.
			return []any{slices.Contains(has, false), slices.Contains(has, true)}
		}, "true"},
	}
}

// client1 returns an HTTP/1 client in a World. It uses each connection once.
func client1(w *world.World) *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.Dial(ctx, world.DialOptions{}, network, address)
		},
	}}
}

// selfSigned makes a certificate that no client trusts.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

type upper struct{}

func (upper) Case(in string, out *string) error {
	*out = strings.ToUpper(in)
	return nil
}
