package webrtc

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/webrtc/v4"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/nic"
)

// patience ends a test that hangs.
const patience = time.Minute

// newPeer makes a peer on a host. It is closed at the end of the test.
func newPeer(t *testing.T, h *usernet.Host) *webrtc.PeerConnection {
	t.Helper()
	var s webrtc.SettingEngine
	s.SetNet(hostNet{h})
	s.SetICEMulticastDNSMode(ice.MulticastDNSModeDisabled)
	s.SetNetworkTypes([]webrtc.NetworkType{webrtc.NetworkTypeUDP4})
	pc, err := webrtc.NewAPI(webrtc.WithSettingEngine(s)).NewPeerConnection(webrtc.Configuration{})
	require.NoError(t, err)
	t.Cleanup(func() { pc.Close() })
	return pc
}

// receive waits for a value on a channel.
func receive[T any](t *testing.T, ch <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("%s: nothing comes", what)
		panic("not reached")
	}
}

// connect connects the peers, with all candidates in the offer and the answer.
func connect(t *testing.T, a, b *webrtc.PeerConnection) {
	t.Helper()
	connected := make(chan struct{}, 2)
	for _, pc := range []*webrtc.PeerConnection{a, b} {
		var once sync.Once
		pc.OnConnectionStateChange(func(s webrtc.PeerConnectionState) {
			if s == webrtc.PeerConnectionStateConnected {
				once.Do(func() { connected <- struct{}{} })
			}
		})
	}
	offer, err := a.CreateOffer(nil)
	require.NoError(t, err)
	gathered := webrtc.GatheringCompletePromise(a)
	require.NoError(t, a.SetLocalDescription(offer))
	receive(t, gathered, "candidates of the offer")
	require.NoError(t, b.SetRemoteDescription(*a.LocalDescription()))
	answer, err := b.CreateAnswer(nil)
	require.NoError(t, err)
	gathered = webrtc.GatheringCompletePromise(b)
	require.NoError(t, b.SetLocalDescription(answer))
	receive(t, gathered, "candidates of the answer")
	require.NoError(t, a.SetRemoteDescription(*b.LocalDescription()))
	receive(t, connected, "connection")
	receive(t, connected, "connection")
}

// newPeers makes two hosts with one peer each.
func newPeers(t *testing.T, imp nic.Impairment) (a, b *webrtc.PeerConnection) {
	t.Helper()
	ea, eb := nic.Pipe(nic.PipeConfig{})
	wire := nic.Impair(ea, nic.ImpairConfig{In: imp, Out: imp, Seed: 5})
	return newPeer(t, hosttest.Host(t, wire, "192.0.2.1")), newPeer(t, hosttest.Host(t, eb, "192.0.2.2"))
}

// sendAll sends count messages of many sizes over a data channel. It requires that the other side
// receives them and that its answer arrives.
func sendAll(t *testing.T, a, b *webrtc.PeerConnection, count int) {
	t.Helper()
	ch, err := a.CreateDataChannel("test", nil)
	require.NoError(t, err)
	sum, opened := make(chan string, 1), make(chan struct{})
	b.OnDataChannel(func(d *webrtc.DataChannel) {
		hash, n := sha256.New(), 0
		d.OnMessage(func(m webrtc.DataChannelMessage) {
			hash.Write(m.Data)
			if n++; n == count {
				sum <- fmt.Sprintf("%x", hash.Sum(nil))
				d.SendText("all here")
			}
		})
	})
	answer := make(chan webrtc.DataChannelMessage, 1)
	ch.OnMessage(func(m webrtc.DataChannelMessage) { answer <- m })
	ch.OnOpen(func() { close(opened) })
	connect(t, a, b)
	receive(t, opened, "data channel")

	// The channel's own flow control bounds the buffered data.
	low := make(chan struct{}, 1)
	ch.SetBufferedAmountLowThreshold(256 << 10)
	ch.OnBufferedAmountLow(func() {
		select {
		case low <- struct{}{}:
		default:
		}
	})
	hash, source := sha256.New(), rand.NewChaCha8([32]byte{'w'})
	for i := range count {
		m := make([]byte, 1+i*53%(32<<10))
		source.Read(m)
		hash.Write(m)
		require.NoError(t, ch.Send(m))
		if ch.BufferedAmount() > 1<<20 {
			receive(t, low, "room in the buffer")
		}
	}
	require.Equal(t, fmt.Sprintf("%x", hash.Sum(nil)), receive(t, sum, "messages"))
	m := receive(t, answer, "answer")
	require.True(t, m.IsString)
	require.True(t, bytes.Equal([]byte("all here"), m.Data))
}

func TestDataChannel(t *testing.T) {
	a, b := newPeers(t, nic.Impairment{})
	sendAll(t, a, b, 1000)
	pair, err := a.SCTP().Transport().ICETransport().GetSelectedCandidatePair()
	require.NoError(t, err)
	require.Equal(t, "192.0.2.1", pair.Local.Address)
	require.Equal(t, "192.0.2.2", pair.Remote.Address)
}

func TestDataChannelOverLossyLink(t *testing.T) {
	a, b := newPeers(t, nic.Impairment{Latency: 2 * time.Millisecond, Loss: 0.01})
	sendAll(t, a, b, 200)
}

func TestAdapterIsACompleteNetwork(t *testing.T) {
	h := hosttest.Loopback(t)
	n := hostNet{h}
	ln, err := n.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer ln.Close()
	c, err := n.CreateDialer(&net.Dialer{Timeout: patience}).Dial("tcp", ln.Addr().String())
	require.NoError(t, err)
	defer c.Close()
	s, err := ln.AcceptTCP()
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, c.LocalAddr().String(), s.RemoteAddr().String())
	lo, err := n.InterfaceByName("lo")
	require.NoError(t, err)
	addrs, err := lo.Addrs()
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1/8", addrs[0].String())
	require.NotZero(t, lo.Flags&net.FlagLoopback)
	same, err := n.InterfaceByIndex(lo.Index)
	require.NoError(t, err)
	require.Equal(t, "lo", same.Name)
	_, err = n.InterfaceByName("eth7")
	require.Error(t, err)
	_, err = n.DialTCP("tcp", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
	require.ErrorContains(t, err, "connection refused")
}
