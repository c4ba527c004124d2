package contract

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/usernet/usernet"
	"github.com/usernet/usernet/internal/hosttest"
	"github.com/usernet/usernet/internal/world"
	"github.com/usernet/usernet/nic"
	"golang.org/x/sys/unix"
)

// A silentWorld is a World in which a listener or connection of the server can be silenced.
type silentWorld struct {
	*world.World
	// silence discards all segments to a listener or connection of the server from now on.
	silence func(t *testing.T, server any)
	// giveUp has the options of a dial that fails sooner than after the kernel's two minutes.
	giveUp world.DialOptions
	// impatient makes a connection fail soon if its data is not acknowledged.
	impatient func(t *testing.T, c world.TCPConn)
}

// A silentBehaviour is a behaviour with a peer that does not answer. It runs in real time on the kernel, and
// in virtual time with usernet.
type silentBehaviour struct {
	name string
	run  func(t *testing.T, w *silentWorld) []any
	want string
}

// nobody is an address on the hosts' link that no host has.
const nobody = "192.0.2.99"

// option sets an option of a kernel socket.
func option(t *testing.T, c syscall.Conn, set func(fd int) error) {
	t.Helper()
	raw, err := c.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = set(int(fd)) }))
	require.NoError(t, err)
}

// silentKernel returns a silentWorld of the kernel. A socket filter silences a socket.
func silentKernel() *silentWorld {
	w := world.Kernel()
	w.Listen = func(network, address string) (net.Listener, error) {
		var lc net.ListenConfig
		lc.SetMultipathTCP(false) // a filter does not work on a Multipath TCP socket
		return lc.Listen(context.Background(), network, address)
	}
	return &silentWorld{
		World: w,
		silence: func(t *testing.T, server any) {
			option(t, server.(syscall.Conn), attachDrop)
		},
		giveUp: world.DialOptions{Control: func(_, _ string, c syscall.RawConn) (err error) {
			failed := c.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_SYNCNT, 1) })
			return errors.Join(failed, err)
		}},
		impatient: func(t *testing.T, c world.TCPConn) {
			option(t, c.(syscall.Conn), func(fd int) error {
				return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 300)
			})
		},
	}
}

// A scissors is a device whose link can be cut.
type scissors struct {
	nic.Device
	cut atomic.Bool
}

func (s *scissors) Nonblocking() nic.Device { return s }

func (s *scissors) Send(batch []nic.Frame) (int, error) {
	if s.cut.Load() {
		return len(batch), nil
	}
	return s.Device.Send(batch)
}

// silentPipe returns a silentWorld of two usernet hosts. Cutting the wire silences the server.
func silentPipe(t *testing.T) *silentWorld {
	ea, eb := nic.Pipe(nic.PipeConfig{})
	wire := &scissors{Device: ea}
	a, b := hosttest.Host(t, wire, hosttest.AddrA), hosttest.Host(t, eb, hosttest.AddrB)
	w := world.Usernet("pipe", a, b, hosttest.AddrA, hosttest.AddrB)
	w.Pair(t) // resolves both link addresses
	return &silentWorld{
		World:   w,
		silence: func(*testing.T, any) { wire.cut.Store(true) },
		impatient: func(t *testing.T, c world.TCPConn) {
			require.NoError(t, c.(*usernet.TCPConn).SetUserTimeout(300*time.Millisecond))
		},
	}
}

// lacksFilters returns the reason why kernel sockets cannot be silenced, or "" if they can. On some
// versions of Linux (seen with 6.18) attaching a filter to a TCP socket needs CAP_NET_ADMIN.
func lacksFilters(t *testing.T) string {
	t.Helper()
	ln, err := silentKernel().Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	defer ln.Close()
	raw, err := ln.(syscall.Conn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = attachDrop(int(fd)) }))
	if err != nil && os.Geteuid() != 0 {
		return "needs root, to attach a filter to a kernel TCP socket (SO_ATTACH_FILTER): " + err.Error()
	}
	require.NoError(t, err)
	return ""
}

// attachDrop makes a socket receive nothing from now on.
func attachDrop(fd int) error {
	drop := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
	return unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &drop)
}

