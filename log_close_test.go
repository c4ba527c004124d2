package usernet_test

import (
	"context"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
)

// A funcHandler is a slog.Handler that calls f with the message of each record.
type funcHandler struct{ f func(msg string) }

func (h funcHandler) Enabled(context.Context, slog.Level) bool { return true }
func (h funcHandler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h funcHandler) WithGroup(string) slog.Handler            { return h }
func (h funcHandler) Handle(_ context.Context, r slog.Record) error {
	h.f(r.Message)
	return nil
}

func TestCloseWaitsForTheHandlerOfTheLog(t *testing.T) {
	for _, slow := range []string{"connection opened", "link removed"} {
		synctest.Test(t, func(t *testing.T) {
			entered, leave := make(chan struct{}), make(chan struct{})
			var closed, late atomic.Bool
			near, far := nic.Pipe(nic.PipeConfig{})
			other, _ := nic.Pipe(nic.PipeConfig{})
			h, err := usernet.New(usernet.Config{NIC: near, Addrs: prefixes("192.0.2.1/24"), Logger: slog.New(funcHandler{func(msg string) {
				if msg == slow {
					close(entered)
					<-leave
				}
				if closed.Load() {
					late.Store(true)
				}
			}})})
			require.NoError(t, err)
			peer, err := usernet.New(usernet.Config{NIC: far, Addrs: prefixes("192.0.2.2/24")})
			require.NoError(t, err)
			defer peer.Close()
			ln, err := h.Listen("tcp", "192.0.2.1:80")
			require.NoError(t, err)
			defer ln.Close()
			c, err := peer.Dial("tcp", "192.0.2.1:80")
			require.NoError(t, err)
			defer c.Close()
			require.NoError(t, h.Stack().AddNIC(usernet.NIC{Name: "eth7", Device: other}))
			time.Sleep(time.Second)
			require.NoError(t, h.Stack().RemoveNIC("eth7"))
			<-entered
			go func() {
				h.Close()
				closed.Store(true)
			}()
			synctest.Wait()
			require.False(t, closed.Load(), "the handler of %q has not returned", slow)
			close(leave)
			time.Sleep(time.Minute)
			require.True(t, closed.Load())
			require.False(t, late.Load())
		})
	}
}

// A change that happens while the handler writes the records of the start is logged, even if no other change follows.
func TestChangesDuringTheLogOfTheStartAreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		changed := 0
		near, far := nic.Pipe(nic.PipeConfig{})
		defer far.Close()
		h, err := usernet.New(usernet.Config{NIC: near, Addrs: []netip.Prefix{netip.MustParsePrefix("2001:db8::1/64")}, Logger: slog.New(funcHandler{func(msg string) {
			switch msg {
			case "host started":
				time.Sleep(10 * time.Second) // until the address is no longer tentative
			case "address changed":
				changed++
			}
		}})})
		require.NoError(t, err)
		defer h.Close()
		synctest.Wait()
		require.NotZero(t, changed)
	})
}
