package usernet_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/dhcp"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
)

// pool returns the configuration of a server that assigns the addresses from first to last.
func pool(first, last string) usernet.DHCPServerConfig {
	var cfg usernet.DHCPServerConfig
	cfg.Server.Link.Pools = []dhcp.Range4{{First: netip.MustParseAddr(first), Last: netip.MustParseAddr(last)}}
	return cfg
}

func serve(t *testing.T, h *usernet.Host, cfg usernet.DHCPServerConfig) *usernet.DHCPServer {
	t.Helper()
	d, err := h.ServeDHCP("", cfg)
	require.NoError(t, err)
	return d
}

// A host serves another one for a month, and then two more.
func TestAHostServesOthersByDHCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		var log logBuffer
		server, err := usernet.New(usernet.Config{NIC: sw.Port(), Addrs: prefixes("192.0.2.1/24"), NoIPv6: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		require.NoError(t, err)
		cfg := pool("192.0.2.7", "192.0.2.8")
		n := &cfg.Server.Link
		n.Lease, n.Routers, n.DNS = 7*24*time.Hour, []netip.Addr{netip.MustParseAddr("192.0.2.1")}, []netip.Addr{netip.MustParseAddr("192.0.2.1")}
		n.Search, n.MTU = []string{"a.test"}, 1400
		var mu sync.Mutex
		var events []string
		cfg.OnEvent = func(e dhcp.ServerEvent4) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, fmt.Sprint(e.Kind, " ", e.Binding.Addr))
		}
		d := serve(t, server, cfg)
		client := newDHCPHost(t, sw.Port())
		waitOnline(t, client)
		require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())
		info := client.Interfaces()[1]
		require.Equal(t, 1400, info.IPv4MTU)
		require.Equal(t, "192.0.2.1", info.Gateway.String())
		lease := client.DHCP()[0].Lease
		require.Equal(t, []string{"a.test"}, lease.Search)
		require.Equal(t, "192.0.2.1", lease.DNS[0].String())
		time.Sleep(30 * 24 * time.Hour)
		require.Equal(t, prefixes("192.0.2.7/24"), client.Addrs())
		second := newDHCPHost(t, sw.Port())
		third := newDHCPHost(t, sw.Port())
		time.Sleep(time.Minute)
		require.Equal(t, prefixes("192.0.2.8/24"), slices.Concat(second.Addrs(), third.Addrs()), "one address is left for both hosts")
		require.NoError(t, client.Close())
		time.Sleep(time.Hour)
		require.ElementsMatch(t, prefixes("192.0.2.7/24", "192.0.2.8/24"), slices.Concat(second.Addrs(), third.Addrs()))
		bound := slices.Collect(d.Bindings())
		require.Len(t, bound, 2)
		require.Equal(t, dhcp.Leased, bound[0].State)
		stats := d.Stats()
		// The server acknowledged three assignments, and each extension of a lease.
		require.EqualValues(t, 3, stats.ACKs-uint64(extended(&mu, &events)), "%+v", stats)
		require.Zero(t, stats.Malformed+stats.Dropped+stats.Unsent)
		require.Positive(t, stats.Full)

		require.NoError(t, server.Close())
		require.ErrorIs(t, d.Close(), net.ErrClosed)
		_, err = server.ServeDHCP("", cfg)
		require.ErrorIs(t, err, net.ErrClosed)
		require.NoError(t, second.Close())
		require.NoError(t, third.Close())
		mu.Lock()
		defer mu.Unlock()
		require.Equal(t, []string{"assigned 192.0.2.7", "extended 192.0.2.7"}, events[:2])
		require.Contains(t, events, "returned 192.0.2.7")
		require.Regexp(t, `msg="DHCP address assigned" nic=port\d+ addr=192\.0\.2\.7 mac=..:..:..:..:..:.. `, log.String())
	})
}

// extended counts the events of extended leases.
func extended(mu *sync.Mutex, events *[]string) (n int) {
	mu.Lock()
	defer mu.Unlock()
	for _, e := range *events {
		if strings.HasPrefix(e, "extended") {
			n++
		}
	}
	return n
}