func TestSilentPeersAreReportedAsByTheKernel(t *testing.T) {
	lacking := lacksFilters(t)
	for _, b := range silentBehaviours() {
		t.Run(b.name, func(t *testing.T) {
			k := silentKernel()
			t.Parallel() // the tests mostly wait, so many of them can run at the same time
			var kernel []string
			if lacking == "" {
				kernel = transcript(t, k.World, behaviour{run: func(t *testing.T, _ *world.World) []any { return b.run(t, k) }}, b.want)
			}
			synctest.Test(t, func(t *testing.T) {
				w := silentPipe(t)
				ours := transcript(t, w.World, behaviour{run: func(t *testing.T, _ *world.World) []any { return b.run(t, w) }}, b.want)
				if lacking == "" {
					require.Equal(t, kernel, ours)
				}
			})
			if lacking != "" {
				t.Skip(lacking + ": usernet's side ran, and was not compared with the kernel's")
			}
		})
	}
}

func silentBehaviours() []silentBehaviour {
	// waiting dials to a silenced listener.
	waiting := func(t *testing.T, w *silentWorld, ctx context.Context, o world.DialOptions) []any {
		ln := w.Listener(t)
		w.silence(t, ln)
		return dialed(w.Dial(ctx, o, "tcp", ln.Addr().String()))
	}
	// overtime replaces the observation of a timeout error by its fields. net reports the timeout of the
	// context or of the socket, at random, because both have the same deadline.
	overtime := func(seen []any) []any {
		err := seen[0].(*net.OpError)
		late := errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)
		return []any{err.Op, err.Net, err.Source, err.Addr, err.Timeout(), err.Temporary(), late, err.Error()}
	}
	ctx, soon := context.Background(), 30*time.Millisecond
	return []silentBehaviour{
		{"a dial that gets no answer", func(t *testing.T, w *silentWorld) []any {
			return waiting(t, w, ctx, w.giveUp)
		}, "connect: connection timed out"},
		{"a dial whose timeout passes", func(t *testing.T, w *silentWorld) []any {
			return overtime(waiting(t, w, ctx, world.DialOptions{Timeout: soon}))
		}, `i/o timeout"`},
		{"a dial whose deadline passes", func(t *testing.T, w *silentWorld) []any {
			return overtime(waiting(t, w, ctx, world.DialOptions{Deadline: time.Now().Add(soon)}))
		}, `i/o timeout"`},
		{"a dial whose context's deadline passes", func(t *testing.T, w *silentWorld) []any {
			ctx, cancel := context.WithTimeout(ctx, soon)
			defer cancel()
			return overtime(waiting(t, w, ctx, world.DialOptions{Timeout: time.Minute}))
		}, `i/o timeout"`},
		{"a dial whose context is cancelled", func(t *testing.T, w *silentWorld) []any {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(soon, cancel)
			return waiting(t, w, ctx, world.DialOptions{Timeout: time.Minute})
		}, "operation was canceled"},
		{"a dial whose Cancel is closed", func(t *testing.T, w *silentWorld) []any {
			quit := make(chan struct{})
			time.AfterFunc(soon, func() { close(quit) })
			return waiting(t, w, ctx, world.DialOptions{Cancel: quit})
		}, "operation was canceled"},
		{"a DialTimeout that passes", func(t *testing.T, w *silentWorld) []any {
			ln := w.Listener(t)
			w.silence(t, ln)
			return overtime(dialed(w.DialTimeout("tcp", ln.Addr().String(), soon)))
		}, `i/o timeout"`},
		{"data that is never acknowledged", func(t *testing.T, w *silentWorld) []any {
			c, s := w.Pair(t)
			w.silence(t, s)
			w.impatient(t, c)
			return []any{writeErr(c), readErr(c), readErr(c), writeErr(c), c.CloseWrite()}
		}, "shutdown: transport endpoint is not connected"},
		{"a blocked write that is never acknowledged", func(t *testing.T, w *silentWorld) []any {
			c, s := w.Pair(t)
			w.silence(t, s)
			w.impatient(t, c)
			_, err := c.Write(make([]byte, 64<<20))
			return []any{err, writeErr(c), readErr(c), c.Close()}
		}, "<nil>"},
		{"keep-alive that is not answered", func(t *testing.T, w *silentWorld) []any {
			c, s := w.Pair(t)
			w.silence(t, s)
			keep := net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 1}
			return []any{c.SetKeepAliveConfig(keep), readErr(c), readErr(c), writeErr(c)}
		}, "write: broken pipe"},
		{"a Close whose linger time passes", func(t *testing.T, w *silentWorld) []any {
			c, s := w.Pair(t)
			w.silence(t, s)
			began := time.Now()
			seen := []any{c.SetLinger(1), writeErr(c), c.Close()}
			return append(seen, time.Since(began) >= time.Second)
		}, "true"},
		{"a deadline while nothing is acknowledged", func(t *testing.T, w *silentWorld) []any {
			c, s := w.Pair(t)
			w.silence(t, s)
			return []any{writeErr(c), c.SetReadDeadline(time.Now().Add(soon)), readErr(c)}
		}, "i/o timeout"},
	}
}

