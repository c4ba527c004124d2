package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// A server is an SSH server on a host. It runs its own commands, and forwards connections from and
// to its host (RFC 4254 7).
type server struct {
	host   *usernet.Host
	config *ssh.ServerConfig
}

// newKey makes a key pair.
func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	require.NoError(t, err)
	return signer
}

// connect starts a server that accepts a key and connects to it.
func connect(t *testing.T, client, host *usernet.Host) *ssh.Client {
	t.Helper()
	hostKey, userKey := newKey(t), newKey(t)
	s := &server{host, &ssh.ServerConfig{
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if c.User() != "alice" || !bytes.Equal(key.Marshal(), userKey.PublicKey().Marshal()) {
				return nil, errors.New("not known")
			}
			return nil, nil
		},
	}}
	s.config.AddHostKey(hostKey)
	ln, err := host.Listen("tcp", ":ssh")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go s.serve(ln)

	const address = "server.test:22"
	raw, err := client.Dial("tcp", address)
	require.NoError(t, err)
	c, channels, requests, err := ssh.NewClientConn(raw, address, &ssh.ClientConfig{
		User:            "alice",
		Auth:            []ssh.AuthMethod{ssh.PublicKeys(userKey)},
		HostKeyCallback: ssh.FixedHostKey(hostKey.PublicKey()),
	})
	require.NoError(t, err)
	cl := ssh.NewClient(c, channels, requests)
	t.Cleanup(func() { cl.Close() })
	return cl
}

func (s *server) serve(ln net.Listener) {
	hosttest.Serve(ln, s.connection)
}

func (s *server) connection(c net.Conn) {
	conn, channels, requests, err := ssh.NewServerConn(c, s.config)
	if err != nil {
		c.Close()
		return
	}
	defer conn.Close()
	go s.requests(conn, requests)
	for ch := range channels {
		switch ch.ChannelType() {
		case "session":
			go session(ch)
		case "direct-tcpip":
			go s.direct(ch)
		default:
			ch.Reject(ssh.UnknownChannelType, "not known")
		}
	}
}

// session runs one command: "cat", which sends back its input.
func session(ch ssh.NewChannel) {
	c, requests, err := ch.Accept()
	if err != nil {
		return
	}
	for r := range requests {
		var exec struct{ Command string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &exec) != nil {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		go func() {
			status := uint32(0)
			switch exec.Command {
			case "cat":
				io.Copy(c, c)
			default:
				fmt.Fprintf(c.Stderr(), "%s: no such command\n", exec.Command)
				status = 127
			}
			c.SendRequest("exit-status", false, binary.BigEndian.AppendUint32(nil, status))
			c.Close()
		}()
	}
}

// direct forwards a connection of the client to the requested address (RFC 4254 7.2).
func (s *server) direct(ch ssh.NewChannel) {
	var to struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	if err := ssh.Unmarshal(ch.ExtraData(), &to); err != nil {
		ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	c, err := s.host.Dial("tcp", net.JoinHostPort(to.Host, strconv.Itoa(int(to.Port))))
	if err != nil {
		ch.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	relay(c, ch.Accept)
}

// requests listens on the addresses that the client requests (RFC 4254 7.1).
func (s *server) requests(conn *ssh.ServerConn, requests <-chan *ssh.Request) {
	for r := range requests {
		var at struct {
			Host string
			Port uint32
		}
		if r.Type != "tcpip-forward" || ssh.Unmarshal(r.Payload, &at) != nil {
			r.Reply(false, nil)
			continue
		}
		ln, err := s.host.Listen("tcp", net.JoinHostPort(at.Host, strconv.Itoa(int(at.Port))))
		if err != nil {
			r.Reply(false, nil)
			continue
		}
		port := uint32(ln.Addr().(*net.TCPAddr).Port)
		r.Reply(true, binary.BigEndian.AppendUint32(nil, port))
		go func() {
			conn.Wait()
			ln.Close()
		}()
		go hosttest.Serve(ln, func(c net.Conn) {
			origin := c.RemoteAddr().(*net.TCPAddr)
			relay(c, func() (ssh.Channel, <-chan *ssh.Request, error) {
				return conn.OpenChannel("forwarded-tcpip", ssh.Marshal(struct {
					Host       string
					Port       uint32
					OriginHost string
					OriginPort uint32
				}{at.Host, port, origin.IP.String(), uint32(origin.Port)}))
			})
		})
	}
}

// relay copies in both directions between a connection and a channel, including half-closes.
func relay(c net.Conn, open func() (ssh.Channel, <-chan *ssh.Request, error)) {
	defer c.Close()
	ch, requests, err := open()
	if err != nil {
		return
	}
	defer ch.Close()
	go ssh.DiscardRequests(requests)
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(c, ch)
		c.(*usernet.TCPConn).CloseWrite()
	})
	wg.Go(func() {
		io.Copy(ch, c)
		ch.CloseWrite()
	})
	wg.Wait()
}

// serveUpper returns requests in upper case until the end of the test.
func serveUpper(t *testing.T, ln net.Listener) {
	s := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			w.Write(bytes.ToUpper(b))
		}),
		ErrorLog: log.New(io.Discard, "", 0),
	}
	go s.Serve(ln)
	t.Cleanup(func() { s.Close() })
}