// A server that is started again without its bindings does not know which addresses are in use. With probes,
// the server finds that out. Without probes, the clients find it out and decline such addresses. In both cases
// each host gets its own address.
func TestAServerThatForgets(t *testing.T) {
	for _, probe := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			sw := nic.NewSwitch(nic.SwitchConfig{})
			server := host(sw.Port(), "192.0.2.1/24")
			defer server.Close()
			d := serve(t, server, pool("192.0.2.7", "192.0.2.9"))
			first := newDHCPHost(t, sw.Port())
			defer first.Close()
			waitOnline(t, first)
			require.NoError(t, d.Close())
			cfg := pool("192.0.2.7", "192.0.2.9")
			cfg.Server.Probe = probe
			d = serve(t, server, cfg)
			second := newDHCPHost(t, sw.Port())
			defer second.Close()
			waitOnline(t, second)
			require.Equal(t, prefixes("192.0.2.7/24"), first.Addrs())
			require.Equal(t, prefixes("192.0.2.8/24"), second.Addrs())
			bound := slices.Collect(d.Bindings())
			require.Equal(t, dhcp.Declined, bound[0].State)
			require.Equal(t, !probe, d.Stats().Declines == 1)

			// The first client's lease ends because the server does not confirm it. The client gets another lease.
			time.Sleep(3 * time.Hour)
			all := slices.Concat(first.Addrs(), second.Addrs())
			require.Len(t, all, 2)
			require.NotEqual(t, all[0], all[1])
		})
	}
}

// A silent device drops the ICMP messages that are sent on it.
type silent struct{ nic.Device }

func (d silent) Send(batch []nic.Frame) (int, error) {
	for _, f := range batch {
		b := slices.Concat(f.Head, f.Body)
		if b[12] == 8 && b[13] == 0 && b[23] == 1 { // EtherType IPv4, protocol ICMP
			continue
		}
		if n, err := d.Device.Send([]nic.Frame{f}); n == 0 || err != nil {
			return n, err
		}
	}
	return len(batch), nil
}

// A machine that does not answer pings, as many do, still answers ARP.
func TestAServerNoticesAMachineThatIgnoresPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		server := host(sw.Port(), "192.0.2.1/24")
		defer server.Close()
		other := host(silent{sw.Port()}, "192.0.2.7/24")
		defer other.Close()
		cfg := pool("192.0.2.7", "192.0.2.9")
		cfg.Server.Probe = true
		d := serve(t, server, cfg)
		client, err := usernet.New(usernet.Config{NIC: sw.Port(), NoIPv6: true})
		require.NoError(t, err)
		defer client.Close()
		require.NoError(t, client.StartDHCP("", usernet.DHCPConfig{NoProbe: true}))
		began := time.Now()
		waitOnline(t, client)
		require.Equal(t, prefixes("192.0.2.8/24"), client.Addrs(), "%v", server.Neighbors())
		require.InDelta(t, time.Second, time.Since(began), float64(50*time.Millisecond), "two probes of half a second")
		bound := slices.Collect(d.Bindings())
		require.Equal(t, "192.0.2.7", bound[0].Addr.String())
		require.Equal(t, dhcp.Declined, bound[0].State)
	})
}

