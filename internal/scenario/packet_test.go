package scenario

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/internal/world"
)

func TestAPacketConnAndAConnToIt(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server)
		require.Equal(t, "udp", pc.LocalAddr().Network())
		c := w.To(t, pc.LocalAddr())
		require.Equal(t, pc.LocalAddr().String(), c.RemoteAddr().String())
		require.NoError(t, pc.SetDeadline(time.Now().Add(time.Minute)))
		require.NoError(t, c.SetDeadline(time.Now().Add(time.Minute)))
		b := make([]byte, 100)
		for i := range 20 {
			question := fmt.Sprint("question ", i)
			n, err := c.Write([]byte(question))
			require.NoError(t, err)
			require.Equal(t, len(question), n)
			n, from, err := pc.ReadFrom(b)
			require.NoError(t, err)
			require.Equal(t, question, string(b[:n]))
			require.Equal(t, c.LocalAddr().String(), from.String())
			n, err = pc.WriteTo(b[:n], from)
			require.NoError(t, err)
			require.Equal(t, len(question), n)
			n, err = c.Read(b)
			require.NoError(t, err)
			require.Equal(t, question, string(b[:n]))
		}
		require.NoError(t, pc.Close())
		require.ErrorIs(t, pc.Close(), net.ErrClosed)
	})
}

func TestAClosedPacketConnWakesItsReader(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server)
		failed := make(chan error, 1)
		go func() {
			_, _, err := pc.ReadFrom(make([]byte, 1))
			failed <- err
		}()
		time.Sleep(10 * time.Millisecond)
		require.NoError(t, pc.Close())
		require.ErrorIs(t, <-failed, net.ErrClosed)
		_, err := pc.WriteTo([]byte("x"), pc.LocalAddr())
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

// Each method that reads receives what each method that writes has sent.
func TestEachFormOfReadAndWriteGoesWithEachOther(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		server := w.ListenUDP(t, w.Server).(world.UDPConn)
		client := w.ListenUDP(t, w.Client).(world.UDPConn)
		to := server.LocalAddr().(*net.UDPAddr)
		plain := func(a netip.AddrPort) string { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String() }
		writes := []func(b []byte) (int, error){
			func(b []byte) (int, error) { return client.WriteTo(b, to) },
			func(b []byte) (int, error) { return client.WriteToUDP(b, to) },
			func(b []byte) (int, error) { return client.WriteToUDPAddrPort(b, to.AddrPort()) },
			func(b []byte) (n int, err error) { n, _, err = client.WriteMsgUDP(b, nil, to); return },
			func(b []byte) (n int, err error) {
				n, _, err = client.WriteMsgUDPAddrPort(b, nil, to.AddrPort())
				return
			},
		}
		reads := []func(b []byte) (int, string, error){
			func(b []byte) (int, string, error) { n, a, err := server.ReadFrom(b); return n, a.String(), err },
			func(b []byte) (int, string, error) { n, a, err := server.ReadFromUDP(b); return n, a.String(), err },
			func(b []byte) (int, string, error) {
				n, a, err := server.ReadFromUDPAddrPort(b)
				return n, plain(a), err
			},
			func(b []byte) (int, string, error) {
				n, _, _, a, err := server.ReadMsgUDP(b, nil)
				return n, a.String(), err
			},
			func(b []byte) (int, string, error) {
				n, _, _, a, err := server.ReadMsgUDPAddrPort(b, nil)
				return n, plain(a), err
			},
		}
		b := make([]byte, 100)
		for i, write := range writes {
			for j, read := range reads {
				want := fmt.Sprint(i, j)
				n, err := write([]byte(want))
				require.NoError(t, err)
				require.Equal(t, len(want), n)
				n, from, err := read(b)
				require.NoError(t, err)
				require.Equal(t, want, string(b[:n]))
				require.Equal(t, client.LocalAddr().String(), from)
			}
		}
	})
}

