//go:build linux

package taptest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
)

// TestDataCrossesPasst makes a host the guest of passt. A mebibyte crosses in each direction, on connections of
// either side, over each family. Debian's passt ignores IPv4 packets in frames with padding. If the stream device
// padded an acknowledgment of 54 bytes to 60, passt would repeat the first window every two seconds.
func TestDataCrossesPasst(t *testing.T) {
	t.Parallel()
	need(t, "curl", "passt", "sha256sum")
	ns, socket := startPasst(t)
	dev, err := nic.OpenStream(nic.StreamConfig{Network: "unix", Address: socket})
	require.NoError(t, err)
	t.Cleanup(func() { dev.Close() })
	h := newHost(t, dev)
	serveSite(t, h)
	const size = mib
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		url := "http://" + host + ":8080"
		require.Equal(t, contentSum(t, size)+"  -\n",
			ns.shell(t, fmt.Sprintf("curl -sS --fail -g --retry 5 --retry-all-errors '%s/content?n=%d' | sha256sum", url, size)))
		require.Equal(t, fmt.Sprintf("%d %s\n", size, contentSum(t, size)),
			ns.shell(t, fmt.Sprintf("%s %d | curl -sS --fail -g -T - '%s/sum'", self(t, "generate"), size, url)))
	}
	ns.startHelper(t, "ready", "http", ":8000")
	for _, addr := range []string{"192.168.69.1", "2001:db8:69::1"} {
		fetch(t, h, end{kernel: addr}, size)
	}
}
