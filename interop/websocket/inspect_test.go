package websocket

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/inspect"
	"github.com/usernet/usernet/internal/hosttest"
)

// The inspector shows the connection of a WebSocket.
func TestInspectorShowsAWebSocket(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	c := dialGorilla(t, a, "gorilla")
	require.NoError(t, c.WriteMessage(gorilla.TextMessage, []byte("hello")))
	_, m, err := c.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, "hello", string(m))
	mux := http.NewServeMux()
	mux.Handle("/debug/usernet/", inspect.Handler(b))
	debug := httptest.NewServer(mux)
	defer debug.Close()
	for path, check := range map[string]func(d *json.Decoder){
		"overview": func(d *json.Decoder) {
			var o inspect.Overview
			require.NoError(t, d.Decode(&o))
			require.Equal(t, 1, o.Totals.ByState["ESTABLISHED"])
		},
		"conns": func(d *json.Decoder) {
			var all inspect.Conns
			require.NoError(t, d.Decode(&all))
			require.Equal(t, c.RemoteAddr().String(), all.Conns[0].Local)
			require.Equal(t, c.LocalAddr().String(), all.Conns[0].Remote)
		},
	} {
		resp, err := debug.Client().Get(debug.URL + "/debug/usernet/api/" + path)
		require.NoError(t, err)
		check(json.NewDecoder(resp.Body))
		resp.Body.Close()
	}
}
