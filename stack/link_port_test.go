package stack

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack/wire"
)

// tagFrame returns a frame with a VLAN tag. field has the priority and the ID.
func tagFrame(field uint16, frame []byte) []byte {
	b := append([]byte(nil), frame[:12]...)
	b = append(b, 0x81, 0, byte(field>>8), byte(field))
	return append(b, frame[12:]...)
}

// trunkHost makes a host whose device has an interface without a VLAN, 192.0.2.1/24, and one for each of the
// VLANs 100 and 200, 198.51.100.1/24 and 203.0.113.1/24.
func trunkHost(t testing.TB, change ...func(*Config)) (*Stack, *peer) {
	t.Helper()
	return hostAndPeer(t, append([]func(*Config){func(cfg *Config) {
		dev := cfg.NICs[0].Device
		cfg.NICs = append(cfg.NICs,
			NIC{Device: dev, VLAN: 100, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}},
			NIC{Device: dev, VLAN: 200, Addrs: []netip.Prefix{prefix("203.0.113.1/24")}})
	}}, change...)...)
}

// ask returns an ARP request for an address.
func ask(sender, target string) []byte {
	b := make([]byte, wire.EthernetLen+wire.ARPLen)
	(&wire.Ethernet{Dst: wire.Broadcast(), Src: macB, Type: wire.EtherTypeARP}).Put(b)
	(&wire.ARP{Op: wire.ARPRequest, SenderMAC: macB, SenderIP: addr(sender), TargetIP: addr(target)}).Put(b[wire.EthernetLen:])
	return b
}

// pingFrame returns a frame with an echo request from src to dst.
func pingFrame(src, dst string) []byte {
	return ethernet(macA, ipPacket(wire.IPv4{Proto: wire.ProtoICMP, Src: addr(src), Dst: addr(dst)}, echoRequest(1, 2, []byte("x"))))
}

func TestInterfacesOfVLANsShareADevice(t *testing.T) {
	s, p := trunkHost(t)
	var names []string
	for _, ifc := range s.Interfaces() {
		names = append(names, fmt.Sprint(ifc.Name, " ", ifc.VLAN, " ", ifc.MTU))
	}
	require.Equal(t, []string{"lo 0 65535", "eth0 0 1500", "pipe-a.100 100 1500", "pipe-a.200 200 1500"}, names)
	for _, line := range p.sent() {
		// Each interface announces its address in its VLAN only.
		want := map[string]bool{"192.0.2.1": true}
		if strings.Contains(line, "vlan 100 ") {
			want = map[string]bool{"198.51.100.1": true}
		} else if strings.Contains(line, "vlan 200 ") {
			want = map[string]bool{"203.0.113.1": true}
		}
		for _, a := range []string{"192.0.2.1", "198.51.100.1", "203.0.113.1"} {
			require.Equal(t, want[a], strings.Contains(line, a), line)
		}
	}
	for _, c := range []struct {
		vlan            uint16
		ours, theirs    string
		name, tag, size string
	}{
		{0, "192.0.2.1", "192.0.2.2", "eth0", "", "60"},
		{100, "198.51.100.1", "198.51.100.2", "pipe-a.100", "vlan 100 ", "64"},
		{200, "203.0.113.1", "203.0.113.2", "pipe-a.200", "vlan 200 ", "64"},
	} {
		frame := func(b []byte) []byte {
			if c.vlan == 0 {
				return b
			}
			return tagFrame(c.vlan, b)
		}
		before := nicStats(s, c.name)
		p.send(frame(ask(c.theirs, c.ours)))
		p.send(frame(pingFrame(c.theirs, c.ours)))
		frames := p.take()
		require.Len(t, frames, 2)
		for i, want := range []string{"ARP reply " + c.ours, "IPv4 " + c.ours + " > " + c.theirs + " ICMP echo reply"} {
			require.Contains(t, wire.Describe(frames[i]), macA.String()+" > "+macB.String()+" "+c.tag+want)
			require.Equal(t, c.size, fmt.Sprint(len(frames[i])), "short frames are padded, and the tag comes on top")
		}
		after := nicStats(s, c.name)
		require.Equal(t, uint64(2), after.RxFrames-before.RxFrames, c.name)
		require.Equal(t, uint64(2), after.TxFrames-before.TxFrames, c.name)
		require.Equal(t, uint64(len(frame(ask(c.theirs, c.ours)))+len(frame(pingFrame(c.theirs, c.ours)))), after.RxBytes-before.RxBytes)
	}
	require.Zero(t, dropped(s, dropVLAN))
}

