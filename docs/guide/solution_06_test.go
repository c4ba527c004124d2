package guide

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
)

// netcat sends what it reads from in over c, and writes what arrives to out. If c has a CloseWrite, as TCP has, the end of
// in becomes the end of the stream, and the other end's answer ends netcat. A datagram has no end, so with UDP netcat ends
// when nothing has arrived for a time.
func netcat(c net.Conn, in io.Reader, out io.Writer, quiet time.Duration) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, in)
		if half, ok := c.(interface{ CloseWrite() error }); ok && err == nil {
			err = half.CloseWrite()
		}
		sent <- err
	}()
	buf := make([]byte, 65535)
	_, stream := c.(interface{ CloseWrite() error })
	for {
		if !stream {
			c.SetReadDeadline(time.Now().Add(quiet))
		}
		n, err := c.Read(buf)
		out.Write(buf[:n])
		var e net.Error
		switch {
		case err == nil:
		case err == io.EOF, !stream && asNetError(err, &e) && e.Timeout():
			return <-sent
		default:
			return err
		}
	}
}

// asNetError stores err in e if it is a net.Error.
func asNetError(err error, e *net.Error) bool {
	var ok bool
	*e, ok = err.(net.Error)
	return ok
}

func TestSolution06_1Netcat(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, b := pair(t, nic.Impairment{Latency: 10 * time.Millisecond}, 1, nil)
		ln, err := b.Listen("tcp", ":7")
		require.NoError(t, err)
		go echoTCP(ln)
		pc, err := b.ListenPacket("udp", ":7")
		require.NoError(t, err)
		go echoUDP(pc)
		closeLater(t, ln, pc)
		for _, network := range []string{"tcp", "udp"} {
			c, err := a.Dial(network, "192.0.2.2:7")
			require.NoError(t, err)
			var out bytes.Buffer
			require.NoError(t, netcat(c, strings.NewReader("hello, "+network), &out, time.Second))
			require.Equal(t, "hello, "+network, out.String())
			c.Close()
		}
	})
}

// ask compares the echo with what was sent, and ignores others.
func ask(c net.Conn, word string) (string, error) {
	buf := make([]byte, 100)
	for range 10 {
		if _, err := c.Write([]byte(word)); err != nil {
			return "", err
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, err := c.Read(buf)
			if err == nil && string(buf[:n]) == word {
				return word, nil
			}
			if err != nil {
				break // time is up: try again
			}
		}
	}
	return "", fmt.Errorf("no answer to %q", word)
}

// With seed 8 the client of the chapter returns "one" for "two". This one does not. If words can repeat, each request needs
// a number too.
func TestSolution06_2LateEcho(t *testing.T) {
	solution(t, func(t *testing.T) {
		left, right := lab.Wire()
		a := lab.Host(lab.Slow(left, nic.Impairment{Latency: 30 * time.Millisecond, Loss: 0.3}, 8), 1, "192.0.2.1/24")
		b := lab.Host(right, 2, "192.0.2.2/24")
		closeLater(t, a, b)
		pc, err := b.ListenPacket("udp", ":7")
		require.NoError(t, err)
		go echoUDP(pc)
		closeLater(t, pc)
		c, err := a.Dial("udp", "192.0.2.2:7")
		require.NoError(t, err)
		for _, word := range []string{"one", "two", "three", "four"} {
			got, err := ask(c, word)
			require.NoError(t, err)
			require.Equal(t, word, got)
		}
	})
}

// echoTCP serves the echo protocol: a goroutine for each client, which io.Copy ends at the client's FIN.
func echoTCP(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			io.Copy(c, c)
		}()
	}
}

func TestSolution06_3ManyClients(t *testing.T) {
	solution(t, func(t *testing.T) {
		a, b := pair(t, nic.Impairment{Latency: 10 * time.Millisecond}, 1, nil)
		ln, err := b.Listen("tcp", "192.0.2.2:7")
		require.NoError(t, err)
		go echoTCP(ln)
		closeLater(t, ln)
		var clients []net.Conn
		for i := range 20 {
			c, err := a.Dial("tcp", "192.0.2.2:7")
			require.NoError(t, err)
			fmt.Fprint(c, "client ", i)
			clients = append(clients, c)
		}
		for i, c := range clients {
			require.NoError(t, c.(interface{ CloseWrite() error }).CloseWrite())
			text, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, fmt.Sprint("client ", i), string(text))
			c.Close()
		}
		time.Sleep(time.Second)
		for c := range b.Conns() {
			t.Errorf("the server still has %v in %v", c.Remote, c.State)
		}
	})
}
