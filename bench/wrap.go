package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// wrapped returns a network whose connections use the protocol of the task over the stack.
func wrapped(n *network, t *task) (*network, error) {
	switch t.Over {
	case "":
		return n, nil
	case overTLS:
		return withTLS(n)
	case overQUIC:
		return withQUIC(n, t)
	}
	return nil, fmt.Errorf("no protocol %q", t.Over)
}

// clientTLS is the configuration of clients. The server's certificate is made anew in each run, so it is not verified;
// the signature of the handshake is.
func clientTLS(protocols ...string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, NextProtos: protocols}
}

// serverTLS makes a certificate with a key on P-256 and returns the configuration of a server.
func serverTLS(protocols ...string) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	about := x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, DNSNames: []string{"bench"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, &about, &about, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	cert := tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13, NextProtos: protocols}, nil
}

// withTLS returns a network whose TCP connections are TLS 1.3. A dial completes the handshake, without resumption.
func withTLS(n *network) (*network, error) {
	server, err := serverTLS()
	if err != nil {
		return nil, err
	}
	client, own := clientTLS(), *n
	own.dial = func(network, address string) (net.Conn, error) {
		conn, err := n.dial(network, address)
		if err != nil {
			return nil, err
		}
		c := tls.Client(conn, client)
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		if err := c.Handshake(); err != nil {
			conn.Close()
			return nil, err
		}
		conn.SetDeadline(time.Time{})
		return c, nil
	}
	own.listen = func(network, address string) (net.Listener, error) {
		ln, err := n.listen(network, address)
		if err != nil {
			return nil, err
		}
		return tls.NewListener(ln, server), nil
	}
	return &own, nil
}

// quicProtocol is the protocol in the handshake of QUIC.
const quicProtocol = "bench"

// withQUIC returns a network whose connections are streams of QUIC, each on a connection of its own. quic-go uses GSO on
// the kernel's sockets only.
func withQUIC(n *network, t *task) (*network, error) {
	server, err := serverTLS(quicProtocol)
	if err != nil {
		return nil, err
	}
	// As large as the windows of TCP in the other workloads, which grow to several MiB.
	config := &quic.Config{MaxStreamReceiveWindow: 8 << 20, MaxConnectionReceiveWindow: 8 << 20}
	own := *n
	own.dial = func(_, address string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(address)
		if err != nil {
			return nil, err
		}
		pc, err := n.listenPacket(t.network("udp"), ":0")
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		tr := &quic.Transport{Conn: pc}
		conn, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(to), clientTLS(quicProtocol), config)
		if err != nil {
			pc.Close()
			return nil, err
		}
		s, err := conn.OpenStreamSync(ctx)
		if err != nil {
			pc.Close()
			return nil, err
		}
		return quicConn{s, conn, func() { tr.Close(); pc.Close() }}, nil
	}
	own.listen = func(_, address string) (net.Listener, error) {
		pc, err := n.listenPacket(t.network("udp"), address)
		if err != nil {
			return nil, err
		}
		ln, err := (&quic.Transport{Conn: pc}).Listen(server, config)
		if err != nil {
			pc.Close()
			return nil, err
		}
		return quicListener{ln, pc}, nil
	}
	return &own, nil
}

// A quicConn is a stream with its connection, as a net.Conn.
type quicConn struct {
	*quic.Stream
	conn *quic.Conn
	done func()
}

func (c quicConn) LocalAddr() net.Addr  { return c.conn.LocalAddr() }
func (c quicConn) RemoteAddr() net.Addr { return c.conn.RemoteAddr() }
func (c quicConn) CloseWrite() error    { return c.Stream.Close() }

// Close closes the stream. The end that has dialed also closes the connection: it has read all that the other end
// has sent.
func (c quicConn) Close() error {
	err := c.Stream.Close()
	if c.done != nil {
		c.conn.CloseWithError(0, "")
		c.done()
	}
	return err
}

// A quicListener accepts the first stream of each connection.
type quicListener struct {
	*quic.Listener
	pc net.PacketConn
}

func (l quicListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept(context.Background())
	if err != nil {
		return nil, err
	}
	s, err := conn.AcceptStream(context.Background())
	if err != nil {
		return nil, err
	}
	return quicConn{s, conn, nil}, nil
}

func (l quicListener) Close() error {
	l.Listener.Close()
	return l.pc.Close()
}