// nicStats returns the counters of an interface.
func nicStats(s *Stack, name string) NICStats {
	for _, st := range s.Stats().NICs {
		if st.Name == name {
			return st
		}
	}
	return NICStats{}
}

// IEEE 802.1Q table 9-2: with the VID 0, the tag "contains only priority information".
func TestFramesWithOnlyAPriorityHaveNoVLAN(t *testing.T) {
	for _, setUp := range []func(testing.TB, ...func(*Config)) (*Stack, *peer){hostAndPeer, trunkHost} {
		s, p := setUp(t)
		p.take()
		p.send(tagFrame(0xe000, ask("192.0.2.2", "192.0.2.1")))
		p.send(tagFrame(0x7000, pingFrame("192.0.2.2", "192.0.2.1"))) // also drop eligible
		lines := p.sent()
		require.Len(t, lines, 2)
		require.Contains(t, lines[0], "ARP reply 192.0.2.1")
		require.Contains(t, lines[1], "ICMP echo reply")
		require.NotContains(t, strings.Join(lines, ""), "vlan", "the answers have no tag")
		require.Zero(t, dropped(s, dropVLAN))
	}
}

func TestFramesOfOtherVLANsAreDropped(t *testing.T) {
	for name, setUp := range map[string]func(testing.TB, ...func(*Config)) (*Stack, *peer){"untagged": hostAndPeer, "trunk": trunkHost} {
		s, p := setUp(t)
		p.take()
		echo := pingFrame("192.0.2.2", "192.0.2.1")
		for i, frame := range [][]byte{
			tagFrame(7, echo),
			tagFrame(4095, echo),
			tagFrame(0, tagFrame(0, echo)),
			tagFrame(0, tagFrame(7, echo)),
		} {
			p.send(frame)
			require.Empty(t, p.sent())
			require.Equal(t, i+1, dropped(s, dropVLAN), "%s: frame %d", name, i)
		}
		p.send(tagFrame(0, echo)[:17])
		require.Equal(t, 1, dropped(s, wire.ShortVLANTag))
	}
	// Two tags of a VLAN that the host has.
	s, p := trunkHost(t)
	p.take()
	p.send(tagFrame(100, tagFrame(100, pingFrame("198.51.100.2", "198.51.100.1"))))
	require.Empty(t, p.sent())
	require.Equal(t, 1, dropped(s, dropVLAN))
	// A VLAN of IEEE 802.1ad.
	frame := tagFrame(100, pingFrame("198.51.100.2", "198.51.100.1"))
	frame[12], frame[13] = 0x88, 0xa8
	p.send(frame)
	require.Equal(t, 1, dropped(s, dropEtherType))
}

