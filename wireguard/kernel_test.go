//go:build linux

package wireguard

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/usernet/usernet/internal/netns"
)

// The addresses of the two namespaces, between which the encrypted packets travel.
var outer = [2]string{"198.51.100.1", "198.51.100.2"}

// twoNamespaces makes two namespaces with a cable between them. If loss is set, one in a hundred of the UDP packets that
// the second namespace receives or sends is lost.
func twoNamespaces(t *testing.T, loss bool) (a, b netns.Namespace) {
	t.Helper()
	a, b = netns.New(t), netns.New(t)
	netns.Join(t, a, b)
	for i, ns := range []netns.Namespace{a, b} {
		ns.Run(t, "ip", "addr", "add", outer[i]+"/24", "dev", "veth")
	}
	if loss {
		b.Lose(t, "meta l4proto udp")
	}
	return a, b
}

// startKernel configures the tunnel's first end in the namespace: Debian's wireguard-go on a TUN device of the kernel.
func startKernel(t *testing.T, ns netns.Namespace, cfg Config) {
	t.Helper()
	const port = 51820
	// Namespaces do not separate the sockets /var/run/wireguard/NAME.sock.
	ifc := fmt.Sprintf("wg%d", os.Getpid())
	cmd := exec.Command("ip", "netns", "exec", string(ns), "wireguard-go", "-f", ifc)
	var errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &errs, &errs
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(unix.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("wireguard-go: %s", errs.String())
		}
	})
	file := filepath.Join(t.TempDir(), "wg.conf")
	p := cfg.Peers[0]
	require.NoError(t, os.WriteFile(file, fmt.Appendf(nil,
		"[Interface]\nPrivateKey = %v\nListenPort = %d\n[Peer]\nPublicKey = %v\nPresharedKey = %v\nAllowedIPs = %v, %v\n",
		cfg.PrivateKey, port, p.PublicKey, p.PresharedKey, p.AllowedIPs[0], p.AllowedIPs[1]), 0o600))
	require.Eventually(t, func() bool {
		return exec.Command("ip", "netns", "exec", string(ns), "wg", "setconf", ifc, file).Run() == nil
	}, patience, 50*time.Millisecond)
	for _, a := range cfg.Addresses {
		ns.Shell(t, fmt.Sprintf("ip addr add %[1]v dev %[2]s $([[ %[1]v == *:* ]] && echo nodad)", a, ifc))
	}
	ns.Shell(t, "ip link set "+ifc+" mtu 1420 up")
}

func TestKernelReachesTheHostThroughWireguardGo(t *testing.T) {
	netns.Need(t, "wireguard-go", "wg", "curl", "ping", "nft", "sha256sum")
	for _, loss := range []bool{false, true} {
		t.Run(fmt.Sprintf("loss %v", loss), func(t *testing.T) {
			far, near := twoNamespaces(t, loss)
			cfgs := configs(t, outer[0]+":51820")
			startKernel(t, far, cfgs[0])
			var wg *Interface
			require.NoError(t, near.Do(func() (err error) {
				wg, err = Open(t.Context(), cfgs[1])
				return err
			}))
			t.Cleanup(func() { wg.Close() })
			requireKernelReaches(t, far, wg, loss)
		})
	}
}

// requireKernelReaches checks the traffic between the kernel of the namespace far and the host wg, in both directions
// and in both families.
func requireKernelReaches(t *testing.T, far netns.Namespace, wg *Interface, loss bool) {
	t.Helper()
	serveEcho(t, wg)
	body := content(4 << 20)
	file := filepath.Join(t.TempDir(), "body")
	require.NoError(t, os.WriteFile(file, body, 0o600))
	want := sha256.Sum256(body)
	for i, addrs := range [][2]string{addrs4, addrs6} {
		// The host sends first, because the kernel does not know the endpoint of the host yet.
		var ln net.Listener
		require.NoError(t, far.Do(func() (err error) {
			ln, err = net.Listen("tcp", net.JoinHostPort(addrs[0], "80"))
			return err
		}))
		serveEcho(t, listener{ln})
		requireEcho(t, wg.DialContext, addrs[0], 4<<20)

		url := "http://" + net.JoinHostPort(addrs[1], "80") + "/"
		out := far.Shell(t, fmt.Sprintf("curl -sS -g --fail --data-binary @%s -H Expect: '%s' | sha256sum", file, url))
		require.Equal(t, hex.EncodeToString(want[:]), strings.Fields(out)[0])
		if !loss {
			for _, size := range []int{16, 1372, 5000} { // 1372 fills an IPv6 packet of the MTU 1420
				far.Shell(t, fmt.Sprintf("ping -%d -q -c 3 -i 0.2 -w 60 -s %d %s", []int{4, 6}[i], size, addrs[1]))
			}
		}
	}
	peers, err := wg.Peers()
	require.NoError(t, err)
	require.Equal(t, outer[0]+":51820", peers[0].Endpoint.String())
	if loss {
		return
	}
	st := wg.Stats()
	require.Empty(t, st.Drops)
}

// A listener is the network that serveEcho takes: its Listen returns the listener that is there already.
type listener struct{ net.Listener }

func (l listener) Listen(string, string) (net.Listener, error) { return l.Listener, nil }

func TestTwoHostsMeetThroughTwoNamespaces(t *testing.T) {
	netns.Need(t, "nft")
	for _, loss := range []bool{false, true} {
		t.Run(fmt.Sprintf("loss %v", loss), func(t *testing.T) {
			na, nb := twoNamespaces(t, loss)
			cfgs := configs(t, outer[0]+":51820")
			cfgs[0].ListenPort = 51820
			var ends [2]*Interface
			for i, ns := range []netns.Namespace{na, nb} {
				require.NoError(t, ns.Do(func() (err error) {
					ends[i], err = Open(t.Context(), cfgs[i])
					return err
				}))
				t.Cleanup(func() { ends[i].Close() })
			}
			serveEcho(t, ends[0])
			for _, addr := range []string{addrs4[0], addrs6[0]} {
				requireEcho(t, ends[1].DialContext, addr, 4<<20)
			}
		})
	}
}
