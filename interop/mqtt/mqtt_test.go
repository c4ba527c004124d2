package mqtt

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
)

// patience ends a test that hangs.
const patience = time.Minute

// serve runs a broker on a host until the end of the test.
func serve(t *testing.T, h *usernet.Host) *mochi.Server {
	t.Helper()
	s := mochi.New(&mochi.Options{Logger: slog.New(slog.NewTextHandler(io.Discard, nil))})
	require.NoError(t, s.AddHook(new(auth.AllowHook), nil))
	ln, err := h.Listen("tcp", ":1883")
	require.NoError(t, err)
	require.NoError(t, s.AddListener(listeners.NewNet("usernet", ln)))
	require.NoError(t, s.Serve())
	t.Cleanup(func() { s.Close() })
	return s
}

// connect makes a client on a host.
func connect(t *testing.T, h *usernet.Host, id string, change ...func(*paho.ClientOptions)) paho.Client {
	t.Helper()
	o := paho.NewClientOptions().AddBroker("tcp://server.test:1883").SetClientID(id)
	o.SetOrderMatters(true)
	o.SetCustomOpenConnectionFn(func(u *url.URL, _ paho.ClientOptions) (net.Conn, error) {
		return h.Dial("tcp", u.Host)
	})
	for _, f := range change {
		f(o)
	}
	c := paho.NewClient(o)
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

// wait waits until the operation of a token has ended.
func wait(t *testing.T, token paho.Token) {
	t.Helper()
	require.True(t, token.WaitTimeout(patience), "no answer")
	require.NoError(t, token.Error())
}

func TestMessagesArriveAtEachQualityOfService(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	sub, pub := connect(t, a, "subscriber"), connect(t, a, "publisher")
	for qos := range byte(3) {
		const n = 200
		got := make(chan string, n)
		topic := fmt.Sprintf("test/%d", qos)
		wait(t, sub.Subscribe(topic, qos, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }))
		for i := range n {
			wait(t, pub.Publish(topic, qos, false, fmt.Sprint(i)))
		}
		for i := range n {
			select {
			case m := <-got:
				require.Equal(t, fmt.Sprint(i), m, "quality of service %d", qos)
			case <-time.After(patience):
				t.Fatalf("quality of service %d: message %d has not come", qos, i)
			}
		}
	}
}

func TestLargeMessageAndRetainedOne(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	pub := connect(t, a, "publisher")
	large := strings.Repeat("usernet ", 1<<18)
	wait(t, pub.Publish("large", 1, true, large))
	got := make(chan string, 1)
	wait(t, connect(t, a, "subscriber").Subscribe("#", 1, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }))
	select {
	case m := <-got:
		require.Len(t, m, len(large))
		require.True(t, m == large)
	case <-time.After(patience):
		t.Fatal("the message has not come")
	}
}

func TestWillIsPublishedWhenAHostIsGone(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	got := make(chan string, 1)
	wait(t, connect(t, b, "watcher").Subscribe("wills", 1, func(_ paho.Client, m paho.Message) { got <- string(m.Payload()) }))
	connect(t, a, "mortal", func(o *paho.ClientOptions) {
		o.SetWill("wills", "farewell", 1, false)
		o.SetAutoReconnect(false)
	})
	require.NoError(t, a.Close())
	select {
	case m := <-got:
		require.Equal(t, "farewell", m)
	case <-time.After(patience):
		t.Fatal("the will has not come")
	}
}

func TestClientIsToldThatTheHostOfTheBrokerIsGone(t *testing.T) {
	a, b := hosttest.Pair(t)
	serve(t, b)
	lost := make(chan error, 1)
	connect(t, a, "client", func(o *paho.ClientOptions) {
		o.SetAutoReconnect(false)
		o.SetConnectionLostHandler(func(_ paho.Client, err error) { lost <- err })
	})
	require.NoError(t, b.Close())
	select {
	case err := <-lost:
		require.ErrorIs(t, err, syscall.ECONNRESET)
	case <-time.After(patience):
		t.Fatal("the client has not been told")
	}
}
