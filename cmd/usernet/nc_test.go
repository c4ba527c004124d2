package main

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
)

// An ncRun is a run of nc on a host.
type ncRun struct {
	in        *io.PipeWriter
	out, errs safeBuffer
	cancel    context.CancelFunc
	done      chan error
}

// nc starts the command on a host, without its link flags.
func nc(t *testing.T, h *usernet.Host, f ncFlags, args ...string) *ncRun {
	t.Helper()
	r, w := io.Pipe()
	f.in = &pump{r: r}
	require.NoError(t, f.check(args))
	ctx, cancel := context.WithCancel(t.Context())
	n := &ncRun{in: w, cancel: cancel, done: make(chan error, 1)}
	go func() { n.done <- f.run(ctx, terminal{&n.out, &n.errs}, h) }()
	t.Cleanup(func() {
		cancel()
		w.Close()
	})
	return n
}

// says waits until the output is want.
func (n *ncRun) says(t *testing.T, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return n.out.String() == want }, time.Minute, time.Millisecond, "%q", n.out.String())
}

func (n *ncRun) write(t *testing.T, s string) {
	t.Helper()
	_, err := io.WriteString(n.in, s)
	require.NoError(t, err)
}

// ncWire makes two hosts on a wire.
func ncWire(t *testing.T) *network {
	t.Helper()
	n, err := new(linkFlags).openWire(terminal{io.Discard, io.Discard}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	t.Cleanup(func() { n.Close() })
	return n
}

// listening waits until a host listens on a TCP port, or has a UDP socket on it.
func listening(t *testing.T, h *usernet.Host, port uint16) {
	t.Helper()
	require.Eventually(t, func() bool {
		for l := range h.Listeners() {
			if l.Local.Port() == port {
				return true
			}
		}
		for s := range h.Sockets() {
			if s.Local.Port() == port {
				return true
			}
		}
		return false
	}, time.Minute, time.Millisecond)
}

func TestNCSpeaksToNC(t *testing.T) {
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		n := ncWire(t)
		server := nc(t, n.peer, ncFlags{listen: true}, "80")
		listening(t, n.peer, 80)
		client := nc(t, n.host, ncFlags{shutN: true}, host, "80")
		client.write(t, "question")
		server.says(t, "question")
		server.write(t, "answer")
		client.says(t, "answer")
		// With -N the end of the input closes only our side; the listener ends, and with it the connection.
		require.NoError(t, client.in.Close())
		require.NoError(t, <-server.done)
		require.NoError(t, <-client.done)
	}
}

func TestNCKeepsListening(t *testing.T) {
	n := ncWire(t)
	server := nc(t, n.peer, ncFlags{listen: true, keep: true}, "192.0.2.1", "http")
	listening(t, n.peer, 80)
	want := ""
	for _, s := range []string{"one ", "two ", "three"} {
		client := nc(t, n.host, ncFlags{shutN: true}, "192.0.2.1", "80")
		client.write(t, s)
		want += s
		server.says(t, want)
		server.write(t, "to "+s) // the input of the server is shared by its connections
		client.says(t, "to "+s)
		require.NoError(t, client.in.Close())
		require.NoError(t, <-client.done)
	}
	server.cancel()
	require.NoError(t, <-server.done, "Ctrl-C is the end of a listener")
}

func TestNCSendsDatagrams(t *testing.T) {
	for _, host := range []string{"192.0.2.1", "2001:db8::1"} {
		n := ncWire(t)
		server := nc(t, n.peer, ncFlags{listen: true, udp: true}, "6969")
		listening(t, n.peer, 6969)
		client := nc(t, n.host, ncFlags{udp: true, shutN: true, source: 1234}, host, "6969")
		client.write(t, "question")
		server.says(t, "question")
		server.write(t, "answer")
		client.says(t, "answer")
		require.NoError(t, client.in.Close())
		require.NoError(t, <-client.done, "with -N, the end of the input is the end")
	}
}

