package guide

import (
	"bytes"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/docs/guide/internal/lab"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/nic/pcap"
)

// With /25 alice's network ends at 192.0.2.127, so she has no route to bob. Bob's SYN reaches alice, but she has no route
// for the answer: bob's dial times out.
func TestSolution01_1ShortPrefix(t *testing.T) {
	solution(t, func(t *testing.T) {
		left, right := lab.Wire()
		alice := lab.Host(left, 1, "192.0.2.1/25")
		bob := lab.Host(right, 2, "192.0.2.200/24")
		closeLater(t, alice, bob)
		_, err := alice.Listen("tcp", "192.0.2.1:7000")
		require.NoError(t, err)

		_, err = alice.Dial("tcp", "192.0.2.200:7000")
		require.ErrorIs(t, err, syscall.ENETUNREACH)
		_, err = bob.DialTimeout("tcp", "192.0.2.1:7000", 10*time.Second)
		var e net.Error
		require.ErrorAs(t, err, &e)
		require.True(t, e.Timeout())
	})
}

// A Capture wraps a device and writes to any io.Writer. With an *os.File, Wireshark opens the file.
func TestSolution01_2Capture(t *testing.T) {
	solution(t, func(t *testing.T) {
		var file bytes.Buffer
		a, b := pair(t, nic.Impairment{}, 1, func(dev nic.Device) nic.Device {
			return nic.Capture(dev, &file, nic.CaptureConfig{})
		})
		client, server := connect(t, a, b)
		client.Close()
		server.Close()

		r, err := pcap.NewReader(&file)
		require.NoError(t, err)
		frames := 0
		for {
			p, err := r.Next()
			if err == io.EOF {
				break
			}
			require.NoError(t, err)
			require.Equal(t, pcap.LinkEthernet, p.Link)
			frames++
		}
		require.Greater(t, frames, 7, "ARP, the handshake and the close")
	})
}