// unrouted runs f in a new network namespace of the kernel. The namespace has only a loopback, and what the
// ip(8) commands add.
func unrouted(t *testing.T, f func(w *world.World) []any, commands ...[]string) []any {
	t.Helper()
	var err error
	var seen []any
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // it is never unlocked, so the thread ends with the goroutine
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return
		}
		for _, args := range append([][]string{{"link", "set", "lo", "up"}}, commands...) {
			if err = exec.Command("ip", args...).Run(); err != nil {
				return
			}
		}
		seen = f(world.Kernel())
	}()
	<-done
	require.NoError(t, err)
	return seen
}

func TestUnreachableIsTheKernels(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to make a network namespace of the kernel's")
	}
	const away = "203.0.113.1"
	dial := func(network, address string, o world.DialOptions) func(w *world.World) []any {
		return func(w *world.World) []any { return dialed(w.Dial(context.Background(), o, network, address)) }
	}
	for _, b := range []struct {
		name string
		run  func(w *world.World) []any
		want string
	}{
		{"dial without a route", dial("tcp", away+":80", world.DialOptions{}), "connect: network is unreachable"},
		{"dial UDP without a route", dial("udp", away+":80", world.DialOptions{}), "connect: network is unreachable"},
		{"dial IP without a route", dial("ip4:253", away, world.DialOptions{}), "connect: network is unreachable"},
		{"dial without a route from a port", dial("tcp", away+":80", world.DialOptions{Local: &net.TCPAddr{Port: 7}}), "connect: network is unreachable"},
		{"dial to the broadcast address without a route", dial("tcp", "255.255.255.255:80", world.DialOptions{}), "connect: network is unreachable"},
		{"WriteTo without a route", func(w *world.World) []any {
			c, err := w.ListenPacket("udp4", ":0")
			if err != nil {
				return []any{err}
			}
			defer c.Close()
			to := &net.UDPAddr{IP: net.ParseIP(away), Port: 9}
			_, err = c.WriteTo([]byte("x"), to)
			_, _, msg := c.(world.UDPConn).WriteMsgUDP([]byte("x"), nil, to)
			_, again := c.WriteTo([]byte("x"), to)
			return []any{err, msg, again}
		}, "sendto: network is unreachable"},
		{"WriteTo of an IP socket without a route", func(w *world.World) []any {
			c, err := w.ListenPacket("ip4:253", "")
			if err != nil {
				return []any{err}
			}
			defer c.Close()
			_, err = c.WriteTo([]byte("x"), &net.IPAddr{IP: net.ParseIP(away)})
			return []any{err}
		}, "sendto: network is unreachable"},
	} {
		t.Run(b.name, func(t *testing.T) {
			run := behaviour{run: func(t *testing.T, w *world.World) []any {
				if w.Name == "kernel" {
					return unrouted(t, b.run)
				}
				return b.run(w)
			}}
			kernel := transcript(t, world.Kernel(), run, b.want)
			lo := hosttest.Loopback(t)
			require.Equal(t, kernel, transcript(t, world.Usernet("loopback", lo, lo, "127.0.0.1", "127.0.0.1"), run, b.want))
		})
	}
	t.Run("dial to a neighbour that is silent", func(t *testing.T) {
		run := behaviour{run: func(t *testing.T, w *world.World) []any {
			if w.Name == "kernel" {
				return unrouted(t, dial("tcp", nobody+":80", world.DialOptions{}), []string{"route", "add", "unreachable", nobody})
			}
			return dial("tcp", nobody+":80", world.DialOptions{})(w)
		}}
		kernel := transcript(t, world.Kernel(), run, "connect: no route to host")
		synctest.Test(t, func(t *testing.T) {
			a, b := hosttest.Pair(t)
			require.Equal(t, kernel, transcript(t, world.Usernet("pipe", a, b, hosttest.AddrA, hosttest.AddrB), run, "connect: no route to host"))
		})
	})
}
