//go:build linux

package taptest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/usernet/usernet"
	"github.com/usernet/usernet/nic"
	"github.com/usernet/usernet/stack"
	"github.com/usernet/usernet/stack/wire"
)

// TestLargeDatagramsCrossATAP exchanges large datagrams between UDP sockets of usernet and the
// kernel.
//
// RFC 8200 MUST-36.
func TestLargeDatagramsCrossATAP(t *testing.T) {
	t.Parallel()
	onBothLinks(t, nil, func(t *testing.T, ns *namespace, h *usernet.Host, _ bool) {
		for _, e := range families {
			var theirs net.PacketConn
			require.NoError(t, ns.inside(func() (err error) {
				theirs, err = net.ListenPacket(e.network("udp"), e.at("7"))
				return err
			}))
			defer theirs.Close()
			ours, err := h.ListenPacket(e.network("udp"), net.JoinHostPort(e.ours, "7"))
			require.NoError(t, err)
			defer ours.Close()
			b := make([]byte, 70000)
			// 1452 bytes fill a packet of IPv6, and 1472 one of IPv4. The last two are the maxima of IPv4 and IPv6.
			for _, n := range []int{1452, 1453, 1456, 1472, 1473, 3000, 8000, 65507, 65527} {
				data := bytes.Repeat([]byte("0123456789abcdef"), n/16+1)[:n]
				for _, x := range []struct{ from, to net.PacketConn }{{ours, theirs}, {theirs, ours}} {
					_, err := x.from.WriteTo(data, x.to.LocalAddr())
					if n > 65507 && !e.v6() {
						require.ErrorIs(t, err, syscall.EMSGSIZE)
						continue
					}
					require.NoError(t, err)
					require.NoError(t, x.to.SetReadDeadline(time.Now().Add(time.Minute)))
					got, _, err := x.to.ReadFrom(b)
					require.NoError(t, err, "%d bytes", n)
					require.True(t, bytes.Equal(data, b[:got]))
				}
			}
		}
	})
}

var (
	peerMAC = wire.MAC{2, 0, 0, 0, 0, 0xb}
	peer6   = netip.MustParseAddr("2001:db8::b")
)

// A station is the kernel or a usernet host, at the other end of a wire on which the test sends frames. It
// echoes UDP on port 7. Both kinds of station have the kernel's address, each on its own wire.
type station struct {
	t    *testing.T
	dev  nic.Device
	mac  wire.MAC
	addr netip.Addr

	mu     sync.Mutex
	said   []string    // answers since the last call of answers, as text, without echoes
	pong   chan uint16 // identifiers of the echo replies
	echoed chan uint16 // destination ports of the UDP echoes, if from markerPort up
}

// markerPort is the first source port of the datagrams that answers sends.
const markerPort = 10000

// attach starts receiving from the station.
func (st *station) attach() {
	st.pong, st.echoed = make(chan uint16, 1000), make(chan uint16, 1000)
	st.dev.Attach(func(batch []nic.Frame) {
		for i := range batch {
			st.hear(batch[i].AppendTo(nil))
		}
	})
}

