package grpc

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	pb "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

// A server answers as gRPC's interoperability tests require.
type server struct {
	pb.UnimplementedTestServiceServer
}

func (*server) UnaryCall(ctx context.Context, in *pb.SimpleRequest) (*pb.SimpleResponse, error) {
	if s := in.GetResponseStatus(); s.GetCode() != 0 {
		return nil, status.Error(codes.Code(s.Code), s.Message)
	}
	p, _ := peer.FromContext(ctx)
	grpc.SetHeader(ctx, metadata.Pairs("seen-as", p.Addr.String()))
	return &pb.SimpleResponse{Payload: in.GetPayload()}, nil
}

// EmptyCall answers when the client has cancelled.
func (*server) EmptyCall(ctx context.Context, _ *pb.Empty) (*pb.Empty, error) {
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

func (*server) StreamingOutputCall(in *pb.StreamingOutputCallRequest, out pb.TestService_StreamingOutputCallServer) error {
	for i, p := range in.GetResponseParameters() {
		time.Sleep(time.Duration(p.GetIntervalUs()) * time.Microsecond)
		body := bytes.Repeat([]byte{byte(i)}, int(p.GetSize()))
		if err := out.Send(&pb.StreamingOutputCallResponse{Payload: &pb.Payload{Body: body}}); err != nil {
			return err
		}
	}
	return nil
}

func (*server) StreamingInputCall(in pb.TestService_StreamingInputCallServer) error {
	size := 0
	for {
		m, err := in.Recv()
		if err == io.EOF {
			return in.SendAndClose(&pb.StreamingInputCallResponse{AggregatedPayloadSize: int32(size)})
		}
		if err != nil {
			return err
		}
		size += len(m.GetPayload().GetBody())
	}
}

func (*server) FullDuplexCall(both pb.TestService_FullDuplexCallServer) error {
	for {
		m, err := both.Recv()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := both.Send(&pb.StreamingOutputCallResponse{Payload: m.GetPayload()}); err != nil {
			return err
		}
	}
}

// connect serves on one host and makes a client on the other. Both are closed at the end of the
// test.
func connect(t *testing.T, client, host *usernet.Host, options ...grpc.DialOption) (pb.TestServiceClient, *grpc.Server) {
	t.Helper()
	ln, err := host.Listen("tcp", ":50051")
	require.NoError(t, err)
	s := grpc.NewServer(
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Hour}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	pb.RegisterTestServiceServer(s, &server{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	options = append(options,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return client.DialContext(ctx, "tcp", address)
		}))
	cc, err := grpc.NewClient("passthrough:///server.test:50051", options...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, cc.Close())
		s.Stop()
		require.NoError(t, <-served)
	})
	return pb.NewTestServiceClient(cc), s
}

// unary makes a call that succeeds.
func unary(ctx context.Context, t *testing.T, c pb.TestServiceClient) {
	t.Helper()
	body := bytes.Repeat([]byte("usernet"), 100_000)
	var header metadata.MD
	out, err := c.UnaryCall(ctx, &pb.SimpleRequest{Payload: &pb.Payload{Body: body}}, grpc.Header(&header))
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, out.GetPayload().GetBody()))
	host, _, err := net.SplitHostPort(header.Get("seen-as")[0])
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", host)
}

func TestUnaryCalls(t *testing.T) {
	a, b := hosttest.Pair(t)
	c, _ := connect(t, a, b)
	unary(t.Context(), t, c)
	_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{ResponseStatus: &pb.EchoStatus{Code: int32(codes.FailedPrecondition), Message: "not now"}})
	require.Equal(t, "rpc error: code = FailedPrecondition desc = not now", err.Error())
	_, err = c.UnimplementedCall(t.Context(), &pb.Empty{})
	require.Equal(t, codes.Unimplemented, status.Code(err))
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{Payload: &pb.Payload{Body: make([]byte, 1000)}})
			if err != nil {
				t.Errorf("one of many calls: %v", err)
			}
		})
	}
	wg.Wait()
}

