package stack

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/internal/nictest"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// A changeable device has a link that can change while it is in use, and records the frames that it sends.
type changeable struct {
	*nictest.Changeable
	mu     sync.Mutex
	frames [][]byte
}

func newChangeable(dev nic.Device) *changeable {
	return &changeable{Changeable: nictest.NewChangeable(dev)}
}

func (d *changeable) Nonblocking() nic.Device { return d }

func (d *changeable) Send(batch []nic.Frame) (int, error) {
	d.mu.Lock()
	for i := range batch {
		d.frames = append(d.frames, batch[i].AppendTo(nil))
	}
	d.mu.Unlock()
	return d.Changeable.Send(batch)
}

// sent describes the frames that were sent since the last call.
func (d *changeable) sent() (lines []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, f := range d.frames {
		lines = append(lines, string(wire.AppendFrame(nil, f, d.Link().Medium == nic.Ethernet)))
	}
	d.frames = nil
	return lines
}

// changeablePair makes two hosts on a wire. dev, the device of a, has a link that can change.
func changeablePair(t *testing.T, mtu int) (a, b *Stack, dev *changeable) {
	x, y := nic.Pipe(nic.PipeConfig{MTU: mtu, MACs: [2][6]byte{macA, macB}})
	dev = newChangeable(x)
	return newHost(t, dev, "192.0.2.1/24"), newHost(t, y, "192.0.2.2/24"), dev
}

func TestAHostFollowsTheMTUOfItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, dev := changeablePair(t, 9000)
		c, l := dialed(t, a, b)
		d, err := l.Accept()
		require.NoError(t, err)
		u, v := openUDP(t, a, "0.0.0.0:9"), openUDP(t, b, "0.0.0.0:9")
		longest := func() (n int) {
			dev.mu.Lock() // c may still send
			defer dev.mu.Unlock()
			for _, f := range dev.frames {
				n = max(n, len(f)-wire.EthernetLen)
			}
			dev.frames = nil
			return n
		}
		datagram := func() {
			_, err := u.WriteTo(make([]byte, 8000), addrPort("192.0.2.2:9"), SendOptions{})
			require.NoError(t, err)
			n, _, _, _, err := v.ReadFrom(make([]byte, 9000))
			require.NoError(t, err)
			require.Equal(t, 8000, n)
		}
		datagram()
		require.Equal(t, 8028, longest())

		dev.Change(func(l *nic.Link) { l.MTU, l.GSO = 1000, 0 })
		require.Equal(t, 1000, a.Interfaces()[1].MTU)
		datagram()
		require.LessOrEqual(t, longest(), 1000, "in fragments")
		go c.Write(make([]byte, 50000))
		for got := 0; got < 50000; {
			n, err := d.Read(make([]byte, 50000))
			require.NoError(t, err)
			got += n
		}
		require.LessOrEqual(t, longest(), 1000)

		dev.Change(func(l *nic.Link) { l.MTU = 9000 })
		datagram()
		require.Equal(t, 8028, longest())

		dev.Change(func(l *nic.Link) { l.MTU = 60 })
		require.False(t, a.Interfaces()[1].Up, "RFC 791 3.2: 68 octets at least")
	})
}

func TestAHostFollowsTheMACOfItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, dev := changeablePair(t, 0)
		c, d := connect(t, a, b)
		dev.sent()
		macC := wire.MAC{2, 0, 0, 0, 0, 0xc}
		dev.Change(func(l *nic.Link) { l.MAC = macC })
		require.Equal(t, []string{"02:00:00:00:00:0c > ff:ff:ff:ff:ff:ff ARP announce 192.0.2.1 is-at 02:00:00:00:00:0c"}, dev.sent()[:1])
		require.Equal(t, macC, a.Interfaces()[1].MAC)
		require.Equal(t, macC, b.Neighbors()[0].MAC)
		_, err := d.Write([]byte("x"))
		require.NoError(t, err)
		_, err = c.Read(make([]byte, 1))
		require.NoError(t, err)
		_, err = c.Write([]byte("x"))
		require.NoError(t, err)
		for _, line := range dev.sent() {
			require.True(t, strings.HasPrefix(line, macC.String()), line)
		}
	})
}

func TestAHostFollowsTheStateOfItsLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, dev := changeablePair(t, 0)
		c, d := connect(t, a, b)
		u := openUDP(t, a, "0.0.0.0:9")
		require.NoError(t, u.Join(addr("239.1.2.3"), 2))
		dev.sent()
		dev.Plug(false)
		require.False(t, a.Interfaces()[1].Up)
		require.Empty(t, a.Neighbors())
		_, err := u.WriteTo([]byte("x"), addrPort("192.0.2.2:9"), SendOptions{})
		require.ErrorIs(t, err, syscall.ENETDOWN)
		_, err = a.DialTCP(context.Background(), FamilyAny, netip.AddrPort{}, addrPort("192.0.2.2:80"), TCPOptions{})
		require.ErrorIs(t, err, syscall.ENETDOWN)
		_, err = c.Write([]byte("later"))
		require.NoError(t, err, "a connection survives a link that is down")
		time.Sleep(10 * time.Second)
		require.Empty(t, dev.sent(), "nor is the report of the group repeated")

		dev.Plug(true)
		lines := dev.sent()
		require.Equal(t, "02:00:00:00:00:0a > ff:ff:ff:ff:ff:ff ARP announce 192.0.2.1 is-at 02:00:00:00:00:0a", lines[0])
		require.Contains(t, strings.Join(lines, "\n"), "IGMP", "the groups are reported again")
		buf := make([]byte, 10)
		n, err := d.Read(buf)
		require.NoError(t, err)
		require.Equal(t, "later", string(buf[:n]))
	})
}

// A host may start with a link that is down. It then uses another link that is up.
func TestALinkThatIsDownIsAvoided(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := nic.Pipe(nic.PipeConfig{})
		one, two := newChangeable(x), newChangeable(nic.NewNull(nic.Link{}))
		one.Plug(false)
		a, err := New(Config{Rand: testRand(), NICs: []NIC{
			{Name: "one", Device: one, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}, Gateway: addr("192.0.2.2")},
			{Name: "two", Device: two, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}, Gateway: addr("198.51.100.2")},
		}})
		require.NoError(t, err)
		defer a.Close()
		newHost(t, y, "192.0.2.2/24")
		require.Empty(t, one.sent())
		over := func() string {
			p, err := a.route(addr("203.0.113.1"), netip.Addr{})
			require.NoError(t, err)
			return p.ifc.name
		}
		require.Equal(t, "two", over())
		one.Plug(true)
		require.Equal(t, "one", over())
		// A failed device stays failed.
		ifaceOne := (*a.ifaces.Load())[1] // 0 is the loopback
		ifaceOne.failed(syscall.ENODEV)
		one.Plug(true)
		require.Equal(t, "two", over())
	})
}

// If the network behind the link may have changed, the neighbours are resolved again.
func TestALinkChangeFlushesNeighbours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, dev := changeablePair(t, 0)
		connect(t, a, b)
		require.Len(t, a.Neighbors(), 1)
		// If the link notifies the host but is the same as before, another network may be behind it.
		dev.Change(func(*nic.Link) {})
		require.Empty(t, a.Neighbors())
		connect(t, a, b)
		dev.Change(func(l *nic.Link) { l.MTU = 1400 })
		require.Len(t, a.Neighbors(), 1, "a change of the MTU keeps the neighbours")
	})
}