// hear records the frame f of the station, if it is an answer to the test.
func (st *station) hear(f []byte) {
	if len(f) < wire.EthernetLen || binary.BigEndian.Uint16(f[12:]) != uint16(wire.EtherTypeIPv6) {
		return
	}
	h, payload, r := wire.ParseIPv6(f[wire.EthernetLen:])
	if r != wire.OK || h.Dst != peer6 {
		return
	}
	text := fmt.Sprintf("next header %d: %x", h.Next, payload)
	switch h.Next {
	case wire.ProtoICMPv6:
		m, body, r := wire.ParseICMPv6(h.Src, h.Dst, payload)
		require.Equal(st.t, wire.OK, r)
		switch {
		case m.Type == wire.ICMPv6EchoReply:
			st.pong <- m.ID()
			return
		case !m.IsError():
			return
		}
		text = fmt.Sprintf("ICMPv6 type %d code %d rest %d about %x", m.Type, m.Code, m.Rest, body)
	case wire.ProtoUDP:
		u, data, r := wire.ParseUDP(payload)
		require.Equal(st.t, wire.OK, r)
		if u.DstPort >= markerPort {
			st.echoed <- u.DstPort
			return
		}
		text = fmt.Sprintf("UDP echo to %d of %x", u.DstPort, data)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	st.said = append(st.said, text)
}

// send sends a packet from peer6 to the station or to a group.
func (st *station) send(dst netip.Addr, next wire.Proto, payload []byte) {
	st.t.Helper()
	h := wire.IPv6{Next: next, HopLimit: 64, Src: peer6, Dst: dst}
	b := make([]byte, wire.EthernetLen+wire.IPv6Len, 2000)
	mac := st.mac
	if dst.IsMulticast() {
		mac = wire.MulticastMAC(dst)
	}
	(&wire.Ethernet{Dst: mac, Src: peerMAC, Type: wire.EtherTypeIPv6}).Put(b)
	h.Put(b[wire.EthernetLen:], len(payload))
	n, err := st.dev.Send([]nic.Frame{{Head: append(b, payload...)}})
	require.NoError(st.t, err)
	require.Equal(st.t, 1, n)
}

// answers waits until the station has processed all frames, and returns its answers. To detect this, it sends two
// packets, one after the other, and waits for each answer: a UDP datagram, which the program on port 7 echoes after
// all earlier ones, and a ping, which the station answers after all earlier packets.
func (st *station) answers(id uint16) []string {
	st.t.Helper()
	b := make([]byte, wire.UDPLen)
	(&wire.UDP{SrcPort: markerPort + id, DstPort: 7}).Put(b, 0)
	wire.SetUDPChecksum(peer6, st.addr, b)
	st.send(st.addr, wire.ProtoUDP, b)
	st.await(st.echoed, markerPort+id)
	b = make([]byte, wire.ICMPLen)
	(&wire.ICMPv6{Type: wire.ICMPv6Echo, Rest: wire.EchoRest(id, 0)}).Put(peer6, st.addr, b, nil)
	st.send(st.addr, wire.ProtoICMPv6, b)
	st.await(st.pong, id)
	st.mu.Lock()
	defer st.mu.Unlock()
	said := st.said
	st.said = nil
	return said
}

// await waits until want arrives, and skips the answers to earlier calls.
func (st *station) await(answers <-chan uint16, want uint16) {
	st.t.Helper()
	for end := time.After(patience); ; {
		select {
		case got := <-answers:
			if got == want {
				return
			}
		case <-end:
			st.t.Fatal("no answer")
		}
	}
}

// echo7 echoes datagrams until c is closed.
func echo7(c net.PacketConn) {
	b := make([]byte, 70000)
	for {
		n, from, err := c.ReadFrom(b)
		if err != nil {
			return
		}
		c.WriteTo(b[:n], from)
	}
}

// kernelStation makes a station of a namespace's kernel.
func kernelStation(t *testing.T) *station {
	ns, tap := newTAP(t, true)
	ns.shell(t, "sysctl -q -w net.ipv6.icmp.ratelimit=0"+
		" && ip -6 neigh replace "+peer6.String()+" lladdr "+peerMAC.String()+" dev tap0 nud permanent")
	out := strings.TrimSpace(ns.run(t, "cat", "/sys/class/net/tap0/address"))
	hw, err := net.ParseMAC(out)
	require.NoError(t, err)
	var c net.PacketConn
	require.NoError(t, ns.inside(func() error {
		c, err = net.ListenPacket("udp6", "["+kernelAddr6+"]:7")
		return err
	}))
	t.Cleanup(func() { c.Close() })
	go echo7(c)
	st := &station{t: t, dev: tap, mac: wire.MAC(hw), addr: netip.MustParseAddr(kernelAddr6)}
	st.attach()
	return st
}

// ourStation makes a station of a usernet host.
func ourStation(t *testing.T) *station {
	ours, wireEnd := nic.Pipe(nic.PipeConfig{NoTxChecksum: true})
	h, err := usernet.New(usernet.Config{
		NIC:       ours,
		Addrs:     []netip.Prefix{netip.MustParsePrefix(kernelAddr6 + "/64")},
		Neighbors: []stack.Neighbor{{NIC: ours.Link().Name, Addr: peer6, MAC: peerMAC}},
	})
	require.NoError(t, err)
	t.Cleanup(func() { h.Close() })
	c, err := h.ListenPacket("udp6", "["+kernelAddr6+"]:7")
	require.NoError(t, err)
	go echo7(c)
	st := &station{t: t, dev: wireEnd, mac: wire.MAC(h.Interfaces()[1].MAC), addr: netip.MustParseAddr(kernelAddr6)}
	st.attach()
	return st
}

// A sixPacket is the part of a packet after the IPv6 header.
type sixPacket struct {
	next wire.Proto
	b    []byte
	to   string // destination group; "": the station
}

// frag makes a fragment with the bytes [off,end) of part. If end is the length of part, the fragment is the
// last.
func frag(next wire.Proto, id uint32, part []byte, off, end int) sixPacket {
	fh := make([]byte, wire.FragmentLen)
	(&wire.Fragment{Next: next, Offset: uint16(off), More: end < len(part), ID: id}).Put(fh)
	return sixPacket{next: wire.ProtoFragment, b: append(fh, part[off:end]...)}
}

// rawFrag makes a fragment with arbitrary fields.
func rawFrag(next wire.Proto, id uint32, off uint16, more bool, b []byte) sixPacket {
	fh := make([]byte, wire.FragmentLen)
	(&wire.Fragment{Next: next, Offset: off, More: more, ID: id}).Put(fh)
	return sixPacket{next: wire.ProtoFragment, b: append(fh, b...)}
}

// extension returns an options header of 8 bytes, which begins with the options b.
func extension(next wire.Proto, b ...byte) []byte {
	h := make([]byte, 8)
	h[0] = byte(next)
	copy(h[2:], b)
	return h
}

// TestFragmentsAreAnsweredAsByTheKernel sends the same packets to the kernel and to a usernet host
// and compares their answers (RFC 8200 4.5, 5722, 6946, 7112, 8021).
//
// RFC 8200 MUST-27 SHLD-5 SHLD-6 SHLD-7.
func TestFragmentsAreAnsweredAsByTheKernel(t *testing.T) {
	t.Parallel()
	need(t)
	stations := []*station{kernelStation(t), ourStation(t)}
	udp := func(st *station, n int) []byte {
		b := make([]byte, wire.UDPLen+n)
		(&wire.UDP{SrcPort: 9, DstPort: 7}).Put(b, n)
		for i := range n {
			b[wire.UDPLen+i] = byte(i * 7)
		}
		wire.SetUDPChecksum(peer6, st.addr, b)
		return b
	}
	padN := []byte{1, 4}
	// In the cases, 17 is UDP, and 99 is an unknown protocol. ICMPv6 type 4 is Parameter Problem, and rest is its pointer.
	for i, c := range []struct {
		name string
		what func(d []byte) []sixPacket // makes the packets from a datagram of 200 bytes
		says string                     // a part of each of the kernel's answers, separated by |; "": no answer
	}{
		{"two in order", func(d []byte) []sixPacket { return []sixPacket{frag(17, 1, d, 0, 104), frag(17, 1, d, 104, 208)} }, "UDP echo"},
		{"the last first", func(d []byte) []sixPacket { return []sixPacket{frag(17, 1, d, 104, 208), frag(17, 1, d, 0, 104)} }, "UDP echo"},
		{"an overlap", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 0, 104), frag(17, 1, d, 96, 208), frag(17, 1, d, 104, 208)}
		}, ""},
		{"a duplicate", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 0, 104), frag(17, 1, d, 0, 104), frag(17, 1, d, 104, 208)}
		}, "UDP echo"},
		{"a fragment that lies within received ones", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 0, 48), frag(17, 1, d, 48, 104), frag(17, 1, d, 40, 96), frag(17, 1, d, 104, 208)}
		}, "UDP echo"},
		{"not a multiple of 8", func(d []byte) []sixPacket { return []sixPacket{rawFrag(17, 1, 0, true, d[:12])} }, "type 4 code 0 rest 4 "},
		{"beyond 65,535", func(d []byte) []sixPacket { return []sixPacket{rawFrag(17, 1, 65528, false, d[:16])} }, "type 4 code 0 rest 42 "},
		{"to a group, and not a multiple of 8", func(d []byte) []sixPacket {
			f := rawFrag(17, 1, 0, true, d[:12])
			f.to = "ff02::1"
			return []sixPacket{f}
		}, ""},
		{"truncated options", func(d []byte) []sixPacket {
			return []sixPacket{rawFrag(wire.ProtoDstOpts, 1, 0, true, append([]byte{17, 1, 1, 12, 0, 0, 0, 0}, d[:0]...))}
		}, "type 4 code 3 rest 0 "},
		{"a truncated TCP header", func(d []byte) []sixPacket { return []sixPacket{rawFrag(wire.ProtoTCP, 1, 0, true, d[:16])} }, "type 4 code 3 rest 0 "},
		{"atomic, beside one of the same identification", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 0, 104), rawFrag(17, 1, 0, false, d), frag(17, 1, d, 104, 208)}
		}, "UDP echo|UDP echo"},
		{"another next header in a later one", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 0, 104), frag(99, 1, d, 104, 208)}
		}, "UDP echo"},
		{"another next header in the first", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 104, 208), frag(99, 1, d, 0, 104)}
		}, "type 4 code 1 "},
		{"an unknown protocol in an atomic one", func(d []byte) []sixPacket { return []sixPacket{rawFrag(99, 1, 0, false, d)} }, "type 4 code 1 rest 40 "},
		{"options in the fragmentable part", func(d []byte) []sixPacket {
			part := append(extension(17, padN...), d...)
			return []sixPacket{frag(wire.ProtoDstOpts, 1, part, 0, 104), frag(wire.ProtoDstOpts, 1, part, 104, 216)}
		}, "UDP echo"},
		{"options before the Fragment header", func(d []byte) []sixPacket {
			one, two := frag(17, 1, d, 0, 104), frag(17, 1, d, 104, 208)
			one.next, one.b = wire.ProtoDstOpts, append(extension(wire.ProtoFragment, padN...), one.b...)
			return []sixPacket{one, two}
		}, "UDP echo"},
		{"an unknown option that asks for an error", func(d []byte) []sixPacket {
			part := append(extension(17, 0x80, 4), d...)
			return []sixPacket{frag(wire.ProtoDstOpts, 1, part, 0, 104), frag(wire.ProtoDstOpts, 1, part, 104, 216)}
		}, "type 4 code 2 rest 42 "},
		{"two last fragments", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 104, 208), rawFrag(17, 1, 208, false, d[:8]), frag(17, 1, d, 0, 104)}
		}, ""},
		{"a fragment beyond the last one", func(d []byte) []sixPacket {
			return []sixPacket{frag(17, 1, d, 104, 208), rawFrag(17, 1, 208, true, d[:8]), frag(17, 1, d, 0, 104)}
		}, ""},
		{"an empty one", func(d []byte) []sixPacket {
			return []sixPacket{rawFrag(17, 1, 8, true, nil), rawFrag(17, 1, 208, false, nil)}
		}, ""},
		{"an empty first one", func(d []byte) []sixPacket { return []sixPacket{rawFrag(17, 1, 0, true, nil)} }, "type 4 code 3 rest 0 "},
		{"a port that is closed", func(d []byte) []sixPacket {
			d = bytes.Clone(d)
			d[3]++ // change the port and the checksum
			binary.BigEndian.PutUint16(d[6:], binary.BigEndian.Uint16(d[6:])-1)
			return []sixPacket{frag(17, 1, d, 0, 104), frag(17, 1, d, 104, 208)}
		}, "type 1 code 4 "},
	} {
		var said [2][]string
		for j, st := range stations {
			for _, p := range c.what(udp(st, 200)) {
				// Each case has its own identification, so its fragments are not reassembled with those of
				// another case.
				if p.next == wire.ProtoFragment {
					binary.BigEndian.PutUint16(p.b[4:], uint16(i))
				} else {
					binary.BigEndian.PutUint16(p.b[12:], uint16(i))
				}
				dst := st.addr
				if p.to != "" {
					dst = netip.MustParseAddr(p.to)
				}
				st.send(dst, p.next, p.b)
			}
			said[j] = st.answers(uint16(i))
		}
		require.Equal(t, said[0], said[1], "%s; expected is the kernel's", c.name)
		if c.says == "" {
			require.Empty(t, said[0], c.name)
			continue
		}
		says := strings.Split(c.says, "|")
		require.Len(t, said[0], len(says), c.name)
		for k := range says {
			require.Contains(t, said[0][k], says[k], c.name)
		}
	}
}