func TestAnEmptyDatagramIsDelivered(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server)
		c := w.To(t, pc.LocalAddr())
		require.NoError(t, pc.SetReadDeadline(time.Now().Add(10*time.Second)))
		for _, empty := range [][]byte{nil, {}} {
			n, err := c.Write(empty)
			require.NoError(t, err)
			require.Zero(t, n)
			n, from, err := pc.ReadFrom(make([]byte, 10))
			require.NoError(t, err)
			require.Zero(t, n)
			require.Equal(t, c.LocalAddr().String(), from.String())
		}
		// A datagram with data may be read into an empty buffer.
		c.Write([]byte("gone"))
		n, _, err := pc.ReadFrom(nil)
		require.NoError(t, err)
		require.Zero(t, n)
		c.Write([]byte("next"))
		b := make([]byte, 10)
		n, _, err = pc.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, "next", string(b[:n]))
	})
}

func TestTheRestOfALongDatagramIsDiscarded(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server).(world.UDPConn)
		c := w.To(t, pc.LocalAddr())
		c.Write([]byte("a long one"))
		c.Write([]byte("a long one"))
		c.Write([]byte("next"))
		b := make([]byte, 6)
		n, _, err := pc.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, "a long", string(b[:n]))
		n, _, flags, _, err := pc.ReadMsgUDP(b, nil)
		require.NoError(t, err)
		require.Equal(t, "a long", string(b[:n]))
		require.Equal(t, syscall.MSG_TRUNC, flags)
		n, _, flags, _, err = pc.ReadMsgUDP(b, nil)
		require.NoError(t, err)
		require.Equal(t, "next", string(b[:n]))
		require.Zero(t, flags)
	})
}

func TestDatagramsOfAllSizesArrive(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server)
		c := w.To(t, pc.LocalAddr())
		require.NoError(t, pc.SetReadDeadline(time.Now().Add(10*time.Second)))
		b := make([]byte, 1<<16)
		for _, size := range []int{1, 1471, 1472, 1473, 2960, 9000, 32768, 65507} { // 1473 bytes and more need fragments
			want := hosttest.Text(size)
			_, err := c.Write(want)
			require.NoError(t, err)
			n, _, err := pc.ReadFrom(b)
			require.NoError(t, err)
			require.Equal(t, want, b[:n])
		}
		_, err := c.Write(make([]byte, 65508))
		require.ErrorIs(t, err, syscall.EMSGSIZE)
	})
}

func TestASocketNamesItsAddress(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		for network, addr := range map[string]string{"udp": w.Server, "udp4": ""} {
			pc, err := w.ListenPacket(network, net.JoinHostPort(addr, "0"))
			require.NoError(t, err)
			local := pc.LocalAddr().(*net.UDPAddr)
			require.NotZero(t, local.Port)
			if addr == "" {
				addr = "0.0.0.0"
			}
			require.Equal(t, addr, local.IP.String())
			require.NoError(t, pc.Close())
			require.Equal(t, local.String(), pc.LocalAddr().String(), "after Close too")
		}
		c, err := w.Dial(context.Background(), world.DialOptions{}, "udp", net.JoinHostPort(w.Server, "9"))
		require.NoError(t, err)
		defer c.Close()
		require.Equal(t, w.Client, c.LocalAddr().(*net.UDPAddr).IP.String(), "a dialed socket has the source address of its route")
		require.Equal(t, w.Server+":9", c.RemoteAddr().String())
	})
}

func TestAConnectedSocketHearsOnlyItsPeer(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		peer := w.ListenUDP(t, w.Server)
		other := w.ListenUDP(t, w.Server)
		c := w.To(t, peer.LocalAddr())
		other.WriteTo([]byte("other"), c.LocalAddr())
		peer.WriteTo([]byte("peer"), c.LocalAddr())
		b := make([]byte, 10)
		n, err := c.Read(b)
		require.NoError(t, err)
		require.Equal(t, "peer", string(b[:n]))
		_, err = c.(net.PacketConn).WriteTo(b, peer.LocalAddr())
		require.ErrorIs(t, err, net.ErrWriteToConnected)
	})
}

