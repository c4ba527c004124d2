package ppp

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// serverAndClients returns the Ethernets of a server and of n clients. What the server sends takes a millisecond,
// so that no delivery is nested in another. What a client sends arrives at once, even if the client closes then.
func serverAndClients(n int) (server nic.Device, clients []nic.Device) {
	sw := nic.NewSwitch(nic.SwitchConfig{})
	server = nic.Impair(sw.Port(), nic.ImpairConfig{Out: nic.Impairment{Latency: time.Millisecond}})
	for range n {
		clients = append(clients, sw.Port())
	}
	return server, clients
}

// A session that has ended before the program accepts it is not accepted any more.
func TestEndedSessionIsNotAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eth, ports := serverAndClients(3)
		s := newISP(t, eth, ServerConfig{})
		var clients []*end
		for _, port := range ports {
			clients = append(clients, subscribe(t, port, ClientConfig{}))
			time.Sleep(100 * time.Millisecond)
		}
		require.Equal(t, 3, s.Sessions())
		require.NoError(t, clients[0].Close())
		require.NoError(t, clients[2].Close())
		require.Equal(t, 1, s.Sessions())
		x := s.accept()
		both(x, clients[1], time.Minute)
		require.True(t, clients[1].Link().Up, "the session that is left is that of the second client")
		accepted := make(chan error)
		go func() {
			_, err := s.Accept()
			accepted <- err
		}()
		synctest.Wait()
		require.NoError(t, s.Close())
		require.ErrorIs(t, <-accepted, net.ErrClosed, "there is no other session")
		clients[1].Close()
		x.Close()
	})
}

// A session may end between Accept and Attach. A host that is made with the device then learns that the device
// has failed.
func TestSessionThatEndsBeforeAttachIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		eth, ports := serverAndClients(1)
		s := newISP(t, eth, ServerConfig{})
		y := subscribe(t, ports[0], ClientConfig{})
		d, err := s.Accept()
		require.NoError(t, err)
		time.Sleep(100 * time.Millisecond)
		require.NoError(t, y.Close())
		time.Sleep(time.Second)
		require.ErrorIs(t, d.Err(), errSessionEnded)
		h, err := usernet.New(usernet.Config{NIC: d, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.1/32")}})
		require.NoError(t, err)
		select {
		case <-h.Done():
		case <-time.After(time.Minute):
			t.Fatal("the host does not learn that its device has failed")
		}
		require.ErrorIs(t, h.Err(), errSessionEnded)
		require.NoError(t, h.Close())
		require.NoError(t, s.Close())
	})
}