// The other direction goes on after the peer has closed its side. With -k, a UDP listener prints the datagrams of
// all senders.
func TestNCSendsAfterThePeerHasClosed(t *testing.T) {
	n := ncWire(t)
	ln, err := n.peer.Listen("tcp", ":80")
	require.NoError(t, err)
	defer ln.Close()
	client := nc(t, n.host, ncFlags{shutN: true}, "192.0.2.1", "80")
	c, err := ln.Accept()
	require.NoError(t, err)
	require.NoError(t, c.(*usernet.TCPConn).CloseWrite())
	client.write(t, "late")
	require.NoError(t, client.in.Close())
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "late", string(got))
	require.NoError(t, <-client.done)

	server := nc(t, n.peer, ncFlags{listen: true, udp: true, keep: true}, "6969")
	listening(t, n.peer, 6969)
	for _, s := range []string{"a", "b"} {
		u, err := n.host.Dial("udp", "192.0.2.1:6969")
		require.NoError(t, err)
		_, err = io.WriteString(u, s)
		require.NoError(t, err)
		require.NoError(t, u.Close())
	}
	server.says(t, "ab")
	server.cancel()
	require.NoError(t, <-server.done)
}

// nc ends only after the peer has received all data. An earlier end would reset the connection.
func TestNCDeliversAllDataBeforeItsEnd(t *testing.T) {
	n := ncWire(t)
	ln, err := n.peer.Listen("tcp", ":80")
	require.NoError(t, err)
	defer ln.Close()
	client := nc(t, n.host, ncFlags{shutN: true}, "192.0.2.1", "80")
	c, err := ln.Accept()
	require.NoError(t, err)
	defer c.Close()
	require.NoError(t, c.(*usernet.TCPConn).SetReadBuffer(4096))
	require.NoError(t, c.(*usernet.TCPConn).CloseWrite())
	data := strings.Repeat("0123456789", 10000)
	client.write(t, data)
	require.NoError(t, client.in.Close())
	ended := make(chan error, 1)
	go func() {
		err := <-client.done
		n.host.Close() // as the command does
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("nc has ended early: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, len(data), len(got))
	require.NoError(t, <-ended)
}

func TestNCGivesUpWithoutData(t *testing.T) {
	n := ncWire(t)
	server := nc(t, n.peer, ncFlags{listen: true, keep: true}, "80")
	listening(t, n.peer, 80)
	began := time.Now()
	client := nc(t, n.host, ncFlags{wait: 1}, "192.0.2.1", "80")
	require.NoError(t, <-client.done)
	require.GreaterOrEqual(t, time.Since(began), time.Second)
	client = nc(t, n.host, ncFlags{wait: 0.05}, "192.0.2.99", "80")
	require.EqualError(t, <-client.done, "dial tcp 192.0.2.99:80: i/o timeout")
	server.cancel()
	<-server.done
}

func TestNCReportsOpenPorts(t *testing.T) {
	n := scanNetwork(t)
	run := nc(t, n.host, ncFlags{zero: true}, "192.0.2.1", "21-23")
	require.NoError(t, <-run.done)
	require.Equal(t, "dial tcp 192.0.2.1:21: connect: connection refused\n"+
		"Connection to 192.0.2.1 22 port [tcp/ssh] succeeded!\n"+
		"dial tcp 192.0.2.1:23: connect: connection refused\n", run.errs.String())
	run = nc(t, n.host, ncFlags{zero: true, udp: true, wait: 30}, "2001:db8::1", "6,7")
	require.NoError(t, <-run.done)
	require.Contains(t, run.errs.String(), "connection refused\nConnection to 2001:db8::1 7 port [udp/echo] succeeded!\n")
	run = nc(t, n.host, ncFlags{zero: true}, "192.0.2.1", "9")
	require.Equal(t, errQuiet, <-run.done)
}

func TestNCOnAWireTalksToTheEchoService(t *testing.T) {
	var out safeBuffer
	cmd := ncCommand(strings.NewReader("hello\n"))
	require.Equal(t, exitOK, cmd.run(t.Context(), terminal{&out, io.Discard}, []string{"-wire", "-N", "192.0.2.1", "7"}))
	require.Equal(t, "hello\n", out.String())
}
