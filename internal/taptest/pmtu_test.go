//go:build linux

package taptest

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
)

// newRoute makes a host on a TAP in a namespace, which routes to the namespace far. The link between the
// two namespaces has an MTU of 1300 at the end of the first namespace. The addresses in far are
// 198.51.100.1 and 2001:db8:2::1.
func newRoute(t *testing.T, plain bool) (far *namespace, h *usernet.Host) {
	t.Helper()
	need(t)
	ns, far := newNamespace(t), newNamespace(t)
	tap := ns.openTAP(t, plain)
	ns.shell(t, `
		sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		ip -6 addr add `+kernelAddr6+`/64 dev tap0 nodad
		ip link add dev narrow mtu 1300 type veth peer name far netns `+string(far.Namespace)+`
		ip addr add 198.51.100.254/24 dev narrow
		ip -6 addr add 2001:db8:2::ff/64 dev narrow nodad
		ip link set narrow up`)
	far.shell(t, `
		ip addr add 198.51.100.1/24 dev far
		ip -6 addr add 2001:db8:2::1/64 dev far nodad
		ip link set far up
		ip route add default via 198.51.100.254
		ip -6 route add default via 2001:db8:2::ff`)
	h, err := usernet.New(usernet.Config{
		NIC:      tap,
		Addrs:    []netip.Prefix{netip.MustParsePrefix(ourAddr + "/24"), netip.MustParsePrefix(ourAddr6 + "/64")},
		Gateway:  netip.MustParseAddr(kernelAddr),
		Gateway6: netip.MustParseAddr(kernelAddr6),
	})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	return far, h
}

// TestPathMTUIsFoundOnTheWay makes TCP and UDP cross a second link whose MTU is smaller than the
// first link's, in both families (RFC 1191, RFC 8201).
//
// RFC 8200 REC-1.
func TestPathMTUIsFoundOnTheWay(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		far, h := newRoute(t, plain)
		for _, x := range []struct{ network, addr string }{{"4", "198.51.100.1"}, {"6", "2001:db8:2::1"}} {
			var ln net.Listener
			var sink *net.UDPConn
			require.NoError(t, far.inside(func() (err error) {
				if ln, err = net.Listen("tcp"+x.network, net.JoinHostPort(x.addr, "7")); err != nil {
					return err
				}
				sink, err = net.ListenUDP("udp"+x.network, &net.UDPAddr{IP: net.ParseIP(x.addr), Port: 7})
				return err
			}))
			defer ln.Close()
			defer sink.Close()

			// A connected socket gets the error once (Linux's udp_err and udpv6_err), and sends later datagrams
			// in fragments that fit.
			u, err := h.Dial("udp", net.JoinHostPort(x.addr, "7"))
			require.NoError(t, err)
			defer u.Close()
			require.Eventually(t, func() bool {
				_, err := u.Write(make([]byte, 1400))
				if err != nil {
					require.ErrorIs(t, err, syscall.EMSGSIZE, x.addr)
				}
				return err != nil
			}, patience, 20*time.Millisecond, x.addr)
			require.NoError(t, sink.SetReadDeadline(time.Now().Add(patience)))
			data := bytes.Repeat([]byte("0123456789abcdef"), 300)
			for {
				_, err := u.Write(data)
				if err == nil {
					break
				}
				// There may be an error for more than one datagram of the loop above.
				require.ErrorIs(t, err, syscall.EMSGSIZE, x.addr)
			}
			b := make([]byte, 65536)
			for {
				n, _, err := sink.ReadFrom(b)
				require.NoError(t, err)
				if n == 1400 {
					continue // a datagram of the loop above
				}
				require.True(t, bytes.Equal(data, b[:n]))
				break
			}

			// TCP retransmits the segments that were too large, and continues.
			sum := make(chan [32]byte)
			go func() {
				c, err := ln.Accept()
				if err != nil {
					close(sum)
					return
				}
				defer c.Close()
				d := sha256.New()
				io.Copy(d, c)
				sum <- [32]byte(d.Sum(nil))
			}()
			c, err := h.Dial("tcp", ln.Addr().String())
			require.NoError(t, err)
			big := bytes.Repeat(data, 1000)
			_, err = c.Write(big)
			require.NoError(t, err)
			require.NoError(t, c.Close())
			require.Equal(t, sha256.Sum256(big), <-sum)
		}
		st := h.Stats()
		require.NotZero(t, st.ICMP.Errors)
		require.NotZero(t, st.ICMP6.Errors)
	}
}

// TestPingFindsThePathMTU pings in both directions over a path with a small MTU. The host gets the error
// about its first echo request or IPv6 echo reply, and sends later ones in fragments. As Linux, it sends
// IPv4 replies without DF, so the router makes the fragments.
func TestPingFindsThePathMTU(t *testing.T) {
	t.Parallel()
	need(t, "ping")
	for _, addrs := range [][2]string{{"198.51.100.1", ourAddr}, {"2001:db8:2::1", ourAddr6}} {
		far, h := newRoute(t, false)
		far.run(t, "ip", "link", "set", "far", "mtu", "1300")
		var failed []int
		st, err := h.Ping(t.Context(), addrs[0], usernet.PingConfig{Count: 5, Interval: -1, Timeout: patience, Size: 1400, OnReply: func(r usernet.PingReply) {
			if r.Err != nil {
				require.ErrorIs(t, r.Err, syscall.EMSGSIZE)
				failed = append(failed, r.Seq)
			}
		}})
		require.NoError(t, err)
		require.GreaterOrEqual(t, st.Received, 4, addrs[0])
		if len(failed) > 0 {
			require.Equal(t, []int{0}, failed, addrs[0])
		}

		far, _ = newRoute(t, false)
		far.run(t, "ip", "link", "set", "far", "mtu", "1300")
		far.shell(t, "ping -c 1 -W 1 -s 1400 "+addrs[1]+" || true")
		require.Contains(t, far.run(t, "ping", "-c", "3", "-i", "0.2", "-W", "5", "-s", "1400", addrs[1]), " 3 received", addrs[1])
	}
}