// RFC 2131 4.1: without the broadcast bit, a reply goes to the client's hardware address, and to the address
// that the client does not have yet.
func TestAReplyGoesToTheHardwareAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		wireA, wireB := nic.Pipe(nic.PipeConfig{})
		server := host(wireA, "192.0.2.1/24")
		defer server.Close()
		serve(t, server, pool("192.0.2.7", "192.0.2.9"))
		r := newRawClient(t, wireB)
		m := &dhcp.Message4{Op: dhcp.BootRequest, HType: 1, XID: 1, CHAddr: []byte{2, 0, 0, 0, 0, 7}}
		m.Options.Set(dhcp.OptMessageType, []byte{byte(dhcp.Discover)})
		for flags, mac := range map[uint16]string{0: "02:00:00:00:00:07", dhcp.FlagBroadcast: "ff:ff:ff:ff:ff:ff"} {
			m.Flags = flags
			r.send(m)
			time.Sleep(time.Millisecond)
			frames := r.take()
			require.Len(t, frames, 1)
			require.Equal(t, mac, net.HardwareAddr(frames[0][:6]).String())
			offer, err := dhcp.ParseMessage4(frames[0][14+20+8:]) // after Ethernet, IPv4 and UDP
			require.NoError(t, err)
			to := netip.AddrFrom4([4]byte(frames[0][14+16:]))
			require.Equal(t, "192.0.2.7", offer.YIAddr.String())
			require.Equal(t, flags == 0, to == offer.YIAddr)
		}
	})
}

// A rawClient sends frames on a device, and keeps the DHCP messages that it receives, as frames.
type rawClient struct {
	t      *testing.T
	dev    nic.Device
	mu     sync.Mutex
	frames [][]byte
}

func newRawClient(t *testing.T, dev nic.Device) *rawClient {
	r := &rawClient{t: t, dev: dev}
	dev.Attach(r.Receive)
	t.Cleanup(func() { dev.Close() })
	return r
}

func (r *rawClient) Receive(batch []nic.Frame) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, f := range batch {
		b := slices.Concat(f.Head, f.Body)
		if len(b) > 14+20+8+240 && b[12] == 8 && b[13] == 0 && b[23] == 17 {
			r.frames = append(r.frames, b)
		}
	}
}

// take returns the frames received since the last call.
func (r *rawClient) take() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.frames
	r.frames = nil
	return all
}

// send broadcasts a message from 0.0.0.0.
func (r *rawClient) send(m *dhcp.Message4) {
	payload, err := m.Append(nil, 0)
	require.NoError(r.t, err)
	r.sendBytes(m.CHAddr, payload)
}

// sendBytes broadcasts a UDP datagram from 0.0.0.0, port 68 to port 67.
func (r *rawClient) sendBytes(mac, payload []byte) {
	b := append(bytes.Repeat([]byte{255}, 6), mac...)
	b = append(b, 8, 0)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255}
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(payload)))
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	udp := []byte{0, 68, 0, 67, 0, 0, 0, 0}
	binary.BigEndian.PutUint16(udp[4:], uint16(8+len(payload)))
	_, err := r.dev.Send([]nic.Frame{{Head: slices.Concat(b, ip, udp, payload)}})
	require.NoError(r.t, err)
}

// A flood of messages from invented clients, and of nonsense, creates a bounded number of bindings, and does
// not keep a client from getting an address.
func TestAFloodDoesNotStopAServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		server := host(sw.Port(), "192.0.2.1/24")
		defer server.Close()
		cfg := pool("192.0.2.7", "192.0.2.200")
		cfg.Server.Probe = true
		d := serve(t, server, cfg)
		r := newRawClient(t, sw.Port())
		random := rand.New(rand.NewPCG(1, 1))
		client := newDHCPHost(t, sw.Port())
		defer client.Close()
		for range 50 {
			for range 100 {
				mac := binary.BigEndian.AppendUint32([]byte{2, 0}, random.Uint32())
				m := &dhcp.Message4{Op: dhcp.BootRequest, HType: 1, XID: 1, CHAddr: mac, Flags: dhcp.FlagBroadcast}
				m.Options.Set(dhcp.OptMessageType, []byte{byte(dhcp.Discover)})
				r.send(m)
				r.sendBytes(mac, make([]byte, 300))
			}
			time.Sleep(time.Second)
			r.take()
		}
		waitOnline(t, client)
		stats := d.Stats()
		require.EqualValues(t, 5000, stats.Malformed)
		require.Greater(t, stats.Reclaimed, uint64(1000))
		require.LessOrEqual(t, len(slices.Collect(d.Bindings())), 194, "the size of the pool")
		time.Sleep(5 * time.Minute)
		require.Len(t, slices.Collect(d.Bindings()), 1, "the offers have ended")
	})
}