// post sends a text over a connection of dial, and requires it back in upper case.
func post(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error), url string) {
	t.Helper()
	tr := &http.Transport{DialContext: dial}
	defer tr.CloseIdleConnections()
	text := strings.Repeat("small letters ", 100_000)
	resp, err := (&http.Client{Transport: tr}).Post(url, "text/plain", strings.NewReader(text))
	require.NoError(t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, strings.ToUpper(text), string(b))
}

func TestCommandsRunOverSessions(t *testing.T) {
	a, b := hosttest.Pair(t)
	cl := connect(t, a, b)
	data := make([]byte, 4<<20)
	rand.Read(data)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := cl.NewSession()
			if err != nil {
				t.Errorf("session: %v", err)
				return
			}
			defer s.Close()
			s.Stdin = bytes.NewReader(data)
			out, err := s.Output("cat")
			if err != nil || !bytes.Equal(data, out) {
				t.Errorf("cat: %d of %d bytes, %v", len(out), len(data), err)
			}
		})
	}
	wg.Wait()
	s, err := cl.NewSession()
	require.NoError(t, err)
	defer s.Close()
	out, err := s.CombinedOutput("dance")
	var exit *ssh.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 127, exit.ExitStatus())
	require.Equal(t, "dance: no such command\n", string(out))
}

func TestLocalPortIsForwarded(t *testing.T) {
	a, b := hosttest.Pair(t)
	cl := connect(t, a, b)
	ln, err := b.Listen("tcp", "127.0.0.1:8080") // the client can reach this only through ssh
	require.NoError(t, err)
	serveUpper(t, ln)
	_, err = a.Dial("tcp", "server.test:8080")
	require.ErrorContains(t, err, "connection refused")
	post(t, cl.DialContext, "http://127.0.0.1:8080/")

	_, err = cl.Dial("tcp", "127.0.0.1:8081")
	var refused *ssh.OpenChannelError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, ssh.ConnectionFailed, refused.Reason)
	require.Equal(t, "dial tcp 127.0.0.1:8081: connect: connection refused", refused.Message)
}

func TestRemotePortIsForwarded(t *testing.T) {
	a, b := hosttest.Pair(t)
	cl := connect(t, a, b)
	ln, err := cl.Listen("tcp", "192.0.2.2:0")
	require.NoError(t, err)
	serveUpper(t, ln)
	post(t, b.DialContext, "http://"+ln.Addr().String()+"/")
	post(t, a.DialContext, "http://"+ln.Addr().String()+"/")
}

func TestConnectionEndsWithItsHost(t *testing.T) {
	a, b := hosttest.Pair(t)
	cl := connect(t, a, b)
	s, err := cl.NewSession()
	require.NoError(t, err)
	stdin, err := s.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	require.NoError(t, s.Start("cat"))
	time.AfterFunc(20*time.Millisecond, func() { b.Close() })
	var missing *ssh.ExitMissingError
	require.ErrorAs(t, s.Wait(), &missing)
	require.ErrorContains(t, cl.Wait(), "connection reset by peer")
}