func TestABatchIsSplitByVLAN(t *testing.T) {
	s, p := trunkHost(t)
	p.send(ask("192.0.2.2", "192.0.2.1"))
	for _, vlan := range []uint16{100, 200} {
		p.send(tagFrame(vlan, ask(map[uint16]string{100: "198.51.100.2", 200: "203.0.113.2"}[vlan], map[uint16]string{100: "198.51.100.1", 200: "203.0.113.1"}[vlan])))
	}
	p.take()
	batch := []nic.Frame{}
	for i := range 24 {
		var b []byte
		switch i / 2 % 4 {
		case 0:
			b = pingFrame("192.0.2.2", "192.0.2.1")
		case 1:
			b = tagFrame(100, pingFrame("198.51.100.2", "198.51.100.1"))
		case 2:
			b = tagFrame(7, pingFrame("192.0.2.2", "192.0.2.1"))
		case 3:
			b = tagFrame(200, pingFrame("203.0.113.2", "203.0.113.1"))
		}
		batch = append(batch, nic.Frame{Head: b})
	}
	n, err := p.dev.Send(batch)
	require.NoError(t, err)
	require.Equal(t, len(batch), n)
	lines := p.sent()
	require.Len(t, lines, 18)
	for i, line := range lines {
		require.Contains(t, line, []string{"IPv4 192.0.2.1 >", "vlan 100 IPv4 198.51.100.1 >", "vlan 200 IPv4 203.0.113.1 >"}[i/2%3])
	}
	require.Equal(t, 6, dropped(s, dropVLAN))
}

func TestVLANsComeAndGoOnARunningDevice(t *testing.T) {
	s, p := hostAndPeer(t)
	dev := s.ifaceNamed("eth0").dev
	reached := func(vlan uint16, theirs, ours string) bool {
		p.take()
		f := func(b []byte) []byte {
			if vlan == 0 {
				return b
			}
			return tagFrame(vlan, b)
		}
		p.send(f(ask(theirs, ours)))
		p.send(f(pingFrame(theirs, ours)))
		lines := p.sent()
		return len(lines) == 2 && strings.Contains(lines[1], "echo reply")
	}
	require.False(t, reached(100, "198.51.100.2", "198.51.100.1"))
	require.NoError(t, s.AddNIC(NIC{Device: dev, VLAN: 100, Addrs: []netip.Prefix{prefix("198.51.100.1/24")}}))
	require.ErrorContains(t, s.AddNIC(NIC{Device: dev, VLAN: 100}), "VLAN 100 of the device is that of pipe-a.100 already")
	require.ErrorContains(t, s.AddNIC(NIC{Device: dev}), "the device is that of eth0 already")
	require.True(t, reached(100, "198.51.100.2", "198.51.100.1"))
	require.True(t, reached(0, "192.0.2.2", "192.0.2.1"))
	require.NoError(t, s.RemoveNIC("eth0"))
	require.True(t, dev.Link().Up, "the VLAN goes on using the device")
	require.True(t, reached(100, "198.51.100.2", "198.51.100.1"))
	require.False(t, reached(0, "192.0.2.2", "192.0.2.1"))
	require.NoError(t, s.AddNIC(NIC{Name: "again", Device: dev, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}}))
	require.True(t, reached(0, "192.0.2.2", "192.0.2.1"))
	require.True(t, reached(100, "198.51.100.2", "198.51.100.1"))
	require.NoError(t, s.RemoveNIC("pipe-a.100"))
	require.False(t, reached(100, "198.51.100.2", "198.51.100.1"))
	require.True(t, reached(0, "192.0.2.2", "192.0.2.1"))
	require.NoError(t, s.RemoveNIC("again"))
	require.False(t, dev.Link().Up, "the last interface closes the device")
	require.ErrorContains(t, s.AddNIC(NIC{Device: dev, VLAN: 1}), "has a user already")
}

func TestAllVLANsFailWithTheirDevice(t *testing.T) {
	s, _ := trunkHost(t)
	s.ifaceNamed("pipe-a.200").port.failed(syscall.EIO)
	for _, ifc := range s.Interfaces()[1:] {
		require.False(t, ifc.Up, ifc.Name)
		require.ErrorIs(t, ifc.Err, syscall.EIO)
	}
	require.ErrorContains(t, s.AddNIC(NIC{Device: s.ifaceNamed("eth0").dev, VLAN: 7}), "the device of eth0 has failed")
	select {
	case <-s.Done():
	default:
		t.Fatal("the host has no link, and does not say so")
	}
}

