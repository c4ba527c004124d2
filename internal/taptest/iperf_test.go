//go:build linux

package taptest

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"
)

// An iperf3 client sends a GiB to the host over IPv6, and receives a GiB from it. The host forwards the
// connections to the server.
func TestIperf3MovesAGibibyteOverIPv6(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	ns, h := newLink(t, "iperf3", "ss")
	ns.daemon(t, "iperf3", "-s", "-B", "127.0.0.1", "-p", "5201")
	ns.shell(t, "until ss -Hltn 'sport = :5201' | grep -q 5201; do sleep 0.02; done")
	forward(t, ns, h, "5201", "127.0.0.1:5201")
	e := families[1]
	for _, options := range [][]string{nil, {"--reverse"}} {
		var got struct {
			End struct {
				Sent     struct{ Bytes int64 } `json:"sum_sent"`
				Received struct{ Bytes int64 } `json:"sum_received"`
			}
			Error string
		}
		out := ns.run(t, append([]string{"iperf3", e.flag, "--json", "-c", e.ours, "-n", "1G"}, options...)...)
		require.NoError(t, json.Unmarshal([]byte(out), &got))
		require.Empty(t, got.Error)
		require.GreaterOrEqual(t, got.End.Sent.Bytes, int64(size), "%v", options)
		// The test ends when the sender has sent the GiB. The last bytes are then still in the buffers of the
		// host, which forwards them.
		require.Greater(t, got.End.Received.Bytes, int64(size/10*9), "%v", options)
	}
}