func TestStreams(t *testing.T) {
	a, b := hosttest.Pair(t)
	c, _ := connect(t, a, b)

	var want []*pb.ResponseParameters
	for i := range 50 {
		want = append(want, &pb.ResponseParameters{Size: int32(i * 4000)})
	}
	down, err := c.StreamingOutputCall(t.Context(), &pb.StreamingOutputCallRequest{ResponseParameters: want})
	require.NoError(t, err)
	for i := range want {
		m, err := down.Recv()
		require.NoError(t, err)
		require.True(t, bytes.Equal(bytes.Repeat([]byte{byte(i)}, i*4000), m.GetPayload().GetBody()))
	}
	_, err = down.Recv()
	require.ErrorIs(t, err, io.EOF)

	up, err := c.StreamingInputCall(t.Context())
	require.NoError(t, err)
	for range 100 {
		require.NoError(t, up.Send(&pb.StreamingInputCallRequest{Payload: &pb.Payload{Body: make([]byte, 10_000)}}))
	}
	total, err := up.CloseAndRecv()
	require.NoError(t, err)
	require.Equal(t, int32(1_000_000), total.GetAggregatedPayloadSize())

	both, err := c.FullDuplexCall(t.Context())
	require.NoError(t, err)
	for i := range 100 {
		body := bytes.Repeat([]byte{byte(i)}, i)
		require.NoError(t, both.Send(&pb.StreamingOutputCallRequest{Payload: &pb.Payload{Body: body}}))
		m, err := both.Recv()
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, m.GetPayload().GetBody()))
	}
	require.NoError(t, both.CloseSend())
	_, err = both.Recv()
	require.ErrorIs(t, err, io.EOF)
}

func TestServerThatGoesAndComesBack(t *testing.T) {
	a, b := hosttest.Pair(t)
	c, s := connect(t, a, b)
	unary(t.Context(), t, c)
	s.Stop()
	require.Eventually(t, func() bool { // the first call may still use the old connection
		_, err := c.UnaryCall(t.Context(), &pb.SimpleRequest{})
		return status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "connect: connection refused")
	}, time.Minute, time.Millisecond)
	ln, err := b.Listen("tcp", ":50051") // while old connections are in TIME-WAIT
	require.NoError(t, err)
	s = grpc.NewServer()
	pb.RegisterTestServiceServer(s, &server{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	_, err = c.UnaryCall(t.Context(), &pb.SimpleRequest{}, grpc.WaitForReady(true))
	require.NoError(t, err)
	s.GracefulStop()
	require.NoError(t, <-served)
}

func TestDeadlineAndCancellationInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := hosttest.Pair(t)
		c, _ := connect(t, a, b)
		unary(t.Context(), t, c)
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := c.EmptyCall(ctx, &pb.Empty{})
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
		require.Equal(t, 3*time.Second, time.Since(began))

		ctx, cancel = context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err = c.EmptyCall(ctx, &pb.Empty{})
		require.Equal(t, codes.Canceled, status.Code(err))
		require.Equal(t, 4*time.Second, time.Since(began))
		unary(t.Context(), t, c)
	})
}

func TestKeepaliveFindsADeadLinkInVirtualTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, impair := hosttest.ImpairedPair(t, 1)
		c, _ := connect(t, a, b, grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true,
		}))
		unary(t.Context(), t, c)
		// For an hour only the pings use the connection.
		segments := a.Stats().TCP.Sent
		time.Sleep(59 * time.Minute)
		require.Greater(t, a.Stats().TCP.Sent-segments, uint64(59*60/10), "a ping every 10 s")
		unary(t.Context(), t, c)
		waiting := make(chan error, 1)
		go func() {
			_, err := c.EmptyCall(t.Context(), &pb.Empty{})
			waiting <- err
		}()
		time.Sleep(time.Second)
		impair(nic.Impairment{Loss: 1})
		began := time.Now()
		err := <-waiting
		require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
		require.LessOrEqual(t, time.Since(began), 15*time.Second+time.Second, "%v", err)
	})
}