// trunks makes two hosts with the VLANs 100 and 200 and an interface without a VLAN, on the two ends of a
// wire. wrap may wrap the ends.
func trunks(t *testing.T, cfg nic.PipeConfig, wrap func(nic.Device) nic.Device) (a, b *Stack) {
	t.Helper()
	cfg.MACs = [2][6]byte{macA, macB}
	da, db := nic.Pipe(cfg)
	var hosts [2]*Stack
	for i, end := range []nic.Device{da, db} {
		dev := wrap(end)
		var nics []NIC
		for n, vlan := range []int{0, 100, 200} {
			nics = append(nics, NIC{Device: dev, VLAN: vlan, Addrs: []netip.Prefix{
				prefix(fmt.Sprintf("10.0.%d.%d/24", n, i+1)), prefix(fmt.Sprintf("2001:db8:%d::%d/64", n, i+1)),
			}})
		}
		s, err := New(Config{NICs: nics, Rand: testRand()})
		require.NoError(t, err)
		t.Cleanup(func() { s.Close() })
		hosts[i] = s
	}
	return hosts[0], hosts[1]
}

// A tagWatch counts the super-frames that are sent, and checks the frames' lengths and tags.
type tagWatch struct {
	nic.Device
	t     *testing.T
	super [2]atomic.Int64 // without and with a tag
}

func (w *tagWatch) Nonblocking() nic.Device { return w }

func (w *tagWatch) Send(batch []nic.Frame) (int, error) {
	for i := range batch {
		f := &batch[i]
		link, tagged := wire.EthernetLen, 0
		if f.Head[12] == 0x81 {
			link, tagged = maxLinkLen, 1
		}
		if f.GSO != nic.GSONone {
			w.super[tagged].Add(1)
			if int(f.HeaderLen)+int(f.GSOSize) > link+1500 || int(f.HeaderLen)+int(f.GSOSize) < link+1400 {
				w.t.Errorf("segments of %d bytes", int(f.HeaderLen)+int(f.GSOSize))
			}
			if version := f.Head[link] >> 4; version != 4 && version != 6 {
				w.t.Errorf("no IP header at %d", link)
			}
		} else if f.Len() > link+1500 {
			w.t.Errorf("a frame of %d bytes", f.Len())
		}
	}
	return w.Device.Send(batch)
}

func TestTCPOverVLANsUsesSuperFrames(t *testing.T) {
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain %v", plain), func(t *testing.T) {
			var watched []*tagWatch
			a, b := trunks(t, nic.PipeConfig{NoTxChecksum: plain}, func(dev nic.Device) nic.Device {
				w := &tagWatch{Device: dev, t: t}
				watched = append(watched, w)
				return w
			})
			for n := range 3 {
				for _, dst := range []string{fmt.Sprintf("10.0.%d.2", n), fmt.Sprintf("2001:db8:%d::2", n)} {
					c, d := connectTo(t, a, b, dst)
					exchange(t, c, d, 1<<20)
				}
			}
			w := watched[0] // of the host that sends the data
			require.Equal(t, !plain, w.super[0].Load() > 0)
			require.Equal(t, !plain, w.super[1].Load() > 0)
		})
	}
}

// connectTo makes a connection from a to the address dst of b.
func connectTo(t *testing.T, a, b *Stack, dst string) (c, d *TCP) {
	t.Helper()
	ln, err := b.ListenTCP(FamilyAny, netip.AddrPortFrom(addr(dst), 0), ListenOptions{})
	require.NoError(t, err)
	defer ln.Close()
	c, err = a.DialTCP(t.Context(), FamilyAny, netip.AddrPort{}, netip.AddrPortFrom(addr(dst), ln.LocalAddr().Port()), TCPOptions{})
	require.NoError(t, err)
	d, err = ln.Accept()
	require.NoError(t, err)
	return c, d
}

