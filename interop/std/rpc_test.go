package std

import (
	"errors"
	"io"
	"net"
	"net/rpc"
	"net/rpc/jsonrpc"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/hosttest"
)

// Arith is the service of net/rpc's documentation.
type Arith struct {
	release chan struct{} // ends Wait
}

type Args struct{ A, B int }

func (*Arith) Multiply(args *Args, product *int) error {
	*product = args.A * args.B
	return nil
}

func (*Arith) Divide(args *Args, quotient *int) error {
	if args.B == 0 {
		return errors.New("divide by zero")
	}
	*quotient = args.A / args.B
	return nil
}

func (a *Arith) Wait(*Args, *int) error {
	<-a.release
	return nil
}

// call makes several concurrent calls, one of which fails.
func call(t *testing.T, client *rpc.Client) {
	t.Helper()
	products := make([]int, 100)
	done := make(chan *rpc.Call, len(products))
	for i := range products {
		client.Go("Arith.Multiply", &Args{i, 7}, &products[i], done)
	}
	for range products {
		require.NoError(t, (<-done).Error)
	}
	for i, p := range products {
		require.Equal(t, 7*i, p)
	}
	require.EqualError(t, client.Call("Arith.Divide", &Args{1, 0}, new(int)), "divide by zero")
}

func TestRPC(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	arith := &Arith{make(chan struct{})}
	server := rpc.NewServer()
	require.NoError(t, server.Register(arith))
	ln := hosttest.Listen(t, h[1], ":1234")
	go server.Accept(ln)
	c, err := h[0].Dial("tcp", "server.test:1234")
	require.NoError(t, err)
	client := rpc.NewClient(c)
	call(t, client)

	// A call that is still unanswered when the client is closed.
	waiting := client.Go("Arith.Wait", &Args{}, new(int), nil)
	require.NoError(t, client.Close())
	require.ErrorIs(t, (<-waiting.Done).Error, net.ErrClosed)
	require.ErrorIs(t, client.Call("Arith.Multiply", &Args{1, 2}, new(int)), rpc.ErrShutdown)
	close(arith.release)
}

func TestRPCServerThatDies(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	arith := &Arith{make(chan struct{})}
	defer close(arith.release)
	server := rpc.NewServer()
	require.NoError(t, server.Register(arith))
	go server.Accept(hosttest.Listen(t, h[1], ":1234"))
	c, err := h[0].Dial("tcp", "server.test:1234")
	require.NoError(t, err)
	client := rpc.NewClient(c)
	defer client.Close()
	call(t, client)
	waiting := client.Go("Arith.Wait", &Args{}, new(int), nil)
	require.NoError(t, client.Call("Arith.Multiply", &Args{1, 2}, new(int)))
	require.NoError(t, h[1].Close())
	require.Error(t, (<-waiting.Done).Error)
	require.NotErrorIs(t, waiting.Error, io.EOF, "it was reset")
}

func TestRPCOverHTTPConnect(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	server := rpc.NewServer()
	require.NoError(t, server.Register(&Arith{}))
	serveHTTP(t, hosttest.Listen(t, h[1], ":80"), server, nil)
	c, err := h[0].Dial("tcp", "server.test:http")
	require.NoError(t, err)
	_, err = io.WriteString(c, "CONNECT "+rpc.DefaultRPCPath+" HTTP/1.0\n\n")
	require.NoError(t, err)
	// The server's answer ends with an empty line. Nothing follows without a request.
	answer := make([]byte, len("HTTP/1.0 200 Connected to Go RPC\n\n"))
	_, err = io.ReadFull(c, answer)
	require.NoError(t, err)
	require.Equal(t, "HTTP/1.0 200 Connected to Go RPC\n\n", string(answer))
	client := rpc.NewClient(c)
	defer client.Close()
	call(t, client)
}

func TestJSONRPC(t *testing.T) {
	h := hosttest.Named(t, "client.test", "server.test")
	server := rpc.NewServer()
	require.NoError(t, server.Register(&Arith{}))
	ln := hosttest.Listen(t, h[1], ":1234")
	go hosttest.Serve(ln, func(c net.Conn) { server.ServeCodec(jsonrpc.NewServerCodec(c)) })
	c, err := h[0].Dial("tcp", "server.test:1234")
	require.NoError(t, err)
	client := jsonrpc.NewClient(c)
	defer client.Close()
	call(t, client)
}
