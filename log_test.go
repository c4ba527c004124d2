package usernet_test

import (
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// The log has the start of a host, and each connection, in order, if its level is Debug.
func TestALogAtDebugHasTheStartAndTheConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{{2, 0, 0, 0, 0, 1}, {2, 0, 0, 0, 0, 2}}})
		var log, quiet logBuffer
		h, err := usernet.New(usernet.Config{
			NIC: near, Addrs: prefixes("192.0.2.1/24", "2001:db8::1/64"), Gateway: netip.MustParseAddr("192.0.2.9"),
			Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		})
		require.NoError(t, err)
		peer, err := usernet.New(usernet.Config{NIC: far, Addrs: prefixes("192.0.2.2/24"), Logger: slog.New(slog.NewTextHandler(&quiet, nil))})
		require.NoError(t, err)
		defer peer.Close()
		for _, want := range []string{
			`level=DEBUG msg="host started" protocols="[IPv4 ARP ICMP IGMP UDP TCP IPv6 ICMPv6 ND MLD]"`,
			`level=DEBUG msg="link added" nic=lo up=true mtu=`,
			`level=DEBUG msg="link added" nic=pipe-a up=true mtu=1500 mac=02:00:00:00:00:01`,
			`level=DEBUG msg="address added" nic=pipe-a addr=192.0.2.1/24 state=`,
			`level=DEBUG msg="address added" nic=pipe-a addr=2001:db8::1/64 state=`,
			`level=DEBUG msg="route added" nic=pipe-a to=0.0.0.0/0 via=192.0.2.9`,
		} {
			require.Equal(t, 1, strings.Count(log.String(), want), "%s in\n%s", want, log.String())
		}
		require.Less(t, strings.Index(log.String(), "host started"), strings.Index(log.String(), "link added"))

		ln, err := h.Listen("tcp", "192.0.2.1:80")
		require.NoError(t, err)
		for range 3 {
			c, err := peer.Dial("tcp", "192.0.2.1:80")
			require.NoError(t, err)
			s, err := ln.Accept()
			require.NoError(t, err)
			_, err = c.Write([]byte("hello"))
			require.NoError(t, err)
			time.Sleep(2 * time.Second)
			require.NoError(t, c.Close())
			_, err = io.ReadAll(s)
			require.NoError(t, err)
			require.NoError(t, s.Close())
		}
		_, err = h.Dial("tcp", "192.0.2.2:4")
		require.Error(t, err)
		open, err := peer.Dial("tcp", "192.0.2.1:80")
		require.NoError(t, err)
		require.NoError(t, h.Close())
		require.NoError(t, open.Close())
		all := log.String()
		require.Equal(t, 4, strings.Count(all, `level=DEBUG msg="connection opened" local=192.0.2.1:80 remote=192.0.2.2:`), all)
		require.Equal(t, 3, strings.Count(all, `passive=true duration=2s sent=0 received=5 retransmitted=0`+"\n"), all)
		require.Regexp(t, `msg="connection failed" local=192.0.2.1:\d+ remote=192.0.2.2:4 passive=false err="connection refused"`, all)
		require.Regexp(t, `msg="connection closed" .* err="software caused connection abort"\n$`, all)
		require.NotContains(t, quiet.String(), "connection")
		require.NotContains(t, quiet.String(), "started")
	})
}

// A link that is added or removed later is in the log at Info.
func TestALogHasTheLinksThatComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logBuffer
		h, err := usernet.New(usernet.Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		defer h.Close()
		near, _ := nic.Pipe(nic.PipeConfig{})
		require.NoError(t, h.Stack().AddNIC(usernet.NIC{Name: "eth7", Device: near, Addrs: prefixes("192.0.2.1/24")}))
		time.Sleep(time.Second)
		require.NoError(t, h.Stack().RemoveNIC("eth7"))
		time.Sleep(time.Second)
		require.Contains(t, log.String(), `level=INFO msg="link added" nic=eth7`)
		require.Contains(t, log.String(), `level=INFO msg="link removed" nic=eth7`)
	})
}