func TestLinkLocalAddressesWorkInEachVLAN(t *testing.T) {
	a, b := trunks(t, nic.PipeConfig{}, func(dev nic.Device) nic.Device { return dev })
	var local netip.Addr
	for _, p := range b.Interfaces()[1].Addrs {
		if p.Addr().IsLinkLocalUnicast() {
			local = p.Addr()
		}
	}
	require.True(t, local.IsValid())
	for n := 1; n <= 3; n++ {
		u, err := b.OpenUDP(FamilyAny, addrPort("[::]:700"))
		require.NoError(t, err)
		from, err := a.OpenUDP(FamilyAny, addrPort("[::]:0"))
		require.NoError(t, err)
		zone := a.Interfaces()[n].Name
		_, err = from.WriteTo([]byte(zone), netip.AddrPortFrom(local.WithZone(zone), 700), SendOptions{})
		require.NoError(t, err)
		got, at := readUDP(t, u)
		require.Equal(t, zone, got)
		require.Equal(t, b.Interfaces()[n].Name, at.Addr().Zone(), "it came over the interface of the same VLAN")
		u.Close()
		from.Close()
	}
}

// A oneAtATime is a device whose Send blocks. It records whether calls overlap.
type oneAtATime struct {
	nic.Device
	sending atomic.Int32
	overlap atomic.Bool
	sent    atomic.Int64
}

func (d *oneAtATime) Nonblocking() nic.Device { return nil }

func (d *oneAtATime) Send(batch []nic.Frame) (int, error) {
	if d.sending.Add(1) > 1 {
		d.overlap.Store(true)
	}
	defer d.sending.Add(-1)
	time.Sleep(time.Millisecond)
	d.sent.Add(int64(len(batch)))
	return d.Device.Send(batch)
}

// nic.Device: "Otherwise the host calls Send from one goroutine at a time."
func TestVLANsTakeTurnsOnADeviceThatBlocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var devs []*oneAtATime
		a, b := trunks(t, nic.PipeConfig{}, func(dev nic.Device) nic.Device {
			d := &oneAtATime{Device: dev}
			devs = append(devs, d)
			return d
		})
		const count = 200
		var sinks [3]*UDP
		for n := range sinks {
			sinks[n] = openUDP(t, b, fmt.Sprintf("10.0.%d.2:700", n))
		}
		for n := range sinks {
			go func() {
				u, err := a.OpenUDP(FamilyAny, addrPort("0.0.0.0:0"))
				if err != nil {
					panic(err)
				}
				defer u.Close()
				for range count {
					u.WriteTo([]byte("x"), addrPort(fmt.Sprintf("10.0.%d.2:700", n)), SendOptions{})
				}
			}()
		}
		for n := range sinks {
			for range count {
				readUDP(t, sinks[n])
			}
		}
		for _, d := range devs {
			require.False(t, d.overlap.Load())
			require.Positive(t, d.sent.Load())
		}
		require.NoError(t, a.RemoveNIC("pipe-a.100"))
		u := openUDP(t, a, "0.0.0.0:0")
		_, err := u.WriteTo([]byte("x"), addrPort("10.0.2.2:700"), SendOptions{})
		require.NoError(t, err)
		readUDP(t, sinks[2])
		require.NoError(t, a.Close())
		require.NoError(t, b.Close())
		_, err = devs[0].Send(nil)
		require.ErrorIs(t, err, net.ErrClosed)
	})
}

func TestACaptureShowsTags(t *testing.T) {
	var buf bytes.Buffer
	a, b := nic.Pipe(nic.PipeConfig{MACs: [2][6]byte{macA, macB}})
	b.Attach(func([]nic.Frame) {})
	s, err := New(Config{NoIPv6: true, NICs: []NIC{{Device: nic.Capture(a, &buf, nic.CaptureConfig{}), VLAN: 100, Addrs: []netip.Prefix{prefix("192.0.2.1/24")}}}})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	written, err := io.ReadAll(&buf)
	require.NoError(t, err)
	require.Contains(t, string(written), "\x81\x00\x00\x64\x08\x06", "the announcement has a tag")
}