// autoOn makes a host with NIC.Auto on a link that can change.
func autoOn(t *testing.T, medium nic.Medium) (*Stack, *changeable) {
	x, y := nic.Pipe(nic.PipeConfig{Medium: medium, MACs: [2][6]byte{macA, macB}, NoTxChecksum: true})
	y.Attach(func([]nic.Frame) {})
	dev := newChangeable(x)
	s := newHost(t, dev, "192.0.2.1/24", func(c *Config) { c.NICs[0].Auto = true })
	return s, dev
}

// count returns how many of the frames that were sent since the last call contain a text.
func (d *changeable) count(text string) (n int) {
	for _, line := range d.sent() {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

// RFC 4861 6.3.7: a host sends Router Solicitations when "the interface is initialized at system startup
// time" or "is reinitialized after a temporary interface failure". This holds for each medium.
func TestAHostSolicitsRoutersWhenItsLinkComesUp(t *testing.T) {
	for _, medium := range []nic.Medium{nic.Ethernet, nic.IP} {
		synctest.Test(t, func(t *testing.T) {
			_, dev := autoOn(t, medium)
			time.Sleep(2 * time.Second)
			require.Equal(t, 1, dev.count("router solicitation"), medium)
			dev.Change(func(l *nic.Link) { l.Up = false })
			time.Sleep(time.Hour)
			require.Zero(t, dev.count("router solicitation"), medium)
			dev.Change(func(l *nic.Link) { l.Up = true })
			time.Sleep(2 * time.Second)
			require.Equal(t, 1, dev.count("router solicitation"), medium)
		})
	}
}

// RFC 8200 5: a link below 1280 bytes carries no IPv6. When the MTU is large enough again, the host begins
// anew, as on a link that comes up.
func TestIPv6BeginsAnewWithTheMTU(t *testing.T) {
	for _, medium := range []nic.Medium{nic.Ethernet, nic.IP} {
		synctest.Test(t, func(t *testing.T) {
			s, dev := autoOn(t, medium) // s is a host and a router at once
			require.NoError(t, s.Advertise("", &RouterConfig{Interval: 4 * time.Second}))
			dev.Change(func(l *nic.Link) { l.MTU = 1279 })
			dev.sent()
			time.Sleep(time.Hour)
			require.Zero(t, dev.count("ICMPv6"), medium)
			dev.Change(func(l *nic.Link) { l.MTU = 1500 })
			time.Sleep(2 * time.Second)
			lines := strings.Join(dev.sent(), "\n")
			require.Contains(t, lines, "router solicitation", medium)
			require.Contains(t, lines, "router advertisement", medium)
			require.Contains(t, lines, "ff02::16", "%v: the groups", medium)
			if medium == nic.Ethernet {
				require.Contains(t, lines, ":: > ff02::1:ff00:a ICMPv6 neighbor solicitation", "the detection of duplicates")
			}
		})
	}
}

// RFC 4861 6.2.4: "For the first few advertisements (up to MAX_INITIAL_RTR_ADVERTISEMENTS) sent from an
// interface when it becomes an advertising interface", the interval is at most 16 seconds.
func TestARouterAdvertisesOnALinkThatComesUp(t *testing.T) {
	for _, medium := range []nic.Medium{nic.Ethernet, nic.IP} {
		synctest.Test(t, func(t *testing.T) {
			s, dev := autoOn(t, medium)
			time.Sleep(3 * time.Second)
			require.NoError(t, s.Advertise("", &RouterConfig{Interval: 1800 * time.Second, Lifetime: time.Hour}))
			time.Sleep(10 * time.Hour)
			dev.Change(func(l *nic.Link) { l.Up = false })
			dev.sent()
			time.Sleep(10 * time.Hour)
			require.Zero(t, dev.count("router advertisement"), medium)
			dev.Change(func(l *nic.Link) { l.Up = true })
			require.Equal(t, 1, dev.count("router advertisement"), medium)
			time.Sleep(33 * time.Second) // two intervals of at most 16 s
			require.Equal(t, 2, dev.count("router advertisement"), medium)
		})
	}
}