// The error of a closed port is reported once.
func TestANobodyAnswersOnce(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		gone := w.ListenUDP(t, w.Server)
		gone.Close()
		c := w.To(t, gone.LocalAddr())
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Second)))
		_, err := c.Write([]byte("anybody?"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the error is reported once")
		// When a new socket is bound to that address, the same client socket reaches it.
		again, err := w.ListenPacket("udp", gone.LocalAddr().String())
		require.NoError(t, err)
		defer again.Close()
		_, err = c.Write([]byte("and now?"))
		require.NoError(t, err)
		b := make([]byte, 10)
		n, _, err := again.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, "and now?", string(b[:n]))
	})
}

func TestAUDPServerServesManyClients(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc := w.ListenUDP(t, w.Server)
		go func() {
			b := make([]byte, 2000)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				pc.WriteTo(b[:n], from)
			}
		}()
		var clients sync.WaitGroup
		for i := range 10 {
			c := w.To(t, pc.LocalAddr())
			clients.Go(func() {
				b := make([]byte, 2000)
				for j := range 30 {
					want := fmt.Sprintf("%d from %d", j, i)
					c.Write([]byte(want))
					c.SetReadDeadline(time.Now().Add(10 * time.Second))
					n, err := c.Read(b)
					if err != nil || string(b[:n]) != want {
						t.Errorf("%q for %q: %v", b[:n], want, err)
						return
					}
				}
			})
		}
		clients.Wait()
	})
}

func TestManyGoroutinesUseOneSocket(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		const writers, each = 4, 50
		pc := w.ListenUDP(t, w.Server).(world.UDPConn)
		pc.SetReadBuffer(1 << 20)
		client := w.ListenUDP(t, w.Client).(world.UDPConn)
		client.SetWriteBuffer(1 << 20)
		// Resolve the MAC address first, because only a few packets are queued during the resolution.
		_, err := client.WriteTo([]byte("first"), pc.LocalAddr())
		require.NoError(t, err)
		_, _, err = pc.ReadFrom(make([]byte, 10))
		require.NoError(t, err)
		got := make(chan string, writers*each)
		var readers, senders sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				b := make([]byte, 100)
				for {
					n, _, err := pc.ReadFromUDPAddrPort(b)
					if err != nil {
						return
					}
					got <- string(b[:n])
				}
			})
		}
		for i := range writers {
			senders.Go(func() {
				for j := range each {
					if _, err := client.WriteTo(fmt.Appendf(nil, "%d/%d", i, j), pc.LocalAddr()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		senders.Wait()
		seen := map[string]int{}
		for range writers * each {
			select {
			case s := <-got:
				seen[s]++
			case <-time.After(10 * time.Second):
				t.Fatalf("%d of %d datagrams came", len(seen), writers*each)
			}
		}
		for s, n := range seen {
			require.Equal(t, 1, n, s)
		}
		pc.Close()
		readers.Wait()
	})
}

func TestTheWildcardReceivesForEachAddress(t *testing.T) {
	everywhere(t, func(t *testing.T, w *world.World) {
		pc, err := w.ListenPacket("udp4", ":0")
		require.NoError(t, err)
		defer pc.Close()
		to := &net.UDPAddr{IP: net.ParseIP(w.Server), Port: pc.LocalAddr().(*net.UDPAddr).Port}
		c := w.To(t, to)
		c.Write([]byte("to one of many"))
		b := make([]byte, 20)
		n, from, err := pc.ReadFrom(b)
		require.NoError(t, err)
		require.Equal(t, "to one of many", string(b[:n]))
		_, err = pc.WriteTo([]byte("from the same"), from)
		require.NoError(t, err)
		n, err = c.Read(b)
		require.NoError(t, err, "a connected socket hears only the address that it wrote to")
		require.Equal(t, "from the same", string(b[:n]))
	})
}
