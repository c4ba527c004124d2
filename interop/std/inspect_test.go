package std

import (
	"encoding/json"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
)

// The program shows its host on the host itself, to clients of its network that know the token.
func TestInspectorBesideASite(t *testing.T) {
	a, b := hosttest.Pair(t)
	token := inspect.NewToken()
	mux := http.NewServeMux()
	mux.Handle("/", site())
	mux.Handle("/debug/usernet/", inspect.NewHandler(b, inspect.Config{Token: token}))
	ln, err := b.Listen("tcp", ":80")
	require.NoError(t, err)
	serveHTTP(t, ln, mux, nil)
	client := newClient(t, a, nil, false)
	get(t, client, "http://server.test/hello")
	resp, err := client.Get("http://server.test/debug/usernet/api/overview")
	require.NoError(t, err)
	io.Copy(io.Discard, resp.Body) // so that the connection is used again
	resp.Body.Close()
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)
	req, err := http.NewRequest("GET", "http://server.test/debug/usernet/api/overview", nil)
	require.NoError(t, err)
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err = client.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var o inspect.Overview
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&o))
	require.Equal(t, map[string]int{"ESTABLISHED": 1}, o.Totals.ByState, "the connection of the request itself")
	require.Equal(t, uint64(1), o.Stats.TCP.Events["PassiveOpens"])
}
