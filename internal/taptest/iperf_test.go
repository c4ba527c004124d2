//go:build linux

package taptest

import (
	"encoding/json"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// An iperf3 client sends a GiB to the host over IPv6, and receives a GiB from it. The host forwards the
// connections to the server.
func TestIperf3MovesAGibibyteOverIPv6(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	ns, h := newLink(t, "iperf3", "ss")
	e := families[1]
	for i, options := range [][]string{nil, {"--reverse"}} {
		port := strconv.Itoa(5201 + i) // a server is not ready at once after a test
		ns.daemon(t, "iperf3", "-s", "-B", "127.0.0.1", "-p", port)
		ns.shell(t, "until ss -Hltn 'sport = :"+port+"' | grep -q "+port+"; do sleep 0.02; done")
		forward(t, ns, h, port, "127.0.0.1:"+port)
		var got struct {
			End struct {
				Sent     struct{ Bytes int64 } `json:"sum_sent"`
				Received struct{ Bytes int64 } `json:"sum_received"`
			}
			Error string
		}
		out := ns.run(t, append([]string{"iperf3", e.flag, "--json", "-c", e.ours, "-p", port, "-n", "1G"}, options...)...)
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Empty(t, got.Error)
		require.GreaterOrEqual(t, got.End.Sent.Bytes, int64(size), "%v", options)
		// The test ends when the sender has sent the GiB. The last bytes are then still in the buffers of the
		// host, which forwards them.
		require.Greater(t, got.End.Received.Bytes, int64(size/10*9), "%v", options)
	}
}
