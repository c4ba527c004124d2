package yamux

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// sessions makes the two sides of a session over a connection between two hosts.
func sessions(t *testing.T, a, b *usernet.Host) (client, server *yamux.Session) {
	t.Helper()
	ln, err := b.Listen("tcp", ":4000")
	require.NoError(t, err)
	defer ln.Close()
	c, err := a.Dial("tcp", "server.test:4000")
	require.NoError(t, err)
	s, err := ln.Accept()
	require.NoError(t, err)
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	client, err = yamux.Client(c, cfg)
	require.NoError(t, err)
	server, err = yamux.Server(s, cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client, server
}

// echo sends back the data of each stream.
func echo(s *yamux.Session) {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func TestManyStreamsShareAConnection(t *testing.T) {
	a, b := hosttest.Pair(t)
	client, server := sessions(t, a, b)
	require.Equal(t, client.LocalAddr().String(), server.RemoteAddr().String())
	go echo(server)
	data := make([]byte, 600_000) // more than a stream's window
	rand.Read(data)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c, err := client.Open()
			if err != nil {
				t.Errorf("open: %v", err)
				return
			}
			go func() {
				c.Write(data)
				c.Close() // Close of a stream is a half-close
			}()
			back, err := io.ReadAll(c)
			if err != nil || !bytes.Equal(data, back) {
				t.Errorf("%d of %d bytes came back: %v", len(back), len(data), err)
			}
		})
	}
	wg.Wait()
}

func TestStreamsEndWithTheirHost(t *testing.T) {
	a, b := hosttest.Pair(t)
	client, server := sessions(t, a, b)
	go echo(server)
	c, err := client.Open()
	require.NoError(t, err)
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = c.Read(make([]byte, 1))
	require.Error(t, err)
	<-client.CloseChan()
	_, err = client.Open()
	require.ErrorIs(t, err, yamux.ErrSessionShutdown)
}

// yamux has a package-wide pool of timers, so it cannot be used both inside and outside synctest
// bubbles.
func TestDeadlineAndPing(t *testing.T) {
	a, b := hosttest.Pair(t)
	client, server := sessions(t, a, b)
	go echo(server)
	c, err := client.Open()
	require.NoError(t, err)
	require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	_, err = c.Read(make([]byte, 1))
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout())
	_, err = client.Ping()
	require.NoError(t, err)
	_, err = server.Ping()
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.NoError(t, client.Close())
	<-server.CloseChan()
}