func TestErrorsOfServeDHCP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lan, _ := nic.Pipe(nic.PipeConfig{})
		wan, _ := nic.Pipe(nic.PipeConfig{})
		tun, _ := nic.Pipe(nic.PipeConfig{Medium: nic.IP})
		h, err := usernet.New(usernet.Config{NoIPv6: true, NICs: []stack.NIC{
			{Name: "lan", Device: lan, Addrs: prefixes("192.0.2.1/24")}, {Name: "wan", Device: wan}, {Name: "tun", Device: tun, Addrs: prefixes("198.51.100.1/24")},
		}})
		require.NoError(t, err)
		defer h.Close()
		var bad usernet.DHCPServerConfig
		bad.Server.Link.MTU = 1
		for _, c := range []struct {
			nic  string
			cfg  usernet.DHCPServerConfig
			text string
			err  error
		}{
			{"", bad, "no interface is named, and there are 3: no such device", syscall.ENODEV},
			{"eth9", bad, `no interface "eth9": no such device`, syscall.ENODEV},
			{"tun", bad, "tun is not an Ethernet: invalid argument", syscall.EINVAL},
			{"wan", bad, "wan does not have the IPv4 address that a server needs: cannot assign requested address", syscall.EADDRNOTAVAIL},
			{"lan", bad, "dhcp: the MTU 1 is not from 68 to 65535: invalid argument", syscall.EINVAL},
		} {
			_, err := h.ServeDHCP(c.nic, c.cfg)
			require.EqualError(t, err, "usernet: DHCP server: "+c.text)
			require.ErrorIs(t, err, c.err)
		}
		pc, err := h.ListenPacket("udp4", ":67")
		require.NoError(t, err)
		_, err = h.ServeDHCP("lan", usernet.DHCPServerConfig{})
		require.EqualError(t, err, "usernet: DHCP server: a socket of the host has UDP port 67, which the server needs: address already in use")
		require.NoError(t, pc.Close())
		d, err := h.ServeDHCP("lan", usernet.DHCPServerConfig{})
		require.NoError(t, err)
		_, err = h.ServeDHCP("lan", usernet.DHCPServerConfig{})
		require.EqualError(t, err, "usernet: DHCP server: lan has a server already: file exists")
		require.NoError(t, d.Close())
		d, err = h.ServeDHCP("lan", usernet.DHCPServerConfig{})
		require.NoError(t, err)
		require.NoError(t, h.Stack().RemoveNIC("lan"))
		time.Sleep(time.Second)
		require.ErrorIs(t, d.Close(), net.ErrClosed, "it ends with its interface")
		pc, err = h.ListenPacket("udp4", ":67")
		require.NoError(t, err, "the port is free again")
		require.NoError(t, pc.Close())
	})
}

// Fifty hosts get addresses from a host, over a link that loses frames.
func TestManyHostsAreServedUnderLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sw := nic.NewSwitch(nic.SwitchConfig{})
		bad := nic.Impairment{Loss: 0.15, Duplicate: 0.05, Latency: time.Millisecond}
		impaired := func(seed uint64) nic.Device {
			return nic.Impair(sw.Port(), nic.ImpairConfig{In: bad, Out: bad, Seed: seed})
		}
		server := host(impaired(1), "192.0.2.1/24")
		defer server.Close()
		cfg := pool("192.0.2.7", "192.0.2.60")
		cfg.Server.Link.Lease = 4 * time.Hour
		cfg.Server.Probe = true
		d := serve(t, server, cfg)
		var clients []*usernet.Host
		for i := range 50 {
			c := newDHCPHost(t, impaired(uint64(2+i)))
			defer c.Close()
			clients = append(clients, c)
		}
		time.Sleep(24 * time.Hour)
		seen := make(map[netip.Prefix]bool)
		for _, c := range clients {
			require.Len(t, c.Addrs(), 1)
			require.False(t, seen[c.Addrs()[0]])
			seen[c.Addrs()[0]] = true
		}
		require.Zero(t, d.Stats().NAKs)
	})
}
