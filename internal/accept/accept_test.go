package accept

import (
	"context"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A script is a listener whose Accept returns the elements of results in turn, and then net.ErrClosed.
// An element is an error or a connection.
type script struct {
	net.Listener
	results []any
}

func (s *script) Accept() (net.Conn, error) {
	if len(s.results) == 0 {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: net.ErrClosed}
	}
	r := s.results[0]
	s.results = s.results[1:]
	if err, ok := r.(error); ok {
		return nil, &net.OpError{Op: "accept", Net: "tcp", Err: os.NewSyscallError("accept4", err)}
	}
	return r.(net.Conn), nil
}

func TestServeWaitsAfterATemporaryError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, _ := net.Pipe()
		ln := &script{results: []any{syscall.EMFILE, c}}
		for range 10 {
			ln.results = append(ln.results, syscall.ENFILE)
		}
		ln.results = append(ln.results, c)
		var waits []time.Duration
		served := make(chan net.Conn, 2)
		began := time.Now()
		err := Serve(t.Context(), ln, func(err error, wait time.Duration) {
			require.ErrorContains(t, err, "too many open files")
			waits = append(waits, wait)
		}, func(c net.Conn) { served <- c })
		require.NoError(t, err)
		const ms = time.Millisecond
		require.Equal(t, []time.Duration{5 * ms, 5 * ms, 10 * ms, 20 * ms, 40 * ms, 80 * ms, 160 * ms, 320 * ms, 640 * ms, 1000 * ms, 1000 * ms}, waits)
		require.Equal(t, 3280*ms, time.Since(began))
		require.Len(t, served, 2)
	})
}

func TestServeReturnsAPermanentError(t *testing.T) {
	c, _ := net.Pipe()
	served := make(chan net.Conn, 1)
	err := Serve(t.Context(), &script{results: []any{syscall.EINVAL, c}}, nil, func(c net.Conn) { served <- c })
	require.ErrorIs(t, err, syscall.EINVAL)
	require.Empty(t, served)
}

func TestServeEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		began := time.Now()
		time.AfterFunc(3*time.Millisecond, cancel) // during the first wait, which is 5 ms long
		ln := &script{results: []any{syscall.EMFILE, syscall.EMFILE}}
		require.NoError(t, Serve(ctx, ln, nil, nil))
		require.Len(t, ln.results, 1)
		require.Equal(t, 3*time.Millisecond, time.Since(began))
	})
}
