package grpc

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
)

// A gRPC server on a usernet host serves that host's inspector over the kernel's loopback, as programs do with
// net/http/pprof.
func TestInspectorBesideAServer(t *testing.T) {
	a, b := hosttest.Pair(t)
	c, _ := connect(t, a, b)
	unary(t.Context(), t, c)
	mux := http.NewServeMux()
	mux.Handle("/debug/usernet/", inspect.Handler(b))
	debug := httptest.NewServer(mux)
	defer debug.Close()
	resp, err := debug.Client().Get(debug.URL + "/debug/usernet/api/overview")
	require.NoError(t, err)
	defer resp.Body.Close()
	var o inspect.Overview
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&o))
	require.Equal(t, 1, o.Totals.ByState["ESTABLISHED"])
	require.Greater(t, o.Interfaces[1].RxBytes, uint64(700_000), "the message of the call")
}
